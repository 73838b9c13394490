//! Messages in one line, for the log

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage, controller_message, daemon_message};
use prexorcloud_protocol::session::kind;

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
        Payload::Ping(ping) => format!("{kind} {}", ping.sequence),
        Payload::CrashReportAck(ack) => format!("{kind} {}", ack.report_id),
        Payload::ErrorReport(report) => format!("{kind} {} {}", report.error_code, report.error_message),
        _ => kind.to_owned(),
    };
    format!("{text} epoch {}", message.epoch)
}
