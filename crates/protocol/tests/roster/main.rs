//! The roster of one node, across streams
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]

mod actions;
mod assumptions;
mod bounds;
mod handshakes;
mod invariants;
mod lives;
mod patience;
mod storms;
mod strangers;
mod world;

use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::{Cause, State};
use prexorcloud_protocol::peer::DaemonPeer;
use prexorcloud_protocol::proto::{
    CrashReport, InstanceStatusUpdate, RunningInstance, StartFailureDisposition, StartInstance,
    StartInstanceAck, StopInstance, StopInstanceAck,
};
use prexorcloud_protocol::roster::ReconcilePolicy;
use prexorcloud_protocol::roster::{Dispatch, InstanceEvent, Roster};
use prexorcloud_protocol::{Capabilities, InstanceId, NodeId, Verdict};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const SECOND: Duration = Duration::from_secs(1);

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/roster.txt",
        ))),
        ..ProptestConfig::default()
    }
}

fn rust_peer() -> ReconcilePolicy {
    ReconcilePolicy {
        peer: DaemonPeer::of(Capabilities::SESSION),
        ..Default::default()
    }
}

fn java_peer() -> ReconcilePolicy {
    ReconcilePolicy::default()
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn start(name: &str, incarnation: u64) -> Box<StartInstance> {
    Box::new(StartInstance {
        instance_id: name.into(),
        group: "lobby".into(),
        port: 30_000,
        incarnation,
        ..Default::default()
    })
}

/// A start whose instance may not live for long, if it is `b`.
fn short_lived(name: &str, incarnation: u64) -> Box<StartInstance> {
    let max_lifetime_seconds = if name == "b" { 100 } else { 0 };
    Box::new(StartInstance {
        max_lifetime_seconds,
        ..*start(name, incarnation)
    })
}

fn status(name: &str, incarnation: u64, state: State) -> InstanceStatusUpdate {
    InstanceStatusUpdate {
        instance_id: name.into(),
        state: state.to_wire(),
        incarnation,
        ..Default::default()
    }
}

fn listed(name: &str, incarnation: u64, state: State) -> RunningInstance {
    RunningInstance {
        instance_id: name.into(),
        group: "lobby".into(),
        port: 30_000,
        state: state.to_wire(),
        incarnation,
    }
}

fn started(name: &str, incarnation: u64) -> StartInstanceAck {
    StartInstanceAck {
        instance_id: name.into(),
        accepted: true,
        incarnation,
        ..Default::default()
    }
}

fn start_failed(name: &str, incarnation: u64, disposition: StartFailureDisposition) -> StartInstanceAck {
    StartInstanceAck {
        error_code: "START_FAILED".into(),
        failure_disposition: disposition as i32,
        retry_after_seconds: 5,
        accepted: false,
        ..started(name, incarnation)
    }
}

fn stopped(name: &str, incarnation: u64) -> StopInstanceAck {
    StopInstanceAck {
        instance_id: name.into(),
        accepted: true,
        incarnation,
        ..Default::default()
    }
}

fn crash(name: &str, incarnation: u64) -> CrashReport {
    CrashReport {
        instance_id: name.into(),
        group: "lobby".into(),
        incarnation,
        ..Default::default()
    }
}

fn roster() -> Roster {
    Roster::new(NodeId::new("node-1").unwrap())
}

/// A roster with a stream to a peer that has nothing.
fn connected(now: Instant, policy: &ReconcilePolicy) -> Roster {
    let mut roster = roster();
    roster.handle_handshake(now, &[], policy);
    roster
}

/// A roster in which `name` runs.
fn running(now: Instant, policy: &ReconcilePolicy, name: &str, incarnation: u64) -> Roster {
    let mut roster = connected(now, policy);
    assert_eq!(roster.start(now, start(name, incarnation)), Verdict::Accepted);
    assert_eq!(sent(&mut roster), [format!("start {name} {incarnation}")]);
    let said = if policy.peer.names_incarnations {
        incarnation
    } else {
        0
    };
    assert!(
        roster
            .handle_status(now, &status(name, said, State::Running))
            .is_accepted()
    );
    events(&mut roster);
    roster
}

/// What goes out, in short.
fn sent(roster: &mut Roster) -> Vec<String> {
    std::iter::from_fn(|| roster.poll_dispatch())
        .map(|dispatch| match dispatch {
            Dispatch::Start(start) => format!("start {} {}", start.instance_id, start.incarnation),
            Dispatch::Stop(StopInstance {
                instance_id,
                force,
                incarnation,
            }) => {
                let how = if force { "kill" } else { "stop" };
                format!("{how} {instance_id} {incarnation}")
            }
        })
        .collect()
}

fn events(roster: &mut Roster) -> Vec<InstanceEvent> {
    std::iter::from_fn(|| roster.poll_event()).collect()
}

/// The changes of state among the events, in short.
fn changes(roster: &mut Roster) -> Vec<(State, State, Cause)> {
    events(roster)
        .into_iter()
        .filter_map(|event| match event {
            InstanceEvent::Changed { from, to, cause, .. } => Some((from, to, cause)),
            _ => None,
        })
        .collect()
}

fn state(roster: &Roster, name: &str) -> State {
    roster.get(id(name)).unwrap().state()
}

/// Fires timers until none is armed, at most `limit` times.
fn run_timers(roster: &mut Roster, now: &mut Instant, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..limit {
        let Some(deadline) = roster.poll_timeout() else {
            break;
        };
        *now = (*now).max(deadline.at);
        roster.handle_timeout(*now);
        all.extend(sent(roster));
    }
    all
}
