//! What outlives a simulated daemon, and what is remembered for the invariants

use std::collections::BTreeMap;

use prexorcloud_protocol::proto::CrashReport;
use prexorcloud_protocol::{DaemonOutcome, Epoch, Incarnation, InstanceId};

use super::Process;

/// What survives `kill -9`
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The highest epoch that was obeyed.
    pub epoch: Epoch,
    /// Every process that was ever launched, in that order.
    pub processes: Vec<Process>,
    /// Crash reports that no controller has confirmed, by their id.
    pub spool: BTreeMap<String, CrashReport>,
    /// Nothing more can be written into the spool.
    pub is_full: bool,
    pub(super) attempts: BTreeMap<(InstanceId, Incarnation), u32>,
}

impl Disk {
    /// The live process of this very start.
    pub(super) fn live_mut(&mut self, start: (InstanceId, Incarnation)) -> Option<&mut Process> {
        self.newest(start).filter(|process| process.is_live())
    }

    pub(super) fn settle(&mut self, start: (InstanceId, Incarnation)) {
        if let Some(process) = self.newest(start) {
            process.is_settled = true;
        }
    }

    /// Java controllers number nothing, so starts of an id can agree; the last one is meant.
    fn newest(&mut self, (instance, incarnation): (InstanceId, Incarnation)) -> Option<&mut Process> {
        let is_meant =
            |process: &&mut Process| process.instance == instance && process.incarnation == incarnation;
        self.processes.iter_mut().rev().find(is_meant)
    }
}

/// What the host remembers for the invariants
#[derive(Clone, Debug, Default)]
pub struct DaemonFacts {
    /// Every process that was launched, in order.
    pub launches: Vec<(InstanceId, Incarnation)>,
    /// Every crash report that was made.
    pub crashes: Vec<CrashReport>,
    /// How often a crash report was made; the end of a process is told again after a restart, until it was heard.
    pub reported: usize,
    /// The reports that the daemon was told to forget.
    pub forgotten: Vec<String>,
    /// How often a stream was opened.
    pub connects: u64,
    /// How often the end of a stream was told.
    pub disconnects: u64,
    /// How the last stream ended.
    pub last_outcome: Option<DaemonOutcome>,
    /// The commands that reached a process.
    pub commands: Vec<(InstanceId, String)>,
    /// Orders that were carried out although a newer controller had been obeyed before.
    pub obeyed_stale: Vec<String>,
    /// The stops that were ordered.
    pub stops: Vec<(InstanceId, Incarnation)>,
    /// How many mistakes of the controller were ignored.
    pub ignored: u64,
    /// Reports of the node that the session did not believe.
    pub disbelieved: Vec<String>,
    /// Starts that were rejected although their process is up.
    pub rejected_live: Vec<String>,
    /// Machines that wanted to be woken at a moment that had passed, right after they were woken.
    pub busy_timers: Vec<String>,
}
