//! How a Java peer's messages differ
//!
//! The Java implementation knows neither the fields that were added from number 100 on nor capabilities. A stream with
//! one Java end carries none of them in either direction: the one never writes them, the other never reads them.

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::{
    ControllerMessage, DaemonMessage, StartInstance, controller_message, daemon_message,
};
use prexorcloud_protocol::{Incarnation, InstanceId};

use crate::scenario::Peers;

/// Where a start says to the simulation, and to no daemon, which one it is.
const ORDERED: &str = "SIMULATED_INCARNATION";

/// Which start it is, as its controller numbers it.
pub(crate) fn ordered(start: &StartInstance) -> Incarnation {
    let ordered = start.env.get(ORDERED).and_then(|number| number.parse().ok());
    Incarnation::new(ordered.unwrap_or(start.incarnation))
}

/// Takes from a daemon's message what does not pass between these peers.
pub(crate) fn up(peers: Peers, message: &mut DaemonMessage) {
    use daemon_message::Payload;
    if peers == Peers::Rust {
        return;
    }
    match &mut message.payload {
        Some(Payload::Handshake(handshake)) => {
            handshake.capabilities.clear();
            handshake.min_protocol_version = 0;
            handshake.boot_id.clear();
            handshake.stream_ordinal = 0;
            handshake.kill_timeout_seconds = 0;
            handshake.ended_instances.clear();
            handshake
                .running_instances
                .iter_mut()
                .for_each(|instance| instance.incarnation = 0);
            if peers.has_java_daemon() {
                let in_preparation = [State::Scheduled.to_wire(), State::Preparing.to_wire()];
                handshake
                    .running_instances
                    .retain(|instance| !in_preparation.contains(&instance.state));
            }
        }
        Some(Payload::InstanceStatus(update)) => {
            update.incarnation = 0;
            update.waiting_for.clear();
        }
        Some(Payload::ConsoleOutput(output)) => (output.incarnation, output.sequence) = (0, 0),
        Some(Payload::CrashReport(report)) => {
            report.incarnation = 0;
            report.report_id.clear();
        }
        Some(Payload::StartInstanceAck(ack)) => ack.incarnation = 0,
        Some(Payload::StopInstanceAck(ack)) => ack.incarnation = 0,
        _ => {}
    }
}

/// Takes from a controller's message what does not pass between these peers.
pub(crate) fn down(peers: Peers, message: &mut ControllerMessage) {
    use controller_message::Payload;
    if peers == Peers::Rust {
        return;
    }
    match &mut message.payload {
        Some(Payload::HandshakeAck(ack)) => ack.capabilities.clear(),
        Some(Payload::StartInstance(start)) => {
            let ordered = std::mem::take(&mut start.incarnation).to_string();
            start.env.insert(ORDERED.to_owned(), ordered);
        }
        Some(Payload::StopInstance(stop)) => stop.incarnation = 0,
        Some(Payload::SendCommand(command)) => command.incarnation = 0,
        Some(Payload::Ping(ping)) => ping.answered = 0,
        _ => {}
    }
}

/// What servers on a Java node tell the controller themselves, because their daemon never says `RUNNING`
#[derive(Clone, Debug, Default)]
pub(crate) struct Plugins(Vec<InstanceId>);

impl Plugins {
    /// A server is ready.
    pub(crate) fn ready(&mut self, instance: InstanceId) {
        self.0.push(instance);
    }

    /// Those that still have something to say.
    pub(crate) fn talking(&self, is_running: impl Fn(InstanceId) -> bool) -> Vec<InstanceId> {
        self.0
            .iter()
            .copied()
            .filter(|instance| is_running(*instance))
            .collect()
    }
}
