//! The wall clock as records and the wire write it: milliseconds since 1970, UTC

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 of `time`; 0 for anything before
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Now, in milliseconds since 1970
pub(crate) fn now_ms() -> i64 {
    i64::try_from(milliseconds(SystemTime::now())).unwrap_or(0)
}
