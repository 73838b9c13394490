//! Hands the console of one instance to the application, batch by batch, for as long as it wants it
//!
//! The log on disk is the buffer: while the application is not connected, or slow, nothing is read and nothing is lost
//! until the backlog passes [`Retention::backlog`]. Lines that were handed over stay until they are known to have
//! [arrived](super::Supervisor::console_arrived); when consoles are opened again, the others are handed over again, under
//! the same numbers. Progress is written down, so a daemon that is killed goes on where it was.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prexorcloud_protocol::{Incarnation, InstanceId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::arrivals::Listener;
use super::notices::Notices;
use super::reading::Reading;
use super::shortage::Shortage;
use crate::console::{ConsoleLine, Retention, Watcher};
use crate::control::ControlDir;
use crate::wall_clock::now_ms;

/// Lines that come within this time travel together: a wake-up costs as much as dozens of lines
const COALESCE: Duration = Duration::from_millis(5);

/// How often an idle console is looked at all the same, for retention and for what somebody else does to the log
///
/// With twenty servers this is nearly all that an idle daemon does: once a second was 0.12 % of a core.
const HOUSEKEEPING: Duration = Duration::from_secs(2);

/// How often a log is looked at when the system has no watches left
const WITHOUT_WATCH: Duration = Duration::from_millis(50);

/// How long the console of an ended instance waits for the next of its lines to arrive
const GIVE_UP: Duration = Duration::from_secs(600);

/// How soon a log that cannot be read is tried again, first and at last
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

/// How long a console does without its descriptor when there are too few, so that another has its turn
const TURN: Duration = Duration::from_secs(1);

/// Lines of one instance, to be taken or left
///
/// Dropping it without [`accept`](Self::accept) leaves the lines to be handed over again when consoles are opened again.
#[derive(Debug)]
pub struct ConsoleBatch {
    /// The instance
    pub instance: InstanceId,
    /// Which start of it
    pub incarnation: Incarnation,
    /// Its next lines, in order; never empty
    pub lines: Vec<ConsoleLine>,
    /// What [`open_consoles`](super::Supervisor::open_consoles) was told that consoles are opened for
    pub stream: u64,
    accepted: oneshot::Sender<()>,
}

impl ConsoleBatch {
    /// The lines are on their way; the next batch may come
    pub fn accept(self) {
        // The feed is gone only if the whole supervisor is.
        let _ = self.accepted.send(());
    }
}

/// What the receiver knows when lines that may have arrived are handed over again
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// It knows lines by their number, and drops what it has
    Numbered,
    /// It does not: a notice says that it may see lines a second time
    Unnumbered,
}

/// Whether consoles are wanted, and by whom; every opening is a new one
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) open: Option<Opening>,
    pub(super) generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) stream: u64,
    pub(super) receiver: Receiver,
}

pub(super) struct Feed {
    pub(super) control: ControlDir,
    pub(super) instance: InstanceId,
    pub(super) incarnation: Incarnation,
    pub(super) watcher: Option<Watcher>,
    pub(super) flow: watch::Receiver<Flow>,
    /// Becomes true when the main process has ended: the log is complete
    pub(super) ended: watch::Receiver<bool>,
    pub(super) batches: mpsc::Sender<ConsoleBatch>,
    pub(super) retention: Retention,
    pub(super) arrivals: Listener,
    /// Told, or dropped, when the whole log was handed over once
    pub(super) handed_over: Option<oneshot::Sender<()>>,
    pub(super) notices: Notices,
    pub(super) shortage: Shortage,
    /// The log, once its name leads to it no longer
    pub(super) nameless: Arc<OnceLock<File>>,
    /// The highest number that has arrived
    pub(super) arrived: u64,
    /// When something last arrived of an instance that has ended, or when its end was seen
    pub(super) waits_since: Option<Instant>,
}

/// Why handing over paused
enum Pause {
    /// Consoles were closed or opened anew
    FlowChanged,
    /// There is nothing to read, and another console waits for a descriptor
    Lent,
    /// The instance has ended, and everything has arrived or is given up
    Finished,
}

impl Feed {
    /// Returns when the instance has ended and its console has arrived, or nobody took it for long
    pub(super) async fn run(mut self) {
        let [first, last] = RETRY;
        let mut delay = first;
        let mut told: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let error = match self.attempt().await {
                Ok(ControlFlow::Break(())) => return,
                Ok(ControlFlow::Continue(())) => {
                    sleep(TURN).await;
                    continue;
                }
                Err(error) => error,
            };
            if began.elapsed() > last {
                delay = first;
            }
            let instance = self.instance;
            let ended = *self.ended.borrow_and_update();
            if ended && self.has_waited_for_long() {
                tracing::warn!(%instance, %error, "the console of an ended instance cannot be read and is given up");
                return;
            }
            if told.is_none_or(|told| told.elapsed() > last) {
                told = Some(Instant::now());
                tracing::warn!(%instance, %error, "console cannot be read; trying again");
            }
            let waiting = self.shortage.wait_for_one(&error);
            let longest = if waiting.is_some() { TURN } else { last };
            // An end is news: what the instance held is free now.
            tokio::select! {
                () = sleep(delay) => delay = (delay * 2).min(longest),
                Ok(()) = self.ended.changed(), if !ended => delay = first,
            }
        }
    }

    /// Breaks when nothing is left to do; goes on when another console is to have its turn
    async fn attempt(&mut self) -> io::Result<ControlFlow<()>> {
        let mut reading = Reading::open(self.instance, &self.control, self.retention, &mut self.notices)?;
        loop {
            if self.flow.has_changed().is_err() {
                // The supervisor is gone; so is everybody who could want lines.
                return Ok(ControlFlow::Break(()));
            }
            let flow = *self.flow.borrow_and_update();
            let pause = match flow.open {
                None => self.wait_closed(&mut reading).await?,
                Some(opening) => self.hand_over(&mut reading, opening).await?,
            };
            match pause {
                Pause::FlowChanged => {}
                Pause::Lent => return Ok(ControlFlow::Continue(())),
                Pause::Finished => return Ok(ControlFlow::Break(())),
            }
        }
    }

    /// Keeps the log bounded until consoles are wanted
    async fn wait_closed(&mut self, reading: &mut Reading) -> io::Result<Pause> {
        loop {
            reading.rewind();
            reading.look_after(&mut self.notices, &self.nameless).await?;
            if *self.ended.borrow() && self.is_given_up() {
                return Ok(Pause::Finished);
            }
            if self.shortage.is_felt() {
                return Ok(Pause::Lent);
            }
            match timeout(HOUSEKEEPING, self.flow.changed()).await {
                Ok(Ok(())) => return Ok(Pause::FlowChanged),
                Ok(Err(_)) => return Ok(Pause::Finished),
                Err(_) => {}
            }
        }
    }

    /// Whether nobody took the lines of an ended instance for long; says so
    fn is_given_up(&mut self) -> bool {
        let is_over = self.has_waited_for_long();
        if is_over {
            let instance = self.instance;
            tracing::warn!(%instance, "the last console lines of an ended instance are given up: no controller took them");
        }
        is_over
    }

    /// Whether an ended instance has waited for long enough; counted through all connections and attempts
    fn has_waited_for_long(&mut self) -> bool {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        since.elapsed() > GIVE_UP
    }

    async fn hand_over(&mut self, reading: &mut Reading, opening: Opening) -> io::Result<Pause> {
        let mut again = reading.rewind();
        // What is gone from disk comes before what is there, until it has arrived.
        let mut noticed = 0;
        loop {
            if self.flow.has_changed().unwrap_or(true) {
                return Ok(Pause::FlowChanged);
            }
            self.note_arrivals(reading)?;
            // In this order: what is written after the watch is set wakes us, what was written before is read now, and
            // once the end is known the log is complete.
            let changed = self
                .watcher
                .as_ref()
                .and_then(|watcher| watcher.arm(&self.control.console_log()).ok());
            let ended = *self.ended.borrow();
            reading.look_after(&mut self.notices, &self.nameless).await?;
            let mut lines: Vec<_> = self.notices.after(noticed).collect();
            noticed = reading.last();
            if std::mem::take(&mut again) > 0 && opening.receiver == Receiver::Unnumbered {
                lines.push(said_again(noticed));
            }
            let more = reading.read(ended, &mut lines)?;
            if !lines.is_empty() {
                self.arrivals.handing_over(reading.last());
                if !self.offer(lines, opening.stream).await {
                    // Left, not taken: wait until consoles are opened anew.
                    let _ = self.flow.changed().await;
                    return Ok(Pause::FlowChanged);
                }
                reading.handed_over()?;
            }
            if more {
                // Without a line there was nothing to wait for, and others want to run too.
                tokio::task::yield_now().await;
                continue;
            }
            if ended {
                self.handed_over.take();
                if reading.is_settled() || self.is_given_up() {
                    return Ok(Pause::Finished);
                }
            }
            // What has not arrived yet would be handed over again by the next turn.
            if reading.is_settled() && self.shortage.is_felt() {
                return Ok(Pause::Lent);
            }
            self.wait_for_more(changed).await;
        }
    }

    fn note_arrivals(&mut self, reading: &mut Reading) -> io::Result<()> {
        let arrived = self.arrivals.highest();
        if arrived > self.arrived {
            self.arrived = arrived;
            self.waits_since = None;
        }
        self.notices.arrived(arrived);
        reading.arrived(arrived)
    }

    /// Whether the application took the lines
    async fn offer(&self, lines: Vec<ConsoleLine>, stream: u64) -> bool {
        let (accepted, answer) = oneshot::channel();
        let batch = ConsoleBatch {
            instance: self.instance,
            incarnation: self.incarnation,
            lines,
            stream,
            accepted,
        };
        self.batches.send(batch).await.is_ok() && answer.await.is_ok()
    }

    async fn wait_for_more(&mut self, changed: Option<oneshot::Receiver<()>>) {
        let woken = async {
            match changed {
                Some(changed) => match changed.await {
                    Ok(()) => sleep(COALESCE).await,
                    Err(_) => sleep(WITHOUT_WATCH).await,
                },
                None => sleep(WITHOUT_WATCH).await,
            }
        };
        // Whatever wakes it, everything is looked at again, so nothing waits for the housekeeping alone.
        tokio::select! {
            () = woken => {}
            _ = self.flow.changed() => { self.flow.mark_changed(); }
            _ = self.ended.changed() => {}
            () = self.arrivals.more() => {}
            () = sleep(HOUSEKEEPING) => {}
        }
    }
}

/// The line before those that a receiver without numbers may see a second time
fn said_again(before: u64) -> ConsoleLine {
    ConsoleLine {
        sequence: before,
        text: "[prexorcloud] the connection was lost; some of the next lines may be shown a second time"
            .to_owned(),
        timestamp_ms: now_ms(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::super::arrivals::Arrivals;
    use super::*;

    fn opened(flow: &watch::Sender<Flow>) {
        flow.send_modify(|flow| {
            flow.generation += 1;
            flow.open = Some(Opening {
                stream: 1,
                receiver: Receiver::Numbered,
            });
        });
    }

    /// The feed of a fresh control folder, and whoever gets its lines, beside what it is told by
    struct Fed {
        folder: tempfile::TempDir,
        ended: watch::Sender<bool>,
        arrivals: Arrivals,
        shortage: Shortage,
        lines: mpsc::Receiver<ConsoleBatch>,
        _flow: watch::Sender<Flow>,
    }

    fn feed() -> (Fed, Feed) {
        let folder = tempfile::tempdir().unwrap();
        let (ended, is_ended) = watch::channel(false);
        let (batches, lines) = mpsc::channel(1);
        let (flow, wanted) = watch::channel(Flow {
            open: None,
            generation: 0,
        });
        opened(&flow);
        let (arrivals, shortage) = (Arrivals::default(), Shortage::default());
        let (instance, incarnation) = (InstanceId::new("lobby-1").unwrap(), Incarnation::new(1));
        let feed = Feed {
            control: ControlDir::new(folder.path()),
            instance,
            incarnation,
            watcher: None,
            flow: wanted,
            ended: is_ended,
            batches,
            retention: Retention::default(),
            arrivals: arrivals.listen(instance, incarnation),
            handed_over: None,
            notices: Notices::default(),
            shortage: shortage.clone(),
            nameless: Arc::new(OnceLock::new()),
            arrived: 0,
            waits_since: None,
        };
        let fed = Fed {
            folder,
            ended,
            arrivals,
            shortage,
            lines,
            _flow: flow,
        };
        (fed, feed)
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_instance_is_a_reason_to_try_its_console_again() {
        let (mut fed, feed) = feed();
        let feed = tokio::spawn(feed.run());
        // No log: it is tried more and more rarely.
        sleep(Duration::from_secs(70)).await;
        fs::write(fed.folder.path().join("console.log"), "last words\n").unwrap();
        let end = Instant::now();
        fed.ended.send_replace(true);
        let batch = fed.lines.recv().await.unwrap();
        assert!(end.elapsed() < Duration::from_secs(1), "{:?}", end.elapsed());
        assert_eq!(batch.lines[0].text, "last words");
        let (instance, incarnation) = (batch.instance, batch.incarnation);
        batch.accept();
        sleep(Duration::from_secs(1)).await;
        fed.arrivals.arrived(instance, incarnation, 1);
        feed.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_console_that_cannot_be_read_is_given_up_by_time() {
        let (fed, feed) = feed();
        let feed = tokio::spawn(feed.run());
        sleep(Duration::from_secs(70)).await;
        fed.ended.send_replace(true);
        sleep(GIVE_UP - Duration::from_secs(1)).await;
        assert!(!feed.is_finished());
        sleep(RETRY[1] + Duration::from_secs(2)).await;
        feed.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_console_hands_its_descriptor_on_to_one_that_waits() {
        let (fed, feed) = feed();
        let log = fed.folder.path().join("console.log");
        fs::write(&log, "").unwrap();
        let feed = tokio::spawn(feed.run());
        let holders = || {
            let entries = fs::read_dir("/proc/self/fd").unwrap();
            let of_log = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|target| target == log);
            entries.filter_map(Result::ok).filter(of_log).count()
        };
        sleep(Duration::from_secs(3)).await;
        assert_eq!(holders(), 1);
        let waiting = fed.shortage.wait_for_one(&rustix::io::Errno::MFILE.into());
        sleep(HOUSEKEEPING + TURN / 2).await;
        assert_eq!(holders(), 0);
        drop(waiting);
        sleep(TURN).await;
        assert_eq!(holders(), 1);
        feed.abort();
    }
}
