//! How many servers of a group there should be, and what is to be done about it
//!
//! What is desired ([`Wish`]), what is observed ([`Observed`]) and what has happened before ([`History`]) are kept apart;
//! [`decide`](decide::decide) compares them and answers with a [`Plan`], in which every step says why. It is a pure function: it performs
//! nothing, knows no clock, and the order of its inputs does not matter. [`Health`](health::Health) counts crashes the same way. Whoever
//! carries a plan out may be killed at any point of it: what it has begun is observed the next time, and never begun twice.
//!
//! | Mode | Servers |
//! |---|---|
//! | STATIC | `minInstances` of them: what is missing is started, what is too much is stopped, those with the fewest players first |
//! | MANUAL | `minInstances` at least. What somebody starts beyond them stays, and comes back when it ends by itself; only people stop |
//! | DYNAMIC | `minInstances` at least, as many more as players fill, and fewer again once one has been empty for a while |
//!
//! Nothing is started beyond `maxInstances`, nor while the group is paused.

pub(crate) mod decide;
pub(crate) mod health;

use std::fmt;

use prexorcloud_protocol::{GroupName, InstanceId, NodeId, instance::State};
use serde::Deserialize;

use super::rollout::{Stage, Verdict};

/// What decides over the number of servers
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Mode {
    /// Players, between two bounds
    Dynamic,
    /// A number
    Static,
    /// People
    Manual,
}

/// What is desired of a group
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wish {
    pub(crate) group: GroupName,
    pub(crate) mode: Mode,
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// The only names that its servers may have; empty = they are numbered
    pub(crate) names: Vec<InstanceId>,
    /// The files of a server stay on its node, so it can be started nowhere else
    pub(crate) keeps_files: bool,
    /// Players that a server takes; 0 = their number decides nothing
    pub(crate) seats: u32,
    /// The share of all seats from which on another server is started; 0 = never
    pub(crate) scale_up_threshold: f64,
    /// Seats that count as taken beside those of players, as a share of one server's
    pub(crate) scale_up_margin: f64,
    /// How long a server must have been empty to be stopped
    pub(crate) scale_down_after_ms: i64,
    /// The least time between two changes of the number for the sake of players
    pub(crate) cooldown_ms: i64,
    /// Whether what ended by itself with exit code 0 is missed
    pub(crate) replaces_clean_exits: bool,
    /// How long a node may be away before its servers are started elsewhere; `None` = they are waited for
    pub(crate) node_grace_ms: Option<i64>,
}

/// A server as it was last seen
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: u64,
    pub(crate) node: NodeId,
    pub(crate) state: State,
    /// Nobody has asked for its end
    pub(crate) is_wanted: bool,
    /// It counts as ended because nothing was heard of it
    pub(crate) is_lost: bool,
    pub(crate) players: u32,
    /// Since when it has no players; `None` = it has some, or does not run
    pub(crate) empty_since_ms: Option<i64>,
    /// Since when its node is not connected; `None` = it is
    pub(crate) away_since_ms: Option<i64>,
    /// When this incarnation was ready; 0 = it was not
    pub(crate) ready_at_ms: i64,
    /// When it ended, if it has
    pub(crate) ended_at_ms: i64,
    /// Why, as far as is known
    pub(crate) cause: String,
}

impl Observed {
    /// How far it is, for whoever replaces it
    pub(super) const fn stage(&self) -> Stage {
        if self.state.is_terminal() {
            let is_bad = matches!(self.state, State::Crashed) || self.ready_at_ms == 0;
            return match self.is_wanted && !self.is_lost && is_bad {
                true => Stage::Failed {
                    at_ms: self.ended_at_ms,
                },
                false => Stage::Ended,
            };
        }
        if !self.is_wanted {
            // Also while its node is away: it is told to end when that is back.
            Stage::Ending
        } else if self.away_since_ms.is_some() {
            Stage::Away
        } else if !self.serves() {
            Stage::Ending
        } else if self.state.is_coming_up() {
            Stage::ComingUp
        } else {
            Stage::Serving
        }
    }

    /// Whether it serves, or is on its way to
    pub(super) const fn serves(&self) -> bool {
        self.is_wanted && (self.state.is_coming_up() || matches!(self.state, State::Running))
    }

    /// Whether it ended without anybody having asked for it, and still has a place that is its own
    const fn ended_by_itself(&self) -> bool {
        self.is_wanted && self.state.is_terminal()
    }
}

/// What has happened before, and what people have said about it
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// Since when this group is looked after: what ended before is nobody's business any more
    pub(crate) known_since_ms: i64,
    /// Until when nothing is started, because servers crash; 0 = it is not paused
    pub(crate) paused_until_ms: i64,
    /// Why it is paused
    pub(crate) cause: String,
    /// Who has said that nothing is to be started or stopped
    pub(crate) held_by: Option<String>,
    /// When the number was last changed for the sake of players
    pub(crate) scaled_at_ms: i64,
    /// Its servers say how many players they have: once one of them had some
    pub(crate) counts_players: bool,
    /// When everything is looked at as usual: nodes return after a restart of the controller
    pub(crate) settled_at_ms: i64,
}

/// A thing to do, and why
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) instance: InstanceId,
    pub(crate) kind: StepKind,
    pub(crate) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StepKind {
    Start,
    Stop,
    /// It counts as ended, so that it can be started elsewhere
    GiveUp,
}

impl StepKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "START",
            Self::Stop => "STOP",
            Self::GiveUp => "GIVE_UP",
        }
    }
}

/// Why something is done, or is not
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// There are fewer than there should be at least
    BelowMinimum { serving: usize, min: usize },
    /// It ended by itself, and people had started it
    EndedByItself,
    /// Players fill what there is
    Players { players: u64, seats: u64, wanted: usize },
    /// There are more than there should be
    AboveNumber { serving: usize, wanted: usize },
    /// Nobody plays there
    Empty { for_ms: i64, wanted: usize },
    /// Its node does not come back
    NodeAway { node: NodeId, for_ms: i64 },
    /// Nothing is started, because servers crash
    Paused { cause: String },
    /// Somebody has said so
    Held { by: String },
    /// The controller has just started
    Settling,
    /// More than the group may have
    AtMaximum { missing: usize, max: usize },
    /// All names are in use
    NoName { missing: usize },
    /// Players fill what there is, and the last change is not long ago
    Cooling { wanted: usize },
    /// Nobody says how many players there are
    PlayersUnknown,
    /// Its files are on a node that is away
    WaitsForNode { node: NodeId },
    /// What servers are made of has changed
    Deployed { content: u32 },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BelowMinimum { serving, min } => write!(f, "{serving} of at least {min} are there"),
            Self::EndedByItself => f.write_str("it was started by hand and ended by itself"),
            Self::Players {
                players,
                seats,
                wanted,
            } => write!(f, "{players} players on {seats} seats need {wanted} servers"),
            Self::AboveNumber { serving, wanted } => {
                write!(
                    f,
                    "{serving} are there and {wanted} are wanted; it has the fewest players"
                )
            }
            Self::Empty { for_ms, wanted } => write!(
                f,
                "it has been empty for {} s, and {wanted} servers are enough",
                for_ms / 1000
            ),
            Self::NodeAway { node, for_ms } => {
                write!(f, "its node {node} has been away for {} s", for_ms / 1000)
            }
            Self::Paused { cause } => write!(f, "its servers crash: {cause}"),
            Self::Held { by } => write!(f, "{by} has paused it"),
            Self::Settling => f.write_str(
                "the controller has just started, and waits until its nodes have had time to return",
            ),
            Self::AtMaximum { missing, max } => {
                write!(f, "{missing} more are wanted, and maxInstances is {max}")
            }
            Self::NoName { missing } => write!(
                f,
                "{missing} more are wanted, and all of staticInstanceNames are in use: add one"
            ),
            Self::Cooling { wanted } => write!(
                f,
                "players need {wanted} servers, and the last change is not scaleCooldownSeconds ago"
            ),
            Self::PlayersUnknown => f.write_str(
                "its servers have never said that somebody plays, so none is stopped because nobody does",
            ),
            Self::Deployed { content } => {
                write!(f, "it is replaced by what deployment {content} has brought")
            }
            Self::WaitsForNode { node } => write!(
                f,
                "{node} is away, and has files that are nowhere else: what runs there is waited for"
            ),
        }
    }
}

/// What a group is doing, in a word
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is what there should be
    Settled,
    /// It is on its way there
    Changing,
    /// Something keeps it from that
    Short,
    /// Its servers crash
    Paused,
    /// People have said so
    Held,
    /// The controller has just started
    Waiting,
}

impl Standing {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Settled => "SETTLED",
            Self::Changing => "CHANGING",
            Self::Short => "SHORT",
            Self::Paused => "PAUSED",
            Self::Held => "HELD",
            Self::Waiting => "WAITING",
        }
    }
}

/// What is to be done about a group now
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Servers that there should be
    pub(crate) desired: usize,
    /// Servers that serve, or are on their way to
    pub(crate) serving: usize,
    pub(crate) standing: Standing,
    /// In the order in which they are to be done
    pub(crate) steps: Vec<Step>,
    /// What is not done, and why
    pub(crate) notes: Vec<Why>,
    /// The number is changed for the sake of players
    pub(crate) scales: bool,
    /// When something is due, if nothing else happens before
    pub(crate) due_at_ms: Option<i64>,
}

impl Plan {
    /// Takes in which servers are replaced, `placed` of which were counted in their stead; gives back what is left of it
    pub(super) fn replace(&mut self, mut verdict: Verdict, content: u32, placed: usize) -> Verdict {
        self.serving = self.serving.saturating_sub(placed);
        let is_held_up = matches!(
            self.standing,
            Standing::Paused | Standing::Held | Standing::Waiting
        );
        if is_held_up {
            // What was not begun is not begun.
            let begun = |instance: &InstanceId| !verdict.stop.contains(instance);
            verdict.replacing.retain(|instance, _| begun(instance));
            verdict.stop.clear();
            verdict.start.clear();
        }
        // One that is too many is not replaced.
        for step in &self.steps {
            if matches!(step.kind, StepKind::Stop | StepKind::GiveUp) {
                verdict.replacing.remove(&step.instance);
                verdict.stop.retain(|instance| *instance != step.instance);
            }
        }
        let Verdict { start, .. } = &verdict;
        let is_over = |step: &Step| step.kind == StepKind::Stop && start.contains(&step.instance);
        self.steps.retain(|step| !is_over(step));
        verdict
            .start
            .retain(|instance| verdict.replacing.contains_key(instance));
        let stops = verdict.stop.iter().map(|instance| (*instance, StepKind::Stop));
        let starts = verdict.start.iter().map(|instance| (*instance, StepKind::Start));
        for (instance, kind) in stops.chain(starts) {
            let why = Why::Deployed { content };
            self.steps.push(Step { instance, kind, why });
        }
        if !verdict.replacing.is_empty() && self.standing == Standing::Settled {
            self.standing = Standing::Changing;
        }
        let due = [self.due_at_ms, verdict.due_at_ms];
        self.due_at_ms = due.into_iter().flatten().min();
        verdict
    }

    /// What counts as ended from now on
    fn give_ups(&self) -> impl Iterator<Item = InstanceId> + '_ {
        let steps = self.steps.iter().filter(|step| step.kind == StepKind::GiveUp);
        steps.map(|step| step.instance)
    }
}
