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

use crate::limits::MAX_MESSAGE_BYTES;

/// The most messages that either side holds until the handshake is complete; together they may have
/// [`MAX_MESSAGE_BYTES`].
pub const HELD_MESSAGES: usize = 256;

/// Messages that arrived before their time
#[derive(Clone, Debug)]
pub(crate) struct Held<M> {
    messages: Vec<M>,
    bytes: usize,
}

impl<M: prost::Message> Held<M> {
    pub(crate) const fn new() -> Self {
        Self {
            messages: Vec::new(),
            bytes: 0,
        }
    }

    /// Keeps a message, or gives it back if there is no room.
    pub(crate) fn push(&mut self, message: M) -> Result<(), M> {
        let bytes = self.bytes.saturating_add(message.encoded_len());
        if self.messages.len() >= HELD_MESSAGES || bytes > MAX_MESSAGE_BYTES {
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
