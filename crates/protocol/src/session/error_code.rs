//! The codes that this crate puts into `ErrorReport.error_code`

/// A message broke a rule of the contract; the context names the field.
pub const INVALID_MESSAGE: &str = "INVALID_MESSAGE";
/// A message was not allowed at this point of the session.
pub const OUT_OF_PLACE: &str = "OUT_OF_PLACE";
/// A command came from a controller that has been superseded.
pub const STALE_EPOCH: &str = "STALE_EPOCH";
/// A command came under an epoch that could not be written down, and is not carried out; it may be repeated.
pub const EPOCH_NOT_WRITTEN: &str = "EPOCH_NOT_WRITTEN";
/// A pong answered no outstanding ping.
pub const UNSOLICITED_PONG: &str = "UNSOLICITED_PONG";
/// A message was about an instance that the receiver does not have.
pub const UNKNOWN_INSTANCE: &str = "UNKNOWN_INSTANCE";
/// A message was about an earlier incarnation of an instance.
pub const STALE_INCARNATION: &str = "STALE_INCARNATION";
/// An observation contradicted the transition table.
pub const ILLEGAL_TRANSITION: &str = "ILLEGAL_TRANSITION";
/// A command could not be carried out in the state of the instance.
pub const WRONG_STATE: &str = "WRONG_STATE";
/// Commands arrived before the acknowledgement of the handshake, more than are held.
pub const TOO_EARLY: &str = "TOO_EARLY";
/// Forwarded events were shed.
pub const EVENTS_LOST: &str = "EVENTS_LOST";
/// `StartInstanceAck.error_code`: the instance is being started already (the Java daemon's code).
pub const INSTANCE_ALREADY_STARTING: &str = "INSTANCE_ALREADY_STARTING";
/// `StartInstanceAck.error_code`: the instance is alive already (the Java daemon's code).
pub const INSTANCE_ALREADY_RUNNING: &str = "INSTANCE_ALREADY_RUNNING";
/// `StartInstanceAck.error_code`: an earlier incarnation of the id is still alive.
pub const INSTANCE_STILL_ALIVE: &str = "INSTANCE_STILL_ALIVE";
/// Of a daemon: records of the instance that the context names are damaged; it is watched all the same.
pub const RECORDS_DAMAGED: &str = "RECORDS_DAMAGED";
/// Of a daemon: the authorities that it was told are not believed, since its own certificate would not count among them, or they cannot
/// be read or written; those of before are.
pub const AUTHORITIES_REFUSED: &str = "AUTHORITIES_REFUSED";

/// Something that was to be in the cache beforehand cannot be had; the context names it.
pub const PRE_WARM_FAILED: &str = "PRE_WARM_FAILED";
/// The cache is being filled for an earlier order.
pub const PRE_WARM_BUSY: &str = "PRE_WARM_BUSY";
