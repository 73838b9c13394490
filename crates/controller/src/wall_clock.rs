//! The wall clock as the store and the wire write it: milliseconds since 1970, UTC

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 of `time`; 0 for anything before
pub(crate) fn to_millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The time that `millis` after 1970 stands for
pub(crate) fn from_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Now, in milliseconds since 1970
pub(crate) fn now_millis() -> i64 {
    to_millis(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn millis_and_times_agree() {
        assert_eq!(to_millis(from_millis(1_764_000_000_042)), 1_764_000_000_042);
        assert_eq!(to_millis(from_millis(-5)), 0);
    }
}
