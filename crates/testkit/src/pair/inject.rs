//! Messages that no well-behaved peer sends

use prexorcloud_protocol::Received;
use prexorcloud_protocol::compat::PROTOCOL_VERSION;
use prexorcloud_protocol::proto::{
    ConsoleOutput, ControllerMessage, DaemonMessage, ErrorReport, Handshake, HandshakeAck,
    InstanceStatusUpdate, Pong, SendCommand, StartInstance, controller_message, daemon_message,
};
use prost::Message as _;

use super::{End, Pair};
use crate::action::{Direction, Garbage};
use crate::daemon_host::STALE_MARK;
use crate::describe;

impl Pair {
    /// Puts a message on the daemon's current stream as if one of the two had sent it.
    pub(super) fn inject(&mut self, direction: Direction, garbage: Garbage) {
        match direction {
            Direction::Up => {
                let received = self.garbage_up(garbage);
                self.inject_up(received);
            }
            Direction::Down => {
                for received in self.garbage_down(garbage) {
                    self.inject_down(received);
                }
            }
        }
    }

    /// Puts a message of the daemon on its current stream, behind whatever is on its way.
    pub fn inject_up(&mut self, received: Received<DaemonMessage>) {
        let now = self.world.now;
        let current = self.daemon.stream;
        // What a daemon sends before its handshake is another matter, and has tests of its own.
        let open = |stream: &&mut super::Stream| {
            Some(stream.id) == current && stream.daemon_end == End::Open && stream.first_up.is_some()
        };
        if let Some(stream) = self.streams.iter_mut().find(open) {
            let id = stream.id;
            self.world
                .note(|| format!("{id} daemon -> {} (injected)", describe::up(&received.message)));
            let bytes = received.message.encoded_len();
            stream.up.send(now, &mut self.world.rng, received, bytes);
        }
    }

    /// Puts a message of the controller on the daemon's current stream, behind whatever is on its way.
    pub fn inject_down(&mut self, received: Received<ControllerMessage>) {
        let now = self.world.now;
        let current = self.daemon.stream;
        let open = |stream: &&mut super::Stream| {
            Some(stream.id) == current && stream.controller_end == End::Open && stream.first_down.is_some()
        };
        if let Some(stream) = self.streams.iter_mut().find(open) {
            let id = stream.id;
            self.world.note(|| {
                format!(
                    "{id} controller -> {} (injected)",
                    describe::down(&received.message)
                )
            });
            let bytes = received.message.encoded_len();
            stream.down.send(now, &mut self.world.rng, received, bytes);
        }
    }

    fn garbage_up(&self, garbage: Garbage) -> Received<DaemonMessage> {
        use daemon_message::Payload;
        let status = |instance_id: &str, state: i32| {
            Payload::InstanceStatus(InstanceStatusUpdate {
                instance_id: instance_id.to_owned(),
                state,
                ..Default::default()
            })
        };
        let payload = match garbage {
            Garbage::Empty => return Received::from(DaemonMessage::default()),
            Garbage::UnknownVariant(tag) => {
                return Received {
                    message: DaemonMessage::default(),
                    unknown_variant: Some(tag),
                };
            }
            Garbage::Repeated => Payload::Handshake(Box::new(Handshake {
                node_id: self.node.into(),
                version: "testkit".to_owned(),
                protocol_version: PROTOCOL_VERSION,
                ..Default::default()
            })),
            Garbage::UnsafeId => status("../etc", 4),
            Garbage::TooLong => Payload::ConsoleOutput(ConsoleOutput {
                instance_id: "lobby-1".to_owned(),
                line: "x".repeat(70_000),
                ..Default::default()
            }),
            Garbage::OutOfRange => status("lobby-1", 99),
            Garbage::Stranger => status("stranger-1", 4),
            Garbage::Stale => Payload::Pong(Pong { sequence: i64::MAX }),
        };
        Received::from(DaemonMessage {
            payload: Some(payload),
        })
    }

    fn garbage_down(&self, garbage: Garbage) -> Vec<Received<ControllerMessage>> {
        use controller_message::Payload;
        let epoch = self.controller().epoch.get();
        let message = |epoch: u64, payload: Option<Payload>| ControllerMessage {
            payload,
            epoch,
            traceparent: String::new(),
        };
        let command = |instance_id: &str, line: &str| {
            Payload::SendCommand(SendCommand {
                instance_id: instance_id.to_owned(),
                command: line.to_owned(),
                ..Default::default()
            })
        };
        let start = |instance_id: &str, group: &str, port: i32| {
            Payload::StartInstance(Box::new(StartInstance {
                instance_id: instance_id.to_owned(),
                group: group.to_owned(),
                port,
                incarnation: if group == STALE_MARK {
                    u64::from(u32::MAX)
                } else {
                    0
                },
                ..Default::default()
            }))
        };
        let payload = match garbage {
            Garbage::Empty => None,
            Garbage::UnknownVariant(tag) => {
                return vec![Received {
                    message: message(epoch, None),
                    unknown_variant: Some(tag),
                }];
            }
            Garbage::Repeated => {
                let ack = HandshakeAck {
                    protocol_version: PROTOCOL_VERSION,
                    protocol_compatible: true,
                    epoch,
                    ..Default::default()
                };
                Some(Payload::HandshakeAck(Box::new(ack)))
            }
            Garbage::UnsafeId => Some(start("../etc", "simulated", 0)),
            Garbage::TooLong => Some(Payload::ErrorReport(Box::new(ErrorReport {
                error_message: "x".repeat(5_000),
                ..Default::default()
            }))),
            Garbage::OutOfRange => Some(start("lobby-1", "simulated", -1)),
            Garbage::Stranger => Some(command("stranger-1", "list")),
            Garbage::Stale => {
                let Some(stale) = self.highest_epoch.checked_sub(1).filter(|&epoch| epoch > 0) else {
                    return Vec::new();
                };
                let victims = self
                    .daemon
                    .live()
                    .map(|process| process.instance.as_str().to_owned());
                let commands = victims.map(|victim| command(&victim, STALE_MARK));
                let orders = commands.chain([start("stale-1", STALE_MARK, 0)]);
                return orders
                    .map(|order| Received::from(message(stale, Some(order))))
                    .collect();
            }
        };
        vec![Received::from(message(epoch, payload))]
    }
}
