//! What the rest of the controller can ask of a node's task

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use prexorcloud_proto::{
    ConfigFormat, ConfigPatch, PreWarmCache, ProgramArguments, ReadinessRule, RuntimeIsolation,
    ShutdownNodeAck, StartInstance, TemplateRef,
};
use prexorcloud_protocol::{
    Close, ControllerSession, DeniedReason, GroupName, Incarnation, InstanceId, ModuleId, StopMode,
    handshake::controller::Hello,
    node::controller::{Change, CommitFailure, OrderId, OrderOutcome, OrderRefusal},
    session::controller::CommandError,
    trace::TraceParent,
};
use prexorcloud_transport::{Peer, SessionHandle};
use tokio::sync::oneshot;

use super::{
    FilesAnswer, FilesAsked, NodeSummary,
    commits::{self, Origins},
    pacing::Turn,
    task::Node,
    typed::CommandResult,
    view::StreamNotes,
};
use crate::{origin::Origin, store::StoreError, trace};

/// The least that a daemon is told in seconds
const AT_ONCE: Duration = Duration::from_secs(1);

/// Where an answer goes; nobody may be waiting for it any more
pub(super) type Reply<T> = oneshot::Sender<Result<T, OrderError>>;

pub(super) enum NodeRequest {
    /// A stream whose handshake waits for admission
    Join {
        hello: Box<Hello>,
        session: SessionHandle<ControllerSession>,
        peer: Peer,
        /// Given back when the handshake is decided on
        turn: Turn,
    },
    /// Read the node's record if it is not known yet
    LoadRecord {
        reply: Reply<()>,
    },
    Start {
        order: Box<StartOrder>,
        reply: Reply<()>,
    },
    Stop {
        instance: InstanceId,
        force: bool,
        reply: Reply<StopAnswer>,
    },
    /// Type a line; the answer is the receiver of what the daemon says, or `None` where it says nothing
    Command {
        instance: InstanceId,
        line: String,
        reply: Reply<Option<oneshot::Receiver<CommandResult>>>,
    },
    /// A start of an instance is ready, as its plugin or somebody else says
    Ready {
        instance: InstanceId,
        incarnation: Incarnation,
        reply: Reply<()>,
    },
    /// Give up an instance whose node stays away
    DeclareLost {
        instance: InstanceId,
        reply: Reply<()>,
    },
    /// Delete an instance that has ended
    Forget {
        instance: InstanceId,
        reply: Reply<()>,
    },
    Cordon {
        cordoned: bool,
        reply: Reply<NodeSummary>,
    },
    Drain {
        shutdown: bool,
        timeout: Duration,
        reply: Reply<usize>,
    },
    Undrain {
        reply: Reply<NodeSummary>,
    },
    /// Give up whatever lives there, since its certificates do not count any more; the answer is how many that is
    GiveUpAll {
        reply: Reply<usize>,
    },
    /// Forget the node and all that is recorded of it
    Retire {
        reply: Reply<()>,
    },
    /// Tell the daemon to shut down; the answer is the receiver of its acknowledgement
    ShutDown {
        reason: String,
        reply: Reply<oneshot::Receiver<ShutdownNodeAck>>,
    },
    /// Ask about the files of an instance; the answer is the receiver of the daemon's
    Files {
        asked: FilesAsked,
        reply: Reply<oneshot::Receiver<FilesAnswer>>,
    },
    /// Ask what is in its cache; the answer is the number of the last status before
    AskAboutCache {
        reply: Reply<u64>,
    },
    /// Fill its cache
    WarmCache {
        order: Box<PreWarmCache>,
        reply: Reply<()>,
    },
    /// Do now what has failed of a module; the answer is whether there was such a thing
    RetryModule {
        module: ModuleId,
        reply: Reply<bool>,
    },
    /// Have its daemon ask for another certificate
    RenewCertificate {
        reply: Reply<()>,
    },
    /// The authorities of the cluster are others
    AuthoritiesChanged,
    /// End the present session
    Close {
        close: Close,
        reply: Reply<()>,
    },
}

/// A request, and the trace that it is a part of
pub(super) struct Traced {
    pub(super) trace: Option<TraceParent>,
    pub(super) request: NodeRequest,
}

impl Traced {
    pub(super) fn now(request: NodeRequest) -> Self {
        Self {
            trace: trace::current(),
            request,
        }
    }
}

impl NodeRequest {
    /// Nobody waits for the answer any more: whoever asked was told so, and may have asked again
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Join { .. } | Self::AuthoritiesChanged => false,
            Self::Stop { reply, .. } => reply.is_closed(),
            Self::Drain { reply, .. } | Self::GiveUpAll { reply } => reply.is_closed(),
            Self::Cordon { reply, .. } | Self::Undrain { reply } => reply.is_closed(),
            Self::ShutDown { reply, .. } => reply.is_closed(),
            Self::Files { reply, .. } => reply.is_closed(),
            Self::Command { reply, .. } => reply.is_closed(),
            Self::AskAboutCache { reply } => reply.is_closed(),
            Self::RetryModule { reply, .. } => reply.is_closed(),
            Self::LoadRecord { reply }
            | Self::Start { reply, .. }
            | Self::Ready { reply, .. }
            | Self::DeclareLost { reply, .. }
            | Self::Forget { reply, .. }
            | Self::Retire { reply }
            | Self::RenewCertificate { reply }
            | Self::WarmCache { reply, .. }
            | Self::Close { reply, .. } => reply.is_closed(),
        }
    }
}

/// Who waits for the machine's answer to an order
pub(super) enum Waiting {
    Done(Reply<()>),
    /// The start that the plugin may call from, once it is recorded
    Start(Box<StartInstance>, Origin, Reply<()>),
    Stop(Reply<StopAnswer>),
    Forget(InstanceId, Reply<()>),
}

impl Waiting {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Done(reply) | Self::Start(_, _, reply) | Self::Forget(_, reply) => reply.is_closed(),
            Self::Stop(reply) => reply.is_closed(),
        }
    }
}

impl Node {
    pub(super) async fn handle_order(&mut self, order: NodeRequest) {
        if order.is_abandoned() {
            tracing::info!(node = %self.id, "an order whose asker has given up waiting is not carried out");
            return;
        }
        let now = Instant::now();
        match order {
            NodeRequest::Join {
                hello,
                session,
                peer,
                turn,
            } => {
                let notes = StreamNotes {
                    peer,
                    session: None,
                    turn: Some(turn),
                };
                self.streams.push(session, notes);
                self.machine.handle_hello(now, hello);
            }
            NodeRequest::LoadRecord { reply } => answer(reply, self.load_record().await),
            NodeRequest::Start { order, reply } => match self.prepare_start(&order).await {
                Ok(start) => {
                    let id = self.wait(Waiting::Start(start.clone(), order.origin, reply));
                    self.machine
                        .start_traced(Instant::now(), id, start, trace::current());
                }
                Err(error) => answer(reply, Err(error)),
            },
            NodeRequest::Stop {
                instance,
                force,
                reply,
            } => {
                let mode = if force {
                    StopMode::Force
                } else {
                    StopMode::Graceful
                };
                let id = self.wait(Waiting::Stop(reply));
                self.machine
                    .stop_traced(now, id, instance, mode, trace::current());
            }
            NodeRequest::Command {
                instance,
                line,
                reply,
            } => {
                let unreachable = self.with_view(|view| view.status() == NodeSummary::Unreachable);
                let result = match unreachable {
                    true => Err(OrderError::NotSchedulable("UNREACHABLE")),
                    false => self.command(instance, &line),
                };
                answer(reply, result);
            }
            NodeRequest::Ready {
                instance,
                incarnation,
                reply,
            } => answer(reply, self.note_ready(now, instance, incarnation)),
            NodeRequest::DeclareLost { instance, reply } => {
                let id = self.wait(Waiting::Done(reply));
                self.machine.declare_lost(now, id, instance);
            }
            NodeRequest::Forget { instance, reply } => {
                let id = self.wait(Waiting::Forget(instance, reply));
                self.machine.forget(now, id, instance);
            }
            NodeRequest::Cordon { cordoned, reply } => answer(reply, self.cordon(cordoned).await),
            NodeRequest::Drain {
                shutdown,
                timeout,
                reply,
            } => answer(reply, self.drain(shutdown, timeout).await),
            NodeRequest::GiveUpAll { reply } => answer(reply, self.give_up_all(now)),
            NodeRequest::Retire { reply } => answer(reply, self.retire().await),
            NodeRequest::Undrain { reply } => answer(reply, self.undrain().await),
            NodeRequest::ShutDown { reason, reply } => answer(reply, self.shut_down(reason)),
            NodeRequest::Files { asked, reply } => answer(reply, self.ask_about_files(asked)),
            NodeRequest::AskAboutCache { reply } => answer(reply, self.ask_about_cache()),
            NodeRequest::WarmCache { order, reply } => answer(reply, self.warm_cache(*order)),
            NodeRequest::RetryModule { module, reply } => answer(reply, Ok(self.retry_module(module))),
            NodeRequest::RenewCertificate { reply } => answer(reply, self.want_certificate(AT_ONCE)),
            NodeRequest::AuthoritiesChanged => self.tell_authorities(),
            NodeRequest::Close { close, reply } => {
                if let Some(session) = self.current_session() {
                    session.with(|session, _| session.close_with(close));
                }
                answer(reply, Ok(()));
            }
        }
    }

    /// What is said about a start that is over, or about one that is ready already, changes nothing
    fn note_ready(
        &mut self,
        now: Instant,
        instance: InstanceId,
        incarnation: Incarnation,
    ) -> Result<(), OrderError> {
        let known = self.machine.roster().get(instance);
        let known = known.ok_or(OrderError::UnknownInstance)?;
        if known.incarnation() == incarnation && known.state().is_coming_up() {
            let judgement = self.machine.ready(now, instance);
            tracing::debug!(node = %self.id, %instance, ?judgement, "said to be ready");
        }
        Ok(())
    }

    /// Where the starts come from that are about to be recorded
    pub(super) fn origins(&self, changes: &[Change]) -> Origins {
        let of = |start: &StartInstance| {
            self.waiting.values().find_map(|waiting| match waiting {
                Waiting::Start(known, origin, _) if commits::is_same(known, start) => Some(origin.clone()),
                _ => None,
            })
        };
        let starts = changes.iter().filter_map(|change| match change {
            Change::Start(start) => Some((start.instance_id.clone(), of(start)?)),
            _ => None,
        });
        starts.collect()
    }

    /// Gives up the orders that have not been begun and that nobody waits for any more
    pub(super) fn give_up_abandoned(&mut self) {
        let machine = &mut self.machine;
        self.waiting.retain(|order, waiting| {
            let is_given_up = waiting.is_abandoned() && machine.withdraw(*order);
            if is_given_up {
                tracing::info!(node = %self.id, "an order whose asker has given up waiting is not carried out");
            }
            !is_given_up
        });
    }

    fn wait(&mut self, waiting: Waiting) -> OrderId {
        let id = self.next_order();
        self.waiting.insert(id, waiting);
        id
    }

    /// The number of an order; nobody waits for its answer yet
    pub(super) fn next_order(&mut self) -> OrderId {
        self.orders += 1;
        OrderId(self.orders)
    }

    /// Passes the machine's answer on
    pub(super) fn answer(&mut self, order: OrderId, result: Result<OrderOutcome, OrderRefusal>) {
        let result = result.map_err(OrderError::from);
        match self.waiting.remove(&order) {
            Some(Waiting::Done(reply)) => answer(reply, result.map(drop)),
            Some(Waiting::Start(start, _, reply)) => {
                if result.is_ok() {
                    self.admit_plugin(&start);
                }
                answer(reply, result.map(drop));
            }
            Some(Waiting::Forget(instance, reply)) => {
                if result.is_ok() {
                    self.forget_rest(instance);
                }
                answer(reply, result.map(drop));
            }
            Some(Waiting::Stop(reply)) => {
                let stopped = result.map(|outcome| match outcome {
                    OrderOutcome::Stopping(StopMode::Force) => StopAnswer::ForceStopping,
                    OrderOutcome::Stopping(StopMode::Graceful) => StopAnswer::Stopping,
                    _ => StopAnswer::AlreadyStopped,
                });
                answer(reply, stopped);
            }
            None => {}
        }
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, OrderError>) {
    // Whoever asked may have given up waiting; what was done stays done.
    let _ = reply.send(result);
}

/// A start that was validated and placed
#[derive(Clone, Debug)]
pub(crate) struct StartOrder {
    pub(crate) instance: InstanceId,
    pub(crate) group: GroupName,
    /// An absolute path on the node, or an http(s) URL
    pub(crate) jar: String,
    /// Lower-case hex, or empty
    pub(crate) sha256: String,
    pub(crate) memory_mb: i32,
    pub(crate) jvm_args: Vec<String>,
    /// `None` = by the category
    pub(crate) program_arguments: Option<ProgramArguments>,
    /// What is typed into its console to end it; empty = by the platform
    pub(crate) stop_command: String,
    pub(crate) env: HashMap<String, String>,
    /// `None` = one of the configured range
    pub(crate) port: Option<u16>,
    /// Somebody has chosen the node, and answers for its memory
    pub(crate) is_hand_placed: bool,
    pub(crate) startup_timeout: Option<Duration>,
    pub(crate) shutdown_grace: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
    /// `None` = by the platform
    pub(crate) readiness: Option<ReadinessRule>,
    /// What is laid into its folder, in this order
    pub(crate) templates: Vec<TemplateRef>,
    /// What the files of templates may ask for
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) group_says: GroupSays,
    pub(crate) origin: Origin,
    /// The deployment of its group that has brought all this; 0 = none
    pub(crate) deployment_revision: u32,
}

/// What only groups say about a start; [`Default`] is what a start without a group is
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupSays {
    /// The file that the jar becomes, or that a template brings where there is no jar; empty = as the jar is called
    pub(crate) jar_file: String,
    /// The name of the software, and its version; empty = not said
    pub(crate) platform: String,
    pub(crate) platform_version: String,
    pub(crate) is_proxy: bool,
    pub(crate) config_format: ConfigFormat,
    /// Where its port comes from; `None` = the configured range
    pub(crate) ports: Option<RangeInclusive<u16>>,
    /// Its folder is kept, and so is its node
    pub(crate) is_static: bool,
    pub(crate) protected_paths: Vec<String>,
    pub(crate) config_patches: Vec<ConfigPatch>,
    /// 0 = the daemon's default
    pub(crate) max_players: i32,
    pub(crate) isolation: Option<RuntimeIsolation>,
    /// Labels that its node has, and that it has not: `key` or `key=value`
    pub(crate) affinity: Vec<String>,
    pub(crate) anti_affinity: Vec<String>,
}

/// What a stop did
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopAnswer {
    Stopping,
    ForceStopping,
    AlreadyStopped,
}

/// Why an order was not carried out
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("no such node")]
    UnknownNode,
    #[error("no such instance")]
    UnknownInstance,
    #[error("the node is not connected")]
    NotConnected,
    #[error("the node is {0}")]
    NotSchedulable(&'static str),
    #[error("{0}")]
    Conflict(String),
    /// This node cannot do it, and another one may
    #[error("{0}")]
    Unsuitable(String),
    /// No node has room for it, for now
    #[error("{0}")]
    NoCapacity(String),
    #[error("no free port from {first} to {last}")]
    NoFreePort { first: u16, last: u16 },
    #[error("{0}")]
    Invalid(String),
    #[error("too many orders wait for this node")]
    Busy,
    #[error("no answer in time; the order may still be carried out, so look before it is repeated")]
    Unanswered,
    #[error("the node's daemon did not answer in time")]
    Silent,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<OrderRefusal> for OrderError {
    fn from(refusal: OrderRefusal) -> Self {
        match refusal {
            OrderRefusal::Denied(reason) => reason.into(),
            OrderRefusal::NotRecorded(CommitFailure::Storage(detail)) => {
                Self::Store(StoreError::Io { detail })
            }
            OrderRefusal::Busy { .. } => Self::Busy,
            other => Self::Conflict(other.to_string()),
        }
    }
}

impl From<DeniedReason> for OrderError {
    fn from(reason: DeniedReason) -> Self {
        match reason {
            DeniedReason::UnknownInstance => Self::UnknownInstance,
            DeniedReason::Invalid(invalid) => Self::Invalid(invalid.to_string()),
            other => Self::Conflict(other.to_string()),
        }
    }
}

impl From<CommandError> for OrderError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NotConnected => Self::NotConnected,
            CommandError::Denied(reason) => reason.into(),
            CommandError::Invalid(invalid) => Self::Invalid(invalid.to_string()),
            other => Self::Conflict(other.to_string()),
        }
    }
}
