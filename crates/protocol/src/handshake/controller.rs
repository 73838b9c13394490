//! The controller's side of the handshake

use std::time::{Duration, Instant};

use prexorcloud_compat as compat;
use prexorcloud_proto::{DaemonMessage, Handshake, daemon_message};

use super::{HELD_MESSAGES, Held};
use crate::capability::Capabilities;
use crate::id::NodeId;
use crate::roster::StreamOrder;
use crate::session::{Close, Code};
use crate::time::{Deadline, after};
use crate::validate::{self, Invalid};

/// A handshake that is valid and compatible; nothing has been registered yet
///
/// Comes as [`ControllerEvent::Hello`](crate::ControllerEvent::Hello). Hand it to the node's
/// [`ControllerNode`](crate::node::ControllerNode), or decide by [`accept`](crate::ControllerSession::accept),
/// [`redirect`](crate::ControllerSession::redirect) or [`close_with`](crate::ControllerSession::close_with), within
/// [`admission_timeout`](crate::ControllerConfig::admission_timeout).
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// The node, as named by its certificate and by the handshake.
    pub node_id: NodeId,
    /// The whole handshake. Its `running_instances` are reconciled on admission.
    pub handshake: Handshake,
    /// What both sides can do beyond protocol version 1.
    pub capabilities: Capabilities,
    /// The protocol version that both sides speak, and whether they were built from the same contract.
    pub agreement: compat::Agreement,
    /// The place of the stream among those of the node.
    pub stream: StreamOrder,
}

/// Why a stream is refused
///
/// `Close::from(&refusal)` is what the daemon is told: the status code says whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The first message was something else.
    #[error("the first message must be a Handshake, got {got}")]
    NotAHandshake {
        /// What came instead.
        got: &'static str,
    },
    /// A second handshake came on the same stream.
    #[error("the handshake is complete already; open a new stream for a new one")]
    Repeated,
    /// A field of the handshake breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The handshake names another node than the certificate.
    #[error("the certificate belongs to node {certified}, the handshake claims to be node {claimed}")]
    WrongNode {
        /// The node in the certificate.
        certified: NodeId,
        /// The node in the handshake.
        claimed: String,
    },
    /// One of the two must be upgraded. The acknowledgement says so before the stream ends.
    #[error(transparent)]
    Incompatible(#[from] compat::Incompatible),
    /// No handshake came in time.
    #[error("no Handshake within {} s", waited.as_secs())]
    TimedOut {
        /// How long was waited.
        waited: Duration,
    },
    /// The application did not decide in time. Another controller may be healthier.
    #[error("this controller could not admit the node within {} s; try again", waited.as_secs())]
    NotAdmitted {
        /// How long was waited.
        waited: Duration,
    },
    /// The daemon sent more before its admission than is held.
    #[error("more than {HELD_MESSAGES} messages before the acknowledgement")]
    TooEarly,
}

impl From<&Refusal> for Close {
    fn from(refusal: &Refusal) -> Self {
        let code = match refusal {
            Refusal::NotAHandshake { .. } | Refusal::Repeated | Refusal::Incompatible(_) => {
                Code::FailedPrecondition
            }
            Refusal::Invalid(_) => Code::InvalidArgument,
            Refusal::WrongNode { .. } => Code::PermissionDenied,
            Refusal::TimedOut { .. } => Code::DeadlineExceeded,
            Refusal::NotAdmitted { .. } => Code::Unavailable,
            Refusal::TooEarly => Code::ResourceExhausted,
        };
        Self::new(code, refusal.to_string())
    }
}

#[derive(Clone, Debug)]
enum State {
    AwaitingHandshake {
        deadline: Instant,
    },
    AwaitingAdmission {
        deadline: Instant,
        held: Held<DaemonMessage>,
    },
    Complete,
}

/// The timers of a controller's handshake
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeTimer {
    /// The first message is overdue.
    Handshake,
    /// The application's decision is overdue.
    Admission,
}

/// The controller's side of one handshake; a part of [`ControllerSession`](crate::ControllerSession)
#[derive(Clone, Debug)]
pub struct ControllerHandshake {
    certified: NodeId,
    accepted: u64,
    capabilities: Capabilities,
    handshake_timeout: Duration,
    admission_timeout: Duration,
    state: State,
}

impl ControllerHandshake {
    /// A stream of the node named by its certificate is open, the `accepted`th of this controller; its first message
    /// must come within `handshake_timeout`.
    #[must_use]
    pub fn new(
        now: Instant,
        certified: NodeId,
        accepted: u64,
        capabilities: Capabilities,
        handshake_timeout: Duration,
        admission_timeout: Duration,
    ) -> Self {
        let state = State::AwaitingHandshake {
            deadline: after(now, handshake_timeout),
        };
        Self {
            certified,
            accepted,
            capabilities,
            handshake_timeout,
            admission_timeout,
            state,
        }
    }

    /// Judges a message that arrived before the session was established.
    ///
    /// # Errors
    /// [`Refusal`] says what ends this stream.
    pub fn handle_message(&mut self, now: Instant, message: DaemonMessage) -> Result<Option<Hello>, Refusal> {
        match &mut self.state {
            State::AwaitingHandshake { .. } => {
                let hello = self.judge(message)?;
                let deadline = after(now, self.admission_timeout);
                self.state = State::AwaitingAdmission {
                    deadline,
                    held: Held::of(crate::limits::HELD_BYTES),
                };
                Ok(Some(hello))
            }
            State::AwaitingAdmission { held, .. } => {
                if matches!(message.payload, Some(daemon_message::Payload::Handshake(_))) {
                    Err(Refusal::Repeated)
                } else if held.push(message).is_ok() {
                    Ok(None)
                } else {
                    Err(Refusal::TooEarly)
                }
            }
            State::Complete => Err(Refusal::Repeated),
        }
    }

    fn judge(&self, message: DaemonMessage) -> Result<Hello, Refusal> {
        let handshake = match message.payload {
            Some(daemon_message::Payload::Handshake(handshake)) => *handshake,
            Some(other) => {
                return Err(Refusal::NotAHandshake {
                    got: crate::session::kind::of_daemon(&other),
                });
            }
            None => {
                return Err(Refusal::NotAHandshake {
                    got: "an empty or unknown message",
                });
            }
        };
        let claimed = validate::handshake(&handshake)?;
        if claimed != self.certified {
            return Err(Refusal::WrongNode {
                certified: self.certified,
                claimed: claimed.into(),
            });
        }
        let digest = compat::contract::digest_in_capabilities(&handshake.capabilities);
        let announcement =
            compat::Announcement::new(handshake.protocol_version, handshake.min_protocol_version)
                .with_contract(digest);
        let agreement = match compat::negotiate(announcement) {
            compat::Negotiation::Compatible(agreement) => agreement,
            compat::Negotiation::UpgradeRequired(incompatible) => return Err(incompatible.into()),
        };
        let capabilities = self
            .capabilities
            .intersection(Capabilities::from_wire(&handshake.capabilities));
        let stream = StreamOrder::of(&handshake, self.accepted);
        Ok(Hello {
            node_id: claimed,
            handshake,
            capabilities,
            agreement,
            stream,
        })
    }

    /// The application has decided; the messages that arrived meanwhile are due after the acknowledgement.
    ///
    /// `None` if there is no handshake to decide on.
    pub fn complete(&mut self) -> Option<Vec<DaemonMessage>> {
        if !self.is_awaiting_admission() {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Complete) {
            State::AwaitingAdmission { mut held, .. } => Some(held.take()),
            State::AwaitingHandshake { .. } | State::Complete => None,
        }
    }

    /// Whether a valid handshake waits for the application's decision.
    #[must_use]
    pub const fn is_awaiting_admission(&self) -> bool {
        matches!(self.state, State::AwaitingAdmission { .. })
    }

    /// Whether a deadline has passed.
    ///
    /// # Errors
    /// [`Refusal::TimedOut`] or [`Refusal::NotAdmitted`] if one has.
    pub fn handle_timeout(&self, now: Instant) -> Result<(), Refusal> {
        match self.state {
            State::AwaitingHandshake { deadline } if now >= deadline => Err(Refusal::TimedOut {
                waited: self.handshake_timeout,
            }),
            State::AwaitingAdmission { deadline, .. } if now >= deadline => Err(Refusal::NotAdmitted {
                waited: self.admission_timeout,
            }),
            _ => Ok(()),
        }
    }

    /// The deadline that is running, if any.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Deadline<HandshakeTimer>> {
        match self.state {
            State::AwaitingHandshake { deadline } => Some(Deadline {
                at: deadline,
                timer: HandshakeTimer::Handshake,
            }),
            State::AwaitingAdmission { deadline, .. } => Some(Deadline {
                at: deadline,
                timer: HandshakeTimer::Admission,
            }),
            State::Complete => None,
        }
    }
}
