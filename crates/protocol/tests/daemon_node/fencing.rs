//! Epochs on their way to the disk, and epochs and incarnations that nobody can have

use std::time::Duration;

use prexorcloud_protocol::handshake::HELD_MESSAGES;
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::{Ping, SendCommand, ShutdownNode, StartFailureDisposition, StopInstance};
use prexorcloud_protocol::{Capabilities, Code, Epoch, Incarnation, Session as _};

use crate::host::{Host, acknowledgement, id, start};

fn connected() -> Host {
    let mut host = Host::new();
    host.connect();
    host.receive(acknowledgement(Capabilities::SESSION), 0);
    host.sent.clear();
    host
}

fn running() -> Host {
    let mut host = connected();
    host.receive(start(0, 1, 30_000), 0);
    host.finish_everything();
    host.sent.clear();
    host
}

fn command(line: &str) -> FromController {
    FromController::SendCommand(SendCommand {
        instance_id: id(0).into(),
        command: line.into(),
        incarnation: 1,
        ..Default::default()
    })
}

fn ping(sequence: i64) -> FromController {
    FromController::Ping(Ping {
        sequence,
        answered: 0,
    })
}

fn stop() -> FromController {
    FromController::StopInstance(StopInstance {
        instance_id: id(0).into(),
        force: false,
        incarnation: 1,
    })
}

/// The codes of the errors that were told.
fn errors(host: &Host) -> Vec<&str> {
    fn code(message: &FromDaemon) -> Option<&str> {
        match message {
            FromDaemon::ErrorReport(report) => Some(&report.error_code),
            _ => None,
        }
    }
    host.sent.iter().filter_map(code).collect()
}

#[test]
fn a_command_waits_until_its_epoch_is_written_and_pings_do_not() {
    let mut host = running();
    host.receive(command("first"), 7);
    host.receive(command("second"), 7);
    host.receive(ping(1), 7);
    assert_eq!(host.commands, [""; 0]);
    assert!(matches!(host.sent[..], [FromDaemon::Pong(_)]));
    host.epoch_written(true);
    assert_eq!(host.commands, ["first", "second"]);
    host.receive(command("third"), 7);
    assert_eq!((host.commands.len(), host.writes), (3, 1));
}

#[test]
fn commands_without_an_epoch_wait_for_that_of_the_acknowledgement() {
    let mut host = Host::new();
    host.connect();
    host.receive(acknowledgement(Capabilities::NONE), 7);
    host.receive(start(0, 0, 30_000), 0);
    assert_eq!(host.preparing(), 0);
    host.epoch_written(true);
    assert_eq!(host.preparing(), 1);
}

#[test]
fn a_command_whose_epoch_cannot_be_written_is_refused_and_may_come_again() {
    let mut host = running();
    host.receive(start(1, 1, 30_001), 7);
    host.receive(stop(), 7);
    host.receive(command("say hi"), 7);
    assert!(host.sent.is_empty());
    host.epoch_written(false);
    let [
        FromDaemon::StartInstanceAck(started),
        FromDaemon::StopInstanceAck(stopped),
        FromDaemon::ErrorReport(report),
    ] = &host.sent[..]
    else {
        panic!("{:?}", host.sent);
    };
    let reason = "epoch 7 cannot be written down: the disk is full";
    assert_eq!(
        (started.accepted, &*started.error_code, &*started.error_message),
        (false, "EPOCH_NOT_WRITTEN", reason)
    );
    assert_eq!(
        started.failure_disposition,
        StartFailureDisposition::Transient as i32
    );
    assert_eq!((stopped.accepted, &*stopped.error_message), (false, reason));
    assert_eq!(
        (&*report.error_code, &*report.error_message),
        ("EPOCH_NOT_WRITTEN", reason)
    );
    assert_eq!(host.preparing(), 0);
    host.receive(stop(), 7);
    host.epoch_written(true);
    host.finish_everything();
    assert!(host.session.hosted().live().next().is_none());
    assert_eq!(host.writes, 2);
}

#[test]
fn a_command_of_a_controller_that_was_deposed_while_it_waited_is_refused() {
    let mut host = running();
    host.receive(command("of the old one"), 7);
    host.receive(command("of the new one"), 8);
    host.epoch_written(true);
    assert_eq!(host.commands, [""; 0]);
    assert_eq!(errors(&host), ["STALE_EPOCH"]);
    host.epoch_written(true);
    assert_eq!(host.commands, ["of the new one"]);
}

#[test]
fn epochs_that_rise_with_every_message_are_written_as_the_disk_has_time() {
    let mut host = running();
    for epoch in 1..=1_000 {
        host.receive(ping(1), epoch);
        host.pass(Duration::from_millis(1));
    }
    assert_eq!(host.writes, 1);
    host.epoch_written(true);
    assert_eq!(host.writes, 2);
    host.epoch_written(true);
    assert_eq!(host.writes, 2);
    host.receive(command("say hi"), 1_000);
    assert_eq!(host.commands, ["say hi"]);
}

#[test]
fn commands_that_wait_are_bounded_and_end_with_their_stream() {
    let mut host = running();
    for _ in 0..=HELD_MESSAGES {
        host.receive(command("say hi"), 7);
    }
    assert_eq!(errors(&host), ["EPOCH_NOT_WRITTEN"]);
    host.disconnect();
    host.connect();
    host.receive(acknowledgement(Capabilities::SESSION), 7);
    host.epoch_written(true);
    assert_eq!(host.commands, [""; 0]);
}

#[test]
fn an_epoch_that_leaves_none_for_a_successor_is_not_obeyed() {
    let mut host = running();
    for epoch in [u64::MAX, Epoch::MAX_OBEYED.get() + 1] {
        host.receive(FromController::ShutdownNode(ShutdownNode::default()), epoch);
    }
    assert_eq!(errors(&host), ["INVALID_MESSAGE"; 2]);
    assert_eq!(host.session.fence().highest(), Epoch::UNFENCED);
    host.receive(command("say hi"), 1);
    host.epoch_written(true);
    assert_eq!(host.commands, ["say hi"]);
    host.receive(ping(1), Epoch::MAX_OBEYED.get());
    assert_eq!(host.session.fence().highest(), Epoch::MAX_OBEYED);
}

#[test]
fn an_acknowledgement_with_such_an_epoch_leads_to_no_session() {
    let mut host = Host::new();
    host.connect();
    host.receive(acknowledgement(Capabilities::SESSION), u64::MAX);
    assert!(!host.session.is_established());
    assert_eq!(host.session.close().unwrap().code, Code::InvalidArgument);
    assert_eq!(host.session.fence().highest(), Epoch::UNFENCED);
}

#[test]
fn a_start_that_leaves_none_for_a_later_one_is_refused() {
    let mut host = connected();
    for incarnation in [u64::MAX, Incarnation::MAX_STARTED.get() + 1] {
        host.receive(start(0, incarnation, 30_000), 0);
        let Some(FromDaemon::StartInstanceAck(ack)) = host.sent.pop() else {
            panic!("{:?}", host.sent);
        };
        assert_eq!(
            (&*ack.error_code, &*ack.error_message),
            ("INVALID_MESSAGE", "start_instance.incarnation is out of range")
        );
        assert_eq!(ack.failure_disposition, StartFailureDisposition::Permanent as i32);
    }
    // A controller goes on above what a peer listed.
    host.receive(start(0, Incarnation::MAX_LISTED.get() + 1, 30_000), 0);
    assert_eq!(host.preparing(), 1);
}
