//! Messages that no well-behaved peer sends

use prexorcloud_protocol::Received;
use prexorcloud_protocol::compat::PROTOCOL_VERSION;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::{
    ConsoleOutput, ControllerMessage, DaemonMessage, ErrorReport, Handshake, HandshakeAck,
    InstanceStatusUpdate, Pong, SendCommand, StartInstance, controller_message, daemon_message,
};
use prost::Message as _;

use super::{End, Pair};
use crate::action::{Direction, Garbage};
use crate::describe;
use crate::facts::STALE_MARK;
use crate::scenario::Peers;
use crate::side::{ControllerSide, DaemonSide, Effect, NoEffect};

impl<D: DaemonSide, C: ControllerSide> Pair<D, C> {
    /// Puts a message on the daemon's current stream as if one of the two had sent it.
    pub(super) fn inject(&mut self, direction: Direction, garbage: Garbage) -> Effect {
        let had_effect = match direction {
            Direction::Up => match self.garbage_up(garbage) {
                Some(received) => self.inject_up(received),
                None => false,
            },
            Direction::Down if garbage == Garbage::Rival => self.start_rivals(),
            Direction::Down => {
                let mut any = false;
                for received in self.garbage_down(garbage) {
                    any |= self.inject_down(received);
                }
                any
            }
        };
        let none = "there is no stream for it, or nothing that it could be about";
        had_effect.then_some(()).ok_or_else(|| NoEffect::because(none))
    }

    /// Puts a message of the daemon on its current stream, behind whatever is on its way; says whether there is one.
    pub fn inject_up(&mut self, received: Received<DaemonMessage>) -> bool {
        let now = self.world.now;
        let current = self.current;
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
            return true;
        }
        false
    }

    /// Puts a message of the controller on the daemon's current stream, behind whatever is on its way; says whether there
    /// is one.
    pub fn inject_down(&mut self, received: Received<ControllerMessage>) -> bool {
        let now = self.world.now;
        let current = self.current;
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
            return true;
        }
        false
    }

    fn garbage_up(&self, garbage: Garbage) -> Option<Received<DaemonMessage>> {
        use daemon_message::Payload;
        let status = |instance_id: &str, state: i32| {
            Payload::InstanceStatus(InstanceStatusUpdate {
                instance_id: instance_id.to_owned(),
                state,
                ..Default::default()
            })
        };
        let payload = match garbage {
            Garbage::Empty => return Some(Received::from(DaemonMessage::default())),
            Garbage::UnknownVariant(tag) => {
                return Some(Received {
                    message: DaemonMessage::default(),
                    unknown_variant: Some(tag),
                    refused: None,
                });
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
            Garbage::Rival if self.peers != Peers::Rust => return None,
            Garbage::Rival => {
                let known = self.controller().view()?.roster()?.entries().next()?;
                let earlier = known.incarnation().get().checked_sub(1);
                let earlier = earlier.filter(|&earlier| earlier > 0)?;
                Payload::InstanceStatus(InstanceStatusUpdate {
                    instance_id: known.instance().into(),
                    state: State::Stopped.to_wire(),
                    incarnation: earlier,
                    ..Default::default()
                })
            }
            Garbage::Stale => Payload::Pong(Pong { sequence: i64::MAX }),
        };
        Some(Received::from(DaemonMessage {
            payload: Some(payload),
        }))
    }

    /// Orders a later incarnation of everything that is alive, at once: a little later it might not be alive any more. Says
    /// whether there is anything.
    fn start_rivals(&mut self) -> bool {
        let mut any = false;
        let live = self
            .daemon_view()
            .into_iter()
            .flat_map(|view| view.supervisor.live());
        let rivals: Vec<_> = live
            .map(|process| (process.instance, process.incarnation.get()))
            .collect();
        for (instance, incarnation) in rivals {
            let start = StartInstance {
                instance_id: instance.into(),
                group: "simulated".to_owned(),
                incarnation: if self.peers == Peers::Rust {
                    incarnation + 1
                } else {
                    0
                },
                ..Default::default()
            };
            let payload = controller_message::Payload::StartInstance(Box::new(start));
            any |= self.order_at_once(ControllerMessage {
                payload: Some(payload),
                epoch: self.highest_epoch,
                traceparent: String::new(),
            });
        }
        any
    }

    /// Has the daemon hear something at this very moment, and says whether it can.
    pub(super) fn order_at_once(&mut self, message: ControllerMessage) -> bool {
        if !self.is_established() || self.daemon.is_asleep(self.world.now) {
            return false;
        }
        self.world
            .note(|| format!("daemon <- {} (injected)", describe::down(&message)));
        self.daemon.with(&mut self.world, |host, turn| {
            host.handle_message(turn, message.into())
        });
        true
    }

    fn garbage_down(&self, garbage: Garbage) -> Vec<Received<ControllerMessage>> {
        use controller_message::Payload;
        let epoch = self.highest_epoch;
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
                    refused: None,
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
            Garbage::Rival => return Vec::new(),
            Garbage::Stale => {
                let Some(stale) = self.highest_epoch.checked_sub(1).filter(|&epoch| epoch > 0) else {
                    return Vec::new();
                };
                let live = self
                    .daemon_view()
                    .into_iter()
                    .flat_map(|view| view.supervisor.live());
                let victims = live.map(|process| process.instance.as_str().to_owned());
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
