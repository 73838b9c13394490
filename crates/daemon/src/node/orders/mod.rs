//! The task that decides: orders of the controller, news of the supervisor, and what follows from them

mod starts;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prexorcloud_proto::{CrashReport, ErrorReport, daemon_message};
use prexorcloud_protocol::compat::{ContractMatch, contract};
use prexorcloud_protocol::handshake::daemon::{Connected, HandshakeFailure};
use prexorcloud_protocol::hosted::Observed;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::session::daemon::StatusReport;
use prexorcloud_protocol::{
    DaemonEvent, DaemonOutcome, DaemonSession, Incarnation, InstanceId, SendError, StopMode,
};
use prexorcloud_transport::{SessionHandle, Target};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::crashes::CrashSpool;
use super::host::Host;
use super::memory::Memory;
use super::{Finished, requests};
use crate::preparation::Preparer;
use crate::supervisor::{Adopted, CommandError, ConsoleStart, Event, Exit, StopReason, Supervisor};

use starts::{Done, Pending, Step};

/// After this long on an established session, a message has left the machine
const SETTLE: Duration = Duration::from_secs(2);

/// An instance that has a process
struct Live {
    incarnation: Incarnation,
    port: u16,
    grace: Duration,
    started: Instant,
}

/// An end that is told again if this daemon is killed now
struct Unsettled {
    instance: InstanceId,
    incarnation: Incarnation,
    /// Absent while no session is established
    told: Option<Instant>,
}

pub(super) struct Orders {
    session: SessionHandle<DaemonSession>,
    supervisor: Supervisor,
    preparer: Arc<Preparer>,
    spool: CrashSpool,
    memory: Memory,
    host: Host,
    dialled: Arc<Mutex<Option<Target>>>,
    api_port: u16,
    tasks: JoinSet<Done>,
    pending: HashMap<InstanceId, Pending>,
    live: HashMap<InstanceId, Live>,
    /// Stops that are acknowledged when the instance is gone
    stops: HashMap<InstanceId, Incarnation>,
    /// Ends that a controller may not know of, and since when they are on their way to it
    unsettled: Vec<Unsettled>,
    /// The session holds as many crash reports as it takes; more are on disk
    crashes_waiting: bool,
    shutting_down: Option<String>,
}

impl Orders {
    pub(super) fn new(
        session: SessionHandle<DaemonSession>,
        supervisor: Supervisor,
        preparer: Preparer,
        spool: CrashSpool,
        memory: Memory,
        host: Host,
        dialled: Arc<Mutex<Option<Target>>>,
    ) -> Self {
        Self {
            session,
            supervisor,
            preparer: Arc::new(preparer),
            spool,
            memory,
            host,
            dialled,
            api_port: 0,
            tasks: JoinSet::new(),
            pending: HashMap::new(),
            live: HashMap::new(),
            stops: HashMap::new(),
            unsettled: Vec::new(),
            crashes_waiting: false,
            shutting_down: None,
        }
    }

    pub(super) fn adopted(&mut self, instance: &Adopted) {
        self.enter(&instance.facts, instance.uptime);
    }

    /// Gives a crash report to the session, which keeps it until a controller has it
    pub(super) fn hand_over(&mut self, report: CrashReport) {
        match self.session.with(|session, _| session.crash(report)) {
            Ok(()) => {}
            Err(SendError::Full(_)) => self.crashes_waiting = true,
            Err(error) => tracing::error!(%error, "a crash report cannot be sent"),
        }
    }

    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut learned: mpsc::Receiver<Vec<Target>>,
        mut stopped: oneshot::Receiver<()>,
    ) -> Finished {
        loop {
            if let Some(reason) = &self.shutting_down
                && self.live.is_empty()
                && self.pending.is_empty()
            {
                return Finished::ShutDownByController {
                    reason: reason.clone(),
                };
            }
            tokio::select! {
                event = self.session.next_event() => match event {
                    Some(event) => self.handle_session(event),
                    None => return Finished::Failed,
                },
                Some(event) = events.recv() => self.handle_supervisor(event),
                Some(done) = self.tasks.join_next_with_id() => self.handle_done(done),
                Some(controllers) = learned.recv() => {
                    if let Err(error) = self.memory.learn(&controllers) {
                        tracing::warn!(%error, "the announced controllers cannot be remembered");
                    }
                }
                () = tokio::time::sleep(SETTLE), if !self.unsettled.is_empty() => self.settle(None),
                _ = &mut stopped => return Finished::Stopped,
            }
        }
    }

    fn handle_session(&mut self, event: DaemonEvent) {
        match event {
            DaemonEvent::Connected(connected) => self.handle_connected(&connected),
            DaemonEvent::Start(order) => self.start(order),
            DaemonEvent::Stop {
                instance,
                incarnation,
                mode,
                ..
            } => self.stop(instance, incarnation, mode == StopMode::Force),
            DaemonEvent::Command { instance, line, .. } => self.command(instance, &line),
            DaemonEvent::Shutdown { reason } => self.shut_down(reason),
            DaemonEvent::CrashReportAcknowledged { report_id } => self.crash_confirmed(&report_id),
            DaemonEvent::Request(request) => {
                let cached = self.preparer.cached_bytes();
                if let Some(answer) = requests::answer(request, cached) {
                    self.send(answer);
                }
            }
            DaemonEvent::NodeStatusDue => {
                let ports = self.live.values().map(|live| i32::from(live.port)).collect();
                let status = self.host.status(ports);
                self.send(daemon_message::Payload::NodeStatus(status));
            }
            DaemonEvent::FenceRaised(epoch) => {
                if let Err(error) = self.memory.raise_epoch(epoch) {
                    tracing::error!(%error, "the controller's epoch cannot be written down");
                }
            }
            DaemonEvent::Ignored(anomaly) => tracing::warn!("ignored: {anomaly}"),
            DaemonEvent::Disconnected(outcome) => {
                self.supervisor.close_consoles();
                for end in &mut self.unsettled {
                    end.told = None;
                }
                match outcome {
                    DaemonOutcome::Handshake(HandshakeFailure::UpgradeRequired(incompatible)) => {
                        tracing::error!("upgrade required: {incompatible}");
                    }
                    outcome => tracing::info!("disconnected: {outcome}"),
                }
            }
            _ => {}
        }
    }

    fn handle_connected(&mut self, connected: &Connected) {
        tracing::info!(session = connected.session_id, "connected to the controller");
        self.api_port = connected.controller_api_port;
        tell_contract(connected);
        let start = if connected.peer.numbers_console {
            ConsoleStart::Settled
        } else {
            ConsoleStart::Unaccepted
        };
        self.supervisor.open_consoles(start);
        // The handshake told of these ends, or what follows it does.
        for end in &mut self.unsettled {
            end.told = Some(Instant::now());
        }
    }

    /// Lets go of ends that have been told, and of one that a new start needs out of its way
    fn settle(&mut self, needed: Option<InstanceId>) {
        let supervisor = &self.supervisor;
        self.unsettled.retain(|end| {
            let is_told = end.told.is_some_and(|told| told.elapsed() >= SETTLE);
            let is_done = is_told || needed == Some(end.instance);
            if is_done {
                supervisor.settle(end.instance, end.incarnation);
            }
            !is_done
        });
    }

    fn stop(&mut self, instance: InstanceId, incarnation: Incarnation, force: bool) {
        tracing::info!(%instance, force, "stop ordered");
        match self.pending.get_mut(&instance).map(|pending| &mut pending.step) {
            Some(Step::Preparing(task)) => {
                task.abort();
                if let Some(pending) = self.pending.remove(&instance) {
                    self.report(instance, pending.incarnation, State::Stopped, Duration::ZERO);
                }
                self.acknowledge_stop(instance, incarnation);
                return;
            }
            Some(Step::Launching { stop }) => {
                *stop = Some(force || stop.unwrap_or(false));
                self.stops.insert(instance, incarnation);
                return;
            }
            None => {}
        }
        if self.live.contains_key(&instance) && self.supervisor.stop(instance, force) {
            self.stops.insert(instance, incarnation);
        } else {
            // It has ended meanwhile; the supervisor's news of it is on its way.
            self.acknowledge_stop(instance, incarnation);
        }
    }

    fn acknowledge_stop(&self, instance: InstanceId, incarnation: Incarnation) {
        self.session
            .with(|session, _| session.stop_acknowledged(instance, incarnation, Ok(())));
    }

    fn command(&self, instance: InstanceId, line: &str) {
        let Err(error) = self.supervisor.command(instance, line) else {
            return;
        };
        tracing::warn!(%instance, %error, "a command did not reach the instance");
        let (code, retry_after_seconds) = match error {
            CommandError::Stuck => ("COMMAND_NOT_READ", 5),
            CommandError::NotRunning => ("INSTANCE_NOT_RUNNING", 0),
            CommandError::NotALine | CommandError::TooLong { .. } => ("INVALID_COMMAND", 0),
            CommandError::Io(_) => ("COMMAND_FAILED", 0),
        };
        self.send(daemon_message::Payload::ErrorReport(ErrorReport {
            error_code: code.to_owned(),
            error_message: error.to_string(),
            context: instance.to_string(),
            retry_after_seconds,
        }));
    }

    fn shut_down(&mut self, reason: String) {
        let running = self.live.len() + self.pending.len();
        let kill_timeout = self.supervisor.kill_timeout();
        let longest = self.live.values().map(|live| live.grace + kill_timeout).max();
        let estimate = longest.unwrap_or_default();
        tracing::info!(reason, running, "the controller shuts this node down");
        self.session.with(|session, _| {
            session.acknowledge_shutdown(u32::try_from(running).unwrap_or(u32::MAX), estimate);
        });
        if self.shutting_down.is_some() {
            return;
        }
        self.shutting_down = Some(reason);
        let pending: Vec<_> = self
            .pending
            .iter()
            .map(|(instance, pending)| (*instance, pending.incarnation))
            .collect();
        for (instance, incarnation) in pending {
            self.stop(instance, incarnation, false);
        }
        for instance in self.live.keys() {
            self.supervisor.stop(*instance, false);
        }
    }

    fn crash_confirmed(&mut self, report_id: &str) {
        if let Err(error) = self.spool.confirmed(report_id) {
            tracing::warn!(report_id, %error, "a confirmed crash report cannot be deleted");
        }
        if std::mem::take(&mut self.crashes_waiting) {
            match self.spool.pending() {
                Ok(reports) => {
                    for report in reports {
                        self.hand_over(report);
                    }
                }
                Err(error) => tracing::error!(%error, "waiting crash reports cannot be read"),
            }
        }
    }

    fn handle_supervisor(&mut self, event: Event) {
        let (instance, incarnation) = event.about();
        if let Some(pending) = self.pending.get_mut(&instance)
            && pending.incarnation == incarnation
            && matches!(pending.step, Step::Launching { .. })
        {
            // A quick process is ahead of the answer to its start: STARTING comes first.
            pending.early.push(event);
            return;
        }
        match event {
            Event::Ready {
                instance,
                incarnation,
            } => self.report_live(instance, incarnation, State::Running),
            Event::Stopping {
                instance,
                incarnation,
                reason,
            } => {
                match reason {
                    StopReason::Requested => {}
                    StopReason::StartupTimeout => {
                        tracing::warn!(%instance, "the instance was not ready in time and is stopped");
                    }
                    StopReason::LifetimeOver => {
                        tracing::info!(%instance, "the instance has reached its greatest age and is stopped");
                    }
                }
                self.report_live(instance, incarnation, State::Stopping);
            }
            Event::Exited(exit) => self.exited(&exit),
        }
    }

    fn exited(&mut self, exit: &Exit) {
        let (instance, incarnation) = (exit.instance, exit.incarnation);
        let code = exit.cause.code();
        self.live.remove(&instance);
        if exit.is_crash() {
            tracing::warn!(%instance, code, "the instance crashed");
            let report = CrashSpool::report(exit);
            // On disk first: from here on no end of this process loses it.
            if let Err(error) = self.spool.put(&report) {
                tracing::error!(%instance, %error, "the crash report cannot be written down");
            }
            self.report(instance, incarnation, State::Crashed, exit.uptime);
            self.hand_over(report);
        } else {
            tracing::info!(%instance, code, "the instance has stopped");
            self.report(instance, incarnation, State::Stopped, exit.uptime);
        }
        if let Some(incarnation) = self.stops.remove(&instance) {
            self.acknowledge_stop(instance, incarnation);
        }
        let is_established = self.session.with(|session, _| session.is_established());
        self.unsettled.push(Unsettled {
            instance,
            incarnation,
            told: is_established.then(Instant::now),
        });
    }

    fn report_live(&self, instance: InstanceId, incarnation: Incarnation, state: State) {
        let live = self
            .live
            .get(&instance)
            .filter(|live| live.incarnation == incarnation);
        let uptime = live.map(|live| live.started.elapsed()).unwrap_or_default();
        self.report(instance, incarnation, state, uptime);
    }

    fn report(&self, instance: InstanceId, incarnation: Incarnation, state: State, uptime: Duration) {
        let report = StatusReport {
            instance,
            incarnation,
            state,
            player_count: 0,
            uptime,
        };
        match self.session.with(|session, _| session.report(&report)) {
            Observed::Changed { from } => tracing::info!(%instance, "{from} -> {state}"),
            Observed::Unchanged => {}
            Observed::Stale => tracing::debug!(%instance, %state, "news of a start that is not current"),
            Observed::Illegal { state: kept } => {
                tracing::warn!(%instance, "{state} does not follow {kept} and is not reported");
            }
        }
    }

    fn send(&self, payload: daemon_message::Payload) {
        if let Err(error) = self.session.with(|session, _| session.send(payload)) {
            tracing::debug!(%error, "a message was not sent");
        }
    }
}

/// Says where the controller was built from another contract than this daemon
fn tell_contract(connected: &Connected) {
    if connected.contract == ContractMatch::Different {
        let theirs = connected.contract_digest.as_deref().unwrap_or_default();
        tracing::info!(
            ours = contract::WIRE_DIGEST.get(..12),
            theirs = theirs.get(..12),
            "the controller was built from another contract; additive differences are fine"
        );
    }
}
