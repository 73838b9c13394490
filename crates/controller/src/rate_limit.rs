//! How many failures an address may cause before it has to wait
//!
//! A token bucket per address that only failures empty: a fleet behind one address that enrols properly is never
//! slowed. IPv6 addresses count by /64, which is what one machine usually owns. Failures with a token that exists count
//! apart from all others, so that who lost a race for one, or goes on with a spent one, is in nobody else's way.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prexorcloud_security::token::TokenHash;
use prexorcloud_transport::server::Source;

/// Addresses that are remembered; beyond it, the half with the fewest failures is forgotten
const MAX_ADDRESSES: usize = 4096;

/// Failures per address
#[derive(Debug)]
pub struct FailureLimit {
    burst: f64,
    per_second: f64,
    failures: Mutex<HashMap<Subject, Failures>>,
}

/// Whose failures are counted together: a source, and the token that exists, if it was one
type Subject = (Source, Option<[u8; 32]>);

#[derive(Copy, Clone, Debug)]
struct Failures {
    /// As of `at`; it drains at the forgiven rate
    count: f64,
    at: Instant,
}

impl FailureLimit {
    /// Allows `burst` failures at once and forgives `per_minute` of them per minute
    #[must_use]
    pub fn new(burst: u32, per_minute: u32) -> Self {
        Self {
            burst: f64::from(burst.max(1)),
            per_second: f64::from(per_minute.max(1)) / 60.0,
            failures: Mutex::default(),
        }
    }

    /// Whether `peer` may try, or how long it has to wait
    ///
    /// # Errors
    /// The time until the next attempt is allowed.
    pub fn check(&self, now: Instant, peer: IpAddr, token: Option<&TokenHash>) -> Result<(), Duration> {
        let Some(failures) = self.failures().get(&subject(peer, token)).copied() else {
            return Ok(());
        };
        let over = self.remaining(now, failures) - (self.burst - 1.0);
        if over <= 0.0 {
            Ok(())
        } else {
            Err(Duration::from_secs_f64(over / self.per_second))
        }
    }

    /// Counts a failure of `peer` with a token that exists, or with anything else
    pub fn record_failure(&self, now: Instant, peer: IpAddr, token: Option<&TokenHash>) {
        let subject = subject(peer, token);
        let mut failures = self.failures();
        if failures.len() >= MAX_ADDRESSES && !failures.contains_key(&subject) {
            self.make_room(now, &mut failures);
        }
        let entry = failures
            .entry(subject)
            .or_insert(Failures { count: 0.0, at: now });
        // Callers that were let in together may overshoot; what is beyond the burst does not add to the wait.
        entry.count = (self.remaining(now, *entry) + 1.0).min(self.burst);
        entry.at = now;
    }

    fn remaining(&self, now: Instant, failures: Failures) -> f64 {
        let forgiven = now.saturating_duration_since(failures.at).as_secs_f64() * self.per_second;
        (failures.count - forgiven).max(0.0)
    }

    fn make_room(&self, now: Instant, failures: &mut HashMap<Subject, Failures>) {
        failures.retain(|_, entry| self.remaining(now, *entry) > 0.0);
        if failures.len() < MAX_ADDRESSES {
            return;
        }
        // Half of them at once, so that the next thousands of addresses cost nothing.
        let mut counts: Vec<f64> = failures
            .values()
            .map(|entry| self.remaining(now, *entry))
            .collect();
        let middle = counts.len() / 2;
        let (_, median, _) = counts.select_nth_unstable_by(middle, f64::total_cmp);
        let median = *median;
        failures.retain(|_, entry| self.remaining(now, *entry) > median);
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Subject, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn subject(peer: IpAddr, token: Option<&TokenHash>) -> Subject {
    (Source::of(peer), token.map(|token| *token.as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::net::Ipv6Addr;

    use prexorcloud_security::token::JoinToken;

    use super::*;

    const PEER: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1));
    const NEIGHBOUR: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2));
    const STRANGER: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1));

    #[test]
    fn failures_beyond_the_burst_have_to_wait_and_are_forgiven() {
        let limit = FailureLimit::new(3, 60);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(limit.check(now, PEER, None), Ok(()));
            limit.record_failure(now, PEER, None);
        }
        assert_eq!(limit.check(now, PEER, None), Err(Duration::from_secs(1)));
        assert_eq!(limit.check(now, NEIGHBOUR, None), Err(Duration::from_secs(1)));
        assert_eq!(limit.check(now, STRANGER, None), Ok(()));
        let later = now + Duration::from_secs(1);
        assert_eq!(limit.check(later, PEER, None), Ok(()));
        limit.record_failure(later, PEER, None);
        assert!(limit.check(later, PEER, None).is_err());
        assert_eq!(limit.check(later + Duration::from_secs(60), PEER, None), Ok(()));
    }

    #[test]
    fn a_token_that_exists_counts_for_itself() {
        let limit = FailureLimit::new(2, 60);
        let now = Instant::now();
        let [spent, other] = [(); 2].map(|()| JoinToken::generate(None).unwrap().hash());
        for _ in 0..5 {
            limit.record_failure(now, PEER, Some(&spent));
        }
        assert!(limit.check(now, PEER, Some(&spent)).is_err());
        assert_eq!(limit.check(now, PEER, Some(&other)), Ok(()));
        assert_eq!(limit.check(now, PEER, None), Ok(()));
    }

    #[test]
    fn a_crowd_that_was_let_in_together_waits_no_longer_than_one() {
        let limit = FailureLimit::new(3, 60);
        let now = Instant::now();
        for _ in 0..1000 {
            limit.record_failure(now, PEER, None);
        }
        assert_eq!(limit.check(now, PEER, None), Err(Duration::from_secs(1)));
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_remembered() {
        let limit = FailureLimit::new(3, 60);
        let now = Instant::now();
        for _ in 0..3 {
            limit.record_failure(now, PEER, None);
        }
        for number in 0..20_000_u32 {
            limit.record_failure(now, IpAddr::V4(std::net::Ipv4Addr::from_bits(number)), None);
        }
        assert!(limit.failures().len() <= MAX_ADDRESSES);
        assert!(limit.check(now, PEER, None).is_err());
    }
}
