//! The earliest of many deadlines

/// One optional deadline per slot, and which slot has the earliest
///
/// A tournament over the slots: setting a deadline costs one path to the root, and asking for the earliest one path
/// down, whatever the number of instances. Nothing is allocated unless the number of slots grows.
///
/// `T` is an `Instant`; the tests of this module have no clock to take one from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deadlines<T> {
    /// A binary tree in an array: node `n` has the children `2n` and `2n + 1` and holds the earlier of their deadlines;
    /// the upper half are the slots. Node 0 is unused.
    nodes: Vec<Option<T>>,
}

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Self { nodes: Vec::new() }
    }
}

fn earlier<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl<T: Copy + Ord> Deadlines<T> {
    fn slots(&self) -> usize {
        self.nodes.len() / 2
    }

    fn node(&self, node: usize) -> Option<T> {
        self.nodes.get(node).copied().flatten()
    }

    /// Makes room for `slots` slots.
    pub(super) fn reserve(&mut self, slots: usize) {
        if slots <= self.slots() {
            return;
        }
        let old = self.nodes.split_off(self.slots());
        let slots = slots.next_power_of_two();
        self.nodes = vec![None; slots];
        self.nodes.extend(old);
        self.nodes.resize(2 * slots, None);
        for node in (1..slots).rev() {
            self.repair(node);
        }
    }

    fn repair(&mut self, node: usize) {
        let earliest = earlier(self.node(2 * node), self.node(2 * node + 1));
        if let Some(place) = self.nodes.get_mut(node) {
            *place = earliest;
        }
    }

    /// Sets the deadline of `slot`.
    pub(super) fn set(&mut self, slot: usize, at: Option<T>) {
        let mut node = self.slots() + slot;
        match self.nodes.get_mut(node) {
            Some(place) if *place != at => *place = at,
            _ => return,
        }
        while node > 1 {
            node /= 2;
            self.repair(node);
        }
    }

    /// The slot with the earliest deadline; the lowest slot if several fall together.
    pub(super) fn earliest(&self) -> Option<(usize, T)> {
        let at = self.node(1)?;
        let slots = self.slots();
        let mut node = 1;
        while node < slots {
            node *= 2;
            if self.node(node) != Some(at) {
                node += 1;
            }
        }
        Some((node - slots, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_plain_search() {
        let mut deadlines = Deadlines::default();
        let mut plain: Vec<Option<u64>> = Vec::new();
        let mut random = 7_u64;
        for step in 0..20_000_usize {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if plain.len() < 300 && step % 50 == 0 {
                plain.push(None);
                deadlines.reserve(plain.len());
            }
            let slot = (random >> 33) as usize % plain.len();
            let at = ((random >> 28) & 15 != 0).then_some(random >> 52);
            plain[slot] = at;
            deadlines.set(slot, at);
            let expected = plain
                .iter()
                .enumerate()
                .filter_map(|(slot, at)| at.map(|at| (at, slot)))
                .min();
            assert_eq!(deadlines.earliest().map(|(slot, at)| (at, slot)), expected);
        }
    }
}
