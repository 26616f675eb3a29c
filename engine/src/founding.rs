//! What a cluster begins with: its first members, told once to each node that founds it.
//!
//! A node whose bootstrap file names none joins a cluster that exists.

use std::fmt::Write as _;

use mesh_ring::ids::NodeId;

/// Most members that may found a cluster together; more join afterwards.
pub const FOUNDING_MEMBERS_MAX: usize = 128;

/// The members of a cluster that is made, the same on each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founding {
    /// All of them, this node included.
    pub members: Vec<FoundingMember>,
    /// Nodes that are to hold each partition, where there are so many.
    pub replicas: u16,
}

/// One of the nodes that found a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundingMember {
    /// Its id.
    pub node: NodeId,
    /// Its name, one line.
    pub name: String,
    /// `HOST:PORT` at which others reach it, without blanks.
    pub address: String,
    /// Its zone, without blanks; empty where there are none.
    pub zone: String,
}

/// Stands for an empty zone or address, which leave no word.
const NOTHING: &str = "-";

impl Founding {
    /// Lines `replicas N` and `member NODE ADDRESS ZONE NAME`, as they stand in the bootstrap file and in the store.
    /// `None` where they would not read back.
    pub(crate) fn encode(&self) -> Option<String> {
        let mut text = format!("replicas {}\n", self.replicas);
        for member in &self.members {
            let word = |word: &str| {
                if word.is_empty() {
                    NOTHING.to_owned()
                } else {
                    word.to_owned()
                }
            };
            let (address, zone) = (word(&member.address), word(&member.zone));
            writeln!(
                text,
                "member {} {address} {zone} {}",
                member.node, member.name
            )
            .ok()?;
        }
        (Founding::decode(&text).as_ref() == Some(self)).then_some(text)
    }

    pub(crate) fn decode(text: &str) -> Option<Founding> {
        let mut lines = text.lines();
        let replicas = lines.next()?.strip_prefix("replicas ")?.parse().ok()?;
        let members: Option<Vec<_>> = lines.map(decode_member).collect();
        let founding = Founding {
            members: members?,
            replicas,
        };
        let count = founding.members.len();
        (founding.replicas > 0 && (1..=FOUNDING_MEMBERS_MAX).contains(&count)).then_some(founding)
    }
}

fn decode_member(line: &str) -> Option<FoundingMember> {
    let mut words = line.strip_prefix("member ")?.splitn(4, ' ');
    let mut word = || {
        let word = words.next()?;
        Some(if word == NOTHING { "" } else { word })
    };
    let node = word()?.parse().ok()?;
    let (address, zone) = (word()?.to_owned(), word()?.to_owned());
    let name = words.next()?.to_owned();
    Some(FoundingMember {
        node,
        name,
        address,
        zone,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(name: &str, address: &str, zone: &str) -> FoundingMember {
        FoundingMember {
            node: NodeId([7; 16]),
            name: name.into(),
            address: address.into(),
            zone: zone.into(),
        }
    }

    #[test]
    fn founding_bytes() {
        let founding = Founding {
            members: vec![member("n1", "a:1", ""), member("n 2", "b:2", "z")],
            replicas: 3,
        };
        let text = "replicas 3\nmember 07070707070707070707070707070707 a:1 - n1\n\
                    member 07070707070707070707070707070707 b:2 z n 2\n";
        assert_eq!(founding.encode().as_deref(), Some(text));
        assert_eq!(Founding::decode(text), Some(founding));
    }

    #[test]
    fn what_would_not_read_back_is_refused() {
        for broken in [
            member("a\nb", "a:1", ""),
            member("a", "a 1", ""),
            member("a", "a:1", "-"),
        ] {
            let founding = Founding {
                members: vec![broken],
                replicas: 1,
            };
            assert_eq!(founding.encode(), None, "{founding:?}");
        }
        let nobody = Founding {
            members: Vec::new(),
            replicas: 1,
        };
        assert_eq!(nobody.encode(), None);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            if let Some(founding) = Founding::decode(&text) {
                let encoded = founding.encode();
                prop_assert_eq!(encoded.and_then(|text| Founding::decode(&text)), Some(founding));
            }
        }
    }
}
