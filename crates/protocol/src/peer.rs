//! What a peer is taken to do, and nothing that it has not announced
//!
//! A session may assume of the other side what both announced in the handshake, and no more. [`DaemonPeer`] is what a
//! controller assumes of a daemon, [`ControllerPeer`] what a daemon assumes of a controller; each is made once, from the
//! capabilities that both share, and asked by every rule that would differ. The Java programs announce nothing.
//!
//! | | announced | not announced (the Java programs) |
//! |---|---|---|
//! | incarnations | tells the uses of an id apart | judged by state; an id is free again when its listing is gone |
//! | preparation | unlisted `PREPARING` never ran | unlisted `PREPARING` or `STARTING` may run |
//! | readiness | the daemon says `RUNNING` | the server's plugin does, over HTTP |
//! | startup deadline | the daemon ends a server that is late | nobody does, but the operator |
//! | crash reports | kept until acknowledged | counted as delivered when written |
//! | ended instances | listed until surely known | only what lives is listed |
//! | receipt of news | the next pings say it | counted as received 2 s later |
//!
//! ```
//! use prexorcloud_protocol::{Capabilities, peer::DaemonPeer};
//!
//! assert!(DaemonPeer::of(Capabilities::SESSION).judges_readiness);
//! assert!(!DaemonPeer::of(Capabilities::NONE).judges_readiness, "the Java daemon");
//! ```

use crate::capability::Capabilities;

/// What a controller may assume of a daemon
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DaemonPeer {
    /// It names the incarnation in everything that it says about an instance.
    pub names_incarnations: bool,
    /// It lists instances in preparation; what it does not list it does not prepare.
    pub lists_preparing: bool,
    /// It reports `RUNNING` and player counts itself.
    pub judges_readiness: bool,
    /// It ends a server that is not ready in time itself, and says so in a crash report.
    pub keeps_startup_deadline: bool,
    /// It keeps a crash report until `CrashReportAck`.
    pub keeps_crashes: bool,
    /// It lists what has ended until a controller surely knows.
    pub lists_ended: bool,
    /// It numbers console lines, so that a gap is visible.
    pub numbers_console: bool,
    /// It fetches templates and modules through `ArtifactService`.
    pub fetches_artifacts: bool,
}

impl DaemonPeer {
    /// What follows from the capabilities that both sides announced.
    #[must_use]
    pub const fn of(shared: Capabilities) -> Self {
        Self {
            names_incarnations: shared.contains(Capabilities::INCARNATIONS),
            lists_preparing: shared.contains(Capabilities::PREPARING_REPORTED),
            judges_readiness: shared.contains(Capabilities::READINESS),
            keeps_startup_deadline: shared.contains(Capabilities::STARTUP_DEADLINE),
            keeps_crashes: shared.contains(Capabilities::CRASH_ACK),
            lists_ended: shared.contains(Capabilities::ENDED_LISTED),
            numbers_console: shared.contains(Capabilities::CONSOLE_SEQUENCE),
            fetches_artifacts: shared.contains(Capabilities::ARTIFACTS),
        }
    }
}

/// What a daemon may assume of a controller
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ControllerPeer {
    /// It names the incarnation in everything that it orders.
    pub names_incarnations: bool,
    /// It takes the daemon's word for when a server is ready.
    pub trusts_readiness: bool,
    /// It expects the daemon to end a server that is not ready in time.
    pub wants_startup_deadline: bool,
    /// It answers a crash report with `CrashReportAck` once the report is stored.
    pub acknowledges_crashes: bool,
    /// It understands a listed instance that has ended.
    pub understands_ended: bool,
    /// Its pings say what has arrived.
    pub confirms_receipt: bool,
    /// It understands numbered console lines and gap records.
    pub numbers_console: bool,
    /// It serves templates and modules through `ArtifactService`.
    pub serves_artifacts: bool,
}

impl ControllerPeer {
    /// What follows from the capabilities that both sides announced.
    #[must_use]
    pub const fn of(shared: Capabilities) -> Self {
        Self {
            names_incarnations: shared.contains(Capabilities::INCARNATIONS),
            trusts_readiness: shared.contains(Capabilities::READINESS),
            wants_startup_deadline: shared.contains(Capabilities::STARTUP_DEADLINE),
            acknowledges_crashes: shared.contains(Capabilities::CRASH_ACK),
            understands_ended: shared.contains(Capabilities::ENDED_LISTED),
            confirms_receipt: shared.contains(Capabilities::RECEIPTS),
            numbers_console: shared.contains(Capabilities::CONSOLE_SEQUENCE),
            serves_artifacts: shared.contains(Capabilities::ARTIFACTS),
        }
    }
}
