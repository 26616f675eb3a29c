//! How gossip is written: at most [`DATAGRAM_BYTES_MAX`] bytes.
//!
//! ```text
//! datagram: version u8 = 1 | kind u8 | sender | sender's incarnation u16 | receiver | by kind: probe u8, name | news
//! news:     count u16 | count × (state u8 | incarnation u16 | name)
//! name:     node [16] | boot u32 | returns u16 | length u8 | address
//! ```
//! All numbers are big-endian. Kinds and states are never reused.

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, State};
use thiserror::Error;

use super::identity::Name;
use crate::ids::NodeId;

/// Largest datagram, in bytes: what QUIC carries in one packet on every path.
pub const DATAGRAM_BYTES_MAX: usize = 1150;

const FORMAT: u8 = 1;

/// The bytes are no gossip, or there is no room for what should be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum CodecError {
    /// They end too early.
    #[error("the datagram ends too early")]
    Truncated,
    /// They were written by a newer version, or by something else.
    #[error("gossip version {0} is unknown")]
    Version(u8),
    /// A number that tells what follows has no meaning.
    #[error("gossip of kind {0} is unknown")]
    Kind(u8),
    /// An address is not text.
    #[error("an address is not text")]
    Address,
    /// It does not fit.
    #[error("no room in the datagram")]
    Full,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Datagrams;

impl Codec<Name> for Datagrams {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &Header<Name>,
        mut out: impl BufMut,
    ) -> Result<(), CodecError> {
        let (kind, probe, about) = parts(&header.message);
        let names = [Some(&header.src), Some(&header.dst), about];
        let names: usize = names.into_iter().flatten().map(name_bytes).sum();
        if out.remaining_mut() < 4 + usize::from(probe.is_some()) + names {
            return Err(CodecError::Full);
        }
        out.put_u8(FORMAT);
        out.put_u8(kind);
        put_name(&mut out, &header.src);
        out.put_u16(header.src_incarnation);
        put_name(&mut out, &header.dst);
        if let Some(probe) = probe {
            out.put_u8(probe);
        }
        if let Some(about) = about {
            put_name(&mut out, about);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut bytes: impl Buf) -> Result<Header<Name>, CodecError> {
        match take_u8(&mut bytes)? {
            FORMAT => {}
            version => return Err(CodecError::Version(version)),
        }
        let kind = take_u8(&mut bytes)?;
        let src = take_name(&mut bytes)?;
        let src_incarnation = take_u16(&mut bytes)?;
        let dst = take_name(&mut bytes)?;
        let message = take_message(kind, &mut bytes)?;
        Ok(Header {
            src,
            src_incarnation,
            dst,
            message,
        })
    }

    fn encode_member(
        &mut self,
        member: &Member<Name>,
        mut out: impl BufMut,
    ) -> Result<(), CodecError> {
        if out.remaining_mut() < 3 + name_bytes(member.id()) {
            return Err(CodecError::Full);
        }
        out.put_u8(match member.state() {
            State::Alive => 1,
            State::Suspect => 2,
            State::Down => 3,
        });
        out.put_u16(member.incarnation());
        put_name(&mut out, member.id());
        Ok(())
    }

    fn decode_member(&mut self, mut bytes: impl Buf) -> Result<Member<Name>, CodecError> {
        let state = match take_u8(&mut bytes)? {
            1 => State::Alive,
            2 => State::Suspect,
            3 => State::Down,
            other => return Err(CodecError::Kind(other)),
        };
        let incarnation = take_u16(&mut bytes)?;
        Ok(Member::new(take_name(&mut bytes)?, incarnation, state))
    }
}

/// The sender of the datagram, if it says that this node is suspected.
pub(super) fn suspecter(mut bytes: &[u8], node: NodeId) -> Option<Name> {
    let header = Datagrams.decode_header(&mut bytes).ok()?;
    let count = take_u16(&mut bytes).ok()?;
    let mut news = (0..count).map_while(|_| Datagrams.decode_member(&mut bytes).ok());
    let suspected = |m: &Member<Name>| m.state() == State::Suspect && m.id().node == node;
    news.any(|member| suspected(&member)).then_some(header.src)
}

fn parts(message: &Message<Name>) -> (u8, Option<u8>, Option<&Name>) {
    match message {
        Message::Ping(probe) => (1, Some(*probe), None),
        Message::Ack(probe) => (2, Some(*probe), None),
        Message::PingReq {
            target,
            probe_number,
        } => (3, Some(*probe_number), Some(target)),
        Message::IndirectPing {
            origin,
            probe_number,
        } => (4, Some(*probe_number), Some(origin)),
        Message::IndirectAck {
            target,
            probe_number,
        } => (5, Some(*probe_number), Some(target)),
        Message::ForwardedAck {
            origin,
            probe_number,
        } => (6, Some(*probe_number), Some(origin)),
        Message::Announce => (7, None, None),
        Message::Feed => (8, None, None),
        Message::Gossip => (9, None, None),
        Message::Broadcast => (10, None, None),
        Message::TurnUndead => (11, None, None),
    }
}

fn take_message(kind: u8, bytes: &mut impl Buf) -> Result<Message<Name>, CodecError> {
    Ok(match kind {
        1 => Message::Ping(take_u8(bytes)?),
        2 => Message::Ack(take_u8(bytes)?),
        3..=6 => {
            let probe_number = take_u8(bytes)?;
            let name = take_name(bytes)?;
            match kind {
                3 => Message::PingReq {
                    target: name,
                    probe_number,
                },
                4 => Message::IndirectPing {
                    origin: name,
                    probe_number,
                },
                5 => Message::IndirectAck {
                    target: name,
                    probe_number,
                },
                _ => Message::ForwardedAck {
                    origin: name,
                    probe_number,
                },
            }
        }
        7 => Message::Announce,
        8 => Message::Feed,
        9 => Message::Gossip,
        10 => Message::Broadcast,
        11 => Message::TurnUndead,
        other => return Err(CodecError::Kind(other)),
    })
}

fn name_bytes(name: &Name) -> usize {
    16 + 4 + 2 + 1 + name.address.len()
}

fn put_name(out: &mut impl BufMut, name: &Name) {
    debug_assert!(name.address.len() <= usize::from(u8::MAX));
    out.put_slice(&name.node.0);
    out.put_u32(name.boot);
    out.put_u16(name.returns);
    out.put_u8(name.address.len() as u8);
    out.put_slice(name.address.as_bytes());
}

fn take_name(bytes: &mut impl Buf) -> Result<Name, CodecError> {
    if bytes.remaining() < 16 + 4 + 2 + 1 {
        return Err(CodecError::Truncated);
    }
    let mut node = [0; 16];
    bytes.copy_to_slice(&mut node);
    let (boot, returns) = (bytes.get_u32(), bytes.get_u16());
    let length = usize::from(bytes.get_u8());
    if bytes.remaining() < length {
        return Err(CodecError::Truncated);
    }
    let mut address = vec![0; length];
    bytes.copy_to_slice(&mut address);
    Ok(Name {
        node: NodeId(node),
        boot,
        returns,
        address: String::from_utf8(address).map_err(|_| CodecError::Address)?,
    })
}

fn take_u8(bytes: &mut impl Buf) -> Result<u8, CodecError> {
    bytes.try_get_u8().map_err(|_| CodecError::Truncated)
}

fn take_u16(bytes: &mut impl Buf) -> Result<u16, CodecError> {
    bytes.try_get_u16().map_err(|_| CodecError::Truncated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: u8, address: &str) -> Name {
        Name {
            node: NodeId([number; 16]),
            boot: 258,
            returns: 3,
            address: address.to_owned(),
        }
    }

    fn header(message: Message<Name>) -> Header<Name> {
        Header {
            src: name(1, "a:1"),
            src_incarnation: 515,
            dst: name(2, ""),
            message,
        }
    }

    fn encoded(header: &Header<Name>) -> Vec<u8> {
        let mut out = Vec::new();
        Datagrams.encode_header(header, &mut out).unwrap();
        out
    }

    #[test]
    fn datagram_bytes() {
        let mut expected = vec![1, 1];
        expected.extend([1; 16]);
        expected.extend([0, 0, 1, 2, 0, 3, 3, b'a', b':', b'1', 2, 3]);
        expected.extend([2; 16]);
        expected.extend([0, 0, 1, 2, 0, 3, 0, 9]);
        assert_eq!(encoded(&header(Message::Ping(9))), expected);
    }

    #[test]
    fn news_bytes() {
        let mut out = Vec::new();
        let member = Member::new(name(7, "b:2"), 258, State::Down);
        Datagrams.encode_member(&member, &mut out).unwrap();
        let mut expected = vec![3, 1, 2];
        expected.extend([7; 16]);
        expected.extend([0, 0, 1, 2, 0, 3, 3, b'b', b':', b'2']);
        assert_eq!(out, expected);
        assert_eq!(Datagrams.decode_member(&out[..]), Ok(member.clone()));
        // Where there is no room for it, nothing is written.
        let mut small = [0; 20];
        let mut room = &mut small[..];
        assert_eq!(
            Datagrams.encode_member(&member, &mut room),
            Err(CodecError::Full)
        );
        assert_eq!(small, [0; 20]);
    }

    #[test]
    fn every_message_reads_back_and_no_part_of_one_does() {
        let about = name(9, "h.example:7400");
        let probe_number = 200;
        let messages = [
            Message::Ping(1),
            Message::Ack(2),
            Message::PingReq {
                target: about.clone(),
                probe_number,
            },
            Message::IndirectPing {
                origin: about.clone(),
                probe_number,
            },
            Message::IndirectAck {
                target: about.clone(),
                probe_number,
            },
            Message::ForwardedAck {
                origin: about,
                probe_number,
            },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        for message in messages {
            let header = header(message);
            let bytes = encoded(&header);
            assert_eq!(Datagrams.decode_header(&bytes[..]).as_ref(), Ok(&header));
            for end in 0..bytes.len() {
                assert_eq!(
                    Datagrams.decode_header(&bytes[..end]),
                    Err(CodecError::Truncated)
                );
            }
        }
    }

    #[test]
    fn other_versions_and_kinds_are_refused() {
        let mut bytes = encoded(&header(Message::Announce));
        bytes[1] = 12;
        assert_eq!(
            Datagrams.decode_header(&bytes[..]),
            Err(CodecError::Kind(12))
        );
        bytes[0] = 2;
        assert_eq!(
            Datagrams.decode_header(&bytes[..]),
            Err(CodecError::Version(2))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(header) = Datagrams.decode_header(&bytes[..]) {
                let again = encoded(&header);
                prop_assert_eq!(&again[..], &bytes[..again.len()]);
            }
            let _ = Datagrams.decode_member(&bytes[..]);
        }
    }
}
