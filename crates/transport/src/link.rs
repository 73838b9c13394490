//! The daemon's way to its controller: dial, drive the session, dial again
//!
//! [`run`] owns the connection and nothing else. The application keeps looping over
//! [`SessionHandle::next_event`], across all streams; what it says to the session between two streams waits there.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use prexorcloud_protocol::handshake::daemon::HandshakeFailure;
use prexorcloud_protocol::{DaemonOutcome, DaemonSession, Session};
use tokio::time::{sleep, timeout};

use crate::client::{Connection, DialError, Dialer, Target};
use crate::handle::{DRAIN_LIMIT, SessionHandle, StreamEnd};
use crate::reconnect::{Attempt, Ended, Reconnect};

/// What the link does, for the log
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinkEvent {
    /// A controller will be dialled.
    Dialling {
        /// Whom.
        target: Target,
        /// After which wait.
        after: Duration,
    },
    /// It was not reached.
    DialFailed {
        /// Whom.
        target: Target,
        /// Why not.
        error: DialError,
    },
    /// It was reached, and the session begins.
    StreamOpened {
        /// Whom.
        target: Target,
    },
    /// The controllers that were announced, when they differ from the last announcement: keep them for the next start.
    Learned {
        /// All of the announcement.
        controllers: Vec<Target>,
    },
    /// The stream is over.
    StreamEnded {
        /// With whom.
        target: Target,
        /// How.
        end: StreamEnd,
        /// What broke the connection, where it broke.
        error: Option<DialError>,
    },
    /// The loop has ended.
    Stopped,
}

/// Keeps `session` connected until `shutdown` completes
///
/// At a shutdown the session is closed in order: what it still has to say leaves, within
/// [`DRAIN_LIMIT`]. Afterwards the handle is retired, so `next_event` ends with `None`.
///
/// `observe` is called in between and must not block.
pub async fn run(
    session: SessionHandle<DaemonSession>,
    dialer: Dialer,
    mut reconnect: Reconnect,
    mut observe: impl FnMut(LinkEvent),
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    loop {
        let Attempt { target, delay } = reconnect.next_attempt(rand::random());
        observe(LinkEvent::Dialling {
            target: target.clone(),
            after: delay,
        });
        let dialled = tokio::select! {
            biased;
            () = shutdown.as_mut() => break,
            dialled = async {
                sleep(delay).await;
                dialer.dial(&target).await
            } => dialled,
            () = session.tend() => break,
        };
        let connection = match dialled {
            Ok(connection) => connection,
            Err(error) => {
                observe(LinkEvent::DialFailed { target, error });
                reconnect.ended(&Ended::Failed);
                continue;
            }
        };
        observe(LinkEvent::StreamOpened {
            target: target.clone(),
        });
        let stop = drive(
            &session,
            &connection,
            &mut reconnect,
            &mut observe,
            shutdown.as_mut(),
        )
        .await;
        if stop {
            break;
        }
    }
    session.retire();
    observe(LinkEvent::Stopped);
}

/// Drives one stream to its end; true if it was ended by the shutdown.
async fn drive(
    session: &SessionHandle<DaemonSession>,
    connection: &Connection,
    reconnect: &mut Reconnect,
    observe: &mut impl FnMut(LinkEvent),
    mut shutdown: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> bool {
    let mut stream = pin!(connection.run_session(session));
    // The session is connected when the stream is polled first, so an older `connected` is never seen here.
    let mut admitted =
        pin!(session.wait_for(|session, _| session.connected().map(|it| it.controllers.clone())));
    let mut awaiting = true;
    let mut stopping = false;
    let end = loop {
        tokio::select! {
            biased;
            end = stream.as_mut() => break end,
            controllers = admitted.as_mut(), if awaiting => {
                awaiting = false;
                reconnect.handshaken();
                if reconnect.learned(&controllers.unwrap_or_default()) {
                    observe(LinkEvent::Learned { controllers: reconnect.advertised().to_vec() });
                }
            }
            () = shutdown.as_mut(), if !stopping => {
                stopping = true;
                let closing = session.with(|session, _| {
                    session.shut_down();
                    session.close().is_some()
                });
                if !closing {
                    session.disconnect("shutdown");
                }
                if let Ok(end) = timeout(DRAIN_LIMIT * 2, stream.as_mut()).await {
                    break end;
                }
                session.disconnect("shutdown");
            }
        }
    };
    let error = match end {
        StreamEnd::Lost(_) => connection.failure().await,
        _ => None,
    };
    reconnect.ended(&match session.retry_after() {
        Some(after) => Ended::Postponed(after),
        None => ended(session),
    });
    observe(LinkEvent::StreamEnded {
        target: connection.target().clone(),
        end,
        error,
    });
    stopping
}

fn ended(session: &SessionHandle<DaemonSession>) -> Ended {
    session.with(|session, _| match session.last_outcome() {
        Some(DaemonOutcome::Handshake(HandshakeFailure::Redirected { to, .. })) => {
            Ended::Redirected(to.clone())
        }
        Some(outcome) if outcome.reached_established() => Ended::Established,
        _ => Ended::Failed,
    })
}
