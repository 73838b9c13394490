//! Every payload of the stream, in one table: what it is called, how it waits, how large it may be, what its fields hold
//!
//! The rows are read by everything that must treat payloads alike: the validator and the shortener ([`validate`],
//! [`limits`]), the outbox, the names in errors and logs, and `docs/protocol-messages.md`, which a test compares with the
//! table. A variant that is added to the contract does not compile before it has a row, and a message without declared
//! fields does not compile either.
//!
//! This module does not know what a payload means; the sessions do.
//!
//! [`validate`]: crate::validate
//! [`limits`]: crate::limits

pub(crate) mod controller;
mod daemon;
mod entries;
mod rule;

use prexorcloud_proto::{controller_message, daemon_message};
use prost::Message;

use crate::capability::Capabilities;
use crate::limits::{self, MAX_MESSAGE_BYTES};
use crate::outbox::Class;
use crate::validate::{Fault, Invalid};
pub(crate) use rule::Fields;
pub use rule::{FieldRule, Otherwise};

/// Who sends a payload
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A daemon, in a `DaemonMessage`.
    ToController,
    /// A controller, in a `ControllerMessage`.
    ToDaemon,
}

/// Whether a payload says which incarnation of an instance it is about
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tagging {
    /// It is about no instance, or about an instance whichever incarnation runs.
    Untagged,
    /// Its field `incarnation` says so; 0 from a peer that does not announce `incarnations/1`.
    Tagged,
    /// Its entries say so, each for itself.
    EachEntry,
}

/// Between which peers a payload may be used
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Needs {
    /// Between any two.
    Nothing,
    /// Between two that both announce the capability.
    Whole(Capabilities),
    /// Between any two, but for one field, which needs the capability.
    Field(&'static str, Capabilities),
}

/// One row of the table: what holds for every message with this payload
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Kind {
    /// The name of the message, as the contract spells it.
    pub name: &'static str,
    /// The name of its field in the envelope.
    pub field: &'static str,
    /// The number of that field.
    pub number: u32,
    /// Who sends it.
    pub direction: Direction,
    /// How it waits in an outbox.
    pub class: Class,
    /// Whether it says which incarnation it is about.
    pub tagging: Tagging,
    /// Between which peers it may be used.
    pub needs: Needs,
    /// The largest that is accepted, in bytes as encoded, without the envelope.
    pub max_bytes: usize,
    /// The most elements that are accepted: fields as they stand on the wire, where each entry of a list or map is one.
    ///
    /// A few bytes make an entry that takes a hundred times as many in memory, so the size alone bounds nothing. Both are
    /// counted before a message is decoded.
    pub max_elements: usize,
    /// The fields that hold messages with lists of their own; their elements count, too.
    pub nested: &'static [u32],
    /// Whether a message that obeys the rules of its fields cannot be larger, so that it need not be measured.
    size_follows: bool,
    tell: fn(&str, &mut Vec<FieldRule>),
}

impl Kind {
    /// What is wrong with a message of this many bytes and elements, if anything is.
    ///
    /// # Errors
    /// [`Fault::TooLarge`] or [`Fault::TooMany`], about the message as a whole.
    pub fn judge(&'static self, bytes: usize, elements: usize) -> Result<(), Invalid> {
        let fault = if bytes > self.max_bytes {
            Fault::TooLarge {
                limit: self.max_bytes,
            }
        } else if elements > self.max_elements {
            Fault::TooMany {
                limit: self.max_elements,
            }
        } else {
            return Ok(());
        };
        Err(Invalid {
            field: self.field,
            fault,
        })
    }

    /// The rules of its fields, in the order in which they are judged.
    #[must_use]
    pub fn rules(&self) -> Vec<FieldRule> {
        let mut rules = Vec::new();
        (self.tell)("", &mut rules);
        rules
    }
}

impl<M: Fields> Fields for Box<M> {
    fn check(&self) -> Result<(), Invalid> {
        M::check(self)
    }

    fn fit(&mut self) {
        M::fit(self);
    }

    fn tell(prefix: &str, rules: &mut Vec<FieldRule>) {
        M::tell(prefix, rules);
    }
}

fn check<M: Fields + Message>(kind: &'static Kind, message: &M) -> Result<(), Invalid> {
    // What may fill an envelope is bounded with the envelope, by whoever holds one.
    let measured = !kind.size_follows && kind.max_bytes < MAX_MESSAGE_BYTES;
    if measured && message.encoded_len() > kind.max_bytes {
        return Err(Invalid {
            field: kind.field,
            fault: Fault::TooLarge {
                limit: kind.max_bytes,
            },
        });
    }
    message.check()
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Elements of a message without lists: its fields, and room for those of later versions.
const FEW: usize = 64;

macro_rules! table {
    (@follows) => { false };
    (@follows follows) => { true };
    (
        $payload:path, $direction:ident, $list:ident, $of:ident, $check:ident, $fit:ident, $rows:ident;
        $($variant:ident($message:ident) $field:ident = $number:literal,
          $class:ident, $tagging:ident, $needs:expr, $max_bytes:expr, $max_elements:expr
          $(=> [$($nested:literal),+])? $(, $size:ident)?;)+
    ) => {
        #[allow(non_upper_case_globals, reason = "a row has the name of its variant")]
        mod $rows {
            use super::*;

            $(pub(super) static $variant: Kind = Kind {
                name: stringify!($message),
                field: stringify!($field),
                number: $number,
                direction: Direction::$direction,
                class: Class::$class,
                tagging: Tagging::$tagging,
                needs: $needs,
                max_bytes: $max_bytes,
                max_elements: $max_elements,
                nested: &[$($($nested),+)?],
                size_follows: table!(@follows $($size)?),
                tell: <prexorcloud_proto::$message as Fields>::tell,
            };)+
        }

        /// The rows of this direction, in the order of the contract.
        pub static $list: &[&Kind] = &[$(&$rows::$variant),+];

        /// The row of a payload.
        #[must_use]
        pub const fn $of(payload: &$payload) -> &'static Kind {
            use $payload as Payload;
            match payload {
                $(Payload::$variant(_) => &$rows::$variant,)+
            }
        }

        pub(crate) fn $check(payload: &$payload) -> Result<(), Invalid> {
            use $payload as Payload;
            match payload {
                $(Payload::$variant(message) => check(&$rows::$variant, message),)+
            }
        }

        pub(crate) fn $fit(payload: &mut $payload) {
            use $payload as Payload;
            match payload {
                $(Payload::$variant(message) => Fields::fit(message),)+
            }
        }
    };
}

table! {
    daemon_message::Payload, ToController, DAEMON, of_daemon, check_daemon, fit_daemon, daemon_rows;
    Handshake(Handshake) handshake = 1, Control, EachEntry,
        Needs::Nothing, 2 * MIB, 2 * limits::INSTANCES_PER_NODE + limits::LABELS + limits::CAPABILITIES + FEW;
    NodeStatus(NodeStatus) node_status = 2, Control, Untagged,
        Needs::Nothing, 256 * KIB, limits::PORTS + FEW, follows;
    InstanceStatus(InstanceStatusUpdate) instance_status = 3, Control, Tagged, Needs::Nothing, KIB, FEW, follows;
    ConsoleOutput(ConsoleOutput) console_output = 4, BestEffort, Tagged,
        Needs::Field("sequence", Capabilities::CONSOLE_SEQUENCE), 256 * KIB, FEW, follows;
    CrashReport(CrashReport) crash_report = 5, Report, Tagged,
        Needs::Field("report_id", Capabilities::CRASH_ACK), limits::CRASH_REPORT_BYTES_ACCEPTED, limits::CRASH_TAIL_LINES + FEW;
    Pong(Pong) pong = 6, Control, Untagged, Needs::Nothing, KIB, FEW, follows;
    TemplateRequest(TemplateRequest) template_request = 7, Control, Untagged, Needs::Nothing, KIB, FEW;
    CacheStatus(CacheStatus) cache_status = 8, Report, Untagged,
        Needs::Nothing, 8 * MIB, 3 * limits::CACHE_ENTRIES + FEW;
    ErrorReport(ErrorReport) error_report = 9, Control, Untagged, Needs::Nothing, 8 * KIB, FEW;
    ShutdownNodeAck(ShutdownNodeAck) shutdown_node_ack = 10, Control, Untagged, Needs::Nothing, KIB, FEW;
    StartInstanceAck(StartInstanceAck) start_instance_ack = 11, Control, Tagged, Needs::Nothing, 4 * KIB, FEW;
    StopInstanceAck(StopInstanceAck) stop_instance_ack = 12, Control, Tagged, Needs::Nothing, 4 * KIB, FEW;
    DaemonLogRecord(DaemonLogRecord) daemon_log_record = 13, BestEffort, Untagged,
        Needs::Nothing, MIB, limits::LOG_MDC + FEW;
    ModuleStateUpdate(ModuleStateUpdate) module_state_update = 14, Report, Untagged, Needs::Nothing, 4 * KIB, FEW;
    EventSubscribe(EventSubscribe) event_subscribe = 15, Control, Untagged,
        Needs::Field("after_sequence", Capabilities::EVENTS), 2 * MIB, limits::EVENT_TYPES + FEW;
    EventUnsubscribe(EventUnsubscribe) event_unsubscribe = 16, Control, Untagged,
        Needs::Nothing, 2 * MIB, limits::EVENT_TYPES + FEW;
    InstanceFileTree(InstanceFileTree) instance_file_tree = 17, Bulk, Untagged,
        Needs::Nothing, 32 * MIB, limits::FILE_ENTRIES + FEW;
    InstanceFileContent(InstanceFileContent) instance_file_content = 18, Bulk, Untagged, Needs::Nothing, 2 * MIB, FEW;
    CommandWritten(CommandWritten) command_written = 103, Control, Tagged,
        Needs::Whole(Capabilities::EXEC_ACK), 4 * KIB, FEW;
    ModuleSnapshot(ModuleSnapshot) module_snapshot = 104, Report, Untagged,
        Needs::Whole(Capabilities::MODULES), MIB, limits::MODULES + FEW;
    CertificateRequest(CertificateRequest) certificate_request = 105, Report, Untagged,
        Needs::Whole(Capabilities::RENEWAL), 8 * KIB, FEW;
    TrustedAuthorities(TrustedAuthorities) trusted_authorities = 106, Report, Untagged,
        Needs::Whole(Capabilities::RENEWAL), 4 * KIB, limits::AUTHORITIES + FEW;
}

table! {
    controller_message::Payload, ToDaemon, CONTROLLER, of_controller, check_controller, fit_controller, controller_rows;
    HandshakeAck(HandshakeAck) handshake_ack = 1, Control, Untagged,
        Needs::Nothing, 64 * KIB, limits::CONTROLLERS + limits::CAPABILITIES + FEW;
    StartInstance(StartInstance) start_instance = 2, Control, Tagged,
        Needs::Nothing, 4 * MIB, limits::START_ELEMENTS => [24, 102];
    StopInstance(StopInstance) stop_instance = 3, Control, Tagged, Needs::Nothing, KIB, FEW;
    SendCommand(SendCommand) send_command = 4, Control, Tagged, Needs::Field("command_id", Capabilities::EXEC_ACK), 4 * KIB, FEW;
    Ping(Ping) ping = 5, Control, Untagged, Needs::Nothing, KIB, FEW, follows;
    TemplateData(TemplateData) template_data = 6, Bulk, Untagged,
        Needs::Field("artifact", Capabilities::ARTIFACTS), MAX_MESSAGE_BYTES, FEW;
    TemplateUpToDate(TemplateUpToDate) template_up_to_date = 7, Control, Untagged, Needs::Nothing, KIB, FEW;
    ShutdownNode(ShutdownNode) shutdown_node = 8, Control, Untagged, Needs::Nothing, 64 * KIB, FEW;
    PreWarmCache(PreWarmCache) pre_warm_cache = 9, Report, Untagged,
        Needs::Nothing, 4 * MIB, limits::CACHE_ENTRIES + FEW;
    RequestCacheStatus(RequestCacheStatus) request_cache_status = 10, Control, Untagged, Needs::Nothing, KIB, FEW;
    ErrorReport(ErrorReport) error_report = 11, Control, Untagged, Needs::Nothing, 8 * KIB, FEW;
    ModuleInstall(ModuleInstall) module_install = 12, Bulk, Untagged,
        Needs::Field("artifact", Capabilities::ARTIFACTS), MAX_MESSAGE_BYTES, FEW;
    ModuleUninstall(ModuleUninstall) module_uninstall = 13, Control, Untagged, Needs::Nothing, KIB, FEW;
    ModuleEvent(ModuleEvent) module_event = 14, BestEffort, Untagged, Needs::Field("sequence", Capabilities::EVENTS), 4 * MIB, FEW;
    WalkInstanceFiles(WalkInstanceFiles) walk_instance_files = 15, Control, Untagged, Needs::Nothing, 64 * KIB, FEW;
    ReadInstanceFile(ReadInstanceFile) read_instance_file = 16, Control, Untagged, Needs::Nothing, 64 * KIB, FEW;
    CrashReportAck(CrashReportAck) crash_report_ack = 100, Control, Untagged,
        Needs::Whole(Capabilities::CRASH_ACK), KIB, FEW;
    ConsoleOutputAck(ConsoleOutputAck) console_output_ack = 101, Report, Tagged,
        Needs::Whole(Capabilities::CONSOLE_ACK), KIB, FEW;
    InstanceReady(InstanceReady) instance_ready = 102, Control, Tagged,
        Needs::Whole(Capabilities::PLUGIN_READY), KIB, FEW;
    CertificateIssued(CertificateIssued) certificate_issued = 103, Report, Untagged,
        Needs::Whole(Capabilities::RENEWAL), 256 * KIB, FEW;
    AuthorityUpdate(AuthorityUpdate) authority_update = 104, Report, Untagged,
        Needs::Whole(Capabilities::RENEWAL), 256 * KIB, FEW;
}

/// Checks a handshake that has left its envelope.
pub(crate) fn check_handshake(handshake: &prexorcloud_proto::Handshake) -> Result<(), Invalid> {
    check(&daemon_rows::Handshake, handshake)
}
