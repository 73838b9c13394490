//! What the controller orders, on its way to the application

use std::time::Duration;

use prexorcloud_proto::{
    ControllerMessage, InstanceStatusUpdate, Ping, StartFailureDisposition, StartInstance,
    StartPreparationStage, StopInstance, controller_message, daemon_message,
};

use super::fencing::{code_of, is_command};
use super::{DaemonEvent, DaemonSession, StartOrder, StartRejection};
use crate::heartbeat;
use crate::hosted::HostedInstance;
use crate::id::{Epoch, GroupName, Incarnation, InstanceId};
use crate::instance::State;
use crate::session::{Anomaly, error_code, kind};
use crate::trace::TraceParent;
use crate::validate::{self, Fault, Invalid};
use crate::verdict::{DeniedReason, StopMode, Verdict};

impl DaemonSession {
    pub(super) fn handle_established(&mut self, message: ControllerMessage) {
        let Some(payload) = &message.payload else { return };
        if let Err(refused) = self.admit(Epoch::new(message.epoch)) {
            let name = kind::of_controller(payload);
            return self.note(refused.into(), kind::answer(code_of(refused), name), name);
        }
        if !self.fence.is_written() && is_command(payload) {
            return self.wait_for_fence(message);
        }
        let ControllerMessage {
            payload: Some(payload),
            traceparent,
            ..
        } = message
        else {
            return;
        };
        if let controller_message::Payload::StartInstance(start) = payload {
            let trace = TraceParent::parse(&traceparent);
            return self.handle_start(start, trace);
        }
        if let Err(invalid) = validate::controller(&payload) {
            let name = kind::of_controller(&payload);
            return self.note(
                invalid.into(),
                kind::answer(error_code::INVALID_MESSAGE, name),
                name,
            );
        }
        self.handle_valid(payload, &traceparent);
    }

    fn handle_valid(&mut self, payload: controller_message::Payload, traceparent: &str) {
        use controller_message::Payload;
        match payload {
            Payload::Ping(ping) => self.handle_ping(&ping),
            Payload::StopInstance(stop) => self.handle_stop(stop, TraceParent::parse(traceparent)),
            Payload::SendCommand(command) if self.answered_before(&command) => {}
            Payload::SendCommand(command) => {
                let id = Some(command.command_id).filter(|id| *id != 0);
                let trace = TraceParent::parse(traceparent);
                let Ok(instance) = InstanceId::new(&command.instance_id) else {
                    return;
                };
                match self
                    .hosted
                    .command(instance, Incarnation::new(command.incarnation))
                {
                    Ok(incarnation) => {
                        let line = command.command;
                        self.events.push_back(DaemonEvent::Command {
                            instance,
                            incarnation,
                            line,
                            id,
                            trace,
                        });
                    }
                    Err(reason) => {
                        let code = match reason {
                            DeniedReason::UnknownInstance => error_code::UNKNOWN_INSTANCE,
                            DeniedReason::StaleIncarnation { .. } => error_code::STALE_INCARNATION,
                            _ => error_code::WRONG_STATE,
                        };
                        if let Some(id) = id {
                            let refused = (code, reason.to_string());
                            return self.command_written(instance, Incarnation::UNKNOWN, id, Err(refused));
                        }
                        self.note(
                            Anomaly::Denied {
                                what: "SendCommand",
                                reason,
                            },
                            Some(code),
                            instance.as_str(),
                        );
                    }
                }
            }
            Payload::ShutdownNode(shutdown) => {
                self.events.push_back(DaemonEvent::Shutdown {
                    reason: shutdown.reason,
                });
            }
            Payload::InstanceReady(ready) => self.handle_ready(&ready),
            Payload::CrashReportAck(ack) => self.crash_acknowledged(ack.report_id),
            Payload::ConsoleOutputAck(ack) => {
                if let Ok(instance) = InstanceId::new(&ack.instance_id) {
                    self.events.push_back(DaemonEvent::ConsoleArrived {
                        instance,
                        incarnation: Incarnation::new(ack.incarnation),
                        sequence: ack.sequence,
                    });
                }
            }
            Payload::ErrorReport(_) if !self.budget.report() => {
                let what = kind::ERROR_REPORT;
                self.note(Anomaly::Flood { what }, None, what);
            }
            Payload::ModuleInstall(order) => {
                let trace = TraceParent::parse(traceparent);
                self.events.push_back(DaemonEvent::InstallModule { order, trace });
            }
            Payload::ModuleUninstall(order) => {
                let trace = TraceParent::parse(traceparent);
                self.events
                    .push_back(DaemonEvent::UninstallModule { order, trace });
            }
            other => self.events.push_back(DaemonEvent::Request(other)),
        }
    }

    fn handle_ping(&mut self, ping: &Ping) {
        self.departures_arrived();
        if self.peer.unwrap_or_default().confirms_receipt {
            let heard = self.receipts.answered(ping.answered);
            self.events
                .extend(heard.map(|(instance, incarnation)| DaemonEvent::EndHeard {
                    instance,
                    incarnation,
                }));
        }
        if !self.budget.ping() {
            return self.note(Anomaly::Flood { what: "Ping" }, None, "Ping");
        }
        self.receipts.pong_queued(ping.sequence);
        self.queue(daemon_message::Payload::Pong(heartbeat::answer(ping)));
    }

    fn handle_start(&mut self, start: Box<StartInstance>, trace: Option<TraceParent>) {
        let incarnation = Incarnation::new(start.incarnation);
        let parsed = validate::start_instance(&start).and_then(|()| {
            let group = GroupName::new(&start.group).map_err(|invalid| Invalid {
                field: "start_instance.group",
                fault: Fault::Name(invalid),
            })?;
            Ok((validate::instance_id(&start.instance_id)?, group))
        });
        let (instance, group) = match parsed {
            Ok(parsed) => parsed,
            Err(invalid) => return self.refuse_invalid_start(&start, invalid),
        };
        let port = u16::try_from(start.port).unwrap_or(0);
        match self.hosted.start(instance, group, incarnation, port) {
            Verdict::Accepted => {
                let order = StartOrder {
                    instance,
                    group,
                    incarnation,
                    start,
                    trace,
                };
                self.events.push_back(DaemonEvent::Start(order));
            }
            Verdict::AlreadyInEffect | Verdict::Denied(_) if !self.may_answer("StartInstance") => {}
            Verdict::AlreadyInEffect => self.answer_repeated_start(instance, &start),
            Verdict::Denied(reason) => {
                let (error_code, disposition, retry_after) = match reason {
                    DeniedReason::StillAlive { .. } => (
                        error_code::INSTANCE_STILL_ALIVE,
                        StartFailureDisposition::Transient,
                        StartRejection::RETRY_AFTER,
                    ),
                    DeniedReason::StaleIncarnation { .. } => (
                        error_code::STALE_INCARNATION,
                        StartFailureDisposition::Permanent,
                        Duration::ZERO,
                    ),
                    _ => ("START_DENIED", StartFailureDisposition::Permanent, Duration::ZERO),
                };
                let rejection = StartRejection {
                    stage: StartPreparationStage::Validation,
                    error_code: error_code.to_owned(),
                    message: reason.to_string(),
                    disposition,
                    retry_after,
                    plan_hash: plan_hash(&start),
                };
                self.reject_start(instance.as_str(), incarnation.get(), rejection);
            }
        }
    }

    /// Answers a repeated start as a Java daemon does, and says what is true of the instance.
    fn answer_repeated_start(&mut self, instance: InstanceId, start: &StartInstance) {
        let Some(facts) = self.hosted.get(instance) else {
            return;
        };
        let error_code = match facts.state {
            State::Scheduled | State::Preparing => Some(error_code::INSTANCE_ALREADY_STARTING),
            State::Starting | State::Running | State::Draining | State::Stopping => {
                Some(error_code::INSTANCE_ALREADY_RUNNING)
            }
            State::Stopped | State::Crashed => None,
        };
        match error_code {
            Some(code) => {
                let rejection = StartRejection {
                    stage: StartPreparationStage::Validation,
                    error_code: code.to_owned(),
                    message: format!("instance {instance} is {} already", facts.state),
                    disposition: StartFailureDisposition::Permanent,
                    retry_after: Duration::ZERO,
                    plan_hash: plan_hash(start),
                };
                self.reject_start(instance.as_str(), facts.incarnation.get(), rejection);
            }
            None => self.start_accepted(instance, facts.incarnation, plan_hash(start)),
        }
        self.tell_current(instance);
    }

    fn refuse_invalid_start(&mut self, start: &StartInstance, invalid: Invalid) {
        if InstanceId::new(&start.instance_id).is_ok() {
            let rejection = StartRejection {
                stage: StartPreparationStage::Validation,
                error_code: error_code::INVALID_MESSAGE.to_owned(),
                message: invalid.to_string(),
                disposition: StartFailureDisposition::Permanent,
                retry_after: Duration::ZERO,
                plan_hash: plan_hash(start),
            };
            if self.may_answer("StartInstance") {
                self.reject_start(&start.instance_id, start.incarnation, rejection);
            }
            self.note(invalid.into(), None, "StartInstance");
        } else {
            // An acknowledgement with an unsafe id would be refused itself.
            self.note(invalid.into(), Some(error_code::INVALID_MESSAGE), "StartInstance");
        }
    }

    fn handle_stop(&mut self, stop: StopInstance, trace: Option<TraceParent>) {
        let Ok(instance) = InstanceId::new(&stop.instance_id) else {
            return;
        };
        let given = Incarnation::new(stop.incarnation);
        let mode = if stop.force {
            StopMode::Force
        } else {
            StopMode::Graceful
        };
        match self.hosted.stop(instance, given, mode) {
            Verdict::Accepted => {
                let incarnation = self.hosted.get(instance).map_or(given, |facts| facts.incarnation);
                self.events.push_back(DaemonEvent::Stop {
                    instance,
                    incarnation,
                    mode,
                    trace,
                });
            }
            Verdict::AlreadyInEffect | Verdict::Denied(_) if !self.may_answer("StopInstance") => {}
            Verdict::AlreadyInEffect => {
                self.acknowledge_stop(instance.as_str(), given.get(), Ok(()));
                // Until the supervisor has begun, the newest report would deny what was just confirmed.
                let is_visible =
                    |facts: HostedInstance| facts.state == State::Stopping || facts.state.is_terminal();
                if self.hosted.get(instance).is_some_and(is_visible) {
                    self.tell_current(instance);
                }
            }
            Verdict::Denied(DeniedReason::UnknownInstance | DeniedReason::StaleIncarnation { .. }) => {
                // What is not here has stopped, and so has what another start of its id followed. Saying so keeps the
                // controller from waiting for it.
                self.acknowledge_stop(instance.as_str(), given.get(), Ok(()));
                self.queue(daemon_message::Payload::InstanceStatus(InstanceStatusUpdate {
                    instance_id: stop.instance_id,
                    state: State::Stopped.to_wire(),
                    incarnation: stop.incarnation,
                    ..Default::default()
                }));
            }
            Verdict::Denied(reason) => {
                self.acknowledge_stop(instance.as_str(), given.get(), Err(reason.to_string()));
            }
        }
    }

    pub(super) fn crash_acknowledged(&mut self, report_id: String) {
        let before = self.crashes.len();
        self.crashes
            .retain(|pending| pending.report.report_id != report_id);
        if self.crashes.len() < before {
            self.events
                .push_back(DaemonEvent::CrashReportAcknowledged { report_id });
            self.queue_crashes();
        }
    }
}

pub(super) fn plan_hash(start: &StartInstance) -> String {
    start
        .composition_plan
        .as_ref()
        .map(|plan| plan.plan_hash.clone())
        .unwrap_or_default()
}
