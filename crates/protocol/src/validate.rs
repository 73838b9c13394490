//! Which messages of a peer are acceptable
//!
//! The rules are those of the contract (lengths, safe names, ranges). A message that breaks one is refused as a whole
//! and answered with an `ErrorReport` of code `INVALID_MESSAGE` that names the field, so the peer can notice; the
//! stream goes on. Only a handshake that breaks a rule ends the stream.

use std::fmt;

use prexorcloud_proto::{
    CacheStatus, ConsoleOutput, CrashReport, DaemonLogRecord, ErrorReport, Handshake, InstanceStatusUpdate,
    NodeStatus, SendCommand, StartInstance, StartInstanceAck, StopInstance, StopInstanceAck,
    controller_message, daemon_message,
};

use crate::id::{GroupName, InstanceId, InvalidName, ModuleId, NodeId, TemplateName};
use crate::instance::State;
use crate::limits::{self, fits};

/// A field that breaks a rule of the contract
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The field, as the contract spells it, for instance `crash_report.log_tail`.
    pub field: &'static str,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a field
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It is not a safe name.
    Name(InvalidName),
    /// It must not be blank.
    Blank,
    /// It is longer than allowed.
    TooLong {
        /// The limit, in UTF-16 code units.
        limit: usize,
    },
    /// It has more entries than allowed.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// A number is outside its range.
    OutOfRange,
    /// An enum value that this build does not know, or that means nothing here.
    UnknownValue {
        /// The number on the wire.
        value: i32,
    },
    /// It contains a control character.
    ControlCharacter,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, fault } = self;
        match fault {
            Fault::Name(invalid) => write!(f, "{field}: {invalid}"),
            Fault::Blank => write!(f, "{field} is required"),
            Fault::TooLong { limit } => write!(f, "{field} is too long (at most {limit} characters)"),
            Fault::TooMany { limit } => write!(f, "{field} has too many entries (at most {limit})"),
            Fault::OutOfRange => write!(f, "{field} is out of range"),
            Fault::UnknownValue { value } => write!(f, "{field} has the unknown value {value}"),
            Fault::ControlCharacter => write!(f, "{field} contains a control character"),
        }
    }
}

impl std::error::Error for Invalid {}

type Checked = Result<(), Invalid>;

fn fail<T>(field: &'static str, fault: Fault) -> Result<T, Invalid> {
    Err(Invalid { field, fault })
}

fn ensure(field: &'static str, holds: bool, fault: Fault) -> Checked {
    if holds { Ok(()) } else { fail(field, fault) }
}

fn text(field: &'static str, text: &str, limit: usize) -> Checked {
    ensure(field, fits(text, limit), Fault::TooLong { limit })
}

fn count(field: &'static str, len: usize, limit: usize) -> Checked {
    ensure(field, len <= limit, Fault::TooMany { limit })
}

fn range(field: &'static str, holds: bool) -> Checked {
    ensure(field, holds, Fault::OutOfRange)
}

fn name<T>(field: &'static str, parsed: Result<T, InvalidName>) -> Result<T, Invalid> {
    parsed.map_err(|invalid| Invalid {
        field,
        fault: Fault::Name(invalid),
    })
}

/// Checks the `instance_id` of any message.
///
/// # Errors
/// [`Invalid`] names the rule of safe names that is broken.
pub fn instance_id(id: &str) -> Result<InstanceId, Invalid> {
    name("instance_id", InstanceId::new(id))
}

/// Checks a handshake and gives the node it claims to come from.
///
/// # Errors
/// [`Invalid`] names the first field that breaks a rule. The protocol version is judged elsewhere.
pub fn handshake(handshake: &Handshake) -> Result<NodeId, Invalid> {
    let node_id = name("handshake.node_id", NodeId::new(&handshake.node_id))?;
    ensure(
        "handshake.version",
        !handshake.version.trim().is_empty(),
        Fault::Blank,
    )?;
    text("handshake.version", &handshake.version, limits::VERSION)?;
    text(
        "handshake.advertise_address",
        &handshake.advertise_address,
        limits::ADVERTISE_ADDRESS,
    )?;
    text("handshake.boot_id", &handshake.boot_id, limits::BOOT_ID)?;
    count("handshake.labels", handshake.labels.len(), limits::LABELS)?;
    for (key, value) in &handshake.labels {
        text("handshake.labels", key, limits::LABEL_KEY)?;
        text("handshake.labels", value, limits::LABEL_VALUE)?;
    }
    range("handshake.total_memory_mb", handshake.total_memory_mb >= 0)?;
    range("handshake.available_cpus", handshake.available_cpus >= 0)?;
    count(
        "handshake.running_instances",
        handshake.running_instances.len(),
        limits::INSTANCES_PER_NODE,
    )?;
    count(
        "handshake.capabilities",
        handshake.capabilities.len(),
        limits::CAPABILITIES,
    )?;
    if let Some(host) = &handshake.host_info {
        for field in [
            &host.os_name,
            &host.os_version,
            &host.arch,
            &host.cpu_model,
            &host.java_version,
            &host.java_vendor,
            &host.java_runtime,
            &host.java_gc,
        ] {
            text("handshake.host_info", field, limits::LABEL_VALUE)?;
        }
    }
    Ok(node_id)
}

/// Checks a daemon's message other than the handshake.
///
/// # Errors
/// [`Invalid`] names the first field that breaks a rule.
pub fn daemon(payload: &daemon_message::Payload) -> Checked {
    use daemon_message::Payload;
    match payload {
        Payload::Handshake(message) => handshake(message).map(drop),
        Payload::NodeStatus(message) => node_status(message),
        Payload::InstanceStatus(message) => instance_status(message),
        Payload::ConsoleOutput(ConsoleOutput {
            instance_id: id,
            line,
            ..
        }) => {
            instance_id(id)?;
            text("console_output.line", line, limits::CONSOLE_LINE)
        }
        Payload::CrashReport(message) => crash_report(message),
        Payload::Pong(message) => range("pong.sequence", message.sequence >= 0),
        Payload::TemplateRequest(message) => {
            name(
                "template_request.template_name",
                TemplateName::new(&message.template_name),
            )?;
            text("template_request.known_hash", &message.known_hash, limits::HASH)
        }
        Payload::CacheStatus(message) => cache_status(message),
        Payload::ErrorReport(message) => error_report(message),
        Payload::ShutdownNodeAck(message) => range(
            "shutdown_node_ack",
            message.running_instances >= 0 && message.estimated_drain_seconds >= 0,
        ),
        Payload::StartInstanceAck(message) => start_ack(message),
        Payload::StopInstanceAck(StopInstanceAck {
            instance_id: id,
            error_message,
            ..
        }) => {
            instance_id(id)?;
            text(
                "stop_instance_ack.error_message",
                error_message,
                limits::ACK_MESSAGE,
            )
        }
        Payload::DaemonLogRecord(message) => log_record(message),
        Payload::ModuleStateUpdate(message) => {
            name("module_state_update.module_id", ModuleId::new(&message.module_id))?;
            text("module_state_update.state", &message.state, limits::MODULE_STATE)?;
            text(
                "module_state_update.last_error",
                &message.last_error,
                limits::MODULE_ERROR,
            )
        }
        Payload::EventSubscribe(message) => event_types(&message.event_types),
        Payload::EventUnsubscribe(message) => event_types(&message.event_types),
        Payload::InstanceFileTree(message) => request_id(&message.request_id),
        Payload::InstanceFileContent(message) => request_id(&message.request_id),
    }
}

/// Checks a controller's message other than the handshake's acknowledgement.
///
/// # Errors
/// [`Invalid`] names the first field that breaks a rule.
pub fn controller(payload: &controller_message::Payload) -> Checked {
    use controller_message::Payload;
    match payload {
        Payload::StartInstance(message) => start_instance(message),
        Payload::StopInstance(StopInstance { instance_id: id, .. }) => instance_id(id).map(drop),
        Payload::SendCommand(SendCommand {
            instance_id: id,
            command: line,
            ..
        }) => {
            instance_id(id)?;
            command(line)
        }
        Payload::TemplateData(message) => {
            name(
                "template_data.template_name",
                TemplateName::new(&message.template_name),
            )?;
            text("template_data.hash", &message.hash, limits::HASH)
        }
        Payload::TemplateUpToDate(message) => name(
            "template_up_to_date.template_name",
            TemplateName::new(&message.template_name),
        )
        .map(drop),
        Payload::ErrorReport(message) => error_report(message),
        Payload::ModuleInstall(message) => {
            name("module_install.module_id", ModuleId::new(&message.module_id))?;
            text("module_install.sha256", &message.sha256, limits::HASH)
        }
        Payload::ModuleUninstall(message) => {
            name("module_uninstall.module_id", ModuleId::new(&message.module_id)).map(drop)
        }
        Payload::WalkInstanceFiles(message) => request_id(&message.request_id),
        Payload::ReadInstanceFile(message) => request_id(&message.request_id),
        Payload::CrashReportAck(message) => text(
            "crash_report_ack.report_id",
            &message.report_id,
            limits::REPORT_ID,
        ),
        Payload::HandshakeAck(_)
        | Payload::Ping(_)
        | Payload::ShutdownNode(_)
        | Payload::PreWarmCache(_)
        | Payload::RequestCacheStatus(_)
        | Payload::ModuleEvent(_) => Ok(()),
    }
}

/// Checks a console command: one line, at most [`limits::COMMAND`] characters, no control character but the tab.
///
/// # Errors
/// [`Invalid`] says what is wrong with it.
pub fn command(line: &str) -> Checked {
    ensure("send_command.command", !line.trim().is_empty(), Fault::Blank)?;
    text("send_command.command", line, limits::COMMAND)?;
    let clean = !line.chars().any(|c| c.is_control() && c != '\t');
    ensure("send_command.command", clean, Fault::ControlCharacter)
}

/// Checks an order to start an instance.
///
/// # Errors
/// [`Invalid`] names the first field that breaks a rule.
pub fn start_instance(start: &StartInstance) -> Checked {
    instance_id(&start.instance_id)?;
    name("start_instance.group", GroupName::new(&start.group))?;
    range("start_instance.port", (0..=65_535).contains(&start.port))?;
    range("start_instance.memory_mb", start.memory_mb >= 0)?;
    range(
        "start_instance.startup_timeout_seconds",
        start.startup_timeout_seconds >= 0,
    )?;
    range(
        "start_instance.shutdown_grace_seconds",
        start.shutdown_grace_seconds >= 0,
    )?;
    range(
        "start_instance.max_lifetime_seconds",
        start.max_lifetime_seconds >= 0,
    )?;
    let clean = |text: &String| !text.contains('\0');
    let arguments =
        start.jvm_args.iter().all(clean) && start.env.iter().all(|(key, value)| clean(key) && clean(value));
    ensure("start_instance.jvm_args", arguments, Fault::ControlCharacter)
}

fn node_status(status: &NodeStatus) -> Checked {
    range("node_status.cpu_usage", (0.0..=1.0).contains(&status.cpu_usage))?;
    range("node_status.total_memory_mb", status.total_memory_mb >= 0)?;
    range(
        "node_status.used_memory_mb",
        (0..=status.total_memory_mb).contains(&status.used_memory_mb),
    )?;
    range(
        "node_status.free_disk_mb",
        status.free_disk_mb >= 0 && status.total_disk_mb >= 0,
    )?;
    range("node_status.instance_count", status.instance_count >= 0)?;
    count("node_status.used_ports", status.used_ports.len(), 65_535)?;
    range(
        "node_status.used_ports",
        status.used_ports.iter().all(|port| (1..=65_535).contains(port)),
    )
}

fn instance_status(update: &InstanceStatusUpdate) -> Checked {
    instance_id(&update.instance_id)?;
    if State::try_from(update.state).is_err() {
        return fail(
            "instance_status.state",
            Fault::UnknownValue { value: update.state },
        );
    }
    range("instance_status.port", (0..=65_535).contains(&update.port))?;
    range("instance_status.player_count", update.player_count >= 0)?;
    range("instance_status.uptime_ms", update.uptime_ms >= 0)
}

fn crash_report(report: &CrashReport) -> Checked {
    instance_id(&report.instance_id)?;
    name("crash_report.group", GroupName::new(&report.group))?;
    range("crash_report.uptime_ms", report.uptime_ms >= 0)?;
    text("crash_report.report_id", &report.report_id, limits::REPORT_ID)?;
    count(
        "crash_report.log_tail",
        report.log_tail.len(),
        limits::CRASH_TAIL_LINES,
    )?;
    report
        .log_tail
        .iter()
        .try_for_each(|line| text("crash_report.log_tail", line, limits::CRASH_TAIL_LINE))
}

fn cache_status(status: &CacheStatus) -> Checked {
    for template in &status.templates {
        name("cache_status.templates", TemplateName::new(&template.name))?;
        text("cache_status.templates", &template.hash, limits::HASH)?;
        range("cache_status.templates", template.size_bytes >= 0)?;
    }
    for jar in &status.jars {
        text("cache_status.jars", &jar.platform, 64)?;
        text("cache_status.jars", &jar.version, 64)?;
        text("cache_status.jars", &jar.jar_file, 128)?;
        text("cache_status.jars", &jar.sha256, limits::HASH)?;
        range("cache_status.jars", jar.size_bytes >= 0)?;
    }
    for bootstrap in &status.bootstraps {
        text("cache_status.bootstraps", &bootstrap.version, 64)?;
        range("cache_status.bootstraps", bootstrap.size_bytes >= 0)?;
    }
    range("cache_status.total_size_bytes", status.total_size_bytes >= 0)
}

fn error_report(report: &ErrorReport) -> Checked {
    text("error_report.error_code", &report.error_code, limits::ERROR_CODE)?;
    text(
        "error_report.error_message",
        &report.error_message,
        limits::ERROR_MESSAGE,
    )?;
    text("error_report.context", &report.context, limits::ERROR_CONTEXT)?;
    range(
        "error_report.retry_after_seconds",
        report.retry_after_seconds >= 0,
    )
}

fn start_ack(ack: &StartInstanceAck) -> Checked {
    instance_id(&ack.instance_id)?;
    text(
        "start_instance_ack.error_message",
        &ack.error_message,
        limits::ACK_MESSAGE,
    )?;
    text("start_instance_ack.plan_hash", &ack.plan_hash, limits::ACK_CODE)?;
    text("start_instance_ack.error_code", &ack.error_code, limits::ACK_CODE)?;
    range(
        "start_instance_ack.retry_after_seconds",
        ack.retry_after_seconds >= 0,
    )
}

fn log_record(record: &DaemonLogRecord) -> Checked {
    range("daemon_log_record.timestamp_ms", record.timestamp_ms >= 0)?;
    text("daemon_log_record.level", &record.level, limits::LOG_LEVEL)?;
    text("daemon_log_record.logger", &record.logger, limits::LOG_LOGGER)?;
    text("daemon_log_record.thread", &record.thread, limits::LOG_THREAD)?;
    text("daemon_log_record.message", &record.message, limits::LOG_MESSAGE)?;
    text(
        "daemon_log_record.throwable",
        &record.throwable,
        limits::LOG_THROWABLE,
    )?;
    count("daemon_log_record.mdc", record.mdc.len(), limits::LOG_MDC)
}

fn event_types(types: &[String]) -> Checked {
    count("event_types", types.len(), limits::EVENT_TYPES)?;
    types
        .iter()
        .try_for_each(|event_type| text("event_types", event_type, limits::EVENT_TYPE))
}

fn request_id(id: &str) -> Checked {
    ensure("request_id", !id.is_empty(), Fault::Blank)?;
    text("request_id", id, limits::REQUEST_ID)
}
