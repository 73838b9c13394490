//! Decides whether two sides can talk, and in which protocol version
//!
//! Each side has a [`Window`] of versions, oldest to newest. Two sides can talk when the windows overlap, and then they
//! use the newest version that both know. Both sides reach the same verdict from the same two windows.
//!
//! A daemon announces its window (`Handshake.protocol_version`, `Handshake.min_protocol_version`). The controller judges
//! it with [`negotiate`] and answers with [`Negotiation::version_to_ack`] in `HandshakeAck.protocol_version`, which the
//! daemon judges with [`judge_ack`]. A Java peer knows no lower bound and sends 0: its window is its one version.

use std::fmt;

use crate::contract;

/// The newest protocol version that this build speaks
///
/// Raised by a breaking change of the contract only; a new field or oneof variant does not raise it.
pub const PROTOCOL_VERSION: i32 = 1;

/// The oldest protocol version that this build still speaks
pub const MIN_PROTOCOL_VERSION: i32 = 1;

/// A non-empty range of protocol versions, both ends included, the lowest possible version being 1
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    oldest: i32,
    newest: i32,
}

impl Window {
    /// What this build speaks: [`MIN_PROTOCOL_VERSION`] to [`PROTOCOL_VERSION`]
    pub const OURS: Self = Self {
        oldest: MIN_PROTOCOL_VERSION,
        newest: PROTOCOL_VERSION,
    };

    /// The window from `oldest` to `newest`, or `None` if that is empty or reaches below version 1
    #[must_use]
    pub const fn new(oldest: i32, newest: i32) -> Option<Self> {
        if oldest >= 1 && oldest <= newest {
            Some(Self { oldest, newest })
        } else {
            None
        }
    }

    /// The oldest version in the window
    #[must_use]
    pub const fn oldest(self) -> i32 {
        self.oldest
    }

    /// The newest version in the window
    #[must_use]
    pub const fn newest(self) -> i32 {
        self.newest
    }

    /// Whether `version` lies in the window
    #[must_use]
    pub const fn contains(self, version: i32) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// [`negotiate`] for a build that speaks this window
    pub fn negotiate(self, peer: Announcement<'_>) -> Negotiation {
        let Some(theirs) = peer.window() else {
            return Negotiation::UpgradeRequired(Incompatible::NotAVersion {
                protocol_version: peer.protocol_version,
                min_protocol_version: peer.min_protocol_version,
                ours: self,
            });
        };
        let version = self.newest.min(theirs.newest);
        if theirs.newest < self.oldest {
            Negotiation::UpgradeRequired(Incompatible::PeerTooOld { theirs, ours: self })
        } else if theirs.oldest > self.newest {
            Negotiation::UpgradeRequired(Incompatible::PeerTooNew { theirs, ours: self })
        } else {
            Negotiation::Compatible(Agreement {
                version,
                contract: ContractMatch::of(peer.contract),
            })
        }
    }

    /// [`judge_ack`] for a build that speaks this window
    pub fn judge_ack(self, protocol_version: i32, protocol_compatible: bool) -> Negotiation {
        match self.negotiate(Announcement::new(protocol_version, protocol_version)) {
            Negotiation::Compatible(_) if !protocol_compatible => {
                Negotiation::UpgradeRequired(Incompatible::RefusedByPeer {
                    protocol_version,
                    ours: self,
                })
            }
            verdict => verdict,
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "version {}", self.newest)
        } else {
            write!(f, "versions {} to {}", self.oldest, self.newest)
        }
    }
}

/// What a peer says about itself, exactly as it came off the wire; any value is allowed
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement<'a> {
    /// `Handshake.protocol_version`: the newest version the peer speaks
    pub protocol_version: i32,
    /// `Handshake.min_protocol_version`: the oldest version the peer speaks; 0 = not said (a Java peer), which stands
    /// for `protocol_version`
    pub min_protocol_version: i32,
    /// The peer's contract digest, if it announced one (see [`contract::digest_in_capabilities`]); only reported, never
    /// a reason to refuse
    pub contract: Option<&'a str>,
}

impl<'a> Announcement<'a> {
    /// An announcement without a contract digest
    #[must_use]
    pub const fn new(protocol_version: i32, min_protocol_version: i32) -> Self {
        Self {
            protocol_version,
            min_protocol_version,
            contract: None,
        }
    }

    /// The same announcement with the contract digest that the peer sent, if any
    #[must_use]
    pub const fn with_contract(self, digest: Option<&'a str>) -> Self {
        Self {
            contract: digest,
            ..self
        }
    }

    fn window(self) -> Option<Window> {
        let oldest = match self.min_protocol_version {
            0 => self.protocol_version,
            oldest => oldest,
        };
        Window::new(oldest, self.protocol_version)
    }
}

/// The outcome of a negotiation
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Negotiation {
    /// Both sides can talk
    Compatible(Agreement),
    /// They cannot: the session ends and an operator has to act
    UpgradeRequired(Incompatible),
}

impl Negotiation {
    /// Whether the two sides can talk
    #[must_use]
    pub const fn is_compatible(&self) -> bool {
        matches!(self, Self::Compatible(_))
    }

    /// What belongs into `HandshakeAck.protocol_version`: the version agreed on, or else the newest of our own
    ///
    /// The agreed version, and not our newest, lets an older daemon see that the controller will speak its language.
    #[must_use]
    pub const fn version_to_ack(&self) -> i32 {
        match self {
            Self::Compatible(agreement) => agreement.version,
            Self::UpgradeRequired(reason) => reason.ours().newest,
        }
    }
}

/// What both sides will speak
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The newest protocol version that both sides speak
    pub version: i32,
    /// Whether the peer was built from the same contract
    pub contract: ContractMatch,
}

/// How the peer's contract digest compares with [`contract::WIRE_DIGEST`]
///
/// Two builds of the same protocol version may differ by additive changes, so none of these prevents a session; a
/// difference is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContractMatch {
    /// The peer announced no digest (a Java peer never does)
    Unknown,
    /// The peer was built from the same contract
    Same,
    /// The peer was built from another contract of the same protocol version
    Different,
}

impl ContractMatch {
    /// How the digest that a peer announced, if it did, compares with ours
    #[must_use]
    pub fn of(theirs: Option<&str>) -> Self {
        match theirs {
            None => Self::Unknown,
            Some(digest) if digest.eq_ignore_ascii_case(contract::WIRE_DIGEST) => Self::Same,
            Some(_) => Self::Different,
        }
    }
}

/// Who has to upgrade
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The side that judged
    Us,
    /// The other side
    Peer,
    /// The numbers do not tell
    Either,
}

/// Why two sides cannot talk, with both sides' numbers
///
/// [`Display`](fmt::Display) is the sentence for an operator with "this side" and "the peer" for names;
/// [`sentence`](Self::sentence) takes better ones. It always begins with "upgrade required".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence("this side", "the peer"))]
#[non_exhaustive]
pub enum Incompatible {
    /// The peer's newest version is older than our oldest: the peer must upgrade
    PeerTooOld {
        /// What the peer speaks
        theirs: Window,
        /// What we speak
        ours: Window,
    },
    /// The peer's oldest version is newer than our newest: we must upgrade
    PeerTooNew {
        /// What the peer speaks
        theirs: Window,
        /// What we speak
        ours: Window,
    },
    /// The peer sent numbers that are no version window: below 1, or a lower bound above the version itself
    NotAVersion {
        /// `protocol_version` as received
        protocol_version: i32,
        /// `min_protocol_version` as received
        min_protocol_version: i32,
        /// What we speak
        ours: Window,
    },
    /// The peer refused (`protocol_compatible = false`) although we speak the version that it named
    RefusedByPeer {
        /// `HandshakeAck.protocol_version` as received
        protocol_version: i32,
        /// What we speak
        ours: Window,
    },
}

impl Incompatible {
    /// What the judging side speaks
    #[must_use]
    pub const fn ours(&self) -> Window {
        match self {
            Self::PeerTooOld { ours, .. }
            | Self::PeerTooNew { ours, .. }
            | Self::NotAVersion { ours, .. }
            | Self::RefusedByPeer { ours, .. } => *ours,
        }
    }

    /// The side that has to upgrade
    #[must_use]
    pub const fn who_upgrades(&self) -> Party {
        match self {
            Self::PeerTooOld { .. } | Self::NotAVersion { .. } => Party::Peer,
            Self::PeerTooNew { .. } => Party::Us,
            Self::RefusedByPeer { .. } => Party::Either,
        }
    }

    /// One sentence for an operator, with names for the two sides, for instance `("this controller", "daemon node-1")`
    #[must_use]
    pub fn sentence(&self, us: &str, peer: &str) -> String {
        match self {
            Self::PeerTooOld { theirs, ours } => format!(
                "upgrade required: {peer} speaks protocol {theirs}, {us} speaks {ours}; upgrade {peer}"
            ),
            Self::PeerTooNew { theirs, ours } => {
                format!("upgrade required: {peer} speaks protocol {theirs}, {us} speaks {ours}; upgrade {us}")
            }
            Self::NotAVersion {
                protocol_version,
                min_protocol_version: 0,
                ours,
            } => format!(
                "upgrade required: {peer} announced protocol version {protocol_version}, which is not a version; \
                 {us} speaks {ours}; upgrade {peer}"
            ),
            Self::NotAVersion {
                protocol_version,
                min_protocol_version,
                ours,
            } => format!(
                "upgrade required: {peer} announced protocol versions {min_protocol_version} to {protocol_version}, \
                 which is not a range of versions; {us} speaks {ours}; upgrade {peer}"
            ),
            Self::RefusedByPeer {
                protocol_version,
                ours,
            } => format!(
                "upgrade required: {peer} refused protocol {ours} of {us} and named version \
                 {protocol_version}; upgrade the older of the two"
            ),
        }
    }
}

/// Judges what a peer announces, for a build that speaks [`Window::OURS`]
///
/// Any numbers are allowed. The peer may be newer than this build: if its lower bound lies in our window, it is
/// compatible.
pub fn negotiate(peer: Announcement<'_>) -> Negotiation {
    Window::OURS.negotiate(peer)
}

/// Judges the controller's answer, for a daemon that speaks [`Window::OURS`]
///
/// Takes `HandshakeAck.protocol_version` and `HandshakeAck.protocol_compatible` as received. The version must lie in
/// our window and the controller must agree. An answer that says "compatible" with a version that this build does not
/// speak is refused all the same.
pub fn judge_ack(protocol_version: i32, protocol_compatible: bool) -> Negotiation {
    Window::OURS.judge_ack(protocol_version, protocol_compatible)
}
