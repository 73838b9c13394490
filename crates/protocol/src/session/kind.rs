//! The names of the message kinds, for errors and logs

use prexorcloud_proto::{controller_message, daemon_message};

/// The proto name of a daemon's message.
#[must_use]
pub const fn of_daemon(payload: &daemon_message::Payload) -> &'static str {
    use daemon_message::Payload;
    match payload {
        Payload::Handshake(_) => "Handshake",
        Payload::NodeStatus(_) => "NodeStatus",
        Payload::InstanceStatus(_) => "InstanceStatusUpdate",
        Payload::ConsoleOutput(_) => "ConsoleOutput",
        Payload::CrashReport(_) => "CrashReport",
        Payload::Pong(_) => "Pong",
        Payload::TemplateRequest(_) => "TemplateRequest",
        Payload::CacheStatus(_) => "CacheStatus",
        Payload::ErrorReport(_) => "ErrorReport",
        Payload::ShutdownNodeAck(_) => "ShutdownNodeAck",
        Payload::StartInstanceAck(_) => "StartInstanceAck",
        Payload::StopInstanceAck(_) => "StopInstanceAck",
        Payload::DaemonLogRecord(_) => "DaemonLogRecord",
        Payload::ModuleStateUpdate(_) => "ModuleStateUpdate",
        Payload::EventSubscribe(_) => "EventSubscribe",
        Payload::EventUnsubscribe(_) => "EventUnsubscribe",
        Payload::InstanceFileTree(_) => "InstanceFileTree",
        Payload::InstanceFileContent(_) => "InstanceFileContent",
    }
}

/// The proto name of a controller's message.
#[must_use]
pub const fn of_controller(payload: &controller_message::Payload) -> &'static str {
    use controller_message::Payload;
    match payload {
        Payload::HandshakeAck(_) => "HandshakeAck",
        Payload::StartInstance(_) => "StartInstance",
        Payload::StopInstance(_) => "StopInstance",
        Payload::SendCommand(_) => "SendCommand",
        Payload::Ping(_) => "Ping",
        Payload::TemplateData(_) => "TemplateData",
        Payload::TemplateUpToDate(_) => "TemplateUpToDate",
        Payload::ShutdownNode(_) => "ShutdownNode",
        Payload::PreWarmCache(_) => "PreWarmCache",
        Payload::RequestCacheStatus(_) => "RequestCacheStatus",
        Payload::ErrorReport(_) => "ErrorReport",
        Payload::ModuleInstall(_) => "ModuleInstall",
        Payload::ModuleUninstall(_) => "ModuleUninstall",
        Payload::ModuleEvent(_) => "ModuleEvent",
        Payload::WalkInstanceFiles(_) => "WalkInstanceFiles",
        Payload::ReadInstanceFile(_) => "ReadInstanceFile",
        Payload::CrashReportAck(_) => "CrashReportAck",
    }
}
