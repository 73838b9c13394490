//! The handler around the node's machine
//!
//! ```text
//!  session, supervisor, tasks ──facts──> DaemonNode ──work──> session, supervisor, spool, tasks
//! ```
//!
//! What is done about an order or a process is decided by [`DaemonNode`]; here its work is carried out and its facts are
//! collected. What concerns no instance (figures, announced controllers, the epoch) goes past it.

mod tasks;
mod traces;
mod warming;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prexorcloud_proto::{
    CacheStatus, CrashReport, ErrorReport, TemplateRequest, controller_message, daemon_message,
};
use prexorcloud_protocol::compat::{ContractMatch, contract};
use prexorcloud_protocol::handshake::daemon::{Connected, HandshakeFailure};
use prexorcloud_protocol::hosted::HostedInstance;
use prexorcloud_protocol::node::daemon::{self as machine, DaemonNode, DaemonNodeConfig};
use prexorcloud_protocol::session::{Class, error_code};
use prexorcloud_protocol::{DaemonEvent, DaemonOutcome, DaemonSession, Incarnation, InstanceId, SendError};
use prexorcloud_transport::{SessionHandle, SessionHandler, Target, due};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::timeout;

use super::crashes::CrashSpool;
use super::host::Host;
use super::memory::{Memory, Written};
use super::renewal::{Link, Occasion};
use super::{Finished, requests};
use crate::cache::templates::{Ask, Templates};
use crate::control::ExitCause;
use crate::files::{Asked, InstanceFiles};
use crate::modules::Modules;
use crate::preparation::{Prepared, Preparer};
use crate::supervisor::{Adopted, CommandError, Event, Exit, Found, Receiver, StopReason, Supervisor};

use tasks::{Done, Running};
use traces::Traces;

/// How long an answer that takes much room may wait for it; the controller has given it up then
const ANSWER_LEAVES_WITHIN: Duration = Duration::from_secs(20);

pub(super) struct Orders {
    node: DaemonNode<Box<Prepared>>,
    session: SessionHandle<DaemonSession>,
    supervisor: Supervisor,
    preparer: Arc<Preparer>,
    templates: Arc<Templates>,
    spool: CrashSpool,
    memory: Memory,
    host: Host,
    files: InstanceFiles,
    dialled: Arc<Mutex<Option<Target>>>,
    modules: Modules,
    link: Link,
    api_port: u16,
    tasks: JoinSet<Done>,
    /// At most one order of the controller at a time; gives what is kept in the end
    warming: JoinSet<CacheStatus>,
    /// At most one, so that the disk may be slow
    writes: JoinSet<Written>,
    /// Which attempt a task works for, should it end with a panic
    running: HashMap<Id, Running>,
    preparations: HashMap<machine::Attempt, AbortHandle>,
    traces: Traces,
    events: mpsc::Receiver<Event>,
    learned: mpsc::Receiver<Vec<Target>>,
    /// What each controller is told of the records of instances, until they have ended
    damaged: BTreeMap<InstanceId, String>,
}

impl SessionHandler<DaemonSession> for Orders {
    type End = Finished;

    async fn handle_event(
        &mut self,
        _session: &SessionHandle<DaemonSession>,
        event: DaemonEvent,
    ) -> ControlFlow<Finished> {
        self.handle_session(event);
        self.work()
    }

    async fn idle(&mut self, _session: &SessionHandle<DaemonSession>) -> ControlFlow<Finished> {
        // What was adopted before the first event.
        self.work()?;
        tokio::select! {
            Some(event) = self.events.recv() => self.handle_supervisor(event),
            Some(done) = self.tasks.join_next_with_id() => self.handle_done(done),
            Some(warmed) = self.warming.join_next() => self.handle_warmed(warmed),
            Some(written) = self.writes.join_next() => self.handle_written(written.ok()),
            Some(controllers) = self.learned.recv() => self.memory.learn(&controllers),
            // Only a wake-up: what is due is seen to with the work, however busy it is.
            () = due(self.node.poll_timeout()) => {}
            () = at(self.memory.retry_at()) => {}
            () = self.templates.woken() => {}
            () = at(self.templates.timeout()) => {}
        }
        self.work()
    }
}

impl Orders {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a daemon, put together once"
    )]
    pub(super) fn new(
        session: SessionHandle<DaemonSession>,
        supervisor: Supervisor,
        reports: (mpsc::Receiver<Event>, mpsc::Receiver<Vec<Target>>),
        preparer: Preparer,
        spool: CrashSpool,
        memory: Memory,
        host: Host,
        files: InstanceFiles,
        dialled: Arc<Mutex<Option<Target>>>,
        modules: Modules,
        link: Link,
    ) -> Self {
        let (events, learned) = reports;
        let mut config = DaemonNodeConfig::default();
        config.kill_timeout = supervisor.kill_timeout();
        Self {
            node: DaemonNode::new(config),
            session,
            supervisor,
            templates: preparer.templates(),
            preparer: Arc::new(preparer),
            spool,
            memory,
            host,
            files,
            dialled,
            modules,
            link,
            api_port: 0,
            tasks: JoinSet::new(),
            warming: JoinSet::new(),
            writes: JoinSet::new(),
            running: HashMap::new(),
            preparations: HashMap::new(),
            traces: Traces::default(),
            events,
            learned,
            damaged: BTreeMap::new(),
        }
    }

    pub(super) fn adopted(&mut self, instance: &Adopted) {
        let facts = &instance.facts;
        if let Some(damage) = &instance.damage {
            self.damaged.insert(facts.instance, damage.clone());
        }
        let adopted = machine::Adopted {
            instance: facts.instance,
            incarnation: facts.incarnation,
            port: facts.port,
            grace: facts.grace,
            startup_timeout: facts.startup_timeout,
            uptime: instance.uptime,
            is_ready: instance.found == Found::Running,
            is_stopping: instance.found == Found::Stopping,
        };
        self.node.adopt(Instant::now(), &adopted);
    }

    /// Takes over how these have ended while no daemon ran, before a controller hears of them: it would take them for alive
    ///
    /// What does not come in time is told when it comes.
    pub(super) async fn take_ends(&mut self, ended: &[InstanceId], within: Duration) {
        let session = self.session.clone();
        let is_open = || {
            let is_live = |hosted: HostedInstance| !hosted.state.is_terminal();
            session.with(|session, _| {
                let mut hosted = ended.iter().filter_map(|id| session.hosted().get(*id));
                hosted.any(is_live)
            })
        };
        let taking = async {
            while is_open() {
                // Nobody can have ordered that the daemon finishes.
                let _ = self.idle(&session).await;
            }
        };
        if timeout(within, taking).await.is_err() {
            tracing::warn!("how instances have ended is not known yet, and is told later");
        }
    }

    /// Gives a crash report to the session, which keeps it until a controller has it
    pub(super) fn hand_over(&mut self, report: CrashReport) {
        let node = &mut self.node;
        match self.session.with(|session, _| node.tell_crash(session, report)) {
            // What does not fit is told when there is room.
            Ok(()) | Err(SendError::Full(_)) => {}
            Err(error) => tracing::error!(%error, "a crash report cannot be sent"),
        }
    }

    fn handle_session(&mut self, event: DaemonEvent) {
        let span = traces::span(self.traces.begin(&event));
        let _inside = span.enter();
        match self.node.handle_event(Instant::now(), event) {
            Some(DaemonEvent::Connected(connected)) => self.handle_connected(&connected),
            Some(DaemonEvent::Command {
                instance,
                incarnation,
                line,
                id,
                ..
            }) => self.command(instance, incarnation, &line, id),
            Some(DaemonEvent::PluginReady {
                instance,
                incarnation,
            }) => self.supervisor.plugin_ready(instance, incarnation),
            Some(DaemonEvent::Request(controller_message::Payload::WalkInstanceFiles(asked))) => {
                self.look_at_files(Asked::Walk(*asked));
            }
            Some(DaemonEvent::Request(controller_message::Payload::ReadInstanceFile(asked))) => {
                self.look_at_files(Asked::Read(*asked));
            }
            Some(DaemonEvent::Request(controller_message::Payload::PreWarmCache(order))) => self.warm(order),
            Some(DaemonEvent::InstallModule { order, .. }) => self.modules.install(order),
            Some(DaemonEvent::UninstallModule { order, .. }) => self.modules.uninstall(&order.module_id),
            Some(DaemonEvent::Request(controller_message::Payload::ModuleEvent(event))) => {
                self.modules.event(&event);
            }
            Some(DaemonEvent::Request(controller_message::Payload::CertificateIssued(issued))) => {
                self.link.tell(Occasion::Issued(issued));
            }
            Some(DaemonEvent::Request(controller_message::Payload::AuthorityUpdate(update))) => {
                self.link.tell(Occasion::Authorities(update));
            }
            Some(DaemonEvent::Request(request)) => {
                let request = self.templates.handle_request(request);
                let cache = || self.preparer.cache_status();
                if let Some(answer) = request.and_then(|request| requests::answer(request, cache)) {
                    self.send(answer);
                }
            }
            Some(DaemonEvent::NodeStatusDue) => {
                let status = self.host.measure(self.node.status());
                self.send(daemon_message::Payload::NodeStatus(status));
            }
            Some(DaemonEvent::ConsoleArrived {
                instance,
                incarnation,
                sequence,
            }) => self.supervisor.console_arrived(instance, incarnation, sequence),
            Some(DaemonEvent::FenceRaised(epoch)) => self.memory.raise_epoch(epoch),
            Some(DaemonEvent::Ignored(anomaly)) => tracing::warn!("ignored: {anomaly}"),
            Some(DaemonEvent::Disconnected(outcome)) => {
                self.supervisor.close_consoles();
                self.templates.handle_disconnected();
                self.modules.handle_disconnected();
                self.link.disconnected();
                match outcome {
                    // Begins with "upgrade required".
                    DaemonOutcome::Handshake(HandshakeFailure::UpgradeRequired(incompatible)) => {
                        tracing::error!("{incompatible}");
                    }
                    outcome => tracing::info!("disconnected: {outcome}"),
                }
            }
            _ => {}
        }
    }

    fn handle_written(&mut self, written: Option<Written>) {
        match self.memory.handle_written(Instant::now(), written) {
            Some((epoch, Ok(()))) => self.session.with(|session, _| session.fence_written(epoch)),
            Some((epoch, Err(error))) => self
                .session
                .with(|session, _| session.fence_not_written(epoch, &error.to_string())),
            None => {}
        }
    }

    fn handle_connected(&mut self, connected: &Connected) {
        tracing::info!(session = connected.session_id, "connected to the controller");
        self.api_port = connected.controller_api_port;
        self.templates.handle_connected();
        let cache = self.preparer.cache_status();
        self.send(daemon_message::Payload::CacheStatus(Box::new(cache)));
        self.modules.handle_connected(connected.capabilities);
        tell_contract(connected);
        let receiver = match connected.peer.numbers_console {
            true => Receiver::Numbered,
            false => Receiver::Unnumbered,
        };
        // A later stream, if there is one by now, has its own news on the way: what is opened twice is only told twice.
        let stream = self.session.with(|session, _| session.stream_ordinal());
        self.link.connected(connected.capabilities, stream);
        self.supervisor.open_consoles(stream, receiver);
        for (instance, damage) in &self.damaged {
            self.send(daemon_message::Payload::ErrorReport(ErrorReport {
                error_code: error_code::RECORDS_DAMAGED.to_owned(),
                error_message: format!(
                    "the daemon found damaged records, and watches the instance all the same: {damage}"
                ),
                context: instance.to_string(),
                retry_after_seconds: 0,
            }));
        }
    }

    fn command(&self, instance: InstanceId, incarnation: Incarnation, line: &str, id: Option<u64>) {
        let written = |result| {
            if let Some(id) = id {
                self.session
                    .with(|session, _| session.command_written(instance, incarnation, id, result));
            }
        };
        let Err(error) = self.supervisor.command(instance, line) else {
            return written(Ok(()));
        };
        tracing::warn!(%instance, %error, "a command did not reach the instance");
        let (code, retry_after_seconds) = match error {
            CommandError::Stuck => ("COMMAND_NOT_READ", 5),
            CommandError::NotRunning => ("INSTANCE_NOT_RUNNING", 0),
            CommandError::NotALine | CommandError::TooLong { .. } => ("INVALID_COMMAND", 0),
            CommandError::Io(_) => ("COMMAND_FAILED", 0),
        };
        if id.is_some() {
            return written(Err((code, error.to_string())));
        }
        self.send(daemon_message::Payload::ErrorReport(ErrorReport {
            error_code: code.to_owned(),
            error_message: error.to_string(),
            context: instance.to_string(),
            retry_after_seconds,
        }));
    }

    fn handle_supervisor(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Ready {
                instance,
                incarnation,
            } => self.node.handle_ready(now, instance, incarnation),
            Event::Waiting {
                instance,
                incarnation,
                waiting,
            } => self
                .session
                .with(|session, _| session.waiting_for(instance, incarnation, waiting)),
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
                self.node
                    .handle_stopping(now, instance, incarnation, reason.into());
            }
            Event::Settled {
                instance,
                incarnation,
            } => self.node.handle_settled(now, instance, incarnation),
            Event::Exited(exit) => {
                let (instance, code) = (exit.instance, exit.cause.code());
                match exit.cause {
                    ExitCause::Unobserved => {
                        tracing::warn!(%instance, "the instance has ended, and nobody saw how")
                    }
                    _ => tracing::info!(%instance, code, "the instance has ended"),
                }
                self.damaged.remove(&exit.instance);
                self.node.handle_exited(now, ended(*exit));
            }
        }
    }

    /// Answers when the disk has; who asks on a stream that is over meanwhile waits for nothing
    fn look_at_files(&self, asked: Asked) {
        let (files, session) = (self.files.clone(), self.session.clone());
        tokio::spawn(async move {
            // An answer takes memory until it has left, so its place is taken for as long.
            let (answer, _turn) = files.answer(asked).await;
            let mut answer = Some(answer);
            let bytes = answer.as_ref().map_or(0, daemon_message::Payload::encoded_len);
            let sent = session.wait_for(|session, _| {
                let can_be_sent = session.has_room(Class::Bulk, bytes) || !session.is_established();
                can_be_sent.then(|| answer.take().map(|answer| session.send(answer)))
            });
            match timeout(ANSWER_LEAVES_WITHIN, sent).await {
                Ok(Some(Some(Err(error)))) => {
                    tracing::debug!(%error, "an answer about files was not sent");
                }
                Ok(_) => {}
                Err(_) => tracing::debug!("an answer about files was not sent, since the stream is full"),
            }
        });
    }

    pub(super) fn ask_for_templates(&self) {
        for Ask { wanted, known_hash } in self.templates.poll() {
            let name = wanted.name;
            let request = daemon_message::Payload::TemplateRequest(TemplateRequest {
                template_name: name.as_str().to_owned(),
                known_hash,
                wanted_hash: wanted.hash.clone(),
            });
            if let Err(error) = self.session.with(|session, _| session.send(request)) {
                tracing::debug!(template = %name, %error, "a template is asked for on the next stream");
                self.templates.handle_unsent(&wanted);
            }
        }
    }

    fn send(&self, payload: daemon_message::Payload) {
        if let Err(error) = self.session.with(|session, _| session.send(payload)) {
            tracing::debug!(%error, "a message was not sent");
        }
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.preparer.abandon();
    }
}

/// Waits until then, or for ever if there is nothing to wait for
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
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

fn ended(exit: Exit) -> machine::Exit {
    machine::Exit {
        instance: exit.instance,
        group: exit.group,
        incarnation: exit.incarnation,
        code: exit.cause.code(),
        stopped_for: exit.stopped_for.map(machine::StopReason::from),
        uptime: exit.uptime,
        report_id: super::crashes::report_id(&exit),
        log_tail: exit.log_tail,
    }
}
