//! Daemons that announce nothing: they forget their servers when they die, sit on stops, and name no incarnations

use std::time::Duration;

use prexorcloud_protocol::instance::{Desired, State};
use prexorcloud_protocol::node::controller::{Change, Drain, OrderOutcome, OrderRefusal};
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::{
    Handshake, NodeStatus, RunningInstance, StartInstanceAck, StopInstanceAck,
};
use prexorcloud_protocol::roster::{InstanceEvent, RosterEntry};
use prexorcloud_protocol::{ControllerEvent, DeniedReason, StopMode};

use crate::world::*;

fn plain() -> Handshake {
    Handshake {
        capabilities: Vec::new(),
        ..handshake()
    }
}

fn listing_of(id: &str, state: State) -> RunningInstance {
    RunningInstance {
        instance_id: id.into(),
        group: "lobby".into(),
        port: 30_000,
        state: state.to_wire(),
        incarnation: 0,
    }
}

fn listed(state: State) -> Handshake {
    Handshake {
        running_instances: vec![listing_of("lobby-1", state)],
        ..plain()
    }
}

/// With a plain daemon on stream 1, and the instance in that state.
fn world_in(state: State) -> World {
    let mut world = World::new();
    world.connect(1, plain());
    let order = world.start_of();
    assert_eq!(world.answers[&order], Ok(OrderOutcome::Started));
    for seen in [State::Preparing, State::Starting] {
        if seen <= state {
            world.report(1, 0, seen);
        }
    }
    if state == State::Running {
        let now = world.now;
        let _ = world.node.ready(now, lobby());
        world.turn();
    }
    assert_eq!(world.state(), state);
    world.sent(1);
    world.news.clear();
    world.events.clear();
    world.committed.clear();
    world
}

impl World {
    fn start_of(&mut self) -> u64 {
        let highest = self
            .node
            .roster()
            .get(lobby())
            .map_or(0, |known| known.incarnation().get());
        self.start(highest + 1)
    }

    fn figures(&mut self, stream: u64, used_ports: &[i32]) {
        self.receive(
            stream,
            FromDaemon::NodeStatus(NodeStatus {
                instance_count: i32::try_from(used_ports.len()).unwrap(),
                used_ports: used_ports.to_vec(),
                ..Default::default()
            }),
        );
    }

    fn last_note(&self) -> Option<String> {
        let changes = self.committed.iter().flat_map(|commit| &commit.changes);
        changes.rev().find_map(|change| match change {
            Change::Instance(snapshot) => snapshot.note.clone(),
            _ => None,
        })
    }

    /// Long enough for every deadline of a stop, while the daemon answers pings and says of its load what it always says.
    fn sits(&mut self, stream: u64, used_ports: &[i32]) {
        for _ in 0..40 {
            self.answering(Duration::from_secs(10));
            self.figures(stream, used_ports);
        }
    }
}

#[test]
fn what_was_about_to_be_launched_when_the_daemon_died_is_lost_and_not_ordered_again() {
    for state in [State::Preparing, State::Starting, State::Running] {
        let mut world = world_in(state);
        world.disconnect(1);
        world.connect(2, plain());
        assert_eq!(world.state(), State::Crashed, "{state}");
        assert!(world.node.roster().get(lobby()).unwrap().is_lost());
        let starts = |sent: &FromController| matches!(sent, FromController::StartInstance(_));
        assert!(
            !world.sent(2).iter().any(starts),
            "{state}: a second copy of a live server"
        );
        let note = world.last_note().unwrap();
        assert!(
            note.starts_with("lost: ") && note.contains("may still run"),
            "{note}"
        );
        let crashes = world.committed.iter().flat_map(|commit| &commit.changes);
        assert!(
            !crashes
                .into_iter()
                .any(|change| matches!(change, Change::Crash { .. }))
        );
    }
}

#[test]
fn what_had_not_begun_when_the_daemon_died_is_ordered_again() {
    let mut world = world_in(State::Scheduled);
    world.disconnect(1);
    world.connect(2, plain());
    assert_eq!(world.state(), State::Scheduled);
    world.advance(Duration::from_secs(2));
    let sent = world.sent(2);
    assert!(
        sent.iter()
            .any(|sent| matches!(sent, FromController::StartInstance(_))),
        "{sent:?}"
    );
}

#[test]
fn what_counts_as_lost_and_is_listed_again_is_taken_back_also_after_a_restart_of_the_controller() {
    let mut world = world_in(State::Running);
    world.disconnect(1);
    world.connect(2, plain());
    let record = world.committed.iter().flat_map(|commit| &commit.changes).rev();
    let snapshot = record.into_iter().find_map(|change| match change {
        Change::Instance(snapshot) => Some(snapshot.clone()),
        _ => None,
    });
    let snapshot = snapshot.unwrap();
    assert!(snapshot.lost && snapshot.state == State::Crashed && snapshot.desired == Desired::Run);

    let mut next = World::new();
    let entry = RosterEntry {
        start: Box::new(start(snapshot.incarnation.get())),
        state: snapshot.state,
        desired: snapshot.desired,
        lost: snapshot.lost,
    };
    let now = next.now;
    assert!(next.node.restore(now, [entry]).is_empty());
    next.connect(1, listed(State::Starting));
    assert_eq!(next.state(), State::Running);
    assert!(next.stops(1).is_empty());
}

#[test]
fn a_stop_that_the_daemon_sits_on_is_no_end_while_its_own_figures_count_the_server() {
    let mut world = world_in(State::Running);
    world.figures(1, &[30_000]);
    world.stop(StopMode::Graceful);
    world.sits(1, &[30_000]);
    assert_eq!(world.state(), State::Stopping, "it still runs");
    let told = world
        .news
        .iter()
        .filter(|news| matches!(news, InstanceEvent::StillRuns { .. }));
    assert_eq!(told.count(), 1);
    assert!(world.last_note().unwrap().contains("still runs"));
    assert!(
        world.stops(1).iter().filter(|force| **force).count() > 1,
        "it is asked again"
    );
    let forgotten = world.forget();
    assert!(matches!(
        world.answers[&forgotten],
        Err(OrderRefusal::Denied(DeniedReason::StillAlive { .. }))
    ));
    let started = world.start_of();
    assert!(matches!(
        world.answers[&started],
        Err(OrderRefusal::Denied(DeniedReason::StillAlive { .. }))
    ));
    assert!(world.node.ports().any(|port| port == 30_000));

    // It wakes up at last.
    world.receive(1, FromDaemon::StopInstanceAck(stop_ack()));
    world.report(1, 0, State::Stopped);
    assert_eq!(world.state(), State::Stopped);
    assert!(
        !world.node.ports().any(|port| port == 30_000),
        "and its port is free at once"
    );
}

#[test]
fn a_node_with_a_stop_that_nobody_carries_out_is_not_drained() {
    let mut world = world_in(State::Running);
    world.figures(1, &[30_000]);
    let (now, within) = (world.now, Duration::from_secs(30));
    let drain = Drain {
        deadline: now + within,
        shutdown: false,
    };
    world.node.set_drain(now, Some(drain));
    world.turn();
    world.sits(1, &[30_000]);
    assert_eq!((world.drained, world.state()), (0, State::Stopping));
    world.report(1, 0, State::Stopped);
    assert_eq!(world.drained, 1);
}

#[test]
fn a_port_that_the_daemon_says_is_used_is_given_to_nobody() {
    let mut world = World::new();
    world.connect(1, plain());
    world.figures(1, &[30_007]);
    assert!(world.node.ports().any(|port| port == 30_007));
    world.figures(1, &[]);
    assert!(!world.node.ports().any(|port| port == 30_007));
}

#[test]
fn what_counts_as_lost_and_shows_in_the_figures_is_taken_back() {
    let mut world = world_in(State::Running);
    world.disconnect(1);
    world.connect(2, plain());
    assert_eq!(world.state(), State::Crashed);
    world.figures(2, &[30_000]);
    assert_eq!(world.state(), State::Running);
    let refused = world.start_of();
    assert!(matches!(
        world.answers[&refused],
        Err(OrderRefusal::Denied(DeniedReason::StillAlive { .. }))
    ));
}

#[test]
fn what_ended_between_the_handshake_and_its_acknowledgement_shows_in_the_figures() {
    for is_to_stop in [false, true] {
        let mut world = world_in(State::Running);
        if is_to_stop {
            world.stop(StopMode::Graceful);
        }
        world.disconnect(1);
        world.connect(2, listed(State::Starting));
        world.figures(2, &[]);
        let still = if is_to_stop {
            State::Stopping
        } else {
            State::Running
        };
        assert_eq!(world.state(), still, "it may be about to be counted");
        world.figures(2, &[30_000]);
        world.figures(2, &[]);
        assert_eq!(world.state(), still, "twice in a row");
        world.figures(2, &[]);
        let ended = if is_to_stop {
            State::Stopped
        } else {
            State::Crashed
        };
        assert_eq!(world.state(), ended);
    }
}

#[test]
fn load_reports_from_before_the_launch_say_nothing_about_a_server_whose_plugin_was_faster() {
    let mut world = world_in(State::Scheduled);
    let now = world.now;
    let _ = world.node.ready(now, lobby());
    world.turn();
    assert_eq!(world.state(), State::Running);
    // What was held back arrives at last, in its order.
    for _ in 0..3 {
        world.figures(1, &[]);
    }
    assert_eq!(world.state(), State::Running);
    world.report(1, 0, State::Starting);
    world.figures(1, &[30_000]);
    assert_eq!(world.state(), State::Running);
}

#[test]
fn a_daemon_of_ours_tells_its_ends_itself() {
    let mut world = World::connected();
    world.running();
    for _ in 0..4 {
        world.figures(1, &[]);
    }
    assert_eq!(world.state(), State::Running);
}

#[test]
fn what_was_given_up_and_shows_in_the_figures_is_stopped_again() {
    let mut world = world_in(State::Running);
    world.stop(StopMode::Force);
    world.sits(1, &[]);
    assert_eq!(world.state(), State::Stopped, "nothing says that it runs");
    world.sent(1);
    world.figures(1, &[30_000]);
    assert_eq!(world.state(), State::Stopping);
    assert_eq!(world.stops(1), [true]);
}

#[test]
fn what_was_launched_while_its_stop_was_lost_with_the_stream_is_stopped_when_the_figures_show_it() {
    let mut world = world_in(State::Scheduled);
    world.stop(StopMode::Force);
    world.disconnect(1);
    // Its list was written before the launch, and what it said of that before it was acknowledged was lost.
    world.connect(2, plain());
    assert_eq!(world.state(), State::Stopped);
    world.sent(2);
    world.figures(2, &[30_000]);
    assert_eq!(world.state(), State::Stopping);
    assert_eq!(world.stops(2), [true]);
}

#[test]
fn a_stop_of_what_counts_as_lost_asks_the_daemon() {
    let mut world = world_in(State::Running);
    world.disconnect(1);
    world.connect(2, plain());
    assert_eq!(world.state(), State::Crashed);
    let order = world.stop(StopMode::Graceful);
    assert_eq!(
        world.answers[&order],
        Ok(OrderOutcome::Stopping(StopMode::Graceful))
    );
    assert_eq!(world.stops(2), [false]);
    // It knows nothing of it, which it says by accepting the stop.
    world.receive(2, FromDaemon::StopInstanceAck(stop_ack()));
    world.answering(Duration::from_secs(10));
    assert_eq!(world.state(), State::Stopped);
    let again = world.stop(StopMode::Graceful);
    assert_eq!(world.answers[&again], Ok(OrderOutcome::AlreadyEnded));
}

#[test]
fn late_reports_are_nobodys_mistake() {
    let mut world = world_in(State::Running);
    world.stop(StopMode::Graceful);
    world.report(1, 0, State::Stopped);
    world.sent(1);
    for state in [State::Stopping, State::Crashed, State::Stopped] {
        world.report(1, 0, state);
    }
    world.receive(
        1,
        FromDaemon::InstanceStatus(prexorcloud_protocol::proto::InstanceStatusUpdate {
            instance_id: "never-ordered".into(),
            ..status(0, State::Stopped)
        }),
    );
    let reports = |sent: &FromController| matches!(sent, FromController::ErrorReport(_));
    assert!(!world.sent(1).iter().any(reports));
    let ignored = |event: &&ControllerEvent| matches!(event, ControllerEvent::Ignored(_));
    assert!(
        world.events.iter().filter(ignored).count() >= 1,
        "and yet named here"
    );
    assert_eq!(world.state(), State::Stopped);
}

#[test]
fn what_it_says_of_something_that_ended_is_stopped_and_does_not_live_again() {
    let mut world = world_in(State::Running);
    world.stop(StopMode::Graceful);
    world.report(1, 0, State::Stopped);
    world.sent(1);
    world.report(1, 0, State::Running);
    assert_eq!(world.state(), State::Stopped);
    assert_eq!(world.stops(1), [false], "whatever runs there is not wanted");
}

#[test]
fn a_list_that_names_an_id_twice_counts_once() {
    let mut world = World::new();
    world.connect(
        1,
        Handshake {
            running_instances: vec![
                listing_of("lobby-1", State::Starting),
                listing_of("lobby-1", State::Stopping),
                listing_of("../etc", State::Starting),
            ],
            ..plain()
        },
    );
    assert_eq!(world.node.roster().entries().count(), 1);
}

#[test]
fn a_start_whose_reports_were_lost_with_the_stream_is_known_by_the_answer_to_its_repetition() {
    let mut world = world_in(State::Scheduled);
    world.disconnect(1);
    world.connect(2, plain());
    world.advance(Duration::from_secs(2));
    world.sent(2);
    world.receive(
        2,
        FromDaemon::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: "lobby-1".into(),
            accepted: false,
            error_code: "INSTANCE_ALREADY_RUNNING".into(),
            ..Default::default()
        })),
    );
    assert_eq!(world.state(), State::Starting);
    world.sits(2, &[30_000]);
    assert!(world.stops(2).is_empty(), "nobody kills a server that plays");
}

fn stop_ack() -> StopInstanceAck {
    StopInstanceAck {
        instance_id: "lobby-1".into(),
        accepted: true,
        ..Default::default()
    }
}
