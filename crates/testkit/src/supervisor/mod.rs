//! The simulated supervisor of processes, the preparer and the disk of a daemon's host
//!
//! It does what a [`DaemonNode`] wants done and tells it what happens; nothing is decided here. Processes and the disk
//! survive when the daemon is killed.

mod disk;
mod process;

use std::time::Duration;

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::{Hosted, HostedInstance};
use prexorcloud_protocol::node::daemon::{Attempt, DaemonNode, DaemonNodeConfig, DaemonWork, StopReason};
use prexorcloud_protocol::proto::{ConsoleOutput, CrashReport, NodeStatus, daemon_message};
use prexorcloud_protocol::{DaemonConfig, DaemonSession, InstanceId, StopMode};

pub use disk::Disk;
pub use process::Process;

use crate::action::Action;
use crate::dialect::Plugins;
use crate::scenario::Peers;
use crate::side::{Effect, NoEffect};
use crate::world::Turn;
use process::{Due, End};

/// The daemon's node machine, as the simulation launches things with it.
pub(crate) type Node = DaemonNode<Box<Process>>;

/// The processes of a simulated host, and what its daemon has on disk
#[derive(Clone, Debug)]
pub struct Supervisor {
    /// What survives the daemon.
    pub disk: Disk,
    preparing: Vec<(Attempt, Process)>,
    /// Set if plugins speak to the controller themselves: past a Java daemon, and to a plain controller.
    plugins: Option<Plugins>,
    /// The daemon plays a Java daemon.
    is_java: bool,
}

impl Supervisor {
    pub(crate) fn new(peers: Peers) -> Self {
        let is_java = peers.has_java_daemon();
        let has_plugins = is_java || peers == Peers::PlainController;
        Self {
            disk: Disk::default(),
            preparing: Vec::new(),
            plugins: has_plugins.then(Plugins::default),
            is_java,
        }
    }

    /// The processes, and behind them what is in the making.
    fn all(&self) -> impl DoubleEndedIterator<Item = &Process> {
        let preparing = self.preparing.iter().map(|(_, process)| process);
        self.disk.processes.iter().chain(preparing)
    }

    /// The live process of an instance, the newest if there are several.
    #[must_use]
    pub fn process(&self, instance: InstanceId) -> Option<&Process> {
        self.live().filter(|process| process.instance == instance).last()
    }

    /// The last process of an instance, alive or not.
    #[must_use]
    pub fn last_process(&self, instance: InstanceId) -> Option<&Process> {
        self.all().rev().find(|process| process.instance == instance)
    }

    /// The processes that are alive, or in the making.
    pub fn live(&self) -> impl Iterator<Item = &Process> {
        self.all().filter(|process| process.is_live())
    }

    /// The instances whose plugin has something to say to the controller, past a Java daemon.
    pub(crate) fn ready_instances(&self) -> Vec<InstanceId> {
        let is_running = |instance: InstanceId| {
            self.process(instance)
                .is_some_and(|process| process.state == prexorcloud_protocol::instance::State::Running)
        };
        self.plugins
            .as_ref()
            .map(|plugins| plugins.talking(is_running))
            .unwrap_or_default()
    }

    pub(crate) fn next_wake(&self, daemon_is_up: bool) -> Option<Duration> {
        let processes = self.all().filter_map(|process| process.next(daemon_is_up));
        processes.map(|(at, _)| at).min()
    }

    /// Lets one thing happen that is due, tells the machine if there is one, and says whether anything was due.
    pub(crate) fn handle_wake(
        &mut self,
        turn: &mut Turn<'_>,
        daemon: Option<(&mut DaemonSession, &mut Node)>,
    ) -> bool {
        match daemon {
            Some((session, node)) => {
                self.handle_preparations(turn, node) || self.handle_processes(turn, Some((session, node)))
            }
            None => self.handle_processes(turn, None),
        }
    }

    fn handle_preparations(&mut self, turn: &mut Turn<'_>, node: &mut Node) -> bool {
        let moment = turn.moment();
        let is_due =
            |(_, process): &(Attempt, Process)| process.next(true).is_some_and(|(at, _)| at <= moment);
        let Some(index) = self.preparing.iter().position(is_due) else {
            return false;
        };
        let (attempt, process) = self.preparing.remove(index);
        match self.disk.preparation_failure(&process) {
            Some(rejection) => {
                turn.note(|| format!("{}#{} cannot be prepared", process.instance, process.incarnation));
                node.handle_preparation_failed(turn.now, attempt, rejection);
            }
            None => node.handle_prepared(turn.now, attempt, process.prepared()),
        }
        true
    }

    fn handle_processes(
        &mut self,
        turn: &mut Turn<'_>,
        daemon: Option<(&mut DaemonSession, &mut Node)>,
    ) -> bool {
        let (now, moment) = (turn.now, turn.moment());
        let up = daemon.is_some();
        let mut processes = self.disk.processes.iter_mut().enumerate();
        let due = processes.find_map(|(index, process)| {
            let (at, due) = process.next(up)?;
            (at <= moment).then_some((index, process, due))
        });
        let Some((index, process, due)) = due else {
            return false;
        };
        let (instance, incarnation) = (process.instance, process.incarnation);
        match due {
            Due::Prepared => {}
            Due::Ready => {
                turn.note(|| format!("{instance}#{incarnation} is ready"));
                let plugins = self.plugins.as_mut().filter(|_| !process.behaviour.bare);
                // One whose plugin tells a plain controller has a console that says nothing.
                let is_heard = self.is_java || plugins.is_none();
                process.become_ready(moment, is_heard);
                if let Some(plugins) = plugins {
                    plugins.ready(instance);
                }
                match daemon.filter(|_| is_heard) {
                    Some((session, _)) if self.is_java => session.console(process.ready_line()),
                    Some((_, node)) => node.handle_ready(now, instance, incarnation),
                    None => {}
                }
            }
            Due::Overdue(reason) => {
                turn.note(|| format!("{instance}#{incarnation} is stopped: {reason:?}"));
                process.ask(moment, StopMode::Graceful, reason);
                if let Some((_, node)) = daemon {
                    node.handle_stopping(now, instance, incarnation, reason);
                }
            }
            Due::Line => {
                process.write_line(moment);
                if let Some((session, _)) = daemon {
                    forward(process, session);
                }
            }
            Due::Ended(end) => {
                process.end(moment, end);
                turn.note(|| format!("{instance}#{incarnation} ends: {end:?}"));
                if let Some((_, node)) = daemon {
                    node.handle_exited(now, process.exit(index + 1));
                }
            }
        }
        true
    }

    /// Does what the machine wants and no session does.
    pub(crate) fn perform(
        &mut self,
        turn: &mut Turn<'_>,
        work: DaemonWork<Box<Process>>,
        session: &mut DaemonSession,
        node: &mut Node,
    ) {
        let (now, moment) = (turn.now, turn.moment());
        match work {
            DaemonWork::Prepare {
                attempt,
                start,
                limits,
            } => {
                let ordered = Process::ordered(moment, attempt, &start, limits);
                self.preparing.extend(ordered.map(|process| (attempt, process)));
            }
            DaemonWork::CancelPreparation { attempt } => {
                self.preparing.retain(|(other, _)| *other != attempt);
            }
            DaemonWork::Launch { attempt, mut launch } => {
                launch.launch(moment, !self.is_java);
                self.disk.processes.push(*launch);
                node.handle_launched(now, attempt);
            }
            DaemonWork::Stop {
                instance,
                incarnation,
                mode,
            } => match self.disk.live_mut((instance, incarnation)) {
                Some(process) => {
                    if process.ask(moment, mode, StopReason::Requested) {
                        node.handle_stopping(now, instance, incarnation, StopReason::Requested);
                    }
                }
                None => node.handle_stop_failed(now, instance, incarnation),
            },
            DaemonWork::Spool {
                instance,
                incarnation,
                ..
            } if self.disk.is_failing(moment) => node.handle_spool_failed(now, instance, incarnation),
            DaemonWork::Spool {
                instance,
                incarnation,
                report,
            } => {
                let (id, report) = (report.report_id.clone(), CrashReport::clone(&report));
                self.disk.spool.insert(id, report);
                node.handle_spooled(now, instance, incarnation);
            }
            DaemonWork::TellSpooledCrashes => self.tell_spooled(session, node),
            DaemonWork::ForgetCrash { report_id } => {
                self.disk.spool.remove(&report_id);
            }
            DaemonWork::Settle {
                instance,
                incarnation,
            } => {
                self.disk.settle((instance, incarnation));
                node.handle_settled(now, instance, incarnation);
            }
            other => turn.note(|| format!("nobody does {other:?}")),
        }
    }

    fn tell_spooled(&self, session: &mut DaemonSession, node: &mut Node) {
        for report in self.disk.spool.values() {
            // What does not fit is told when there is room.
            let _ = node.tell_crash(session, report.clone());
        }
    }

    /// The machines of a daemon that starts: what its disk tells is adopted. Gives what the session refuses, too.
    pub(crate) fn start_daemon(
        &mut self,
        turn: &Turn<'_>,
        config: DaemonConfig,
    ) -> (DaemonSession, Node, Vec<String>) {
        let mut session = DaemonSession::new(config, Hosted::new(), EpochFence::new(self.disk.epoch));
        let mut node = DaemonNode::new(DaemonNodeConfig::default());
        let mut faults = Vec::new();
        let unsettled = |(_, process): &(usize, &Process)| !process.is_settled;
        for (index, process) in self.disk.processes.iter().enumerate().filter(unsettled) {
            let adopted = session.adopt(HostedInstance {
                instance: process.instance,
                group: process.group,
                incarnation: process.incarnation,
                port: process.port,
                state: process.found(),
            });
            let fault = |reason| format!("{} cannot be adopted: {reason}", process.instance);
            faults.extend(adopted.err().map(fault));
            node.adopt(turn.now, &process.adopted(turn.moment()));
            if !process.is_live() {
                node.handle_exited(turn.now, process.exit(index + 1));
            }
        }
        self.tell_spooled(&mut session, &mut node);
        for process in &mut self.disk.processes {
            forward(process, &mut session);
        }
        (session, node, faults)
    }

    /// The daemon is gone, and with it what it was preparing and could not write down.
    pub(crate) fn handle_daemon_gone(&mut self) {
        self.preparing.clear();
        self.plugins = self.plugins.take().map(|_| Plugins::default());
    }

    fn running(&mut self, instance: InstanceId) -> Result<&mut Process, NoEffect> {
        let is_meant = |process: &&mut Process| process.instance == instance && process.is_live();
        let process = self.disk.processes.iter_mut().rev().find(is_meant);
        process.ok_or_else(|| NoEffect::because(format!("{instance} has no process")))
    }

    /// Does to the processes and the disk what a scenario says.
    pub(crate) fn act(
        &mut self,
        turn: &Turn<'_>,
        action: &Action,
        session: Option<&mut DaemonSession>,
    ) -> Effect {
        let moment = turn.moment();
        match action {
            Action::Crash(instance) => self.running(*instance)?.end_now(moment, End::Crashed),
            Action::Exit(instance) => self.running(*instance)?.end_now(moment, End::Exited),
            Action::Flood(instance, lines) => {
                let process = self.running(*instance)?;
                process.flood(*lines);
                if let Some(session) = session {
                    forward(process, session);
                }
            }
            Action::FailDisk(time) => self.disk.fails_until = moment + *time,
            Action::Heal => self.disk.fails_until = self.disk.fails_until.min(moment),
            _ => return Err(NoEffect::because("no daemon knows such an action")),
        }
        Ok(())
    }
}

/// What a node says of its load.
pub(crate) fn status(node: &Node) -> daemon_message::Payload {
    daemon_message::Payload::NodeStatus(NodeStatus {
        total_memory_mb: 1024,
        ..node.status()
    })
}

/// Hands new console lines to the session.
fn forward(process: &mut Process, session: &mut DaemonSession) {
    while process.forwarded < process.written {
        process.forwarded += 1;
        session.console(ConsoleOutput {
            instance_id: process.instance.into(),
            line: format!("line {}", process.forwarded),
            timestamp_ms: 0,
            incarnation: process.incarnation.get(),
            sequence: process.forwarded,
        });
    }
}
