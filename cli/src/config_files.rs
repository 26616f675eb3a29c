//! The configuration files that `init` and `ca issue` write, each with a word about every setting.

use std::fs;
use std::path::Path;

use crate::error::Failure;

/// Writes `client.toml` for an identity that lies beside it.
pub(crate) fn write_client(folder: &Path, nodes: &[String]) -> Result<(), Failure> {
    let nodes: Vec<String> = nodes.iter().map(|node| quoted(node)).collect();
    let text = format!(
        "# How a client reaches the cluster, and who it is. Paths are relative to this file.
nodes = [{}]
ca = \"ca.pem\"
certificate = \"cert.pem\"
key = \"key.pem\"
",
        nodes.join(", ")
    );
    write(&folder.join("client.toml"), &text)
}

/// Writes `node.toml` for a node whose identity lies in `identity` beside it.
pub(crate) fn write_node(folder: &Path, listen: &str) -> Result<(), Failure> {
    let text = format!(
        "# Where this node serves (UDP). Port 0 lets the system choose one at each start.
listen = {}
",
        quoted(listen)
    );
    write(&folder.join("node.toml"), &text)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|e| Failure::file("write", path, &e))
}

/// A TOML string: what JSON calls one, too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
