//! A partition whose copy is on its way: the import goes step by step, and between its steps a witness votes.

use std::sync::{Arc, Mutex, PoisonError};

use mesh_ring::ids::{Epoch, NodeId, PartitionId};
use mesh_ring::replica::{Config, Lane, Message, Witness, WitnessEffect};

use crate::node::Shared;
use crate::node::partitions::Stop;
use crate::node::payload::Payload;
use crate::tasks::blocking;

/// Held by whoever imports a step, and by whoever promises: never both at once.
type Turn = Arc<tokio::sync::Mutex<Vote>>;

#[derive(Debug, Default)]
enum Vote {
    /// Nobody has asked for it yet.
    #[default]
    Unread,
    Cast(Box<Witness>),
    /// The copy is whole, or about to be: a replica votes again soon.
    Over,
}

/// A partition whose copy is on its way.
#[derive(Clone, Debug)]
pub(in crate::node) struct Arrival {
    id: PartitionId,
    turn: Turn,
    /// The map's last word.
    config: Arc<Mutex<Config>>,
    pub(in crate::node) stop: Stop,
}

impl Arrival {
    pub(in crate::node) fn new(id: PartitionId, config: Config) -> Arrival {
        Arrival {
            id,
            turn: Turn::default(),
            config: Arc::new(Mutex::new(config)),
            stop: Stop::default(),
        }
    }

    /// Takes in what the map says now.
    pub(in crate::node) fn configure(&self, config: Config) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    fn config(&self) -> Config {
        let config = self.config.lock();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does a step of the import; no other step and no promise is made meanwhile, also where nobody waits for it any more.
    pub(super) async fn step<T: Send + 'static, E: ToString + Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, String> {
        self.take_turn(work, |vote| vote).await
    }

    /// Does the last step, after which no witness votes any more.
    pub(super) async fn last_step<T: Send + 'static, E: ToString + Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, String> {
        self.take_turn(work, |_| Vote::Over).await
    }

    async fn take_turn<T: Send + 'static, E: ToString + Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
        then: impl FnOnce(Vote) -> Vote + Send + 'static,
    ) -> Result<T, String> {
        let mut turn = Arc::clone(&self.turn).lock_owned().await;
        let done = blocking(move || {
            let done = work();
            if done.is_ok() {
                *turn = then(std::mem::take(&mut turn));
            }
            done
        });
        let done = done.await.ok_or("the node is ending")?;
        done.map_err(|error| error.to_string())
    }

    /// Waits until no step is under way.
    pub(super) async fn rest(&self) {
        drop(self.turn.lock().await);
    }

    /// Takes in a message for the partition: whoever wants to lead it gets this node's promise.
    pub(in crate::node) async fn hear(
        &self,
        shared: &Arc<Shared>,
        from: NodeId,
        message: &Message<Payload>,
    ) {
        let mut turn = self.turn.lock().await;
        if let Vote::Unread = *turn {
            let (engine, id) = (Arc::clone(&shared.engine), self.id);
            let boot = engine.boot();
            match blocking(move || engine.left(id)).await {
                Some(Ok(left)) => *turn = Vote::Cast(Box::new(Witness::new(boot, left))),
                Some(Err(error)) => {
                    tracing::warn!(partition = %id, %error, "what was promised cannot be read: no vote is given");
                    return;
                }
                None => return,
            }
        }
        let Vote::Cast(witness) = &mut *turn else {
            return;
        };
        witness.configure(self.config());
        let mut effects = Vec::new();
        witness.received(from, message, &mut effects);
        while let Some(effect) = effects.pop() {
            match effect {
                WitnessEffect::Promise(epoch) => {
                    if self.promise(shared, epoch).await {
                        witness.promised(epoch, &mut effects);
                    }
                }
                WitnessEffect::Send { to, message } => {
                    // It is asked for again where it is lost.
                    let _ = shared.peers.send(to, self.id, message, Lane::Live);
                }
            }
        }
    }

    async fn promise(&self, shared: &Shared, epoch: Epoch) -> bool {
        let (engine, id) = (Arc::clone(&shared.engine), self.id);
        match blocking(move || engine.promise_without_journal(id, epoch)).await {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::warn!(partition = %id, %error, "a promise was not written: no vote is given");
                false
            }
            None => false,
        }
    }
}
