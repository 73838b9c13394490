//! Which messages of a peer are acceptable
//!
//! The rules are those of the contract (lengths, safe names, ranges); they stand in [`payload`], one list per message. A
//! message that breaks one is refused as a whole and answered with an `ErrorReport` of code `INVALID_MESSAGE` that names
//! the field, so the peer can notice; the stream goes on. Only a handshake that breaks a rule ends the stream.

use std::fmt;

use prexorcloud_proto::{Handshake, StartInstance, controller_message, daemon_message};

use crate::id::{InstanceId, InvalidName, NodeId};
use crate::payload::{self, Fields as _};

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
    /// The message is larger than allowed.
    TooLarge {
        /// The limit, in bytes as encoded.
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
            Fault::TooLarge { limit } => write!(f, "{field} is too large (at most {limit} bytes)"),
            Fault::OutOfRange => write!(f, "{field} is out of range"),
            Fault::UnknownValue { value } => write!(f, "{field} has the unknown value {value}"),
            Fault::ControlCharacter => write!(f, "{field} contains a control character"),
        }
    }
}

impl std::error::Error for Invalid {}

/// Checks the `instance_id` of any message.
///
/// # Errors
/// [`Invalid`] names the rule of safe names that is broken.
pub fn instance_id(id: &str) -> Result<InstanceId, Invalid> {
    InstanceId::new(id).map_err(|invalid| Invalid {
        field: "instance_id",
        fault: Fault::Name(invalid),
    })
}

/// Checks a handshake and gives the node it claims to come from.
///
/// # Errors
/// [`Invalid`] names the first field that breaks a rule. The protocol version is judged elsewhere.
pub fn handshake(handshake: &Handshake) -> Result<NodeId, Invalid> {
    payload::check_handshake(handshake)?;
    NodeId::new(&handshake.node_id).map_err(|invalid| Invalid {
        field: "handshake.node_id",
        fault: Fault::Name(invalid),
    })
}

/// Checks a daemon's message.
///
/// # Errors
/// [`Invalid`] names the first field that breaks a rule.
pub fn daemon(payload: &daemon_message::Payload) -> Result<(), Invalid> {
    payload::check_daemon(payload)
}

/// Checks a controller's message.
///
/// # Errors
/// [`Invalid`] names the first field that breaks a rule.
pub fn controller(payload: &controller_message::Payload) -> Result<(), Invalid> {
    payload::check_controller(payload)
}

/// Checks a console command: one line, not blank, no control character but the tab.
///
/// # Errors
/// [`Invalid`] says what is wrong with it.
pub fn command(line: &str) -> Result<(), Invalid> {
    payload::controller::command(line)
}

/// Variables of [`is_refused_variable`]
const REFUSED_VARIABLES: [&str; 8] = [
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "DYLD_INSERT_LIBRARIES",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "CLASSPATH",
];

/// Whether a variable of `start_instance.env` is handed to no server, since it makes a process load foreign code.
///
/// A daemon leaves it out and starts the instance without it; a controller had better refuse the request. Case does not
/// matter.
#[must_use]
pub fn is_refused_variable(name: &str) -> bool {
    REFUSED_VARIABLES
        .iter()
        .any(|refused| refused.eq_ignore_ascii_case(name))
}

/// Checks an order to start an instance.
///
/// # Errors
/// [`Invalid`] names the first field that breaks a rule.
pub fn start_instance(start: &StartInstance) -> Result<(), Invalid> {
    start.check()
}
