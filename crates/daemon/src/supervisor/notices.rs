//! What stands in a console for lines that are gone
//!
//! A notice has the number of a line that cannot be shown any more, so that the numbers go on behind it without a hole. It
//! stands nowhere on disk, and so is kept here until it has arrived.

use std::collections::VecDeque;

use crate::console::{ConsoleLine, Shed};
use crate::wall_clock::now_ms;

/// The most that are kept; the oldest are given up
const KEPT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: VecDeque<Notice>,
}

#[derive(Clone, Debug)]
struct Notice {
    sequence: u64,
    timestamp_ms: i64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Dropped(Shed),
    /// The log was cut or replaced
    Begun(&'static str),
}

impl Notices {
    /// Lines were given up; `sequence` is the number of the last of them
    pub(super) fn dropped(&mut self, sequence: u64, shed: Shed) {
        if let Some(Notice {
            sequence: last,
            what: What::Dropped(before),
            ..
        }) = self.waiting.back_mut()
        {
            *last = sequence;
            before.lines = before.lines.saturating_add(shed.lines);
            before.uncounted_bytes = before.uncounted_bytes.saturating_add(shed.uncounted_bytes);
            return;
        }
        self.add(sequence, What::Dropped(shed));
    }

    /// The log is read from its beginning again, for this reason
    pub(super) fn begun(&mut self, sequence: u64, why: &'static str) {
        self.add(sequence, What::Begun(why));
    }

    fn add(&mut self, sequence: u64, what: What) {
        while self.waiting.len() >= KEPT {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Notice {
            sequence,
            timestamp_ms: now_ms(),
            what,
        });
    }

    /// Everything up to this number has arrived
    pub(super) fn arrived(&mut self, sequence: u64) {
        self.waiting.retain(|notice| notice.sequence > sequence);
    }

    /// Those with a number above `sequence`, as lines
    pub(super) fn after(&self, sequence: u64) -> impl Iterator<Item = ConsoleLine> + '_ {
        self.waiting
            .iter()
            .filter(move |notice| notice.sequence > sequence)
            .map(Notice::line)
    }
}

impl Notice {
    fn line(&self) -> ConsoleLine {
        let text = match self.what {
            What::Dropped(Shed {
                lines,
                uncounted_bytes: 0,
            }) => {
                format!("[prexorcloud] {lines} lines of this console were dropped here")
            }
            What::Dropped(Shed {
                lines,
                uncounted_bytes,
            }) => {
                format!(
                    "[prexorcloud] {lines} lines and {uncounted_bytes} more bytes of this console were dropped here"
                )
            }
            What::Begun(why) => format!("[prexorcloud] {why}"),
        };
        ConsoleLine {
            sequence: self.sequence,
            text,
            timestamp_ms: self.timestamp_ms,
        }
    }
}
