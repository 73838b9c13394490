//! The life of one instance after its process was started
//!
//! ```text
//!            ready                 stop, or too old
//! Starting ─────────> Running ───────────────────────> Stopping ──> (exit)
//!     │ not ready in time, or stop                        ▲  stop word, grace, SIGTERM, kill timeout, SIGKILL
//!     └───────────────────────────────────────────────────┘
//! ```
//!
//! From every state the process may end by itself. Deadlines are wall-clock times counted from the records on disk, so
//! that a daemon that starts again goes on with them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prexorcloud_protocol::node::daemon::is_crash;
use prexorcloud_protocol::readiness::Evidence;
use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::feed::Feed;
use super::notices::Notices;
use super::readiness::{Readiness, Seen};
use super::record::{InstanceFacts, Mark, StopReason, StopRecord};
use super::remark::remark;
use super::stdin::{CommandError, write_command};
use super::watched::Watched;
use super::{Event, Exit, Inner};
use crate::console::{MAX_TAIL_LINES, tail};
use crate::control::{ControlDir, ExitCause, ExitRecord, RunningRecord};
use crate::durable::{is_damage, own};
use crate::process::{End, holders, kill_tree};
use crate::wall_clock::now_ms;

/// How long the exit record may take after the process has ended: the shim syncs one file, on a disk that may be slow
const EXIT_RECORD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a shim that lives may write nothing before it is looked at whether it can
const SHIM_SLEEPS: Duration = Duration::from_secs(1);

/// How often the exit record is looked for
const LOOK_FOR_EXIT: Duration = Duration::from_millis(50);

/// How long the end of an instance is held back so that its last lines go out first
const DRAIN_BEFORE_EXIT: Duration = Duration::from_millis(500);

/// The pause before an instance is looked at again whose console could not be read when its time to start was over
const UNSEEN: Duration = Duration::from_secs(1);

/// How soon something is tried again that only a lack of descriptors, or the like, prevented
const RETRY: Duration = Duration::from_millis(250);

/// How often SIGKILL is repeated for a process that does not go
const KILL_INTERVAL: Duration = Duration::from_secs(5);

/// What the task of an instance is told
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    Stop {
        force: bool,
    },
    /// The plugin inside of the instance says that it is ready
    PluginReady,
    /// The end was taken over by the application
    Settled,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Starting { until: Instant },
    Running,
    Stopping { reason: StopReason, step: Step },
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The stop word could not be written, through no fault of the instance
    Unasked { until: Instant, again: Instant },
    /// The stop word was written
    Grace { until: Instant },
    /// SIGTERM was sent
    Terminated { until: Instant },
    /// SIGKILL was sent
    Killed { again: Instant },
}

/// Why the watch over a process is over
#[derive(Clone, Copy, Debug)]
enum Ended {
    /// The process is gone; why it was stopped, if it was
    Gone(Option<StopReason>),
    /// The supervisor is gone: instances outlive it
    Detached,
}

/// Where in its life an instance is found after a restart of the daemon
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is not known to be ready
    Starting,
    /// It was ready
    Running,
    /// It was told to stop
    Stopping,
}

pub(super) struct Instance {
    pub(super) inner: Arc<Inner>,
    pub(super) facts: InstanceFacts,
    pub(super) control: ControlDir,
    pub(super) running: RunningRecord,
    pub(super) orders: mpsc::UnboundedReceiver<Instruction>,
    /// Its end was taken over already: only its console may still be wanted
    pub(super) is_settled: bool,
    /// What it was last waiting for on its way to ready
    pub(super) awaited: Option<String>,
}

impl Instance {
    /// Runs from the start, or from where a former daemon left off, until everything about the instance is done
    pub(super) async fn run(mut self) {
        let (ended, is_ended) = watch::channel(false);
        let (handed_over, console) = oneshot::channel();
        let (instance, incarnation) = (self.facts.instance, self.facts.incarnation);
        let nameless = Arc::new(OnceLock::new());
        let feed = Feed {
            nameless: Arc::clone(&nameless),
            control: self.control.clone(),
            instance,
            incarnation,
            watcher: self.inner.watcher.clone(),
            flow: self.inner.flow.subscribe(),
            ended: is_ended,
            batches: self.inner.batches.clone(),
            retention: self.inner.settings.retention,
            arrivals: self.inner.arrivals.listen(instance, incarnation),
            shortage: self.inner.shortage.clone(),
            handed_over: Some(handed_over),
            notices: Notices::default(),
            arrived: 0,
            waits_since: None,
        };
        let feed = tokio::spawn(
            self.inner
                .vital
                .guard(format!("the console of {instance}"), feed.run()),
        );
        let stopped_for = match self.until_exit().await {
            Ended::Gone(stopped_for) => stopped_for,
            Ended::Detached => {
                feed.abort();
                return;
            }
        };
        let exit = self.exit_record().await;
        if exit.cause == ExitCause::Unobserved {
            self.end_orphans().await;
        }
        let code = exit.cause.code();
        let has_crashed = code != 0 || is_crash(stopped_for.map(Into::into), code);
        ended.send_replace(true);
        let _ = tokio::time::timeout(DRAIN_BEFORE_EXIT, console).await;
        if !self.is_settled {
            self.report(exit, stopped_for, nameless.get()).await;
            loop {
                match self.orders.recv().await {
                    Some(Instruction::Settled) => break,
                    Some(Instruction::Stop { .. } | Instruction::PluginReady) => {}
                    None => {
                        feed.abort();
                        return;
                    }
                }
            }
            if let Err(error) = Mark::Settled.set(&self.control) {
                let instance = self.facts.instance;
                tracing::warn!(%instance, %error, "cannot note that the end was reported");
            }
            self.inner.retire(&self.facts, &self.control);
            self.inner
                .tell(Event::Settled {
                    instance: self.facts.instance,
                    incarnation: self.facts.incarnation,
                })
                .await;
        }
        self.inner.retire(&self.facts, &self.control);
        if !feed.is_finished() {
            let _ = feed.await;
        }
        self.inner.clean_up(&self.facts, &self.control, has_crashed).await;
    }

    /// Waits until the process is gone, carrying out orders and deadlines; returns why it was stopped, if it was
    async fn until_exit(&mut self) -> Ended {
        let mut process = Watched::new(self.running.main.clone());
        let mut phase = self.resume(&process);
        let mut readiness = Readiness::of(&self.facts, &self.control);
        loop {
            let deadline = self.deadline(phase);
            let starting = matches!(phase, Phase::Starting { .. });
            tokio::select! {
                // An end that is there already comes before everything else.
                biased;
                () = process.gone() => break,
                order = self.orders.recv() => {
                    if let Some(Instruction::Stop { force }) = order {
                        phase = self.stop(phase, StopReason::Requested, force, &process).await;
                    } else if order == Some(Instruction::PluginReady) && starting {
                        phase = self.ready(Evidence::Plugin).await;
                    } else if order.is_none() {
                        return Ended::Detached;
                    }
                }
                seen = readiness.next(self.inner.watcher.as_ref()), if starting => match seen {
                    Seen::Ready(evidence) => phase = self.ready(evidence).await,
                    Seen::Waiting(waiting) => self.tell_waiting(waiting).await,
                },
                () = sleep_until(deadline) => phase = self.overdue(phase, &mut readiness, &process).await,
            }
        }
        self.awaited = readiness.waiting().map(str::to_owned);
        Ended::Gone(match phase {
            Phase::Stopping { reason, .. } => Some(reason),
            Phase::Starting { .. } | Phase::Running => None,
        })
    }

    fn recorded_stop(&self) -> Option<StopRecord> {
        StopRecord::read(&self.control).unwrap_or_else(|error| {
            let instance = self.facts.instance;
            tracing::warn!(%instance, %error, "cannot read the stop record");
            None
        })
    }

    /// The phase that the records tell
    fn resume(&self, process: &Watched) -> Phase {
        if let Some(stop) = self.recorded_stop() {
            let step = if stop.force {
                self.kill(process)
            } else {
                Step::Grace {
                    until: after(stop.at_ms, self.facts.grace),
                }
            };
            return Phase::Stopping {
                reason: stop.reason,
                step,
            };
        }
        if matches!(Mark::Ready.is_set(&self.control), Ok(true)) {
            return Phase::Running;
        }
        Phase::Starting {
            until: after(self.running.started_at_ms, self.facts.startup_timeout),
        }
    }

    fn deadline(&self, phase: Phase) -> Instant {
        let lifetime = || match self.facts.max_lifetime {
            Some(lifetime) => after(self.running.started_at_ms, lifetime),
            None => Instant::now() + Duration::from_secs(86_400),
        };
        match phase {
            Phase::Starting { until } => until.min(lifetime()),
            Phase::Running => lifetime(),
            Phase::Stopping { step, .. } => match step {
                Step::Unasked { until, again } => again.min(until),
                Step::Grace { until } | Step::Terminated { until } => until,
                Step::Killed { again } => again,
            },
        }
    }

    async fn tell_waiting(&self, waiting: String) {
        self.inner
            .tell(Event::Waiting {
                instance: self.facts.instance,
                incarnation: self.facts.incarnation,
                waiting,
            })
            .await;
    }

    async fn ready(&self, evidence: Evidence) -> Phase {
        let instance = self.facts.instance;
        tracing::info!(%instance, "ready, as {evidence} shows");
        if let Err(error) = Mark::Ready.set(&self.control) {
            tracing::warn!(%instance, %error, "cannot note that the instance was ready");
        }
        self.inner
            .tell(Event::Ready {
                instance: self.facts.instance,
                incarnation: self.facts.incarnation,
            })
            .await;
        Phase::Running
    }

    async fn overdue(&self, phase: Phase, readiness: &mut Readiness, process: &Watched) -> Phase {
        match phase {
            Phase::Starting { until } if until <= Instant::now() => {
                // The deadline is about the instance, and not about how soon somebody looked at it.
                match readiness.by_now().await {
                    Ok(Some(evidence)) => self.ready(evidence).await,
                    Ok(None) => self.stop(phase, StopReason::StartupTimeout, false, process).await,
                    Err(error) => {
                        let instance = self.facts.instance;
                        tracing::warn!(%instance, %error, "whether the instance is ready cannot be seen now, and is looked at again");
                        Phase::Starting {
                            until: Instant::now() + UNSEEN,
                        }
                    }
                }
            }
            Phase::Starting { .. } | Phase::Running => {
                let Some(lifetime) = self.facts.max_lifetime else {
                    return phase;
                };
                if after(self.running.started_at_ms, lifetime) > Instant::now() {
                    return phase;
                }
                let allowed = lifetime.as_secs_f64();
                self.remark(&format!(
                    "stopped, since it has run for the {allowed} s that it may run"
                ));
                self.stop(phase, StopReason::LifetimeOver, false, process).await
            }
            Phase::Stopping { reason, step } => Phase::Stopping {
                reason,
                step: match step {
                    Step::Unasked { until, .. } if until > Instant::now() => self.ask(until, process),
                    Step::Unasked { .. } | Step::Grace { .. } => {
                        let step = self.terminate(process);
                        if matches!(step, Step::Terminated { .. }) {
                            let grace = self.facts.grace.as_secs_f64();
                            self.remark(&format!("told to stop {grace} s ago and not ended: terminated"));
                        }
                        step
                    }
                    Step::Terminated { .. } => {
                        let waited = self.inner.settings.kill_timeout.as_secs_f64();
                        self.remark(&format!("terminated {waited} s ago and not ended: killed"));
                        self.kill(process)
                    }
                    Step::Killed { .. } => self.kill(process),
                },
            },
        }
    }

    async fn stop(&self, phase: Phase, reason: StopReason, force: bool, process: &Watched) -> Phase {
        let reason = match phase {
            // The first reason decides whether the end is a crash.
            Phase::Stopping { reason, step } if !force || matches!(step, Step::Killed { .. }) => {
                return Phase::Stopping { reason, step };
            }
            Phase::Stopping { reason, .. } => reason,
            Phase::Starting { .. } | Phase::Running => reason,
        };
        let record = StopRecord {
            reason,
            force,
            at_ms: now_ms(),
        };
        if let Err(error) = record.write(&self.control) {
            let instance = self.facts.instance;
            tracing::warn!(%instance, %error, "cannot note that the instance is being stopped");
        }
        if !matches!(phase, Phase::Stopping { .. }) {
            self.inner
                .tell(Event::Stopping {
                    instance: self.facts.instance,
                    incarnation: self.facts.incarnation,
                    reason,
                })
                .await;
        }
        let step = if force {
            self.kill(process)
        } else {
            self.ask(Instant::now() + self.facts.grace, process)
        };
        Phase::Stopping { reason, step }
    }

    fn remark(&self, text: &str) {
        remark(&self.control, self.facts.instance, text);
    }

    /// Writes the stop word, or begins the next step if the instance cannot be asked
    fn ask(&self, until: Instant, process: &Watched) -> Step {
        let instance = self.facts.instance;
        match write_command(&self.control, &self.facts.stop_command) {
            Ok(()) => Step::Grace { until },
            // Not its fault: it keeps its grace, and hears the word as soon as that is possible.
            Err(CommandError::Io(error)) => {
                tracing::warn!(%instance, %error, "cannot ask the instance to stop now, trying again");
                Step::Unasked {
                    until,
                    again: Instant::now() + RETRY,
                }
            }
            Err(error) => {
                tracing::warn!(%instance, %error, "cannot ask the instance to stop, terminating it");
                self.terminate(process)
            }
        }
    }

    fn terminate(&self, process: &Watched) -> Step {
        let instance = self.facts.instance;
        tracing::info!(%instance, "sending SIGTERM");
        match process.signal(Signal::TERM) {
            Ok(()) => Step::Terminated {
                until: Instant::now() + self.inner.settings.kill_timeout,
            },
            // Without a SIGTERM there is no SIGKILL either.
            Err(error) => {
                tracing::warn!(%instance, %error, "SIGTERM failed, trying again");
                Step::Grace {
                    until: Instant::now() + RETRY,
                }
            }
        }
    }

    /// Kills the process and everything that it started; the shim does the same once the process is gone
    fn kill(&self, process: &Watched) -> Step {
        let instance = self.facts.instance;
        tracing::info!(%instance, "sending SIGKILL");
        let again = match process.kill() {
            Ok(()) => KILL_INTERVAL,
            Err(error) => {
                tracing::warn!(%instance, %error, "SIGKILL failed, trying again");
                RETRY
            }
        };
        Step::Killed {
            again: Instant::now() + again,
        }
    }

    /// What the shim saw; if there is no shim any more, that nobody saw it
    async fn exit_record(&self) -> ExitRecord {
        let instance = self.facts.instance;
        let begun = Instant::now();
        let deadline = begun + EXIT_RECORD_TIMEOUT;
        let mut pause = Duration::from_millis(1);
        let mut has_complained = false;
        loop {
            // Asked first: a shim that is gone has written all that it ever will.
            let shim_lives = self.control.try_lock().map(|lock| lock.is_none());
            let (shim_lives, trouble) = match (shim_lives, self.control.read_exit()) {
                (_, Ok(Some(exit))) => return exit,
                (Ok(shim_lives), Ok(None)) => (shim_lives, None),
                (Ok(shim_lives), Err(error)) if is_damage(&error) => (shim_lives, Some((error, true))),
                (Err(error), _) | (_, Err(error)) => (true, Some((error, false))),
            };
            let can_tell = trouble.as_ref().is_none_or(|(_, is_damage)| *is_damage);
            if let Some((error, _)) = trouble
                && !has_complained
            {
                tracing::warn!(%instance, %error, "cannot read the exit record");
                has_complained = true;
            }
            // What the kernel keeps for the shim is as good as what the shim would write of it.
            if shim_lives
                && begun.elapsed() > SHIM_SLEEPS
                && let Some(cause) = self.wake_shim()
            {
                return self.record_end(cause);
            }
            // What cannot be read now says nothing, however long that takes.
            if can_tell && (!shim_lives || Instant::now() > deadline) {
                tracing::warn!(%instance, shim_lives, "nobody saw how the instance ended");
                return self.record_end(ExitCause::Unobserved);
            }
            sleep(pause).await;
            pause = (pause * 2).min(if can_tell { LOOK_FOR_EXIT } else { RETRY });
        }
    }

    /// Lets a shim go on that was stopped; what the kernel tells of the end if it is stopped all the same
    fn wake_shim(&self) -> Option<ExitCause> {
        let instance = self.facts.instance;
        match self.running.shim.resume() {
            Ok(true) => tracing::warn!(%instance, pid = self.running.shim.pid,
                "the shim of an instance that has ended was stopped by a signal; it goes on"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%instance, %error, "cannot wake the shim"),
        }
        match self.running.main.unreaped_end() {
            Ok(end) => end.map(|end| match end {
                End::Exited(code) => ExitCause::Exited(code),
                End::Signalled(signal) => ExitCause::Signalled(signal),
            }),
            Err(error) => {
                tracing::debug!(%instance, %error, "cannot look at the process that has ended");
                None
            }
        }
    }

    fn record_end(&self, cause: ExitCause) -> ExitRecord {
        let exit = ExitRecord {
            cause,
            exited_at_ms: now_ms(),
        };
        if let Err(error) = self.control.write_exit(&exit) {
            let instance = self.facts.instance;
            tracing::warn!(%instance, %error, "cannot write the exit record");
        }
        exit
    }

    /// Kills what an instance left behind whose shim is gone or does nothing; a shim does this by itself
    async fn end_orphans(&self) {
        let (control, instance) = (self.control.clone(), self.facts.instance);
        let shim = self.running.shim.clone();
        // Looks at every process of the machine: not where sessions are served.
        let work = tokio::task::spawn_blocking(move || -> io::Result<usize> {
            kill_tree(&shim, true)?;
            let orphans = holders(&control.stdin(), &control.console_log())?;
            for orphan in &orphans {
                kill_tree(orphan, true)?;
            }
            Ok(orphans.len())
        });
        match work.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(count)) => {
                tracing::warn!(%instance, count, "killed processes that outlived their instance")
            }
            Ok(Err(error)) => {
                tracing::warn!(%instance, %error, "cannot look for processes that outlived their instance");
            }
        }
    }

    async fn report(&self, exit: ExitRecord, stopped_for: Option<StopReason>, nameless: Option<&File>) {
        let log = nameless.map_or_else(|| self.control.console_log(), |log| own(log.as_fd()));
        let mut lines = match tail(&log, MAX_TAIL_LINES) {
            Ok(lines) => lines,
            Err(error) => vec![format!("[prexorcloud] the console log cannot be read: {error}")],
        };
        // The protocol's own last line says how long it was given.
        if let Some(awaited) = &self.awaited
            && stopped_for == Some(StopReason::StartupTimeout)
        {
            lines.push(format!("[prexorcloud] {awaited}"));
        }
        let uptime_ms = exit.exited_at_ms.saturating_sub(self.running.started_at_ms);
        self.inner
            .tell(Event::Exited(Box::new(Exit {
                instance: self.facts.instance,
                group: self.facts.group,
                incarnation: self.facts.incarnation,
                port: self.facts.port,
                cause: exit.cause,
                stopped_for,
                uptime: Duration::from_millis(u64::try_from(uptime_ms).unwrap_or(0)),
                started_at_ms: self.running.started_at_ms,
                exited_at_ms: exit.exited_at_ms,
                log_tail: lines,
            })))
            .await;
    }
}

/// The moment that is `duration` after the wall-clock time `from_ms`; now, if that has passed
fn after(from_ms: i64, duration: Duration) -> Instant {
    let elapsed = now_ms().saturating_sub(from_ms);
    // A clock that went back must not make a deadline later than it was meant.
    let elapsed = Duration::from_millis(u64::try_from(elapsed).unwrap_or(0));
    Instant::now() + duration.saturating_sub(elapsed)
}
