//! What a watch has seen of each key, and what a node's word on a key adds to it.
//!
//! Nodes may be behind each other, and a watch goes from one to another. What it has seen is therefore kept as a causal
//! context: a state that this covers is old, whoever says it. Pure; no clock, no I/O.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_ring::version::{Dot, VersionVector};

use super::state::{HeldState, State};
use super::{WatchEvent, WatchKind};

/// How long a watch remembers a key of which no node has said anything after it had gone, in milliseconds: longer than a
/// node is behind that still has an older value.
const GONE_REMEMBERED_MS: u64 = 60 * 60 * 1000;

/// All keys that were seen, also those that have gone.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<Bytes, SeenKey>);

#[derive(Debug)]
struct SeenKey {
    /// Encoded, as there may be many keys.
    context: Bytes,
    shown: Shown,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shown {
    /// This version's value.
    Live {
        version: Dot,
        siblings: u32,
        expires_ms: Option<u64>,
    },
    /// That there is none.
    Gone {
        /// The version that was shown before.
        was: Option<Dot>,
        /// When that was noticed, unix milliseconds.
        since_ms: u64,
    },
}

/// What a node's word on a key comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Nothing,
    Event(WatchEvent),
    /// The node holds nothing, and a value was seen: either it is gone altogether, or the node is far behind.
    Doubtful,
}

impl Seen {
    /// Takes a state in.
    pub(super) fn take(&mut self, state: State, now_ms: u64) -> Verdict {
        let State { key, held } = state;
        let Some(held) = held else {
            return self.absent(&key, true, now_ms);
        };
        let Some(seen) = self.0.get_mut(&key) else {
            self.0.insert(key.clone(), SeenKey::of(&held, now_ms));
            return match held.value {
                Some(_) => Verdict::Event(event(WatchKind::New, key, held)),
                None => Verdict::Nothing,
            };
        };
        let expiry = seen.shown.expiry_of(held.version);
        let Some(kind) = seen.learn(&held, now_ms) else {
            return Verdict::Nothing;
        };
        let mut event = event(kind, key, held);
        if kind == WatchKind::Deleted && expiry.is_some() {
            event.time_ms = expiry;
        }
        Verdict::Event(event)
    }

    /// A node holds nothing under the key: where `removed`, it did before, otherwise only its snapshot lacks it.
    pub(super) fn absent(&mut self, key: &Bytes, removed: bool, now_ms: u64) -> Verdict {
        match self.0.get(key).map(|seen| seen.shown) {
            None => Verdict::Nothing,
            Some(Shown::Live { .. }) => Verdict::Doubtful,
            Some(Shown::Gone { since_ms, .. }) => {
                // A tombstone is removed once every copy has it: nothing older can come.
                if removed || now_ms.saturating_sub(since_ms) > GONE_REMEMBERED_MS {
                    self.0.remove(key);
                }
                Verdict::Nothing
            }
        }
    }

    /// A majority holds nothing under a key of which a value was seen.
    pub(super) fn is_gone(&mut self, key: &Bytes) -> Option<WatchEvent> {
        let seen = self.0.get(key)?;
        if !matches!(seen.shown, Shown::Live { .. }) {
            return None;
        }
        self.0.remove(key);
        Some(WatchEvent {
            kind: WatchKind::Deleted,
            key: key.clone(),
            value: None,
            siblings: 0,
            node: None,
            time_ms: None,
            replicas: Vec::new(),
        })
    }

    /// Keys that were seen, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.0.keys()
    }

    /// Keys of which a value was seen last, in order.
    pub(super) fn live_keys(&self) -> impl Iterator<Item = &Bytes> {
        let live = |seen: &SeenKey| matches!(seen.shown, Shown::Live { .. });
        self.0
            .iter()
            .filter(move |(_, seen)| live(seen))
            .map(|(key, _)| key)
    }
}

impl SeenKey {
    fn of(held: &HeldState, now_ms: u64) -> SeenKey {
        SeenKey {
            context: held.context.encode().into(),
            shown: Shown::of(held, None, now_ms),
        }
    }

    /// Takes in what a node holds; tells what that is to whoever watches.
    fn learn(&mut self, held: &HeldState, now_ms: u64) -> Option<WatchKind> {
        // It was encoded here.
        let mut context = VersionVector::decode(&self.context).unwrap_or_default();
        let (knew_all, is_all) = (
            context.covers_all(&held.context),
            held.context.covers_all(&context),
        );
        let was = match self.shown {
            Shown::Live { version, .. } => Some(version),
            Shown::Gone { was, .. } => was,
        };
        let is_live = matches!(self.shown, Shown::Live { .. });
        let winner = held.value.as_ref().map(|_| held.version);
        let kind = match (knew_all, is_all) {
            // Old.
            (true, false) => None,
            // The same writes: a value has expired, or the node had concurrent ones together that came one by one.
            (true, true) => match winner {
                None => is_live.then_some(WatchKind::Deleted),
                // This node has not noticed yet that it has expired; or nothing is new.
                Some(version) if was == Some(version) => None,
                Some(_) => Some(WatchKind::of_value(is_live)),
            },
            (false, true) => match winner {
                // What is new was superseded already.
                Some(version) if self.shown.is(version, held.siblings) => None,
                Some(_) => Some(WatchKind::of_value(is_live)),
                None => is_live.then_some(WatchKind::Deleted),
            },
            // Neither has seen the other's writes.
            (false, false) => match winner {
                // Seen before, so that what is new is not shown first.
                Some(version) if context.covers(version) => None,
                Some(_) => Some(WatchKind::of_value(is_live)),
                None => {
                    let superseded = was.is_some_and(|was| held.context.covers(was));
                    (is_live && superseded).then_some(WatchKind::Deleted)
                }
            },
        };
        if kind.is_some() || (!knew_all && is_all) {
            self.shown = Shown::of(held, was, now_ms);
        }
        if !knew_all {
            context.merge(&held.context);
            self.context = context.encode().into();
        }
        kind
    }
}

impl Shown {
    /// Whether this version is shown, as one of so many.
    fn is(&self, of: Dot, among: u32) -> bool {
        matches!(*self, Shown::Live { version, siblings, .. } if (version, siblings) == (of, among))
    }

    /// When this version's value expires, if it is shown and does.
    fn expiry_of(&self, of: Dot) -> Option<u64> {
        match *self {
            Shown::Live {
                version,
                expires_ms,
                ..
            } if version == of => expires_ms,
            _ => None,
        }
    }

    fn of(held: &HeldState, was: Option<Dot>, now_ms: u64) -> Shown {
        match held.value {
            Some(_) => Shown::Live {
                version: held.version,
                siblings: held.siblings,
                expires_ms: held.expires_ms,
            },
            None => Shown::Gone {
                was: was.or(Some(held.version)),
                since_ms: now_ms,
            },
        }
    }
}

impl WatchKind {
    fn of_value(was_live: bool) -> WatchKind {
        if was_live {
            WatchKind::Changed
        } else {
            WatchKind::New
        }
    }
}

fn event(kind: WatchKind, key: Bytes, held: HeldState) -> WatchEvent {
    WatchEvent {
        kind,
        key,
        value: held.value,
        siblings: held.siblings,
        node: Some(held.node),
        time_ms: Some(held.time_ms),
        replicas: Vec::new(),
    }
}

#[cfg(test)]
#[path = "seen_tests.rs"]
mod tests;
