//! Sets of field or enum numbers, however their ranges were written down

use std::fmt;

/// A set of numbers as sorted, disjoint, non-adjacent half-open ranges
///
/// `1 to 3, 4` and `1 to 4` are the same set, so a change of notation is no change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers(Vec<(i64, i64)>);

impl Numbers {
    /// The union of half-open ranges in any order; empty and reversed ones count for nothing.
    pub(super) fn from_ranges(ranges: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|(start, end)| start < end).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::with_capacity(sorted.len());
        for (start, end) in sorted {
            match merged.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, number: i64) -> bool {
        let next = self.0.partition_point(|(start, _)| *start <= number);
        let candidate = next.checked_sub(1).and_then(|index| self.0.get(index));
        candidate.is_some_and(|(_, end)| number < *end)
    }

    /// The numbers of `self` that are not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(mut start, end) in &self.0 {
            let first = other.0.partition_point(|(_, cut_end)| *cut_end <= start);
            for &(cut_start, cut_end) in other.0.iter().skip(first) {
                if cut_start >= end {
                    break;
                }
                if cut_start > start {
                    left.push((start, cut_start));
                }
                start = cut_end.min(end);
            }
            if start < end {
                left.push((start, end));
            }
        }
        Self(left)
    }
}

/// As a `.proto` file would write it, for instance `3, 21 to 23`.
impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (start, end)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            let last = end - 1;
            if *start == last {
                write!(f, "{start}")?;
            } else {
                write!(f, "{start} to {last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = Vec<(i64, i64)>> {
        proptest::collection::vec((-5..30_i64, -5..30_i64), 0..6)
    }

    #[test]
    fn notation_does_not_matter() {
        let split = Numbers::from_ranges([(4, 6), (1, 3), (3, 4)]);
        assert_eq!(split, Numbers::from_ranges([(1, 6)]));
        assert_eq!(split.to_string(), "1 to 5");
        assert_eq!(
            Numbers::from_ranges([(3, 4), (21, 24)]).to_string(),
            "3, 21 to 23"
        );
        assert!(Numbers::from_ranges([(5, 5), (9, 2)]).is_empty());
    }

    proptest! {
        #[test]
        fn sets_behave_like_sets(a in ranges(), b in ranges()) {
            let naive = |ranges: &[(i64, i64)], n: i64| ranges.iter().any(|(s, e)| (*s..*e).contains(&n));
            let (left, right) = (Numbers::from_ranges(a.clone()), Numbers::from_ranges(b.clone()));
            let difference = left.without(&right);
            for n in -6..31 {
                prop_assert_eq!(left.contains(n), naive(&a, n));
                prop_assert_eq!(difference.contains(n), naive(&a, n) && !naive(&b, n));
            }
            prop_assert!(left.without(&left).is_empty());
        }
    }
}
