//! Messages in one line, for the log

use prexorcloud_protocol::hosted::Observed;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::node::controller::{OrderOutcome, OrderRefusal};
use prexorcloud_protocol::node::daemon::DaemonWork;
use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage, controller_message, daemon_message};
use prexorcloud_protocol::roster::InstanceEvent;
use prexorcloud_protocol::session::daemon::StatusReport;
use prexorcloud_protocol::session::kind;
use prexorcloud_protocol::{ControllerEvent, DaemonEvent};

fn state(wire: i32) -> String {
    State::try_from(wire).map_or_else(|unknown| unknown.to_string(), |state| state.to_string())
}

/// A daemon's message.
pub(crate) fn up(message: &DaemonMessage) -> String {
    use daemon_message::Payload;
    let Some(payload) = &message.payload else {
        return "(no payload)".to_owned();
    };
    let kind = kind::of_daemon(payload);
    match payload {
        Payload::Handshake(handshake) => {
            let listed: Vec<_> = handshake
                .running_instances
                .iter()
                .chain(&handshake.ended_instances)
                .map(|listed| {
                    format!(
                        "{}#{} {}",
                        listed.instance_id,
                        listed.incarnation,
                        state(listed.state)
                    )
                })
                .collect();
            format!(
                "{kind} version {} [{}]",
                handshake.protocol_version,
                listed.join(", ")
            )
        }
        Payload::InstanceStatus(update) => {
            format!(
                "{kind} {}#{} {}",
                update.instance_id,
                update.incarnation,
                state(update.state)
            )
        }
        Payload::ConsoleOutput(output) => {
            let text: String = output.line.chars().take(60).collect();
            format!(
                "{kind} {}#{} {}: {text}",
                output.instance_id, output.incarnation, output.sequence
            )
        }
        Payload::CrashReport(report) => {
            format!(
                "{kind} {}#{} {}",
                report.instance_id, report.incarnation, report.report_id
            )
        }
        Payload::Pong(pong) => format!("{kind} {}", pong.sequence),
        Payload::StartInstanceAck(ack) => {
            let verdict = if ack.accepted {
                "accepted"
            } else {
                ack.error_code.as_str()
            };
            format!("{kind} {}#{} {verdict}", ack.instance_id, ack.incarnation)
        }
        Payload::StopInstanceAck(ack) => {
            let verdict = if ack.accepted {
                "accepted"
            } else {
                ack.error_message.as_str()
            };
            format!("{kind} {}#{} {verdict}", ack.instance_id, ack.incarnation)
        }
        Payload::ErrorReport(report) => format!("{kind} {} {}", report.error_code, report.error_message),
        _ => kind.to_owned(),
    }
}

/// A controller's message.
pub(crate) fn down(message: &ControllerMessage) -> String {
    use controller_message::Payload;
    let Some(payload) = &message.payload else {
        return format!("(no payload) epoch {}", message.epoch);
    };
    let kind = kind::of_controller(payload);
    let text = match payload {
        Payload::HandshakeAck(ack) => {
            let redirect = if ack.leader_grpc_addr.is_empty() {
                ""
            } else {
                " redirects"
            };
            format!("{kind} compatible {}{redirect}", ack.protocol_compatible)
        }
        Payload::StartInstance(start) => format!("{kind} {}#{}", start.instance_id, start.incarnation),
        Payload::StopInstance(stop) => {
            let force = if stop.force { " force" } else { "" };
            format!("{kind} {}#{}{force}", stop.instance_id, stop.incarnation)
        }
        Payload::SendCommand(command) => {
            format!(
                "{kind} {}#{} {}",
                command.instance_id, command.incarnation, command.command
            )
        }
        Payload::InstanceReady(ready) => format!("{kind} {}#{}", ready.instance_id, ready.incarnation),
        Payload::Ping(ping) => format!("{kind} {}", ping.sequence),
        Payload::CrashReportAck(ack) => format!("{kind} {}", ack.report_id),
        Payload::ConsoleOutputAck(ack) => {
            format!("{kind} {}#{} {}", ack.instance_id, ack.incarnation, ack.sequence)
        }
        Payload::ErrorReport(report) => format!("{kind} {} {}", report.error_code, report.error_message),
        _ => kind.to_owned(),
    };
    format!("{text} epoch {}", message.epoch)
}

/// What a daemon's machine wants done, if that is worth a line.
pub(crate) fn daemon_work<L>(work: &DaemonWork<L>) -> Option<String> {
    Some(match work {
        DaemonWork::Prepare { attempt, .. } => {
            format!("daemon prepares {}#{}", attempt.instance(), attempt.incarnation())
        }
        DaemonWork::Launch { attempt, .. } => {
            format!("{}#{} is launched", attempt.instance(), attempt.incarnation())
        }
        DaemonWork::Stop {
            instance,
            incarnation,
            mode,
        } => format!("daemon stops {instance}#{incarnation} ({mode:?})"),
        DaemonWork::RejectStart {
            instance,
            incarnation,
            rejection,
        } => format!("{instance}#{incarnation} is rejected: {}", rejection.error_code),
        DaemonWork::ForgetCrash { report_id } => format!("daemon forgets {report_id}"),
        DaemonWork::Settle {
            instance,
            incarnation,
        } => format!("{instance}#{incarnation} is settled"),
        DaemonWork::Finish { reason } => format!("daemon shuts down: {reason}"),
        _ => return None,
    })
}

/// What a daemon's session made of a report.
pub(crate) fn report(report: &StatusReport, observed: Observed) -> String {
    let (instance, incarnation, state) = (report.instance, report.incarnation, report.state);
    format!("daemon reports {instance}#{incarnation} {state}: {observed:?}")
}

/// What a daemon's application is told.
pub(crate) fn daemon_event(event: &DaemonEvent) -> String {
    match event {
        DaemonEvent::Connected(_) => "daemon is connected".to_owned(),
        DaemonEvent::Disconnected(outcome) => format!("daemon is disconnected: {outcome}"),
        DaemonEvent::Ignored(anomaly) => format!("daemon ignores: {anomaly}"),
        DaemonEvent::Command { instance, line, .. } => format!("{instance} is told: {line}"),
        other => format!("daemon hears {other:?}"),
    }
}

/// What a controller's application is told, if that is worth a line.
pub(crate) fn controller_event(event: &ControllerEvent) -> Option<String> {
    let is_routine = matches!(
        event,
        ControllerEvent::Console(_) | ControllerEvent::NodeStatus(_) | ControllerEvent::Log(_)
    );
    (!is_routine).then(|| format!("{event:?}"))
}

/// What became of an order.
pub(crate) fn answer(result: &Result<OrderOutcome, OrderRefusal>) -> String {
    match result {
        Ok(outcome) => format!("{outcome:?}"),
        Err(refusal) => format!("no effect: {refusal}"),
    }
}

/// What happened to an instance, as a controller sees it.
pub(crate) fn news(news: &InstanceEvent) -> String {
    match news {
        InstanceEvent::Changed {
            instance,
            incarnation,
            from,
            to,
            cause,
            ..
        } => format!("{instance}#{incarnation} {from} -> {to} ({cause:?})"),
        other => format!("{other:?}"),
    }
}
