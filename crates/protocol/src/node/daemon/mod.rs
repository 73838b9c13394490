//! The daemon's node: what is prepared, launched, stopped, spooled, told and let go of
//!
//! ```text
//!  start ──> Queued ──> Preparing ──> Launching ──> Live ──exit──┬────────────────> Ended ──> (settled)
//!               │           │             │                      └─crash─> Spooling ──▲
//!               └───────────┴─cancelled,──┴──> (forgotten)              written or not
//!                          failed, too late
//! ```
//!
//! The machine stands between the session, which has judged the orders already, and those who act: a preparer, a
//! supervisor of processes, a spool of crash reports. It knows no paths, processes or streams. Two rules shape it:
//!
//! - **Write, then act.** Nothing is told of a crash before its report is on disk, or is known not to get there.
//! - **Only facts move deadlines.** A deadline is a moment that was fixed when something happened; work that keeps the
//!   application busy does not push it away.
//!
//! A start waits in `Queued` while a former start of its id is being let go of. An end is let go of when a controller has
//! heard of it: it confirmed the crash report, or the session says [`EndHeard`](crate::DaemonEvent::EndHeard). Time alone
//! never says so.

mod ending;
mod facts;
mod handed;
mod orders;
mod phase;
mod processes;
mod starts;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use prexorcloud_proto::NodeStatus;

#[cfg(doc)]
use crate::DaemonSession;
use crate::id::{Incarnation, InstanceId};
use crate::instance::State;
use crate::instance::lifecycle::{MARGIN, PREPARATION};
use crate::peer::{self, ControllerPeer};
use crate::session::daemon::StatusReport;
use crate::time::Deadline;

pub use ending::{UNOBSERVED, is_crash};
pub use facts::{Adopted, Attempt, Exit, LaunchFailure, Prepared, StopReason};
pub use handed::Handed;
pub use work::{DaemonNodeTimer, DaemonWork, Kept};

use phase::{Entry, Life, Phase, Told};

/// The most instances that are remembered, those whose end is not settled included
///
/// Twice what a session lets live, so that every id can be started once more while its former end waits.
pub const INSTANCES_REMEMBERED: usize = 2 * crate::limits::INSTANCES_PER_NODE;

/// How long a daemon's node machine waits for what
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DaemonNodeConfig {
    /// How long a preparation may take, or as long as the startup if that may take longer. Sooner than the controller
    /// gives up, so that the reason arrives. 590 s.
    pub preparation: Duration,
    /// How long a start waits for its id, while a former start is being let go of. 2 s.
    pub release: Duration,
    /// How long an instance has between the signal to end and the one that cannot be refused; the application keeps it. 10 s.
    pub kill_timeout: Duration,
}

impl Default for DaemonNodeConfig {
    /// 590 s to prepare, 2 s until an id is free, 10 s until an instance is killed.
    fn default() -> Self {
        Self {
            preparation: PREPARATION.saturating_sub(MARGIN.saturating_mul(2)),
            release: Duration::from_secs(2),
            kill_timeout: peer::KILL_TIMEOUT,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shutdown {
    NotOrdered,
    /// Everything is being stopped.
    Draining {
        reason: String,
    },
    Finished,
}

/// Decides what a daemon does about its instances
///
/// Facts go in through `handle_*`. After each, drain [`poll_work`](Self::poll_work) and do the work in its order; work
/// that is answered at once may be answered while draining. Call [`handle_timeout`](Self::handle_timeout) at the deadline
/// from [`poll_timeout`](Self::poll_timeout), which may move after any fact. What of the work is only to be said,
/// [`DaemonWork::hand_to`] says.
///
/// Facts that repeat, come too late, or are about another start of an id change nothing.
///
/// `L` is what a preparation hands to the launch.
///
/// ```
/// use std::time::Duration;
/// use prexorcloud_protocol::node::daemon::{DaemonNode, DaemonWork, DaemonNodeConfig, Prepared};
/// use prexorcloud_protocol::proto::StartInstance;
/// use prexorcloud_protocol::session::daemon::StartOrder;
/// use prexorcloud_protocol::Incarnation;
/// use prexorcloud_testkit::Clock;
///
/// let now = Clock::new().at(Duration::ZERO);
/// let mut node = DaemonNode::new(DaemonNodeConfig::default());
/// node.handle_start(now, StartOrder {
///     instance: "lobby-1".parse()?,
///     group: "lobby".parse()?,
///     incarnation: Incarnation::new(1),
///     start: Box::new(StartInstance { port: 30_000, ..StartInstance::default() }),
///     trace: None,
/// });
/// let attempt = loop {
///     match node.poll_work() {
///         Some(DaemonWork::Prepare { attempt, .. }) => break attempt,
///         Some(DaemonWork::Report(report)) => println!("{} is {}", report.instance, report.state),
///         _ => panic!("a start is prepared"),
///     }
/// };
/// let prepared = Prepared {
///     port: 30_000,
///     grace: Duration::from_secs(30),
///     startup_timeout: Duration::from_secs(60),
///     launch: "java -jar server.jar",
/// };
/// node.handle_prepared(now, attempt, prepared);
/// let launch = DaemonWork::Launch { attempt, launch: "java -jar server.jar" };
/// assert_eq!(node.poll_work(), Some(launch));
/// # Ok::<(), prexorcloud_protocol::InvalidName>(())
/// ```
#[derive(Clone, Debug)]
pub struct DaemonNode<L> {
    config: DaemonNodeConfig,
    /// One entry per id; ordered, so that the same facts lead to the same work.
    entries: BTreeMap<InstanceId, Entry>,
    attempts: u64,
    /// What the controller is that the node is connected to.
    peer: Option<ControllerPeer>,
    /// The session holds as many crash reports as it takes; more are on disk.
    crashes_waiting: bool,
    shutdown: Shutdown,
    outputs: VecDeque<DaemonWork<L>>,
}

impl<L> DaemonNode<L> {
    /// A node without instances, and without a session.
    #[must_use]
    pub fn new(config: DaemonNodeConfig) -> Self {
        Self {
            config,
            entries: BTreeMap::new(),
            attempts: 0,
            peer: None,
            crashes_waiting: false,
            shutdown: Shutdown::NotOrdered,
            outputs: VecDeque::new(),
        }
    }

    /// The next work to do.
    #[must_use]
    pub fn poll_work(&mut self) -> Option<DaemonWork<L>> {
        self.outputs.pop_front()
    }

    /// The earliest deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<DaemonNodeTimer>> {
        let deadlines = self.entries.values().filter_map(Entry::deadline);
        deadlines.min_by_key(|deadline| deadline.at)
    }

    /// Gives up what is too late. Early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |entry: &Entry| entry.deadline().filter(|deadline| deadline.at <= now);
        let due: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(instance, entry)| Some((*instance, is_due(entry)?.timer)))
            .collect();
        for (instance, timer) in due {
            match timer {
                DaemonNodeTimer::Preparation => self.preparation_overdue(instance),
                DaemonNodeTimer::Release => self.release_overdue(instance),
            }
        }
    }

    /// A controller admitted the node: the handshake told of every end, or what follows it does.
    pub fn handle_connected(&mut self, _now: Instant, peer: ControllerPeer) {
        self.peer = Some(peer);
    }

    /// The stream ended.
    pub fn handle_disconnected(&mut self) {
        self.peer = None;
    }

    /// A controller has surely heard of this end, or none ever waits for it.
    pub fn handle_end_heard(&mut self, instance: InstanceId, incarnation: Incarnation) {
        if let Some(entry) = self.entry(instance, incarnation)
            && matches!(&entry.phase, Phase::Ended { told, .. } if *told != Told::Unwritten)
        {
            self.settle(instance);
        }
    }

    /// Has an end let go of, once.
    fn settle(&mut self, instance: InstanceId) {
        if let Some(entry) = self.entries.get_mut(&instance)
            && let Phase::Ended { told, .. } = &mut entry.phase
            && *told != Told::Settling
        {
            *told = Told::Settling;
            let incarnation = entry.incarnation;
            self.outputs.push_back(DaemonWork::Settle {
                instance,
                incarnation,
            });
        }
    }

    /// The supervisor has let go of a start: its id is free.
    pub fn handle_settled(&mut self, now: Instant, instance: InstanceId, incarnation: Incarnation) {
        match self
            .entries
            .get(&instance)
            .map(|entry| (&entry.phase, entry.incarnation))
        {
            Some((Phase::Ended { .. }, current)) if current == incarnation => {
                self.entries.remove(&instance);
            }
            Some((Phase::Queued { former, .. }, _)) if *former == incarnation => self.begin(now, instance),
            _ => {}
        }
    }

    /// What the machine knows of a [`NodeStatus`]: the instances that have a process, and their ports. Whoever measures
    /// processors, memory and disks adds that.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let live = |entry: &Entry| match &entry.phase {
            Phase::Live(life) => Some(i32::from(life.port)),
            _ => None,
        };
        let used_ports: Vec<i32> = self.entries.values().filter_map(live).collect();
        NodeStatus {
            instance_count: i32::try_from(used_ports.len()).unwrap_or(i32::MAX),
            used_ports,
            ..NodeStatus::default()
        }
    }

    /// How many instances have a process or are on their way to one.
    #[must_use]
    pub fn running(&self) -> usize {
        self.entries.values().filter(|entry| entry.is_up()).count()
    }

    /// Takes over an instance of an earlier process of the daemon. The application's session is told by the application.
    ///
    /// Its process may have ended meanwhile; [`handle_exited`](Self::handle_exited) says so then.
    pub fn adopt(&mut self, now: Instant, adopted: &Adopted) {
        if self
            .entries
            .get(&adopted.instance)
            .is_some_and(|entry| entry.is_occupied() || entry.incarnation >= adopted.incarnation)
        {
            return;
        }
        let life = Life {
            port: adopted.port,
            grace: adopted.grace,
            startup_timeout: adopted.startup_timeout,
            // A process can be older than the clock that is read here.
            started: now.checked_sub(adopted.uptime).unwrap_or(now),
            is_ready: adopted.is_ready,
            is_stopping: adopted.is_stopping,
            stopped_for: None,
            asked: None,
        };
        let entry = Entry {
            incarnation: adopted.incarnation,
            stop_owed: false,
            phase: Phase::Live(life),
        };
        self.entries.insert(adopted.instance, entry);
    }

    fn report(&mut self, instance: InstanceId, incarnation: Incarnation, state: State, uptime: Duration) {
        self.outputs.push_back(DaemonWork::Report(StatusReport {
            instance,
            incarnation,
            state,
            player_count: 0,
            uptime,
        }));
    }

    fn acknowledge_stop(&mut self, instance: InstanceId, incarnation: Incarnation) {
        self.outputs.push_back(DaemonWork::AcknowledgeStop {
            instance,
            incarnation,
            result: Ok(()),
        });
    }

    /// The entry of exactly this start of the id.
    fn entry(&mut self, instance: InstanceId, incarnation: Incarnation) -> Option<&mut Entry> {
        self.entries
            .get_mut(&instance)
            .filter(|entry| entry.incarnation == incarnation)
    }

    fn finish_if_drained(&mut self) {
        let Shutdown::Draining { reason } = &mut self.shutdown else {
            return;
        };
        let is_busy = |entry: &Entry| entry.is_up() || matches!(entry.phase, Phase::Spooling { .. });
        if !self.entries.values().any(is_busy) {
            let reason = std::mem::take(reason);
            self.shutdown = Shutdown::Finished;
            self.outputs.push_back(DaemonWork::Finish { reason });
        }
    }
}
