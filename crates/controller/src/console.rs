//! The last console lines of each instance, and a live view of them
//!
//! One ring per instance, bounded in lines and in the length of a line. Readers pull: each has a position, and one that
//! falls behind the ring is told how many lines it missed. Lines that were lost before they came here (the daemon sheds
//! console output when a link is slow) are visible as well: sequence numbers skip, and the ring keeps a gap in place.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prexorcloud_proto::ConsoleOutput;
use tokio::sync::watch;

use crate::wall_clock::now_millis;

/// A longer line is cut to this many characters and marked
pub const MAX_LINE_CHARS: usize = 4096;

/// How many starts of one instance can have lines on their way at a time
///
/// The lines of one that has ended may come again, for as long as they are not known to have arrived.
const STARTS: usize = 16;

const CUT_MARK: &str = " ... [truncated]";

/// One thing to show
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleItem {
    /// A line
    Line(Arc<ConsoleLine>),
    /// Lines that nobody can show any more
    Gap {
        /// How many
        missed: u64,
        /// The sequence of what comes after them
        before: u64,
    },
}

/// A console line as kept
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleLine {
    /// Position in the console of this instance id, from 1, across incarnations
    pub sequence: u64,
    /// Which start of the instance printed it; 0 = the daemon did not say
    pub incarnation: u64,
    /// When, by the daemon's clock, in milliseconds since 1970
    pub timestamp_ms: i64,
    /// The text without its line end
    pub line: String,
}

/// The consoles of all instances
#[derive(Debug)]
pub struct Consoles {
    lines: usize,
    rings: Mutex<HashMap<String, Arc<Ring>>>,
}

impl Consoles {
    /// Keeps `lines` lines per instance
    #[must_use]
    pub fn keeping(lines: usize) -> Self {
        Self {
            lines: lines.max(1),
            rings: Mutex::default(),
        }
    }

    /// Adds a line that a daemon sent
    pub fn append(&self, output: ConsoleOutput) {
        let ring = self.ring(&output.instance_id);
        ring.append(output, self.lines);
    }

    /// A view that begins at `from` (0 or 1 = the oldest line that is kept) and goes on with live lines
    ///
    /// It may be opened before the instance printed anything. Numbers begin at 1 again when a controller starts, so a
    /// `from` that is not reached yet comes from an earlier one, and everything is new to that reader.
    #[must_use]
    pub fn follow(&self, instance: &str, from: u64) -> ConsoleReader {
        let ring = self.ring(instance);
        let from = if from > ring.kept().next { 1 } else { from.max(1) };
        ConsoleReader {
            appended: ring.appended.subscribe(),
            ring,
            next: from,
            from_oldest: from == 1,
        }
    }

    /// The sequence of the oldest line that is kept and that of the next one to come
    #[must_use]
    pub fn bounds(&self, instance: &str) -> (u64, u64) {
        let ring = self.ring(instance);
        let kept = ring.kept();
        (kept.oldest(), kept.next)
    }

    /// Drops the console of an instance that is deleted; readers of it end
    pub fn forget(&self, instance: &str) {
        if let Some(ring) = self.rings().remove(instance) {
            ring.kept().forgotten = true;
            ring.appended.send_replace(());
        }
    }

    fn ring(&self, instance: &str) -> Arc<Ring> {
        let mut rings = self.rings();
        if let Some(ring) = rings.get(instance) {
            return Arc::clone(ring);
        }
        let ring = Arc::new(Ring::default());
        rings.insert(instance.to_owned(), Arc::clone(&ring));
        ring
    }

    fn rings(&self) -> MutexGuard<'_, HashMap<String, Arc<Ring>>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Ring {
    kept: Mutex<Kept>,
    appended: watch::Sender<()>,
}

#[derive(Debug)]
struct Kept {
    lines: VecDeque<Stored>,
    /// The sequence of the next line
    next: u64,
    /// The daemon's number of the last line, by incarnation; the newest of them at the end
    numbers: VecDeque<(u64, u64)>,
    forgotten: bool,
}

#[derive(Debug)]
struct Stored {
    line: Arc<ConsoleLine>,
    /// Lines that were lost on the way to us, just before this one
    lost_before: u64,
}

impl Default for Ring {
    fn default() -> Self {
        let kept = Kept {
            lines: VecDeque::new(),
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
    fn append(&self, output: ConsoleOutput, keep: usize) {
        let mut kept = self.kept();
        let Some(lost_before) = kept.admit(output.incarnation, output.sequence) else {
            return;
        };
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
        kept.lines.push_back(Stored {
            line: Arc::new(line),
            lost_before,
        });
        while kept.lines.len() > keep {
            kept.lines.pop_front();
        }
        drop(kept);
        self.appended.send_replace(());
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn oldest(&self) -> u64 {
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

/// A position in the console of one instance
#[derive(Debug)]
pub struct ConsoleReader {
    ring: Arc<Ring>,
    appended: watch::Receiver<()>,
    next: u64,
    /// The reader asked for whatever is there, so lines that were gone before it came are not missed
    from_oldest: bool,
}

impl ConsoleReader {
    /// What is there to show now, at most `max` items; empty = nothing yet
    pub fn take(&mut self, max: usize) -> Vec<ConsoleItem> {
        let kept = self.ring.kept();
        let oldest = kept.oldest();
        let mut items = Vec::new();
        if self.next < oldest {
            if !self.from_oldest {
                items.push(ConsoleItem::Gap {
                    missed: oldest - self.next,
                    before: oldest,
                });
            }
            self.next = oldest;
        }
        self.from_oldest = false;
        let start = usize::try_from(self.next - oldest).unwrap_or(usize::MAX);
        for stored in kept.lines.iter().skip(start) {
            if items.len() >= max {
                break;
            }
            if stored.lost_before > 0 {
                items.push(ConsoleItem::Gap {
                    missed: stored.lost_before,
                    before: stored.line.sequence,
                });
            }
            items.push(ConsoleItem::Line(Arc::clone(&stored.line)));
            self.next = stored.line.sequence + 1;
        }
        items
    }

    /// Waits until there is something to show; empty = the console is gone
    ///
    /// Cancelling it loses nothing.
    pub async fn next(&mut self, max: usize) -> Vec<ConsoleItem> {
        loop {
            self.appended.mark_unchanged();
            let items = self.take(max);
            if !items.is_empty() || self.ring.kept().forgotten {
                return items;
            }
            // The ring is held by this reader, so its sender lives.
            if self.appended.changed().await.is_err() {
                return Vec::new();
            }
        }
    }
}

fn cut(line: String) -> String {
    match line.char_indices().nth(MAX_LINE_CHARS) {
        None => line,
        Some((end, _)) => {
            let mut cut = line;
            cut.truncate(end);
            cut.push_str(CUT_MARK);
            cut
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    fn output(incarnation: u64, sequence: u64, line: &str) -> ConsoleOutput {
        ConsoleOutput {
            instance_id: "lobby-1".to_owned(),
            line: line.to_owned(),
            timestamp_ms: 5,
            incarnation,
            sequence,
        }
    }

    fn shown(items: &[ConsoleItem]) -> Vec<String> {
        items
            .iter()
            .map(|item| match item {
                ConsoleItem::Line(line) => format!("{} {}", line.sequence, line.line),
                ConsoleItem::Gap { missed, before } => format!("missed {missed} before {before}"),
            })
            .collect()
    }

    #[test]
    fn history_then_live_lines_in_order() {
        let consoles = Consoles::keeping(3);
        for number in 1..=5 {
            consoles.append(output(1, number, &format!("line {number}")));
        }
        let mut reader = consoles.follow("lobby-1", 0);
        assert_eq!(shown(&reader.take(100)), ["3 line 3", "4 line 4", "5 line 5"]);
        assert!(reader.take(100).is_empty());
        consoles.append(output(1, 6, "line 6"));
        assert_eq!(shown(&reader.take(100)), ["6 line 6"]);
        assert_eq!(consoles.bounds("lobby-1"), (4, 7));
    }

    #[test]
    fn a_reader_that_falls_behind_sees_how_much_it_missed() {
        let consoles = Consoles::keeping(3);
        consoles.append(output(1, 1, "a"));
        let mut reader = consoles.follow("lobby-1", 1);
        assert_eq!(shown(&reader.take(100)), ["1 a"]);
        for number in 2..=9 {
            consoles.append(output(1, number, "b"));
        }
        assert_eq!(shown(&reader.take(2)), ["missed 5 before 7", "7 b"]);
        assert_eq!(shown(&reader.take(100)), ["8 b", "9 b"]);
        let mut resumed = consoles.follow("lobby-1", 4);
        assert_eq!(shown(&resumed.take(1)), ["missed 3 before 7"]);
        let mut next = consoles.follow("lobby-1", 10);
        assert!(next.take(1).is_empty());
        let mut from_an_earlier_controller = consoles.follow("lobby-1", 4000);
        assert_eq!(shown(&from_an_earlier_controller.take(1)), ["7 b"]);
    }

    #[test]
    fn lines_lost_on_the_way_are_a_gap_and_repeated_ones_are_dropped() {
        let consoles = Consoles::keeping(10);
        for (incarnation, number, line) in [
            (1, 1, "a"),
            (1, 2, "b"),
            (1, 2, "b"),
            (1, 7, "c"),
            (2, 3, "d"),
            (1, 8, "late"),
            (1, 7, "c"),
            (1, 8, "late"),
            (2, 3, "d"),
            (0, 0, "java"),
        ] {
            consoles.append(output(incarnation, number, line));
        }
        let mut reader = consoles.follow("lobby-1", 0);
        assert_eq!(
            shown(&reader.take(100)),
            [
                "1 a",
                "2 b",
                "missed 4 before 3",
                "3 c",
                "missed 2 before 4",
                "4 d",
                "5 late",
                "6 java"
            ]
        );
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let consoles = Consoles::keeping(1);
        consoles.append(output(1, 1, &"\u{e9}".repeat(5000)));
        let items = consoles.follow("lobby-1", 0).take(1);
        let ConsoleItem::Line(line) = items.first().unwrap() else {
            panic!("{items:?}")
        };
        assert_eq!(line.line.chars().count(), MAX_LINE_CHARS + CUT_MARK.len());
        assert!(line.line.ends_with(CUT_MARK));
    }

    #[tokio::test]
    async fn a_reader_wakes_for_lines_and_ends_with_the_instance() {
        let consoles = Consoles::keeping(10);
        let mut reader = consoles.follow("lobby-1", 0);
        let (items, ()) = tokio::join!(reader.next(10), async { consoles.append(output(1, 1, "hello")) });
        assert_eq!(shown(&items), ["1 hello"]);
        let (items, ()) = tokio::join!(reader.next(10), async { consoles.forget("lobby-1") });
        assert!(items.is_empty());
    }
}
