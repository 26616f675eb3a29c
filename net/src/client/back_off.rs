//! Pauses between attempts, and attempts that overlap.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use tokio::{
    select,
    time::{Instant, sleep, sleep_until},
};

/// The pause after the first failure, doubled each time up to [`BACK_OFF_MAX`].
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// A pause that grows with each failure.
#[derive(Debug)]
pub(super) struct BackOff(Duration);

impl BackOff {
    pub(super) fn new() -> Self {
        Self(BACK_OFF_MIN)
    }

    /// Waits, but not beyond `deadline`.
    pub(super) async fn pause(&mut self, deadline: Instant) {
        sleep_until(deadline.min(Instant::now() + self.0)).await;
        self.0 = (self.0 * 2).min(BACK_OFF_MAX);
    }

    /// Waits, however short a timeout is.
    pub(super) async fn pause_fully(&mut self) {
        self.pause(Instant::now() + BACK_OFF_MAX).await;
    }
}

/// An attempt that has not begun.
pub(super) type Attempt<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Makes attempts until one succeeds: the next begins when one has failed, or when the last one to begin has had `stagger`
/// to succeed and has not, which goes on beside it. The others are dropped once one has succeeded.
///
/// # Errors
/// The failure of the last one that failed, once all have. `None`: there were none.
pub(super) async fn first_to_succeed<T, E>(
    stagger: Duration,
    mut attempts: VecDeque<Attempt<'_, T, E>>,
) -> Result<T, Option<E>> {
    let mut running: Vec<Attempt<'_, T, E>> = Vec::new();
    let mut failure = None;
    loop {
        running.extend(attempts.pop_front());
        if running.is_empty() {
            return Err(failure);
        }
        select! {
            result = next_to_end(&mut running) => match result {
                Ok(done) => return Ok(done),
                Err(error) => failure = Some(error),
            },
            () = sleep(stagger), if !attempts.is_empty() => {}
        }
    }
}

async fn next_to_end<T, E>(running: &mut Vec<Attempt<'_, T, E>>) -> Result<T, E> {
    poll_fn(|cx| {
        for at in 0..running.len() {
            if let Poll::Ready(result) = running[at].as_mut().poll(cx) {
                drop(running.swap_remove(at));
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;
    const NEVER: Duration = Duration::from_secs(3600);

    type Word = Attempt<'static, &'static str, &'static str>;

    fn says(result: Result<&'static str, &'static str>) -> Word {
        Box::pin(std::future::ready(result))
    }

    fn hangs() -> Word {
        Box::pin(std::future::pending())
    }

    async fn run(
        stagger: Duration,
        attempts: Vec<Word>,
    ) -> Result<&'static str, Option<&'static str>> {
        first_to_succeed(stagger, attempts.into()).await
    }

    #[tokio::test]
    async fn one_that_hangs_holds_up_none() {
        assert_eq!(
            run(AT_ONCE, vec![hangs(), hangs(), says(Ok("c"))]).await,
            Ok("c")
        );
    }

    #[tokio::test]
    async fn one_that_is_late_still_counts() {
        let begun = Arc::new(Notify::new());
        let (told, tell) = (begun.clone(), begun);
        let first: Word = Box::pin(async move {
            told.notified().await;
            Ok("a")
        });
        let second: Word = Box::pin(async move {
            tell.notify_one();
            std::future::pending().await
        });
        assert_eq!(run(AT_ONCE, vec![first, second]).await, Ok("a"));
    }

    #[tokio::test]
    async fn a_failure_begins_the_next_at_once() {
        assert_eq!(
            run(NEVER, vec![says(Err("a")), says(Ok("b")), hangs()]).await,
            Ok("b")
        );
        assert_eq!(
            run(NEVER, vec![says(Err("a")), says(Err("b"))]).await,
            Err(Some("b"))
        );
        assert_eq!(run(NEVER, vec![]).await, Err(None));
    }
}
