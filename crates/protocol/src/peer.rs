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
//! | its own death | it finds its servers again, or they are gone | they may run on, unlisted and unknown to it |
//! | the answer to a start | when the preparation begins | when the process is there |
//! | the answer to a stop | when the stop begins | when the process is gone |
//! | before the acknowledgement | what ends is told after it | what ends is told to nobody |
//! | late reports | are a mistake, and it is told | are of an earlier use of the id, and nobody is told |
//! | lifetime | counts from `RUNNING` | counts from `STARTING`, as `RUNNING` may never come |
//! | files | takes paths on its host | takes http(s) only |
//! | readiness | the daemon says `RUNNING` | the controller judges by the console, or the plugin says so over HTTP |
//! | time to end | as long as the daemon says | [`KILL_TIMEOUT`] |
//! | startup deadline | the daemon ends a server that is late | nobody does, but the operator |
//! | crash reports | kept until acknowledged | counted as delivered when written |
//! | console lines | kept until acknowledged | counted as received at the ping after they were written |
//! | ended instances | listed until surely known | only what lives is listed |
//! | receipt of news | the next pings say it | counted as received at the ping after it was written |
//! | a command | is answered once it is written | may be lost unheard |
//! | what it keeps | told after the handshake, and when its cache was filled | told when it is asked |
//! | a plugin's call | is told to the daemon, which judges | makes the server ready |
//!
//! ```
//! use prexorcloud_protocol::{Capabilities, peer::DaemonPeer};
//!
//! assert!(DaemonPeer::of(Capabilities::SESSION).judges_readiness);
//! assert!(!DaemonPeer::of(Capabilities::NONE).judges_readiness, "the Java daemon");
//! ```

use std::time::Duration;

use prexorcloud_proto::Handshake;

use crate::capability::Capabilities;

/// How long a daemon that does not say waits between the polite signal and the kill, as Java daemons do.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest such time that a daemon can ask for.
pub const MAX_KILL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// What a controller may assume of a daemon
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DaemonPeer {
    /// It names the incarnation in everything that it says about an instance.
    pub names_incarnations: bool,
    /// It lists instances in preparation; what it does not list it does not prepare.
    pub lists_preparing: bool,
    /// It finds the servers again that it started before it died; what it does not list does not run.
    pub finds_its_servers: bool,
    /// It reports `RUNNING` and player counts itself.
    pub judges_readiness: bool,
    /// It takes it from the controller that a server's plugin says that the server is ready.
    pub takes_plugin_calls: bool,
    /// It ends a server that is not ready in time itself, and says so in a crash report.
    pub keeps_startup_deadline: bool,
    /// It keeps a crash report until `CrashReportAck`.
    pub keeps_crashes: bool,
    /// It says whether a command was written.
    pub answers_commands: bool,
    /// How long it waits between the polite signal and the kill.
    pub kill_timeout: Duration,
}

impl Default for DaemonPeer {
    /// A Java daemon.
    fn default() -> Self {
        Self::of(Capabilities::NONE)
    }
}

impl DaemonPeer {
    /// What follows from a handshake, and from the capabilities that both sides announced.
    #[must_use]
    pub fn from_handshake(handshake: &Handshake, shared: Capabilities) -> Self {
        let kill_timeout = match handshake.kill_timeout_seconds {
            0 => KILL_TIMEOUT,
            seconds => Duration::from_secs(seconds.into()).min(MAX_KILL_TIMEOUT),
        };
        Self {
            kill_timeout,
            ..Self::of(shared)
        }
    }

    /// What follows from the capabilities that both sides announced, of a daemon that says nothing else.
    #[must_use]
    pub const fn of(shared: Capabilities) -> Self {
        Self {
            names_incarnations: shared.contains(Capabilities::INCARNATIONS),
            lists_preparing: shared.contains(Capabilities::PREPARING_REPORTED),
            // An incarnation that it can list after it died is one that it wrote down.
            finds_its_servers: shared.contains(Capabilities::INCARNATIONS),
            judges_readiness: shared.contains(Capabilities::READINESS),
            takes_plugin_calls: shared.contains(Capabilities::PLUGIN_READY),
            keeps_startup_deadline: shared.contains(Capabilities::STARTUP_DEADLINE),
            keeps_crashes: shared.contains(Capabilities::CRASH_ACK),
            answers_commands: shared.contains(Capabilities::EXEC_ACK),
            kill_timeout: KILL_TIMEOUT,
        }
    }
}

impl DaemonPeer {
    /// Whether it acknowledges a stop when the process is gone, and not when the stop begins.
    #[must_use]
    pub const fn acknowledges_ends(self) -> bool {
        !self.names_incarnations
    }

    /// Whether it accepts a start when the process is there, and not when the preparation begins.
    #[must_use]
    pub const fn accepts_at_launch(self) -> bool {
        !self.names_incarnations
    }

    /// Whether a report that does not fit may be about an earlier use of the id, which is nobody's mistake.
    #[must_use]
    pub const fn speaks_of_the_past(self) -> bool {
        !self.names_incarnations
    }

    /// Whether what happens between its handshake and the acknowledgement is lost, ends included.
    #[must_use]
    pub const fn is_mute_until_acknowledged(self) -> bool {
        !self.names_incarnations
    }

    /// Whether a server may serve players without ever being said to be `RUNNING`.
    #[must_use]
    pub const fn may_never_say_running(self) -> bool {
        !self.judges_readiness
    }

    /// Whether it says what came of an order to fill its cache.
    #[must_use]
    pub const fn tells_warming(self) -> bool {
        self.names_incarnations
    }

    /// Whether it can be given a path on its own host in place of an address to download from.
    #[must_use]
    pub const fn takes_local_files(self) -> bool {
        self.finds_its_servers
    }

    /// Whether it takes `StartInstance.program_arguments` and `stop_command` in place of what its platform has.
    #[must_use]
    pub const fn takes_command_lines(self) -> bool {
        self.finds_its_servers
    }
}

/// What a daemon may assume of a controller
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ControllerPeer {
    /// It answers a crash report with `CrashReportAck` once the report is stored.
    pub acknowledges_crashes: bool,
    /// It understands a listed instance that has ended.
    pub understands_ended: bool,
    /// Its pings say what has arrived.
    pub confirms_receipt: bool,
    /// It understands numbered console lines and gap records.
    pub numbers_console: bool,
    /// It wants a server ended that is not ready in time. Another one learns from the plugin in the server that it is ready, and
    /// would see a server ended that has players.
    pub wants_startup_deadline: bool,
    /// It says by `ConsoleOutputAck` which console lines have arrived.
    pub acknowledges_console: bool,
}

impl ControllerPeer {
    /// What follows from the capabilities that both sides announced.
    #[must_use]
    pub const fn of(shared: Capabilities) -> Self {
        Self {
            acknowledges_crashes: shared.contains(Capabilities::CRASH_ACK),
            understands_ended: shared.contains(Capabilities::ENDED_LISTED),
            confirms_receipt: shared.contains(Capabilities::RECEIPTS),
            numbers_console: shared.contains(Capabilities::CONSOLE_SEQUENCE),
            wants_startup_deadline: shared.contains(Capabilities::STARTUP_DEADLINE),
            acknowledges_console: shared.contains(Capabilities::CONSOLE_ACK),
        }
    }
}
