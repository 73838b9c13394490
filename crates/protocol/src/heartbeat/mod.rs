//! When a peer is asked for a sign of life, and when it is given up
//!
//! The controller asks: a [`Prober`] sends `Ping(n)` at every interval, and the daemon answers each at once with
//! [`answer`]. The daemon only listens: a [`SilenceWatch`] gives a controller up that has said nothing at all for
//! three intervals.
//!
//! ```text
//!              missed_limit pings in a row unanswered for an interval each
//!   Reachable ────────────────────────────────────────────────────────────> Unreachable
//!        ^                                                                       │
//!        └───────────────────────────── valid Pong <─────────────────────────────┘
//! ```
//!
//! Whether the operator has cordoned or drained the node is another fact and lives elsewhere.

pub(crate) mod prober;
pub(crate) mod silence;

use std::time::Duration;

use prexorcloud_proto::{Ping, Pong};

pub use prober::{HeartbeatConfig, PongError};
pub(crate) use prober::{News, ProbeOutput, Prober};
pub(crate) use silence::SilenceWatch;

/// The interval of a controller that does not say.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest interval.
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval.
pub const MAX_INTERVAL: Duration = Duration::from_secs(3600);
/// How many intervals of silence, or unanswered pings, end the belief in a peer.
pub const MISSED_LIMIT: u32 = 3;

/// The interval that `HandshakeAck.heartbeat_interval_ms` stands for
///
/// Zero means [`DEFAULT_INTERVAL`]; everything else is brought between [`MIN_INTERVAL`] and [`MAX_INTERVAL`].
///
/// ```
/// use std::time::Duration;
/// use prexorcloud_protocol::heartbeat::interval_from_wire;
///
/// assert_eq!(interval_from_wire(0), Duration::from_secs(30));
/// assert_eq!(interval_from_wire(10_000), Duration::from_secs(10));
/// assert_eq!(interval_from_wire(-1), Duration::from_secs(1));
/// assert_eq!(interval_from_wire(i64::MAX), Duration::from_secs(3600));
/// ```
#[must_use]
pub fn interval_from_wire(milliseconds: i64) -> Duration {
    match u64::try_from(milliseconds) {
        Ok(0) => DEFAULT_INTERVAL,
        Ok(milliseconds) => Duration::from_millis(milliseconds).clamp(MIN_INTERVAL, MAX_INTERVAL),
        Err(_) => MIN_INTERVAL,
    }
}

/// What a daemon replies to a ping, at once.
#[must_use]
pub const fn answer(ping: &Ping) -> Pong {
    Pong {
        sequence: ping.sequence,
    }
}
