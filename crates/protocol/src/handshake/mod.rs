//! Decides whether a stream may carry anything at all
//!
//! ```text
//!  daemon                                              controller
//!  ------                                              ----------
//!  AwaitingAck  ── Handshake ───────────────────────▶  AwaitingHandshake ── 10 s ──▶ TimedOut
//!      │                                                   │ valid, compatible
//!      │                                                   ▼
//!      │                                               AwaitingAdmission ── 10 s ──▶ NotAdmitted
//!      │            ◀─────────────── HandshakeAck ─────────┤ the application decides
//!      │                                                   ▼
//!      ├─ compatible, no leader named ──▶ Established   Established
//!      ├─ leader named ─────────────────▶ Redirected
//!      ├─ incompatible ─────────────────▶ UpgradeRequired (both versions are said)
//!      ├─ stale epoch ──────────────────▶ Stale
//!      ├─ no epoch after one was obeyed ▶ Leaderless
//!      └─ 10 s ─────────────────────────▶ AckTimedOut
//! ```
//!
//! The names at the right are those of [`HandshakeFailure`](daemon::HandshakeFailure) and [`Refusal`](controller::Refusal);
//! the times are the defaults of the two configurations. A session has its side of this in it: an application sees a
//! [`Hello`](controller::Hello) to decide on, or [`Connected`](daemon::Connected), or the reason why not.
//!
//! What arrives before its time is held, not lost: a Java leader sends commands before its acknowledgement, and a
//! daemon may speak before it is admitted. [`HELD_MESSAGES`] bounds both.

pub mod controller;
pub mod daemon;

/// The most messages that either side holds until the handshake is complete
///
/// Together they may have [`HELD_BYTES`](crate::limits::HELD_BYTES) at the controller, which does not know the node yet, and
/// [`MAX_MESSAGE_BYTES`](crate::limits::MAX_MESSAGE_BYTES) at the daemon, which a leader may send a template.
pub const HELD_MESSAGES: usize = 256;

/// Messages that arrived before their time
#[derive(Clone, Debug)]
pub(crate) struct Held<M> {
    messages: Vec<M>,
    bytes: usize,
    room: usize,
}

impl<M: prost::Message> Held<M> {
    pub(crate) const fn of(room: usize) -> Self {
        Self {
            messages: Vec::new(),
            bytes: 0,
            room,
        }
    }

    /// Keeps a message, or gives it back if there is no room.
    pub(crate) fn push(&mut self, message: M) -> Result<(), M> {
        let bytes = self.bytes.saturating_add(message.encoded_len());
        if self.messages.len() >= HELD_MESSAGES || bytes > self.room {
            return Err(message);
        }
        self.bytes = bytes;
        self.messages.push(message);
        Ok(())
    }

    pub(crate) fn take(&mut self) -> Vec<M> {
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }
}
