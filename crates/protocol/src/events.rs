//! Which events of a log a daemon gets, and what it is told of those that it cannot get
//!
//! The controller's log has a number for each event. [`Forwarding`] is what one stream wants of it: it looks at the events in
//! their order, makes messages of those that are subscribed to, and says from where to read on. It keeps no event: what a
//! stream has no room for stays in the log, so a slow daemon costs nothing, and loses only what the log has let go of
//! meanwhile, of which it is told.
//!
//! A daemon that announced `events/1` gets numbers, and resumes where it was. Any other (Java) gets what happens from its
//! subscription on, in the exact words of protocol version 1.

use std::collections::BTreeSet;

use prexorcloud_proto::ModuleEvent;
use prost::bytes::Bytes;

/// Types that one stream may subscribe to
pub const MAX_TYPES: usize = 1024;

/// Bytes that their names may have together
pub const MAX_TYPE_BYTES: usize = 128 * 1024;

/// Unwanted events after which a daemon is told how far the log was looked at
const MARK_AFTER: u64 = 256;

/// A place in a log: the number of an event, and what tells it from one that has the same number in another log
///
/// A controller whose backup was restored gives numbers out again. What was seen before is then an event that never happened,
/// and that is noticed by [`check`](Self::check).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The number; 0 is before the first event
    pub sequence: u64,
    /// What only this event has; 0 if it is not known
    pub check: u64,
}

/// Why a subscription was not taken
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node may subscribe to {MAX_TYPES} event types with names of {MAX_TYPE_BYTES} bytes together")]
pub struct TooManyTypes;

/// What one stream wants of the log
#[derive(Clone, Debug)]
pub struct Forwarding {
    types: BTreeSet<String>,
    type_bytes: usize,
    /// Messages have numbers
    is_numbered: bool,
    /// The last event that was looked at
    position: Cursor,
    /// Whether that is what a daemon said, and the log has not confirmed it
    is_unconfirmed: bool,
    /// The number in the last message, or where the stream began
    told: u64,
    /// Events that are gone and of which the daemon was not told
    missed: u64,
    owes_mark: bool,
}

impl Forwarding {
    /// Begins with the first subscription of a stream, when the newest event of the log is `latest`
    ///
    /// `after` is what the daemon has seen; number 0 means that it wants what happens from now on. What is ahead of the log was
    /// seen in another one, so that something is missing is all that can be said.
    #[must_use]
    pub fn begin(is_numbered: bool, after: Cursor, latest: Cursor) -> Self {
        let resumes = is_numbered && after.sequence != 0;
        let resumed = if resumes { after } else { latest };
        let is_ahead = resumed.sequence > latest.sequence;
        Self {
            types: BTreeSet::new(),
            type_bytes: 0,
            is_numbered,
            position: if is_ahead { latest } else { resumed },
            is_unconfirmed: resumes && !is_ahead && after.check != 0,
            told: resumed.sequence,
            missed: resumed.sequence.saturating_sub(latest.sequence),
            owes_mark: is_numbered,
        }
    }

    /// The number whose check the log is to be asked for before anything is looked at
    #[must_use]
    pub fn unconfirmed(&self) -> Option<u64> {
        self.is_unconfirmed.then_some(self.position.sequence)
    }

    /// The log has an event with this check at the number in question, or has none there any more
    ///
    /// Another event is one of another log. The daemon goes on at `latest`, the newest event of this one, and is told that
    /// something is missing: nobody can say how much.
    pub fn confirm(&mut self, found: Option<u64>, latest: Cursor) {
        let is_another = found.is_some_and(|found| found != self.position.check);
        if std::mem::take(&mut self.is_unconfirmed) && is_another {
            self.missed = latest.sequence.saturating_sub(self.position.sequence).max(1);
            self.position = latest;
        }
    }

    /// What the daemon wants to hear of, in order
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.types.iter().map(String::as_str)
    }

    /// Adds a type; once more is fine
    ///
    /// # Errors
    /// [`TooManyTypes`]; what was subscribed to before stays.
    pub fn subscribe(&mut self, name: &str) -> Result<(), TooManyTypes> {
        if self.types.contains(name) {
            return Ok(());
        }
        let bytes = self.type_bytes.saturating_add(name.len());
        if self.types.len() >= MAX_TYPES || bytes > MAX_TYPE_BYTES {
            return Err(TooManyTypes);
        }
        self.type_bytes = bytes;
        self.types.insert(name.to_owned());
        Ok(())
    }

    /// Removes a type; one that is not subscribed to is fine
    pub fn unsubscribe(&mut self, name: &str) {
        if self.types.remove(name) {
            self.type_bytes = self.type_bytes.saturating_sub(name.len());
        }
    }

    /// The number of the last event that was looked at: read on after it
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position.sequence
    }

    /// Whether an event would be sent
    #[must_use]
    pub fn wants(&self, sequence: u64, name: &str) -> bool {
        sequence > self.position.sequence && self.types.contains(name)
    }

    /// Looks at the next event; gives the message if it is wanted
    ///
    /// What lies between the last one and this is gone from the log.
    pub fn look_at(
        &mut self,
        at: Cursor,
        name: &str,
        payload: impl FnOnce() -> Bytes,
    ) -> Option<ModuleEvent> {
        let gone = at
            .sequence
            .checked_sub(self.position.sequence.saturating_add(1))?;
        self.missed = self.missed.saturating_add(gone);
        self.position = at;
        if !self.types.contains(name) {
            return None;
        }
        let event = ModuleEvent {
            event_type: name.to_owned(),
            payload_json: payload(),
            ..ModuleEvent::default()
        };
        Some(if self.is_numbered {
            self.number(event)
        } else {
            event
        })
    }

    /// The log says that so many events were never written to it
    pub fn lose(&mut self, events: u64) {
        self.missed = self.missed.saturating_add(events);
        // Nothing else may be there to say so for long.
        self.owes_mark = self.is_numbered;
    }

    /// The message that tells a daemon how far the log was looked at, if it is time for it
    pub fn poll_mark(&mut self) -> Option<ModuleEvent> {
        let is_due = self.owes_mark || self.position.sequence.saturating_sub(self.told) >= MARK_AFTER;
        (self.is_numbered && is_due).then(|| self.number(ModuleEvent::default()))
    }

    /// How many events are gone of which a daemon is to be told that knows no numbers
    pub fn poll_missed(&mut self) -> Option<u64> {
        if self.is_numbered || self.missed == 0 {
            return None;
        }
        Some(std::mem::take(&mut self.missed))
    }

    fn number(&mut self, event: ModuleEvent) -> ModuleEvent {
        self.owes_mark = false;
        let previous = std::mem::replace(&mut self.told, self.position.sequence);
        ModuleEvent {
            sequence: self.position.sequence,
            missed: std::mem::take(&mut self.missed),
            previous,
            check: self.position.check,
            ..event
        }
    }
}
