//! Which modules a node is sent, and which it is told to remove
//!
//! [`plan`] compares what is wanted with what a node has. [`Distribution`] is the machine around it: it knows what the node said last, what it
//! was sent and has not answered, and when something that failed is tried again. It lives as long as the node, across streams.
//!
//! # What fails
//! An order without an answer is given again, with [growing pauses](RETRIES), for as long as it is due. A module of which the daemon says that it
//! failed is given again as well, but after [`RETRIES`]`.len()` attempts only when something has changed: another jar, a list of the daemon in which
//! the module stands otherwise than it was known, the next stream of a daemon that lists nothing, or a [request](Distribution::handle_retry). The attempts are not
//! recorded, so another controller process begins to count anew.
//!
//! What a node has outlives its streams, too: whatever is sent is noted as sent first ([`Output::Note`]), so that a module which is
//! uninstalled while its node is away is removed when the node is back. A daemon with `modules/1` lists what it has after each handshake, and
//! that counts. One without (the Java daemon) has nothing after a start and says nothing, so it is sent everything again, as its own
//! controller does.
//!
//! ```text
//!   away ──connected──▶ awaiting the snapshot ──snapshot, or 30 s──▶ open ──disconnected──▶ away
//!        └─────connected, without modules/1────────────────────────▶
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::id::ModuleId;
use crate::limits;

/// How long a daemon that lists its modules may take to do so
pub const SNAPSHOT_WITHIN: Duration = Duration::from_secs(30);

/// How long the answer to an order may take, the transfer of the jar included
pub const ANSWER_WITHIN: Duration = Duration::from_secs(600);

/// What is waited before the same order is given again; the last counts from then on, where nobody has answered
pub const RETRIES: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(20),
    Duration::from_secs(80),
    Duration::from_secs(320),
    Duration::from_secs(3600),
];

/// The state of a module that was sent and not heard of; no daemon says it
pub const SENT: &str = "SENT";
/// The state of a module that a node does not have any more
pub const UNLOADED: &str = "UNLOADED";
/// The state of a module that does not run because something is wrong
pub const FAILED: &str = "FAILED";

/// A module that every node is to have
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which
    pub module: ModuleId,
    /// Its version
    pub version: String,
    /// The SHA-256 of its jar, in lower-case hex
    pub sha256: String,
}

/// What is known of a module on a node
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Has {
    /// The version
    pub version: String,
    /// The SHA-256 of the jar, in lower-case hex; empty = nobody said
    pub sha256: String,
    /// As the daemon writes it, or [`SENT`]
    pub state: String,
    /// Why it failed
    pub last_error: String,
    /// When that was said, in milliseconds since 1970-01-01 UTC
    pub updated_at_ms: i64,
}

impl Has {
    /// Whether the node may have it
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.state != UNLOADED
    }
}

/// Something that a node has to do
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Install a module, or another version of it
    Install {
        /// Which
        wanted: Wanted,
        /// The version that is there, if another one is
        previous: Option<String>,
    },
    /// Remove a module
    Uninstall {
        /// Which
        module: ModuleId,
    },
}

impl Action {
    /// The module that it is about.
    #[must_use]
    pub const fn module(&self) -> ModuleId {
        match self {
            Self::Install { wanted, .. } => wanted.module,
            Self::Uninstall { module } => *module,
        }
    }

    fn key(&self) -> (ModuleId, String) {
        match self {
            Self::Install { wanted, .. } => (wanted.module, wanted.sha256.clone()),
            Self::Uninstall { module } => (*module, String::new()),
        }
    }
}

/// What a node that has this has to do, so that it has what is wanted: first what goes, then what comes, in the order of `wanted`
///
/// What is identical is left alone, unless it failed or was never heard of.
#[must_use]
pub fn plan(wanted: &[Wanted], has: &BTreeMap<ModuleId, Has>) -> Vec<Action> {
    let is_wanted = |module: ModuleId| wanted.iter().any(|wanted| wanted.module == module);
    let mut actions: Vec<Action> = has
        .iter()
        .filter(|(module, has)| has.is_there() && !is_wanted(**module))
        .map(|(module, _)| Action::Uninstall { module: *module })
        .collect();
    for wanted in wanted {
        let there = has.get(&wanted.module).filter(|has| has.is_there());
        let is_same = |has: &&Has| has.sha256 == wanted.sha256;
        if there
            .filter(is_same)
            .is_some_and(|has| has.state != FAILED && has.state != SENT)
        {
            continue;
        }
        let other = there.filter(|has| !is_same(has) && !has.version.is_empty());
        actions.push(Action::Install {
            wanted: wanted.clone(),
            previous: other.map(|has| has.version.clone()),
        });
    }
    actions
}

/// What the application has to do
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Record what is known of the node; whatever comes behind it may happen only then
    Note,
    /// Tell the daemon
    Tell(Action),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Away,
    AwaitingSnapshot { until: Instant },
    Open,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    count: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Sent {
        until: Instant,
    },
    Resting {
        until: Instant,
    },
    /// Not again before something has changed
    GivenUp,
}

impl Attempt {
    fn failed(&mut self, now: Instant) {
        let last = RETRIES.len() - 1;
        let wait = RETRIES.get(self.count.saturating_sub(1).min(last));
        self.phase = Phase::Resting {
            until: now + wait.copied().unwrap_or_default(),
        };
    }

    /// The daemon says that it cannot be done
    fn refused(&mut self, now: Instant) {
        match self.count < RETRIES.len() {
            true => self.failed(now),
            false => self.phase = Phase::GivenUp,
        }
    }

    fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Sent { until } | Phase::Resting { until } => Some(until),
            Phase::GivenUp => None,
        }
    }
}

/// The modules of one node
#[derive(Debug)]
pub struct Distribution {
    wanted: Vec<Wanted>,
    has: BTreeMap<ModuleId, Has>,
    link: Link,
    /// Orders that were given and have not had their effect, by module and SHA-256 (empty = removal)
    attempts: BTreeMap<(ModuleId, String), Attempt>,
    outputs: VecDeque<Output>,
}

impl Distribution {
    /// A node that is away, and of which this is remembered
    #[must_use]
    pub fn new(wanted: Vec<Wanted>, has: BTreeMap<ModuleId, Has>) -> Self {
        Self {
            wanted,
            has,
            link: Link::Away,
            attempts: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// What is known of the node's modules
    #[must_use]
    pub const fn has(&self) -> &BTreeMap<ModuleId, Has> {
        &self.has
    }

    /// Something else is wanted now
    pub fn handle_wanted(&mut self, now: Instant, wanted: Vec<Wanted>) {
        self.wanted = wanted;
        self.go_on(now);
    }

    /// A stream of the node is established; whether its daemon lists its modules (`modules/1`)
    pub fn handle_connected(&mut self, now: Instant, lists: Listing) {
        self.rest_sent(now);
        match lists {
            Listing::AfterHandshake => {
                self.link = Link::AwaitingSnapshot {
                    until: now + SNAPSHOT_WITHIN,
                };
            }
            Listing::Never => self.open_without_snapshot(now),
        }
    }

    /// The node is away
    pub fn handle_disconnected(&mut self, now: Instant) {
        self.link = Link::Away;
        self.rest_sent(now);
        self.outputs.clear();
    }

    /// The daemon lists all modules that it has
    pub fn handle_snapshot(&mut self, now: Instant, modules: impl IntoIterator<Item = (ModuleId, Has)>) {
        let listed = modules.into_iter().take(limits::MODULES).collect();
        let known = std::mem::replace(&mut self.has, listed);
        self.link = Link::Open;
        let settled: Vec<_> = self
            .has
            .iter()
            .map(|(module, has)| (*module, has.clone()))
            .collect();
        for (module, has) in settled {
            self.settle(now, module, &has);
        }
        // What is not listed is gone, and of what is listed as before it is known what comes of it.
        let said = |of: &BTreeMap<ModuleId, Has>, module: &ModuleId| {
            of.get(module).map(|has| (has.state.clone(), has.sha256.clone()))
        };
        let has = &self.has;
        self.attempts
            .retain(|(module, sha256), attempt| match attempt.phase {
                Phase::GivenUp => said(has, module) == said(&known, module),
                Phase::Sent { .. } | Phase::Resting { .. } => !sha256.is_empty() || has.contains_key(module),
            });
        self.outputs.push_back(Output::Note);
        self.go_on(now);
    }

    /// The daemon says what has become of a module; an empty version or SHA-256 is that of what was sent last
    pub fn handle_state(&mut self, now: Instant, module: ModuleId, mut told: Has) {
        let known = self.has.get(&module);
        if told.sha256.is_empty() {
            told.sha256 = known.map(|known| known.sha256.clone()).unwrap_or_default();
        }
        if told.version.is_empty() {
            told.version = known.map(|known| known.version.clone()).unwrap_or_default();
        }
        if known.is_none() && self.has.len() >= limits::MODULES {
            let gone = self
                .has
                .iter()
                .find(|(_, has)| !has.is_there())
                .map(|(module, _)| *module);
            match gone {
                Some(gone) => drop(self.has.remove(&gone)),
                // A node that reports more modules than anybody installs says nothing that is of use.
                None => return,
            }
        }
        self.settle(now, module, &told);
        self.has.insert(module, told);
        self.outputs.push_back(Output::Note);
        self.go_on(now);
    }

    /// An order could not be sent; it is given again later
    pub fn handle_not_sent(&mut self, now: Instant, action: &Action) {
        if let Some(attempt) = self.attempts.get_mut(&action.key())
            && matches!(attempt.phase, Phase::Sent { .. })
        {
            attempt.failed(now);
        }
    }

    /// What rests or was given up about a module is done now, as if it had never failed; says whether there was such a thing
    pub fn handle_retry(&mut self, now: Instant, module: ModuleId) -> bool {
        let before = self.attempts.len();
        self.attempts
            .retain(|(of, _), attempt| *of != module || matches!(attempt.phase, Phase::Sent { .. }));
        let has_any = self.attempts.len() != before;
        self.go_on(now);
        has_any
    }

    /// Does what is due; early and repeated calls are harmless
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Link::AwaitingSnapshot { until } = self.link
            && until <= now
        {
            self.open_without_snapshot(now);
        }
        self.go_on(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.link {
            Link::Away => None,
            Link::AwaitingSnapshot { until } => Some(until),
            Link::Open => self.attempts.values().filter_map(Attempt::due).min(),
        }
    }

    /// The next thing to do, in order
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A daemon that does not say what it has may have been started anew
    fn open_without_snapshot(&mut self, now: Instant) {
        for has in self.has.values_mut().filter(|has| has.is_there()) {
            SENT.clone_into(&mut has.state);
        }
        self.attempts
            .retain(|_, attempt| !matches!(attempt.phase, Phase::GivenUp));
        self.link = Link::Open;
        self.go_on(now);
    }

    /// What was sent on a stream that is over may not have arrived
    fn rest_sent(&mut self, now: Instant) {
        for attempt in self.attempts.values_mut() {
            if let Phase::Sent { .. } = attempt.phase {
                attempt.failed(now);
            }
        }
    }

    fn settle(&mut self, now: Instant, module: ModuleId, told: &Has) {
        let key = if told.is_there() {
            told.sha256.clone()
        } else {
            String::new()
        };
        if told.state == FAILED {
            if let Some(attempt) = self.attempts.get_mut(&(module, key)) {
                attempt.refused(now);
            }
        } else if told.state != "STOPPING" {
            self.attempts.remove(&(module, key));
        }
    }

    fn go_on(&mut self, now: Instant) {
        if self.link != Link::Open {
            return;
        }
        let actions = plan(&self.wanted, &self.has);
        self.attempts
            .retain(|key, _| actions.iter().any(|action| action.key() == *key));
        let (mut is_noted, mut tells) = (true, Vec::new());
        for action in actions {
            let key = action.key();
            match self.attempts.get_mut(&key) {
                Some(attempt) if attempt.due().is_none_or(|due| due > now) => continue,
                Some(attempt) if matches!(attempt.phase, Phase::Sent { .. }) => {
                    attempt.failed(now);
                    continue;
                }
                _ => {}
            }
            let attempt = self.attempts.entry(key).or_insert(Attempt {
                count: 0,
                phase: Phase::Resting { until: now },
            });
            attempt.count += 1;
            attempt.phase = Phase::Sent {
                until: now + ANSWER_WITHIN,
            };
            if let Action::Install { wanted, .. } = &action {
                is_noted &= self.note_sent(wanted);
            }
            tells.push(Output::Tell(action));
        }
        if !is_noted {
            self.outputs.push_back(Output::Note);
        }
        self.outputs.extend(tells);
    }

    /// Whether it is already known that the node may have the module
    fn note_sent(&mut self, wanted: &Wanted) -> bool {
        if self.has.get(&wanted.module).is_some_and(Has::is_there) {
            return true;
        }
        let sent = Has {
            version: wanted.version.clone(),
            sha256: wanted.sha256.clone(),
            state: SENT.to_owned(),
            ..Has::default()
        };
        self.has.insert(wanted.module, sent);
        false
    }
}

/// Whether a daemon lists its modules
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// After each handshake (`modules/1`)
    AfterHandshake,
    /// Never, as the Java daemon
    Never,
}
