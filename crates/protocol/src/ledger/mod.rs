//! Whether a command is sent, sent again, or given up
//!
//! A [`Ledger`] holds the command that is in force for one incarnation of one instance: a start, or a stop that has
//! superseded it. It is a command, not a message: it is sent as often as it takes, and at most one attempt is on its
//! way at any time.
//!
//! ```text
//!                       ┌──────────────── disconnected ──────────────┐
//!                       v                                            │
//!   issue ─────────> Parked ── connected ──> InFlight ── answered ──> Settled ── withdrawn, superseded ──> (none)
//!                       ^                      │  ^   ^                 │
//!                       │                      │  │   └─ issued again ──┘
//!          due while disconnected     rejected │  │ due
//!                       │           unanswered v  │
//!                       └─────────────────── Waiting ── no attempt left, or rejected for good ──> failed
//! ```
//! A stop is never rejected for good; it waits longer. With the stream, it goes from Waiting to Parked.
//!
//! A start is answered by an acknowledgement, or by a report that shows it took effect. `INSTANCE_ALREADY_STARTING`
//! and `INSTANCE_ALREADY_RUNNING` are rejections on the wire and successes here: a repeated start is normal.
//!
//! An attempt that the stream took with it does not count; [`RETRIES`] bounds those that a connected daemon rejected as
//! transient or did not answer.
//!
//! A stop that the daemon *refuses* is another matter: what it refuses to stop runs on, and somebody still wants it
//! stopped. It is asked for as often as any command, and from then on every [`REFUSED_STOP_DELAY`], for as long as the
//! daemon refuses. A refusal is an answer, so attempts that are not answered count from it anew; a new stream is a new
//! chance. A stop that is given up because it is not answered stays known, so that a late answer is still one.
//!
//! While disconnected nothing runs, and while the node is silent nothing falls due:
//! whether to wait for a node is the application's decision.
//!
//! # What a daemon can cost
//! A command that was answered and had no effect goes out [again](Ledger::reissue), but after [`MIN_RETRY_DELAY`] and as
//! one of its attempts. So whatever a daemon says or does not do, one command is at most `1 + RETRIES` messages on one
//! stream, and one incarnation, which can be started, stopped and killed, at most three times as many. What follows then
//! is the verdict of the [lifecycle](crate::instance)'s deadline. A daemon that refuses a stop costs one message more per
//! [`REFUSED_STOP_DELAY`] and gets no verdict, as it says itself that the instance runs.
//!
//! # Invariants
//! Checked after every step by `tests/ledger.rs`:
//! - `at_most_one_live_attempt`: an attempt begins only after the one before it was answered, given up or lost;
//! - `nothing_leaves_while_disconnected`: `poll_dispatch` gives nothing out without a stream;
//! - `retries_are_bounded`, and with it `traffic_is_bounded`: at most `1 + RETRIES` attempts of a command are given out
//!   between two (re)connections, however often it is reissued, and of a refused stop one more per
//!   [`REFUSED_STOP_DELAY`];
//! - `connected_commands_always_have_a_deadline`: unless the node is silent, a command that is in flight or waiting has a timer, and a mute daemon
//!   settles or fails it within its deadlines;
//! - `permanent_is_never_retried`;
//! - `stale_acks_change_nothing`: an acknowledgement of another incarnation, or of nothing, leaves the ledger as it was;
//! - `no_deadline_in_the_past_after_timeout`;
//! - `stop_supersedes_start`: once a stop is issued, no start leaves any more.

mod answer;
mod failure;

use std::time::{Duration, Instant};

use prexorcloud_proto::{StartInstanceAck, StopInstanceAck};

pub use self::answer::{Answer, Expired, Reissue};
pub use self::failure::{Disposition, StartFailure};

use crate::id::{Incarnation, InstanceId};
use crate::instance::Age;
use crate::session::error_code;
use crate::time::Deadline;
use crate::verdict::{DeniedReason, StopMode, Verdict};

/// How often a command is repeated after the first attempt.
pub const RETRIES: u32 = 3;
/// How long a daemon may take to answer a start.
pub const START_ANSWER: Duration = Duration::from_secs(30);
/// How long a daemon may take to answer a stop, by acknowledging it or by reporting `STOPPING`.
pub const STOP_ANSWER: Duration = Duration::from_secs(10);
/// The shortest wait before a rejected command is repeated.
pub const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The wait before a stop is repeated that the daemon has refused `1 + RETRIES` times.
pub const REFUSED_STOP_DELAY: Duration = Duration::from_secs(10);
/// The longest wait that a daemon can ask for.
pub const MAX_RETRY_DELAY: Duration = Duration::from_secs(3600);

/// The rejection that says the instance is being prepared already.
pub const ALREADY_STARTING: &str = error_code::INSTANCE_ALREADY_STARTING;
/// The rejection that says the instance runs already.
pub const ALREADY_RUNNING: &str = error_code::INSTANCE_ALREADY_RUNNING;
/// The error code of a start that the daemon never answered.
pub const UNANSWERED: &str = "START_UNANSWERED";
/// The error code of a start that the daemon took on, and knew nothing of afterwards.
pub const FORGOTTEN: &str = "START_FORGOTTEN";

/// What a command wants
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The instance is to start.
    Start,
    /// The instance is to stop.
    Stop(StopMode),
}

/// Start or stop
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A start.
    Start,
    /// A stop, of either mode.
    Stop,
}

/// What tells one command from another
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId {
    /// The instance.
    pub instance: InstanceId,
    /// Which start of the id the command is about.
    pub incarnation: Incarnation,
    /// Start or stop.
    pub kind: Kind,
}

/// The timers of a ledger
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandTimer {
    /// The daemon has to answer.
    Answer,
    /// A rejected command is to be repeated.
    Retry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Wanted, and without a stream or held back.
    Parked,
    /// An attempt is on its way.
    InFlight { due: Instant },
    /// Rejected, and to be repeated later.
    Waiting { due: Instant },
    /// Answered.
    Settled,
    /// A stop that the daemon did not answer, however often it was told. A late answer counts.
    GivenUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Command {
    order: Order,
    phase: Phase,
    /// How many attempts have begun, not counting those that a stream took with it.
    attempts: u32,
    /// The attempt on its way has not been taken by `poll_dispatch` yet.
    unsent: bool,
    /// The daemon has acknowledged the command; a report may have settled it before.
    acknowledged: bool,
    /// How often the daemon has refused it on this stream.
    refusals: u32,
    /// The last attempt was refused, and the next one does not leave before this.
    refused: Option<Instant>,
    /// Attempts that have left on this stream and were not answered; each may still be.
    unanswered: u32,
}

impl Command {
    const fn new(order: Order, phase: Phase) -> Self {
        Self {
            order,
            phase,
            attempts: 0,
            unsent: false,
            acknowledged: false,
            refusals: 0,
            refused: None,
            unanswered: 0,
        }
    }

    /// How long a stop waits that was answered in vain.
    const fn pause(&self) -> Duration {
        if self.refusals > RETRIES {
            REFUSED_STOP_DELAY
        } else {
            MIN_RETRY_DELAY
        }
    }

    /// The attempt on its way does not get there, through no fault of the daemon's.
    fn park(&mut self) {
        self.phase = Phase::Parked;
        self.unsent = false;
        self.attempts = self.attempts.saturating_sub(1);
    }

    /// Never sent, and not found with the daemon: an answer is about an earlier use of the same id.
    fn is_unknown_to_daemon(&self) -> bool {
        self.attempts == 0 && self.phase != Phase::Settled
    }
}

/// The command in force for one incarnation of one instance
///
/// After every call, [`poll_dispatch`](Self::poll_dispatch) may have something, and [`poll_timeout`](Self::poll_timeout) may
/// have moved.
///
/// ```
/// use std::time::{Duration, Instant};
/// use prexorcloud_protocol::unstable::ledger::{Answer, Ledger, Order};
/// use prexorcloud_protocol::{Incarnation, Verdict, proto::StartInstanceAck};
/// # let now = prexorcloud_testkit::Clock::new().at(std::time::Duration::ZERO);
/// let mut ledger = Ledger::new("lobby-1".parse().unwrap(), Incarnation::new(1));
/// assert_eq!(ledger.issue(now, Order::Start), Verdict::Accepted);
/// assert_eq!(ledger.poll_dispatch(), None);
///
/// ledger.handle_connected(now);
/// assert_eq!(ledger.poll_dispatch(), Some(Order::Start));
/// let busy = StartInstanceAck { error_code: "START_FAILED".into(), retry_after_seconds: 5, ..Default::default() };
/// let five = Duration::from_secs(5);
/// assert_eq!(ledger.handle_start_ack(now, &busy), Answer::Retrying { attempt: 2, after: five });
///
/// assert_eq!(ledger.handle_timeout(now + five), None);
/// assert_eq!(ledger.poll_dispatch(), Some(Order::Start));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    instance: InstanceId,
    incarnation: Incarnation,
    connected: bool,
    /// The daemon does not answer, although there is a stream: nothing falls due.
    silent: bool,
    /// Commands wait although there is a stream.
    held: bool,
    command: Option<Command>,
}

impl Ledger {
    /// An empty ledger, without a stream.
    #[must_use]
    pub const fn new(instance: InstanceId, incarnation: Incarnation) -> Self {
        Self {
            instance,
            incarnation,
            connected: false,
            silent: false,
            held: false,
            command: None,
        }
    }

    /// The command in force.
    #[must_use]
    pub fn command(&self) -> Option<CommandId> {
        let kind = match self.order()? {
            Order::Start => Kind::Start,
            Order::Stop(_) => Kind::Stop,
        };
        Some(CommandId {
            instance: self.instance,
            incarnation: self.incarnation,
            kind,
        })
    }

    /// What the command in force wants.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        self.command.map(|command| command.order)
    }

    /// Whether the command in force has been answered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.command
            .is_some_and(|command| command.phase == Phase::Settled)
    }

    /// Whether a stop was given up because it was not answered; a late answer still counts.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.command
            .is_some_and(|command| command.phase == Phase::GivenUp)
    }

    /// Whether an attempt is on its way, taken by `poll_dispatch` and not answered.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.command
            .is_some_and(|command| matches!(command.phase, Phase::InFlight { .. }) && !command.unsent)
    }

    /// Whether a stop is in force whose next attempt has not left.
    pub(crate) fn is_stop_undelivered(&self) -> bool {
        self.command.is_some_and(|command| {
            let is_to_leave = matches!(command.phase, Phase::Parked | Phase::Waiting { .. });
            matches!(command.order, Order::Stop(_)) && (command.unsent || is_to_leave)
        })
    }

    /// Puts a command in force; a stop supersedes a start, and a forced stop a graceful one.
    pub fn issue(&mut self, now: Instant, order: Order) -> Verdict {
        match (self.order(), order) {
            (Some(current), order) if current == order => return Verdict::AlreadyInEffect,
            (Some(Order::Stop(StopMode::Force)), Order::Stop(StopMode::Graceful)) => {
                return Verdict::AlreadyInEffect;
            }
            (Some(Order::Stop(_)), Order::Start) => {
                return Verdict::Denied(DeniedReason::WrongState {
                    state: crate::instance::State::Stopping,
                });
            }
            _ => {}
        }
        self.begin(now, order);
        Verdict::Accepted
    }

    /// The command in force was answered and had no effect: sends it once more
    ///
    /// This counts as an attempt and waits for [`MIN_RETRY_DELAY`], or for the next stream. A daemon that acknowledges
    /// everything and does nothing is not told for ever.
    pub fn reissue(&mut self, now: Instant) -> Reissue {
        let connected = self.connected;
        let Some(command) = self
            .command
            .as_mut()
            .filter(|command| command.phase == Phase::Settled)
        else {
            return Reissue::Pending;
        };
        if command.attempts > RETRIES {
            return Reissue::Exhausted;
        }
        command.acknowledged = false;
        command.phase = match now.checked_add(command.pause()) {
            Some(due) if connected => Phase::Waiting { due },
            _ => Phase::Parked,
        };
        Reissue::Again
    }

    /// A new stream shows that the command in force has had no effect: it begins anew, with all its attempts.
    pub fn renew(&mut self, now: Instant) {
        if let Some(Command {
            order,
            phase: Phase::Settled | Phase::GivenUp,
            ..
        }) = self.command
        {
            self.begin(now, order);
        }
    }

    /// The daemon has been given `order` already, by a controller that has been restarted since.
    pub fn assume(&mut self, order: Order) {
        self.command.get_or_insert(Command {
            attempts: 1,
            ..Command::new(order, Phase::Settled)
        });
    }

    /// Nothing is wanted any more.
    pub fn withdraw(&mut self) {
        self.command = None;
    }

    /// Keeps a start back although there is a stream, or lets it go. A stop is never held back.
    pub fn hold(&mut self, now: Instant, held: bool) {
        self.held = held;
        if held
            && let Some(command) = &mut self.command
            && command.unsent
            && command.order == Order::Start
        {
            command.park();
        }
        self.resume(now);
    }

    fn begin(&mut self, now: Instant, order: Order) {
        // What was on its way when it was superseded may still be answered.
        let unanswered = match self.command {
            Some(former) if matches!(former.order, Order::Stop(_)) => former.unanswered,
            Some(_) | None => 0,
        };
        self.command = Some(Command {
            unanswered,
            ..Command::new(order, Phase::Parked)
        });
        self.resume(now);
    }

    /// Begins an attempt of a parked command, if it may leave.
    fn resume(&mut self, now: Instant) {
        if self.may_leave()
            && let Some(command) = &mut self.command
            && command.phase == Phase::Parked
        {
            Self::attempt(command, now);
        }
    }

    fn may_leave(&self) -> bool {
        self.connected && !(self.held && self.order() == Some(Order::Start))
    }

    fn attempt(command: &mut Command, now: Instant) {
        command.refused = None;
        command.attempts = command.attempts.saturating_add(1);
        command.unsent = true;
        command.phase = Self::in_flight(command.order, now);
    }

    fn in_flight(order: Order, now: Instant) -> Phase {
        let wait = match order {
            Order::Start => START_ANSWER,
            Order::Stop(_) => STOP_ANSWER,
        };
        Phase::InFlight {
            due: now.checked_add(wait).unwrap_or(now),
        }
    }

    /// A stream has been established, and what is wanted may leave.
    pub fn handle_connected(&mut self, now: Instant) {
        self.connected = true;
        self.silent = false;
        self.resume(now);
    }

    /// The stream is gone, and with it the attempt that was on its way.
    pub fn handle_disconnected(&mut self) {
        self.connected = false;
        self.silent = false;
        self.held = false;
        if let Some(command) = &mut self.command {
            match (command.phase, command.order) {
                (Phase::InFlight { .. }, _) => command.park(),
                (Phase::Waiting { .. }, Order::Stop(_)) => command.phase = Phase::Parked,
                (Phase::Waiting { .. }, Order::Start) => {}
                (Phase::Parked | Phase::Settled | Phase::GivenUp, _) => {}
            }
            // Whatever made the daemon refuse it, a new stream is a new chance.
            (command.refusals, command.refused, command.unanswered) = (0, None, 0);
        }
    }

    /// The daemon does not answer, although there is a stream. Nothing falls due until it does.
    pub fn handle_silence(&mut self) {
        self.silent = self.connected;
    }

    /// The daemon answers again, and is given its time again.
    pub fn handle_heard(&mut self, now: Instant) {
        if std::mem::take(&mut self.silent)
            && let Some(command) = &mut self.command
            && matches!(command.phase, Phase::InFlight { .. })
        {
            command.phase = Self::in_flight(command.order, now);
        }
    }

    /// A report, or the handshake's list, shows that the daemon has the command.
    pub fn handle_evidence(&mut self) {
        if let Some(command) = &mut self.command {
            if matches!(command.phase, Phase::Waiting { .. }) {
                // The daemon goes on by itself, which is an attempt like any other: it may reject that one, too.
                command.attempts = command.attempts.saturating_add(1);
            }
            command.phase = Phase::Settled;
            command.unsent = false;
            // It got there somehow, if only by the stream of an earlier controller process.
            command.attempts = command.attempts.max(1);
        }
    }

    /// The daemon has answered a start.
    pub fn handle_start_ack(&mut self, now: Instant, ack: &StartInstanceAck) -> Answer {
        if let Some(answer) = self.other_incarnation(Incarnation::new(ack.incarnation)) {
            return answer;
        }
        let Some(command) = self
            .command
            .as_mut()
            .filter(|command| command.order == Order::Start)
        else {
            return Answer::Unexpected;
        };
        if command.attempts == 0 {
            // Never sent: this answers an earlier start of the same id.
            return Answer::Unexpected;
        }
        if ack.accepted || matches!(ack.error_code.as_str(), ALREADY_STARTING | ALREADY_RUNNING) {
            return Self::settle(command);
        }
        let asked = Duration::from_secs(u64::try_from(ack.retry_after_seconds).unwrap_or_default());
        self.reject(now, ack.failure_disposition.into(), asked)
    }

    /// The daemon has answered a stop.
    pub fn handle_stop_ack(&mut self, now: Instant, ack: &StopInstanceAck) -> Answer {
        if let Some(answer) = self.other_incarnation(Incarnation::new(ack.incarnation)) {
            return answer;
        }
        let stop = |command: &&mut Command| {
            matches!(command.order, Order::Stop(_)) && !command.is_unknown_to_daemon()
        };
        let Some(command) = self.command.as_mut().filter(stop) else {
            return Answer::Unexpected;
        };
        let answers_an_attempt = command.unanswered > 0;
        command.unanswered = command.unanswered.saturating_sub(1);
        if !ack.accepted {
            return self.refuse(now);
        }
        if matches!(command.phase, Phase::Waiting { .. }) && !answers_an_attempt {
            // It says so once more of an attempt that had no effect.
            return Answer::Repeated;
        }
        Self::settle(command)
    }

    /// The daemon refuses a stop. The contract gives that no disposition, and what runs on is never given up for it.
    fn refuse(&mut self, now: Instant) -> Answer {
        let Some(command) = &mut self.command else {
            return Answer::Unexpected;
        };
        if let Some(due) = command.refused {
            // Once more of the same attempt, whatever it has said meanwhile.
            command.phase = Phase::Waiting { due };
            command.acknowledged = false;
            return Answer::Repeated;
        }
        if matches!(command.phase, Phase::Waiting { .. }) {
            return Answer::Repeated;
        }
        command.refusals = command.refusals.saturating_add(1);
        let (after, refusals) = (command.pause(), command.refusals);
        match self.repeat(now, after) {
            Answer::Retrying { after, .. } => {
                if let Some(command) = &mut self.command {
                    command.attempts = 1;
                    command.refused = now.checked_add(after);
                }
                Answer::Retrying {
                    attempt: refusals.saturating_add(1),
                    after,
                }
            }
            answer => answer,
        }
    }

    fn other_incarnation(&self, given: Incarnation) -> Option<Answer> {
        match Age::of(given, self.incarnation) {
            Age::Older => Some(Answer::Stale),
            Age::Newer => Some(Answer::Newer),
            Age::Current | Age::Unknown => None,
        }
    }

    fn settle(command: &mut Command) -> Answer {
        if std::mem::replace(&mut command.acknowledged, true) && command.phase == Phase::Settled {
            return Answer::Repeated;
        }
        if matches!(command.phase, Phase::Waiting { .. }) {
            command.attempts = command.attempts.saturating_add(1);
        }
        command.phase = Phase::Settled;
        command.unsent = false;
        Answer::Settled
    }

    /// The daemon has rejected a start.
    fn reject(&mut self, now: Instant, disposition: Disposition, asked: Duration) -> Answer {
        let attempts = self.command.map_or(0, |command| command.attempts);
        let is_waiting = matches!(
            self.command,
            Some(Command {
                phase: Phase::Waiting { .. },
                ..
            })
        );
        if !is_waiting && (disposition == Disposition::Permanent || attempts > RETRIES) {
            self.command = None;
            return Answer::Failed;
        }
        self.repeat(now, asked.clamp(MIN_RETRY_DELAY, MAX_RETRY_DELAY))
    }

    /// Also for a command that was settled: a daemon may say "already starting" and fail afterwards.
    fn repeat(&mut self, now: Instant, after: Duration) -> Answer {
        let Some(command) = &mut self.command else {
            return Answer::Unexpected;
        };
        if matches!(command.phase, Phase::Waiting { .. }) {
            return Answer::Repeated;
        }
        let Some(due) = now.checked_add(after) else {
            self.command = None;
            return Answer::Failed;
        };
        command.phase = Phase::Waiting { due };
        command.unsent = false;
        command.acknowledged = false;
        Answer::Retrying {
            attempt: command.attempts.saturating_add(1),
            after,
        }
    }

    /// Lets an expired timer take effect; early and repeated calls are harmless.
    ///
    /// The answer is news only if the daemon let an attempt expire.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Expired> {
        if self.silent {
            return None;
        }
        let may_leave = self.may_leave();
        let command = self.command.as_mut()?;
        match command.phase {
            Phase::Waiting { due } if due <= now => {
                if may_leave {
                    Self::attempt(command, now);
                } else {
                    command.phase = Phase::Parked;
                }
                None
            }
            // The daemon has not been asked yet, so it owes no answer.
            Phase::InFlight { due } if due <= now && command.unsent => {
                command.phase = Self::in_flight(command.order, now);
                None
            }
            Phase::InFlight { due } if due <= now => {
                let order = command.order;
                if command.attempts <= RETRIES && !may_leave {
                    command.phase = Phase::Parked;
                    command.unsent = false;
                    None
                } else if command.attempts <= RETRIES {
                    Self::attempt(command, now);
                    Some(Expired::Retrying {
                        order,
                        attempt: command.attempts,
                    })
                } else {
                    match order {
                        Order::Start => self.command = None,
                        Order::Stop(_) => command.phase = Phase::GivenUp,
                    }
                    Some(Expired::Failed { order })
                }
            }
            Phase::Parked
            | Phase::InFlight { .. }
            | Phase::Waiting { .. }
            | Phase::Settled
            | Phase::GivenUp => None,
        }
    }

    /// The armed timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<CommandTimer>> {
        if self.silent {
            return None;
        }
        match self.command?.phase {
            Phase::InFlight { due } => Some(Deadline {
                at: due,
                timer: CommandTimer::Answer,
            }),
            Phase::Waiting { due } => Some(Deadline {
                at: due,
                timer: CommandTimer::Retry,
            }),
            Phase::Parked | Phase::Settled | Phase::GivenUp => None,
        }
    }

    /// The command that has to leave now, once per attempt.
    #[must_use]
    pub fn poll_dispatch(&mut self) -> Option<Order> {
        let command = self.command.as_mut().filter(|command| command.unsent)?;
        command.unsent = false;
        command.unanswered = command.unanswered.saturating_add(1);
        Some(command.order)
    }

    /// Whether [`poll_dispatch`](Self::poll_dispatch) has something to give.
    #[must_use]
    pub fn has_dispatch(&self) -> bool {
        self.command.is_some_and(|command| command.unsent)
    }
}
