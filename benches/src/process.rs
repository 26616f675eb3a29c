//! What the system says of a process: bytes that it wrote, memory that it holds.

use std::fs;
use std::time::{Duration, Instant};

use crate::Result;

/// Bytes that this process has caused to be written to disks so far (`write_bytes` of `/proc/self/io`): what it made
/// dirty, whether or not the disk has it yet. Metadata and the file system's own journal are not in it.
///
/// # Errors
/// There is no such file: this is not Linux.
pub fn disk_bytes_written() -> Result<u64> {
    field(&fs::read_to_string("/proc/self/io")?, "write_bytes:")
        .ok_or_else(|| "/proc/self/io has no write_bytes".into())
}

/// Memory of a process that is resident now, in bytes (`VmRSS`).
///
/// # Errors
/// There is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = field(&status, "VmRSS:").ok_or("the process has no VmRSS: it has ended")?;
    Ok(kib * 1024)
}

/// Resident memory of a process once it has come to rest, in bytes: unchanged, within 1 MiB, for a second.
///
/// # Errors
/// There is no such process, or it does not rest within a minute.
pub fn resident_bytes_at_rest(pid: u32) -> Result<u64> {
    let started = Instant::now();
    let (mut last, mut since) = (resident_bytes(pid)?, Instant::now());
    while started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(50));
        let now = resident_bytes(pid)?;
        if now.abs_diff(last) > 1 << 20 {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() >= Duration::from_secs(1) {
            return Ok(now);
        }
    }
    Err("the process is still busy after a minute".into())
}

/// CPU time that a process has used so far, in all its threads.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    // In ticks of 10 ms, on every Linux that Rust runs on.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = used_ticks(&stat).ok_or_else(|| format!("/proc/{pid}/stat is not understood"))?;
    Ok(TICK * ticks)
}

/// utime and stime; the program's name before them may hold anything.
fn used_ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let used = fields.split_whitespace().skip(11).take(2);
    used.map(|field| field.parse::<u32>().ok()).sum()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_of_this_process() {
        assert_eq!(field("a: 1\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(
            used_ticks("1 (a) b) S 0 0 0 0 0 0 0 0 0 0 1 2 4 8 99"),
            Some(3)
        );
        cpu_time(std::process::id()).unwrap();
        let before = disk_bytes_written().unwrap();
        let place = crate::place::Place::new().unwrap();
        fs::write(place.path().join("a"), vec![1; 1 << 20]).unwrap();
        place.settle().unwrap();
        assert!(disk_bytes_written().unwrap() >= before + (1 << 20));
    }
}
