//! Who is measured.

use std::future::Future;

use bytes::Bytes;

use crate::Result;

/// Takes in a value that was read.
pub type Visit<'a> = &'a mut (dyn FnMut(&[u8]) + Send);

/// A system that keeps topics of records. Clones share what it needs to publish.
pub trait System: Clone + Send + Sync + 'static {
    /// Reads its topics.
    type Reader: Reader;

    /// Makes topics 0 to `count - 1`, which are not there yet.
    fn make_topics(&self, count: usize) -> impl Future<Output = Result<()>> + Send;

    /// Publishes one record; returns when it is durable.
    fn publish(&self, topic: usize, value: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Publishes records to one topic in one go; returns when all are durable.
    fn publish_batch(
        &self,
        topic: usize,
        values: Vec<Bytes>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Publishes records to one topic, where no clock runs.
    fn put_in(&self, topic: usize, values: Vec<Bytes>) -> impl Future<Output = Result<()>> + Send {
        self.publish_batch(topic, values)
    }

    /// Connects a reader, which shares no connection with anyone.
    fn reader(&self) -> impl Future<Output = Result<Self::Reader>> + Send;
}

/// Reads one topic at a time.
pub trait Reader: Send + 'static {
    /// Goes to the first record of a topic.
    fn begin(&mut self, topic: usize) -> impl Future<Output = Result<()>> + Send;

    /// Waits until there are more records, and hands the value of each to `visit`, in order.
    fn next(&mut self, visit: Visit<'_>) -> impl Future<Output = Result<()>> + Send;
}
