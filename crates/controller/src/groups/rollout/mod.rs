//! Which servers of a group are replaced next, when what they are made of changes
//!
//! A group is made of *contents*: its settings and the versions of its templates, pinned under the number of the deployment that brought them.
//! [`decide`] compares the servers with the content that is wanted, and answers with a [`Verdict`]: which to stop, which of the stopped to start
//! anew, and whether the rollout is over. It is a pure function: it performs nothing and knows no clock. What has to survive a kill of the
//! controller is the list of servers that are being replaced, which is recorded before any of them is stopped: a stop or a start that was not
//! carried out is decided again, and one that was is observed.
//!
//! ```text
//! ACTIVE ──every server has the content, and is ready──▶ (done)
//!   │  ▲
//!   │  └─ resume ─┐
//!   ├─ pause ──▶ PAUSED: what was stopped comes back with the content, no other is stopped
//!   └─ a new server fails, or is not ready in time ──▶ HALTED: what was stopped comes back with what was in force before
//! ```
//!
//! # Properties
//! Checked below, by worlds that carry verdicts out and forget them at any point:
//! `a_rollout_ends_with_one_content`, `never_more_than_the_batch_at_once`, `never_below_the_minimum_less_the_batch`,
//! `the_first_failure_halts_it`, `a_decision_that_is_lost_is_made_again`, `every_rollout_can_be_rolled_back`.

pub(crate) mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use prexorcloud_protocol::InstanceId;

/// Servers of one rollout that are replaced at the same time, at most
pub(crate) const MAX_BATCH: u32 = 1000;

/// What is being rolled out
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rollout {
    pub(crate) phase: Phase,
    /// What servers are to be made of
    pub(crate) content: u32,
    /// What they were made of before, and are again if it halts
    pub(crate) in_force: u32,
    /// How many may be replaced at the same time
    pub(crate) batch: usize,
    /// Failures before this count for nothing
    pub(crate) since_ms: i64,
    /// How long the replacement of a server may take until it is ready
    pub(crate) timeout_ms: i64,
    /// Servers that are being replaced, and since when
    pub(crate) replacing: BTreeMap<InstanceId, i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Active,
    Paused,
    /// A new server has failed
    Halted,
    /// There is nothing to roll out
    Over,
}

/// A server as it was last seen
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) instance: InstanceId,
    pub(crate) content: u32,
    pub(crate) stage: Stage,
    pub(crate) players: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    ComingUp,
    Serving,
    /// Somebody has asked for its end
    Ending,
    /// It has ended as it should, or was lost with its node
    Ended,
    /// It has ended badly, or before it was ready
    Failed {
        at_ms: i64,
    },
    /// Its node is away
    Away,
}

/// What is to be done about a rollout now
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What is being replaced from now on: to be recorded before anything is done
    pub(crate) replacing: BTreeMap<InstanceId, i64>,
    /// To be stopped, in this order
    pub(crate) stop: Vec<InstanceId>,
    /// To be started, since they have ended
    pub(crate) start: Vec<InstanceId>,
    pub(crate) end: Option<End>,
    /// Servers that are ready with what is wanted
    pub(crate) updated: usize,
    /// All servers that have not ended, and those that are being replaced
    pub(crate) total: usize,
    /// How many more may come up with what is wanted
    pub(crate) room: usize,
    /// When something is due, if nothing else happens before
    pub(crate) due_at_ms: Option<i64>,
}

/// How a rollout ends
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Halted(Halt),
}

/// Why a rollout halts
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    Failed { instance: InstanceId },
    Late { instance: InstanceId, after_ms: i64 },
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { instance } => {
                write!(
                    f,
                    "{instance} has ended badly with it: prexorctl crash list --instance {instance}"
                )
            }
            Self::Late { instance, after_ms } => write!(
                f,
                "{instance} was not ready with it within {} s: prexorctl instance info {instance}",
                after_ms / 1000
            ),
        }
    }
}

/// What is to be done about a rollout at a moment, in milliseconds since 1970
///
/// `min` is how many servers the group has at least: less than that by the batch is not gone below for the sake of a rollout.
pub(crate) fn decide(now_ms: i64, rollout: &Rollout, servers: &[Server], min: usize) -> Verdict {
    let by_name: BTreeMap<InstanceId, &Server> = servers.iter().map(|one| (one.instance, one)).collect();
    let is_new = |one: &Server| one.content == rollout.content;
    let is_active = rollout.phase == Phase::Active;
    let mut verdict = Verdict {
        updated: servers
            .iter()
            .filter(|one| is_new(one) && one.stage == Stage::Serving)
            .count(),
        ..Verdict::default()
    };
    if is_active {
        verdict.end = failure(now_ms, rollout, servers).map(End::Halted);
    }
    let goes_on = is_active && verdict.end.is_none();
    for (instance, since_ms) in &rollout.replacing {
        let seen = by_name.get(instance).copied();
        let is_kept = match seen.map(|one| one.stage) {
            Some(Stage::Serving) => {
                // Else it is ready, or nobody wants it to be replaced any more.
                let is_old = goes_on && seen.is_some_and(|one| !is_new(one));
                if is_old {
                    verdict.stop.push(*instance);
                }
                is_old
            }
            // Whoever keeps the number of servers has it come back elsewhere, or waits.
            Some(Stage::Away) => false,
            Some(Stage::ComingUp | Stage::Ending) => true,
            None | Some(Stage::Ended | Stage::Failed { .. }) => {
                verdict.start.push(*instance);
                true
            }
        };
        if is_kept {
            verdict.replacing.insert(*instance, *since_ms);
        }
    }
    let is_live = |one: &&Server| !matches!(one.stage, Stage::Ended | Stage::Failed { .. });
    let live: BTreeSet<InstanceId> = servers.iter().filter(is_live).map(|one| one.instance).collect();
    verdict.total = live
        .iter()
        .chain(verdict.replacing.keys())
        .collect::<BTreeSet<_>>()
        .len();
    if !goes_on {
        return verdict;
    }
    let is_coming = |one: &&Server| is_new(one) && one.stage == Stage::ComingUp;
    let replaced: BTreeSet<InstanceId> = verdict.replacing.keys().copied().collect();
    let is_apart = |one: &&Server| !replaced.contains(&one.instance);
    let coming = servers.iter().filter(is_coming).filter(is_apart).count();
    verdict.room = rollout.batch.saturating_sub(verdict.replacing.len() + coming);
    let is_left = |one: &&Server| {
        !is_new(one) && matches!(one.stage, Stage::ComingUp | Stage::Serving | Stage::Away) && is_apart(one)
    };
    let mut left: Vec<&Server> = servers.iter().filter(is_left).collect();
    if left.is_empty() && verdict.replacing.is_empty() && coming == 0 {
        verdict.end = Some(End::Done);
        return verdict;
    }
    left.retain(|one| one.stage != Stage::Away);
    // What serves nobody yet, then those with the fewest players.
    left.sort_by_key(|one| (one.stage == Stage::Serving, one.players, one.instance));
    let stays = |one: &&Server| one.stage == Stage::Serving && !verdict.stop.contains(&one.instance);
    let mut serving = servers.iter().filter(stays).count();
    for one in left {
        if verdict.room == 0 {
            break;
        }
        if one.stage == Stage::Serving {
            if serving <= min.saturating_sub(rollout.batch) {
                break;
            }
            serving -= 1;
        }
        verdict.room -= 1;
        verdict.stop.push(one.instance);
        verdict.replacing.insert(one.instance, now_ms);
    }
    let due = verdict
        .replacing
        .values()
        .map(|since| since.saturating_add(rollout.timeout_ms));
    verdict.due_at_ms = due.filter(|at| *at > now_ms).min();
    verdict
}

/// The first reason not to go on
fn failure(now_ms: i64, rollout: &Rollout, servers: &[Server]) -> Option<Halt> {
    let has_failed = |one: &&Server| {
        let is_new = one.content == rollout.content;
        is_new && matches!(one.stage, Stage::Failed { at_ms } if at_ms >= rollout.since_ms)
    };
    if let Some(one) = servers.iter().filter(has_failed).min_by_key(|one| one.instance) {
        let instance = one.instance;
        return Some(Halt::Failed { instance });
    }
    let is_ready = |instance: &InstanceId| {
        let ready = |one: &Server| one.content == rollout.content && one.stage == Stage::Serving;
        servers.iter().any(|one| one.instance == *instance && ready(one))
    };
    let late = rollout
        .replacing
        .iter()
        .find(|(instance, since)| now_ms - **since >= rollout.timeout_ms && !is_ready(instance));
    late.map(|(instance, _)| Halt::Late {
        instance: *instance,
        after_ms: rollout.timeout_ms,
    })
}

impl Rollout {
    /// What a server is made of that is started now; `room` is how many more may come up with what is wanted
    pub(crate) fn content_of(&self, instance: InstanceId, last: Option<u32>, room: &mut usize) -> u32 {
        match self.phase {
            Phase::Active | Phase::Paused if self.replacing.contains_key(&instance) => self.content,
            Phase::Active if *room > 0 => {
                *room -= 1;
                self.content
            }
            Phase::Paused if last == Some(self.content) => self.content,
            Phase::Active | Phase::Paused | Phase::Halted | Phase::Over => self.in_force,
        }
    }
}

/// The servers in the order in which they would be replaced, those together that go at the same time
pub(crate) fn rehearse(rollout: &Rollout, servers: &[Server], min: usize) -> Vec<Vec<InstanceId>> {
    let mut rollout = rollout.clone();
    let mut servers = servers.to_vec();
    // Where nothing can be seen it is taken for what it will be.
    servers.retain(|one| !matches!(one.stage, Stage::Ended | Stage::Failed { .. } | Stage::Ending));
    for one in &mut servers {
        one.stage = Stage::Serving;
    }
    let mut waves = Vec::new();
    // Each turn replaces one at least.
    for _ in 0..=servers.len() {
        let verdict = decide(rollout.since_ms, &rollout, &servers, min.min(servers.len()));
        if verdict.stop.is_empty() {
            break;
        }
        for one in &mut servers {
            if verdict.stop.contains(&one.instance) {
                one.content = rollout.content;
            }
        }
        rollout.replacing.clear();
        waves.push(verdict.stop);
    }
    waves
}

#[cfg(test)]
mod tests;
