//! What the daemon reports, on its way to the application

use std::time::Instant;

use prexorcloud_proto::{DaemonMessage, daemon_message};

use super::{ControllerEvent, ControllerSession, DaemonRequest, Link};
use crate::capability::Capabilities;
use crate::handshake::controller::Refusal;
use crate::heartbeat::PongError;
use crate::limits;
use crate::session::{Anomaly, Refused, error_code, kind};
use crate::validate;

impl ControllerSession {
    pub(super) fn handle_established(&mut self, now: Instant, message: DaemonMessage) {
        use daemon_message::Payload;
        let Some(mut payload) = message.payload.filter(|_| self.is_established()) else {
            return;
        };
        match payload {
            Payload::Handshake(_) => return self.refuse_stream(Refusal::Repeated),
            // What is too long of one is cut here: the rest is still worth reading, and nobody there could say it anew.
            Payload::DaemonLogRecord(_) => limits::fit_daemon(&mut payload),
            _ => {}
        }
        if let Err(invalid) = validate::daemon(&payload) {
            let name = kind::of_daemon(&payload);
            return self.note(
                invalid.into(),
                kind::answer(error_code::INVALID_MESSAGE, name),
                name,
            );
        }
        let is_affordable = match payload {
            Payload::ErrorReport(_) | Payload::ShutdownNodeAck(_) => self.budget.report(),
            Payload::DaemonLogRecord(_) => self.budget.log(),
            _ => true,
        };
        if !is_affordable {
            let what = kind::of_daemon(&payload);
            return self.note(Anomaly::Flood { what }, None, what);
        }
        let event = match payload {
            Payload::Handshake(_) => return,
            Payload::Pong(pong) => return self.handle_pong(now, pong.sequence),
            Payload::InstanceStatus(update) => ControllerEvent::Status(update),
            Payload::StartInstanceAck(ack) => ControllerEvent::StartAck(ack),
            Payload::StopInstanceAck(ack) => ControllerEvent::StopAck(ack),
            Payload::CrashReport(report) => ControllerEvent::Crash(report),
            Payload::ConsoleOutput(output) => {
                if let Link::Established(live) = &mut self.link
                    && live.capabilities.contains(Capabilities::CONSOLE_ACK)
                {
                    live.arrivals.told(now);
                }
                ControllerEvent::Console(output)
            }
            Payload::NodeStatus(status) => ControllerEvent::NodeStatus(status),
            Payload::TemplateRequest(request) => DaemonRequest::Template(request).into(),
            Payload::CacheStatus(status) => DaemonRequest::Cache(status).into(),
            Payload::ErrorReport(report) => ControllerEvent::DaemonError(report),
            Payload::ShutdownNodeAck(ack) => ControllerEvent::ShutdownAcknowledged(ack),
            Payload::DaemonLogRecord(record) => ControllerEvent::Log(record),
            Payload::ModuleStateUpdate(update) => DaemonRequest::Module(*update).into(),
            Payload::ModuleSnapshot(snapshot) => DaemonRequest::Modules(snapshot).into(),
            Payload::EventSubscribe(subscribe) => DaemonRequest::EventSubscribe(subscribe).into(),
            Payload::EventUnsubscribe(unsubscribe) => DaemonRequest::EventUnsubscribe(unsubscribe).into(),
            Payload::CertificateRequest(request) => DaemonRequest::Certificate(request).into(),
            Payload::TrustedAuthorities(trusted) => DaemonRequest::Authorities(trusted).into(),
            Payload::CommandWritten(written) => ControllerEvent::CommandWritten(written),
            Payload::InstanceFileTree(tree) => DaemonRequest::FileTree(tree).into(),
            Payload::InstanceFileContent(content) => DaemonRequest::FileContent(content).into(),
        };
        self.tell(event);
    }

    /// A message was too large to be decoded; the stream goes on, unless there is no session yet.
    pub(super) fn handle_refused(&mut self, refused: Refused) {
        match self.link {
            Link::Handshaking(_) => self.refuse_stream(refused.invalid.into()),
            Link::Established(_) => {
                let code = kind::answer(error_code::INVALID_MESSAGE, refused.name);
                self.note(refused.invalid.into(), code, refused.name);
            }
            Link::Idle | Link::Closing(_) | Link::Ended => {}
        }
    }

    fn handle_pong(&mut self, now: Instant, sequence: i64) {
        let Link::Established(live) = &mut self.link else {
            return;
        };
        match live.prober.handle_pong(now, sequence) {
            Ok(answered) => {
                let is_awaited = live.probe.take_if(|probe| answered.sequence >= *probe).is_some();
                self.pump();
                self.confirm();
                if is_awaited {
                    self.tell(ControllerEvent::Answered);
                }
            }
            Err(error) => {
                // A link that was held back delivers answers of long ago, and nobody made a mistake.
                let is_late = matches!(error, PongError::Forgotten { .. });
                let code = (!is_late).then_some(error_code::UNSOLICITED_PONG);
                self.note(error.into(), code, "Pong");
            }
        }
    }
}
