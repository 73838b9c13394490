//! A session with a handler: news in, actions out
//!
//! [`serve`] gives a [`SessionHandler`] the events of one session, on either side. [`DaemonRunner`] does so for a daemon's
//! session while it keeps that connected: dialling, back-off, redirects and the end in order are [`link`]'s.

use std::fmt;
use std::future::{Future, pending};
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use prexorcloud_protocol::{DaemonSession, Deadline, Session};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use crate::client::{Dialer, Target};
use crate::handle::SessionHandle;
use crate::link::{self, LinkEvent};
use crate::reconnect::{Backoff, NoTargets, Reconnect};

/// How long a handler may take for the events that were left at the shutdown.
const LEFT_OVER: Duration = Duration::from_secs(10);

/// An application around a session
///
/// It acts through [`SessionHandle::with`], which never waits for the network. The stream has a task of its own: while a
/// handler is busy with one event, pings are answered, and messages arrive until too many wait. Do not block the thread.
///
/// There is no error to return: a handler that cannot go on breaks off, and says why in its
/// [`End`](SessionHandler::End).
pub trait SessionHandler<S: Session + Send>: Send {
    /// What it breaks off with; `()` if there is nothing to say.
    type End: Send;

    /// Something happened. Events come in order, one at a time.
    fn handle_event(
        &mut self,
        session: &SessionHandle<S>,
        event: S::Event,
    ) -> impl Future<Output = ControlFlow<Self::End>> + Send;

    /// Waits for what the application has to do by itself (a timer, the end of a process), and does it
    ///
    /// Polled while no event is there and dropped when one comes, so it must do its waiting first and act without an
    /// await behind it. It is asked again after each event, and after itself. Without an implementation it waits for ever.
    /// [`due`] waits for the deadline of a machine.
    fn idle(&mut self, session: &SessionHandle<S>) -> impl Future<Output = ControlFlow<Self::End>> + Send {
        let _ = session;
        pending()
    }
}

/// Gives a handler the events of a session until it breaks off, or nothing will come any more
///
/// A controller whose nodes have nothing to do with each other does this on a task of its own for each
/// [attached](crate::NodeAcceptor::attach) stream.
pub async fn serve<S, H>(session: &SessionHandle<S>, handler: &mut H) -> ControlFlow<H::End>
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

/// Waits for a machine's deadline, and for ever where it has none. Cancel safe.
pub async fn due<T>(deadline: Option<Deadline<T>>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.at.into()).await,
        None => pending().await,
    }
}

enum Next<E, B> {
    Event(Option<E>),
    Idle(ControlFlow<B>),
}

/// How a run ended
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd<E = ()> {
    /// The handler broke off with this.
    ByHandler(E),
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
///     type End = ();
///
///     async fn handle_event(
///         &mut self,
///         session: &SessionHandle<DaemonSession>,
///         event: DaemonEvent,
///     ) -> ControlFlow<()> {
///         println!("{event:?}");
///         // Commands wait until the epoch of their controller is written down; here nothing outlives the process.
///         if let DaemonEvent::FenceRaised(epoch) = event {
///             session.with(|session, _| session.fence_written(epoch));
///         }
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
    ///
    /// # Panics
    /// Where the closure given to [`observe`](Self::observe) does.
    pub async fn run<H: SessionHandler<DaemonSession>>(
        self,
        handler: &mut H,
        shutdown: impl Future<Output = ()>,
    ) -> RunEnd<H::End> {
        // Cannot fail: there is a target.
        let Ok(reconnect) = Reconnect::new(self.backoff, self.targets) else {
            return RunEnd::ByShutdown;
        };
        let (goes_on, over) = oneshot::channel::<()>();
        let over = async move { drop(over.await) };
        let link = link::run(self.session.clone(), self.dialer, reconnect, self.observe, over);
        // On a task of its own, so that pings are answered whatever the handler does.
        let mut link = Link(tokio::spawn(link));
        let mut goes_on = Some(goes_on);
        let mut shutdown = pin!(shutdown);
        let mut serving = pin!(serve(&self.session, handler));
        let flow = loop {
            tokio::select! {
                () = shutdown.as_mut(), if goes_on.is_some() => goes_on = None,
                () = link.ended() => match timeout(self.left_over, serving).await {
                    Ok(flow) => break flow,
                    Err(_) => return RunEnd::HandlerTooSlow,
                },
                flow = serving.as_mut() => {
                    goes_on = None;
                    link.ended().await;
                    break flow;
                }
            }
        };
        drop(goes_on);
        match flow {
            ControlFlow::Continue(()) => RunEnd::ByShutdown,
            ControlFlow::Break(end) => RunEnd::ByHandler(end),
        }
    }
}

/// The link's task, which ends with the future that started it
struct Link(JoinHandle<()>);

impl Link {
    /// Asked once.
    async fn ended(&mut self) {
        if let Err(error) = (&mut self.0).await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}
