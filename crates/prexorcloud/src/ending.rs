//! SIGTERM and SIGINT

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The wish of somebody outside that this process ends
///
/// Made before anything is started, so that no signal in between is lost.
#[derive(Debug)]
pub struct Ending {
    terminate: Signal,
    interrupt: Signal,
}

impl Ending {
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Resolves at the next signal
    pub async fn asked_for(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
