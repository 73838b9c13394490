//! What is said of those who come to the port and do not get in
//!
//! A stranger may fail a handshake thousands of times a second, and each would be a line. The first of a source is told at
//! once; what follows within [`INTERVAL`] is told together, with a count. Sources that are too many are told as one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::source::Source;

/// How long the failures of a source are counted before they are told
const INTERVAL: Duration = Duration::from_secs(60);

/// Sources that are told apart
const MAX_SOURCES: usize = 256;

/// Failures of one source, or of all that have no place of their own
#[derive(Debug)]
struct Failures {
    since: Instant,
    untold: u64,
    last: String,
}

/// Something to say
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// None for many
    pub(super) source: Option<Source>,
    pub(super) count: u64,
    pub(super) last: String,
}

#[derive(Debug, Default)]
pub(super) struct FailedHandshakes(Mutex<HashMap<Option<Source>, Failures>>);

impl FailedHandshakes {
    /// A handshake has failed; what is to be said, if anything
    pub(super) fn failed(&self, now: Instant, address: IpAddr, error: &str) -> Vec<Told> {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = due(&mut sources, now);
        let own = Some(Source::of(address));
        let key = match sources.len() < MAX_SOURCES || sources.contains_key(&own) {
            true => own,
            false => None,
        };
        match sources.get_mut(&key) {
            Some(failures) => {
                failures.untold += 1;
                error.clone_into(&mut failures.last);
            }
            None => {
                let last = error.to_owned();
                sources.insert(
                    key,
                    Failures {
                        since: now,
                        untold: 0,
                        last: last.clone(),
                    },
                );
                told.push(Told {
                    source: key,
                    count: 1,
                    last,
                });
            }
        }
        told
    }

    /// What has been counted long enough
    pub(super) fn due(&self, now: Instant) -> Vec<Told> {
        due(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

fn due(sources: &mut HashMap<Option<Source>, Failures>, now: Instant) -> Vec<Told> {
    let mut told = Vec::new();
    sources.retain(|source, failures| {
        if now.saturating_duration_since(failures.since) < INTERVAL {
            return true;
        }
        let count = std::mem::take(&mut failures.untold);
        if count == 0 {
            return false;
        }
        failures.since = now;
        told.push(Told {
            source: *source,
            count,
            last: failures.last.clone(),
        });
        true
    });
    told
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_first_failure_is_told_and_the_others_together() {
        let (strangers, begun) = (FailedHandshakes::default(), Instant::now());
        let address = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
        let told = |count| Told {
            source: Some(Source::of(address)),
            count,
            last: "no TLS".to_owned(),
        };
        let mut said = Vec::new();
        for number in 0..1000 {
            said.extend(strangers.failed(begun + Duration::from_millis(number), address, "no TLS"));
        }
        assert_eq!(said, [told(1)]);
        assert_eq!(strangers.due(begun + INTERVAL), [told(999)]);
        assert_eq!(strangers.due(begun + INTERVAL * 2), []);
        let again = strangers.failed(begun + INTERVAL * 3, address, "no TLS");
        assert_eq!(again, [told(1)]);
    }

    #[test]
    fn any_number_of_sources_costs_so_many_lines_and_places() {
        let (strangers, begun) = (FailedHandshakes::default(), Instant::now());
        let lines: usize = (0..100_000_u32)
            .map(|number| {
                strangers
                    .failed(begun, IpAddr::V4(Ipv4Addr::from_bits(number)), "no TLS")
                    .len()
            })
            .sum();
        assert_eq!(lines, MAX_SOURCES + 1);
        let rest = strangers.due(begun + INTERVAL);
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].count, 100_000 - MAX_SOURCES as u64 - 1);
    }
}
