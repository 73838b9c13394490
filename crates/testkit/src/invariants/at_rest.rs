//! What must be true when everything has healed and come to rest

use std::collections::BTreeSet;

use prexorcloud_protocol::Session as _;
use prexorcloud_protocol::instance::{Cause, Desired, State};
use prexorcloud_protocol::session::Class;
use prexorcloud_protocol::{Incarnation, InstanceId};

use super::ensure;
use crate::pair::Pair;
use crate::scenario::Peers;
use crate::side::{ControllerSide, DaemonSide};

/// With nothing in the way, daemon and controller are connected.
pub fn the_session_is_established<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    ensure(pair.is_established(), || "the two are not connected".to_owned())
}

/// In the second half of the quiet time no stream is opened and neither side finds a mistake in what the other says.
pub fn nothing_goes_on_for_ever<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let now = (pair.streams_opened(), pair.mistakes());
    ensure(pair.halfway == Some(now), || {
        format!("streams and mistakes: {:?}, later {now:?}", pair.halfway)
    })
}

fn instances<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> BTreeSet<InstanceId> {
    let daemon = pair.daemon_view().into_iter();
    let processes = daemon.flat_map(|daemon| &daemon.supervisor.disk.processes);
    let processes = processes.map(|process| process.instance);
    let roster = pair.controller().view().and_then(|view| view.roster());
    let known = roster.into_iter().flat_map(|roster| roster.entries());
    let recorded = pair.store().records.keys().copied();
    processes
        .chain(known.map(|known| known.instance()))
        .chain(recorded)
        .collect()
}

/// What the controller believes of each instance is what is true of its process, and what its store says.
pub fn both_sides_agree<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let daemon = shown!(pair.daemon_view());
    let Some(roster) = shown!(pair.controller().view()).roster() else {
        return Err("nobody holds the roster".to_owned());
    };
    for instance in instances(pair) {
        let process = daemon.supervisor.process(instance);
        let known = roster.get(instance);
        let alive = known.filter(|known| !known.is_terminal());
        match (process, alive) {
            (None, None) => {}
            (None, Some(known)) => return Err(format!("{instance} is {} and has no process", known.state())),
            // A Java daemon does not list what it prepares, so that counts as ended, and the operator may have forgotten
            // it before it was up. The next handshake shows it.
            (Some(_), None) if pair.peers().has_java_daemon() && known.is_none() => {}
            (Some(process), None) => {
                let belief = known.map_or("unknown".to_owned(), |known| known.state().to_string());
                return Err(format!(
                    "{instance}#{} is alive and counts as {belief}",
                    process.incarnation
                ));
            }
            (Some(process), Some(known)) => {
                let drained = known.state() == State::Draining && process.state == State::Running;
                let same_state = known.state() == process.state || drained;
                // On a Java node, a server without a plugin says that it is ready on its console and nowhere else, and lines
                // may be lost.
                let unheard = pair.peers().has_java_daemon()
                    && process.behaviour.bare
                    && process.state == State::Running
                    && known.state() == State::Starting;
                // What such a daemon lists and nobody here knows is taken for running: it would say no more of it if it were.
                let adopted = pair.peers() == Peers::JavaDaemon
                    && process.state == State::Starting
                    && known.state() == State::Running
                    && known.incarnation() == Incarnation::UNKNOWN;
                ensure(same_state || unheard || adopted, || {
                    format!("{instance} is {} and counts as {}", process.state, known.state())
                })?;
                let same = pair.peers() != Peers::Rust || process.incarnation == known.incarnation();
                ensure(same, || {
                    format!(
                        "{instance}#{} runs, #{} is believed in",
                        process.incarnation,
                        known.incarnation()
                    )
                })?;
            }
        }
        let recorded = pair.store().records.get(&instance);
        let (recorded, believed) = (
            recorded.map(|record| record.state),
            known.map(|known| known.state()),
        );
        // A drain is a wish that the daemon need not hear of.
        let drained = |state: State| {
            if state == State::Draining {
                State::Running
            } else {
                state
            }
        };
        ensure(recorded.map(drained) == believed.map(drained), || {
            format!("{instance} counts as {believed:?} and is recorded as {recorded:?}")
        })?;
    }
    let orphans: Vec<_> = roster.orphans().map(|orphan| orphan.instance()).collect();
    ensure(orphans.is_empty(), || {
        format!("{orphans:?} are still being stopped")
    })
}

/// Every desired stop has ended its instance, and what is to run runs or has been given up.
pub fn what_was_asked_for_is_so<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let _ = shown!(pair.daemon_view());
    let roster = shown!(shown!(pair.controller().view()).roster());
    for known in roster.entries().filter(|known| !known.is_terminal()) {
        let instance = known.instance();
        ensure(known.desired() == Desired::Run, || {
            format!("{instance} was to stop and is {}", known.state())
        })?;
        let comes_up = known.state().is_coming_up();
        // A Java daemon ends no server that starts for ever, nor does ours for a Java controller.
        let hopeless = pair.peers() != Peers::Rust && known.state() == State::Starting;
        ensure(!comes_up || hopeless, || {
            format!("{instance} has been {} all the time", known.state())
        })?;
    }
    for (instance, record) in &pair.store().records {
        let wanted_gone = record.desired != Desired::Run && !record.state.is_terminal();
        ensure(!wanted_gone, || {
            format!("{instance} was to stop and is recorded as {}", record.state)
        })?;
    }
    Ok(())
}

/// A process that ended because it was asked to is not recorded as crashed by the daemon's report.
pub fn an_asked_stop_is_not_a_crash<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let daemon = shown!(pair.daemon_view());
    for (instance, record) in &pair.store().records {
        let Some(process) = daemon.supervisor.last_process(*instance) else {
            continue;
        };
        let same = process.incarnation.get() == record.start.incarnation;
        let claimed = matches!(
            record.cause,
            Some(Cause::Reported | Cause::CrashReported | Cause::Reconciled)
        );
        if same && claimed && process.state == State::Stopped && record.state == State::Crashed {
            return Err(format!(
                "{instance} stopped as it was asked to and is recorded as crashed"
            ));
        }
    }
    Ok(())
}

/// Every crash report that a daemon made is in the store, under its own id, unless its disk did not take it and it was
/// killed before a controller had it; Java peers have no ids, and may lose some.
pub fn every_crash_is_stored_exactly_once<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let daemon = shown!(pair.daemon_view());
    let _ = shown!(pair.controller().view());
    let (written, stored) = (&daemon.facts.crashes, &pair.store().crashes);
    if pair.peers() != Peers::Rust {
        let reported = daemon.facts.reported;
        return ensure(stored.len() <= reported, || {
            format!("{reported} reports of crashes, {} are stored", stored.len())
        });
    }
    ensure(stored.len() <= written.len(), || {
        format!("{} crashes, {} reports", written.len(), stored.len())
    })?;
    written.iter().try_for_each(|report| {
        let kept = stored.get(&report.report_id);
        let died = kept.is_none() && daemon.facts.died.contains(&report.report_id);
        ensure(died || kept == Some(report), || {
            format!("{} was made and is stored as {kept:?}", report.report_id)
        })
    })
}

/// No report waits in the spool, no record waits for a commit, no event waits for an application.
pub fn nothing_is_left_waiting<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let daemon = shown!(pair.daemon_view());
    let controller = shown!(pair.controller().view());
    let waiting = daemon.supervisor.disk.spool.keys().next();
    ensure(waiting.is_none(), || format!("{waiting:?} waits in the spool"))?;
    ensure(controller.is_quiet, || {
        "the controller still has something to commit".to_owned()
    })?;
    let session = shown!(daemon.session);
    let events = session.events_pending();
    ensure(events == 0, || format!("{events} events wait in the daemon"))?;
    ensure(session.has_room(Class::Control, 1_024), || {
        "the daemon's outbox is full".to_owned()
    })
}
