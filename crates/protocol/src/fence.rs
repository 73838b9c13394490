//! Obeys only the newest controller
//!
//! After a failover the old leader may still believe in itself for a while. Every message of a fenced controller
//! carries the epoch of its leadership, and a daemon that has heard from epoch 8 refuses epoch 7 from then on, the
//! acknowledgement of a handshake included. Epoch 0 marks a peer that does not fence; it is always admitted.
//!
//! The highest epoch must outlive the process: persist it when [`Admitted::Raised`] says so, and pass it to
//! [`EpochFence::new`] after a restart.

use crate::id::Epoch;

/// Remembers the highest epoch that was obeyed
///
/// ```
/// use prexorcloud_protocol::{Epoch, fence::{Admitted, EpochFence, StaleEpoch}};
///
/// let mut fence = EpochFence::new(Epoch::new(5));
/// assert_eq!(fence.admit(Epoch::new(7)), Ok(Admitted::Raised));
/// assert_eq!(fence.admit(Epoch::new(6)), Err(StaleEpoch { given: Epoch::new(6), highest: Epoch::new(7) }));
/// assert_eq!(fence.admit(Epoch::UNFENCED), Ok(Admitted::Unfenced));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochFence {
    highest: Epoch,
}

/// Why a message was let through
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The sender does not fence.
    Unfenced,
    /// The message is from the controller that is obeyed already.
    Current,
    /// The message is from a newer controller, which is obeyed from now on.
    Raised,
}

/// A message of a controller that has been superseded
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {given} is stale, epoch {highest} has been accepted; the sender is no longer the leader")]
pub struct StaleEpoch {
    /// The epoch of the message.
    pub given: Epoch,
    /// The highest epoch accepted so far.
    pub highest: Epoch,
}

impl EpochFence {
    /// A fence that has already accepted `highest`.
    #[must_use]
    pub const fn new(highest: Epoch) -> Self {
        Self { highest }
    }

    /// The highest epoch accepted so far.
    #[must_use]
    pub const fn highest(&self) -> Epoch {
        self.highest
    }

    /// Judges a message by its epoch and raises the fence if it is newer.
    ///
    /// # Errors
    /// [`StaleEpoch`] if the sender has been superseded; answer with an `ErrorReport` of code `STALE_EPOCH`.
    pub fn admit(&mut self, epoch: Epoch) -> Result<Admitted, StaleEpoch> {
        if !epoch.is_fenced() {
            Ok(Admitted::Unfenced)
        } else if epoch < self.highest {
            Err(StaleEpoch {
                given: epoch,
                highest: self.highest,
            })
        } else if epoch == self.highest {
            Ok(Admitted::Current)
        } else {
            self.highest = epoch;
            Ok(Admitted::Raised)
        }
    }
}
