//! Which templates a daemon asks its controller for
//!
//! ```text
//!                        ┌──▶ settled: up to date, refused
//!  wanted ──▶ Queued ──▶ Asked ──▶ Taking ──▶ taken
//!               ▲          │ │
//!               └──────────┘ └──▶ Late: settled as overdue; its answer is taken all the same
//!            the stream ends
//! ```
//!
//! All who wait for the same content of a template share one request. Some answers carry the name alone, so one content of a
//! name is asked for at a time; a request of which the stream is lost is sent again on the next one, as long as its deadline has
//! not passed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::id::TemplateName;
use crate::time::{Deadline, after};

/// `ErrorReport.error_code` of a controller: it has no such template; the context is its name.
pub const TEMPLATE_NOT_FOUND: &str = "TEMPLATE_NOT_FOUND";
/// `ErrorReport.error_code` of a controller: the template does not fit into a message; the context is its name.
pub const TEMPLATE_TOO_LARGE: &str = "TEMPLATE_TOO_LARGE";

/// `ErrorReport.error_code` of a controller: it has the template, and cannot send it now; the context is its name.
pub const TEMPLATE_UNAVAILABLE: &str = "TEMPLATE_UNAVAILABLE";

/// `ErrorReport.error_code` of a controller without templates; the context is the name.
pub const TEMPLATE_UNKNOWN: &str = "TEMPLATE_UNKNOWN";

/// A content of a template
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wanted {
    /// The template.
    pub name: TemplateName,
    /// Names its content, as the controller gave it; not empty.
    pub hash: String,
}

/// The bounds of requests
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestsConfig {
    /// How long an answer is waited for, over all streams.
    pub deadline: Duration,
    /// How many requests are under way at a time, what is being taken included. Each answer may have 100 MiB.
    pub at_once: usize,
    /// How many requests are under way or wait for their turn.
    pub most: usize,
}

impl Default for RequestsConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(120),
            at_once: 4,
            most: 1_024,
        }
    }
}

/// The timer of requests
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestTimer {
    /// The controller has not answered for as long as it may.
    Overdue,
}

/// Work and news, in order
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestOutput {
    /// Send a `TemplateRequest`; where that is not possible, say so by [`TemplateRequests::handle_unsent`].
    Ask {
        /// What of it.
        wanted: Wanted,
        /// What the daemon has of it; empty if nothing.
        known_hash: String,
    },
    /// Those who wait for this have their answer.
    Settled {
        /// What was wanted.
        wanted: Wanted,
        /// The answer.
        outcome: Outcome,
    },
}

/// What came of a request
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What the daemon has under `known_hash` is what the controller has.
    UpToDate {
        /// The hash that was sent with the request; not empty.
        known_hash: String,
    },
    /// The controller says that it cannot be had, or answers what makes no sense.
    Refused {
        /// Its code.
        code: String,
        /// Its words.
        message: String,
    },
    /// No answer came in time.
    Overdue {
        /// Whether the request has left; if not, there was no session all the time.
        asked: bool,
    },
    /// There are too many requests already.
    TooMany,
}

#[derive(Clone, Debug)]
struct Pending {
    known_hash: String,
    phase: Phase,
    /// From the moment at which nothing of ours stood in its way.
    until: Option<Instant>,
    has_left: bool,
    /// How often what the controller gave was gone before it was here.
    gone: u8,
    /// An earlier request for it may still be answered.
    was_late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Queued,
    Asked,
    /// The answer is being written or fetched.
    Taking,
    /// Nobody waits any more, and the answer may still come on this stream.
    Late,
}

impl Phase {
    /// Whether an answer may come.
    fn is_open(self) -> bool {
        matches!(self, Self::Asked | Self::Late)
    }
}

/// How often in a row a controller may offer an artifact and not have it.
const MAX_GONE: u8 = 3;

/// Asks for templates, each once
///
/// Call [`handle_timeout`](Self::handle_timeout) at the deadline from [`poll_timeout`](Self::poll_timeout), and drain
/// [`poll_output`](Self::poll_output) after every call.
#[derive(Clone, Debug, Default)]
pub struct TemplateRequests {
    config: RequestsConfig,
    is_connected: bool,
    pending: BTreeMap<Wanted, Pending>,
    /// In the order in which they were wanted.
    queue: VecDeque<Wanted>,
    outputs: VecDeque<RequestOutput>,
}

impl TemplateRequests {
    /// Without a stream, and with nothing wanted.
    #[must_use]
    pub fn new(config: RequestsConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// A start wants a content that the daemon does not have; `known_hash` names another one of the template that it has,
    /// and is empty if it has none.
    pub fn handle_wanted(&mut self, now: Instant, wanted: Wanted, known_hash: &str) {
        if let Some(pending) = self.pending.get_mut(&wanted) {
            if pending.phase == Phase::Late {
                // The answer may be lost, or still be on its way: whichever comes first will do.
                pending.phase = Phase::Queued;
                pending.has_left = false;
                self.queue.push_back(wanted);
                self.advance(now);
            }
            return;
        }
        if self.pending.len() >= self.config.most {
            self.forget_a_late_one();
        }
        if self.pending.len() >= self.config.most {
            let outcome = Outcome::TooMany;
            self.outputs.push_back(RequestOutput::Settled { wanted, outcome });
            return;
        }
        let pending = Pending {
            known_hash: known_hash.to_owned(),
            phase: Phase::Queued,
            until: None,
            has_left: false,
            gone: 0,
            was_late: false,
        };
        self.queue.push_back(wanted.clone());
        self.pending.insert(wanted, pending);
        self.advance(now);
    }

    /// A session is established; what is wanted is asked for on it.
    pub fn handle_connected(&mut self, now: Instant) {
        self.is_connected = true;
        self.advance(now);
    }

    /// The stream is lost, and with it what was asked on it.
    pub fn handle_disconnected(&mut self) {
        self.is_connected = false;
        self.pending.retain(|_, pending| pending.phase != Phase::Late);
        for (wanted, pending) in &mut self.pending {
            pending.was_late = false;
            if pending.phase == Phase::Asked {
                pending.phase = Phase::Queued;
                self.queue.push_front(wanted.clone());
            }
        }
    }

    /// A request could not be sent; it is on the next stream.
    pub fn handle_unsent(&mut self, wanted: &Wanted) {
        if let Some(pending) = self.pending.get_mut(wanted)
            && pending.phase == Phase::Asked
        {
            pending.phase = Phase::Queued;
            pending.has_left = false;
            self.queue.push_front(wanted.clone());
        }
    }

    /// An archive has come, or where to fetch it. Says for which of the contents wanted it is the answer: the caller takes it,
    /// tells those who wait, and calls [`handle_taken`](Self::handle_taken) for each. None means that nobody asked, and the
    /// answer is to be ignored.
    ///
    /// Where exactly this content is wanted, it answers that. Else it answers what was asked for under the name: the template
    /// has changed since the order was made, and the controller has no other content of it.
    pub fn handle_data(&mut self, now: Instant, name: TemplateName, hash: &str) -> Vec<Wanted> {
        let exact = Wanted {
            name,
            hash: hash.to_owned(),
        };
        let phase = self.pending.get(&exact).map(|pending| match pending.phase {
            Phase::Queued if pending.was_late => Phase::Late,
            phase => phase,
        });
        let answered = match (phase, self.asked(name)) {
            (Some(phase), _) if phase.is_open() => vec![exact],
            // Its own request would only bring the same again.
            (Some(Phase::Queued), Some(asked)) => vec![asked, exact],
            (_, asked) => Vec::from_iter(asked),
        };
        for wanted in &answered {
            if let Some(pending) = self.pending.get_mut(wanted) {
                pending.phase = Phase::Taking;
                pending.until = None;
            }
        }
        self.advance(now);
        answered
    }

    /// What [`handle_data`](Self::handle_data) said is taken or given up, and those who waited for it have been told.
    pub fn handle_taken(&mut self, now: Instant, wanted: &Wanted) {
        self.remove_taking(wanted);
        self.advance(now);
    }

    /// The artifact that answered this is not there any more; it is asked for again, a few times.
    pub fn handle_gone(&mut self, now: Instant, wanted: &Wanted, message: &str) {
        let Some(mut pending) = self.remove_taking(wanted) else {
            return;
        };
        pending.gone += 1;
        if pending.gone >= MAX_GONE {
            let outcome = Outcome::Refused {
                code: TEMPLATE_UNAVAILABLE.to_owned(),
                message: message.to_owned(),
            };
            self.settle(wanted.clone(), outcome);
        } else {
            pending.phase = Phase::Queued;
            pending.has_left = false;
            self.queue.push_front(wanted.clone());
            self.pending.insert(wanted.clone(), pending);
        }
        self.advance(now);
    }

    fn forget_a_late_one(&mut self) {
        let late = self
            .pending
            .iter()
            .find(|(_, pending)| pending.phase == Phase::Late);
        if let Some(wanted) = late.map(|(wanted, _)| wanted.clone()) {
            self.pending.remove(&wanted);
        }
    }

    fn remove_taking(&mut self, wanted: &Wanted) -> Option<Pending> {
        let is_taking = |pending: &Pending| pending.phase == Phase::Taking;
        let is_there = self.pending.get(wanted).is_some_and(is_taking);
        is_there.then(|| self.pending.remove(wanted)).flatten()
    }

    /// The controller has what the daemon has. Says whether that was asked.
    pub fn handle_up_to_date(&mut self, now: Instant, name: TemplateName) -> bool {
        let Some((wanted, pending)) = self.take_asked(name) else {
            return false;
        };
        let outcome = if pending.known_hash.is_empty() {
            Outcome::Refused {
                code: "TEMPLATE_ANSWER_INVALID".to_owned(),
                message: "the controller says that this node has it already, and it has not".to_owned(),
            }
        } else {
            Outcome::UpToDate {
                known_hash: pending.known_hash,
            }
        };
        self.settle_unless_late(wanted, pending.phase, outcome);
        self.advance(now);
        true
    }

    /// The controller reports an error. Says whether it was the answer to a request: its code begins with `TEMPLATE_`, and its
    /// context is a template that was asked for.
    pub fn handle_error(&mut self, now: Instant, code: &str, context: &str, message: &str) -> bool {
        if !code.starts_with("TEMPLATE_") {
            return false;
        }
        let Ok(name) = TemplateName::new(context) else {
            return false;
        };
        let Some((wanted, pending)) = self.take_asked(name) else {
            return false;
        };
        let (code, message) = (code.to_owned(), message.to_owned());
        self.settle_unless_late(wanted, pending.phase, Outcome::Refused { code, message });
        self.advance(now);
        true
    }

    /// Gives up what is overdue. Early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |pending: &Pending| pending.until.is_some_and(|until| until <= now);
        let due: Vec<Wanted> = self
            .pending
            .iter()
            .filter(|(_, pending)| is_due(pending))
            .map(|(wanted, _)| wanted.clone())
            .collect();
        for wanted in due {
            let Some(pending) = self.pending.get_mut(&wanted) else {
                continue;
            };
            let asked = pending.has_left;
            if pending.phase == Phase::Asked {
                pending.phase = Phase::Late;
                pending.until = None;
                pending.was_late = true;
            } else {
                self.pending.remove(&wanted);
            }
            self.settle(wanted, Outcome::Overdue { asked });
        }
        self.advance(now);
    }

    /// When something is overdue next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline<RequestTimer>> {
        let at = self.pending.values().filter_map(|pending| pending.until).min()?;
        Some(Deadline {
            at,
            timer: RequestTimer::Overdue,
        })
    }

    /// The next thing to do or to tell.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<RequestOutput> {
        self.outputs.pop_front()
    }

    /// What was asked for under this name: what somebody waits for, or else what is late.
    fn asked(&self, name: TemplateName) -> Option<Wanted> {
        let of = |phase: Phase| {
            let is_it =
                move |(wanted, pending): &(&Wanted, &Pending)| wanted.name == name && pending.phase == phase;
            self.pending.iter().find(is_it).map(|(wanted, _)| wanted.clone())
        };
        of(Phase::Asked).or_else(|| of(Phase::Late))
    }

    fn take_asked(&mut self, name: TemplateName) -> Option<(Wanted, Pending)> {
        let wanted = self.asked(name)?;
        let pending = self.pending.remove(&wanted)?;
        Some((wanted, pending))
    }

    fn settle_unless_late(&mut self, wanted: Wanted, phase: Phase, outcome: Outcome) {
        if phase != Phase::Late {
            self.settle(wanted, outcome);
        }
    }

    fn settle(&mut self, wanted: Wanted, outcome: Outcome) {
        self.outputs.push_back(RequestOutput::Settled { wanted, outcome });
    }

    /// Asks for what is next, and lets the clock run for what only the controller holds up.
    fn advance(&mut self, now: Instant) {
        let pending = &self.pending;
        self.queue.retain(|wanted| {
            pending
                .get(wanted)
                .is_some_and(|pending| pending.phase == Phase::Queued)
        });
        let is_under_way = |pending: &&Pending| matches!(pending.phase, Phase::Asked | Phase::Taking);
        let mut room = self
            .config
            .at_once
            .saturating_sub(self.pending.values().filter(is_under_way).count());
        let asked = self.pending.iter();
        let mut asked: BTreeSet<TemplateName> = asked
            .filter(|(_, pending)| pending.phase == Phase::Asked)
            .map(|(wanted, _)| wanted.name)
            .collect();
        let deadline = after(now, self.config.deadline);
        let mut rest = VecDeque::new();
        while let Some(wanted) = self.queue.pop_front() {
            let Some(pending) = self.pending.get_mut(&wanted) else {
                continue;
            };
            if room == 0 || asked.contains(&wanted.name) {
                rest.push_back(wanted);
                continue;
            }
            room -= 1;
            pending.until.get_or_insert(deadline);
            if !self.is_connected {
                rest.push_back(wanted);
                continue;
            }
            pending.phase = Phase::Asked;
            pending.has_left = true;
            asked.insert(wanted.name);
            self.outputs.push_back(RequestOutput::Ask {
                wanted,
                known_hash: pending.known_hash.clone(),
            });
        }
        self.queue = rest;
    }
}
