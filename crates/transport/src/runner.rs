//! A session with a handler: news in, actions out
//!
//! [`serve`] gives a [`SessionHandler`] the events of one session, on either side. [`DaemonRunner`] does so for a daemon's
//! session while it keeps that connected: dialling, back-off, redirects and the end in order are [`link`]'s.

use std::fmt;
use std::future::{Future, pending};
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use prexorcloud_protocol::node::daemon::DaemonWork;
use prexorcloud_protocol::{DaemonSession, Session};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::client::{Dialer, Target};
use crate::handle::SessionHandle;
use crate::link::{self, LinkEvent};
use crate::reconnect::{Backoff, NoTargets, Reconnect};

/// How long a handler may take for the events that were left at the shutdown.
const LEFT_OVER: Duration = Duration::from_secs(10);

/// An application around a session
///
/// It acts through [`SessionHandle::with`], which never waits for the network. While it is busy with one event, the
/// stream goes on: pings are answered, and messages arrive until too many wait. Do not block the thread.
///
/// Both methods may end the session's work by [`ControlFlow::Break`].
pub trait SessionHandler<S: Session + Send>: Send {
    /// Something happened. Events come in order, one at a time.
    fn handle_event(
        &mut self,
        session: &SessionHandle<S>,
        event: S::Event,
    ) -> impl Future<Output = ControlFlow<()>> + Send;

    /// Waits for what the application has to do by itself (a timer, the end of a process), and does it
    ///
    /// Polled while no event is there and dropped when one comes, so it must do its waiting first and act without an
    /// await behind it. It is asked again after each event, and after itself. Without an implementation it waits for ever.
    fn idle(&mut self, session: &SessionHandle<S>) -> impl Future<Output = ControlFlow<()>> + Send {
        let _ = session;
        pending()
    }
}

/// Gives a handler the events of a session until it has enough, or nothing will come any more
///
/// A controller does this on a task of its own for each [attached](crate::NodeAcceptor::attach) stream.
pub async fn serve<S, H>(session: &SessionHandle<S>, handler: &mut H) -> ControlFlow<()>
where
    S: Session + Send,
    H: SessionHandler<S>,
{
    loop {
        let next = tokio::select! {
            event = session.next_event() => Next::Event(event),
            flow = handler.idle(session) => Next::Idle(flow),
        };
        match next {
            Next::Event(Some(event)) => handler.handle_event(session, event).await?,
            Next::Event(None) => return ControlFlow::Continue(()),
            Next::Idle(flow) => flow?,
        }
    }
}

/// Does what a daemon's node machine wants said to the controller, and gives back the work that is the application's
///
/// That is everything that a preparer, a supervisor or a spool has to do; reports and acknowledgements are done.
#[must_use = "work that is given back is for the application"]
pub fn say<L>(session: &SessionHandle<DaemonSession>, work: DaemonWork<L>) -> Option<DaemonWork<L>> {
    session.with(|session, _| match work {
        DaemonWork::Report(report) => {
            session.report(&report);
            None
        }
        DaemonWork::AcceptStart {
            instance,
            incarnation,
            plan_hash,
        } => {
            session.start_accepted(instance, incarnation, plan_hash);
            None
        }
        DaemonWork::RejectStart {
            instance,
            incarnation,
            rejection,
        } => {
            session.start_rejected(instance, incarnation, rejection);
            None
        }
        DaemonWork::AcknowledgeStop {
            instance,
            incarnation,
            result,
        } => {
            session.stop_acknowledged(instance, incarnation, result);
            None
        }
        DaemonWork::AcknowledgeShutdown {
            running,
            estimated_drain,
        } => {
            session.acknowledge_shutdown(running, estimated_drain);
            None
        }
        work => Some(work),
    })
}

enum Next<E> {
    Event(Option<E>),
    Idle(ControlFlow<()>),
}

/// How a run ended
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// The handler had enough.
    ByHandler,
    /// The shutdown was asked for, and the handler has seen every event.
    ByShutdown,
    /// The shutdown was asked for, and the handler did not get through what was left in time.
    HandlerTooSlow,
}

/// Keeps a daemon's session connected, and gives its events to a handler
///
/// ```no_run
/// use std::ops::ControlFlow;
///
/// use prexorcloud_transport::protocol::fence::EpochFence;
/// use prexorcloud_transport::protocol::hosted::Hosted;
/// use prexorcloud_transport::protocol::{DaemonConfig, DaemonEvent, DaemonSession};
/// use prexorcloud_transport::security::enrolment::Enrolled;
/// use prexorcloud_transport::{DaemonRunner, Dialer, SessionHandle, SessionHandler};
///
/// struct Printer;
///
/// impl SessionHandler<DaemonSession> for Printer {
///     async fn handle_event(
///         &mut self,
///         _session: &SessionHandle<DaemonSession>,
///         event: DaemonEvent,
///     ) -> ControlFlow<()> {
///         println!("{event:?}");
///         ControlFlow::Continue(())
///     }
/// }
///
/// # async fn example(enrolled: Enrolled) -> Result<(), Box<dyn std::error::Error>> {
/// let config = DaemonConfig::new("node-1".parse()?, "1.0.0");
/// let session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
/// let runner = DaemonRunner::new(session, Dialer::of(&enrolled)?, ["controller.example:9090".parse()?])?;
/// let until = tokio::time::sleep(std::time::Duration::from_secs(60));
/// runner.run(&mut Printer, until).await;
/// # Ok(())
/// # }
/// ```
pub struct DaemonRunner {
    session: SessionHandle<DaemonSession>,
    dialer: Dialer,
    targets: Vec<Target>,
    backoff: Backoff,
    observe: Box<dyn FnMut(LinkEvent) + Send>,
    left_over: Duration,
}

impl fmt::Debug for DaemonRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonRunner")
            .field("session", &self.session)
            .field("targets", &self.targets)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

impl DaemonRunner {
    /// A runner that will dial these controllers in their order.
    ///
    /// # Errors
    /// [`NoTargets`] if there is none.
    pub fn new(
        session: DaemonSession,
        dialer: Dialer,
        targets: impl IntoIterator<Item = Target>,
    ) -> Result<Self, NoTargets> {
        let targets: Vec<_> = targets.into_iter().collect();
        if targets.is_empty() {
            return Err(NoTargets);
        }
        Ok(Self {
            session: SessionHandle::new(session),
            dialer,
            targets,
            backoff: Backoff::default(),
            observe: Box::new(|_| {}),
            left_over: LEFT_OVER,
        })
    }

    /// The session, for those of the application's tasks that the handler is not.
    #[must_use]
    pub fn session(&self) -> SessionHandle<DaemonSession> {
        self.session.clone()
    }

    /// How long to wait between attempts to connect. 1 s doubling to 60 s, drawn evenly from zero.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Hears what the link does, for the log; must not block.
    #[must_use]
    pub fn observe(mut self, observe: impl FnMut(LinkEvent) + Send + 'static) -> Self {
        self.observe = Box::new(observe);
        self
    }

    /// How long the handler may take for the events that are left at the shutdown. 10 s.
    #[must_use]
    pub fn left_over(mut self, limit: Duration) -> Self {
        self.left_over = limit;
        self
    }

    /// Runs until `shutdown` completes or the handler breaks off
    ///
    /// Either way the session is closed in order: what it still has to say leaves, within
    /// [twice the drain limit](crate::handle::DRAIN_LIMIT). Dropping the future ends the stream without that.
    pub async fn run<H: SessionHandler<DaemonSession>>(
        self,
        handler: &mut H,
        shutdown: impl Future<Output = ()>,
    ) -> RunEnd {
        // Cannot fail: there is a target.
        let Ok(reconnect) = Reconnect::new(self.backoff, self.targets) else {
            return RunEnd::ByShutdown;
        };
        let (enough, had_enough) = oneshot::channel::<()>();
        let end = async {
            tokio::select! {
                () = shutdown => {}
                _ = had_enough => {}
            }
        };
        let mut link = pin!(link::run(
            self.session.clone(),
            self.dialer,
            reconnect,
            self.observe,
            end,
        ));
        let mut serving = pin!(serve(&self.session, handler));
        tokio::select! {
            () = link.as_mut() => match timeout(self.left_over, serving).await {
                Ok(ControlFlow::Continue(())) => RunEnd::ByShutdown,
                Ok(ControlFlow::Break(())) => RunEnd::ByHandler,
                Err(_) => RunEnd::HandlerTooSlow,
            },
            _ = serving.as_mut() => {
                drop(enough);
                link.await;
                RunEnd::ByHandler
            }
        }
    }
}
