//! One console log, from where its lines are not known to have arrived

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use prexorcloud_protocol::InstanceId;

use super::notices::Notices;
use crate::console::{ConsoleLine, Cursor, Follower, Progress, ProgressFile, Retention};
use crate::control::ControlDir;

use crate::wall_clock::now_ms;

/// The most places that are kept between what has arrived and what was handed over
const SETTLING: usize = 4096;

const CUT: &str = "the log of this console was cut by somebody else; it goes on from its new beginning";
const REPLACED: &str = "the log of this console was replaced by somebody else; it goes on with the new one";

pub(super) struct Reading {
    instance: InstanceId,
    path: PathBuf,
    retention: Retention,
    follower: Follower,
    progress: ProgressFile,
    /// Places behind what was handed over, oldest first; the first is the next to be settled
    settling: VecDeque<Cursor>,
    is_replaced: bool,
}

impl Reading {
    pub(super) fn open(
        instance: InstanceId,
        control: &ControlDir,
        retention: Retention,
        notices: &mut Notices,
    ) -> io::Result<Self> {
        let path = control.console_log();
        let mut progress = ProgressFile::open(&control.cursor())?;
        let follower = Follower::open(&path, progress.progress().delivered)?;
        let is_another = progress.reads(follower.inode()?)?;
        let mut reading = Self {
            instance,
            path,
            retention,
            follower,
            progress,
            settling: VecDeque::new(),
            is_replaced: false,
        };
        if is_another {
            reading.restart(notices, REPLACED)?;
        }
        Ok(reading)
    }

    /// Goes back to where lines are not known to have arrived; gives how many were handed over from there on
    pub(super) fn rewind(&mut self) -> u64 {
        let Progress { delivered, settled } = self.progress.progress();
        self.follower.seek(settled);
        self.settling.clear();
        delivered.next_sequence.saturating_sub(settled.next_sequence)
    }

    /// The number of the last line before the present place
    pub(super) fn last(&self) -> u64 {
        self.follower.cursor().next_sequence.saturating_sub(1)
    }

    /// Whether everything before the present place has arrived
    pub(super) fn is_settled(&self) -> bool {
        let settled = self.progress.progress().settled;
        settled.next_sequence >= self.follower.cursor().next_sequence
    }

    /// Looks whether the log is still what it was, and keeps it within its bounds; one that lost its name is kept for the
    /// tail of a report
    pub(super) async fn look_after(
        &mut self,
        notices: &mut Notices,
        nameless: &OnceLock<File>,
    ) -> io::Result<()> {
        if self.follower.is_cut()? {
            self.restart(notices, CUT)?;
        }
        if !self.is_replaced && self.follower.is_replaced(&self.path)? {
            // The instance writes to the old one, wherever that is now, so there is nothing to be had from the new.
            let _kept_before = nameless.set(self.follower.file()?);
            self.is_replaced = true;
            let (instance, path) = (self.instance, self.path.display());
            tracing::warn!(%instance, %path,
                "somebody removed or replaced the console log; the old one is followed until the daemon ends");
        }
        self.shed(notices).await?;
        self.follower
            .punch(self.progress.progress().settled, self.retention)?;
        Ok(())
    }

    fn restart(&mut self, notices: &mut Notices, why: &'static str) -> io::Result<()> {
        let sequence = self.follower.restart();
        notices.begun(sequence, why);
        tracing::warn!(instance = %self.instance, "{why}");
        self.give_up_former()
    }

    /// Gives up the oldest lines of a backlog that is too large, and writes down that they are gone
    async fn shed(&mut self, notices: &mut Notices) -> io::Result<()> {
        if self.follower.backlog()? <= self.retention.backlog {
            return Ok(());
        }
        // Tens of megabytes are read over: not where sessions are served.
        let (mut follower, retention) = (self.follower.try_clone()?, self.retention);
        let work = tokio::task::spawn_blocking(move || {
            let shed = follower.shed(retention)?;
            io::Result::Ok((follower.cursor(), shed))
        });
        let (cursor, shed) = work.await.map_err(io::Error::other)??;
        if shed.is_nothing() {
            return Ok(());
        }
        self.follower.seek(cursor);
        tracing::warn!(instance = %self.instance, lines = shed.lines, uncounted_bytes = shed.uncounted_bytes,
            "console lines given up: they waited too long to be sent");
        notices.dropped(self.last(), shed);
        self.give_up_former()
    }

    /// What stands before the present place is gone from disk, arrived or not.
    fn give_up_former(&mut self) -> io::Result<()> {
        self.settling.clear();
        let here = self.follower.cursor();
        self.progress.write(Progress {
            delivered: here,
            settled: here,
        })
    }

    /// The next lines; returns whether more can be read at once
    pub(super) fn read(&mut self, is_complete: bool, lines: &mut Vec<ConsoleLine>) -> io::Result<bool> {
        match is_complete {
            true => self.follower.read_to_end(now_ms(), lines),
            false => self.follower.read(now_ms(), lines),
        }
    }

    /// What was read was handed over
    pub(super) fn handed_over(&mut self) -> io::Result<()> {
        let here = self.follower.cursor();
        self.settling.push_back(here);
        if self.settling.len() > SETTLING {
            // Every other place does as well, but the last must stay.
            let mut keep = self.settling.len().is_multiple_of(2);
            self.settling.retain(|_| {
                keep = !keep;
                keep
            });
        }
        let mut settled = self.progress.progress().settled;
        // What is on its way is kept like what waits, and no longer.
        while here.offset.saturating_sub(settled.offset) > self.retention.backlog
            && let Some(next) = self.settling.pop_front()
        {
            settled = next;
        }
        self.progress.write(Progress {
            delivered: here,
            settled,
        })
    }

    /// Every line up to this number has arrived
    pub(super) fn arrived(&mut self, sequence: u64) -> io::Result<()> {
        let Progress {
            delivered,
            mut settled,
        } = self.progress.progress();
        while let Some(next) = self
            .settling
            .pop_front_if(|next| next.next_sequence.saturating_sub(1) <= sequence)
        {
            settled = next;
        }
        self.progress.write(Progress { delivered, settled })
    }
}
