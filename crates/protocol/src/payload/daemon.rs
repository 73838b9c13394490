//! The field rules of what a daemon sends, and of `ErrorReport`, which either side does

use prexorcloud_proto::{
    BootstrapCacheEntry, CrashReport, HostInfo, JarCacheEntry, ModuleReport, NodeStatus, TemplateCacheEntry,
};
use prost::Message as _;

use super::entries::{Each, Entries, Inside, Keys, Only, Values};
use super::rule::{
    Checked, FieldRule, Fields, Instance, Judge, KnownState, Name, Number, Otherwise, Rule, Share, Text,
    ensure, fields,
};
use crate::id::{GroupName, ModuleId, NodeId, TemplateName};
use crate::limits;
use crate::validate::Fault;

const NATURAL: Number = Number::natural(Otherwise::Refused);
const CLAMPED: Number = Number::natural(Otherwise::Clamped);

fields! { Handshake as "handshake" {
    node_id: Name(NodeId::new);
    version: Text::shortened(limits::VERSION).required();
    // A shortened address is a wrong address; without one the controller uses the peer's.
    advertise_address: Text::cleared(limits::ADVERTISE_ADDRESS);
    boot_id: Text::shortened(limits::BOOT_ID);
    labels:
        Keys(Text::refused(limits::LABEL_KEY), Otherwise::Dropped),
        Values(Text::shortened(limits::LABEL_VALUE)),
        Entries::dropped(limits::LABELS);
    total_memory_mb: NATURAL;
    available_cpus: NATURAL;
    running_instances: Entries::refused(limits::INSTANCES_PER_NODE);
    ended_instances: Entries::refused(limits::INSTANCES_PER_NODE);
    capabilities: Entries::refused(limits::CAPABILITIES);
    host_info: Inside::<HostInfo>::new();
} }

fields! { HostInfo as "handshake.host_info" {
    os_name: Text::shortened(limits::LABEL_VALUE);
    os_version: Text::shortened(limits::LABEL_VALUE);
    arch: Text::shortened(limits::LABEL_VALUE);
    cpu_model: Text::shortened(limits::LABEL_VALUE);
    java_version: Text::shortened(limits::LABEL_VALUE);
    java_vendor: Text::shortened(limits::LABEL_VALUE);
    java_runtime: Text::shortened(limits::LABEL_VALUE);
    java_gc: Text::shortened(limits::LABEL_VALUE);
} }

fields! { NodeStatus as "node_status" {
    cpu_usage: Share;
    total_memory_mb: CLAMPED;
    used_memory_mb: CLAMPED;
    free_disk_mb: CLAMPED;
    total_disk_mb: CLAMPED;
    instance_count: CLAMPED;
    used_ports: Entries::refused(limits::PORTS), Only(Number::within(1, 65_535));
} whole UsedWithinTotal; }

/// More memory in use than there is
struct UsedWithinTotal;

impl Rule for UsedWithinTotal {
    fn tell(&self, prefix: &str, rules: &mut Vec<FieldRule>) {
        rules.push(FieldRule {
            field: format!("{prefix}used_memory_mb"),
            rule: "at most `total_memory_mb`".to_owned(),
            otherwise: Otherwise::Clamped,
        });
    }
}

impl Judge<NodeStatus> for UsedWithinTotal {
    #[inline]
    fn check(&self, _field: &'static str, status: &NodeStatus) -> Checked {
        ensure(
            "node_status.used_memory_mb",
            status.used_memory_mb <= status.total_memory_mb,
            Fault::OutOfRange,
        )
    }

    fn fit(&self, status: &mut NodeStatus) {
        status.used_memory_mb = status.used_memory_mb.min(status.total_memory_mb);
    }
}

fields! { InstanceStatusUpdate as "instance_status" {
    instance_id: Instance;
    state: KnownState;
    port: Number::within(0, 65_535);
    player_count: NATURAL;
    uptime_ms: NATURAL;
    waiting_for: Text::shortened(limits::WAITING_FOR);
} }

fields! { ConsoleOutput as "console_output" {
    instance_id: Instance;
    line: Text::shortened(limits::CONSOLE_LINE);
} }

fields! { CrashReport as "crash_report" {
    instance_id: Instance;
    group: Name(GroupName::new);
    uptime_ms: CLAMPED;
    report_id: Text::refused(limits::REPORT_ID);
    log_tail: Each(Text::shortened(limits::CRASH_TAIL_LINE));
} whole NewestLines; }

/// A tail of at most so many lines; one that is made here is also cut to what others can store
struct NewestLines;

impl Rule for NewestLines {
    fn tell(&self, prefix: &str, rules: &mut Vec<FieldRule>) {
        rules.push(FieldRule {
            field: format!("{prefix}log_tail"),
            rule: format!(
                "at most {} entries; of ours, so many that the report has at most {} bytes, and if that cuts any, a \
                 first line that says how much",
                limits::CRASH_TAIL_LINES,
                limits::CRASH_REPORT_BYTES
            ),
            otherwise: Otherwise::OldestDropped,
        });
    }
}

impl Judge<CrashReport> for NewestLines {
    fn check(&self, _field: &'static str, report: &CrashReport) -> Checked {
        ensure(
            "crash_report.log_tail",
            report.log_tail.len() <= limits::CRASH_TAIL_LINES,
            Fault::TooMany {
                limit: limits::CRASH_TAIL_LINES,
            },
        )
    }

    fn fit(&self, report: &mut CrashReport) {
        let fits = report.log_tail.len() <= limits::CRASH_TAIL_LINES
            && report.encoded_len() <= limits::CRASH_REPORT_BYTES;
        if fits {
            return;
        }
        let tail = std::mem::take(&mut report.log_tail);
        // The marker is written when its numbers are known; this is the longest that it can become.
        let marker = cut_marker(usize::MAX, usize::MAX).len() + LINE_OVERHEAD;
        let mut room = limits::CRASH_REPORT_BYTES.saturating_sub(report.encoded_len() + marker);
        let kept = tail
            .iter()
            .rev()
            .take(limits::CRASH_TAIL_LINES - 1)
            .take_while(|line| match room.checked_sub(line.len() + LINE_OVERHEAD) {
                Some(rest) => {
                    room = rest;
                    true
                }
                None => false,
            })
            .count();
        let lines = tail.len() - kept;
        let bytes = tail.iter().take(lines).map(String::len).sum();
        report.log_tail.push(cut_marker(lines, bytes));
        report.log_tail.extend(tail.into_iter().skip(lines));
    }
}

/// What a line costs beside its text: a key of one byte, a length of at most three.
const LINE_OVERHEAD: usize = 4;

fn cut_marker(lines: usize, bytes: usize) -> String {
    format!("[prexorcloud] {lines} earlier line(s) of this tail, {bytes} bytes, were cut")
}

fields! { Pong as "pong" {
    sequence: NATURAL;
} }

fields! { TemplateRequest as "template_request" {
    template_name: Name(TemplateName::new);
    known_hash: Text::refused(limits::HASH);
    wanted_hash: Text::refused(limits::HASH);
} }

fields! { CacheStatus as "cache_status" {
    templates: Only(Inside::<TemplateCacheEntry>::new()), Entries::dropped(limits::CACHE_ENTRIES);
    jars: Only(Inside::<JarCacheEntry>::new()), Entries::dropped(limits::CACHE_ENTRIES);
    bootstraps: Only(Inside::<BootstrapCacheEntry>::new()), Entries::dropped(limits::CACHE_ENTRIES);
    total_size_bytes: CLAMPED;
} }

fields! { TemplateCacheEntry as "cache_status.templates" {
    name: Name(TemplateName::new);
    hash: Text::refused(limits::HASH);
    size_bytes: NATURAL;
} }

fields! { JarCacheEntry as "cache_status.jars" {
    platform: Text::refused(limits::CACHE_TEXT);
    version: Text::refused(limits::CACHE_TEXT);
    jar_file: Text::refused(limits::CACHE_FILE);
    sha256: Text::refused(limits::HASH);
    size_bytes: NATURAL;
} }

fields! { BootstrapCacheEntry as "cache_status.bootstraps" {
    version: Text::refused(limits::CACHE_TEXT);
    size_bytes: NATURAL;
} }

fields! { ErrorReport as "error_report" {
    error_code: Text::shortened(limits::ERROR_CODE);
    error_message: Text::shortened(limits::ERROR_MESSAGE);
    context: Text::shortened(limits::ERROR_CONTEXT);
    retry_after_seconds: CLAMPED;
} }

fields! { ShutdownNodeAck as "shutdown_node_ack" {
    running_instances: NATURAL;
    estimated_drain_seconds: NATURAL;
} }

fields! { StartInstanceAck as "start_instance_ack" {
    instance_id: Instance;
    error_message: Text::shortened(limits::ACK_MESSAGE);
    plan_hash: Text::shortened(limits::ACK_CODE);
    error_code: Text::shortened(limits::ACK_CODE);
    retry_after_seconds: CLAMPED;
} }

fields! { StopInstanceAck as "stop_instance_ack" {
    instance_id: Instance;
    error_message: Text::shortened(limits::ACK_MESSAGE);
} }

fields! { CommandWritten as "command_written" {
    instance_id: Instance;
    error_code: Text::shortened(limits::ACK_CODE);
    error_message: Text::shortened(limits::ACK_MESSAGE);
} }

fields! { DaemonLogRecord as "daemon_log_record" {
    timestamp_ms: CLAMPED;
    level: Text::shortened(limits::LOG_LEVEL);
    logger: Text::shortened(limits::LOG_LOGGER);
    thread: Text::shortened(limits::LOG_THREAD);
    message: Text::shortened(limits::LOG_MESSAGE);
    throwable: Text::shortened(limits::LOG_THROWABLE);
    mdc:
        Keys(Text::refused(limits::LOG_MDC_TEXT), Otherwise::Dropped),
        Values(Text::shortened(limits::LOG_MDC_TEXT)),
        Entries::dropped(limits::LOG_MDC);
} }

fields! { ModuleStateUpdate as "module_state_update" {
    module_id: Name(ModuleId::new);
    state: Text::shortened(limits::MODULE_STATE);
    last_error: Text::shortened(limits::MODULE_ERROR);
    version: Text::shortened(limits::MODULE_VERSION);
    sha256: Text::refused(limits::HASH);
} }

fields! { ModuleSnapshot as "module_snapshot" {
    modules: Only(Inside::<ModuleReport>::new()), Entries::refused(limits::MODULES);
} }

fields! { ModuleReport as "module_snapshot.modules" {
    module_id: Name(ModuleId::new);
    version: Text::shortened(limits::MODULE_VERSION);
    sha256: Text::refused(limits::HASH);
    state: Text::shortened(limits::MODULE_STATE);
    last_error: Text::shortened(limits::MODULE_ERROR);
} }

// The request itself is read by whoever signs it.
fields! { CertificateRequest as "certificate_request" {} }

fields! { TrustedAuthorities as "trusted_authorities" {
    sha256: Entries::refused(limits::AUTHORITIES), Each(Text::refused(limits::HASH));
} }

fields! { EventSubscribe as "event_subscribe" {
    event_types: Entries::refused(limits::EVENT_TYPES), Each(Text::refused(limits::EVENT_TYPE));
} }

fields! { EventUnsubscribe as "event_unsubscribe" {
    event_types: Entries::refused(limits::EVENT_TYPES), Each(Text::refused(limits::EVENT_TYPE));
} }

fields! { InstanceFileTree as "instance_file_tree" {
    request_id: Text::refused(limits::REQUEST_ID).required();
} }

fields! { InstanceFileContent as "instance_file_content" {
    request_id: Text::refused(limits::REQUEST_ID).required();
} }
