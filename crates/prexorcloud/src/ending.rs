//! What signals ask of a program: to end, or to read its configuration again
//!
//! | Signal | A controller or daemon | `dev` and `demo` |
//! |---|---|---|
//! | SIGTERM, SIGINT | ends | end |
//! | SIGHUP | reads its configuration again | end, unless it is ignored (`nohup`) |
//! | SIGUSR1, SIGUSR2, timers, real-time signals and the like | nothing | nothing |

use std::io;

use prexorcloud_daemon::process::signals::{self, Signals};
use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Makes signals arrive as they are meant, whatever this process inherited; before the first thread starts
pub fn hear_signals() -> io::Result<()> {
    signals::unblock_all()?;
    signals::shrug_off_meaningless()
}

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
    /// Of a program that works for the terminal that it was started from
    pub fn of_a_command() -> io::Result<Self> {
        // Whoever started this process may want it to survive its terminal; listening would undo that.
        let survives = Signals::now().is_ok_and(|signals| signals.ignores(Number::HUP));
        let hangup = match survives {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        Ok(Self {
            hangup,
            ..Self::of_a_server()?
        })
    }

    /// Of a program that works for others
    pub fn of_a_server() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: None,
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

/// The wish that a server reads its configuration again
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    pub fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Resolves at the next signal
    pub async fn heard(&mut self) {
        self.0.recv().await;
    }
}
