//! What the daemon reports, on its way to the application

use std::time::Instant;

use prexorcloud_proto::{ConsoleOutput, DaemonMessage, daemon_message};

use super::{ControllerEvent, ControllerSession, CrashStanding, DaemonRequest, Link};
use crate::handshake::controller::Refusal;
use crate::id::{Incarnation, InstanceId};
use crate::instance::{Age, Judgement};
use crate::roster::CrashVerdict;
use crate::session::{Anomaly, error_code, kind};
use crate::validate;

impl ControllerSession {
    pub(super) fn handle_established(&mut self, now: Instant, message: DaemonMessage) {
        use daemon_message::Payload;
        let Some(payload) = message.payload.filter(|_| self.is_established()) else {
            return;
        };
        if let Payload::Handshake(_) = payload {
            return self.refuse_stream(Refusal::Repeated);
        }
        if let Err(invalid) = validate::daemon(&payload) {
            // An error is never answered with an error: two confused peers would not stop.
            let code = (!matches!(payload, Payload::ErrorReport(_))).then_some(error_code::INVALID_MESSAGE);
            return self.note(now, invalid.into(), code, kind::of_daemon(&payload));
        }
        let event = match payload {
            Payload::Handshake(_) => return,
            Payload::Pong(pong) => return self.handle_pong(now, pong.sequence),
            Payload::InstanceStatus(_)
            | Payload::StartInstanceAck(_)
            | Payload::StopInstanceAck(_)
            | Payload::CrashReport(_) => return self.handle_instance(now, payload),
            Payload::ConsoleOutput(output) => return self.handle_console(now, output),
            Payload::NodeStatus(status) => ControllerEvent::NodeStatus(status),
            Payload::TemplateRequest(request) => DaemonRequest::Template(request).into(),
            Payload::CacheStatus(status) => DaemonRequest::Cache(status).into(),
            Payload::ErrorReport(report) => ControllerEvent::DaemonError(report),
            Payload::ShutdownNodeAck(ack) => ControllerEvent::ShutdownAcknowledged(ack),
            Payload::DaemonLogRecord(record) => ControllerEvent::Log(record),
            Payload::ModuleStateUpdate(update) => DaemonRequest::Module(update).into(),
            Payload::EventSubscribe(subscribe) => DaemonRequest::EventSubscribe(subscribe).into(),
            Payload::EventUnsubscribe(unsubscribe) => DaemonRequest::EventUnsubscribe(unsubscribe).into(),
            Payload::InstanceFileTree(tree) => DaemonRequest::FileTree(tree).into(),
            Payload::InstanceFileContent(content) => DaemonRequest::FileContent(content).into(),
        };
        self.tell(event);
    }

    fn handle_pong(&mut self, now: Instant, sequence: i64) {
        let Link::Established(live) = &mut self.link else {
            return;
        };
        match live.prober.handle_pong(now, sequence) {
            Ok(_) => {
                live.roster.handle_heard(now);
                self.pump();
                self.confirm();
            }
            Err(error) => self.note(now, error.into(), Some(error_code::UNSOLICITED_PONG), "Pong"),
        }
    }

    fn handle_console(&mut self, now: Instant, output: ConsoleOutput) {
        const WHAT: &str = "ConsoleOutput";
        let Link::Established(live) = &self.link else {
            return;
        };
        let current = InstanceId::new(&output.instance_id)
            .ok()
            .and_then(|id| live.roster.get(id));
        let anomaly = match current {
            None => Anomaly::UnknownInstance { what: WHAT },
            Some(lifecycle) => match Age::of(Incarnation::new(output.incarnation), lifecycle.incarnation()) {
                Age::Current | Age::Unknown => {
                    return self.tell(ControllerEvent::Console(output));
                }
                Age::Older | Age::Newer => Anomaly::StaleInstance { what: WHAT },
            },
        };
        // Lines of an instance that has just been replaced are normal, and their loss costs nobody anything.
        let code = matches!(anomaly, Anomaly::UnknownInstance { .. }).then_some(error_code::UNKNOWN_INSTANCE);
        self.note(now, anomaly, code, &output.instance_id);
    }

    fn handle_instance(&mut self, now: Instant, payload: daemon_message::Payload) {
        use daemon_message::Payload;
        let what = kind::of_daemon(&payload);
        let Link::Established(live) = &mut self.link else {
            return;
        };
        let (judgement, instance_id) = match payload {
            Payload::InstanceStatus(update) => (live.roster.handle_status(now, &update), update.instance_id),
            Payload::StartInstanceAck(ack) => (live.roster.handle_start_ack(now, &ack), ack.instance_id),
            Payload::StopInstanceAck(ack) => (live.roster.handle_stop_ack(now, &ack), ack.instance_id),
            Payload::CrashReport(report) => {
                let standing = match live.roster.handle_crash(now, &report) {
                    CrashVerdict::Current => CrashStanding::Current,
                    CrashVerdict::Stale => CrashStanding::Past,
                };
                self.pump();
                self.tell(ControllerEvent::Crash { report, standing });
                return;
            }
            _ => return,
        };
        self.pump();
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
        self.note(now, anomaly, Some(code), &instance_id);
    }
}
