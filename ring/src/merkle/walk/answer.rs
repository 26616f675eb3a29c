//! The side that answers: a function of the request and of what it holds.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{KEYS_AT_ONCE, Page, Place, Request, Response, STATES_BYTES_MAX, Salt, Source, State};
use crate::merkle::{FANOUT, Tree};

/// The answer to one request. States that the request brings are for the caller to merge, durably, before it sends
/// the answer.
///
/// # Errors
/// Those of the source.
pub fn answer<S: Source>(
    request: &Request,
    tree: &Tree,
    source: &mut S,
) -> Result<Response, S::Error> {
    Ok(match request {
        Request::Root { salt, root } if salt.root(&tree.root()) == *root => Response::Same,
        Request::Root { salt, .. } => Response::Children(vec![children(tree, *salt, 0, 0)]),
        Request::Children { salt, level, nodes } => {
            let nodes = nodes.iter();
            Response::Children(
                nodes
                    .map(|node| children(tree, *salt, *level, *node))
                    .collect(),
            )
        }
        Request::Pages { salt, pages } => compare(*salt, pages, source)?,
        Request::States(_) => Response::Merged,
    })
}

fn children(tree: &Tree, salt: Salt, level: u8, node: u16) -> [[u8; 8]; FANOUT] {
    let mut hashes = [[0; 8]; FANOUT];
    for (to, hash) in hashes.iter_mut().zip(tree.children(level, node)) {
        *to = salt.node(level + 1, hash);
    }
    hashes
}

fn compare<S: Source>(salt: Salt, pages: &[Page], source: &mut S) -> Result<Response, S::Error> {
    let mut found = Found::default();
    let mut until = None;
    for page in pages {
        until = found.compare(salt, page, source)?;
        if until.is_some() {
            break;
        }
    }
    let Found { give, want, .. } = found;
    Ok(Response::Differing { give, want, until })
}

#[derive(Default)]
struct Found {
    give: Vec<State>,
    want: Vec<Bytes>,
    bytes: usize,
}

impl Found {
    /// Compares one stretch; where it stopped if the answer is full.
    fn compare<S: Source>(
        &mut self,
        salt: Salt,
        page: &Page,
        source: &mut S,
    ) -> Result<Option<Place>, S::Error> {
        let leaf = page.from.leaf;
        let mut theirs: BTreeMap<&Bytes, [u8; 8]> =
            page.listed.iter().map(|it| (&it.key, it.digest)).collect();
        let end = page.listed.last().filter(|_| !page.is_last);
        let mut after = page.from.after.clone();
        loop {
            let mine = source.list(leaf, after.as_deref(), KEYS_AT_ONCE)?;
            let is_end = mine.len() < KEYS_AT_ONCE;
            for (key, digest) in mine {
                if end.is_some_and(|end| key > end.key) {
                    self.want(&mut theirs, None);
                    return Ok(None);
                }
                self.want(&mut theirs, Some(&key));
                if theirs.remove(&key) != Some(salt.digest(digest)) {
                    match source.read(&key)? {
                        Some(binding) => self.give(key.clone(), binding),
                        None => self.want.push(key.clone()),
                    }
                }
                after = Some(key);
                if self.bytes >= STATES_BYTES_MAX {
                    return Ok(Some(Place { leaf, after }));
                }
            }
            if is_end {
                self.want(&mut theirs, None);
                return Ok(None);
            }
        }
    }

    /// What they list before `key` is not here.
    fn want(&mut self, theirs: &mut BTreeMap<&Bytes, [u8; 8]>, key: Option<&Bytes>) {
        while let Some((first, _)) = theirs.first_key_value() {
            if key.is_some_and(|key| *first >= key) {
                return;
            }
            if let Some((first, _)) = theirs.pop_first() {
                self.want.push(first.clone());
            }
        }
    }

    fn give(&mut self, key: Bytes, binding: Vec<u8>) {
        self.bytes += key.len() + binding.len();
        let binding = Bytes::from(binding);
        self.give.push(State { key, binding });
    }
}
