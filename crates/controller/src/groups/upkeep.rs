//! What a group is seen as, and what people say about the keeping of its servers
//!
//! What is remembered for long (crashes, pauses) is in a record of its own; since when a server is empty, and why the last start was
//! refused, is forgotten with the process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prexorcloud_proto::StartInstance;
use prexorcloud_protocol::{GroupName, InstanceId, instance::State};
use serde_json::{Map, Value};

use super::{
    ATTEMPTS, Group, GroupError, Groups, changed_by_many,
    deployments::{Progress, completed},
    named,
    record::GroupHealthRecord,
    rollout::{
        self, Server, Verdict,
        record::{KeptValues, RolloutRecord},
    },
    scaling::{Mode, Observed, Plan, Standing, StepKind, Wish, decide::decide, health::CrashLoop},
};
use crate::{
    audit,
    events::{Event, instant},
    fleet::{Fleet, Member},
    inventory::Outline,
    nodes::is_live,
    records::{InstanceRecord, Wanted},
    store::{self, Expect, Record as _, Revision, Store, StoreError, Stored, Txn},
    wall_clock::now_millis,
};

/// How long nodes have to return after a restart of the controller, unless all have before
const SETTLES_WITHIN_MS: i64 = 30_000;

/// Between the first refused start and the next attempt; twice as long each time
const FIRST_RETRY_MS: i64 = 1_000;

const LONGEST_RETRY_MS: i64 = 60_000;

/// A start that was not possible
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) sentence: String,
    pub(crate) at_ms: i64,
    /// When it is tried again, if nothing changes before
    pub(crate) retry_at_ms: i64,
    failures: u32,
}

impl Refusal {
    fn after(before: Option<&Self>, sentence: String, now_ms: i64) -> Self {
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        let pause = FIRST_RETRY_MS
            .saturating_mul(1 << (failures - 1).min(16))
            .min(LONGEST_RETRY_MS);
        Self {
            sentence,
            at_ms: now_ms,
            retry_at_ms: now_ms + pause,
            failures,
        }
    }
}

/// What is seen of a group and not recorded
#[derive(Debug, Default)]
struct Sighting {
    /// Since when servers have no players, by incarnation
    empty: HashMap<InstanceId, (u64, i64)>,
    refusal: Option<Refusal>,
}

/// The keeping of all groups
pub(crate) struct Upkeep {
    pub(super) store: Arc<dyn Store>,
    pub(super) groups: Arc<Groups>,
    pub(super) fleet: Arc<Fleet>,
    started_at_ms: i64,
    sightings: Mutex<HashMap<GroupName, Sighting>>,
}

/// A group with what is to be done about it
pub(crate) struct Outlook {
    pub(super) wish: Wish,
    pub(super) health: Stored<GroupHealthRecord>,
    /// Its servers end too often, since now
    pub(super) looped: Option<CrashLoop>,
    /// There is something to record
    pub(super) is_news: bool,
    /// What has ended and has values kept for when it comes back, and which start of it that was
    pub(super) ended: Vec<(InstanceId, u64)>,
    pub(crate) plan: Plan,
    /// How far a change of what servers are made of has come
    pub(super) progress: Option<Progress>,
    /// The servers that are known
    pub(super) outlines: BTreeMap<InstanceId, Arc<Outline>>,
}

impl Outlook {
    /// Until when nothing is started because servers crash
    pub(crate) fn paused_until_ms(&self) -> Option<i64> {
        let until = self.health.record.paused_until_ms;
        (until > now_millis()).then_some(until)
    }

    /// Who has said that nothing is to be started or stopped
    pub(crate) fn held_by(&self) -> Option<&str> {
        let by = self.health.record.held_by.as_str();
        (!by.is_empty()).then_some(by)
    }
}

impl Upkeep {
    pub(crate) fn new(store: Arc<dyn Store>, groups: Arc<Groups>, fleet: Arc<Fleet>) -> Self {
        Self {
            store,
            groups,
            fleet,
            started_at_ms: now_millis(),
            sightings: Mutex::default(),
        }
    }

    /// What is to be done about a group now; nothing is done
    ///
    /// # Errors
    /// What the storage reported, or that the group was written by a later release.
    pub(crate) async fn outlook(&self, group: &Group) -> Result<Outlook, GroupError> {
        let now_ms = now_millis();
        let wish = self.groups.meaning(group)?.wish(group.name);
        let stored = store::load::<GroupHealthRecord>(&*self.store, group.name.as_str()).await?;
        let is_first = stored.is_none();
        let mut health = stored.unwrap_or_else(|| Stored {
            record: GroupHealthRecord::since(group.name, now_ms),
            revision: Revision::ZERO,
        });
        let members = self.fleet.members(group.name).await?;
        let ended = ended_with_values(&members);
        let outlines = outlines(&members);
        let mut observed = self.observe(group.name, now_ms, members);
        let mut noted = health.record.health();
        let looped = noted.note(now_ms, &observed);
        let before = health.record.clone();
        health.record.set_health(noted);
        health.record.counts_players |= observed.iter().any(|one| one.players > 0);
        let settled_at_ms = self.settled_at(now_ms);
        let history = health.record.history(settled_at_ms);
        let is_known = !observed.is_empty();
        let known = self.groups.rollout(group.name).await?;
        let mut progress = known.map(|(rollout, active)| Progress {
            rollout,
            active,
            has_ended: false,
            is_news: false,
            room: 0,
        });
        let plan = match &mut progress {
            Some(progress) if settled_at_ms <= now_ms && history.held_by.is_none() => {
                let servers = servers(&observed, &outlines);
                let mut rollout = progress.after();
                // Nobody is late for what nobody was allowed to start.
                let free_since_ms = self
                    .started_at_ms
                    .max(history.paused_until_ms)
                    .max(health.record.resumed_at_ms);
                for since in rollout.replacing.values_mut() {
                    *since = free_since_ms.max(*since);
                }
                let verdict = rollout::decide(now_ms, &rollout, &servers, wish.min);
                let placed = stand_ins(&wish, &verdict, &mut observed, now_ms);
                let mut plan = decide(now_ms, &wish, &observed, &history);
                let verdict = plan.replace(verdict, progress.after().content, placed);
                progress.note(now_ms, &verdict);
                self.keep_values(progress, &outlines, plan.standing).await?;
                plan
            }
            _ => decide(now_ms, &wish, &observed, &history),
        };
        // Groups of which there is nothing to say are not written about.
        let is_news = is_first && (plan.desired > 0 || is_known)
            || before != health.record
            || progress.as_ref().is_some_and(|progress| progress.is_news);
        Ok(Outlook {
            wish,
            health,
            looped,
            is_news,
            ended,
            plan,
            progress,
            outlines,
        })
    }

    /// Keeps the values that servers were started with which are about to be stopped to be replaced, and lets those go that are back
    async fn keep_values(
        &self,
        progress: &mut Progress,
        outlines: &BTreeMap<InstanceId, Arc<Outline>>,
        standing: Standing,
    ) -> Result<(), StoreError> {
        let RolloutRecord { replacing, kept, .. } = &mut progress.rollout.record;
        let before = kept.len();
        kept.retain(|instance, kept| {
            let instance = instance.parse::<InstanceId>().ok();
            let start = instance.and_then(|instance| outlines.get(&instance));
            let is_of = start.is_some_and(|start| start.incarnation == kept.incarnation);
            is_of
                && (standing != Standing::Settled
                    || instance.is_some_and(|id| replacing.contains_key(id.as_str())))
        });
        progress.is_news |= kept.len() != before;
        for start in outlines.values() {
            let id = start.instance.as_str();
            if !start.keeps_values || !replacing.contains_key(id) || kept.contains_key(id) {
                continue;
            }
            let found = store::load::<InstanceRecord>(&*self.store, id).await?;
            let Some(record) = found.map(|found| found.record) else {
                continue;
            };
            let incarnation = record.start.as_ref().map_or(0, |start| start.incarnation);
            if incarnation == start.incarnation && !record.sealed_given.is_empty() {
                let sealed = record.sealed_given;
                kept.insert(id.to_owned(), KeptValues { incarnation, sealed });
                progress.is_news = true;
            }
        }
        Ok(())
    }

    /// Removes the values that are kept for servers that their group does not bring back
    ///
    /// # Errors
    /// What the storage reported.
    pub(super) async fn give_up_values(&self, ended: Vec<(InstanceId, u64)>) -> Result<(), StoreError> {
        for (instance, incarnation) in ended {
            let found = store::load::<InstanceRecord>(&*self.store, instance.as_str()).await?;
            let is_it = |record: &InstanceRecord| {
                let is_of = |start: &StartInstance| start.incarnation == incarnation;
                record.start.as_ref().is_some_and(is_of) && !is_live(record) && !record.lost
            };
            let Some(mut found) = found.filter(|found| is_it(&found.record)) else {
                continue;
            };
            found.record.sealed_given.clear();
            let txn = Txn::new().replace(found.revision, &found.record);
            // If somebody was faster, that is looked at as well.
            if self.store.txn(txn).await?.committed().is_some() {
                tracing::info!(%instance, incarnation, "a server is not brought back; the values of its start are removed");
            }
        }
        Ok(())
    }

    /// The servers of a group as a rollout sees them
    pub(super) async fn servers(&self, group: &Group) -> Result<(Vec<Server>, Wish), GroupError> {
        let wish = self.groups.meaning(group)?.wish(group.name);
        let members = self.fleet.members(group.name).await?;
        let outlines = outlines(&members);
        let observed = self.observe(group.name, now_millis(), members);
        Ok((servers(&observed, &outlines), wish))
    }

    /// What would be done if these fields were changed; nothing is
    ///
    /// # Errors
    /// What a change of the group would be refused with.
    pub(crate) async fn outlook_with(
        &self,
        name: &str,
        fields: Map<String, Value>,
    ) -> Result<Outlook, GroupError> {
        let mut group = self.groups.show(name).await?;
        if !fields.is_empty() {
            self.groups.change(&mut group, fields).await?;
        }
        self.outlook(&group).await
    }

    /// Why the last start of a group was refused, if none was possible since
    pub(crate) fn refusal(&self, group: GroupName) -> Option<Refusal> {
        self.sightings().get(&group).and_then(|seen| seen.refusal.clone())
    }

    /// What a start was refused for may be over: the next look tries it
    pub(super) fn retry_now(&self, group: GroupName) {
        if let Some(Sighting {
            refusal: Some(refusal),
            ..
        }) = self.sightings().get_mut(&group)
        {
            refusal.retry_at_ms = 0;
            refusal.failures = 0;
        }
    }

    pub(super) fn note_refusal(&self, group: GroupName, sentence: Option<String>) -> Option<Refusal> {
        let mut sightings = self.sightings();
        let sighting = sightings.entry(group).or_default();
        sighting.refusal =
            sentence.map(|sentence| Refusal::after(sighting.refusal.as_ref(), sentence, now_millis()));
        sighting.refusal.clone()
    }

    pub(super) fn forget(&self, group: GroupName) {
        self.sightings().remove(&group);
    }

    /// Records what an outlook has found out; false if somebody else has changed it meanwhile
    pub(super) async fn record(&self, outlook: &mut Outlook) -> Result<bool, GroupError> {
        let record = &outlook.health.record;
        let mut txn = match outlook.health.revision {
            Revision::ZERO => Txn::new().create(record),
            revision => Txn::new().replace(revision, record),
        };
        txn = tell_loop(txn, &record.name, outlook.looped.as_ref());
        if let Some(progress) = outlook.progress.as_ref().filter(|progress| progress.is_news) {
            txn = txn.replace(progress.rollout.revision, &progress.rollout.record);
            if let Some(active) = &progress.active {
                txn = txn.replace(active.revision, &active.record);
                if progress.has_ended {
                    txn = txn.tell(&completed(&active.record));
                }
            }
        }
        let Some(revision) = self.store.txn(txn).await?.committed() else {
            return Ok(false);
        };
        outlook.health.revision = revision;
        Ok(true)
    }

    /// Nothing is started or stopped any more until somebody says so
    ///
    /// # Errors
    /// [`GroupError::Unknown`], or what the storage reported.
    pub(crate) async fn hold(&self, actor: &str, name: &str) -> Result<Group, GroupError> {
        self.change_health(actor, name, "group.pause", |record| {
            if record.held_by.is_empty() {
                record.held_by = actor.to_owned();
            }
        })
        .await
    }

    /// Servers are kept again, and crashes up to now are forgotten
    ///
    /// # Errors
    /// [`GroupError::Unknown`], or what the storage reported.
    pub(crate) async fn resume(&self, actor: &str, name: &str) -> Result<Group, GroupError> {
        let group = self
            .change_health(actor, name, "group.resume", |record| {
                let mut health = record.health();
                health.resume();
                record.set_health(health);
                record.held_by.clear();
                record.resumed_at_ms = now_millis();
            })
            .await?;
        self.note_refusal(group.name, None);
        Ok(group)
    }

    async fn change_health(
        &self,
        actor: &str,
        name: &str,
        action: &str,
        change: impl Fn(&mut GroupHealthRecord),
    ) -> Result<Group, GroupError> {
        for _ in 0..ATTEMPTS {
            let group = self.groups.show(name).await?;
            let mut outlook = self.outlook(&group).await?;
            change(&mut outlook.health.record);
            let Outlook { health, looped, .. } = outlook;
            let key = super::GroupRecord::key_of(group.name.as_str());
            let txn = match health.revision {
                Revision::ZERO => Txn::new().create(&health.record),
                revision => Txn::new().replace(revision, &health.record),
            };
            let txn = txn
                .expect(key, Expect::At(Revision(group.revision)))
                .put_record(&audit::entry(actor, action, name, ""))
                .tell(&Event::GroupUpdated {
                    group_name: name.to_owned(),
                });
            let txn = tell_loop(txn, name, looped.as_ref());
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(group);
            }
        }
        Err(changed_by_many(name))
    }

    /// Has all servers of a group stopped, and keeps them so; says which
    ///
    /// # Errors
    /// [`GroupError`] if none was stopped.
    pub(crate) async fn stop_all(&self, actor: &str, name: &str) -> Result<Vec<InstanceId>, GroupError> {
        let group = self.hold(actor, name).await?;
        let _turn = self.groups.turns.of(&named(name)?).lock_owned().await;
        let (mut stopped, mut failed) = (Vec::new(), None);
        for member in self.fleet.members(group.name).await? {
            let Member { record, .. } = member;
            if !record.is_live() || record.wanted != Wanted::Run {
                continue;
            }
            let instance = record.instance;
            match self.fleet.stop(instance, false).await {
                Ok(_) => stopped.push(instance),
                // The others are to end all the same.
                Err(error) => {
                    tracing::warn!(group = %name, %instance, %error, "a server of a group that is stopped could not be stopped");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if stopped.is_empty() => Err(error.into()),
            _ => Ok(stopped),
        }
    }

    /// Changes the least number of servers; where only people stop servers, what is more than that is stopped
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong; it may have been changed already.
    pub(crate) async fn scale(
        &self,
        actor: &str,
        name: &str,
        servers: usize,
        seen: Option<u64>,
    ) -> Result<(Group, Vec<InstanceId>), GroupError> {
        let group = self.groups.show(name).await?;
        let mut fields = Map::from_iter([("minInstances".to_owned(), servers.into())]);
        if self.groups.meaning(&group)?.max_instances < servers {
            fields.insert("maxInstances".to_owned(), servers.into());
        }
        let seen = seen.unwrap_or(group.revision);
        let group = self.groups.update(actor, name, fields, Some(seen)).await?;
        let mut stopped = Vec::new();
        if self.groups.meaning(&group)?.scaling_mode == Mode::Manual {
            let _turn = self.groups.turns.of(&group.name).lock_owned().await;
            let Outlook { wish, health, .. } = self.outlook(&group).await?;
            let wish = Wish {
                mode: Mode::Static,
                ..wish
            };
            let now_ms = now_millis();
            let members = self.fleet.members(group.name).await?;
            let observed = self.observe(group.name, now_ms, members);
            let plan = decide(now_ms, &wish, &observed, &health.record.history(0));
            let surplus = plan.steps.iter().filter(|step| step.kind == StepKind::Stop);
            for step in surplus {
                self.fleet.stop(step.instance, false).await?;
                stopped.push(step.instance);
            }
        }
        Ok((group, stopped))
    }

    /// When the controller has seen enough of its nodes to judge what is missing
    fn settled_at(&self, now_ms: i64) -> i64 {
        let at_ms = self.started_at_ms + SETTLES_WITHIN_MS;
        // A clock that was set back must not make it wait for longer.
        let is_over = now_ms >= at_ms || now_ms < self.started_at_ms;
        if is_over || self.fleet.is_complete() {
            0
        } else {
            at_ms
        }
    }

    fn observe(&self, group: GroupName, now_ms: i64, members: Vec<Member>) -> Vec<Observed> {
        let mut sightings = self.sightings();
        let sighting = sightings.entry(group).or_default();
        let before = std::mem::take(&mut sighting.empty);
        members
            .into_iter()
            .map(|member| {
                let Member {
                    record,
                    players,
                    away_since_ms,
                } = member;
                let state = State::try_from(i32::from(record.state)).unwrap_or(State::Scheduled);
                let empty_since_ms = (state == State::Running && players == Some(0)).then(|| {
                    let known = before.get(&record.instance);
                    let known = known.filter(|(incarnation, _)| *incarnation == record.incarnation);
                    known.map_or(now_ms, |(_, since)| (*since).min(now_ms))
                });
                if let Some(since) = empty_since_ms {
                    sighting
                        .empty
                        .insert(record.instance, (record.incarnation, since));
                }
                Observed {
                    instance: record.instance,
                    incarnation: record.incarnation,
                    node: record.node,
                    state,
                    is_wanted: record.wanted == Wanted::Run,
                    is_lost: record.is_lost,
                    players: players.unwrap_or(0),
                    empty_since_ms,
                    // Nodes have their time anew when the controller was away.
                    away_since_ms: away_since_ms
                        .filter(|_| !state.is_terminal())
                        .map(|since| since.max(self.started_at_ms).min(now_ms)),
                    ready_at_ms: record.running_since_ms,
                    ended_at_ms: record.updated_at_ms,
                    cause: record.last_error.clone(),
                }
            })
            .collect()
    }

    fn sightings(&self) -> MutexGuard<'_, HashMap<GroupName, Sighting>> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those that have ended and have values kept for when they come back; what only counts as ended may be taken back itself
pub(super) fn ended_with_values(members: &[Member]) -> Vec<(InstanceId, u64)> {
    let outlines = members.iter().map(|member| &member.record);
    let ended = outlines.filter(|outline| outline.keeps_values && !outline.is_live() && !outline.is_lost);
    ended
        .map(|outline| (outline.instance, outline.incarnation))
        .collect()
}

/// Whoever records that servers end too often tells it
fn tell_loop(txn: Txn, group: &str, looped: Option<&CrashLoop>) -> Txn {
    match looped {
        None => txn,
        Some(looped) => txn.tell(&Event::GroupCrashLoop {
            group: group.to_owned(),
            crash_count: looped.crashes,
            window_start: instant(looped.since_ms),
        }),
    }
}

/// The servers that are known, by their names
fn outlines(members: &[Member]) -> BTreeMap<InstanceId, Arc<Outline>> {
    let outlines = members.iter().map(|member| Arc::clone(&member.record));
    outlines.map(|outline| (outline.instance, outline)).collect()
}

fn servers(observed: &[Observed], outlines: &BTreeMap<InstanceId, Arc<Outline>>) -> Vec<Server> {
    let servers = observed.iter().map(|one| Server {
        instance: one.instance,
        content: outlines
            .get(&one.instance)
            .map_or(0, |outline| outline.deployment_revision),
        stage: one.stage(),
        players: one.players,
    });
    servers.collect()
}

/// Lets those that are being replaced stand for what they will be, so that nothing else is started in their place
///
/// Says how many of them serve nobody meanwhile.
fn stand_ins(wish: &Wish, verdict: &Verdict, observed: &mut Vec<Observed>, now_ms: i64) -> usize {
    let mut placed = 0;
    for instance in verdict.replacing.keys() {
        let known = observed.iter_mut().find(|one| one.instance == *instance);
        match known {
            Some(one) if one.serves() => {}
            Some(one) => {
                placed += 1;
                one.is_wanted = true;
                one.is_lost = false;
                one.state = State::Starting;
                one.away_since_ms = None;
                one.players = 0;
            }
            // It was forgotten while it was away; which node it had does not matter.
            None => {
                placed += 1;
                let Ok(node) = wish.group.as_str().parse() else {
                    continue;
                };
                observed.push(Observed {
                    instance: *instance,
                    incarnation: 0,
                    node,
                    state: State::Starting,
                    is_wanted: true,
                    is_lost: false,
                    players: 0,
                    empty_since_ms: None,
                    away_since_ms: None,
                    ready_at_ms: 0,
                    ended_at_ms: now_ms,
                    cause: String::new(),
                });
            }
        }
    }
    placed
}

pub(super) const LONGEST_RETRY: Duration = Duration::from_millis(60_000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_starts_are_tried_less_and_less_often() {
        let mut refusal = None;
        let pauses: Vec<i64> = (0..9)
            .map(|_| {
                let next = Refusal::after(refusal.as_ref(), "no node is ready".to_owned(), 1_000);
                let pause = next.retry_at_ms - 1_000;
                refusal = Some(next);
                pause / 1000
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
