//! SIGTERM, SIGINT, and SIGHUP unless it is ignored (`nohup`)

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The wish of somebody outside that this process ends
///
/// Made before anything is started, so that no signal in between is lost.
#[derive(Debug)]
pub struct Ending {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Ending {
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: match is_hangup_ignored() {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// Resolves at the next signal
    pub async fn asked_for(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = next(&mut self.hangup) => {}
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether whoever started this process wants it to survive its terminal; listening would undo that
fn is_hangup_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

fn ignores_hangup(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::ignores_hangup;

    #[test]
    fn the_first_bit_of_the_mask_is_the_hangup() {
        assert!(ignores_hangup(
            "Name:\tx\nSigBlk:\t0\nSigIgn:\t0000000000001001\n"
        ));
        assert!(!ignores_hangup("SigBlk:\t1\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
