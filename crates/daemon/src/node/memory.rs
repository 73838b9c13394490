//! What the daemon remembers of controllers between its starts
//!
//! Both facts are in one file. It is written in the background, one write at a time; what is to be remembered meanwhile
//! is in the next, so that a slow disk keeps nobody waiting and is never behind by more than one write. One that failed is
//! made again after a while, until what is on disk is what is known.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prexorcloud_protocol::Epoch;
use prexorcloud_transport::Target;
use serde::{Deserialize, Serialize};

use crate::control::{read_record, write_record};

/// The most learned controllers that are believed when they are read back
const MAX_CONTROLLERS: usize = 64;

/// The pause after a write that failed: a full disk is asked again, and not all the time
const RETRY_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    highest_epoch: u64,
    #[serde(default)]
    controllers: Vec<String>,
}

/// The highest epoch that was obeyed, and the controllers that were announced
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    stored: Stored,
    /// What is on disk may be older than `stored`.
    is_due: bool,
    /// When what a failed write left undone is tried again.
    retry_at: Option<Instant>,
    is_writing: bool,
    /// The epoch whose writing somebody waits for.
    awaited: Option<Epoch>,
}

/// A write that is due
#[derive(Debug)]
pub(super) struct Write {
    path: PathBuf,
    stored: Stored,
}

/// A write that was made, or was not
#[derive(Debug)]
pub(super) struct Written {
    epoch: Epoch,
    result: io::Result<()>,
}

impl Write {
    /// Writes; waits for the disk
    pub(super) fn run(self) -> Written {
        Written {
            epoch: Epoch::new(self.stored.highest_epoch),
            result: write_record(&self.path, &self.stored),
        }
    }
}

impl Memory {
    /// Reads what there is; a file that cannot be understood is an error, because forgetting the epoch would mean to obey
    /// a deposed controller
    pub(super) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join("controllers.json");
        let stored = read_record(&path)?.unwrap_or_default();
        Ok(Self {
            path,
            stored,
            is_due: false,
            retry_at: None,
            is_writing: false,
            awaited: None,
        })
    }

    pub(super) fn highest_epoch(&self) -> Epoch {
        Epoch::new(self.stored.highest_epoch)
    }

    pub(super) fn controllers(&self) -> impl Iterator<Item = Target> + '_ {
        self.stored
            .controllers
            .iter()
            .take(MAX_CONTROLLERS)
            .filter_map(|text| text.parse().ok())
    }

    /// This epoch is obeyed from now on; [`handle_written`](Self::handle_written) says what became of it
    pub(super) fn raise_epoch(&mut self, epoch: Epoch) {
        self.stored.highest_epoch = self.stored.highest_epoch.max(epoch.get());
        self.awaited = Some(epoch);
        self.is_due = true;
    }

    pub(super) fn learn(&mut self, controllers: &[Target]) {
        self.stored.controllers = controllers.iter().map(Target::to_string).collect();
        self.is_due = true;
    }

    /// When a write that failed is due again
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.is_writing)
    }

    /// The write that is due, unless one is being made
    pub(super) fn next_write(&mut self, now: Instant) -> Option<Write> {
        let is_due = self.is_due || self.retry_at.is_some_and(|at| at <= now);
        if self.is_writing || !is_due {
            return None;
        }
        (self.is_due, self.retry_at) = (false, None);
        self.is_writing = true;
        Some(Write {
            path: self.path.clone(),
            stored: self.stored.clone(),
        })
    }

    /// A write has come to its end: gives the epoch that somebody waited for, and whether it is on disk
    ///
    /// `None` says that the write came to nothing at all.
    pub(super) fn handle_written(
        &mut self,
        now: Instant,
        written: Option<Written>,
    ) -> Option<(Epoch, io::Result<()>)> {
        self.is_writing = false;
        let Written { epoch, result } = written.unwrap_or_else(|| Written {
            epoch: Epoch::new(self.stored.highest_epoch),
            result: Err(io::Error::other(
                "internal error of the daemon; its log says more",
            )),
        });
        if let Err(error) = &result {
            tracing::error!(%error, again_after = RETRY_AFTER.as_secs(), "the controllers and their epoch cannot be written down");
            self.retry_at = Some(now + RETRY_AFTER);
        }
        let awaited = self.awaited.take_if(|awaited| *awaited <= epoch)?;
        Some((awaited, result))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn write(memory: &mut Memory) -> Option<(Epoch, io::Result<()>)> {
        write_at(Instant::now(), memory)
    }

    fn write_at(now: Instant, memory: &mut Memory) -> Option<(Epoch, io::Result<()>)> {
        let written = memory.next_write(now).unwrap().run();
        memory.handle_written(now, Some(written))
    }

    #[test]
    fn epoch_and_controllers_survive_and_the_epoch_never_falls() {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(folder.path()).unwrap();
        for epoch in [7, 5] {
            memory.raise_epoch(Epoch::new(epoch));
            let (awaited, result) = write(&mut memory).unwrap();
            assert_eq!(awaited, Epoch::new(epoch));
            result.unwrap();
        }
        memory.learn(&["ctrl-2:9090".parse().unwrap()]);
        assert!(write(&mut memory).is_none());
        let memory = Memory::open(folder.path()).unwrap();
        assert_eq!(memory.highest_epoch(), Epoch::new(7));
        let controllers: Vec<String> = memory.controllers().map(|target| target.to_string()).collect();
        assert_eq!(controllers, ["ctrl-2:9090"]);
        std::fs::write(folder.path().join("controllers.json"), "{").unwrap();
        assert!(Memory::open(folder.path()).is_err());
    }

    #[test]
    fn what_is_raised_during_a_write_is_in_the_next_one_and_answered_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(folder.path()).unwrap();
        memory.learn(&["ctrl-2:9090".parse().unwrap()]);
        let first = memory.next_write(Instant::now()).unwrap();
        memory.raise_epoch(Epoch::new(7));
        assert!(memory.next_write(Instant::now()).is_none());
        assert!(memory.handle_written(Instant::now(), Some(first.run())).is_none());
        let (awaited, result) = write(&mut memory).unwrap();
        assert_eq!(awaited, Epoch::new(7));
        result.unwrap();
        assert!(memory.next_write(Instant::now()).is_none());
        assert_eq!(
            Memory::open(folder.path()).unwrap().highest_epoch(),
            Epoch::new(7)
        );
    }

    #[test]
    fn a_write_that_fails_is_said_and_made_again_when_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(folder.path()).unwrap();
        let in_the_way = folder.path().join("controllers.json.new");
        std::fs::create_dir(&in_the_way).unwrap();
        memory.raise_epoch(Epoch::new(7));
        assert!(write(&mut memory).unwrap().1.is_err());
        assert!(memory.next_write(Instant::now()).is_none());
        memory.raise_epoch(Epoch::new(7));
        assert!(memory.next_write(Instant::now()).is_some());
        assert!(memory.handle_written(Instant::now(), None).unwrap().1.is_err());
        std::fs::remove_dir(&in_the_way).unwrap();
        memory.raise_epoch(Epoch::new(7));
        write(&mut memory).unwrap().1.unwrap();
    }

    #[test]
    fn learned_controllers_are_written_again_after_a_write_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(folder.path()).unwrap();
        let in_the_way = folder.path().join("controllers.json.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let now = Instant::now();
        memory.learn(&["ctrl-2:9090".parse().unwrap()]);
        assert!(write_at(now, &mut memory).is_none(), "nobody waits for it");
        assert!(memory.next_write(now).is_none(), "not at once");
        assert_eq!(memory.retry_at(), Some(now + RETRY_AFTER));
        write_at(now + RETRY_AFTER, &mut memory);
        assert_eq!(memory.retry_at(), Some(now + 2 * RETRY_AFTER), "it failed again");
        std::fs::remove_dir(&in_the_way).unwrap();
        write_at(now + 2 * RETRY_AFTER, &mut memory);
        assert_eq!(memory.retry_at(), None);
        let memory = Memory::open(folder.path()).unwrap();
        assert_eq!(memory.controllers().count(), 1);
    }
}
