//! The last console lines of each instance, and a live view of them
//!
//! One ring per instance, bounded in lines, in the length of a line and in bytes; all rings of a node are bounded in
//! bytes together, and where they exceed that, the largest gives up lines first. Readers pull: each has a position, and one
//! that falls behind the ring is told how many lines it missed. Lines that were lost before they came here (the daemon sheds
//! console output when a link is slow) are visible as well: sequence numbers skip, and the ring keeps a gap in place.

mod ring;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prexorcloud_proto::ConsoleOutput;
use prexorcloud_protocol::NodeId;
use tokio::sync::watch;

use ring::Ring;

pub use ring::MAX_LINE_CHARS;

/// Bytes that the console of one instance may have: 500 lines of 2 KiB, far above what servers print
const RING_BYTES: usize = 1024 * 1024;

/// Bytes that all consoles of one node may have
///
/// A node may host 4,096 instances and remembers as many ended ones; without this it could have 4 GiB of the controller.
const NODE_BYTES: usize = 32 * 1024 * 1024;

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
    rings: Mutex<Rings>,
}

#[derive(Debug, Default)]
struct Rings {
    by_instance: HashMap<String, Place>,
    /// What the rings of a node hold
    bytes: HashMap<NodeId, usize>,
}

#[derive(Debug, Default)]
struct Place {
    ring: Arc<Ring>,
    /// Who sent its last line
    node: Option<NodeId>,
    bytes: usize,
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

    /// Adds a line that the daemon of `node` sent
    pub fn append(&self, node: NodeId, output: ConsoleOutput) {
        let instance = output.instance_id.clone();
        let mut rings = self.rings();
        let ring = rings.ring(&instance);
        if let Some(bytes) = ring.append(output, self.lines, RING_BYTES) {
            rings.note(&instance, Some(node), bytes);
            rings.bound(node);
        }
    }

    /// A view that begins at `from` (0 or 1 = the oldest line that is kept) and goes on with live lines
    ///
    /// It may be opened before the instance printed anything. Numbers begin at 1 again when a controller starts, so a
    /// `from` that is not reached yet comes from an earlier one, and everything is new to that reader.
    #[must_use]
    pub fn follow(&self, instance: &str, from: u64) -> ConsoleReader {
        let ring = self.rings().ring(instance);
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
        let ring = self.rings().ring(instance);
        let kept = ring.kept();
        (kept.oldest(), kept.next)
    }

    /// Drops the console of an instance that is deleted; readers of it end
    pub fn forget(&self, instance: &str) {
        let mut rings = self.rings();
        rings.note(instance, None, 0);
        if let Some(place) = rings.by_instance.remove(instance) {
            place.ring.kept().forgotten = true;
            place.ring.appended.send_replace(());
        }
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rings {
    fn ring(&mut self, instance: &str) -> Arc<Ring> {
        if let Some(place) = self.by_instance.get(instance) {
            return Arc::clone(&place.ring);
        }
        let place = self.by_instance.entry(instance.to_owned()).or_default();
        Arc::clone(&place.ring)
    }

    /// Says how many bytes a ring holds, and on whose account
    fn note(&mut self, instance: &str, node: Option<NodeId>, bytes: usize) {
        let Some(place) = self.by_instance.get_mut(instance) else {
            return;
        };
        if let Some(before) = place.node
            && let Some(held) = self.bytes.get_mut(&before)
        {
            *held = held.saturating_sub(place.bytes);
            if *held == 0 {
                self.bytes.remove(&before);
            }
        }
        (place.node, place.bytes) = (node, bytes);
        if let Some(node) = node {
            *self.bytes.entry(node).or_default() += bytes;
        }
    }

    /// Where the consoles of a node are too large together, lets the largest give up their older half until there is room
    /// for some time
    fn bound(&mut self, node: NodeId) {
        let is_over = |rings: &Self, most| rings.bytes.get(&node).is_some_and(|held| *held > most);
        if !is_over(self, NODE_BYTES) {
            return;
        }
        // Looked through once for many lines: a node may have thousands of consoles.
        let of_node = self
            .by_instance
            .iter()
            .filter(|(_, place)| place.node == Some(node));
        let mut consoles: Vec<_> = of_node
            .map(|(instance, place)| (place.bytes, instance.clone()))
            .collect();
        consoles.sort_unstable_by(|a, b| b.cmp(a));
        for (_, instance) in consoles.iter().cycle() {
            if !is_over(self, NODE_BYTES / 4 * 3) {
                return;
            }
            let Some(place) = self.by_instance.get(instance) else {
                return;
            };
            let bytes = place.ring.halve();
            self.note(instance, Some(node), bytes);
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::{ring::CUT_MARK, *};

    fn node() -> NodeId {
        "node-1".parse().unwrap()
    }

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
            consoles.append(node(), output(1, number, &format!("line {number}")));
        }
        let mut reader = consoles.follow("lobby-1", 0);
        assert_eq!(shown(&reader.take(100)), ["3 line 3", "4 line 4", "5 line 5"]);
        assert!(reader.take(100).is_empty());
        consoles.append(node(), output(1, 6, "line 6"));
        assert_eq!(shown(&reader.take(100)), ["6 line 6"]);
        assert_eq!(consoles.bounds("lobby-1"), (4, 7));
    }

    #[test]
    fn a_reader_that_falls_behind_sees_how_much_it_missed() {
        let consoles = Consoles::keeping(3);
        consoles.append(node(), output(1, 1, "a"));
        let mut reader = consoles.follow("lobby-1", 1);
        assert_eq!(shown(&reader.take(100)), ["1 a"]);
        for number in 2..=9 {
            consoles.append(node(), output(1, number, "b"));
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
            consoles.append(node(), output(incarnation, number, line));
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
        consoles.append(node(), output(1, 1, &"\u{e9}".repeat(5000)));
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
        let (items, ()) = tokio::join!(reader.next(10), async {
            consoles.append(node(), output(1, 1, "hello"))
        });
        assert_eq!(shown(&items), ["1 hello"]);
        let (items, ()) = tokio::join!(reader.next(10), async { consoles.forget("lobby-1") });
        assert!(items.is_empty());
    }

    #[test]
    fn a_console_is_bounded_in_bytes_and_so_are_all_of_a_node() {
        let consoles = Consoles::keeping(10_000);
        let long = "x".repeat(4_000);
        let quiet = ConsoleOutput {
            instance_id: "quiet-1".to_owned(),
            ..output(1, 1, "hello")
        };
        consoles.append(node(), quiet);
        consoles.append("node-2".parse().unwrap(), output(1, 1, "of another node"));
        for instance in 1..=100 {
            for number in 1..=300 {
                let line = ConsoleOutput {
                    instance_id: format!("loud-{instance}"),
                    ..output(1, number, &long)
                };
                consoles.append(node(), line);
            }
            let rings = consoles.rings();
            assert!(rings.bytes[&node()] <= NODE_BYTES);
            assert!(rings.by_instance.values().all(|place| place.bytes <= RING_BYTES));
        }
        let rings = consoles.rings();
        let held = |place: &Place| {
            place
                .ring
                .kept()
                .lines
                .iter()
                .map(|stored| stored.line.line.len())
                .sum::<usize>()
        };
        let all: usize = rings.by_instance.values().map(held).sum();
        assert!((NODE_BYTES / 2..=NODE_BYTES).contains(&all), "{all}");
        drop(rings);
        for small in ["quiet-1", "lobby-1"] {
            assert_eq!(consoles.bounds(small), (1, 2), "{small}");
        }
        for instance in 1..=100 {
            consoles.forget(&format!("loud-{instance}"));
        }
        consoles.forget("quiet-1");
        assert!(!consoles.rings().bytes.contains_key(&node()));
    }
}
