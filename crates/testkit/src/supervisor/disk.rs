//! What outlives a simulated daemon

use std::collections::BTreeMap;
use std::time::Duration;

use prexorcloud_protocol::proto::{CrashReport, StartFailureDisposition, StartPreparationStage};
use prexorcloud_protocol::session::daemon::StartRejection;
use prexorcloud_protocol::{Epoch, Incarnation, InstanceId};

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
    /// Until when nothing can be written.
    pub fails_until: Duration,
    attempts: BTreeMap<(InstanceId, Incarnation), u32>,
}

impl Disk {
    /// Whether nothing can be written now.
    #[must_use]
    pub fn is_failing(&self, now: Duration) -> bool {
        self.fails_until > now
    }

    /// Writes down which epoch is obeyed, if that is possible now.
    pub(crate) fn write_epoch(&mut self, now: Duration, epoch: Epoch) -> bool {
        let can_write = !self.is_failing(now);
        if can_write {
            self.epoch = epoch;
        }
        can_write
    }

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

    /// Why this attempt to prepare a process fails, if its script says so.
    pub(super) fn preparation_failure(&mut self, process: &Process) -> Option<StartRejection> {
        let attempt = self
            .attempts
            .entry((process.instance, process.incarnation))
            .or_default();
        *attempt += 1;
        let disposition = if process.behaviour.refuse {
            StartFailureDisposition::Permanent
        } else if *attempt <= process.behaviour.transient_failures {
            StartFailureDisposition::Transient
        } else {
            return None;
        };
        Some(StartRejection {
            stage: StartPreparationStage::RuntimeProvision,
            error_code: "RUNTIME_PROVISION_FAILED".to_owned(),
            message: "the script says so".to_owned(),
            disposition,
            retry_after: Duration::from_secs(2),
            plan_hash: String::new(),
        })
    }
}
