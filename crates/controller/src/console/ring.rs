//! The lines of one console that are kept

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prexorcloud_proto::ConsoleOutput;
use tokio::sync::watch;

use super::ConsoleLine;
use crate::wall_clock::now_millis;

/// A longer line is cut to this many characters and marked
pub const MAX_LINE_CHARS: usize = 4096;

pub(super) const CUT_MARK: &str = " ... [truncated]";

/// How many starts of one instance can have lines on their way at a time
///
/// The lines of one that has ended may come again, for as long as they are not known to have arrived.
const STARTS: usize = 16;

/// What a line costs beside its text
const LINE_OVERHEAD: usize = 96;

#[derive(Debug)]
pub(super) struct Ring {
    kept: Mutex<Kept>,
    pub(super) appended: watch::Sender<()>,
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) lines: VecDeque<Stored>,
    bytes: usize,
    /// The sequence of the next line
    pub(super) next: u64,
    /// The daemon's number of the last line, by incarnation; the newest of them at the end
    numbers: VecDeque<(u64, u64)>,
    pub(super) forgotten: bool,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) line: Arc<ConsoleLine>,
    /// Lines that were lost on the way to us, just before this one
    pub(super) lost_before: u64,
}

impl Default for Ring {
    fn default() -> Self {
        let kept = Kept {
            lines: VecDeque::new(),
            bytes: 0,
            next: 1,
            numbers: VecDeque::new(),
            forgotten: false,
        };
        Self {
            kept: Mutex::new(kept),
            appended: watch::Sender::new(()),
        }
    }
}

impl Ring {
    /// Adds a line, and lets the oldest go; the bytes that are kept then, or `None` if the line is known already
    pub(super) fn append(&self, output: ConsoleOutput, lines: usize, bytes: usize) -> Option<usize> {
        let mut kept = self.kept();
        let lost_before = kept.admit(output.incarnation, output.sequence)?;
        let line = ConsoleLine {
            sequence: kept.next,
            incarnation: output.incarnation,
            timestamp_ms: if output.timestamp_ms > 0 {
                output.timestamp_ms
            } else {
                now_millis()
            },
            line: cut(output.line),
        };
        kept.next += 1;
        kept.bytes += held_by(&line);
        kept.lines.push_back(Stored {
            line: Arc::new(line),
            lost_before,
        });
        while kept.lines.len() > lines || kept.bytes > bytes {
            kept.let_oldest_go();
        }
        let bytes = kept.bytes;
        drop(kept);
        self.appended.send_replace(());
        Some(bytes)
    }

    /// Lets the older half of the lines go; gives the bytes that are kept then
    pub(super) fn halve(&self) -> usize {
        let mut kept = self.kept();
        for _ in 0..kept.lines.len().div_ceil(2) {
            kept.let_oldest_go();
        }
        kept.bytes
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn let_oldest_go(&mut self) {
        match self.lines.pop_front() {
            Some(stored) => self.bytes = self.bytes.saturating_sub(held_by(&stored.line)),
            None => self.bytes = 0,
        }
    }

    pub(super) fn oldest(&self) -> u64 {
        self.lines
            .front()
            .map_or(self.next, |stored| stored.line.sequence)
    }

    /// Judges the daemon's number of a line: how many were lost before it, or `None` if it is known already
    fn admit(&mut self, incarnation: u64, number: u64) -> Option<u64> {
        if number == 0 {
            // A daemon that does not number its lines: nothing can be said.
            return Some(0);
        }
        if let Some((_, last)) = self.numbers.iter_mut().find(|(known, _)| *known == incarnation) {
            if number <= *last {
                return None;
            }
            let lost = number - *last - 1;
            *last = number;
            return Some(lost);
        }
        let newest = self.numbers.back().map(|(newest, _)| *newest);
        let place = self.numbers.partition_point(|(known, _)| *known < incarnation);
        self.numbers.insert(place, (incarnation, number));
        if self.numbers.len() > STARTS {
            self.numbers.pop_front();
        }
        Some(match newest {
            Some(newest) if newest < incarnation => number - 1,
            // The first line since this controller started, or history that comes late: what was before it was shown, or
            // told of, elsewhere.
            _ => 0,
        })
    }
}

fn held_by(line: &ConsoleLine) -> usize {
    line.line.capacity() + LINE_OVERHEAD
}

fn cut(line: String) -> String {
    match line.char_indices().nth(MAX_LINE_CHARS) {
        None => line,
        Some((end, _)) => {
            let mut cut = line;
            cut.truncate(end);
            cut.push_str(CUT_MARK);
            cut.shrink_to_fit();
            cut
        }
    }
}
