//! `HOST:PORT` as people write it.

use std::net::{IpAddr, UdpSocket};

use crate::error::Failure;

/// A host and a port, an IPv6 address in brackets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// `host` with or without brackets.
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self {
            host: bare(host).to_owned(),
            port,
        }
    }

    /// Reads `HOST:PORT`; `flag` is named where it is none.
    pub(crate) fn parse(text: &str, flag: &str) -> Result<Self, Failure> {
        let split = text.rsplit_once(':').and_then(|(host, port)| {
            let one_host = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
            Some(Self::new(one_host.then_some(host)?, port.parse().ok()?))
        });
        split.ok_or_else(|| Failure::usage(format!("{flag} {text}: write HOST:PORT")))
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where the node itself listens: there, or on all of its addresses where only a name is known, which may be that of
    /// something in front of it.
    pub(crate) fn to_listen_on(&self) -> Self {
        if self.is_literal() || self.host == "localhost" {
            return self.clone();
        }
        Self::new("0.0.0.0", self.port)
    }

    /// Its host, where that is this machine and no other.
    pub(crate) fn on_this_machine(&self) -> Option<String> {
        let loopback = self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        (loopback || self.host == "localhost").then(|| self.host.clone())
    }

    /// Whether it means "every address of this host", where nobody else can find it.
    pub(crate) fn is_unspecified(&self) -> bool {
        let ip: Result<IpAddr, _> = self.host.parse();
        ip.is_ok_and(|ip| ip.is_unspecified())
    }

    fn is_literal(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Ports of `host` on which nothing listens now, all different. What is started on them later may find one taken.
pub(crate) fn free_ports(host: &str, count: usize) -> Result<Vec<u16>, Failure> {
    let failed = |e: std::io::Error| {
        Failure::failed(format!(
            "cannot find a free UDP port on {host}: {e}; name one with --port"
        ))
    };
    // Held until all are found, so that the system gives another one each time.
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|_| UdpSocket::bind((bare(host), 0)))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    let ports = sockets.iter().map(|socket| Ok(socket.local_addr()?.port()));
    ports.collect::<Result<_, _>>().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families() {
        assert_eq!(
            Address::new("127.0.0.1", 7400).to_string(),
            "127.0.0.1:7400"
        );
        assert_eq!(Address::new("::1", 7400).to_string(), "[::1]:7400");
        assert_eq!(Address::new("[::1]", 7400).host(), "::1");
        let parsed = Address::parse("node.example:1", "--hosts").unwrap();
        assert_eq!((parsed.host(), parsed.port()), ("node.example", 1));
        let parsed = Address::parse("[::1]:7", "--hosts").unwrap();
        assert_eq!((parsed.host(), parsed.port()), ("::1", 7));
        for bad in ["", "a", ":1", "a:", "a:65536", "::1:7400", "a:b"] {
            assert!(Address::parse(bad, "--hosts").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_listened_on_everywhere_and_an_address_where_it_is() {
        let listen = |host: &str| Address::new(host, 7400).to_listen_on().to_string();
        assert_eq!(listen("192.0.2.7"), "192.0.2.7:7400");
        assert_eq!(listen("localhost"), "localhost:7400");
        assert_eq!(listen("n1.mesh.svc"), "0.0.0.0:7400");
        assert!(Address::new("::", 1).is_unspecified());
        assert!(Address::new("::1", 1).on_this_machine().is_some());
        assert!(Address::new("192.0.2.7", 1).on_this_machine().is_none());
    }

    #[test]
    fn free_ports_are_different_ones() {
        let mut ports = free_ports("127.0.0.1", 8).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }
}
