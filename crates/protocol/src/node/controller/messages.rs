//! What a daemon's message means for its node

use std::time::{Duration, Instant};

use prexorcloud_proto::ConsoleOutput;

use super::{ControllerNode, ControllerWork, StreamId};
use crate::id::{Incarnation, InstanceId};
use crate::instance::{Age, Judgement};
use crate::peer::DaemonPeer;
use crate::roster::InstanceEvent;
use crate::session::controller::{ControllerEvent, Objection};
use crate::session::{Anomaly, error_code};

impl ControllerNode {
    /// A session has news
    ///
    /// What comes back concerns the application: the news that the machine has no say in, and those that it has acted
    /// upon and the application may want to show. A [`Console`](ControllerEvent::Console) line that comes back belongs to
    /// the present incarnation of an instance of this node. News of a stream that is not current are dropped.
    #[must_use = "what comes back is for the application"]
    pub fn handle_event(
        &mut self,
        now: Instant,
        stream: StreamId,
        event: ControllerEvent,
    ) -> Option<ControllerEvent> {
        let left = match event {
            ControllerEvent::Hello(hello) => {
                self.handle_hello(now, hello);
                return None;
            }
            ControllerEvent::Established => {
                self.handle_established(now, stream);
                self.is_current(stream).then_some(ControllerEvent::Established)
            }
            ControllerEvent::Closed(outcome) => {
                self.handle_closed(now, stream);
                Some(ControllerEvent::Closed(outcome))
            }
            _ if !self.is_current(stream) => None,
            event => self.handle_current(now, stream, event),
        };
        self.settle(now);
        left
    }

    fn handle_current(
        &mut self,
        now: Instant,
        stream: StreamId,
        event: ControllerEvent,
    ) -> Option<ControllerEvent> {
        match event {
            ControllerEvent::Status(update) => {
                let before = self.counts(&update.instance_id);
                let judgement = self.roster.handle_status(now, &update);
                if judgement == Judgement::Duplicate && self.counts(&update.instance_id) != before {
                    self.tell_count(&update.instance_id);
                }
                self.judge(stream, "InstanceStatusUpdate", judgement, update.instance_id);
            }
            ControllerEvent::StartAck(ack) => {
                let judgement = self.roster.handle_start_ack(now, &ack);
                self.judge(stream, "StartInstanceAck", judgement, ack.instance_id);
            }
            ControllerEvent::StopAck(ack) => {
                let judgement = self.roster.handle_stop_ack(now, &ack);
                self.judge(stream, "StopInstanceAck", judgement, ack.instance_id);
            }
            ControllerEvent::Crash(report) => self.handle_crash(now, stream, report),
            ControllerEvent::Console(output) => return self.handle_console(now, stream, output),
            ControllerEvent::NodeStatus(status) => {
                self.roster.handle_figures(now, &status);
                return Some(ControllerEvent::NodeStatus(status));
            }
            ControllerEvent::Unreachable { .. } => {
                self.roster.handle_silence();
                return Some(event);
            }
            ControllerEvent::Recovered { .. } => {
                self.roster.handle_heard(now);
                return Some(event);
            }
            ControllerEvent::HasRoom => {}
            ControllerEvent::Answered => self.handle_answered(now),
            event => return Some(event),
        }
        None
    }

    fn handle_console(
        &mut self,
        now: Instant,
        stream: StreamId,
        output: ConsoleOutput,
    ) -> Option<ControllerEvent> {
        const WHAT: &str = "ConsoleOutput";
        let current = InstanceId::new(&output.instance_id)
            .ok()
            .and_then(|id| self.roster.get(id));
        let Some(current) = current else {
            let anomaly = Anomaly::UnknownInstance { what: WHAT };
            self.object(
                stream,
                anomaly,
                Some(error_code::UNKNOWN_INSTANCE),
                output.instance_id,
            );
            return None;
        };
        match Age::of(Incarnation::new(output.incarnation), current.incarnation()) {
            Age::Current | Age::Unknown => {
                let instance = current.instance();
                let _ = self.roster.handle_line(now, instance, &output.line);
                Some(ControllerEvent::Console(output))
            }
            // Lines of an instance that has just been replaced are normal, and their loss costs nobody anything.
            Age::Older | Age::Newer => {
                self.object(
                    stream,
                    Anomaly::StaleInstance { what: WHAT },
                    None,
                    output.instance_id,
                );
                None
            }
        }
    }

    /// What is counted of an instance.
    fn counts(&self, instance_id: &str) -> Option<(i32, Duration)> {
        let known = self.roster.get(InstanceId::new(instance_id).ok()?)?;
        Some((known.player_count(), known.uptime()))
    }

    /// A report of the same state again is news of what is counted.
    fn tell_count(&mut self, instance_id: &str) {
        let known = InstanceId::new(instance_id).ok();
        if let Some(known) = known.and_then(|instance| self.roster.get(instance))
            && !known.is_terminal()
        {
            self.work.push_back(ControllerWork::News(InstanceEvent::Counted {
                instance: known.instance(),
                incarnation: known.incarnation(),
                player_count: known.player_count(),
                uptime: known.uptime(),
            }));
        }
    }

    fn judge(&mut self, stream: StreamId, what: &'static str, judgement: Judgement, instance_id: String) {
        let (anomaly, code) = match judgement {
            Judgement::Applied { .. } | Judgement::Duplicate => return,
            Judgement::Stale { .. } | Judgement::Newer { .. } => {
                (Anomaly::StaleInstance { what }, error_code::STALE_INCARNATION)
            }
            Judgement::Illegal { state, input } => (
                Anomaly::IllegalTransition { state, input },
                error_code::ILLEGAL_TRANSITION,
            ),
            Judgement::UnknownInstance => (Anomaly::UnknownInstance { what }, error_code::UNKNOWN_INSTANCE),
            Judgement::Invalid(invalid) => (invalid.into(), error_code::INVALID_MESSAGE),
        };
        let is_late = !matches!(anomaly, Anomaly::Invalid(_))
            && self.peer().is_some_and(DaemonPeer::speaks_of_the_past);
        self.object(stream, anomaly, Some(code).filter(|_| !is_late), instance_id);
    }

    pub(super) fn object(
        &mut self,
        stream: StreamId,
        anomaly: Anomaly,
        code: Option<&'static str>,
        context: String,
    ) {
        self.work.push_back(ControllerWork::Object {
            stream,
            objection: Objection {
                anomaly,
                code,
                context,
            },
        });
    }
}
