//! Waiting for partitions to move, and telling how far it is.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mesh_net::client::Client;

use crate::error::Failure;
use crate::session::Session;
use crate::survey::{Survey, survey};
use crate::units::human_bytes;

/// How often the cluster is asked.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long nothing may be left to do before it counts as done: a plan follows its cause by a moment.
const SETTLED_AFTER: Duration = Duration::from_millis(1_500);
/// How long the cluster may be out of reach before a person is told instead.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Waits until `left` gives 0 partitions and stays there. Whoever stops waiting stops nothing: the cluster goes on.
pub(crate) async fn until_moved(
    client: &Client,
    session: &Session,
    left: impl Fn(&Survey) -> usize,
) -> Result<(), Failure> {
    let mut shown = Shown::new(session);
    let mut done_since = None;
    let mut heard = Instant::now();
    loop {
        match survey(client, session).await {
            Ok(survey) => {
                heard = Instant::now();
                let left = left(&survey);
                shown.show(session, left, &survey);
                let since = *done_since.get_or_insert(heard);
                match left {
                    0 if heard - since >= SETTLED_AFTER => break,
                    0 => {}
                    _ => done_since = None,
                }
            }
            Err(failure) if heard.elapsed() > SILENCE_MAX => return Err(failure),
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    shown.bar.finish_and_clear();
    Ok(())
}

/// What was told last: a bar on a terminal, a line for each step elsewhere.
struct Shown {
    bar: ProgressBar,
    /// The most that was ever left.
    most: usize,
    left: Option<usize>,
}

impl Shown {
    fn new(session: &Session) -> Self {
        let target = if session.out.is_quiet() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let style = ProgressStyle::with_template("{bar:24} {pos} of {len} partitions, {msg}");
        let bar = ProgressBar::with_draw_target(Some(0), target);
        Self {
            bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
            most: 0,
            left: None,
        }
    }

    fn show(&mut self, session: &Session, left: usize, survey: &Survey) {
        self.most = self.most.max(left);
        let transfers = survey.transfers();
        let done: u64 = transfers.iter().map(|transfer| transfer.bytes_done).sum();
        let total: u64 = transfers.iter().map(|transfer| transfer.bytes_total).sum();
        let message = format!(
            "{} copies under way, {} of about {}",
            transfers.len(),
            human_bytes(done),
            human_bytes(total)
        );
        if self.bar.is_hidden() {
            if self.left != Some(left) && self.most > 0 {
                session.out.progress(&format!(
                    "{} of {} partitions moved, {message}",
                    self.most - left,
                    self.most
                ));
            }
        } else {
            self.bar.set_length(self.most as u64);
            self.bar.set_position((self.most - left) as u64);
            self.bar.set_message(message);
        }
        self.left = Some(left);
    }
}
