//! From when until when a certificate counts

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// The period in which a certificate is valid, both ends included
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First valid moment
    pub not_before: SystemTime,
    /// Last valid moment
    pub not_after: SystemTime,
}

impl Validity {
    /// Whether `now` lies inside the period
    #[must_use]
    pub fn contains(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// The whole length of the period
    #[must_use]
    pub fn length(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// When a successor should be asked for: after half of the lifetime
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        self.not_after
            .checked_sub(self.length() / 2)
            .unwrap_or(self.not_before)
    }
}

/// Seconds since 1970 as a point in time, or `None` outside what the platform can express
pub(crate) fn from_unix_seconds(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    }
}

/// A point in time as X.509 writes it (whole seconds, years 1950 to 9999), or `None` outside that
pub(crate) fn to_x509(at: SystemTime) -> Option<OffsetDateTime> {
    let seconds = match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).ok()?,
        Err(before) => i64::try_from(before.duration().as_secs()).ok()?.checked_neg()?,
    };
    let written = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    (1950..=9999).contains(&written.year()).then_some(written)
}

/// Milliseconds since 1970; zero for anything earlier
pub(crate) fn to_unix_millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_due_when_half_of_the_lifetime_is_left() {
        let start = from_unix_seconds(1_000_000).unwrap();
        let validity = Validity {
            not_before: start,
            not_after: start + Duration::from_secs(300),
        };
        assert_eq!(validity.renew_at(), start + Duration::from_secs(150));
        assert!(validity.contains(start) && validity.contains(validity.not_after));
        assert!(!validity.contains(start - Duration::from_secs(1)));
        assert!(!validity.contains(validity.not_after + Duration::from_secs(1)));
    }

    #[test]
    fn dates_outside_x509_are_refused_not_wrapped() {
        assert!(to_x509(UNIX_EPOCH + Duration::from_secs(i64::MAX as u64)).is_none());
        assert!(to_x509(from_unix_seconds(-2_000_000_000).unwrap()).is_none());
        assert_eq!(to_x509(UNIX_EPOCH).map(OffsetDateTime::unix_timestamp), Some(0));
        assert!(from_unix_seconds(i64::MIN).is_none() || from_unix_seconds(i64::MIN) < Some(UNIX_EPOCH));
    }
}
