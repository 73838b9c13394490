//! The sizes that the contract allows, and how our own messages are cut to fit
//!
//! A receiver drops (Java) or refuses (this crate) a message with an over-long field, and with it everything else the
//! message said. So whatever we send passes [`fit_daemon`] or [`fit_controller`] first: free text is shortened, the
//! news arrives. Which limit belongs to which field, and what is done about it, stands in [`payload`]. Lengths are counted in UTF-16 code units, as the Java peers count them.

use prexorcloud_proto::{CrashReport, ErrorReport, controller_message, daemon_message};

use crate::payload::{self, Fields as _};

/// The largest message on the stream, in bytes (100 MiB), both ways.
pub const MAX_MESSAGE_BYTES: usize = 100 * 1024 * 1024;
/// The longest console line.
pub const CONSOLE_LINE: usize = 65_536;
/// The most lines in the tail of a crash report.
pub const CRASH_TAIL_LINES: usize = 500;
/// The longest line in the tail of a crash report.
pub const CRASH_TAIL_LINE: usize = 8_192;
/// The largest crash report that is made here, in bytes as encoded.
pub const CRASH_REPORT_BYTES: usize = 1024 * 1024;
/// The largest crash report that is accepted, in bytes as encoded: a full tail of ASCII lines from a Java daemon, and
/// still half of what a store takes as one value.
pub const CRASH_REPORT_BYTES_ACCEPTED: usize = 4 * 1024 * 1024;
/// The longest console command.
pub const COMMAND: usize = 1_000;
/// What [`ReadinessRule.line`](prexorcloud_proto::ReadinessRule) may have.
pub const READY_LINE: usize = 128;
/// What [`InstanceStatusUpdate.waiting_for`](prexorcloud_proto::InstanceStatusUpdate) may have.
pub const WAITING_FOR: usize = 256;
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
/// The most authorities that a daemon may say it believes.
pub const AUTHORITIES: usize = 16;
/// The longest content hash.
pub const HASH: usize = 128;
/// The most entries of each kind in a cache status.
pub const CACHE_ENTRIES: usize = 4_096;
/// The longest platform or version in a cache status.
pub const CACHE_TEXT: usize = 64;
/// The longest file name in a cache status.
pub const CACHE_FILE: usize = 128;
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
/// The longest version of a module.
pub const MODULE_VERSION: usize = 64;
/// The most modules of a node.
pub const MODULES: usize = 256;
/// The largest signature file of a module, in bytes.
pub const MODULE_SIGNATURE_BYTES: usize = 256 * 1024;
/// The largest manifest of a module, in bytes.
pub const MODULE_MANIFEST_BYTES: usize = 64 * 1024;
/// The most event types in one subscription message.
pub const EVENT_TYPES: usize = 1_024;
/// The longest event type.
pub const EVENT_TYPE: usize = 512;
/// The most ports in a node status.
pub const PORTS: usize = 65_535;
/// The most entries of a file tree; a controller asks for 5,000.
pub const FILE_ENTRIES: usize = 131_072;
/// The most controllers that an acknowledgement may name.
pub const CONTROLLERS: usize = 1_024;
/// The most elements of a start: arguments, variables, paths, templates, and the steps of its plan.
pub const START_ELEMENTS: usize = 16_384;
/// The largest message of a kind that this build does not know; a larger one is not read.
pub const UNKNOWN_BYTES: usize = 4 * 1024 * 1024;
/// The largest request of somebody who has no certificate yet: a token and a request for a certificate.
pub const BOOTSTRAP_BYTES: usize = 8 * 1024;
/// What a controller holds of what arrives before the handshake is complete, in bytes as encoded.
pub const HELD_BYTES: usize = 8 * 1024 * 1024;
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
    payload::fit_daemon(payload);
}

/// Cuts a controller's message to the limits that a daemon enforces.
pub fn fit_controller(payload: &mut controller_message::Payload) {
    payload::fit_controller(payload);
}

/// Cuts a crash report to [`CRASH_REPORT_BYTES`]: the newest lines remain, after one that says how much was cut
///
/// For whoever keeps a report before a session has it.
pub fn fit_crash_report(report: &mut CrashReport) {
    report.fit();
}

pub(crate) fn fit_error_report(report: &mut ErrorReport) {
    report.fit();
}
