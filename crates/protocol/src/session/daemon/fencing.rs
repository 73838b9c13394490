//! Commands that wait until the epoch that they came under is written down
//!
//! A daemon that carried a command out and then forgot its epoch would obey the deposed controller after a restart. So a
//! command waits until the application has said that the epoch is on disk, and is refused when it cannot get there. Only
//! one write is asked for at a time, and the next is of the newest epoch by then: epochs that rise with every message
//! cost no more writes than the disk has time for. Meanwhile pings are answered and acknowledgements heard.

use prexorcloud_proto::{
    ControllerMessage, StartFailureDisposition, StartPreparationStage, controller_message::Payload,
};

use super::commands::plan_hash;
use super::{DaemonEvent, DaemonSession, StartRejection};
use crate::fence::{Admitted, EpochRefused};
use crate::handshake::Held;
use crate::id::{Epoch, Incarnation, InstanceId};
use crate::session::{error_code, kind};

/// What waits while an epoch is being written
#[derive(Clone, Debug)]
pub(super) struct Unwritten {
    /// The epoch that the application was asked to write.
    asked: Option<Epoch>,
    commands: Held<ControllerMessage>,
}

impl Default for Unwritten {
    fn default() -> Self {
        Self {
            asked: None,
            commands: Held::of(crate::limits::MAX_MESSAGE_BYTES),
        }
    }
}

impl Unwritten {
    /// The stream that they came on has ended; their controller knows that, and orders again what it still wants.
    pub(super) fn forget_commands(&mut self) {
        let _ = self.commands.take();
    }
}

impl DaemonSession {
    /// The application has written this epoch down for good: what waited for it is carried out.
    pub fn fence_written(&mut self, epoch: Epoch) {
        if self.unwritten.asked != Some(epoch) {
            return;
        }
        self.unwritten.asked = None;
        self.fence.handle_written(epoch);
        self.have_fence_written();
        for command in self.unwritten.commands.take() {
            if self.is_established() {
                // Judged anew, as its controller may have been deposed meanwhile.
                self.handle_established(command);
            }
        }
    }

    /// The application cannot write this epoch down: what waited for it is refused, with the reason. The next command asks
    /// for it again.
    pub fn fence_not_written(&mut self, epoch: Epoch, reason: &str) {
        if self.unwritten.asked != Some(epoch) {
            return;
        }
        self.unwritten.asked = None;
        let message = format!("epoch {epoch} cannot be written down: {reason}");
        for command in self.unwritten.commands.take() {
            self.refuse_unwritten(&command, &message);
        }
    }

    /// Judges an epoch, and has it written down if it raised the fence.
    pub(super) fn admit(&mut self, epoch: Epoch) -> Result<(), EpochRefused> {
        if self.fence.admit(epoch)? == Admitted::Raised {
            self.have_fence_written();
        }
        Ok(())
    }

    /// Asks the application to write the fence down, unless it is, or it has been asked.
    pub(super) fn have_fence_written(&mut self) {
        if !self.fence.is_written() && self.unwritten.asked.is_none() {
            let epoch = self.fence.highest();
            self.unwritten.asked = Some(epoch);
            self.events.push_back(DaemonEvent::FenceRaised(epoch));
        }
    }

    /// Keeps a command until the fence is written.
    pub(super) fn wait_for_fence(&mut self, command: ControllerMessage) {
        self.have_fence_written();
        if let Err(command) = self.unwritten.commands.push(command) {
            let epoch = self.fence.highest();
            let message = format!("epoch {epoch} is being written down, and too many commands wait for it");
            self.refuse_unwritten(&command, &message);
        }
    }

    fn refuse_unwritten(&mut self, command: &ControllerMessage, message: &str) {
        let Some(payload) = &command.payload else { return };
        let what = kind::of_controller(payload);
        if !self.is_established() || !self.may_answer(what) {
            return;
        }
        match payload {
            Payload::StartInstance(start) if InstanceId::new(&start.instance_id).is_ok() => {
                let rejection = StartRejection {
                    stage: StartPreparationStage::Validation,
                    error_code: error_code::EPOCH_NOT_WRITTEN.to_owned(),
                    message: message.to_owned(),
                    disposition: StartFailureDisposition::Transient,
                    retry_after: StartRejection::RETRY_AFTER,
                    plan_hash: plan_hash(start),
                };
                self.reject_start(&start.instance_id, start.incarnation, rejection);
            }
            Payload::StopInstance(stop) if InstanceId::new(&stop.instance_id).is_ok() => {
                self.acknowledge_stop(&stop.instance_id, stop.incarnation, Err(message.to_owned()));
            }
            Payload::SendCommand(command) if command.command_id != 0 => {
                if let Ok(instance) = InstanceId::new(&command.instance_id)
                    && !self.answered_before(command)
                {
                    let refused = (error_code::EPOCH_NOT_WRITTEN, message.to_owned());
                    self.command_written(instance, Incarnation::UNKNOWN, command.command_id, Err(refused));
                }
            }
            _ => self.answer_error(error_code::EPOCH_NOT_WRITTEN, message.to_owned(), what),
        }
    }
}

/// Whether something is to be done because of it; the others only say what is so.
pub(super) const fn is_command(payload: &Payload) -> bool {
    !matches!(
        payload,
        Payload::HandshakeAck(_)
            | Payload::Ping(_)
            | Payload::CrashReportAck(_)
            | Payload::ConsoleOutputAck(_)
            | Payload::InstanceReady(_)
            | Payload::ErrorReport(_)
    )
}

/// The code that a message with a refused epoch is answered with.
pub(super) const fn code_of(refused: EpochRefused) -> &'static str {
    match refused {
        EpochRefused::Stale(_) => error_code::STALE_EPOCH,
        EpochRefused::OutOfRange(_) => error_code::INVALID_MESSAGE,
    }
}
