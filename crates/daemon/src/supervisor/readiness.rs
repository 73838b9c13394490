//! When an instance is ready: what its console and its port show, told to the judge of its rule

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use prexorcloud_protocol::readiness::{Evidence, Eyes, Judge, Rule, Verdict};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::record::InstanceFacts;
use crate::console::{Cursor, Follower, Watcher};
use crate::control::ControlDir;
use crate::durable::is_damage;

/// How often the port is tried
const PORT_INTERVAL: Duration = Duration::from_millis(250);

/// How long one try may take; it never leaves the machine
const PORT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the console is read when the system has no watches left
const WITHOUT_WATCH: Duration = Duration::from_millis(100);

/// How often the console is read in any case: a watch can be lost
const WITH_WATCH: Duration = Duration::from_secs(1);

/// How long a last line without an end must stay as it is until it counts as a line: a prompt is never ended
const UNFINISHED: Duration = Duration::from_secs(1);

/// Watches one start until it is ready
///
/// What was read stays read, whether or not somebody waited for it to the end.
pub(super) struct Readiness {
    judge: Judge,
    port: u16,
    /// How often in a row the port has to be found open
    ///
    /// A server says what it is before it opens its port, but its log may be written a moment later.
    tries: u32,
    found_open: u32,
    try_port_at: Instant,
    console: PathBuf,
    cursor: Cursor,
    /// How long the console was when its last line had no end, and since when
    unfinished: Option<(u64, Instant)>,
    /// Whether nothing more can be waited for
    is_last_chance: bool,
    /// Why the last look saw nothing
    unseen: Option<io::Error>,
    waiting: Option<String>,
}

/// What is seen of an instance that is not known to be ready
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is ready
    Ready(Evidence),
    /// It is not, and something else is missing than before
    Waiting(String),
}

impl Readiness {
    pub(super) fn of(facts: &InstanceFacts, control: &ControlDir) -> Self {
        Self {
            judge: Judge::new(facts.readiness.clone(), facts.port, Eyes::OnTheNode),
            port: facts.port,
            tries: if facts.readiness == Rule::Port { 1 } else { 2 },
            found_open: 0,
            try_port_at: Instant::now(),
            console: control.console_log(),
            cursor: Cursor::START,
            unfinished: None,
            is_last_chance: false,
            unseen: None,
            waiting: None,
        }
    }

    /// What was last said to be missing
    pub(super) fn waiting(&self) -> Option<&str> {
        self.waiting.as_deref()
    }

    /// Returns when there is something new to see, and waits for ever if there never is
    ///
    /// May be given up and called again at any time.
    pub(super) async fn next(&mut self, watcher: Option<&Watcher>) -> Seen {
        loop {
            let changed = watcher.and_then(|watcher| watcher.arm(&self.console).ok());
            if let Some(evidence) = self.look().await {
                return Seen::Ready(evidence);
            }
            let waiting = self.judge.waiting().to_string();
            if self.waiting.as_ref() != Some(&waiting) {
                self.waiting = Some(waiting.clone());
                return Seen::Waiting(waiting);
            }
            let look_again = Instant::now()
                + if changed.is_some() {
                    WITH_WATCH
                } else {
                    WITHOUT_WATCH
                };
            let at = match self.judge.asks_port() {
                true => look_again.min(self.try_port_at),
                false => look_again,
            };
            match changed {
                Some(changed) => tokio::select! {
                    watched = changed => if watched.is_err() {
                        sleep_until(Instant::now() + WITHOUT_WATCH).await;
                    },
                    () = sleep_until(at) => {}
                },
                None => sleep_until(at).await,
            }
        }
    }

    /// What shows that the instance is ready by now, if it is: its console is read to its end and its port is tried, whatever time that takes
    ///
    /// To be asked before a deadline counts. A daemon that comes back late, or is busy, may have read only a part until then.
    ///
    /// # Errors
    /// If nobody can look now: the daemon has no file descriptor for it, say. That is no evidence of anything.
    pub(super) async fn by_now(&mut self) -> io::Result<Option<Evidence>> {
        self.try_port_at = Instant::now();
        self.is_last_chance = true;
        // What may count at once counts at its last chance.
        self.tries = self.tries.min(self.found_open + 1);
        self.unseen = None;
        let evidence = self.look().await;
        self.is_last_chance = false;
        match self.unseen.take() {
            Some(error) if evidence.is_none() => Err(error),
            _ => Ok(evidence),
        }
    }

    /// Reads what is new on the console, and tries the port if that counts and is due
    async fn look(&mut self) -> Option<Evidence> {
        if let Some(evidence) = self.read().await {
            return Some(evidence);
        }
        if !self.judge.asks_port() || self.try_port_at > Instant::now() {
            return None;
        }
        let is_open = is_port_open(self.port).await.unwrap_or_else(|error| {
            self.unseen = Some(error);
            false
        });
        self.try_port_at = Instant::now() + PORT_INTERVAL;
        self.found_open = if is_open { self.found_open + 1 } else { 0 };
        // What it printed before it opened its port tells whether the port counts.
        if let Some(evidence) = self.read().await {
            return Some(evidence);
        }
        if self.found_open < self.tries {
            return None;
        }
        match self.judge.handle_port_open() {
            Verdict::Ready(evidence) => Some(evidence),
            Verdict::Waiting(_) => None,
        }
    }

    /// Shows the judge what stands between the cursor and the end of the console
    async fn read(&mut self) -> Option<Evidence> {
        // A log that is shorter than what was read of it was cut, or is another one: all of it is new.
        if std::fs::metadata(&self.console).is_ok_and(|log| log.len() < self.cursor.offset) {
            self.cursor = Cursor::START;
        }
        let mut follower = match Follower::open(&self.console, self.cursor) {
            Ok(follower) => follower,
            Err(error) => {
                self.unseen = Some(error).filter(may_pass);
                return None;
            }
        };
        let mut lines = Vec::new();
        while follower.read(0, &mut lines).unwrap_or_else(|error| {
            self.unseen = Some(error).filter(may_pass);
            false
        }) {
            for line in lines.drain(..) {
                if let Verdict::Ready(evidence) = self.judge.handle_line(&line.text) {
                    return Some(evidence);
                }
            }
            self.cursor = follower.cursor();
            tokio::task::yield_now().await;
        }
        self.cursor = follower.cursor();
        self.read_unfinished(&mut follower)
    }

    /// Shows the judge a last line that has no end and gets none; it stays to be read
    fn read_unfinished(&mut self, follower: &mut Follower) -> Option<Evidence> {
        let length = match follower.backlog() {
            Ok(backlog) if backlog > 0 => self.cursor.offset.saturating_add(backlog),
            Ok(_) | Err(_) => {
                self.unfinished = None;
                return None;
            }
        };
        let since = match self.unfinished {
            Some((before, since)) if before == length => since,
            _ => Instant::now(),
        };
        self.unfinished = Some((length, since));
        if since.elapsed() < UNFINISHED && !self.is_last_chance {
            return None;
        }
        let mut lines = Vec::new();
        follower.read_to_end(0, &mut lines).ok()?;
        lines
            .iter()
            .find_map(|line| match self.judge.handle_line(&line.text) {
                Verdict::Ready(evidence) => Some(evidence),
                Verdict::Waiting(_) => None,
            })
    }
}

/// # Errors
/// If there is no socket to try it with; who does not answer is not open.
async fn is_port_open(port: u16) -> io::Result<bool> {
    let mut unseen = None;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let connect = TcpStream::connect(SocketAddr::new(address, port));
        match timeout(PORT_TIMEOUT, connect).await {
            Ok(Ok(_)) => return Ok(true),
            Ok(Err(error)) if is_scarcity(&error) => unseen = Some(error),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    unseen.map_or(Ok(false), Err)
}

/// Whether an error is about this machine now, and not about what was looked at
fn may_pass(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::NotFound && !is_damage(error)
}

fn is_scarcity(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}
