//! Obeys only the newest controller
//!
//! After a failover the old leader may still believe in itself for a while. Every message of a fenced controller
//! carries the epoch of its leadership, and a daemon that has heard from epoch 8 refuses epoch 7 from then on, the
//! acknowledgement of a handshake included. Epoch 0 marks a peer that does not fence; it is always admitted.
//!
//! The highest epoch must outlive the process, or a daemon that starts again would obey a deposed controller. So it is
//! written down before the first command under it is carried out: [`is_written`](EpochFence::is_written) says whether it
//! is, [`handle_written`](EpochFence::handle_written) that it was, and [`EpochFence::new`] takes what was read back.
//!
//! An epoch above [`Epoch::MAX_OBEYED`] is refused whatever the fence: it would leave no room for a successor.

use crate::id::Epoch;

/// Remembers the highest epoch that was obeyed
///
/// ```
/// use prexorcloud_protocol::{Epoch, fence::{Admitted, EpochFence, EpochRefused, StaleEpoch}};
///
/// let mut fence = EpochFence::new(Epoch::new(5));
/// assert_eq!(fence.admit(Epoch::new(7)), Ok(Admitted::Raised));
/// assert!(!fence.is_written());
/// fence.handle_written(Epoch::new(7));
/// assert!(fence.is_written());
/// let stale = StaleEpoch { given: Epoch::new(6), highest: Epoch::new(7) };
/// assert_eq!(fence.admit(Epoch::new(6)), Err(EpochRefused::Stale(stale)));
/// assert_eq!(fence.admit(Epoch::UNFENCED), Ok(Admitted::Unfenced));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochFence {
    highest: Epoch,
    /// The highest that surely outlives the process.
    written: Epoch,
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

impl StaleEpoch {
    /// Reads what the `ErrorReport` of a daemon says, whose message is this error's sentence
    ///
    /// ```
    /// use prexorcloud_protocol::{Epoch, fence::StaleEpoch};
    ///
    /// let stale = StaleEpoch { given: Epoch::new(6), highest: Epoch::new(7) };
    /// assert_eq!(StaleEpoch::reported(&stale.to_string()), Some(stale));
    /// assert_eq!(StaleEpoch::reported("epoch 6 is stale"), None);
    /// ```
    #[must_use]
    pub fn reported(message: &str) -> Option<Self> {
        let (given, rest) = message.strip_prefix("epoch ")?.split_once(" is stale, epoch ")?;
        let (highest, _) = rest.split_once(" has been accepted")?;
        Some(Self {
            given: Epoch::new(given.parse().ok()?),
            highest: Epoch::new(highest.parse().ok()?),
        })
    }
}

/// A message whose epoch is higher than any that is obeyed
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "epoch {given} is out of range: none above {} is obeyed, so that a later controller can be told from it",
    Epoch::MAX_OBEYED
)]
pub struct EpochOutOfRange {
    /// The epoch of the message.
    pub given: Epoch,
}

/// Why a message was not let through
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochRefused {
    /// The sender has been superseded.
    #[error(transparent)]
    Stale(#[from] StaleEpoch),
    /// Nobody is obeyed at that height.
    #[error(transparent)]
    OutOfRange(#[from] EpochOutOfRange),
}

impl EpochFence {
    /// A fence that has already accepted `highest`, as it was read back.
    #[must_use]
    pub const fn new(highest: Epoch) -> Self {
        Self {
            highest,
            written: highest,
        }
    }

    /// The highest epoch accepted so far.
    #[must_use]
    pub const fn highest(&self) -> Epoch {
        self.highest
    }

    /// Whether the highest epoch is written down, so that commands under it may be carried out.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.written >= self.highest
    }

    /// The application has written this epoch down for good.
    pub fn handle_written(&mut self, epoch: Epoch) {
        self.written = self.written.max(epoch.min(self.highest));
    }

    /// Judges a message by its epoch and raises the fence if it is newer.
    ///
    /// # Errors
    /// [`EpochRefused::Stale`] if the sender has been superseded; answer with an `ErrorReport` of code `STALE_EPOCH`.
    /// [`EpochRefused::OutOfRange`] above [`Epoch::MAX_OBEYED`].
    pub fn admit(&mut self, epoch: Epoch) -> Result<Admitted, EpochRefused> {
        if !epoch.is_fenced() {
            Ok(Admitted::Unfenced)
        } else if epoch > Epoch::MAX_OBEYED {
            Err(EpochOutOfRange { given: epoch }.into())
        } else if epoch < self.highest {
            let highest = self.highest;
            Err(StaleEpoch {
                given: epoch,
                highest,
            }
            .into())
        } else if epoch == self.highest {
            Ok(Admitted::Current)
        } else {
            self.highest = epoch;
            Ok(Admitted::Raised)
        }
    }
}
