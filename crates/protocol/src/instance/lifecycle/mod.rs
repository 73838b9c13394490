//! One incarnation of one instance
//!
//! A [`Lifecycle`] holds what was asked for, what was reported, and the deadlines that follow. It knows nothing of
//! messages or retries: it says *that* a stop has to go out ([`LifecycleOutput::Stop`]), the [ledger](crate::unstable::ledger) sees to it
//! that one does.
//!
//! | Timer | Runs | On expiry |
//! |---|---|---|
//! | [`Preparation`](super::LifecycleTimer::Preparation) | in `SCHEDULED`, once the daemon has accepted the start, and in `PREPARING`: [`PREPARATION`], or the startup time if that is longer | [`LifecycleOutput::StartupTimedOut`] and a forced stop |
//! | [`Startup`](super::LifecycleTimer::Startup) | in `STARTING`: `startup_timeout_seconds`, 0 = 60 | the same |
//! | [`Stop`](super::LifecycleTimer::Stop) | in `STOPPING`: `shutdown_grace_seconds` (0 = 30), the time before the [daemon](crate::peer::DaemonPeer::kill_timeout) kills, and a margin, from when the daemon has shown that it has the order, or else from [`ON_ITS_WAY`] later (a forced stop has no grace); begun anew when the daemon [refuses](Lifecycle::handle_stop_refused) | first [`LifecycleOutput::StopOverdue`] and a forced stop, then `CRASHED`, unless the daemon's own figures say that it [lives](Lifecycle::note_lives): then the forced stop once more |
//! | [`Lifetime`](super::LifecycleTimer::Lifetime) | in `RUNNING` and `DRAINING`, and in `STARTING` where `RUNNING` [may never come](DaemonPeer::may_never_say_running): `max_lifetime_seconds`, 0 = none, counted from the start of the process | [`LifecycleOutput::LifetimeOver`] and a graceful stop |
//!
//! # Silence judges nobody
//! All but `Lifetime` wait for the daemon, so they rest while there is no stream, and while the node does not answer on
//! the one there is. Afterwards the daemon is given its time again: it may have been down, or the order may have been
//! lost. Only a graceful stop that the daemon's list shows as begun goes on with what was left of its grace. `Lifetime`
//! is a plan of our own and goes on.
//!
//! # Whose deadline it is
//! A daemon that [keeps the startup deadline](DaemonPeer::keeps_startup_deadline) ends a late server itself, politely
//! first, and says why; the controller's own deadline is later by the time that takes. A daemon that does not
//! [judge readiness](DaemonPeer::judges_readiness) (the Java daemon) is given no deadline in `STARTING`: what is known of its
//! servers comes by [console lines](crate::readiness) that may be lost and by plugins that may be missing, and a server
//! that plays would be killed. Their readiness comes in through [`handle_ready`](Lifecycle::handle_ready).
//!
//! # A refusal ends nothing
//! A daemon may [refuse](Lifecycle::handle_stop_refused) a stop, because it cannot write down who its controller is, say. So
//! the instance runs on, and nothing is overdue: it stays `STOPPING` and ends when the daemon takes the order.
//!
//! # What still runs has not ended
//! A daemon may accept a stop, or leave it without an answer, and not carry it out. Silence about it proves nothing as long
//! as the daemon's [figures](Lifecycle::note_lives) count the server among those that run: it stays `STOPPING`.
//!
//! # What is taken back
//! Two things are believed without having been seen, and are taken back when the very incarnation shows otherwise. An end
//! that was only inferred, because the daemon did not list it or stayed away, makes the instance
//! [lost](Lifecycle::is_lost): when it is listed or reported alive after all, and nobody wants it stopped, it is what it
//! is reported to be. And a stop for a start that takes too long is our own idea: as long as the daemon has neither
//! acknowledged it nor reported `STOPPING`, a report of `RUNNING` was on its way before it, and the server is left alone.
//! Should the daemon carry out the stop all the same, its reports say so.
//!
//! # Invariants
//! Checked after every step by `tests/lifecycle`:
//! - `terminal_is_final`: `STOPPED` and `CRASHED` are never left, unless the end was only assumed, and arm no timer;
//! - `stale_news_changes_nothing`: an observation of another incarnation leaves the machine as it was;
//! - `no_deadline_in_the_past_after_timeout`: after `handle_timeout(now)` every deadline is later than `now`;
//! - `desired_stop_is_eventually_terminal`: with a stream, a wanted stop ends the instance within its deadlines, even
//!   if the daemon never says another word;
//! - `desired_never_relaxes`: a stop that somebody wants is never taken back, and a forced one never becomes graceful;
//! - `requested_drain_survives_reports`: a report of `RUNNING` does not end a drain that was asked for;
//! - `timeouts_do_not_burst`: one late `handle_timeout` changes the state at most once;
//! - `changes_are_chained`: each `Changed` begins where the one before it ended.

mod outputs;
mod phase;
mod timers;

use std::time::{Duration, Instant};

use self::outputs::Outputs;
use self::phase::{Phase, Stop, StopStage};
use super::{
    Age, Cause, CrashVerdict, Desired, Input, Judgement, LifecycleOutput, Limits, Report, Spec, State,
    Transition, transition,
};
use crate::id::{GroupName, Incarnation, InstanceId};
use crate::peer::DaemonPeer;
use crate::verdict::{DeniedReason, StopMode, Verdict};

/// What is added to a daemon's own deadlines before the controller interferes.
pub const MARGIN: Duration = Duration::from_secs(5);
/// How long a daemon may prepare a start that it has accepted; Java daemons say nothing meanwhile.
pub const PREPARATION: Duration = Duration::from_secs(600);
/// How long an order to stop may be on its way before its grace counts as begun, though the daemon has not shown that it
/// has it: as long as it takes to notice that a daemon does not answer at all.
pub const ON_ITS_WAY: Duration = Duration::from_secs(90);
/// How long after a conclusive stop acknowledgement the last state may still arrive.
pub const LATE_REPORT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    /// There is a stream, and the daemon does not answer on it.
    Silent,
    Up,
}

/// The life of one incarnation, as the controller knows it
///
/// After every call, drain [`poll_output`](Self::poll_output); [`poll_timeout`](Self::poll_timeout) may have moved.
///
/// ```
/// use std::time::{Duration, Instant};
/// use prexorcloud_protocol::instance::{Cause, Desired, Lifecycle, Limits, LifecycleOutput, Report, Spec, State};
/// use prexorcloud_protocol::peer::DaemonPeer;
/// use prexorcloud_protocol::{Capabilities, Incarnation, StopMode};
/// # let now = prexorcloud_testkit::Clock::new().at(std::time::Duration::ZERO);
/// let spec = Spec {
///     instance: "lobby-1".parse().unwrap(),
///     group: "lobby".parse().unwrap(),
///     incarnation: Incarnation::new(1),
///     port: 30_000,
///     limits: Limits::default(),
/// };
/// let mut lobby = Lifecycle::new(now, spec);
/// lobby.handle_connected(now, DaemonPeer::of(Capabilities::INCARNATIONS.union(Capabilities::READINESS)));
/// lobby.mark_dispatched();
/// assert!(lobby.handle_report(now, Report { incarnation: Incarnation::new(1), ..Report::of(State::Starting) }).is_accepted());
///
/// // The server hangs. After a minute it is killed.
/// let late = now + Duration::from_secs(60);
/// lobby.handle_timeout(late);
/// assert_eq!(lobby.desired(), Desired::ForceStop);
/// let outputs: Vec<_> = std::iter::from_fn(|| lobby.poll_output()).collect();
/// assert_eq!(outputs[0], LifecycleOutput::StartupTimedOut { limit: Duration::from_secs(60) });
/// assert_eq!(outputs[2], LifecycleOutput::Stop(StopMode::Force));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    spec: Spec,
    desired: Desired,
    phase: Phase,
    /// The daemon may know of this incarnation.
    dispatched: bool,
    /// What the daemon at the other end of the last stream does.
    peer: DaemonPeer,
    player_count: i32,
    uptime: Duration,
    since: Instant,
    link: Link,
    /// The daemon's own figures say that it runs.
    lives: bool,
    outputs: Outputs,
}

impl Lifecycle {
    /// A start that has been decided and has not left yet.
    #[must_use]
    pub fn new(now: Instant, spec: Spec) -> Self {
        Self {
            spec,
            desired: Desired::Run,
            phase: Phase::Scheduled { due: None },
            dispatched: false,
            peer: DaemonPeer::default(),
            player_count: 0,
            uptime: Duration::ZERO,
            since: now,
            link: Link::Down,
            lives: false,
            outputs: Outputs::default(),
        }
    }

    /// An instance as it was recorded before this controller started; the daemon may know of it or not.
    #[must_use]
    pub fn restored(now: Instant, spec: Spec, state: State, desired: Desired) -> Self {
        let mut lifecycle = Self {
            desired,
            dispatched: true,
            ..Self::new(now, spec)
        };
        // A controller that died between the wish and the transition finds its wish again.
        if desired != Desired::Run && !state.is_terminal() {
            lifecycle.enter(now, State::Stopping);
        } else {
            lifecycle.enter(now, state);
        }
        lifecycle.set_drain_requested(true);
        lifecycle.phase.note_seen(state);
        lifecycle
    }

    /// The same, where the end that is recorded was only inferred.
    #[must_use]
    pub const fn as_lost(mut self) -> Self {
        self.phase.set_lost(true);
        self
    }

    /// An instance that only the daemon knew of.
    #[must_use]
    pub fn adopted(now: Instant, spec: Spec, state: State) -> Self {
        Self::restored(now, spec, state, Desired::Run)
    }

    /// The instance.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.spec.instance
    }

    /// The group of the instance.
    #[must_use]
    pub const fn group(&self) -> GroupName {
        self.spec.group
    }

    /// Which start of the id this is.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.spec.incarnation
    }

    /// The port that the instance serves; 0 if unknown.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.spec.port
    }

    /// The deadlines of the instance.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.spec.limits
    }

    /// What was asked for.
    #[must_use]
    pub const fn desired(&self) -> Desired {
        self.desired
    }

    /// What the daemon does at the other end of the present stream, or of the last one.
    pub(crate) const fn peer(&self) -> DaemonPeer {
        self.peer
    }

    pub(crate) const fn spec(&self) -> Spec {
        self.spec
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.phase.state()
    }

    /// Players online, as last reported.
    #[must_use]
    pub const fn player_count(&self) -> i32 {
        self.player_count
    }

    /// How long the process had been running at the last report.
    #[must_use]
    pub const fn uptime(&self) -> Duration {
        self.uptime
    }

    /// When the state was entered.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Whether this incarnation is over.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.state().is_terminal()
    }

    /// Whether this incarnation only counts as ended because nothing was heard of it.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(
            self.phase,
            Phase::Stopped { lost: true } | Phase::Crashed { lost: true }
        )
    }

    /// Whether there is a process, as far as the daemon has been heard.
    pub(crate) const fn has_process(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting { .. }
                | Phase::Running { .. }
                | Phase::Draining { .. }
                | Phase::Stopping(Stop { launched: true, .. })
        )
    }

    /// Whether it has been said that even a kill had no effect.
    pub(crate) const fn is_stop_in_vain(&self) -> bool {
        matches!(self.phase, Phase::Stopping(Stop { is_in_vain: true, .. }))
    }

    /// Whether a drain has been asked for and not been taken back.
    #[must_use]
    pub const fn is_drain_requested(&self) -> bool {
        matches!(self.phase, Phase::Draining { requested: true, .. })
    }

    /// Whether the daemon may know of this incarnation.
    #[must_use]
    pub const fn is_dispatched(&self) -> bool {
        self.dispatched
    }

    /// A stream to the daemon has been established. What it has to do, it is given the time for.
    pub fn handle_connected(&mut self, now: Instant, peer: DaemonPeer) {
        self.link = Link::Up;
        self.peer = peer;
        match self.phase {
            Phase::Scheduled { .. } => self.phase.set_startup_due(None),
            Phase::Preparing { .. } => self.arm_startup(now),
            Phase::Starting { lifetime_due, .. } => {
                self.arm_startup(now);
                let lifetime_due = lifetime_due.or_else(|| self.lifetime_from(now));
                let lifetime_due = lifetime_due.filter(|_| peer.may_never_say_running());
                self.phase.set_lifetime_due(lifetime_due);
            }
            Phase::Stopping(_) => self.arm_stop(now),
            Phase::Running { .. }
            | Phase::Draining { .. }
            | Phase::Stopped { .. }
            | Phase::Crashed { .. } => {}
        }
    }

    /// Whether the daemon's own figures say that the server runs, or that it does not, or nothing.
    pub const fn note_lives(&mut self, lives: bool) {
        self.lives = lives;
    }

    /// The stream is gone.
    pub fn handle_disconnected(&mut self, now: Instant) {
        if let Phase::Stopping(Stop {
            stage: StopStage::Graceful { begun, left },
            due,
            ..
        }) = &mut self.phase
        {
            // An order that was on its way has to be given again, with all of its time.
            let is_known = *begun && self.link == Link::Up;
            *left = due
                .filter(|_| is_known)
                .map(|due| due.saturating_duration_since(now));
        }
        self.phase.unbegin_stop();
        self.rest();
    }

    /// Waits for the daemon no longer; needs no clock, because nothing is armed.
    pub(crate) fn rest(&mut self) {
        self.link = Link::Down;
    }

    /// The daemon does not answer, although there is a stream. Nothing is held against it until it does.
    pub fn handle_silence(&mut self) {
        if self.link == Link::Up {
            self.link = Link::Silent;
        }
    }

    /// The daemon answers again, and is given its time again.
    pub fn handle_heard(&mut self, now: Instant) {
        if self.link != Link::Silent {
            return;
        }
        self.link = Link::Up;
        match &mut self.phase {
            Phase::Scheduled { due: None } => {}
            Phase::Scheduled { .. } | Phase::Preparing { .. } | Phase::Starting { .. } => {
                self.arm_startup(now)
            }
            Phase::Stopping(Stop {
                stage: StopStage::Acknowledged,
                due,
                ..
            }) => *due = now.checked_add(LATE_REPORT),
            Phase::Stopping(_) => self.arm_stop(now),
            Phase::Running { .. }
            | Phase::Draining { .. }
            | Phase::Stopped { .. }
            | Phase::Crashed { .. } => {}
        }
    }

    /// From here on the daemon may know of this incarnation: the start is leaving, or a handshake listed the id.
    pub fn mark_dispatched(&mut self) {
        self.dispatched = true;
    }

    /// The start has to go out again; the daemon holds nothing of it any more.
    pub fn handle_redispatch(&mut self, now: Instant) {
        self.apply(now, Input::Dispatched, Cause::Dispatched);
    }

    /// The daemon has taken the start on.
    pub fn handle_start_accepted(&mut self, now: Instant) {
        self.dispatched = true;
        if self.phase == (Phase::Scheduled { due: None }) && self.link != Link::Down {
            self.arm_startup(now);
        }
    }

    /// The start has failed for good; without effect on a process that was seen: that is stopped as it was going to be.
    pub fn handle_start_failed(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Stopping(Stop { launched: true, .. })) {
            return;
        }
        self.apply(now, Input::StartRejected, Cause::StartFailed);
    }

    /// The daemon has reported.
    pub fn handle_report(&mut self, now: Instant, report: Report) -> Judgement {
        self.observe(now, report, Cause::Reported)
    }

    /// The daemon's list at the handshake has an entry for this instance.
    pub fn handle_listed(&mut self, now: Instant, report: Report) -> Judgement {
        let judgement = self.observe(now, report, Cause::Reconciled);
        if let Phase::Stopping(Stop {
            stage: StopStage::Graceful { left, .. },
            due,
            ..
        }) = &mut self.phase
            && let Some(left) = left.take()
            && judgement.is_accepted()
        {
            // The order got there, and its grace has begun.
            *due = now.checked_add(left);
        }
        judgement
    }

    fn observe(&mut self, now: Instant, report: Report, cause: Cause) -> Judgement {
        let (given, current) = (report.incarnation, self.spec.incarnation);
        match Age::of(given, current) {
            Age::Older => return Judgement::Stale { given, current },
            Age::Newer => return Judgement::Newer { given, current },
            // Without incarnations, an instance that was never asked for can only be an earlier one of the same id.
            Age::Unknown if !self.dispatched => return Judgement::Stale { given, current },
            Age::Unknown | Age::Current => {}
        }
        let judgement = self.see(now, report.state, cause);
        if !judgement.is_accepted() {
            return judgement;
        }
        // Whatever the stream has been seen to carry: the daemon knows it.
        self.dispatched = true;
        self.refresh(now, report);
        judgement
    }

    /// What was seen of the very incarnation.
    fn see(&mut self, now: Instant, seen: State, cause: Cause) -> Judgement {
        let from = self.state();
        let end_was_assumed = self.is_lost() && self.desired == Desired::Run && !seen.is_terminal();
        let stop_was_ours = self.phase.is_stopped_for_late_start() && seen == State::Running;
        let assumed = end_was_assumed || stop_was_ours;
        let (input, cause) = if assumed && seen != State::Scheduled {
            self.desired = Desired::Run;
            self.outputs.forget_stop();
            (Input::TakenBack(seen), Cause::TakenBack)
        } else {
            (Input::Reported(self.heard(seen)), cause)
        };
        let transition = self.apply(now, input, cause);
        if transition != Transition::Illegal {
            // Seen now, and assumed no more.
            self.phase.confirm();
            self.phase.note_seen(seen);
        }
        if transition != Transition::Illegal && seen == State::Stopping {
            self.handle_stop_heard(now);
        }
        match transition {
            Transition::To(to) => Judgement::Applied { from, to },
            Transition::Same => Judgement::Duplicate,
            Transition::Illegal => Judgement::Illegal { state: from, input },
        }
    }

    /// What a report of `seen` means here: draining is our own wish, the daemon sees a running server.
    #[must_use]
    pub const fn heard(&self, seen: State) -> State {
        match (self.phase, seen) {
            (Phase::Draining { requested: true, .. }, State::Running) => State::Draining,
            _ => seen,
        }
    }

    fn refresh(&mut self, now: Instant, report: Report) {
        if report.port != 0 {
            self.spec.port = report.port;
        }
        // Java daemons say 0 whatever the truth is.
        if self.peer.judges_readiness || report.player_count > 0 {
            self.player_count = report.player_count.max(0);
        }
        if report.uptime.is_zero() {
            return;
        }
        self.uptime = report.uptime;
        if let Some(due) = self.phase.lifetime_due()
            && let Some(lifetime) = self.spec.limits.lifetime
        {
            let left = lifetime.saturating_sub(report.uptime);
            let earlier = now.checked_add(left).map_or(due, |earlier| earlier.min(due));
            self.phase.set_lifetime_due(Some(earlier));
        }
    }

    /// The server itself says that it is ready, past the daemon.
    pub fn handle_ready(&mut self, now: Instant) -> Judgement {
        // A plugin repeats itself every few seconds; only the first time is news.
        if matches!(self.state(), State::Running | State::Draining) {
            return Judgement::Duplicate;
        }
        self.see(now, State::Running, Cause::Ready)
    }

    /// A crash report has arrived.
    pub fn handle_crash(&mut self, now: Instant, incarnation: Incarnation) -> CrashVerdict {
        match Age::of(incarnation, self.spec.incarnation) {
            Age::Older | Age::Newer => return CrashVerdict::Stale,
            // A daemon reports PREPARING before anything can crash, so this one is of an earlier life.
            Age::Unknown if self.state() == State::Scheduled => return CrashVerdict::Stale,
            Age::Unknown | Age::Current => {}
        }
        self.apply(now, Input::Reported(State::Crashed), Cause::CrashReported);
        self.phase.confirm();
        CrashVerdict::Current
    }

    /// The daemon has acknowledged a stop
    ///
    /// `conclusive` if it does so after the process is gone (the Java daemon), rather than when it begins. If no last
    /// state follows such an acknowledgement, there was nothing to stop.
    pub fn handle_stop_acknowledged(&mut self, now: Instant, conclusive: bool) {
        self.phase.confirm_stop();
        if !conclusive {
            return self.handle_stop_heard(now);
        }
        if let Phase::Stopping(Stop { stage, due, .. }) = &mut self.phase {
            *stage = StopStage::Acknowledged;
            let soon = now.checked_add(LATE_REPORT);
            *due = match (*due, soon) {
                (Some(due), Some(soon)) => Some(due.min(soon)),
                (due, soon) => due.or(soon),
            };
        }
    }

    /// The daemon has shown that it has the order to stop: from now on the grace runs.
    pub fn handle_stop_heard(&mut self, now: Instant) {
        if self.phase.begin_stop() {
            self.arm_stop(now);
        }
    }

    /// The daemon has refused to stop the instance, and is asked again `after` that: it does not stop yet, so nothing is
    /// overdue. What it does not stop in time after it has accepted the order, or has fallen silent, is.
    pub fn handle_stop_refused(&mut self, now: Instant, after: Duration) {
        self.phase.unbegin_stop();
        if let Some(asked) = now.checked_add(after) {
            self.arm_stop(asked);
        }
    }

    /// The order to stop leaves only now: its time begins anew.
    pub(crate) fn handle_stop_leaves(&mut self, now: Instant) {
        self.arm_stop(now);
    }

    /// The daemon has the instance running although it acknowledged the stop: the stop goes out again, and starts over.
    pub fn handle_stop_repeated(&mut self, now: Instant) {
        self.phase.note_seen(State::Running);
        if self.state() == State::Stopping {
            self.arm_stop(now);
        }
    }

    /// As [`handle_stop_repeated`](Self::handle_stop_repeated), and the stop has been repeated often enough: the
    /// acknowledgement proves nothing, and the deadline stays.
    pub fn handle_stop_contradicted(&mut self) {
        self.phase.note_seen(State::Running);
        let wanted = self.stage_of_desired();
        if let Phase::Stopping(Stop { stage, .. }) = &mut self.phase
            && *stage == StopStage::Acknowledged
        {
            *stage = wanted;
        }
    }

    /// The instance is known to be gone, unexpectedly, or is given up.
    pub fn handle_lost(&mut self, now: Instant, cause: Cause) {
        if let Transition::To(_) = self.apply(now, Input::Lost, cause) {
            self.phase.set_lost(cause != Cause::Superseded);
        }
    }

    /// The instance is known to be gone, as it was meant to be; or is taken to be, where its daemon may have it all the same.
    pub fn handle_gone(&mut self, now: Instant, cause: Cause) {
        let is_inferred = matches!(cause, Cause::Reconciled | Cause::StopAcknowledged);
        if let Transition::To(_) = self.apply(now, Input::Reported(State::Stopped), cause) {
            self.phase.set_lost(is_inferred && !self.peer.finds_its_servers);
        }
    }

    /// Someone wants the instance stopped. One that is [lost](Self::is_lost) is `STOPPING` again, until the daemon has said
    /// what it knows of it.
    pub fn request_stop(&mut self, now: Instant, mode: StopMode) -> Verdict {
        self.stop(now, mode, Cause::Requested)
    }

    fn stop(&mut self, now: Instant, mode: StopMode, cause: Cause) -> Verdict {
        // From now on somebody wants it, so it is not taken back any more.
        self.phase.confirm_stop();
        if self.is_lost() && self.state() == State::Crashed && cause == Cause::Requested {
            // Nobody has seen it end, so its daemon is asked.
            self.desired = self.desired.max(mode.into());
            self.stop_after_all(now);
            return Verdict::Accepted;
        }
        if self.is_terminal() || self.desired >= Desired::from(mode) {
            return Verdict::AlreadyInEffect;
        }
        self.desired = mode.into();
        if self.apply(now, Input::StopRequested, cause) == Transition::Same {
            // Stopping already, but with less determination.
            self.arm_stop(now);
        }
        self.outputs.push(LifecycleOutput::Stop(mode));
        Verdict::Accepted
    }

    /// The daemon's own figures count what was to stop and counts as ended without having been seen to end.
    pub(crate) fn stop_after_all(&mut self, now: Instant) {
        if let Some(mode) = self.desired.stop_mode().filter(|_| self.is_lost()) {
            self.apply(now, Input::TakenBack(State::Stopping), Cause::TakenBack);
            self.outputs.push(LifecycleOutput::Stop(mode));
        }
    }

    /// Someone wants the instance to empty itself.
    pub fn request_drain(&mut self, now: Instant) -> Verdict {
        self.drain(now, Input::DrainRequested)
    }

    /// Someone takes a drain back.
    pub fn cancel_drain(&mut self, now: Instant) -> Verdict {
        self.drain(now, Input::DrainCancelled)
    }

    fn drain(&mut self, now: Instant, input: Input) -> Verdict {
        match self.apply(now, input, Cause::Requested) {
            Transition::Illegal if self.is_terminal() => Verdict::Denied(DeniedReason::AlreadyEnded),
            Transition::Illegal => Verdict::Denied(DeniedReason::WrongState { state: self.state() }),
            // The daemon may have begun the drain itself; from now on it is ours.
            Transition::Same if self.is_drain_requested() == (input == Input::DrainRequested) => {
                Verdict::AlreadyInEffect
            }
            Transition::To(_) | Transition::Same => {
                self.set_drain_requested(input == Input::DrainRequested);
                Verdict::Accepted
            }
        }
    }

    /// The next piece of work or news
    ///
    /// Drain it after every call; it comes in the order in which it came about. Changes that nobody polled are reported as
    /// one, from the first state to the last.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<LifecycleOutput> {
        self.outputs.pop()
    }

    fn apply(&mut self, now: Instant, input: Input, cause: Cause) -> Transition {
        let from = self.state();
        let transition = transition(from, input);
        if let Transition::To(to) = transition {
            self.enter(now, to);
            self.outputs.push_change(from, to, cause);
            if to.is_terminal() {
                self.outputs.forget_stop();
            }
        }
        transition
    }

    /// Without effect unless the instance drains.
    const fn set_drain_requested(&mut self, wanted: bool) {
        if let Phase::Draining { requested, .. } = &mut self.phase {
            *requested = wanted;
        }
    }
}
