//! Which entries of a cache go when it holds too many bytes

/// An entry of a cache, as far as it matters here
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its bytes on disk.
    pub bytes: u64,
    /// When it was last used; any clock whose later moments are greater.
    pub last_used: u64,
    /// Whether somebody works with it now.
    pub in_use: bool,
}

/// The entries that have to go so that at most `limit` bytes are left, by their places, the first to go first
///
/// Those go first that were used longest ago, and of these the larger ones. What is in use stays, also where too many bytes
/// are left then: ask again when it is not in use any more.
#[must_use]
pub fn evicted(entries: &[CacheEntry], limit: u64) -> Vec<usize> {
    let mut total = entries
        .iter()
        .fold(0_u64, |sum, entry| sum.saturating_add(entry.bytes));
    let mut idle: Vec<(usize, &CacheEntry)> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| !entry.in_use)
        .collect();
    idle.sort_by_key(|(place, entry)| (entry.last_used, std::cmp::Reverse(entry.bytes), *place));
    let mut gone = Vec::new();
    for (place, entry) in idle {
        if total <= limit {
            break;
        }
        total = total.saturating_sub(entry.bytes);
        gone.push(place);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bytes: u64, last_used: u64, in_use: bool) -> CacheEntry {
        CacheEntry {
            bytes,
            last_used,
            in_use,
        }
    }

    #[test]
    fn what_was_used_longest_ago_goes_and_what_is_in_use_stays() {
        let entries = [
            entry(10, 5, false),
            entry(10, 1, true),
            entry(10, 3, false),
            entry(10, 4, false),
        ];
        for (limit, gone) in [
            (40, vec![]),
            (39, vec![2]),
            (30, vec![2]),
            (20, vec![2, 3]),
            (0, vec![2, 3, 0]),
        ] {
            assert_eq!(evicted(&entries, limit), gone, "{limit}");
        }
        assert_eq!(evicted(&[], 0), Vec::<usize>::new());
        assert_eq!(
            evicted(&[entry(1, 0, false), entry(2, 0, false)], 1),
            [1],
            "of equals the larger"
        );
        let huge = [entry(u64::MAX, 0, true), entry(u64::MAX, 1, false)];
        assert_eq!(evicted(&huge, 1), [1], "sums do not overflow");
    }
}
