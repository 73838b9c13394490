//! The daemon's own log on its way to the controller, as fast as it may go
//!
//! Nothing is kept for later: what is logged while no session is there is given up and counted, and the numbers of the records
//! that follow say how many are missing. What may be sent in a second is bounded, since a controller keeps two thousand records of
//! a node, and a flood would only cost both of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use prexorcloud_logs::{Mirror, Record, mirror::quietly};
use prexorcloud_proto::DaemonLogRecord;
use prexorcloud_protocol::DaemonSession;
use prexorcloud_transport::SessionHandle;

/// Records that are looked at together
const BATCH: usize = 64;

/// Records that may be sent at once, after a quiet time
const AT_ONCE: u32 = 4_000;

/// How long it takes until one more may be: five thousand a second
const INTERVAL: Duration = Duration::from_micros(200);

/// Forwards what is mirrored until the session is retired
pub async fn forward(session: SessionHandle<DaemonSession>, mirror: Mirror) {
    let _closing = Closing(&mirror);
    let mut waiting: VecDeque<Record> = VecDeque::new();
    let mut pace = Pace::new(Instant::now());
    // The number of the last record that was sent
    let mut last = 0;
    loop {
        if waiting.is_empty() {
            mirror.next(&mut waiting, BATCH).await;
        }
        let allowed = loop {
            match pace.allowed(Instant::now()) {
                0 => tokio::time::sleep(INTERVAL * 50).await,
                allowed => break allowed,
            }
        };
        let sent = session
            .wait_for(|session, _| {
                if !session.is_established() {
                    return Some(None);
                }
                let mut sent = 0;
                while sent < allowed
                    && let Some(record) = waiting.front()
                    && session.has_room_for_log(record.cost())
                    && let Some(record) = waiting.pop_front()
                {
                    let dropped = record.number - last - 1;
                    last = record.number;
                    quietly(|| session.log(message(record, dropped)));
                    sent += 1;
                }
                (sent > 0).then_some(Some(sent))
            })
            .await;
        match sent {
            Some(Some(sent)) => pace.spend(sent),
            Some(None) => {
                mirror.give_up(waiting.len());
                waiting.clear();
            }
            None => return,
        }
    }
}

/// Without a reader nobody shall go on making records
struct Closing<'a>(&'a Mirror);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn message(record: Record, dropped: u64) -> DaemonLogRecord {
    DaemonLogRecord {
        timestamp_ms: record.timestamp_ms,
        level: record.level.to_string(),
        logger: record.logger,
        thread: record.thread,
        message: record.message,
        throwable: record.throwable,
        mdc: record.context.into_iter().collect(),
        sequence: record.number,
        dropped,
    }
}

/// A token bucket
struct Pace {
    left: u32,
    filled: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            left: AT_ONCE,
            filled: now,
        }
    }

    fn allowed(&mut self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.filled);
        let more = u32::try_from(elapsed.as_nanos() / INTERVAL.as_nanos()).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(AT_ONCE);
            self.filled = now;
        }
        self.left
    }

    fn spend(&mut self, sent: u32) {
        self.left = self.left.saturating_sub(sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_five_thousand_a_second() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        assert_eq!(pace.allowed(began), AT_ONCE);
        pace.spend(AT_ONCE);
        assert_eq!(pace.allowed(began), 0);
        assert_eq!(pace.allowed(began + Duration::from_millis(100)), 500);
        assert_eq!(pace.allowed(began + Duration::from_secs(60)), AT_ONCE);
    }
}
