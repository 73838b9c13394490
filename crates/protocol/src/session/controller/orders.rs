//! What the application orders, on its way to the daemon

use std::time::Instant;

use prexorcloud_proto::{
    ControllerMessage, CrashReportAck, SendCommand, ShutdownNode, StartInstance, controller_message,
};
use prost::Message as _;

use super::{CommandError, ControllerSession, Link};
use crate::id::InstanceId;
use crate::instance::{Judgement, State};
use crate::limits;
use crate::outbox::Class;
use crate::peer::DaemonPeer;
use crate::roster::Roster;
use crate::session::{SendError, kind};
use crate::trace::TraceParent;
use crate::validate;
use crate::verdict::{DeniedReason, StopMode, Verdict};

impl ControllerSession {
    /// Starts an instance. Its record must be stored already.
    ///
    /// `None` while no session is established: ask the roster that the application holds instead.
    pub fn start(&mut self, now: Instant, start: Box<StartInstance>) -> Option<Verdict> {
        self.with_roster(|roster| roster.start(now, start))
    }

    /// Stops an instance. The wish must be stored already.
    pub fn stop(&mut self, now: Instant, instance: InstanceId, mode: StopMode) -> Option<Verdict> {
        self.with_roster(|roster| roster.stop(now, instance, mode))
    }

    /// Lets an instance run empty.
    pub fn drain(&mut self, now: Instant, instance: InstanceId) -> Option<Verdict> {
        self.with_roster(|roster| roster.drain(now, instance))
    }

    /// Takes back [`drain`](Self::drain).
    pub fn undrain(&mut self, now: Instant, instance: InstanceId) -> Option<Verdict> {
        self.with_roster(|roster| roster.undrain(now, instance))
    }

    /// Forgets an instance that has ended.
    pub fn forget(&mut self, instance: InstanceId) -> Option<Verdict> {
        self.with_roster(|roster| roster.forget(instance))
    }

    /// A server says itself that it is ready, past a daemon that does not (the Java daemon).
    pub fn ready(&mut self, now: Instant, instance: InstanceId) -> Option<Judgement> {
        self.with_roster(|roster| roster.ready(now, instance))
    }

    fn with_roster<R>(&mut self, act: impl FnOnce(&mut Roster) -> R) -> Option<R> {
        let Link::Established(live) = &mut self.link else {
            return None;
        };
        let result = act(&mut live.roster);
        self.pump();
        Some(result)
    }

    /// Writes a line to an instance's console.
    ///
    /// # Errors
    /// [`CommandError`] says why nothing was sent. The protocol has no acknowledgement for a command that was.
    pub fn command(
        &mut self,
        instance: InstanceId,
        line: &str,
        trace: Option<TraceParent>,
    ) -> Result<(), CommandError> {
        validate::command(line)?;
        let Link::Established(live) = &self.link else {
            return Err(CommandError::NotConnected);
        };
        let lifecycle = live.roster.get(instance).ok_or(DeniedReason::UnknownInstance)?;
        match lifecycle.state() {
            State::Starting | State::Running | State::Draining | State::Stopping => {}
            state => return Err(DeniedReason::WrongState { state }.into()),
        }
        let command = SendCommand {
            instance_id: instance.into(),
            command: line.to_owned(),
            incarnation: lifecycle.incarnation().get(),
        };
        self.push_traced(controller_message::Payload::SendCommand(command), trace);
        Ok(())
    }

    /// Orders the daemon to stop everything and exit.
    ///
    /// # Errors
    /// [`SendError::NotConnected`] without a session.
    pub fn shut_down_node(&mut self, reason: impl Into<String>) -> Result<(), SendError> {
        self.send(controller_message::Payload::ShutdownNode(ShutdownNode {
            reason: reason.into(),
        }))
    }

    /// Tells the daemon that a crash report has been stored, so that it forgets it.
    ///
    /// Without effect for a daemon that does not know acknowledgements.
    pub fn crash_stored(&mut self, report_id: &str) {
        let knows = self
            .capabilities()
            .is_some_and(|shared| DaemonPeer::of(shared).keeps_crashes);
        if knows && !report_id.is_empty() {
            let ack = CrashReportAck {
                report_id: report_id.to_owned(),
            };
            self.push(controller_message::Payload::CrashReportAck(ack));
        }
    }

    /// Queues any other message; the epoch is stamped on it.
    ///
    /// # Errors
    /// [`SendError`] says why it was not taken; nothing has been queued then.
    pub fn send(&mut self, mut payload: controller_message::Payload) -> Result<(), SendError> {
        use controller_message::Payload;
        match payload {
            Payload::HandshakeAck(_)
            | Payload::Ping(_)
            | Payload::StartInstance(_)
            | Payload::StopInstance(_)
            | Payload::SendCommand(_)
            | Payload::CrashReportAck(_) => return Err(SendError::Reserved(kind::of_controller(&payload))),
            _ => {}
        }
        let epoch = match &self.link {
            Link::Established(live) => live.epoch,
            Link::Closing(_) | Link::Ended => return Err(SendError::Closing),
            Link::Idle | Link::Handshaking(_) => return Err(SendError::NotConnected),
        };
        limits::fit_controller(&mut payload);
        validate::controller(&payload)?;
        let class = Class::of_controller(&payload);
        let message = ControllerMessage {
            payload: Some(payload),
            epoch: epoch.get(),
            traceparent: String::new(),
        };
        let bytes = message.encoded_len();
        if bytes > limits::MAX_MESSAGE_BYTES {
            return Err(SendError::TooLarge {
                bytes,
                limit: limits::MAX_MESSAGE_BYTES,
            });
        }
        self.outbox.push(message).map_err(|overflow| {
            if class == Class::Control {
                self.fail_slow(overflow);
            }
            SendError::Full(overflow)
        })
    }
}
