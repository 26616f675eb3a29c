//! Compiles the protobuf messages. Protox is a compiler in Rust, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "append",
        "listeners",
        "map",
        "peer",
        "pipeline",
        "repair",
        "replica",
        "reply",
        "request",
        "tail",
        "tombstone",
        "topic",
        "watch",
    ]
    .map(|name| format!("meshlog/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
