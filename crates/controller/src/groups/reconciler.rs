//! Carries out what the groups need
//!
//! A group is looked at when something of it changes in the store, and when something is due by its [plan](super::scaling::Plan); there is
//! no clock that walks over the whole fleet. One look at a group runs at a time, and [`AT_ONCE`] of all groups. Whatever is begun is recorded
//! by its node before its daemon hears of it, and the names in a plan are those that are free: a controller that is killed anywhere here
//! finds what it has begun when it is back, and begins nothing twice.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use prexorcloud_protocol::{GroupName, InstanceId, NodeId, instance::State};
use prost::Message as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    GroupError, GroupHealthRecord, GroupRecord,
    deployments::{Blueprint, Progress},
    rollout::{Phase, record::RolloutRecord},
    scaling::{Mode, Standing, Step, StepKind},
    upkeep::{LONGEST_RETRY, Outlook, Upkeep, ended_with_values},
};
use crate::{
    catalog::CatalogRecord,
    events::state_name,
    fleet::Request,
    nodes::{OrderError, StartOrder},
    records::{InstanceRecord, NodeRecord, Wanted},
    store::{self, Change, ChangeSet, Query, Record as _, StoreError, Stored, Watch, WatchError},
    templates::TemplateRecord,
    wall_clock::now_millis,
};

/// Groups that are looked at together
const AT_ONCE: usize = 8;

/// Steps of one look; what is beyond follows in the next one
const MAX_STEPS: usize = 32;

/// Servers that come up on each ready node at the same time, for all groups
const STARTS_PER_NODE: usize = 4;

/// How many may come up at the same time even where there are few nodes
const FEWEST_STARTS: usize = 8;

/// After so long a start that is not ready takes nobody's turn any more
const STARTS_WITHIN_MS: i64 = 300_000;

/// Players come and go without anything being recorded
const PLAYERS_EVERY_MS: i64 = 5_000;

/// A group is looked at once in a while even if nothing of it changes: whether a node answers is recorded nowhere
const LOOKED_AT_EVERY_MS: i64 = 30_000;

/// Before a group is looked at again that had to wait for others
const ROOM_AFTER_MS: i64 = 500;

/// Before all groups are looked at anew because a look has died, as the next one may, too
const AFTER_A_PANIC: Duration = Duration::from_secs(1);

/// What a look at a group came to
struct Look {
    group: GroupName,
    /// What comes first: a higher priority, then a lower weight
    rank: (Reverse<i64>, i64),
    due_at_ms: Option<i64>,
    is_refused: bool,
    /// There is no such group any more
    is_gone: bool,
}

/// Keeps the servers of all groups
pub(crate) struct Reconciler {
    upkeep: Arc<Upkeep>,
    /// What was started here and is coming up, and since when
    coming_up: Mutex<HashMap<InstanceId, i64>>,
}

/// What is to be looked at
#[derive(Default)]
struct Agenda {
    dirty: BTreeSet<GroupName>,
    looking: BTreeSet<GroupName>,
    due: BTreeMap<GroupName, i64>,
    ranks: HashMap<GroupName, (Reverse<i64>, i64)>,
    /// Starts of these were refused: they are tried again when something changes
    refused: BTreeSet<GroupName>,
}

impl Agenda {
    /// The next group to look at
    fn next(&mut self) -> Option<GroupName> {
        let rank = |group: &GroupName| self.ranks.get(group).copied().unwrap_or((Reverse(0), 0));
        let free = self.dirty.iter().filter(|group| !self.looking.contains(*group));
        let next = free.min_by_key(|group| (rank(group), **group)).copied()?;
        self.dirty.remove(&next);
        self.due.remove(&next);
        self.looking.insert(next);
        Some(next)
    }

    fn take_due(&mut self, now_ms: i64) {
        let due = self.due.iter().filter(|(_, at)| **at <= now_ms);
        let due: Vec<GroupName> = due.map(|(group, _)| *group).collect();
        for group in due {
            self.due.remove(&group);
            self.dirty.insert(group);
        }
    }

    fn finish(&mut self, look: &Look) {
        let group = look.group;
        self.looking.remove(&group);
        if look.is_gone {
            self.due.remove(&group);
            self.ranks.remove(&group);
            self.refused.remove(&group);
            return;
        }
        self.ranks.insert(group, look.rank);
        match look.is_refused {
            true => self.refused.insert(group),
            false => self.refused.remove(&group),
        };
        if let Some(at) = look.due_at_ms {
            self.due.insert(group, at);
        }
    }

    /// How long nothing is due
    fn rest(&self, now_ms: i64) -> Duration {
        let next = self.due.values().min().map(|at| at.saturating_sub(now_ms).max(0));
        let next = next.and_then(|wait| u64::try_from(wait).ok());
        // Not longer, for the clock may be set.
        next.map_or(LONGEST_RETRY, Duration::from_millis)
            .min(LONGEST_RETRY)
    }
}

impl Reconciler {
    pub(crate) fn new(upkeep: Arc<Upkeep>) -> Self {
        Self {
            upkeep,
            coming_up: Mutex::default(),
        }
    }

    /// Keeps them until the controller stops
    pub(crate) async fn run(self, stopping: CancellationToken) {
        let this = Arc::new(self);
        let mut agenda = Agenda::default();
        let mut looks: JoinSet<Look> = JoinSet::new();
        let mut changes: Option<Watch> = None;
        loop {
            if changes.is_none() {
                match this.begin(&mut agenda).await {
                    Ok(watch) => changes = Some(watch),
                    Err(error) if error.is_final() => {
                        return stopping.cancelled().await;
                    }
                    Err(error) => tracing::warn!(%error, "the groups cannot be looked after for now"),
                }
            }
            while looks.len() < AT_ONCE
                && let Some(group) = agenda.next()
            {
                let this = Arc::clone(&this);
                looks.spawn(async move { this.look(group).await });
            }
            let rest = match changes {
                Some(_) => agenda.rest(now_millis()),
                None => Duration::from_secs(1),
            };
            let change = async {
                match &mut changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopping.cancelled() => break,
                change = change => {
                    if !this.follow(change, &mut agenda).await {
                        changes = None;
                    }
                }
                Some(look) = looks.join_next(), if !looks.is_empty() => match look {
                    Ok(look) => agenda.finish(&look),
                    Err(error) => {
                        // Which one it was is not known: all are looked at again.
                        tracing::error!(%error, "a look at a group has died");
                        looks.shutdown().await;
                        agenda = Agenda::default();
                        changes = None;
                        tokio::time::sleep(AFTER_A_PANIC).await;
                    }
                },
                () = tokio::time::sleep(rest) => {}
            }
            agenda.take_due(now_millis());
        }
        // What was ordered is recorded; nobody waits for the rest.
        looks.shutdown().await;
    }

    /// Has all groups looked at, and what happens from now on
    async fn begin(&self, agenda: &mut Agenda) -> Result<Watch, StoreError> {
        let groups = self.upkeep.store.list(Query::prefix(GroupRecord::PREFIX)).await?;
        for entry in groups.entries {
            let name = entry.key.strip_prefix(GroupRecord::PREFIX).unwrap_or_default();
            let Ok(name) = name.parse::<GroupName>() else {
                continue;
            };
            agenda.dirty.insert(name);
            let group = self.upkeep.groups.open(Stored::decode(entry)?);
            if let Ok(meaning) = group.and_then(|group| self.upkeep.groups.meaning(&group)) {
                agenda
                    .ranks
                    .insert(name, rank(meaning.priority, meaning.startup_weight));
            }
        }
        Ok(self.upkeep.store.watch("", groups.revision))
    }

    /// Notes which groups a change is about, and those that come with it; false if it cannot be followed any more
    async fn follow(&self, change: Option<Result<ChangeSet, WatchError>>, agenda: &mut Agenda) -> bool {
        match change {
            Some(Ok(set)) => {
                for change in set.changes {
                    self.note(change, agenda).await;
                }
                true
            }
            Some(Err(WatchError::Lagged { .. })) => false,
            Some(Err(WatchError::Closed)) | None => false,
        }
    }

    async fn note(&self, change: Change, agenda: &mut Agenda) {
        let Some((kind, id)) = change.key.split_once('/') else {
            return;
        };
        let is_of = |prefix: &str| prefix.strip_suffix('/') == Some(kind);
        if is_of(GroupRecord::PREFIX) || is_of(GroupHealthRecord::PREFIX) || is_of(RolloutRecord::PREFIX) {
            if let Ok(group) = id.parse() {
                self.retry(agenda, [group]);
            }
        } else if is_of(InstanceRecord::PREFIX) {
            let record = change.value.and_then(|value| InstanceRecord::decode(value).ok());
            let group: Option<GroupName> = record.and_then(|record| record.start?.group.parse().ok());
            agenda.dirty.extend(group);
        } else if is_of(NodeRecord::PREFIX) {
            // It may have come, gone, or begun to take servers.
            let refused = agenda.refused.clone();
            self.retry(agenda, refused);
            if let Ok(node) = id.parse::<NodeId>()
                && let Ok(groups) = self.upkeep.fleet.groups_on(node).await
            {
                agenda.dirty.extend(groups);
            }
        } else if is_of(TemplateRecord::PREFIX) || is_of(CatalogRecord::PREFIX) {
            let refused = agenda.refused.clone();
            self.retry(agenda, refused);
        }
    }

    fn retry(&self, agenda: &mut Agenda, groups: impl IntoIterator<Item = GroupName>) {
        for group in groups {
            self.upkeep.retry_now(group);
            agenda.dirty.insert(group);
        }
    }

    async fn look(&self, group: GroupName) -> Look {
        match self.try_look(group).await {
            Ok(look) => look,
            Err(error) => {
                let refusal = self.upkeep.note_refusal(group, Some(error.to_string()));
                tracing::warn!(%group, %error, "a group cannot be looked after for now");
                Look {
                    group,
                    rank: rank(0, 0),
                    due_at_ms: refusal.map(|refusal| refusal.retry_at_ms),
                    is_refused: true,
                    is_gone: false,
                }
            }
        }
    }

    async fn try_look(&self, name: GroupName) -> Result<Look, GroupError> {
        // Nobody else starts from it, or deletes it, meanwhile.
        let _turn = self.upkeep.groups.turns.of(&name).lock_owned().await;
        let group = match self.upkeep.groups.show(name.as_str()).await {
            Ok(group) => group,
            Err(GroupError::Unknown(_)) => {
                self.upkeep.forget(name);
                let members = self.upkeep.fleet.members(name).await?;
                self.upkeep.give_up_values(ended_with_values(&members)).await?;
                return Ok(Look {
                    group: name,
                    rank: rank(0, 0),
                    due_at_ms: None,
                    is_refused: false,
                    is_gone: true,
                });
            }
            Err(error) => return Err(error),
        };
        let meaning = self.upkeep.groups.meaning(&group)?;
        let mut look = Look {
            group: name,
            rank: rank(meaning.priority, meaning.startup_weight),
            due_at_ms: None,
            is_refused: false,
            is_gone: false,
        };
        let mut outlook = self.upkeep.outlook(&group).await?;
        let now_ms = now_millis();
        let is_scaled = outlook.plan.scales;
        if is_scaled {
            // Before it is done: whoever is killed in between waits a little longer, and does nothing twice.
            outlook.health.record.scaled_at_ms = now_ms;
        }
        if (outlook.is_news || is_scaled) && !self.upkeep.record(&mut outlook).await? {
            look.due_at_ms = Some(now_ms);
            return Ok(look);
        }
        if let Some(progress) = &outlook.progress {
            report(name, progress);
        }
        if let Some(looped) = &outlook.looped {
            let until = crate::events::instant(looped.until_ms);
            tracing::warn!(group = %name, crashes = looped.crashes, %until, "servers of a group crash again and again; it is paused");
        }
        if outlook.plan.standing == Standing::Settled {
            // What has ended by itself is not missed.
            self.upkeep
                .give_up_values(std::mem::take(&mut outlook.ended))
                .await?;
        }
        let is_whole = self.carry_out(&group, &outlook, &mut look).await?;
        let Outlook { plan, wish, .. } = &outlook;
        let counts = wish.mode == Mode::Dynamic && plan.serving > 0;
        let regular = match counts {
            true => Some(now_ms + PLAYERS_EVERY_MS),
            false => (plan.serving > 0 || plan.desired > 0).then_some(now_ms + LOOKED_AT_EVERY_MS),
        };
        let follows = (!is_whole).then_some(now_ms + ROOM_AFTER_MS);
        let due = [look.due_at_ms, plan.due_at_ms, regular, follows];
        look.due_at_ms = due.into_iter().flatten().min();
        Ok(look)
    }

    /// Does what a plan says; false if something is left that only has to wait for others
    async fn carry_out(
        &self,
        group: &super::Group,
        outlook: &Outlook,
        look: &mut Look,
    ) -> Result<bool, GroupError> {
        let name = group.name;
        let steps = &outlook.plan.steps;
        let mut is_whole = steps.len() <= MAX_STEPS;
        let (starts, others): (Vec<&Step>, Vec<&Step>) = steps
            .iter()
            .take(MAX_STEPS)
            .partition(|step| step.kind == StepKind::Start);
        for Step { instance, kind, why } in others {
            let done = match kind {
                StepKind::GiveUp => self.upkeep.fleet.declare_lost(*instance).await,
                _ => self.upkeep.fleet.stop(*instance, false).await.map(drop),
            };
            match done {
                Ok(()) => {
                    tracing::info!(group = %name, %instance, step = kind.name(), %why, "the number of servers is corrected")
                }
                Err(error) => {
                    is_whole = false;
                    tracing::warn!(group = %name, %instance, step = kind.name(), %error, "the number of servers could not be corrected");
                }
            }
        }
        let known = self.upkeep.refusal(name);
        if starts.is_empty() {
            if known.is_some() && outlook.plan.serving >= outlook.plan.desired {
                self.upkeep.note_refusal(name, None);
            }
            return Ok(is_whole);
        }
        if let Some(known) = known.as_ref().filter(|known| known.retry_at_ms > now_millis()) {
            look.is_refused = true;
            look.due_at_ms = Some(known.retry_at_ms);
            return Ok(is_whole);
        }
        let room = self.room().await?;
        if room < starts.len() {
            is_whole = false;
        }
        let mut refused = None;
        let mut orders = Orders::of(&self.upkeep, group, outlook);
        for step in starts.into_iter().take(room) {
            let Step { instance, why, .. } = step;
            let order = match orders.next(step).await {
                Err(error @ GroupError::Store(_)) => return Err(error),
                Err(error) => {
                    // Another one may have other values.
                    refused.get_or_insert(error.to_string());
                    continue;
                }
                Ok(order) => order,
            };
            let because = order.origin.reason.clone();
            let request = Request {
                node: None,
                instance: Some(*instance),
                order,
            };
            match self.upkeep.fleet.start(request).await {
                Ok(seen) => {
                    self.coming_up().insert(*instance, now_millis());
                    let node = seen.record.node;
                    tracing::info!(group = %name, %instance, %node, %why, %because, "a server is started");
                }
                // It may have been started: the next look will see.
                Err(error @ OrderError::Unanswered) => {
                    refused = Some(error.to_string());
                    break;
                }
                Err(error) => {
                    refused = Some(error.to_string());
                    // Another one would fare no better, unless each has a place of its own.
                    if !outlook.wish.keeps_files {
                        break;
                    }
                }
            }
        }
        let is_news = known.as_ref().map(|known| &known.sentence) != refused.as_ref();
        if let Some(sentence) = refused.as_ref().filter(|_| is_news) {
            tracing::warn!(group = %name, reason = %sentence, "servers of a group cannot be started; it is tried again");
        }
        let refusal = self.upkeep.note_refusal(name, refused);
        look.is_refused = refusal.is_some();
        look.due_at_ms = refusal.map(|refusal| refusal.retry_at_ms);
        Ok(is_whole || look.is_refused)
    }

    /// How many more servers may come up at the same time
    async fn room(&self) -> Result<usize, StoreError> {
        let started: Vec<(InstanceId, i64)> = {
            let coming_up = self.coming_up();
            coming_up
                .iter()
                .map(|(instance, since)| (*instance, *since))
                .collect()
        };
        let now_ms = now_millis();
        for (instance, since) in started {
            let is_coming = match self.upkeep.fleet.get(instance).await {
                Ok(seen) => {
                    State::try_from(i32::from(seen.record.state)).is_ok_and(State::is_coming_up)
                        && (0..STARTS_WITHIN_MS).contains(&(now_ms - since))
                }
                Err(OrderError::Store(error)) => return Err(error),
                Err(_) => false,
            };
            if !is_coming {
                self.coming_up().remove(&instance);
            }
        }
        let most = FEWEST_STARTS.max(STARTS_PER_NODE * self.upkeep.fleet.ready_nodes());
        Ok(most.saturating_sub(self.coming_up().len()))
    }

    fn coming_up(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, i64>> {
        self.coming_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the start of a server that comes back has ended
fn ending(record: &InstanceRecord) -> String {
    let incarnation = record.start.as_ref().map_or(0, |start| start.incarnation);
    let state = state_name(record.state());
    let node = &record.node_id;
    let mut ending = format!("; its start {incarnation} on {node} was {state}");
    if !record.last_error.is_empty() {
        ending.push_str(": ");
        ending.push_str(&record.last_error);
    }
    ending
}

/// What the servers are started with that one look starts
struct Orders<'a> {
    upkeep: &'a Upkeep,
    group: &'a super::Group,
    outlook: &'a Outlook,
    /// How many more may come up with what is being rolled out
    room: usize,
    known: BTreeMap<Option<u32>, StartOrder>,
}

impl<'a> Orders<'a> {
    fn of(upkeep: &'a Upkeep, group: &'a super::Group, outlook: &'a Outlook) -> Self {
        Self {
            upkeep,
            group,
            outlook,
            room: outlook.progress.as_ref().map_or(0, |progress| progress.room),
            known: BTreeMap::new(),
        }
    }

    /// What a server is started with: what its group says, and the values that were given for it if it comes back
    ///
    /// Those without such values and of the same content have the same order, which is kept for the next one.
    async fn next(&mut self, step: &Step) -> Result<StartOrder, GroupError> {
        let Upkeep { store, groups, .. } = self.upkeep;
        let instance = step.instance;
        let content = self.outlook.progress.as_ref().map(|progress| {
            let outline = self.outlook.outlines.get(&instance);
            let last = outline.map(|outline| outline.deployment_revision);
            progress.after().content_of(instance, last, &mut self.room)
        });
        let known = store::load::<InstanceRecord>(&**store, instance.as_str()).await?;
        let known_since_ms = self.outlook.health.record.known_since_ms;
        // What was of an earlier group with this name, or was stopped, does not come back.
        let returning = known.map(|stored| stored.record).filter(|record| {
            let of = record.start.as_ref().map(|start| start.group.as_str());
            let is_of = of == Some(self.group.name.as_str());
            is_of && record.wanted() == Wanted::Run && record.updated_at_ms >= known_since_ms
        });
        let mut reason = step.why.to_string();
        if let Some(record) = &returning {
            reason.push_str(&ending(record));
        }
        let rollout = self.outlook.progress.as_ref();
        let kept = rollout.and_then(|progress| progress.rollout.record.kept.get(instance.as_str()));
        let given = match (&returning, kept) {
            (Some(record), _) => Some(groups.given(record)?),
            // It was stopped to be replaced.
            (None, Some(kept)) => Some(groups.kept(instance, kept)?),
            (None, None) => None,
        };
        if let Some(given) = given.filter(|given| !given.0.is_empty()) {
            let blueprint = self.blueprint(content).await?;
            return groups.order_again(&blueprint, instance, given, reason).await;
        }
        let mut order = match self.known.get(&content) {
            Some(known) => known.clone(),
            None => {
                let order = groups
                    .order(&self.blueprint(content).await?, &BTreeMap::new())
                    .await?;
                self.known.insert(content, order.clone());
                order
            }
        };
        order.origin.reason = reason;
        Ok(order)
    }

    async fn blueprint(&self, content: Option<u32>) -> Result<Blueprint, GroupError> {
        match content {
            Some(content) => self.upkeep.groups.blueprint(self.group, content).await,
            None => self.upkeep.groups.blueprint_now(self.group).await,
        }
    }
}

/// Says how a rollout has ended, if it has now
fn report(group: GroupName, progress: &Progress) {
    let Some(active) = progress.active.as_ref().filter(|_| progress.has_ended) else {
        return;
    };
    let record = &active.record;
    let (deployment, servers) = (record.revision, record.total);
    match progress.after().phase {
        Phase::Halted => {
            tracing::warn!(%group, deployment, reason = %record.reason, "a deployment is halted; go back: prexorctl deploy rollback {group} {deployment}");
        }
        Phase::Active | Phase::Paused | Phase::Over => {
            tracing::info!(%group, deployment, servers, "all servers have what was deployed");
        }
    }
}

fn rank(priority: i64, weight: i64) -> (Reverse<i64>, i64) {
    (Reverse(priority), weight)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn look(group: GroupName, due_at_ms: Option<i64>) -> Look {
        Look {
            group,
            rank: rank(0, 0),
            due_at_ms,
            is_refused: false,
            is_gone: false,
        }
    }

    #[test]
    fn groups_are_looked_at_by_rank_and_each_once_at_a_time() {
        let mut agenda = Agenda::default();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| name.parse::<GroupName>().unwrap());
        agenda.ranks = [(b, rank(5, 0)), (c, rank(0, -1)), (d, rank(0, 1))].into();
        agenda.dirty = [a, b, c, d].into();
        let order: Vec<GroupName> = std::iter::from_fn(|| agenda.next()).collect();
        assert_eq!(order, [b, c, a, d]);
        agenda.dirty.insert(a);
        assert_eq!(agenda.next(), None, "it is being looked at");
        agenda.finish(&look(a, Some(500)));
        assert_eq!(agenda.next(), Some(a));
        agenda.finish(&look(a, Some(500)));
        assert_eq!(agenda.rest(400), Duration::from_millis(100));
        agenda.take_due(499);
        assert_eq!(agenda.next(), None);
        agenda.take_due(500);
        assert_eq!(agenda.next(), Some(a));
        agenda.finish(&Look {
            is_gone: true,
            ..look(a, None)
        });
        assert_eq!((agenda.rest(0), agenda.next()), (LONGEST_RETRY, None));
    }
}
