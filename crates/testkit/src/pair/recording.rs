//! What was said before, said once more: messages of an earlier incarnation or stream

use std::collections::{BTreeMap, VecDeque};

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage, controller_message, daemon_message};
use prexorcloud_protocol::{Incarnation, InstanceId, Received};

use super::Pair;
use super::drive::{name_down, name_up};
use crate::action::Direction;
use crate::scenario::Peers;
use crate::side::{ControllerSide, DaemonSide, Effect, NoEffect};

/// How many messages of each direction are kept.
const KEPT: usize = 512;

/// A message, and the stream that carried it
#[derive(Clone, Debug)]
struct Recorded<M> {
    stream: u32,
    message: M,
}

/// The newest messages of both directions, as they were put on their streams
#[derive(Clone, Debug, Default)]
pub(super) struct Recording {
    up: VecDeque<Recorded<DaemonMessage>>,
    down: VecDeque<Recorded<ControllerMessage>>,
}

fn keep<M>(messages: &mut VecDeque<Recorded<M>>, stream: u32, message: M) {
    if messages.len() == KEPT {
        messages.pop_front();
    }
    messages.push_back(Recorded { stream, message });
}

/// What a message of the daemon is about.
fn subject_up(message: &DaemonMessage) -> Option<(&str, u64)> {
    use daemon_message::Payload;
    match message.payload.as_ref()? {
        Payload::InstanceStatus(update) => Some((&update.instance_id, update.incarnation)),
        Payload::ConsoleOutput(output) => Some((&output.instance_id, output.incarnation)),
        Payload::CrashReport(report) => Some((&report.instance_id, report.incarnation)),
        Payload::StartInstanceAck(ack) => Some((&ack.instance_id, ack.incarnation)),
        Payload::StopInstanceAck(ack) => Some((&ack.instance_id, ack.incarnation)),
        _ => None,
    }
}

/// Whether a message must change nothing while its incarnation is the current one, which is in this state.
///
/// A line has its place among the others. A start that was rejected may be tried again, until it is up.
fn is_lasting(message: &DaemonMessage, state: State) -> bool {
    use daemon_message::Payload;
    match &message.payload {
        Some(Payload::InstanceStatus(_) | Payload::CrashReport(_)) => true,
        Some(Payload::StartInstanceAck(ack)) => {
            ack.accepted || matches!(state, State::Running | State::Draining)
        }
        Some(Payload::StopInstanceAck(ack)) => ack.accepted,
        _ => false,
    }
}

/// Whether it answers a start with no; such an answer is late on its own stream, too.
fn is_rejection(message: &DaemonMessage) -> bool {
    matches!(&message.payload, Some(daemon_message::Payload::StartInstanceAck(ack)) if !ack.accepted)
}

impl Recording {
    pub(super) fn sent_up(&mut self, stream: u32, message: &DaemonMessage) {
        if subject_up(message).is_some() {
            keep(&mut self.up, stream, message.clone());
        }
    }

    pub(super) fn sent_down(&mut self, stream: u32, message: &ControllerMessage) {
        use controller_message::Payload;
        // A second acknowledgement is another matter, and a template only costs room.
        if !matches!(
            message.payload,
            None | Some(Payload::HandshakeAck(_) | Payload::TemplateData(_))
        ) {
            keep(&mut self.down, stream, message.clone());
        }
    }
}

/// One of those that fit: each kind in its turn, and of a kind the newest first, counted around. Lines would hide
/// everything else.
fn pick<M: Clone>(
    fitting: impl DoubleEndedIterator<Item = M>,
    kind: impl Fn(&M) -> &'static str,
    back: usize,
) -> Option<M> {
    let mut kinds: BTreeMap<&'static str, Vec<M>> = BTreeMap::new();
    for message in fitting.rev() {
        kinds.entry(kind(&message)).or_default().push(message);
    }
    let messages = kinds.values().nth(back.checked_rem(kinds.len())?)?;
    let at = (back / kinds.len()).checked_rem(messages.len())?;
    messages.get(at).cloned()
}

impl<D: DaemonSide, C: ControllerSide> Pair<D, C> {
    /// Has one side hear once more what belongs to an earlier incarnation or stream, and must change nothing now.
    pub(super) fn replay(&mut self, direction: Direction, back: usize) -> Effect {
        let had_effect = match direction {
            _ if self.peers != Peers::Rust => false,
            Direction::Up => self.replay_up(back),
            Direction::Down => self.replay_down(back),
        };
        let none = "nothing of an earlier incarnation or stream can be told again";
        had_effect.then_some(()).ok_or_else(|| NoEffect::because(none))
    }

    fn replay_up(&mut self, back: usize) -> bool {
        let current = self.current;
        let stream = self.streams.iter().find(|stream| Some(stream.id) == current);
        let hears = stream.and_then(|stream| self.controllers.get(stream.controller));
        let view = hears.and_then(|seat| seat.host.view());
        let Some(roster) = view.and_then(|view| view.roster()) else {
            return false;
        };
        let fits = |recorded: &&Recorded<DaemonMessage>| {
            let Some((id, incarnation)) = subject_up(&recorded.message) else {
                return false;
            };
            let known = InstanceId::new(id).ok().and_then(|id| roster.get(id));
            known.is_some_and(|known| {
                let told = Incarnation::new(incarnation);
                let is_late = Some(recorded.stream) != current || is_rejection(&recorded.message);
                told.is_known()
                    && (told < known.incarnation()
                        || told == known.incarnation()
                            && is_late
                            && is_lasting(&recorded.message, known.state()))
            })
        };
        let fitting = self.recording.up.iter().filter(fits);
        let kind = |recorded: &&Recorded<DaemonMessage>| name_up(&recorded.message);
        let picked = pick(fitting, kind, back).map(|recorded| recorded.message.clone());
        match picked {
            Some(message) => self.inject_up(Received::from(message)),
            None => false,
        }
    }

    fn replay_down(&mut self, back: usize) -> bool {
        use controller_message::Payload;
        let Some(session) = self.daemon_view().and_then(|view| view.session) else {
            return false;
        };
        let (hosted, highest) = (session.hosted(), session.fence().highest().get());
        let current = self.current;
        let known = |id: &str| {
            let instance = InstanceId::new(id).ok()?;
            Some(hosted.get(instance)?.incarnation.get())
        };
        let fits = |recorded: &&Recorded<ControllerMessage>| match &recorded.message.payload {
            // What a superseded controller said is refused, whatever it is.
            _ if recorded.message.epoch < highest => true,
            Some(Payload::StartInstance(start)) => {
                known(&start.instance_id).is_some_and(|known| known >= start.incarnation)
            }
            Some(Payload::StopInstance(stop)) => {
                known(&stop.instance_id).is_some_and(|known| known >= stop.incarnation)
            }
            // Nobody could tell a command that is typed again from one that is typed twice.
            Some(Payload::SendCommand(command)) => {
                known(&command.instance_id).is_some_and(|known| known > command.incarnation)
            }
            Some(Payload::CrashReportAck(_)) => Some(recorded.stream) != current,
            _ => false,
        };
        let fitting = self.recording.down.iter().filter(fits);
        let kind = |recorded: &&Recorded<ControllerMessage>| name_down(&recorded.message);
        let picked = pick(fitting, kind, back).map(|recorded| recorded.message.clone());
        match picked {
            Some(message) => self.order_at_once(message),
            None => false,
        }
    }
}
