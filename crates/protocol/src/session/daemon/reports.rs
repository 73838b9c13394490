//! What the application reports, on its way to the controller

use prexorcloud_proto::{
    ConsoleOutput, CrashReport, DaemonLogRecord, DaemonMessage, InstanceStatusUpdate,
    StartFailureDisposition, StartInstanceAck, StartPreparationStage, StopInstanceAck, daemon_message,
};
use prost::Message as _;

use super::{
    CRASHES_KEPT, DaemonEvent, DaemonSession, Link, PendingCrash, StartRejection, StatusReport, TOLD_AT_ONCE,
};
use crate::hosted::Observed;
use crate::id::{Incarnation, InstanceId};
use crate::instance::State;
use crate::limits;
use crate::outbox::{Class, Overflow};
use crate::session::{SendError, kind, wire_millis};
use crate::validate::{self, Fault, Invalid};

/// No log record is queued while so much best effort waits.
const LOGS_WAITING: usize = 256;

/// More than an envelope adds to the length of what is in it.
const ENVELOPE_BYTES: usize = 16;

impl DaemonSession {
    /// Reports what the supervisor saw. What does not follow from the table is not told; the answer says so.
    ///
    /// While no session is established the table remembers it, and the next handshake tells it.
    pub fn report(&mut self, report: &StatusReport) -> Observed {
        let observed = self
            .hosted
            .observe(report.instance, report.incarnation, report.state);
        if matches!(observed, Observed::Changed { .. } | Observed::Unchanged) {
            self.forget_awaited(report.instance, report.state);
            if !report.state.is_before_process() {
                self.listed_early.remove(&report.instance);
            }
            self.hosted
                .measured(report.instance, report.player_count, report.uptime);
            if self.is_established() {
                self.tell(report);
            }
        }
        observed
    }

    fn tell(&mut self, report: &StatusReport) {
        let Some(facts) = self.hosted.get(report.instance) else {
            return;
        };
        let waiting_for = match report.state {
            State::Starting => self.awaited_text(report.instance, report.incarnation).to_owned(),
            _ => String::new(),
        };
        self.queue(daemon_message::Payload::InstanceStatus(InstanceStatusUpdate {
            instance_id: report.instance.into(),
            state: report.state.to_wire(),
            port: i32::from(facts.port),
            player_count: i32::try_from(report.player_count).unwrap_or(i32::MAX),
            uptime_ms: wire_millis(report.uptime),
            incarnation: report.incarnation.get(),
            waiting_for,
        }));
        self.hosted.told(report.instance);
        if report.state.is_terminal() {
            self.receipts.end_queued(report.instance, report.incarnation);
        }
    }

    /// Tells again what was last reported of an instance, as the answer to a repeated command.
    pub(super) fn tell_current(&mut self, instance: InstanceId) {
        if let Some(report) = self.hosted.last_report(instance) {
            self.tell(&report);
        }
    }

    /// Tells what the controller has not heard yet, as far as it reads.
    pub(super) fn tell_waiting(&mut self) {
        while self.is_established()
            && self.outbox.len(Class::Control) < TOLD_AT_ONCE
            && let Some(instance) = self.to_tell.pop_front()
        {
            if self.hosted.is_untold(instance) {
                self.tell_current(instance);
            }
        }
    }

    /// Acknowledges a start: its process has been launched.
    pub fn start_accepted(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
        plan_hash: impl Into<String>,
    ) {
        self.queue_if_established(daemon_message::Payload::StartInstanceAck(Box::new(
            StartInstanceAck {
                instance_id: instance.into(),
                accepted: true,
                plan_hash: plan_hash.into(),
                stage: StartPreparationStage::ProcessStart as i32,
                incarnation: incarnation.get(),
                ..Default::default()
            },
        )));
    }

    /// Acknowledges a start that failed.
    ///
    /// The table forgets it, so that a retry of the order is judged as a new start, and remembers the former end of the id
    /// again, which is told if no controller may have heard of it.
    pub fn start_rejected(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
        rejection: StartRejection,
    ) {
        self.hosted.withdraw(instance, incarnation);
        self.awaited.remove(&instance);
        let ack = rejection.into_ack(instance.as_str(), incarnation.get());
        if self.is_established() {
            let is_answered = self.may_answer("StartInstance");
            self.tell_rejected(ack, is_answered);
        } else if matches!(self.link, Link::AwaitingAck(_))
            && self.rejected.len() < limits::INSTANCES_PER_NODE
        {
            // The handshake has listed it, and after the acknowledgement nothing else would say that it is gone.
            self.rejected.push(ack);
        }
        if self.is_established() && self.hosted.is_untold(instance) {
            self.tell_current(instance);
        }
    }

    /// Tells the controller that a start has come to nothing.
    ///
    /// One that takes what is listed for running finds no way back from there to a start that is tried again, and would
    /// count it as running for ever: it is told that this one has ended.
    pub(super) fn tell_rejected(&mut self, ack: StartInstanceAck, is_answered: bool) {
        let was_listed = InstanceId::new(&ack.instance_id).ok();
        let was_listed = was_listed.filter(|instance| self.listed_early.remove(instance));
        let is_final = ack.failure_disposition == StartFailureDisposition::Permanent as i32;
        let understands = self.peer.is_some_and(|peer| peer.understands_ended);
        let ended = was_listed.filter(|_| !is_final && !understands);
        let incarnation = ack.incarnation;
        if is_answered {
            self.queue(daemon_message::Payload::StartInstanceAck(Box::new(ack)));
        }
        // A former end that is told says the same.
        if let Some(instance) = ended.filter(|instance| !self.hosted.is_untold(*instance)) {
            self.queue(daemon_message::Payload::InstanceStatus(InstanceStatusUpdate {
                instance_id: instance.into(),
                state: State::Crashed.to_wire(),
                incarnation,
                ..Default::default()
            }));
        }
    }

    pub(super) fn reject_start(&mut self, instance_id: &str, incarnation: u64, rejection: StartRejection) {
        let ack = rejection.into_ack(instance_id, incarnation);
        self.queue_if_established(daemon_message::Payload::StartInstanceAck(Box::new(ack)));
    }

    /// Acknowledges a stop, or says why it could not be carried out; then the next one is an order again.
    pub fn stop_acknowledged(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
        result: Result<(), String>,
    ) {
        if result.is_err() {
            self.hosted.stop_refused(instance, incarnation);
        }
        self.acknowledge_stop(instance.as_str(), incarnation.get(), result);
    }

    pub(super) fn acknowledge_stop(
        &mut self,
        instance_id: &str,
        incarnation: u64,
        result: Result<(), String>,
    ) {
        self.queue_if_established(daemon_message::Payload::StopInstanceAck(StopInstanceAck {
            instance_id: instance_id.to_owned(),
            accepted: result.is_ok(),
            error_message: result.err().unwrap_or_default(),
            incarnation,
        }));
    }

    /// Queues a console line, best effort, also while no session is established. A line that is too long is cut to
    /// [`limits::CONSOLE_LINE`].
    pub fn console(&mut self, mut output: ConsoleOutput) {
        limits::shorten(&mut output.line, limits::CONSOLE_LINE);
        let message = DaemonMessage {
            payload: Some(daemon_message::Payload::ConsoleOutput(output)),
        };
        if let Err(overflow) = self.outbox.push(message) {
            self.fail_slow(overflow);
        }
    }

    /// Whether a log record of this encoded length has room
    ///
    /// Logs have a share of what may wait, so that however much there is to log, consoles go on behind it.
    #[must_use]
    pub fn has_room_for_log(&self, len: usize) -> bool {
        self.is_established()
            && self.outbox.len(Class::BestEffort) < LOGS_WAITING
            && self
                .outbox
                .has_room(Class::BestEffort, len.saturating_add(ENVELOPE_BYTES))
    }

    /// Queues a log record, best effort; without a session it is gone. What is too long is cut.
    ///
    /// Ask [`has_room_for_log`](Self::has_room_for_log) first, or other best effort may be shed for it.
    pub fn log(&mut self, record: DaemonLogRecord) {
        if !self.is_established() {
            return;
        }
        let mut payload = daemon_message::Payload::DaemonLogRecord(Box::new(record));
        limits::fit_daemon(&mut payload);
        let message = DaemonMessage {
            payload: Some(payload),
        };
        if let Err(overflow) = self.outbox.push(message) {
            self.fail_slow(overflow);
        }
    }

    /// Hands over a crash report. It is sent on this stream or a later one, until a controller has confirmed it.
    ///
    /// # Errors
    /// [`SendError::Invalid`] without a `report_id`; [`SendError::Full`] while [`CRASHES_KEPT`] reports wait: keep it,
    /// and hand it over again after a [`CrashReportAcknowledged`](super::DaemonEvent::CrashReportAcknowledged).
    pub fn crash(&mut self, report: CrashReport) -> Result<(), SendError> {
        let id = &report.report_id;
        if id.is_empty() {
            return Err(Invalid {
                field: "crash_report.report_id",
                fault: Fault::Blank,
            }
            .into());
        }
        if !limits::fits(id, limits::REPORT_ID) {
            let fault = Fault::TooLong {
                limit: limits::REPORT_ID,
            };
            return Err(Invalid {
                field: "crash_report.report_id",
                fault,
            }
            .into());
        }
        // Until the application has polled that a report is done with, it may hand it over again.
        let is_done = |event: &DaemonEvent| matches!(event, DaemonEvent::CrashReportAcknowledged { report_id } if report_id == id);
        if self.crashes.iter().any(|pending| pending.report.report_id == *id)
            || self.events.iter().any(is_done)
        {
            return Ok(());
        }
        if self.crashes.len() >= CRASHES_KEPT {
            let bytes = self
                .crashes
                .iter()
                .map(|pending| pending.report.encoded_len())
                .sum();
            return Err(Overflow {
                class: Class::Report,
                waiting: self.crashes.len(),
                bytes,
            }
            .into());
        }
        let mut payload = daemon_message::Payload::CrashReport(Box::new(report));
        limits::fit_daemon(&mut payload);
        if let daemon_message::Payload::CrashReport(report) = payload {
            self.crashes.push_back(PendingCrash {
                report: *report,
                queued: false,
            });
        }
        self.queue_crashes();
        Ok(())
    }

    /// Queues every crash report that this stream has not seen, as far as there is room; the others follow as messages of
    /// their class leave.
    pub(super) fn queue_crashes(&mut self) {
        if !self.is_established() {
            return;
        }
        for pending in self.crashes.iter_mut().filter(|pending| !pending.queued) {
            // Asked before the report is copied, because it may be large.
            let len = pending.report.encoded_len().saturating_add(ENVELOPE_BYTES);
            if !self.outbox.has_room(Class::Report, len) {
                return;
            }
            let payload = daemon_message::Payload::CrashReport(Box::new(pending.report.clone()));
            let message = DaemonMessage {
                payload: Some(payload),
            };
            pending.queued = self.outbox.push(message).is_ok();
        }
    }

    /// Queues any other message. Over-long text is shortened to the contract's limits.
    ///
    /// # Errors
    /// [`SendError`] says why it was not taken; nothing has been queued then.
    pub fn send(&mut self, mut payload: daemon_message::Payload) -> Result<(), SendError> {
        use daemon_message::Payload;
        match payload {
            Payload::Handshake(_)
            | Payload::Pong(_)
            | Payload::InstanceStatus(_)
            | Payload::CrashReport(_) => {
                return Err(SendError::Reserved(kind::of_daemon(&payload)));
            }
            Payload::ConsoleOutput(output) => {
                self.console(output);
                return Ok(());
            }
            _ => {}
        }
        match self.link {
            Link::Established(_) => {}
            Link::Closing { .. } => return Err(SendError::Closing),
            Link::Offline | Link::AwaitingAck(_) => return Err(SendError::NotConnected),
        }
        limits::fit_daemon(&mut payload);
        validate::daemon(&payload)?;
        let class = Class::of_daemon(&payload);
        let message = DaemonMessage {
            payload: Some(payload),
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
