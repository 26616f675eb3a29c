//! What the two sides of a walk say to each other, and its bytes.

use bytes::Bytes;

use super::{KEYS_AT_ONCE, NODES_AT_ONCE, Salt};
use crate::codec::{DecodeError, Reader, put_bytes, put_varint};
use crate::merkle::{FANOUT, LeafId};

const FORMAT: u8 = 1;
const ROOT: u8 = 1;
const CHILDREN: u8 = 2;
const PAGES: u8 = 3;
const STATES: u8 = 4;

/// A key and what its binding's digest looks like in this walk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// The key.
    pub key: Bytes,
    /// The salted digest.
    pub digest: [u8; 8],
}

/// A position in the bindings of a partition, ordered by leaf and then by key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The leaf.
    pub leaf: LeafId,
    /// The last key that is behind; `None`: the whole leaf is ahead.
    pub after: Option<Bytes>,
}

/// All bindings that the walking side has in a stretch of one leaf.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    /// Where the stretch begins.
    pub from: Place,
    /// Whether it ends with the leaf; if not, it ends with the last key listed.
    pub is_last: bool,
    /// The bindings, in ascending order of keys.
    pub listed: Vec<Listed>,
}

/// An encoded binding with its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State {
    /// The key.
    pub key: Bytes,
    /// What [`Binding::encode`](crate::binding::Binding::encode) wrote.
    pub binding: Bytes,
}

/// What the walking side says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// Does all of it differ?
    Root {
        /// The salt of the walk.
        salt: Salt,
        /// The salted root.
        root: [u8; 16],
    },
    /// What are the children of these nodes?
    Children {
        /// The salt of the walk.
        salt: Salt,
        /// The level of the nodes; the root's is 0.
        level: u8,
        /// Their numbers within the level, at most [`NODES_AT_ONCE`].
        nodes: Vec<u16>,
    },
    /// What differs in these stretches?
    Pages {
        /// The salt of the walk.
        salt: Salt,
        /// The stretches in ascending order, at most [`NODES_AT_ONCE`] with [`KEYS_AT_ONCE`] keys in all.
        pages: Vec<Page>,
    },
    /// Merge these.
    States(Vec<State>),
}

/// What the other side answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Response {
    /// To `Root`: nothing differs.
    Same,
    /// To `Root`, for the root, and to `Children`: the salted hashes of the children of each node, in their order.
    Children(Vec<[[u8; 8]; FANOUT]>),
    /// To `Pages`.
    Differing {
        /// What this side has there that the other has not, or has otherwise.
        give: Vec<State>,
        /// What it has not.
        want: Vec<Bytes>,
        /// Where it stopped because the answer was full; ask again from there on.
        until: Option<Place>,
    },
    /// To `States`: they are merged, and durable.
    Merged,
}

impl Request {
    /// The bytes: version 1 | kind | fields in their order, numbers of the tree u16 BE, counts and lengths varint.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        match self {
            Self::Root { salt, root } => {
                out.push(ROOT);
                out.extend(salt.0);
                out.extend(root);
            }
            Self::Children { salt, level, nodes } => {
                out.push(CHILDREN);
                out.extend(salt.0);
                out.push(*level);
                put_varint(&mut out, nodes.len() as u64);
                nodes.iter().for_each(|node| out.extend(node.to_be_bytes()));
            }
            Self::Pages { salt, pages } => {
                out.push(PAGES);
                out.extend(salt.0);
                put_varint(&mut out, pages.len() as u64);
                pages.iter().for_each(|page| put_page(&mut out, page));
            }
            Self::States(states) => {
                out.push(STATES);
                put_states(&mut out, states);
            }
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`DecodeError`]: any other bytes, and more nodes or keys than one request may name.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned(bytes, FORMAT)?;
        let request = match reader.u8()? {
            ROOT => Self::Root {
                salt: Salt(reader.array()?),
                root: reader.array()?,
            },
            CHILDREN => {
                let salt = Salt(reader.array()?);
                let level = reader.u8()?;
                let count = limited(reader.count(2)?, "nodes in a request", NODES_AT_ONCE)?;
                let nodes = (0..count).map(|_| take_u16(&mut reader));
                let nodes = nodes.collect::<Result<_, _>>()?;
                Self::Children { salt, level, nodes }
            }
            PAGES => {
                let salt = Salt(reader.array()?);
                let count = limited(reader.count(5)?, "leaves in a request", NODES_AT_ONCE)?;
                let pages = (0..count).map(|_| take_page(&mut reader));
                let pages = pages.collect::<Result<Vec<Page>, _>>()?;
                let keys = pages.iter().map(|page| page.listed.len()).sum();
                limited(keys, "keys in a request", KEYS_AT_ONCE)?;
                Self::Pages { salt, pages }
            }
            STATES => Self::States(take_states(&mut reader)?),
            found => return Err(unknown("the kind of a request", found)),
        };
        reader.end()?;
        Ok(request)
    }
}

impl Response {
    /// The bytes, as those of [`Request::encode`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        match self {
            Self::Same => out.push(ROOT),
            Self::Children(nodes) => {
                out.push(CHILDREN);
                put_varint(&mut out, nodes.len() as u64);
                nodes.iter().for_each(|of| out.extend(of.as_flattened()));
            }
            Self::Differing { give, want, until } => {
                out.push(PAGES);
                put_states(&mut out, give);
                put_varint(&mut out, want.len() as u64);
                want.iter().for_each(|key| put_bytes(&mut out, key));
                out.push(until.is_some().into());
                if let Some(place) = until {
                    put_place(&mut out, place);
                }
            }
            Self::Merged => out.push(STATES),
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`DecodeError`]: any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned(bytes, FORMAT)?;
        let response = match reader.u8()? {
            ROOT => Self::Same,
            CHILDREN => {
                let count = reader.count(8 * FANOUT)?;
                let mut nodes = vec![[[0; 8]; FANOUT]; count];
                for child in nodes.as_flattened_mut() {
                    *child = reader.array()?;
                }
                Self::Children(nodes)
            }
            PAGES => {
                let give = take_states(&mut reader)?;
                let count = reader.count(1)?;
                let want = (0..count).map(|_| take_bytes(&mut reader));
                let want = want.collect::<Result<_, _>>()?;
                let until = take_flag(&mut reader)?;
                let until = until.then(|| take_place(&mut reader)).transpose()?;
                Self::Differing { give, want, until }
            }
            STATES => Self::Merged,
            found => return Err(unknown("the kind of a response", found)),
        };
        reader.end()?;
        Ok(response)
    }
}

fn put_place(out: &mut Vec<u8>, place: &Place) {
    out.extend(place.leaf.0.to_be_bytes());
    out.push(place.after.is_some().into());
    if let Some(after) = &place.after {
        put_bytes(out, after);
    }
}

fn take_place(reader: &mut Reader<'_>) -> Result<Place, DecodeError> {
    let leaf = LeafId(take_u16(reader)?);
    let is_within = take_flag(reader)?;
    let after = is_within.then(|| take_bytes(reader)).transpose()?;
    Ok(Place { leaf, after })
}

fn put_page(out: &mut Vec<u8>, page: &Page) {
    put_place(out, &page.from);
    out.push(page.is_last.into());
    put_varint(out, page.listed.len() as u64);
    for Listed { key, digest } in &page.listed {
        put_bytes(out, key);
        out.extend(digest);
    }
}

fn take_page(reader: &mut Reader<'_>) -> Result<Page, DecodeError> {
    let from = take_place(reader)?;
    let is_last = take_flag(reader)?;
    let count = reader.count(9)?;
    let mut listed: Vec<Listed> = Vec::with_capacity(count);
    for _ in 0..count {
        let key = take_bytes(reader)?;
        let before = listed.last().map(|last| &last.key).or(from.after.as_ref());
        if before.is_some_and(|before| *before >= key) {
            return Err(DecodeError::NotCanonical {
                what: "the order of keys",
            });
        }
        let digest = reader.array()?;
        listed.push(Listed { key, digest });
    }
    Ok(Page {
        from,
        is_last,
        listed,
    })
}

fn put_states(out: &mut Vec<u8>, states: &[State]) {
    put_varint(out, states.len() as u64);
    for State { key, binding } in states {
        put_bytes(out, key);
        put_bytes(out, binding);
    }
}

fn take_states(reader: &mut Reader<'_>) -> Result<Vec<State>, DecodeError> {
    let count = reader.count(2)?;
    let states = (0..count).map(|_| {
        Ok(State {
            key: take_bytes(reader)?,
            binding: take_bytes(reader)?,
        })
    });
    states.collect()
}

fn take_bytes(reader: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    reader.bytes().map(Bytes::copy_from_slice)
}

fn take_u16(reader: &mut Reader<'_>) -> Result<u16, DecodeError> {
    reader.array().map(u16::from_be_bytes)
}

fn take_flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(unknown("a flag", found)),
    }
}

fn limited(count: usize, what: &'static str, max: usize) -> Result<usize, DecodeError> {
    if count <= max {
        return Ok(count);
    }
    let (count, max) = (count as u64, max as u64);
    Err(DecodeError::TooMany { what, count, max })
}

fn unknown(what: &'static str, found: u8) -> DecodeError {
    DecodeError::UnknownKind { what, found }
}
