//! Hands the console of one instance to the application, batch by batch, for as long as it wants it
//!
//! The log on disk is the buffer: while the application is not connected, or slow, nothing is read and nothing is lost
//! until the backlog passes [`Retention::backlog`]. Progress is written down after each batch, so a daemon that is killed
//! goes on where it was.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prexorcloud_protocol::{Incarnation, InstanceId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::console::{ConsoleLine, Cursor, Follower, Progress, ProgressFile, Retention, Watcher};
use crate::control::ControlDir;

/// Lines that come within this time travel together: a wake-up costs as much as dozens of lines
const COALESCE: Duration = Duration::from_millis(5);

/// How often an idle console is looked at all the same, for retention and settled progress
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How often a log is looked at when the system has no watches left
const WITHOUT_WATCH: Duration = Duration::from_millis(50);

/// How long the console of an ended instance waits for somebody to take it
const GIVE_UP: Duration = Duration::from_secs(600);

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
    accepted: oneshot::Sender<()>,
}

impl ConsoleBatch {
    /// The lines are on their way; the next batch may come
    pub fn accept(self) {
        // The feed is gone only if the whole supervisor is.
        let _ = self.accepted.send(());
    }
}

/// From where consoles are handed over when they are opened
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleStart {
    /// From the first line that was not accepted; what was accepted just before a connection broke may be missing
    Unaccepted,
    /// From a little earlier, with the same numbers: for a receiver that knows lines by their number
    Settled,
}

/// Whether and from where consoles are wanted; every opening is a new one
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) open: Option<ConsoleStart>,
    pub(super) generation: u64,
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
    pub(super) settle: Duration,
    /// Lines that were given up and not told of yet
    pub(super) missed: u64,
}

/// Why handing over paused
enum Pause {
    /// Consoles were closed or opened anew
    FlowChanged,
    /// The instance has ended and everything was accepted
    Finished,
}

impl Feed {
    /// Returns when the instance has ended and its console was taken, or nobody took it for long
    pub(super) async fn run(mut self) {
        let mut delay = Duration::from_millis(100);
        loop {
            match self.attempt().await {
                Ok(()) => return,
                Err(error) => {
                    let instance = self.instance;
                    tracing::warn!(%instance, %error, "console cannot be read; trying again");
                    sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(30));
                    if *self.ended.borrow() && delay >= Duration::from_secs(30) {
                        return;
                    }
                }
            }
        }
    }

    async fn attempt(&mut self) -> io::Result<()> {
        let mut progress = ProgressFile::open(&self.control.cursor())?;
        let mut follower = Follower::open(&self.control.console_log(), progress.progress().delivered)?;
        loop {
            if self.flow.has_changed().is_err() {
                // The supervisor is gone; so is everybody who could want lines.
                return Ok(());
            }
            let flow = *self.flow.borrow_and_update();
            match flow.open {
                None => {
                    if self.wait_closed(&mut follower, &mut progress).await? {
                        return Ok(());
                    }
                }
                Some(start) => {
                    follower.seek(match start {
                        ConsoleStart::Unaccepted => progress.progress().delivered,
                        ConsoleStart::Settled => progress.progress().settled,
                    });
                    match self.hand_over(&mut follower, &mut progress).await? {
                        Pause::FlowChanged => {}
                        Pause::Finished => return Ok(()),
                    }
                }
            }
        }
    }

    /// Keeps the log bounded until consoles are wanted; returns whether to give up for good
    async fn wait_closed(
        &mut self,
        follower: &mut Follower,
        progress: &mut ProgressFile,
    ) -> io::Result<bool> {
        let mut ended_at = None;
        loop {
            follower.seek(progress.progress().delivered);
            self.shed(follower, progress).await?;
            follower.punch(progress.progress().settled, self.retention)?;
            if *self.ended.borrow() {
                let ended_at = *ended_at.get_or_insert_with(Instant::now);
                if ended_at.elapsed() > GIVE_UP {
                    return Ok(true);
                }
            }
            match timeout(HOUSEKEEPING, self.flow.changed()).await {
                Ok(Ok(())) => return Ok(false),
                Ok(Err(_)) => return Ok(true),
                Err(_) => {}
            }
        }
    }

    /// Gives up the oldest lines of a backlog that is too large, and writes down that they are gone
    async fn shed(&mut self, follower: &mut Follower, progress: &mut ProgressFile) -> io::Result<()> {
        if follower.backlog()? <= self.retention.backlog {
            return Ok(());
        }
        // Tens of megabytes are read over: not where sessions are served.
        let (path, from, retention) = (self.control.console_log(), follower.cursor(), self.retention);
        let work = tokio::task::spawn_blocking(move || {
            let mut follower = Follower::open(&path, from)?;
            let lost = follower.shed(retention)?;
            io::Result::Ok((follower.cursor(), lost))
        });
        let (cursor, lost) = work.await.map_err(io::Error::other)??;
        if lost == 0 {
            return Ok(());
        }
        follower.seek(cursor);
        progress.write(Progress {
            delivered: cursor,
            settled: cursor,
        })?;
        let instance = self.instance;
        tracing::warn!(%instance, lost, "console lines given up: they waited too long to be sent");
        self.missed = self.missed.saturating_add(lost);
        Ok(())
    }

    /// The line that stands in the gap, if there is one: under the number of the last lost line
    fn notice(&self, next: Cursor) -> Option<ConsoleLine> {
        (self.missed > 0).then(|| ConsoleLine {
            sequence: next.next_sequence.saturating_sub(1),
            text: format!(
                "[prexorcloud] {} lines of this console were dropped here",
                self.missed
            ),
            timestamp_ms: now_ms(),
        })
    }

    async fn hand_over(&mut self, follower: &mut Follower, progress: &mut ProgressFile) -> io::Result<Pause> {
        let mut settling = VecDeque::new();
        loop {
            if self.flow.has_changed().unwrap_or(true) {
                return Ok(Pause::FlowChanged);
            }
            // In this order: what is written after the watch is set wakes us, what was written before is read now, and
            // once the end is known the log is complete.
            let changed = self
                .watcher
                .as_ref()
                .and_then(|watcher| watcher.arm(&self.control.console_log()).ok());
            let ended = *self.ended.borrow();
            let mut lines = Vec::new();
            self.shed(follower, progress).await?;
            lines.extend(self.notice(follower.cursor()));
            let more = if ended {
                follower.read_to_end(now_ms(), &mut lines)?
            } else {
                follower.read(now_ms(), &mut lines)?
            };
            if !lines.is_empty() {
                if !self.offer(lines).await {
                    // Left, not taken: wait until consoles are opened anew.
                    let _ = self.flow.changed().await;
                    return Ok(Pause::FlowChanged);
                }
                self.missed = 0;
                settling.push_back((Instant::now(), follower.cursor()));
            }
            self.note(follower.cursor(), &mut settling, progress)?;
            follower.punch(progress.progress().settled, self.retention)?;
            if more {
                // Without a line there was nothing to wait for, and others want to run too.
                tokio::task::yield_now().await;
                continue;
            }
            if ended {
                let cursor = follower.cursor();
                progress.write(Progress {
                    delivered: cursor,
                    settled: cursor,
                })?;
                return Ok(Pause::Finished);
            }
            self.wait_for_more(changed).await;
        }
    }

    /// Whether the application took the lines
    async fn offer(&self, lines: Vec<ConsoleLine>) -> bool {
        let (accepted, answer) = oneshot::channel();
        let batch = ConsoleBatch {
            instance: self.instance,
            incarnation: self.incarnation,
            lines,
            accepted,
        };
        self.batches.send(batch).await.is_ok() && answer.await.is_ok()
    }

    /// Writes down how far things are; `settled` follows `delivered` after a while
    fn note(
        &self,
        delivered: Cursor,
        settling: &mut VecDeque<(Instant, Cursor)>,
        progress: &mut ProgressFile,
    ) -> io::Result<()> {
        let mut settled = progress.progress().settled;
        while let Some((since, cursor)) = settling.front().copied() {
            if since.elapsed() < self.settle {
                break;
            }
            settled = cursor;
            settling.pop_front();
        }
        // One entry per few milliseconds would do as well as one per batch, and is bounded.
        if settling.len() > 4096 {
            let mut keep = false;
            settling.retain(|_| {
                keep = !keep;
                keep
            });
        }
        progress.write(Progress { delivered, settled })
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
        tokio::select! {
            () = woken => {}
            _ = self.flow.changed() => { self.flow.mark_changed(); }
            _ = self.ended.changed() => {}
            () = sleep(HOUSEKEEPING) => {}
        }
    }
}

pub(super) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_millis()).ok())
        .unwrap_or(0)
}
