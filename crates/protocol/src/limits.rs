//! The sizes that the contract allows, and how our own messages are cut to fit
//!
//! A receiver drops (Java) or refuses (this crate) a message with an over-long field, and with it everything else the
//! message said. So whatever we send passes [`fit_daemon`] or [`fit_controller`] first: free text is shortened, the
//! news arrives. Lengths are counted in UTF-16 code units, as the Java peers count them.

use prexorcloud_proto::{
    CacheStatus, CrashReport, DaemonLogRecord, ErrorReport, Handshake, NodeStatus, StartInstanceAck,
    StopInstanceAck, controller_message, daemon_message,
};

/// The largest message on the stream, in bytes (100 MiB), both ways.
pub const MAX_MESSAGE_BYTES: usize = 100 * 1024 * 1024;
/// The longest console line.
pub const CONSOLE_LINE: usize = 65_536;
/// The most lines in the tail of a crash report.
pub const CRASH_TAIL_LINES: usize = 500;
/// The longest line in the tail of a crash report.
pub const CRASH_TAIL_LINE: usize = 8_192;
/// The longest console command.
pub const COMMAND: usize = 1_000;
/// The longest error message in a start or stop acknowledgement.
pub const ACK_MESSAGE: usize = 512;
/// The longest error code or plan hash in a start acknowledgement.
pub const ACK_CODE: usize = 128;
/// The longest code of an error report.
pub const ERROR_CODE: usize = 64;
/// The longest message of an error report.
pub const ERROR_MESSAGE: usize = 1_024;
/// The longest context of an error report.
pub const ERROR_CONTEXT: usize = 256;
/// The longest daemon version.
pub const VERSION: usize = 64;
/// The longest advertised address.
pub const ADVERTISE_ADDRESS: usize = 255;
/// Longest name of a daemon's process, `Handshake.boot_id`.
pub const BOOT_ID: usize = 64;
/// The longest label key.
pub const LABEL_KEY: usize = 64;
/// The longest label value.
pub const LABEL_VALUE: usize = 256;
/// The most labels of a node.
pub const LABELS: usize = 64;
/// The most instances that one node may report or be given.
pub const INSTANCES_PER_NODE: usize = 4_096;
/// The most capabilities that a handshake may list.
pub const CAPABILITIES: usize = 128;
/// The longest content hash.
pub const HASH: usize = 128;
/// The longest report id of a crash report.
pub const REPORT_ID: usize = 64;
/// The longest level of a forwarded log record.
pub const LOG_LEVEL: usize = 16;
/// The longest logger name of a forwarded log record.
pub const LOG_LOGGER: usize = 256;
/// The longest thread name of a forwarded log record.
pub const LOG_THREAD: usize = 128;
/// The longest message of a forwarded log record.
pub const LOG_MESSAGE: usize = 8_192;
/// The longest stack trace of a forwarded log record.
pub const LOG_THROWABLE: usize = 32_768;
/// The most context entries of a forwarded log record.
pub const LOG_MDC: usize = 64;
/// The longest key or value of a forwarded log record's context.
pub const LOG_MDC_TEXT: usize = 1_024;
/// The longest state of a module.
pub const MODULE_STATE: usize = 32;
/// The longest error of a module.
pub const MODULE_ERROR: usize = 1_024;
/// The most event types in one subscription message.
pub const EVENT_TYPES: usize = 1_024;
/// The longest event type.
pub const EVENT_TYPE: usize = 512;
/// The longest request id of a file request.
pub const REQUEST_ID: usize = 128;

/// What stands at the end of a shortened text.
const MARKER: &str = "... (truncated)";

/// Whether `text` has at most `limit` UTF-16 code units.
#[must_use]
pub fn fits(text: &str, limit: usize) -> bool {
    // A UTF-8 text never has fewer bytes than UTF-16 units, so the count is rarely needed.
    text.len() <= limit || text.encode_utf16().take(limit + 1).count() <= limit
}

/// Shortens `text` to at most `limit` UTF-16 code units, on a character boundary
///
/// The result ends in `... (truncated)` where the limit has room for it, and the marker counts towards the limit.
///
/// ```
/// use prexorcloud_protocol::limits::shorten;
///
/// let mut text = "x".repeat(40);
/// shorten(&mut text, 20);
/// assert_eq!(text, "xxxxx... (truncated)");
/// ```
pub fn shorten(text: &mut String, limit: usize) {
    if fits(text, limit) {
        return;
    }
    let marker = if limit >= 2 * MARKER.len() || limit == MARKER.len() + 5 {
        MARKER
    } else {
        ""
    };
    let room = limit - marker.len();
    let mut units = 0;
    let cut = text
        .char_indices()
        .find(|(_, c)| {
            units += c.len_utf16();
            units > room
        })
        .map_or(text.len(), |(at, _)| at);
    text.truncate(cut);
    text.push_str(marker);
}

/// Cuts a daemon's message to the limits that a controller enforces.
pub fn fit_daemon(payload: &mut daemon_message::Payload) {
    use daemon_message::Payload;
    match payload {
        Payload::Handshake(handshake) => fit_handshake(handshake),
        Payload::NodeStatus(status) => fit_node_status(status),
        Payload::ConsoleOutput(output) => shorten(&mut output.line, CONSOLE_LINE),
        Payload::CrashReport(report) => fit_crash_report(report),
        Payload::CacheStatus(status) => fit_cache_status(status),
        Payload::ErrorReport(report) => fit_error_report(report),
        Payload::StartInstanceAck(ack) => fit_start_ack(ack),
        Payload::StopInstanceAck(StopInstanceAck { error_message, .. }) => {
            shorten(error_message, ACK_MESSAGE)
        }
        Payload::DaemonLogRecord(record) => fit_log_record(record),
        Payload::ModuleStateUpdate(update) => {
            shorten(&mut update.state, MODULE_STATE);
            shorten(&mut update.last_error, MODULE_ERROR);
        }
        Payload::InstanceStatus(_)
        | Payload::Pong(_)
        | Payload::TemplateRequest(_)
        | Payload::ShutdownNodeAck(_)
        | Payload::EventSubscribe(_)
        | Payload::EventUnsubscribe(_)
        | Payload::InstanceFileTree(_)
        | Payload::InstanceFileContent(_) => {}
    }
}

/// Cuts a controller's message to the limits that a daemon enforces.
pub fn fit_controller(payload: &mut controller_message::Payload) {
    if let controller_message::Payload::ErrorReport(report) = payload {
        fit_error_report(report);
    }
}

fn fit_handshake(handshake: &mut Handshake) {
    shorten(&mut handshake.version, VERSION);
    shorten(&mut handshake.boot_id, BOOT_ID);
    if !fits(&handshake.advertise_address, ADVERTISE_ADDRESS) {
        // A shortened address is a wrong address; without one the controller uses the peer's.
        handshake.advertise_address.clear();
    }
    handshake.labels.retain(|key, _| fits(key, LABEL_KEY));
    handshake
        .labels
        .values_mut()
        .for_each(|value| shorten(value, LABEL_VALUE));
    if handshake.labels.len() > LABELS {
        let mut keys: Vec<_> = handshake.labels.keys().cloned().collect();
        keys.sort_unstable();
        for key in keys.drain(LABELS..) {
            handshake.labels.remove(&key);
        }
    }
}

fn fit_node_status(status: &mut NodeStatus) {
    status.cpu_usage = if status.cpu_usage.is_finite() {
        status.cpu_usage.clamp(0.0, 1.0)
    } else {
        0.0
    };
    for number in [
        &mut status.total_memory_mb,
        &mut status.used_memory_mb,
        &mut status.free_disk_mb,
        &mut status.total_disk_mb,
    ] {
        *number = (*number).max(0);
    }
    status.used_memory_mb = status.used_memory_mb.min(status.total_memory_mb);
    status.instance_count = status.instance_count.max(0);
    status.used_ports.retain(|port| (1..=65_535).contains(port));
}

fn fit_crash_report(report: &mut CrashReport) {
    let surplus = report.log_tail.len().saturating_sub(CRASH_TAIL_LINES);
    report.log_tail.drain(..surplus);
    report
        .log_tail
        .iter_mut()
        .for_each(|line| shorten(line, CRASH_TAIL_LINE));
    report.uptime_ms = report.uptime_ms.max(0);
}

fn fit_cache_status(status: &mut CacheStatus) {
    let safe = |entry: &prexorcloud_proto::TemplateCacheEntry| {
        crate::id::TemplateName::new(&entry.name).is_ok() && fits(&entry.hash, HASH)
    };
    status.templates.retain(safe);
    status.jars.retain(|jar| {
        fits(&jar.platform, 64)
            && fits(&jar.version, 64)
            && fits(&jar.jar_file, 128)
            && fits(&jar.sha256, HASH)
    });
    status.bootstraps.retain(|bootstrap| fits(&bootstrap.version, 64));
}

pub(crate) fn fit_error_report(report: &mut ErrorReport) {
    shorten(&mut report.error_code, ERROR_CODE);
    shorten(&mut report.error_message, ERROR_MESSAGE);
    shorten(&mut report.context, ERROR_CONTEXT);
    report.retry_after_seconds = report.retry_after_seconds.max(0);
}

fn fit_start_ack(ack: &mut StartInstanceAck) {
    shorten(&mut ack.error_message, ACK_MESSAGE);
    shorten(&mut ack.error_code, ACK_CODE);
    shorten(&mut ack.plan_hash, ACK_CODE);
    ack.retry_after_seconds = ack.retry_after_seconds.max(0);
}

fn fit_log_record(record: &mut DaemonLogRecord) {
    record.timestamp_ms = record.timestamp_ms.max(0);
    shorten(&mut record.level, LOG_LEVEL);
    shorten(&mut record.logger, LOG_LOGGER);
    shorten(&mut record.thread, LOG_THREAD);
    shorten(&mut record.message, LOG_MESSAGE);
    shorten(&mut record.throwable, LOG_THROWABLE);
    record.mdc.retain(|key, _| fits(key, LOG_MDC_TEXT));
    record
        .mdc
        .values_mut()
        .for_each(|value| shorten(value, LOG_MDC_TEXT));
    if record.mdc.len() > LOG_MDC {
        let mut kept = 0;
        record.mdc.retain(|_, _| {
            kept += 1;
            kept <= LOG_MDC
        });
    }
}
