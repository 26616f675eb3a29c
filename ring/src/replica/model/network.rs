//! The network of the model: from each node to each other one messages arrive in order, after any time. A bounded number
//! of them leaves that order: it is kept aside, to arrive at any time later or never, or a copy of it is.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::Message;
use super::machine::digest;
use super::store::Batch;

/// A message under way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Envelope {
    digest: u64,
    pub(super) from: u8,
    pub(super) to: u8,
    pub(super) message: Message<Batch>,
}

impl Envelope {
    pub(super) fn new(from: u8, to: u8, message: Message<Batch>) -> Self {
        Self {
            digest: digest(&(from, to, &message)),
            from,
            to,
            message,
        }
    }
}

/// Sender and receiver, and what is on its way.
type Channel = ((u8, u8), VecDeque<Arc<Envelope>>);

#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    /// By sender, then by receiver.
    channels: Vec<Channel>,
    /// What has left its order, by digest.
    aside: Vec<Arc<Envelope>>,
}

impl Network {
    pub(super) fn send(&mut self, envelope: Arc<Envelope>) {
        let key = (envelope.from, envelope.to);
        let place = self.channels.partition_point(|(known, _)| *known < key);
        if self
            .channels
            .get(place)
            .is_none_or(|(known, _)| *known != key)
        {
            self.channels.insert(place, (key, VecDeque::new()));
        }
        self.channels[place].1.push_back(envelope);
    }

    /// The next message of each channel.
    pub(super) fn next(&self) -> impl Iterator<Item = &Arc<Envelope>> {
        self.channels
            .iter()
            .filter_map(|(_, messages)| messages.front())
    }

    /// The messages that may arrive out of order.
    pub(super) fn aside(&self) -> &[Arc<Envelope>] {
        &self.aside
    }

    /// Takes the next message out of the channel that it is in.
    pub(super) fn take_next(&mut self, envelope: &Envelope) {
        let key = (envelope.from, envelope.to);
        let place = self
            .channels
            .iter()
            .position(|(known, _)| *known == key)
            .unwrap();
        self.channels[place].1.pop_front();
        if self.channels[place].1.is_empty() {
            self.channels.remove(place);
        }
    }

    pub(super) fn put_aside(&mut self, envelope: &Arc<Envelope>) {
        let place = self
            .aside
            .partition_point(|known| known.digest < envelope.digest);
        self.aside.insert(place, Arc::clone(envelope));
    }

    pub(super) fn take_aside(&mut self, envelope: &Arc<Envelope>) {
        let place = self
            .aside
            .iter()
            .position(|known| known == envelope)
            .unwrap();
        self.aside.remove(place);
    }

    pub(super) fn digest(&self) -> u64 {
        let channel = |(key, messages): &Channel| {
            let messages: Vec<_> = messages.iter().map(|envelope| envelope.digest).collect();
            (*key, messages)
        };
        let channels: Vec<_> = self.channels.iter().map(channel).collect();
        let aside: Vec<_> = self.aside.iter().map(|envelope| envelope.digest).collect();
        digest(&(channels, aside))
    }
}
