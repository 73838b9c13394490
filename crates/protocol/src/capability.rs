//! What a peer can do beyond protocol version 1
//!
//! Both sides list capabilities in the handshake; a feature is used only where both announced it. A peer that sends no
//! list is the Java implementation, or an older build, and is spoken to as
//! protocol version 1 says, with nothing added.

use std::fmt;

/// A set of capabilities; names that this build does not know are ignored
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u32);

/// The names on the wire, in the order of the bits.
const NAMES: [&str; 15] = [
    "incarnations/1",
    "preparing-reported/1",
    "crash-ack/1",
    "console-sequence/1",
    "artifacts/1",
    "readiness/1",
    "startup-deadline/1",
    "ended-listed/1",
    "receipts/1",
    "console-ack/1",
    "plugin-ready/1",
    "exec-ack/1",
    "modules/1",
    "events/1",
    "renewal/1",
];

impl Capabilities {
    /// No capability: protocol version 1 and nothing added, as the Java programs speak it.
    pub const NONE: Self = Self(0);
    /// `incarnations/1`: tags instance messages with [`Incarnation`](crate::Incarnation).
    pub const INCARNATIONS: Self = Self(1);
    /// `preparing-reported/1`: lists instances in preparation among the running ones of a handshake.
    pub const PREPARING_REPORTED: Self = Self(1 << 1);
    /// `crash-ack/1`: crash reports carry a `report_id` and are kept until `CrashReportAck`.
    pub const CRASH_ACK: Self = Self(1 << 2);
    /// `console-sequence/1`: console lines are numbered per incarnation, so a gap is visible.
    pub const CONSOLE_SEQUENCE: Self = Self(1 << 3);
    /// `artifacts/1`: templates and modules may be fetched through `ArtifactService`.
    pub const ARTIFACTS: Self = Self(1 << 4);
    /// `readiness/1`: the daemon judges whether a server is ready for players, and reports `RUNNING`.
    pub const READINESS: Self = Self(1 << 5);
    /// `startup-deadline/1`: the daemon itself ends a server that is not ready in time, and reports it as a crash.
    pub const STARTUP_DEADLINE: Self = Self(1 << 6);
    /// `ended-listed/1`: a handshake also lists what has ended without a controller surely knowing.
    pub const ENDED_LISTED: Self = Self(1 << 7);
    /// `receipts/1`: a controller's ping names the last pong that arrived, and with it all that was sent before.
    pub const RECEIPTS: Self = Self(1 << 8);
    /// `console-ack/1`: a controller acknowledges console lines by their number.
    pub const CONSOLE_ACK: Self = Self(1 << 9);
    /// `plugin-ready/1`: the daemon takes it from the controller that a server's plugin says that the server is ready.
    pub const PLUGIN_READY: Self = Self(1 << 10);
    /// `exec-ack/1`: the daemon says whether a command was written.
    pub const EXEC_ACK: Self = Self(1 << 11);
    /// `modules/1`: the daemon lists its modules after each handshake, and says which jar a state is about.
    pub const MODULES: Self = Self(1 << 12);
    /// `events/1`: events have numbers, and a subscription goes on after the last that was seen.
    pub const EVENTS: Self = Self(1 << 13);
    /// `renewal/1`: certificates and the authorities to believe are renewed over the stream.
    pub const RENEWAL: Self = Self(1 << 14);

    /// Everything that the machines of this crate handle by themselves.
    ///
    /// [`ARTIFACTS`](Self::ARTIFACTS) is not among them: it needs a second connection, which only an application has. Nor is
    /// [`EXEC_ACK`](Self::EXEC_ACK): only an application knows what was written, and who waits for it; nor
    /// [`MODULES`](Self::MODULES), [`EVENTS`](Self::EVENTS) and [`RENEWAL`](Self::RENEWAL): only an application has modules, who
    /// listens, and certificates.
    pub const SESSION: Self = Self(
        Self::INCARNATIONS.0
            | Self::PREPARING_REPORTED.0
            | Self::CRASH_ACK.0
            | Self::CONSOLE_SEQUENCE.0
            | Self::READINESS.0
            | Self::STARTUP_DEADLINE.0
            | Self::ENDED_LISTED.0
            | Self::RECEIPTS.0
            | Self::CONSOLE_ACK.0
            | Self::PLUGIN_READY.0,
    );

    /// The set that a handshake's list stands for.
    pub fn from_wire<S: AsRef<str>>(names: &[S]) -> Self {
        names.iter().fold(Self::NONE, |set, name| {
            match NAMES.iter().position(|known| *known == name.as_ref()) {
                Some(bit) => Self(set.0 | 1 << bit),
                None => set,
            }
        })
    }

    /// The list for a handshake.
    #[must_use]
    pub fn to_wire(self) -> Vec<String> {
        self.names().map(str::to_owned).collect()
    }

    /// The list for a handshake, with the digest of the contract that this build was made from.
    #[must_use]
    pub fn announcement(self) -> Vec<String> {
        let mut names = self.to_wire();
        names.push(prexorcloud_compat::contract::capability());
        names
    }

    /// Whether every capability of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The capabilities in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The capabilities in both sets: what two peers may use with each other.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES
            .iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & 1 << bit != 0)
            .map(|(_, name)| *name)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
