//! When a server is ready, with a daemon that judges it and with one that does not

use prexorcloud_protocol::instance::{Cause, Judgement, State};
use prexorcloud_protocol::node::controller::{ControllerWork, StreamId};
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::*;
use prexorcloud_protocol::roster::InstanceEvent;
use prexorcloud_protocol::{Capabilities, ControllerEvent, StopMode};

use crate::world::*;

const DONE: &str = "[12:00:07 INFO]: Done (6.217s)! For help, type \"help\"";

fn java() -> Handshake {
    Handshake {
        capabilities: Vec::new(),
        ..handshake()
    }
}

fn line(text: &str) -> FromDaemon {
    FromDaemon::ConsoleOutput(ConsoleOutput {
        instance_id: lobby().to_string(),
        line: text.into(),
        ..Default::default()
    })
}

fn paper() -> StartInstance {
    StartInstance {
        jar_file: "paper-1.21.4.jar".into(),
        ..start(1)
    }
}

/// A Java daemon that has started this, and says no more than that.
fn starting(order: StartInstance) -> World {
    let mut world = World::new();
    world.connect(1, java());
    let id = world.order();
    world.node.start(world.now, id, Box::new(order));
    world.turn();
    for state in [State::Preparing, State::Starting] {
        world.report(1, 0, state);
    }
    assert_eq!(world.state(), State::Starting);
    world.sent(1);
    world.news.clear();
    world.events.clear();
    world
}

fn waiting_for(world: &World) -> String {
    world.node.roster().waiting_for(lobby()).unwrap_or_default()
}

#[test]
fn a_ready_line_from_a_java_node_makes_the_server_ready() {
    let mut world = starting(paper());
    assert_eq!(
        waiting_for(&world),
        "waiting for the ready line (Done (1.2s)! For help) or the plugin's call"
    );
    world.receive(1, line("[12:00:00 INFO]: <Steve> Done (1s)! For help"));
    assert_eq!(world.state(), State::Starting);
    world.receive(1, line(DONE));
    assert_eq!(world.state(), State::Running);
    assert!(matches!(
        world.news[..],
        [InstanceEvent::Changed {
            from: State::Starting,
            to: State::Running,
            cause: Cause::Ready,
            ..
        }]
    ));
    assert_eq!(waiting_for(&world), "");
    let lines = |event: &&ControllerEvent| matches!(event, ControllerEvent::Console(_));
    assert_eq!(
        world.events.iter().filter(lines).count(),
        2,
        "lines are shown all the same"
    );
    world.receive(1, line(DONE));
    assert_eq!(world.news.len(), 1);
}

#[test]
fn a_java_node_is_told_nothing_of_a_plugin_s_call() {
    let mut world = starting(paper());
    assert!(world.node.ready(world.now, lobby()).is_accepted());
    world.turn();
    assert_eq!(world.state(), State::Running);
    assert_eq!(world.sent(1), []);
    assert_eq!(world.node.ready(world.now, lobby()), Judgement::Duplicate);
}

#[test]
fn what_cannot_be_seen_from_here_is_said() {
    let mut port = paper();
    port.readiness = Some(ReadinessRule {
        signal: ReadinessSignal::OpenPort as i32,
        ..Default::default()
    });
    let mut world = starting(port);
    assert!(
        waiting_for(&world).contains("can only be seen on the node"),
        "{}",
        waiting_for(&world)
    );
    world.receive(1, line(DONE));
    assert_eq!(
        world.state(),
        State::Starting,
        "the order says which signal counts"
    );

    let mut world = starting(start(1));
    let before = world.node.roster().waiting_changes();
    world.receive(1, line("Starting minecraft server version 1.21.4"));
    assert!(world.node.roster().waiting_changes() > before);
    assert!(waiting_for(&world).starts_with("waiting for the ready line ("));
}

#[test]
fn a_stop_is_not_taken_back_by_a_line() {
    let mut world = starting(paper());
    world.stop(StopMode::Graceful);
    world.receive(1, line(DONE));
    assert_eq!(world.state(), State::Stopping);
    world.report(1, 0, State::Stopped);
    world.receive(1, line(DONE));
    assert_eq!(world.state(), State::Stopped);
    // The next start of the id, before it has left.
    world.commits_at_once = false;
    world.start(2);
    world.commits.remove(0);
    assert_eq!(world.state(), State::Stopped);
    world.receive(1, line(DONE));
    assert_eq!(world.state(), State::Stopped);
}

#[test]
fn a_start_that_has_not_left_prints_nothing() {
    let mut world = World::new();
    world.connect(1, java());
    world.sent(1);
    // Its record is there, and nothing has left yet.
    let order = world.order();
    world.node.start(world.now, order, Box::new(paper()));
    while let Some(work) = world.node.poll_work() {
        if let ControllerWork::Commit(commit) = work {
            world.node.handle_committed(world.now, commit.id);
        }
    }
    assert_eq!(world.state(), State::Scheduled);
    let now = world.now;
    let output = match line(DONE) {
        FromDaemon::ConsoleOutput(output) => output,
        other => panic!("{other:?}"),
    };
    let event = ControllerEvent::Console(output);
    let _ = world.node.handle_event(now, StreamId::new(1), event);
    assert_eq!(
        world.state(),
        State::Scheduled,
        "what is printed is of an earlier life"
    );
}

#[test]
fn the_lines_of_an_instance_that_nobody_wants_are_its_own() {
    let mut world = starting(paper());
    world.receive(1, crash(0, "r1"));
    assert_eq!(world.state(), State::Crashed);
    // It was not the end: it still runs, and is stopped before the id is started anew.
    world.report(1, 0, State::Starting);
    assert_eq!(world.node.roster().orphans().count(), 1);
    world.start(2);
    world.receive(1, line(DONE));
    assert_eq!(world.state(), State::Scheduled);
}

#[test]
fn lines_that_nobody_heard_are_no_secret() {
    let mut world = starting(paper());
    world.disconnect(1);
    assert_eq!(waiting_for(&world), "");
    let running = RunningInstance {
        instance_id: lobby().to_string(),
        group: "lobby".into(),
        port: 30_000,
        state: State::Starting.to_wire(),
        incarnation: 0,
    };
    world.connect(
        2,
        Handshake {
            running_instances: vec![running],
            ..java()
        },
    );
    assert_eq!(world.state(), State::Starting);
    assert!(
        waiting_for(&world).ends_with("before this controller listened"),
        "{}",
        waiting_for(&world)
    );
    world.receive(2, line(DONE));
    assert_eq!(world.state(), State::Running);
}

#[test]
fn a_daemon_that_judges_is_believed_and_not_its_lines() {
    let mut world = World::connected();
    let order = world.order();
    world.node.start(world.now, order, Box::new(paper()));
    world.turn();
    for state in [State::Preparing, State::Starting] {
        world.report(1, 1, state);
    }
    world.receive(1, line(DONE));
    assert_eq!(world.state(), State::Starting);
    assert_eq!(waiting_for(&world), "", "it has not said");
    let before = world.node.roster().waiting_changes();
    let told = InstanceStatusUpdate {
        waiting_for: "waiting for port 30000".into(),
        ..status(1, State::Starting)
    };
    world.receive(1, FromDaemon::InstanceStatus(told.clone()));
    assert_eq!(waiting_for(&world), "waiting for port 30000");
    assert!(world.node.roster().waiting_changes() > before);
    let before = world.node.roster().waiting_changes();
    world.receive(1, FromDaemon::InstanceStatus(told));
    assert_eq!(world.node.roster().waiting_changes(), before);
    world.report(1, 1, State::Running);
    assert_eq!(waiting_for(&world), "");
}

#[test]
fn a_daemon_that_judges_is_told_of_a_plugin_s_call() {
    let mut world = World::connected();
    assert_eq!(world.node.ready(world.now, lobby()), Judgement::UnknownInstance);
    world.start(1);
    world.report(1, 1, State::Preparing);
    world.sent(1);
    assert_eq!(world.node.ready(world.now, lobby()), Judgement::Duplicate);
    world.turn();
    assert_eq!(world.sent(1), [], "there is no process yet");
    world.report(1, 1, State::Starting);
    assert_eq!(world.node.ready(world.now, lobby()), Judgement::Duplicate);
    world.turn();
    assert_eq!(world.state(), State::Starting, "the daemon will say so");
    let ready = InstanceReady {
        instance_id: lobby().to_string(),
        incarnation: 1,
    };
    assert_eq!(world.sent(1), [FromController::InstanceReady(ready)]);
    world.report(1, 1, State::Running);
    let _ = world.node.ready(world.now, lobby());
    world.turn();
    assert_eq!(world.sent(1), [], "it knows");
}

#[test]
fn an_older_daemon_that_judges_alone_is_not_overruled() {
    let mut world = World::new();
    let alone = Capabilities::INCARNATIONS.union(Capabilities::READINESS);
    world.connect(
        1,
        Handshake {
            capabilities: alone.to_wire(),
            ..handshake()
        },
    );
    world.start(1);
    world.report(1, 1, State::Starting);
    world.sent(1);
    let _ = world.node.ready(world.now, lobby());
    world.turn();
    // It would end the server at its own deadline all the same.
    assert_eq!((world.state(), world.sent(1)), (State::Starting, Vec::new()));
}
