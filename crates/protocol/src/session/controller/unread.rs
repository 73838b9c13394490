//! The news that the application has not taken, and what is let go of when it does not
//!
//! A driver that stops reading is no way to slow a daemon down that prints: its lines pile up in HTTP/2, which cuts a
//! connection that buffers many small frames. So lines are always read, and only so many wait; the oldest go first, and
//! the application is told how many. What else is news is never let go of.

use std::collections::VecDeque;

use prost::Message as _;

use super::ControllerEvent;

/// Lines and log records that wait
const LINES: usize = 8_192;

/// Their bytes, as encoded
const BYTES: usize = 4 * 1024 * 1024;

#[derive(Clone, Debug, Default)]
pub(super) struct Unread {
    events: VecDeque<ControllerEvent>,
    /// How many of them may be let go of, and their bytes.
    lines: usize,
    bytes: usize,
    /// How many were, since the application was told.
    shed: u64,
    /// Their bytes, since the driver asked.
    shed_bytes: usize,
}

/// The bytes of what may be let go of.
fn expendable(event: &ControllerEvent) -> Option<usize> {
    match event {
        ControllerEvent::Console(output) => Some(output.encoded_len()),
        ControllerEvent::Log(record) => Some(record.encoded_len()),
        _ => None,
    }
}

impl Unread {
    pub(super) fn push(&mut self, event: ControllerEvent) {
        if let Some(bytes) = expendable(&event) {
            self.lines += 1;
            self.bytes += bytes;
        }
        self.events.push_back(event);
        while self.lines > LINES || self.bytes > BYTES {
            self.shed_oldest();
        }
    }

    fn shed_oldest(&mut self) {
        let oldest = self.events.iter().position(|event| expendable(event).is_some());
        let Some(event) = oldest.and_then(|oldest| self.events.remove(oldest)) else {
            (self.lines, self.bytes) = (0, 0);
            return;
        };
        let bytes = self.forget(&event);
        self.shed += 1;
        self.shed_bytes += bytes;
    }

    fn forget(&mut self, event: &ControllerEvent) -> usize {
        let Some(bytes) = expendable(event) else { return 0 };
        self.lines = self.lines.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        bytes
    }

    pub(super) fn pop(&mut self) -> Option<ControllerEvent> {
        let next = self.events.front()?;
        if self.shed > 0 && expendable(next).is_some() {
            let lines = std::mem::take(&mut self.shed);
            return Some(ControllerEvent::Shed { lines });
        }
        let event = self.events.pop_front()?;
        self.forget(&event);
        Some(event)
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many of those wait that are never let go of.
    pub(super) fn lasting(&self) -> usize {
        self.events.len().saturating_sub(self.lines)
    }

    pub(super) fn take_shed_bytes(&mut self) -> usize {
        std::mem::take(&mut self.shed_bytes)
    }
}

#[cfg(test)]
mod tests {
    use prexorcloud_proto::ConsoleOutput;

    use super::*;

    fn line(sequence: u64, bytes: usize) -> ControllerEvent {
        ControllerEvent::Console(ConsoleOutput {
            line: "x".repeat(bytes),
            sequence,
            ..ConsoleOutput::default()
        })
    }

    #[test]
    fn lines_are_let_go_of_and_nothing_else() {
        let mut unread = Unread::default();
        for sequence in 1..=10_000 {
            unread.push(line(sequence, 10));
            if sequence % 100 == 0 {
                unread.push(ControllerEvent::Answered);
            }
        }
        assert_eq!((unread.len(), unread.lasting()), (LINES + 100, 100));
        let mut next = 1;
        let mut answered = 0;
        while let Some(event) = unread.pop() {
            match event {
                ControllerEvent::Shed { lines } => next += lines,
                ControllerEvent::Console(output) => {
                    assert_eq!(output.sequence, next);
                    next += 1;
                }
                _ => answered += 1,
            }
        }
        assert_eq!((next, answered), (10_001, 100));
        assert_eq!((unread.lines, unread.bytes), (0, 0));
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let mut unread = Unread::default();
        for sequence in 1..=200 {
            unread.push(line(sequence, 60_000));
        }
        assert!(unread.bytes <= BYTES);
        let kept = unread.len();
        assert_eq!(
            unread.pop(),
            Some(ControllerEvent::Shed {
                lines: 200 - kept as u64
            })
        );
        assert!(unread.take_shed_bytes() > 60_000 * (200 - kept));
        assert_eq!(unread.take_shed_bytes(), 0);
    }
}
