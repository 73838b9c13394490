//! The process that hosts one module: a JVM of its own, since a jar cannot run inside of this program
//!
//! [`machine`] decides, and has the drawing; this carries it out. The lines between both are in [`mod@line`], and described for authors of
//! modules in `docs/module-host.md`. Events that a host does not take in time are left out, and it is told how many.

mod console;
mod inbox;
pub mod line;
pub mod machine;
mod pipe;
mod process;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStderr, ChildStdin};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use console::Console;
use inbox::{Event, Given, Inbox};
use line::Told;
use machine::{Greeting, HostMachine, ModuleState, Patience, Report, Work};
use pipe::{Lines, Piece};
use process::Process;

use crate::control::LaunchSpec;
use crate::supervisor::ShimCommand;

pub use console::FILE as CONSOLE_FILE;
pub use process::end_leftover;

/// Bytes that wait for a host to read them; one event may stand above it
const BACKLOG: usize = 4 * 1024 * 1024;

/// How long what was written before the end is read after it
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a shim may take to end what it has started
const CUT_WITHIN: Duration = Duration::from_secs(10);

/// Letters of its last line that a failure quotes
const QUOTED: usize = 300;

/// What is to run, where, and for how long it is waited for
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// How shims are started
    pub shim: ShimCommand,
    /// The folder of this module's host, for its console and its records
    pub folder: PathBuf,
    /// The program
    pub spec: LaunchSpec,
    /// Bytes of writable memory of its own that each of its processes may have
    pub memory: Option<u64>,
    /// Whom it is for
    pub greeting: Greeting,
    /// The times and bounds
    pub patience: Patience,
    /// Whether this version has worked before
    pub proven: bool,
}

/// What becomes of a host
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The module is in this state
    State(Report),
    /// It listens to these types, and to no others
    Listen(BTreeSet<String>),
}

/// Called with what becomes of a host, in order; it must not wait
pub type Tell = Arc<dyn Fn(News) + Send + Sync>;

/// A host; dropping it stops it, too
pub struct Host {
    events: Arc<Inbox>,
    /// How much of what it was given is with the process, or never will be
    taken: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    settled: watch::Receiver<Option<Report>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    /// Starts it, on the tokio runtime that this is called in
    ///
    /// # Errors
    /// Its folder cannot be used.
    pub fn start(settings: HostSettings, tell: Tell) -> io::Result<Self> {
        let console = Console::open(&settings.folder, &settings.greeting.module)?;
        let events = Arc::new(Inbox::default());
        let (stop, stopped) = watch::channel(false);
        let (settle, settled) = watch::channel(None);
        let (take, taken) = watch::channel(0);
        let now = Instant::now();
        let driver = Driver {
            machine: HostMachine::new(
                now,
                settings.greeting.clone(),
                settings.patience.clone(),
                settings.proven,
            ),
            console: Arc::new(Mutex::new(console)),
            last_line: Arc::default(),
            settings,
            tell,
            settle,
            missed: 0,
            take,
            process: None,
            outbox: VecDeque::new(),
            waiting: 0,
            cut_until: None,
            errors: None,
        };
        tokio::spawn(driver.run(Arc::clone(&events), stopped));
        Ok(Self {
            events,
            taken,
            stop,
            settled,
        })
    }

    /// Gives it an event with its number, 0 for none; one that there is no room for is counted
    pub fn event(&self, event_type: &str, payload: Bytes, sequence: u64) {
        self.events.put(Event {
            event_type: event_type.to_owned(),
            payload,
            sequence,
        });
    }

    /// Tells it that so many events will never come
    pub fn lose(&self, events: u64) {
        self.events.lose(events);
    }

    /// How much it was given
    pub(crate) fn given(&self) -> u64 {
        self.events.given()
    }

    /// Waits until as much as that was written to its process, or never will be
    pub(crate) async fn has_taken(&self, given: u64) {
        // A host that has ended takes nothing any more.
        let _ = self.taken.clone().wait_for(|taken| *taken >= given).await;
    }

    /// Waits until it works, waits or has failed for the first time
    pub async fn settled(&self) -> Report {
        let mut settled = self.settled.clone();
        let found = settled
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|found| found.clone());
        found.unwrap_or_else(|| Report {
            state: ModuleState::Failed,
            error: "its host was given up by the daemon".to_owned(),
        })
    }

    /// Stops it, and waits until nothing of it runs
    pub async fn stop(&self) {
        // One that is over does not listen.
        let _ = self.stop.send(true);
        let mut settled = self.settled.clone();
        // The sender goes with the task.
        while settled.changed().await.is_ok() {}
    }
}

struct Driver {
    settings: HostSettings,
    machine: HostMachine,
    console: Arc<Mutex<Console>>,
    last_line: Arc<Mutex<String>>,
    tell: Tell,
    settle: watch::Sender<Option<Report>>,
    /// Events of which its process is to be told that they are missing
    missed: u64,
    take: watch::Sender<u64>,
    process: Option<Process>,
    outbox: VecDeque<Outgoing>,
    waiting: usize,
    /// When a shim that was told to end everything has to be done with it
    cut_until: Option<Instant>,
    /// Reads standard error
    errors: Option<JoinHandle<()>>,
}

/// A line, or the rest of it
struct Outgoing {
    bytes: Bytes,
    is_event: bool,
}

enum Step {
    Line(Option<Piece>),
    Written(io::Result<usize>),
    Exited,
    Event(Given),
    Stop,
    Time,
}

impl Driver {
    async fn run(mut self, events: Arc<Inbox>, mut stop: watch::Receiver<bool>) {
        let mut is_stopping = false;
        loop {
            self.machine.handle_timeout(Instant::now());
            while let Some(work) = self.machine.poll_work() {
                self.perform(work).await;
            }
            if self.machine.is_over() && self.process.is_none() {
                return;
            }
            match self.step(&events, &mut stop, is_stopping).await {
                Step::Line(Some(Piece::Line(line))) => self.machine.handle_line(Instant::now(), &line),
                Step::Line(Some(Piece::Overlong(_))) => self.machine.handle_overlong(),
                Step::Line(None) => {
                    // What has closed it on purpose is as good as ended: nobody would hear of it.
                    if let Some(process) = &mut self.process {
                        process.cut();
                        self.cut_until = Some(Instant::now() + CUT_WITHIN);
                    }
                }
                Step::Written(Ok(count)) => self.written(count),
                Step::Written(Err(_)) => {
                    // It does not read any more; how it ends is what counts.
                    if let Some(process) = &mut self.process {
                        process.stdin = None;
                    }
                }
                Step::Exited => self.exited().await,
                Step::Event(given) => self.given(given),
                Step::Stop => {
                    is_stopping = true;
                    self.machine.handle_stop(Instant::now());
                }
                Step::Time => {
                    if self.cut_until.is_some_and(|until| until <= Instant::now()) {
                        self.cut_until = None;
                        if let Some(process) = &mut self.process {
                            process.kill();
                        }
                    }
                }
            }
        }
    }

    async fn step(&mut self, events: &Inbox, stop: &mut watch::Receiver<bool>, is_stopping: bool) -> Step {
        let due = [self.machine.poll_timeout(), self.cut_until]
            .into_iter()
            .flatten()
            .min();
        let (mut stdin, mut stdout, mut child) = (None, None, None);
        if let Some(process) = &mut self.process {
            stdin = process.stdin.as_mut();
            stdout = process.stdout.as_mut();
            child = Some(&mut process.child);
        }
        tokio::select! {
            piece = async { match stdout {
                Some(lines) => lines.next().await,
                None => std::future::pending().await,
            } } => Step::Line(piece),
            written = write(stdin, self.outbox.front().map(|line| &line.bytes)) => Step::Written(written),
            _ = async { match child {
                Some(child) => child.wait().await.map(drop),
                None => std::future::pending().await,
            } } => Step::Exited,
            given = events.next() => Step::Event(given),
            // Whoever has dropped the host wants it to end.
            _ = stop.wait_for(|is_wanted| *is_wanted), if !is_stopping => Step::Stop,
            () = async { match due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            } } => Step::Time,
        }
    }

    async fn perform(&mut self, work: Work) {
        match work {
            Work::Launch => self.launch().await,
            Work::Write(line) => self.push(line, false),
            Work::Kill => {
                if let Some(process) = &mut self.process {
                    process.cut();
                    self.cut_until = Some(Instant::now() + CUT_WITHIN);
                }
            }
            Work::Report(report) => {
                let module = &self.settings.greeting.module;
                match report.state {
                    ModuleState::Failed => tracing::error!(module, "the module has failed: {}", report.error),
                    state => tracing::info!(module, why = report.error, "the module is {}", state.word()),
                }
                let is_settled = matches!(
                    report.state,
                    ModuleState::Active | ModuleState::Waiting | ModuleState::Failed
                );
                (self.tell)(News::State(report.clone()));
                if is_settled {
                    self.settle.send_if_modified(|settled| {
                        let is_first = settled.is_none();
                        settled.get_or_insert(report);
                        is_first
                    });
                }
            }
            Work::Log { level, message } => {
                let level = level.to_ascii_uppercase();
                let level = ["ERROR", "WARN", "DEBUG", "TRACE"]
                    .into_iter()
                    .find(|known| *known == level)
                    .unwrap_or("INFO");
                let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
                for line in message.lines() {
                    console.line(Instant::now(), level, line);
                }
            }
            Work::Complain(text) => {
                let module = &self.settings.greeting.module;
                tracing::warn!(module, "the module {text}");
                let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
                console.line(Instant::now(), "WARN", &format!("daemon: {text}"));
            }
            Work::Listen(types) => (self.tell)(News::Listen(types)),
        }
    }

    async fn launch(&mut self) {
        // What the process before has not read is missing.
        let unread = self.outbox.drain(..).filter(|line| line.is_event).count() as u64;
        self.missed = self.missed.saturating_add(unread);
        self.taken(unread);
        self.waiting = 0;
        let HostSettings {
            shim,
            folder,
            spec,
            memory,
            ..
        } = &self.settings;
        let started = Process::start(shim, folder, spec, *memory).await;
        match started {
            Ok(mut process) => {
                if let Some(stderr) = process.stderr.take() {
                    let (console, last) = (Arc::clone(&self.console), Arc::clone(&self.last_line));
                    self.errors = Some(tokio::spawn(keep_errors(stderr, console, last)));
                }
                self.process = Some(process);
                self.machine.handle_launched(Instant::now());
            }
            Err(error) => self
                .machine
                .handle_launch_failed(Instant::now(), &error.to_string()),
        }
    }

    fn given(&mut self, given: Given) {
        if given.missed > 0 {
            self.missed = self.missed.saturating_add(given.missed);
            self.taken(1);
        }
        match given.event {
            Some(event) => self.event(&event),
            None if self.machine.is_listening() => self.tell_gap(),
            None => {}
        }
    }

    fn event(&mut self, event: &Event) {
        let has_room =
            self.machine.is_listening() && event.payload.len() <= line::MAX_PAYLOAD && self.waiting < BACKLOG;
        let line = has_room.then(|| line::event(&event.event_type, &event.payload, event.sequence));
        let Some(line) = line.flatten() else {
            // Its place shows that it was there.
            self.missed = self.missed.saturating_add(1);
            return self.taken(1);
        };
        self.tell_gap();
        self.push(line, true);
    }

    fn tell_gap(&mut self) {
        let missed = std::mem::take(&mut self.missed);
        if missed > 0 {
            self.push(Told::Gap { missed }.line(), false);
        }
    }

    fn taken(&self, events: u64) {
        self.take.send_modify(|taken| *taken += events);
    }

    fn push(&mut self, line: String, is_event: bool) {
        self.waiting += line.len();
        self.outbox.push_back(Outgoing {
            bytes: line.into(),
            is_event,
        });
    }

    fn written(&mut self, count: usize) {
        self.waiting = self.waiting.saturating_sub(count);
        let Some(first) = self.outbox.front_mut() else {
            return;
        };
        if count < first.bytes.len() {
            let _ = first.bytes.split_to(count);
            return;
        }
        let was_event = self.outbox.pop_front().is_some_and(|line| line.is_event);
        self.taken(u64::from(was_event));
    }

    async fn exited(&mut self) {
        self.cut_until = None;
        let Some(mut process) = self.process.take() else {
            return;
        };
        if let Some(mut lines) = process.stdout.take() {
            let machine = &mut self.machine;
            let rest = async {
                while let Some(piece) = lines.next().await {
                    match piece {
                        Piece::Line(line) => machine.handle_line(Instant::now(), &line),
                        Piece::Overlong(_) => machine.handle_overlong(),
                    }
                }
            };
            // Longer only if something holds it open that the shim could not end.
            let _ = timeout(LAST_WORDS, rest).await;
        }
        let mut how = process.how();
        if let Some(errors) = self.errors.take() {
            let _ = timeout(LAST_WORDS, errors).await;
        }
        let last = std::mem::take(&mut *self.last_line.lock().unwrap_or_else(PoisonError::into_inner));
        if !last.is_empty() {
            let last: String = last.chars().take(QUOTED).collect();
            how = format!("{how}; it said at last: {last}");
        }
        self.machine.handle_exited(Instant::now(), &how);
    }
}

async fn write(stdin: Option<&mut ChildStdin>, line: Option<&Bytes>) -> io::Result<usize> {
    match (stdin, line) {
        (Some(stdin), Some(line)) => stdin.write(line).await,
        _ => std::future::pending().await,
    }
}

/// Keeps what a host writes to standard error
async fn keep_errors(stderr: ChildStderr, console: Arc<Mutex<Console>>, last: Arc<Mutex<String>>) {
    let mut lines = Lines::new(stderr, console::MAX_LINE);
    while let Some(piece) = lines.next().await {
        let (Piece::Line(line) | Piece::Overlong(line)) = piece;
        let text = String::from_utf8_lossy(&line);
        console
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .line(Instant::now(), "INFO", &text);
        if !text.trim().is_empty() {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = console::printable(&text);
        }
    }
}
