//! What must be true of a daemon that announces nothing

use prexorcloud_protocol::instance::{Cause, Desired, State};

use super::{ensure, none_of};
use crate::facts::Ended;
use crate::pair::Pair;
use crate::plain::server::Server;
use crate::side::{ControllerSide, DaemonSide};

/// A server that its daemon knows does not count as ended at a controller that had heard of it and has a session with that
/// daemon, unless an operator gave it up. One that the daemon forgot when it died is lost and said so, and never ended by
/// what is said of another.
pub fn a_live_server_is_never_called_ended<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let plain = shown!(pair.daemon().plain());
    let view = shown!(pair.controller().view());
    let now = pair.now();
    let ends = view.facts.ends.iter().rev().take_while(|end| end.at == now);
    for Ended {
        instance,
        incarnation,
        cause,
        ..
    } in ends.filter(|end| end.had_begun)
    {
        let is_it = |server: &&Server| {
            server.instance == *instance && server.ordered == *incarnation && server.launched < now
        };
        // Where its start was carried out twice, the last one counts.
        let last = plain.servers.iter().rev().find(is_it);
        let Some(server) = last.filter(|server| server.is_live()) else {
            continue;
        };
        let is_inferred = matches!(
            cause,
            Cause::Reconciled
                | Cause::StopAcknowledged
                | Cause::StopOverdue
                | Cause::DeclaredLost
                | Cause::Superseded
        );
        let is_excused = if server.is_known {
            *cause == Cause::DeclaredLost || !pair.is_established()
        } else {
            is_inferred
        };
        ensure(is_excused, || {
            let knows = if server.is_known { "known" } else { "forgotten" };
            format!("{instance}#{incarnation} lives, {knows} to its daemon, and has ended by {cause:?}")
        })?;
    }
    Ok(())
}

/// No start is carried out twice once its controller has written down that its daemon had begun.
pub fn no_second_copy_of_a_live_server<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let plain = shown!(pair.daemon().plain());
    if pair.controllers().len() > 1 {
        // It forgets whose orders it obeyed when it dies, so a deposed controller that knows less is obeyed again.
        return Ok(());
    }
    let now = pair.now();
    let copies = plain.copies.iter().rev().take_while(|(at, ..)| *at == now);
    for (_, instance, incarnation) in copies {
        ensure(!pair.store().has_begun(*instance, *incarnation), || {
            format!("{instance}#{incarnation} is launched beside itself")
        })?;
    }
    Ok(())
}

/// A node counts as drained only when its daemon knows of no server that lives.
pub fn a_drained_node_is_empty<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let plain = shown!(pair.daemon().plain());
    let view = shown!(pair.controller().view());
    let is_drained = view.facts.drained.last() == Some(&pair.now());
    let left: Vec<String> = plain
        .known()
        // What has been launched in this very moment, nobody has heard of.
        .filter(|server| view.facts.had_begun(server.instance, server.ordered))
        .map(|server| format!("{} lives on a drained node", server.instance))
        .collect();
    if is_drained && pair.is_established() {
        none_of(&left)?;
    }
    Ok(())
}

/// What the controller believes to live lives, and what its daemon knows to live is believed to.
pub fn a_plain_daemon_and_its_controller_agree<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let plain = shown!(pair.daemon().plain());
    let Some(roster) = shown!(pair.controller().view()).roster() else {
        return Err("nobody holds the roster".to_owned());
    };
    for known in roster.entries() {
        let instance = known.instance();
        let server = plain.known().find(|server| server.instance == instance);
        let (state, recorded) = (known.state(), pair.store().records.get(&instance));
        let agreed = match (known.is_terminal(), server) {
            (true, None) => true,
            // The plugin or the console says it, and lines may be lost.
            (false, Some(server)) => server.is_ready || state != State::Running,
            (true, Some(_)) | (false, None) => false,
        };
        ensure(agreed, || {
            format!("{instance} counts as {state}, and {server:?} is true")
        })?;
        ensure(known.is_terminal() || known.desired() == Desired::Run, || {
            format!("{instance} was to stop and is {state}")
        })?;
        let recorded = recorded.map(|record| record.state);
        let is_drain = |state| matches!(state, State::Running | State::Draining);
        let is_recorded = recorded == Some(state) || (is_drain(state) && recorded.is_some_and(is_drain));
        ensure(is_recorded, || {
            format!("{instance} counts as {state} and is recorded as {recorded:?}")
        })?;
    }
    let orphan = roster.orphans().next().map(|orphan| orphan.instance());
    ensure(orphan.is_none(), || format!("{orphan:?} is still being stopped"))
}
