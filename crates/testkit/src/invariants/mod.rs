//! What must be true, by name
//!
//! [`always`] is checked after every step of a [`Pair`], [`at_rest`] at the end of a scenario, when everything has
//! healed and nothing has been done for [`QUIET`](crate::pair::QUIET).

/// What a side shows, or nothing to check.
macro_rules! shown {
    ($view:expr) => {
        match $view {
            Some(view) => view,
            None => return Ok(()),
        }
    };
}

mod at_rest;
mod commands;
mod plain;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prexorcloud_protocol::Session as _;
use prexorcloud_protocol::instance::{LifecycleTimer, State};
use prexorcloud_protocol::node::daemon::StopReason;
use prexorcloud_protocol::roster::{CommandTimer, Due};
use prexorcloud_protocol::session::Class;

use crate::pair::{End, Pair, Stream};
use crate::scenario::Peers;
use crate::side::{ControllerSide, DaemonSide};

pub use at_rest::{
    an_asked_stop_is_not_a_crash, both_sides_agree, every_crash_is_stored_exactly_once,
    nothing_goes_on_for_ever, nothing_is_left_waiting, the_session_is_established, what_was_asked_for_is_so,
};

pub use commands::{
    a_command_said_to_be_written_was, commands_arrive_at_most_once, every_command_is_answered,
};
pub use plain::{
    a_drained_node_is_empty, a_live_server_is_never_called_ended, a_plain_daemon_and_its_controller_agree,
    no_second_copy_of_a_live_server,
};

/// How soon news must arrive when nothing is in their way.
const SOON: Duration = Duration::from_secs(20);
/// How soon an instance that counts as ended must have been stopped: its grace, the kill, and a retry.
const STOPPED_SOON: Duration = Duration::from_secs(120);

/// A named promise
#[derive(Clone, Copy, Debug)]
pub struct Invariant<D, C> {
    /// The name, as in a [`Violation`](crate::Violation).
    pub name: &'static str,
    /// Whether it holds; otherwise a sentence that says what is wrong.
    pub holds: fn(&Pair<D, C>) -> Result<(), String>,
}

macro_rules! invariants {
    ($($name:ident),* $(,)?) => { [$(Invariant { name: stringify!($name), holds: $name::<D, C> }),*] };
}

/// Checked after every step.
#[must_use]
pub fn always<D: DaemonSide, C: ControllerSide>() -> [Invariant<D, C>; 32] {
    invariants![
        one_process_per_instance,
        no_superseded_incarnation_is_started,
        handshake_is_first_up,
        ack_is_first_down,
        epoch_never_regresses,
        deposed_controllers_are_not_obeyed,
        closed_exactly_once,
        outboxes_are_bounded,
        timers_move_on,
        console_belongs_to_the_current_incarnation,
        console_is_in_order_and_gaps_are_visible,
        crashes_are_forgotten_only_when_stored,
        terminal_is_final_per_incarnation,
        operator_state_is_never_touched,
        checked_starts_are_not_denied,
        a_roster_without_a_stream_rests,
        nothing_is_stopped_without_a_wish,
        commands_arrive_at_most_once,
        a_command_said_to_be_written_was,
        own_reports_are_believed,
        reachability_alternates,
        both_sides_agree_soon,
        nothing_leaves_before_its_commit,
        traffic_is_bounded,
        a_rejection_never_touches_what_is_up,
        no_acknowledgement_without_its_record,
        a_graceful_stop_gets_its_grace,
        a_ghost_is_never_counted,
        a_live_server_is_never_called_ended,
        no_second_copy_of_a_live_server,
        a_drained_node_is_empty,
        readiness_is_the_plain_controllers,
    ]
}

/// Checked at the end, when nothing disturbs any more.
#[must_use]
pub fn at_rest<D: DaemonSide, C: ControllerSide>() -> [Invariant<D, C>; 10] {
    invariants![
        the_session_is_established,
        a_ghost_is_never_counted,
        nothing_goes_on_for_ever,
        both_sides_agree,
        a_plain_daemon_and_its_controller_agree,
        what_was_asked_for_is_so,
        an_asked_stop_is_not_a_crash,
        every_crash_is_stored_exactly_once,
        nothing_is_left_waiting,
        every_command_is_answered,
    ]
}

/// The most messages of one stream in one virtual second, console lines aside.
const MESSAGES_PER_SECOND: u32 = 100;
/// The most steps of a whole scenario.
const STEPS: u64 = 5_000_000;

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn none_of(faults: &[String]) -> Result<(), String> {
    faults.first().map_or(Ok(()), |fault| Err(fault.clone()))
}

/// The daemon's application is never told to have two processes of one instance, not even one in preparation beside
/// one that still stops.
pub fn one_process_per_instance<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let daemon = shown!(pair.daemon_view());
    daemon.supervisor.live().try_for_each(|process| {
        ensure(seen.insert(process.instance), || {
            format!("{} has two processes", process.instance)
        })
    })
}

/// Incarnations are launched in rising order, and each of them once. Java peers do not name them.
pub fn no_superseded_incarnation_is_started<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let mut highest = BTreeMap::new();
    let daemon = shown!(pair.daemon_view());
    daemon
        .facts
        .launches
        .iter()
        .filter(|(_, incarnation)| incarnation.is_known())
        .try_for_each(
            |&(instance, incarnation)| match highest.insert(instance, incarnation) {
                Some(before) if before >= incarnation => {
                    Err(format!("{instance}#{incarnation} is launched after #{before}"))
                }
                _ => Ok(()),
            },
        )
}

/// Every stream begins with the daemon's handshake.
pub fn handshake_is_first_up<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    none_of(&pair.departures.before_handshake)
}

/// Whatever the controller says, it says after its acknowledgement.
pub fn ack_is_first_down<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    none_of(&pair.departures.before_ack)
}

/// The daemon never goes back to a lower epoch, also not after a restart, and has written down the one it obeys.
pub fn epoch_never_regresses<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let daemon = shown!(pair.daemon_view());
    let session = shown!(daemon.session);
    let (now, highest) = (session.fence().highest().get(), pair.highest_epoch());
    ensure(now >= highest, || {
        format!("epoch {now} is obeyed after {highest}")
    })?;
    let disk = &daemon.supervisor.disk;
    let written = disk.epoch.get();
    let waits = session.events_pending() > 0 || !session.fence().is_written();
    ensure(waits || written == now, || {
        format!("epoch {now} is obeyed, {written} is written down")
    })
}

/// Once a newer controller has been obeyed, no order of an older one is carried out.
pub fn deposed_controllers_are_not_obeyed<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let daemon = shown!(pair.daemon_view());
    none_of(&daemon.facts.obeyed_stale)
}

/// Each stream's end is told once to either application: not twice, and not never.
pub fn closed_exactly_once<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    if let Some(daemon) = pair.daemon_view() {
        let facts = daemon.facts;
        let told = facts.disconnects + u64::from(pair.has_stream());
        let pending = daemon.session.is_some_and(|session| session.events_pending() > 0);
        let is_told = told == facts.connects || (pending && told < facts.connects);
        ensure(is_told, || {
            let (opened, ends) = (facts.connects, facts.disconnects);
            format!("the daemon opened {opened} streams and was told of {ends} ends")
        })?;
    }
    for (index, controller) in pair.controllers().enumerate() {
        let view = shown!(controller.view());
        for (stream, outcomes) in &view.facts.closed {
            ensure(outcomes.len() == 1, || {
                format!("stream {stream} was closed as {outcomes:?}")
            })?;
        }
        let is_over = |stream: &&Stream| stream.controller == index && stream.controller_end == End::Over;
        for stream in pair.streams().iter().filter(is_over) {
            let told = view.facts.closed.contains_key(&stream.id);
            let session = view.sessions.get(&stream.id);
            let pending = session.is_some_and(|session| session.events_pending() > 0);
            ensure(told || pending, || {
                let id = stream.id;
                format!("controller {} was not told that stream {id} is over", index + 1)
            })?;
        }
    }
    Ok(())
}

/// No session holds more than its bounds, however long its peer does not read. (Looked at once in 16 steps.)
///
/// That is [`Scenario::queue`](crate::Scenario) control messages, and in the daemon 64 of best effort, with one gap
/// record per console.
pub fn outboxes_are_bounded<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    if !pair.steps().is_multiple_of(16) {
        return Ok(());
    }
    let daemon = pair.daemon_view();
    if let Some(mut session) = daemon.and_then(|daemon| daemon.session).cloned() {
        let waiting = std::iter::from_fn(|| session.poll_transmit());
        let classes = waiting
            .filter_map(|message| message.payload)
            .map(|payload| Class::of_daemon(&payload));
        within_bounds("the daemon", pair, classes)?;
    }
    for session in pair.views().flat_map(|view| view.sessions.values()) {
        let mut session = session.clone();
        let waiting = std::iter::from_fn(|| session.poll_transmit());
        let classes = waiting
            .filter_map(|message| message.payload)
            .map(|payload| Class::of_controller(&payload));
        within_bounds("a controller", pair, classes)?;
    }
    Ok(())
}

fn within_bounds<D: DaemonSide, C: ControllerSide>(
    who: &str,
    pair: &Pair<D, C>,
    classes: impl Iterator<Item = Class>,
) -> Result<(), String> {
    let (mut control, mut best_effort) = (0, 0);
    for class in classes {
        match class {
            Class::Control => control += 1,
            Class::BestEffort => best_effort += 1,
            Class::Report | Class::Bulk => {}
        }
    }
    let processes = pair.daemon_view().map(|daemon| &daemon.supervisor.disk.processes);
    let consoles = processes.map_or(0, Vec::len);
    ensure(control <= pair.queue(), || {
        format!("{control} control messages wait in {who}")
    })?;
    ensure(best_effort <= 64 + consoles, || {
        format!("{best_effort} console lines wait in {who}")
    })
}

/// After `handle_timeout(now)` the next deadline is later than `now`, and no moment goes on for ever.
pub fn timers_move_on<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let daemon = pair.daemon_view().map(|daemon| &daemon.facts.busy_timers);
    let controllers = pair.views().map(|view| &view.facts.busy_timers);
    controllers.chain(daemon).try_for_each(|busy| none_of(busy))?;
    ensure(pair.steps_at_this_moment() < 20_000, || {
        "time does not pass any more".to_owned()
    })
}

/// Console lines arrive with rising numbers and the text that was written; a gap record never counts more lines than
/// are missing.
pub fn console_is_in_order_and_gaps_are_visible<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    pair.views()
        .try_for_each(|view| none_of(&view.facts.console_faults))
}

/// A daemon is told to forget a crash report only after a controller has committed it. A Java controller never says
/// so; its daemon forgets what it has sent.
pub fn crashes_are_forgotten_only_when_stored<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    if pair.peers() != Peers::Rust {
        return Ok(());
    }
    let daemon = shown!(pair.daemon_view());
    let _ = shown!(pair.controller().view());
    let stored = &pair.store().crashes;
    daemon.facts.forgotten.iter().try_for_each(|id| {
        ensure(stored.contains_key(id), || {
            format!("{id} is forgotten, and no controller has stored it")
        })
    })
}

/// What was committed as ended is never committed as alive again under the same incarnation.
pub fn terminal_is_final_per_incarnation<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    none_of(&pair.store().revived)
}

/// Whether the node is cordoned is the operator's business; whatever happens to the node leaves it alone.
pub fn operator_state_is_never_touched<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let (now, wanted) = (pair.store().cordoned, pair.cordoned());
    ensure(now == wanted, || {
        format!("cordoned is {now}, the operator said {wanted}")
    })
}

/// What the node machine wants to write never contradicts what it has had written, so a start with a fresh incarnation
/// is recorded; and every record that was written can be restored.
pub fn checked_starts_are_not_denied<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    pair.views().try_for_each(|view| none_of(&view.facts.denied))
}

/// While no session holds a roster, nothing in it waits for the daemon: neither a late start nor a lost stop can be told
/// from a broken cable. Lifetimes go on, and so does the time until a retry that the daemon asked for.
pub fn a_roster_without_a_stream_rests<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    for (index, view) in pair.views().enumerate() {
        let name = format_args!("controller {}", index + 1);
        let away = view.node.filter(|node| node.current_stream().is_none());
        let Some(roster) = away.map(|node| node.roster()) else {
            continue;
        };
        ensure(!roster.is_connected(), || {
            format!("{} holds a roster that believes in a stream", name)
        })?;
        if let Some(deadline) = roster.poll_timeout() {
            // A retry that falls due meanwhile leaves with the next handshake.
            let goes_on = matches!(
                deadline.timer.due,
                Due::Lifecycle(LifecycleTimer::Lifetime) | Due::Command(CommandTimer::Retry)
            );
            ensure(goes_on, || {
                format!("{} waits for {:?} without a stream", name, deadline.timer)
            })?;
        }
    }
    Ok(())
}

/// Every stop that reaches a daemon's application is about an incarnation that a controller has reason to stop: a stop
/// never hits the next use of the same id. Java peers do not name incarnations.
pub fn nothing_is_stopped_without_a_wish<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    if pair.peers() != Peers::Rust {
        return Ok(());
    }
    let daemon = shown!(pair.daemon_view());
    let _ = shown!(pair.controller().view());
    daemon.facts.stops.iter().try_for_each(|stop| {
        let wanted = pair.views().any(|view| view.facts.may_stop.contains(stop));
        ensure(wanted, || {
            format!("{}#{} is stopped, and nobody asked for it", stop.0, stop.1)
        })
    })
}

/// What the supervisor sees of a process is never refused by the daemon's own session.
pub fn own_reports_are_believed<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let daemon = shown!(pair.daemon_view());
    none_of(&daemon.facts.disbelieved)
}

/// On one stream the news are unreachable, recovered, unreachable, and so on.
pub fn reachability_alternates<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    pair.views()
        .try_for_each(|view| none_of(&view.facts.heartbeat_faults))
}

/// When a start leaves, its incarnation is recorded; when a stop leaves of an incarnation that is recorded alive, so is
/// the wish that it stops at least as hard.
pub fn nothing_leaves_before_its_commit<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    none_of(&pair.departures.unrecorded)
}

/// When the acknowledgement of a crash report leaves, the report is stored.
pub fn no_acknowledgement_without_its_record<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    none_of(&pair.departures.unfounded)
}

/// Once the two have been connected for a while with nothing in their way, what has been true of a process for a while
/// is what the controller believes of it.
pub fn both_sides_agree_soon<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let ago = |moment: Duration| pair.now().saturating_sub(moment);
    let calm = ago(pair.undisturbed_since());
    let long_ago = |moment: Duration| ago(moment) >= SOON;
    if pair.peers() != Peers::Rust || calm < SOON {
        return Ok(());
    }
    let daemon = shown!(pair.daemon_view());
    let roster = shown!(shown!(pair.controller().view()).roster());
    let clock = pair.controller_clock();
    for known in roster
        .entries()
        .filter(|known| long_ago(clock.moment_of(known.since())))
    {
        let instance = known.instance();
        let Some(process) = daemon
            .supervisor
            .last_process(instance)
            .filter(|process| long_ago(process.since))
        else {
            continue;
        };
        if process.incarnation != known.incarnation() {
            continue;
        }
        let agreed = match (known.state(), process.state) {
            // The controller may give an instance up, and stops it as an orphan then.
            (ended, _) if ended.is_terminal() => {
                let since = clock.moment_of(known.since());
                !process.is_live() || calm.min(ago(since)) < STOPPED_SOON
            }
            (State::Draining, State::Running) => true,
            // A daemon that cannot write down its controller refuses to stop anything for it.
            (State::Stopping, _) if !long_ago(daemon.supervisor.disk.fails_until) => process.is_live(),
            (known, real) => known == real,
        };
        let (known, real) = (known.state(), process.state);
        ensure(agreed, || {
            format!("{instance} has been {real} for a while and counts as {known}")
        })?;
    }
    Ok(())
}

/// No stream carries more than so many messages in a virtual second (those of a side without a view aside), no moment goes on for ever, and no scenario takes
/// more than so many steps: a loop is found by name.
pub fn traffic_is_bounded<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    none_of(&pair.endless)?;
    let busiest = pair.busiest_second();
    ensure(busiest <= MESSAGES_PER_SECOND, || {
        format!("a stream carried {busiest} messages in one second")
    })?;
    ensure(pair.steps() <= STEPS, || {
        format!("{} steps were not enough", pair.steps())
    })
}

/// The daemon rejects no start whose process is up, and no rejection makes a controller take for ended what is up.
pub fn a_rejection_never_touches_what_is_up<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    none_of(&pair.departures.rejected_live)?;
    pair.views()
        .try_for_each(|view| none_of(&view.facts.rejected_live))
}

/// A process that was asked to stop has its whole grace, unless somebody ordered a forced stop of its instance. (Once a
/// host slept or its clock leapt, nobody can tell how long a grace was.)
pub fn a_graceful_stop_gets_its_grace<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    if pair.time_was_bent() {
        return Ok(());
    }
    let daemon = shown!(pair.daemon_view());
    let mut processes = daemon.supervisor.disk.processes.iter();
    processes.try_for_each(|process| {
        let is_ordered = pair.forced().contains(&process.instance);
        // A Java daemon names no incarnation: what is stopped may be an earlier use of the id, with the grace of the later.
        let later = pair.store().records.get(&process.instance);
        let other_grace = later
            .is_some_and(|record| record.start.shutdown_grace_seconds != process.behaviour.grace_seconds);
        let is_mistaken = pair.peers() == Peers::JavaDaemon && other_grace;
        match process.hurried.filter(|_| !is_ordered && !is_mistaken) {
            Some(asked) => Err(format!(
                "{}#{} was asked to stop at {asked:?} and killed at {:?}",
                process.instance, process.incarnation, process.since
            )),
            None => Ok(()),
        }
    })
}

/// What has ended never stands in the list of what lives, where a Java controller takes everything for running; and at
/// rest such a controller counts nothing as running that has no process.
pub fn a_ghost_is_never_counted<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    none_of(&pair.departures.ghosts)?;
    let plain = shown!(pair.controller().plain().filter(|_| pair.is_at_rest()));
    let daemon = shown!(pair.daemon_view());
    plain.counted.in_state(State::Running).try_for_each(|instance| {
        let is_there = daemon.supervisor.process(instance).is_some();
        ensure(is_there, || {
            format!("{instance} counts as running and has no process")
        })
    })
}

/// No server is stopped for being late where its controller did not ask its daemon to judge that.
pub fn readiness_is_the_plain_controllers<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let is_plain = matches!(pair.peers(), Peers::JavaController | Peers::PlainController);
    let daemon = shown!(pair.daemon_view().filter(|_| is_plain));
    let mut processes = daemon.supervisor.disk.processes.iter();
    processes.try_for_each(|process| {
        ensure(process.stopped_for != Some(StopReason::StartupTimeout), || {
            format!("{} is stopped for not being ready", process.instance)
        })
    })
}

/// A console line that the controller's machine hands on names the incarnation that is current there, or none.
pub fn console_belongs_to_the_current_incarnation<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    pair.views()
        .try_for_each(|view| none_of(&view.facts.misplaced_lines))
}
