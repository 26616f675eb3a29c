//! Whether the node of a lane still leads, where it gives reason to doubt it: the other nodes are asked.

use std::time::Duration;

use tokio::{
    select,
    time::{Instant, sleep},
};

use super::{Lane, Road};
use crate::client::{line::Line, links::Links};

/// Connecting for longer than this is a reason to ask the others whether the node still leads.
const CONNECTING_SLOW_AFTER: Duration = Duration::from_millis(250);
/// So is an answer that takes longer than this, even where the node is heard.
const ANSWER_SLOW_AFTER: Duration = Duration::from_secs(1);
/// How long to leave the others alone between two questions, and how long one may take.
const ASK_EVERY: Duration = Duration::from_millis(50);
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

impl Lane {
    /// Resolves once another node, or none, leads something that is on this lane: asks the others while this one gives reason to.
    pub(super) async fn led_elsewhere(&self, road: &Road, line: Option<&Line>) {
        loop {
            match line {
                None => sleep(CONNECTING_SLOW_AFTER).await,
                Some(line) => select! {
                    () = line.quiet() => {}
                    () = self.slow() => {}
                },
            }
            if road.links.routes().has_others() {
                let now = Instant::now();
                // What another lane asked for just now will do. Where nobody answers there is nowhere to go.
                let _ = road
                    .links
                    .refresh(
                        Some(&self.address),
                        Some(now - ASK_EVERY / 2),
                        now + ASK_TIMEOUT,
                    )
                    .await;
                if self.has_other_leader(&road.links) {
                    return;
                }
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// Resolves once an answer is long overdue.
    async fn slow(&self) {
        loop {
            sleep(ANSWER_SLOW_AFTER / 2).await;
            let state = self.state();
            let mut under_way = state.requests.values();
            if under_way.any(|(_, since)| since.elapsed() >= ANSWER_SLOW_AFTER) {
                return;
            }
        }
    }

    fn has_other_leader(&self, links: &Links) -> bool {
        let routes = links.routes();
        let state = self.state();
        let under_way = state.requests.values().map(|(topic, _)| topic);
        under_way.chain(&state.due).any(|topic| {
            // Where nobody leads, another node can at least say why.
            routes
                .leader(topic.name.as_bytes())
                .is_none_or(|leader| *leader != self.address)
        })
    }
}
