//! The side that walks.

use std::collections::VecDeque;

use bytes::Bytes;
use thiserror::Error;

use super::{
    KEYS_AT_ONCE, LeafId, Listed, NODES_AT_ONCE, Page, Place, Request, Response, STATES_BYTES_MAX,
    Salt, Source, State,
};
use crate::binding::Binding;
use crate::codec::DecodeError;
use crate::merkle::{FANOUT, Tree};

/// What the walking side does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Send this, and hand the answer to [`Walk::answered`].
    Send(Request),
    /// Everything was compared.
    Done {
        /// Bindings in which the two sides differed.
        differed: usize,
    },
}

/// Why a walk ends early. What was merged until then stays merged; the next walk goes on from there.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum WalkError<E> {
    /// This side cannot read its bindings.
    #[error(transparent)]
    Source(E),
    /// The other side sent what is no binding.
    #[error("the binding of key {key:?} that was received cannot be read: {cause}")]
    Undecodable {
        /// Its key.
        key: Bytes,
        /// Why.
        cause: DecodeError,
    },
    /// The answer does not belong to what was asked.
    #[error("the answer does not fit the request; end the walk and begin another")]
    Unexpected,
}

/// One walk, as its initiator sees it. It is given up by dropping it.
pub struct Walk {
    tree: Tree,
    salt: Salt,
    asked: Option<Request>,
    has_begun: bool,
    /// Per level, from the root's: nodes that differ.
    nodes: Vec<Vec<u16>>,
    /// What is left of the leaves that differ, in ascending order.
    leaves: VecDeque<Place>,
    /// What the other side lacks.
    wanted: VecDeque<Bytes>,
    /// What became of bindings that both had.
    merged: VecDeque<State>,
    differed: usize,
}

impl Walk {
    /// A walk over the leaves as they are now. `salt` is drawn at random.
    #[must_use]
    pub fn new(tree: Tree, salt: Salt) -> Self {
        Self {
            nodes: vec![Vec::new(); usize::from(tree.depth())],
            tree,
            salt,
            asked: None,
            has_begun: false,
            leaves: VecDeque::new(),
            wanted: VecDeque::new(),
            merged: VecDeque::new(),
            differed: 0,
        }
    }

    /// What to do now. Until a request is answered, it is the same request.
    ///
    /// # Errors
    /// [`WalkError::Source`].
    pub fn next<S: Source>(&mut self, source: &mut S) -> Result<Step, WalkError<S::Error>> {
        if self.asked.is_none() {
            self.asked = self.request(source).map_err(WalkError::Source)?;
        }
        Ok(match &self.asked {
            Some(request) => Step::Send(request.clone()),
            None => Step::Done {
                differed: self.differed,
            },
        })
    }

    /// Takes the answer to the last request; what this side has to merge.
    ///
    /// # Errors
    /// [`WalkError`]: the walk is over.
    pub fn answered<S: Source>(
        &mut self,
        response: Response,
        source: &mut S,
    ) -> Result<Vec<State>, WalkError<S::Error>> {
        let asked = self.asked.take().ok_or(WalkError::Unexpected)?;
        match (asked, response) {
            (Request::Root { .. }, Response::Same) | (Request::States(_), Response::Merged) => {
                Ok(Vec::new())
            }
            (Request::Root { .. }, Response::Children(hashes)) if hashes.len() == 1 => {
                self.descend(0, &[0], &hashes);
                Ok(Vec::new())
            }
            (Request::Children { level, nodes, .. }, Response::Children(hashes))
                if hashes.len() == nodes.len() =>
            {
                self.descend(level, &nodes, &hashes);
                Ok(Vec::new())
            }
            (Request::Pages { pages, .. }, Response::Differing { give, want, until }) => {
                if !self.go_on(&pages, until) {
                    return Err(WalkError::Unexpected);
                }
                self.differed += give.len() + want.len();
                self.wanted.extend(want);
                self.merge(give, source)
            }
            _ => Err(WalkError::Unexpected),
        }
    }

    fn request<S: Source>(&mut self, source: &mut S) -> Result<Option<Request>, S::Error> {
        let salt = self.salt;
        if !self.has_begun {
            self.has_begun = true;
            let root = salt.root(&self.tree.root());
            return Ok(Some(Request::Root { salt, root }));
        }
        // The deepest first: what is waiting stays small.
        let states = self.states(source)?;
        if !states.is_empty() {
            return Ok(Some(Request::States(states)));
        }
        if !self.leaves.is_empty() {
            let pages = self.pages(source)?;
            return Ok(Some(Request::Pages { salt, pages }));
        }
        let deepest = self.nodes.iter().rposition(|nodes| !nodes.is_empty());
        Ok(deepest.map(|level| {
            let nodes = &mut self.nodes[level];
            let nodes = nodes.drain(..nodes.len().min(NODES_AT_ONCE)).collect();
            let level = level as u8;
            Request::Children { salt, level, nodes }
        }))
    }

    /// Notes which children differ from this side's.
    fn descend(&mut self, level: u8, nodes: &[u16], theirs: &[[[u8; 8]; FANOUT]]) {
        for (node, theirs) in nodes.iter().zip(theirs) {
            let mine = self.tree.children(level, *node).iter();
            let hashes = mine.map(|hash| self.salt.node(level + 1, hash)).zip(theirs);
            let differing = hashes
                .enumerate()
                .filter(|(_, (mine, theirs))| mine != *theirs);
            for (at, _) in differing {
                let child = node * FANOUT as u16 + at as u16;
                match self.nodes.get_mut(usize::from(level) + 1) {
                    Some(nodes) => nodes.push(child),
                    None => self.leaves.push_back(Place {
                        leaf: LeafId(child),
                        after: None,
                    }),
                }
            }
        }
    }

    /// Lists as much of the leaves that differ as goes into one request.
    fn pages<S: Source>(&mut self, source: &mut S) -> Result<Vec<Page>, S::Error> {
        let mut pages = Vec::new();
        let mut room = KEYS_AT_ONCE;
        for from in self.leaves.iter().take(NODES_AT_ONCE) {
            if room == 0 {
                break;
            }
            let found = source.list(from.leaf, from.after.as_deref(), room)?;
            let is_last = found.len() < room;
            room -= found.len();
            let salted = found.into_iter().map(|(key, digest)| Listed {
                key,
                digest: self.salt.digest(digest),
            });
            pages.push(Page {
                from: from.clone(),
                is_last,
                listed: salted.collect(),
            });
        }
        Ok(pages)
    }

    /// Takes what was compared from what is left. False: the answer ends where nothing was asked.
    fn go_on(&mut self, pages: &[Page], until: Option<Place>) -> bool {
        for page in pages {
            self.leaves.pop_front();
            if let Some(until) = until.as_ref().filter(|until| until.leaf == page.from.leaf) {
                self.leaves.push_front(until.clone());
                return until.after > page.from.after;
            }
            if !page.is_last {
                let after = page.listed.last().map(|last| last.key.clone());
                let leaf = page.from.leaf;
                self.leaves.push_front(Place { leaf, after });
                break;
            }
        }
        until.is_none()
    }

    /// What the other side lacks, as much as goes into one message.
    fn states<S: Source>(&mut self, source: &mut S) -> Result<Vec<State>, S::Error> {
        let (mut states, mut bytes) = (Vec::new(), 0);
        while bytes < STATES_BYTES_MAX {
            let state = match self.merged.pop_front() {
                Some(state) => state,
                None => {
                    let Some(key) = self.wanted.pop_front() else {
                        break;
                    };
                    let Some(binding) = source.read(&key)? else {
                        continue;
                    };
                    let binding = Bytes::from(binding);
                    State { key, binding }
                }
            };
            bytes += state.key.len() + state.binding.len();
            states.push(state);
        }
        Ok(states)
    }

    /// Of what the other side has: what is news here. What is news there goes back.
    fn merge<S: Source>(
        &mut self,
        give: Vec<State>,
        source: &mut S,
    ) -> Result<Vec<State>, WalkError<S::Error>> {
        let mut news = Vec::new();
        for state in give {
            let theirs = Binding::decode(&state.binding).map_err(|cause| {
                let key = state.key.clone();
                WalkError::Undecodable { key, cause }
            })?;
            let mine = source.read(&state.key).map_err(WalkError::Source)?;
            let mine = mine.and_then(|bytes| Binding::decode(&bytes).ok());
            let merged = mine
                .as_ref()
                .map_or_else(|| theirs.clone(), |mine| mine.merge(&theirs));
            if merged != theirs {
                self.merged.push_back(State {
                    key: state.key.clone(),
                    binding: merged.encode().into(),
                });
            }
            if mine.as_ref() != Some(&merged) {
                news.push(state);
            }
        }
        Ok(news)
    }
}
