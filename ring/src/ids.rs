//! What nodes, clusters, partitions, topics and their records are told apart by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A record's number in its topic, dense from 0.
pub type Offset = u64;

/// The text is not an id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum ParseIdError {
    /// A node, cluster or producer id is written in another way.
    #[error("an id is 32 hexadecimal digits")]
    Hex,
    /// A partition, topic, epoch or index is written in another way, or is too large.
    #[error("expected a decimal number from 0 to {max}")]
    Number {
        /// The largest number that fits.
        max: u64,
    },
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let max = u64::from(<$inner>::MAX);
                text.parse().map(Self).map_err(|_| ParseIdError::Number { max })
            }
        }
    };
}

macro_rules! counted {
    ($name:ident) => {
        impl $name {
            /// The one after this. The largest is its own successor, which no cluster lives to see.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
        pub struct $name(pub [u8; 16]);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!("{:032x}", u128::from_be_bytes(self.0)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self).ok_or(ParseIdError::Hex)
            }
        }
    };
}

number_id! {
    /// One of the equal arcs of the hash ring: a token that nodes own and transfer.
    PartitionId(u16)
}
number_id! {
    /// One incarnation of a topic in its partition: the journal index of its creation.
    TopicId(u64)
}
number_id! {
    /// A term of leadership of one partition. A higher epoch fences every lower one.
    Epoch(u64)
}
number_id! {
    /// A position in a partition's journal, from 1; 0 is before the first entry.
    Index(u64)
}
counted!(Epoch);
counted!(Index);

hex_id! {
    /// A node. It lives and dies with its data directory.
    NodeId
}
hex_id! {
    /// A cluster, minted once by `meshctl init`.
    ClusterId
}
hex_id! {
    /// A producer, minted by the client for each of its producers.
    ProducerId
}

impl ProducerId {
    /// Makes an id from the time, in unix milliseconds, and randomness: `time u48 BE | random`.
    ///
    /// The time is what lets a topic refuse the very late retry of a producer that it has forgotten, instead of taking
    /// it for a new one.
    #[must_use]
    pub fn new(now_ms: u64, random: [u8; 10]) -> Self {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
        id[6..].copy_from_slice(&random);
        Self(id)
    }

    /// When the id was made, in unix milliseconds of its maker's clock.
    #[must_use]
    pub fn minted_ms(self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

/// One incarnation of a topic. A topic that is deleted and made again has another key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct TopicKey {
    /// Where the topic lives: the partition of its name.
    pub partition: PartitionId,
    /// Which incarnation it is.
    pub id: TopicId,
}

impl fmt::Display for TopicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.id)
    }
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    // `from_str_radix` alone would accept a sign.
    let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| digits)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hex_id_is_32_lower_case_digits() {
        let id = NodeId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 254, 255]);
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0dfeff");
        assert_eq!(
            format!("{id:?}"),
            "NodeId(000102030405060708090a0b0c0dfeff)"
        );
        assert_eq!("000102030405060708090A0B0C0DFEFF".parse(), Ok(id));
    }

    #[test]
    fn other_text_is_no_hex_id() {
        for text in [
            "",
            "00",
            "+00102030405060708090a0b0c0dfeff",
            "é00102030405060708090a0b0c0dfe",
            &"0".repeat(33),
        ] {
            assert_eq!(text.parse::<ClusterId>(), Err(ParseIdError::Hex), "{text}");
        }
    }

    #[test]
    fn numbers_are_decimal_and_bounded() {
        assert_eq!("65535".parse(), Ok(PartitionId(u16::MAX)));
        assert_eq!(
            "65536".parse::<PartitionId>(),
            Err(ParseIdError::Number { max: 65_535 })
        );
        assert_eq!(Epoch(7).to_string(), "7");
        assert_eq!(
            TopicKey {
                partition: PartitionId(3),
                id: TopicId(9)
            }
            .to_string(),
            "3/9"
        );
    }

    #[test]
    fn in_json_a_hex_id_is_text_and_a_counted_one_a_number() {
        let json = serde_json::to_string(&(NodeId([0xab; 16]), Epoch(7))).unwrap();
        assert_eq!(json, "[\"abababababababababababababababab\",7]");
        let read: (NodeId, Epoch) = serde_json::from_str(&json).unwrap();
        assert_eq!(read, (NodeId([0xab; 16]), Epoch(7)));
        assert!(serde_json::from_str::<NodeId>("\"ab\"").is_err());
    }

    #[test]
    fn epochs_and_indexes_count_up() {
        assert_eq!(Epoch(1).next(), Epoch(2));
        assert_eq!(Index(0).next(), Index(1));
    }

    proptest! {
        #[test]
        fn ids_read_back(bytes: [u8; 16], number: u64) {
            prop_assert_eq!(ProducerId(bytes).to_string().parse(), Ok(ProducerId(bytes)));
            prop_assert_eq!(TopicId(number).to_string().parse(), Ok(TopicId(number)));
        }
    }
}

#[cfg(test)]
mod producer_id_tests {
    use super::ProducerId;

    #[test]
    fn a_producer_id_tells_when_it_was_made() {
        let id = ProducerId::new(0x0102_0304_0506, [9; 10]);
        assert_eq!(id.0, [1, 2, 3, 4, 5, 6, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        assert_eq!(id.minted_ms(), 0x0102_0304_0506);
    }
}
