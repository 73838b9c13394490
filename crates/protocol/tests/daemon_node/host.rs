//! A session and a node with simulated processes below them: the I/O of a daemon, and what must hold about it

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::{Hosted, Observed};
use prexorcloud_protocol::node::daemon::{
    Attempt, DaemonNode, DaemonNodeConfig, DaemonWork, Exit, LaunchFailure, Prepared, StopReason,
};
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::{
    ControllerMessage, CrashReport, HandshakeAck, StartFailureDisposition, StartInstance,
};
use prexorcloud_protocol::{
    Capabilities, DaemonConfig, DaemonEvent, DaemonSession, Epoch, Incarnation, InstanceId, SendError,
    Session as _, StopMode,
};
use prexorcloud_testkit::Clock;

use crate::world::rejection;

/// How many ids there are.
pub const IDS: u64 = 4;

type Start = (InstanceId, Incarnation);

pub fn id(number: u64) -> InstanceId {
    format!("i-{number}").parse().unwrap()
}

/// How a controller admits the daemon, with the fence unmoved.
pub fn acknowledgement(capabilities: Capabilities) -> FromController {
    FromController::HandshakeAck(Box::new(HandshakeAck {
        session_id: "s".into(),
        heartbeat_interval_ms: 30_000,
        protocol_version: 1,
        protocol_compatible: true,
        capabilities: capabilities.to_wire(),
        ..HandshakeAck::default()
    }))
}

pub fn start(number: u64, incarnation: u64, port: i32) -> FromController {
    FromController::StartInstance(Box::new(StartInstance {
        instance_id: id(number).into(),
        group: "lobby".into(),
        port,
        incarnation,
        ..StartInstance::default()
    }))
}

/// What a daemon is, machines and surroundings
pub struct Host {
    clock: Clock,
    elapsed: Duration,
    pub session: DaemonSession,
    pub node: DaemonNode<()>,
    /// Each with the port that it was ordered with.
    preparing: Vec<(Attempt, u16)>,
    launching: Vec<Attempt>,
    /// Whether each is being stopped.
    processes: BTreeMap<InstanceId, (Incarnation, bool)>,
    spooling: Vec<Start>,
    settling: Vec<Start>,
    /// Ends that are not let go of.
    ended: BTreeSet<Start>,
    /// The crash reports on disk.
    kept: BTreeMap<String, CrashReport>,
    exits: u64,
    /// The epoch on disk.
    epoch: Epoch,
    /// The newest epoch that was to be written.
    raised: Epoch,
    /// The epoch that is being written.
    writing: Option<Epoch>,
    /// How many writes of an epoch were asked for.
    pub writes: u32,
    pub sent: Vec<FromDaemon>,
    /// The lines that reached an instance.
    pub commands: Vec<String>,
}

impl Host {
    pub fn new() -> Self {
        let config = DaemonConfig::new("node-1".parse().unwrap(), "1.0.0");
        Self {
            clock: Clock::new(),
            elapsed: Duration::ZERO,
            session: DaemonSession::new(config, Hosted::new(), EpochFence::default()),
            node: DaemonNode::new(DaemonNodeConfig::default()),
            preparing: Vec::new(),
            launching: Vec::new(),
            processes: BTreeMap::new(),
            spooling: Vec::new(),
            settling: Vec::new(),
            ended: BTreeSet::new(),
            kept: BTreeMap::new(),
            exits: 0,
            epoch: Epoch::UNFENCED,
            raised: Epoch::UNFENCED,
            writing: None,
            writes: 0,
            sent: Vec::new(),
            commands: Vec::new(),
        }
    }

    pub fn now(&self) -> Instant {
        self.clock.at(self.elapsed)
    }

    pub fn connect(&mut self) {
        self.session.handle_connected(self.now());
        self.settle_down();
    }

    pub fn disconnect(&mut self) {
        self.session.handle_disconnected(self.now());
        self.settle_down();
    }

    pub fn receive(&mut self, payload: FromController, epoch: u64) {
        let message = ControllerMessage {
            payload: Some(payload),
            epoch,
            ..ControllerMessage::default()
        };
        self.session.handle_message(self.now(), message.into());
        self.settle_down();
    }

    pub fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        let now = self.now();
        self.session.handle_timeout(now);
        self.node.handle_timeout(now);
        self.settle_down();
        let deadline = self.node.poll_timeout();
        assert!(
            deadline.is_none_or(|deadline| deadline.at > now),
            "no_deadline_is_in_the_past"
        );
    }

    pub const fn preparing(&self) -> usize {
        self.preparing.len()
    }

    pub const fn launching(&self) -> usize {
        self.launching.len()
    }

    pub fn prepared(&mut self, index: usize, succeeds: bool) {
        let (attempt, port) = self.preparing.remove(index);
        let now = self.now();
        if succeeds {
            let prepared = Prepared {
                port,
                grace: Duration::from_secs(3),
                startup_timeout: Duration::from_secs(5),
                launch: (),
            };
            self.node.handle_prepared(now, attempt, prepared);
        } else {
            self.node.handle_preparation_failed(now, attempt, rejection());
        }
        self.settle_down();
    }

    pub fn launched(&mut self, index: usize, succeeds: bool) {
        let attempt = self.launching.remove(index);
        let now = self.now();
        if succeeds {
            let process = (attempt.incarnation(), false);
            self.processes.insert(attempt.instance(), process);
            self.node.handle_launched(now, attempt);
        } else {
            let failure = LaunchFailure {
                message: "no such file".into(),
                disposition: StartFailureDisposition::Transient,
            };
            self.node.handle_launch_failed(now, attempt, failure);
        }
        self.settle_down();
    }

    pub fn ready(&mut self, instance: InstanceId) {
        if let Some((incarnation, false)) = self.processes.get(&instance).copied() {
            self.node.handle_ready(self.now(), instance, incarnation);
            self.settle_down();
        }
    }

    pub fn exits(&mut self, instance: InstanceId, code: i32) {
        let Some((incarnation, _)) = self.processes.remove(&instance) else {
            return;
        };
        self.exits += 1;
        self.ended.insert((instance, incarnation));
        let exit = Exit {
            instance,
            group: "lobby".parse().unwrap(),
            incarnation,
            code,
            stopped_for: None,
            uptime: Duration::from_secs(1),
            report_id: format!("report-{}", self.exits),
            log_tail: Vec::new(),
        };
        self.node.handle_exited(self.now(), exit);
        self.settle_down();
    }

    /// The oldest report is written, or cannot be.
    pub fn spooled(&mut self, succeeds: bool) {
        if self.spooling.is_empty() {
            return;
        }
        let (instance, incarnation) = self.spooling.remove(0);
        let now = self.now();
        if succeeds {
            self.node.handle_spooled(now, instance, incarnation);
        } else {
            self.node.handle_spool_failed(now, instance, incarnation);
        }
        self.settle_down();
    }

    /// The oldest end is let go of.
    pub fn settled(&mut self) {
        if self.settling.is_empty() {
            return;
        }
        let start = self.settling.remove(0);
        self.ended.remove(&start);
        self.node.handle_settled(self.now(), start.0, start.1);
        self.settle_down();
    }

    /// The epoch is written, or cannot be.
    pub fn epoch_written(&mut self, succeeds: bool) {
        let Some(epoch) = self.writing.take() else {
            return;
        };
        if succeeds {
            self.epoch = epoch;
            self.session.fence_written(epoch);
        } else {
            self.session.fence_not_written(epoch, "the disk is full");
        }
        self.settle_down();
    }

    /// Everything that was begun succeeds, and what is being stopped ends.
    pub fn finish_everything(&mut self) {
        while self.writing.is_some() {
            self.epoch_written(true);
        }
        while self.preparing() > 0 {
            self.prepared(0, true);
        }
        while self.launching() > 0 {
            self.launched(0, true);
        }
        for number in 0..IDS {
            if let Some((_, true)) = self.processes.get(&id(number)) {
                self.exits(id(number), 0);
            }
        }
        while !self.spooling.is_empty() {
            self.spooled(true);
        }
        while !self.settling.is_empty() {
            self.settled();
        }
    }

    /// What must hold once everything has been answered.
    pub fn check_at_rest(&self) {
        let live: BTreeSet<_> = self
            .session
            .hosted()
            .live()
            .map(|facts| (facts.instance, facts.incarnation))
            .collect();
        let running: BTreeSet<_> = self
            .processes
            .iter()
            .map(|(instance, (incarnation, _))| (*instance, *incarnation))
            .collect();
        assert_eq!(live, running, "the_table_is_what_runs");
        assert_eq!(self.node.running(), running.len(), "the_node_knows_what_runs");
        assert_eq!(self.ended, BTreeSet::new(), "every_end_is_let_go_of");
        assert_eq!(self.kept, BTreeMap::new(), "every_crash_is_confirmed");
    }

    /// Carries out what the machines say until they have nothing more to say.
    fn settle_down(&mut self) {
        for _ in 0..10_000 {
            let mut is_at_rest = true;
            while let Some(event) = self.session.poll_event() {
                is_at_rest = false;
                self.handle_event(event);
            }
            while let Some(work) = self.node.poll_work() {
                is_at_rest = false;
                self.perform(work);
            }
            while let Some(message) = self.session.poll_transmit() {
                is_at_rest = false;
                self.sent.extend(message.payload);
            }
            if is_at_rest {
                return;
            }
        }
        panic!("the machines come to rest");
    }

    fn handle_event(&mut self, event: DaemonEvent) {
        let is_command = matches!(
            event,
            DaemonEvent::Start(_)
                | DaemonEvent::Stop { .. }
                | DaemonEvent::Command { .. }
                | DaemonEvent::Shutdown { .. }
                | DaemonEvent::InstallModule { .. }
                | DaemonEvent::UninstallModule { .. }
                | DaemonEvent::Request(_)
        );
        assert!(
            !is_command || self.epoch >= self.raised,
            "an_epoch_is_written_before_it_is_obeyed: {event:?}"
        );
        let now = self.now();
        match self.node.handle_event(now, event) {
            Some(DaemonEvent::FenceRaised(epoch)) => {
                let other = self.writing.replace(epoch);
                assert_eq!(other, None, "one_epoch_is_written_at_a_time");
                self.raised = epoch;
                self.writes += 1;
            }
            Some(DaemonEvent::Command { line, .. }) => self.commands.push(line),
            _ => {}
        }
    }

    fn perform(&mut self, work: DaemonWork<()>) {
        let now = self.now();
        match work {
            DaemonWork::Prepare { attempt, start, .. } => {
                let port = u16::try_from(start.port).unwrap();
                self.preparing.push((attempt, port));
            }
            DaemonWork::CancelPreparation { attempt } => {
                self.preparing.retain(|(other, _)| *other != attempt)
            }
            DaemonWork::Launch { attempt, .. } => {
                let instance = attempt.instance();
                let is_that = |other: &Attempt| other.instance() == instance;
                assert!(!self.processes.contains_key(&instance), "one_process_per_id");
                assert!(!self.launching.iter().any(is_that), "one_process_per_id");
                assert!(
                    !self.ended.iter().any(|(ended, _)| *ended == instance),
                    "an_id_is_free_before_it_is_launched"
                );
                self.launching.push(attempt);
            }
            DaemonWork::Stop {
                instance,
                incarnation,
                mode,
            } => self.stop(instance, incarnation, mode),
            DaemonWork::Spool {
                instance,
                incarnation,
                ..
            } => self.spooling.push((instance, incarnation)),
            DaemonWork::Report(report) => {
                let observed = self.session.report(&report);
                assert!(
                    !matches!(observed, Observed::Illegal { .. }),
                    "every_report_is_legal: {report:?} {observed:?}"
                );
                if report.state.is_terminal() && observed == Observed::Stale {
                    self.node.handle_end_heard(report.instance, report.incarnation);
                }
            }
            DaemonWork::AcceptStart {
                instance,
                incarnation,
                plan_hash,
            } => self.session.start_accepted(instance, incarnation, plan_hash),
            DaemonWork::RejectStart {
                instance,
                incarnation,
                rejection,
            } => {
                let current = self.processes.get(&instance).map(|process| process.0);
                assert_ne!(current, Some(incarnation), "a_rejection_never_touches_what_is_up");
                self.session.start_rejected(instance, incarnation, rejection);
            }
            DaemonWork::AcknowledgeStop {
                instance,
                incarnation,
                result,
            } => self.session.stop_acknowledged(instance, incarnation, result),
            DaemonWork::TellCrash { report, .. } => {
                self.kept
                    .insert(report.report_id.clone(), CrashReport::clone(&report));
                self.tell_crash(CrashReport::clone(&report));
            }
            DaemonWork::TellSpooledCrashes => {
                let kept: Vec<_> = self.kept.values().cloned().collect();
                kept.into_iter().for_each(|report| self.tell_crash(report));
            }
            DaemonWork::ForgetCrash { report_id } => {
                self.kept.remove(&report_id);
            }
            DaemonWork::Settle {
                instance,
                incarnation,
            } => {
                let start = (instance, incarnation);
                if !self.ended.contains(&start) {
                    self.node.handle_settled(now, instance, incarnation);
                } else if !self.settling.contains(&start) {
                    self.settling.push(start);
                }
            }
            DaemonWork::AcknowledgeShutdown {
                running,
                estimated_drain,
            } => self.session.acknowledge_shutdown(running, estimated_drain),
            DaemonWork::Finish { .. } => {}
        }
    }

    fn stop(&mut self, instance: InstanceId, incarnation: Incarnation, _mode: StopMode) {
        let now = self.now();
        match self.processes.get_mut(&instance) {
            Some((current, is_stopping)) if *current == incarnation => {
                if !std::mem::replace(is_stopping, true) {
                    let reason = StopReason::Requested;
                    self.node.handle_stopping(now, instance, incarnation, reason);
                }
            }
            _ => self.node.handle_stop_failed(now, instance, incarnation),
        }
    }

    fn tell_crash(&mut self, report: CrashReport) {
        if let Err(SendError::Full(_)) = self.session.crash(report) {
            self.node.handle_crash_refused();
        }
    }
}
