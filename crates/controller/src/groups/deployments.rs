//! Deployments: what a group is made of is pinned, brought to its servers, and taken back
//!
//! What was pinned by the deployment in force is what all starts of the group take, until another one is deployed: a change of the group or
//! of a template reaches servers by a deployment, and nothing comes back after a rollback. What has to be recorded together (the rollout, the
//! deployment, the settings that a rollback restores, the event) is in one transaction, which compares with what was read.

use std::collections::BTreeMap;

use prexorcloud_protocol::{GroupName, InstanceId};

use super::{
    ATTEMPTS, Group, GroupError, GroupRecord, Groups, changed_by_many,
    rollout::{
        self, Rollout,
        record::{DeploymentRecord, DeploymentState, PinnedLayer, RolloutRecord},
    },
    settings::{Meaning, Settings},
    unreadable,
    upkeep::Upkeep,
};
use crate::{
    audit,
    events::Event,
    records::InstanceRecord,
    store::{self, Expect, Query, Record as _, Revision, Stored, Txn},
    templates::{self, Layer, TemplateVersionRecord},
    wall_clock::now_millis,
};

/// Deployments of a group that are remembered, besides those that something still needs
const REMEMBERED: usize = 20;

/// The kind of all deployments
pub(crate) const STRATEGY: &str = "ROLLING";

/// What a server is made of
#[derive(Clone, Debug)]
pub(super) struct Blueprint {
    pub(super) group: Group,
    pub(super) meaning: Meaning,
    pub(super) layers: Vec<Layer>,
    /// The deployment that has pinned it; 0 = none
    pub(super) content: u32,
}

/// How fast a deployment goes
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How many servers are replaced at the same time
    pub(crate) batch: u32,
    /// How long the replacement of one may take until it is ready
    pub(crate) timeout_seconds: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            batch: 1,
            timeout_seconds: 600,
        }
    }
}

/// A deployment, and the servers in the order in which they are replaced
pub(crate) struct Deployed {
    pub(crate) deployment: DeploymentRecord,
    pub(crate) waves: Vec<Vec<InstanceId>>,
}

/// Whether it is done, or only looked at
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    Real,
    Dry,
}

impl Groups {
    /// What is rolled out in a group, and the deployment that is under way, paused or halted
    pub(super) async fn rollout(
        &self,
        group: GroupName,
    ) -> Result<Option<(Stored<RolloutRecord>, Option<Stored<DeploymentRecord>>)>, GroupError> {
        let Some(rollout) = store::load::<RolloutRecord>(&*self.store, group.as_str()).await? else {
            return Ok(None);
        };
        let active = match rollout.record.active {
            0 => None,
            revision => self.recorded(group, revision).await?,
        };
        Ok(Some((rollout, active)))
    }

    async fn recorded(
        &self,
        group: GroupName,
        revision: u32,
    ) -> Result<Option<Stored<DeploymentRecord>>, GroupError> {
        let id = DeploymentRecord::id_of(group.as_str(), revision);
        Ok(store::load(&*self.store, &id).await?)
    }

    /// What is in force of a group: what was deployed, or else what it says now
    pub(super) async fn blueprint_in_force(&self, group: &Group) -> Result<Blueprint, GroupError> {
        let rollout = store::load::<RolloutRecord>(&*self.store, group.name.as_str()).await?;
        match rollout {
            Some(rollout) => self.blueprint(group, rollout.record.in_force).await,
            None => self.blueprint_now(group).await,
        }
    }

    /// What a group says now, with the versions of its templates that count now
    pub(super) async fn blueprint_now(&self, group: &Group) -> Result<Blueprint, GroupError> {
        if group.is_unreadable {
            return Err(unreadable(group.name));
        }
        let meaning = self.meaning(group)?;
        Ok(Blueprint {
            layers: self.layers(group.name, &meaning).await?,
            group: group.clone(),
            meaning,
            content: 0,
        })
    }

    /// What a deployment has pinned, and how many there are and under which names as the group says now
    pub(super) async fn blueprint(&self, group: &Group, content: u32) -> Result<Blueprint, GroupError> {
        let found = self.recorded(group.name, content).await?;
        let pinned = found.and_then(|found| Some((found.record.settings.clone()?, found.record)));
        let Some((settings, record)) = pinned else {
            return Err(GroupError::Conflict(format!(
                "what deployment {content} of {} has brought is not known any more: prexorctl deploy start {}",
                group.name, group.name
            )));
        };
        let pinned = self.open(Stored {
            record: settings,
            revision: Revision(group.revision),
        })?;
        if pinned.is_unreadable {
            return Err(unreadable(group.name));
        }
        let group = Group {
            settings: Settings::made_of(&pinned.settings, &group.settings),
            hidden: pinned.hidden,
            is_unreadable: false,
            ..group.clone()
        };
        let mut meaning = self.meaning(&group)?;
        if !record.platform_version.is_empty() {
            meaning.platform_version = record.platform_version;
        }
        let layers = record.layers.into_iter();
        let layers = layers.map(|layer| Layer::from_parts(layer.name, layer.template, layer.version));
        Ok(Blueprint {
            group,
            meaning,
            layers: layers.collect(),
            content,
        })
    }

    /// Writes into a deployment what servers are made of
    async fn pin(&self, blueprint: &Blueprint, record: &mut DeploymentRecord) -> Result<(), GroupError> {
        let (resolved, _) = self.resolved(&blueprint.meaning).await?;
        record.settings = Some(self.seal(&blueprint.group)?);
        record.platform_version = match resolved.platform_version == blueprint.meaning.platform_version {
            true => String::new(),
            false => resolved.platform_version,
        };
        let layers = blueprint.layers.iter().map(|layer| {
            let (template, version) = layer.parts();
            PinnedLayer {
                name: layer.name().to_owned(),
                template: template.cloned(),
                version: version.cloned(),
            }
        });
        record.layers = layers.collect();
        Ok(())
    }

    /// What there was before the first deployment: the settings are those of now, the versions those that servers have
    async fn baseline(&self, group: &Group, servers: &[InstanceId]) -> Result<DeploymentRecord, GroupError> {
        let mut blueprint = self.blueprint_now(group).await?;
        let mut newest: Option<InstanceRecord> = None;
        for instance in servers {
            let found = store::load::<InstanceRecord>(&*self.store, instance.as_str()).await?;
            let found = found.map(|found| found.record);
            if found.as_ref().map(|found| found.created_at_ms)
                > newest.as_ref().map(|known| known.created_at_ms)
            {
                newest = found;
            }
        }
        let start = newest.and_then(|newest| newest.start);
        let had = start.as_ref().map(templates::layers).unwrap_or_default();
        let mut layers = Vec::with_capacity(blueprint.layers.len());
        for layer in blueprint.layers {
            let had = had.iter().find(|had| had.name == layer.name());
            let version = match had {
                Some(had) => self.version_as(layer.name(), &had.hash).await?,
                None => None,
            };
            layers.push(match version {
                Some(version) => layer.with_version(version),
                None => layer,
            });
        }
        blueprint.layers = layers;
        let mut record = DeploymentRecord {
            group: group.name.to_string(),
            created_at_ms: now_millis(),
            ..DeploymentRecord::default()
        };
        record.set_state(DeploymentState::Baseline);
        self.pin(&blueprint, &mut record).await?;
        Ok(record)
    }

    async fn version_as(
        &self,
        template: &str,
        hash: &str,
    ) -> Result<Option<TemplateVersionRecord>, GroupError> {
        let prefix = TemplateVersionRecord::prefix_of(template);
        for entry in self.store.list(Query::prefix(prefix)).await?.entries {
            let version = Stored::<TemplateVersionRecord>::decode(entry)?.record;
            if version.is_known_as(hash) {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// Deletes all that is known of deployments of a group
    pub(super) async fn forget_deployments(&self, group: GroupName) -> Result<Txn, GroupError> {
        let prefix = DeploymentRecord::prefix_of(group.as_str());
        let all = self.store.list(Query::prefix(prefix)).await?.entries;
        let txn = Txn::new().delete(RolloutRecord::key_of(group.as_str()));
        Ok(all.into_iter().fold(txn, |txn, entry| txn.delete(entry.key)))
    }

    /// Deletes the oldest deployments that nothing needs
    async fn prune(
        &self,
        mut txn: Txn,
        rollout: &RolloutRecord,
        newest: &DeploymentRecord,
    ) -> Result<Txn, GroupError> {
        let prefix = DeploymentRecord::prefix_of(&rollout.name);
        let all = self.store.list(Query::prefix(prefix)).await?.entries;
        let surplus = (all.len() + 1).saturating_sub(REMEMBERED);
        let needed = [
            rollout.in_force,
            rollout.active,
            newest.content,
            newest.base,
            newest.rollback_of,
        ];
        for entry in all.into_iter().take(surplus) {
            let key = entry.key.clone();
            let old = Stored::<DeploymentRecord>::decode(entry)?.record;
            if !needed.contains(&old.revision) {
                txn = txn.delete(key);
            }
        }
        Ok(txn)
    }

    /// Deployments of a group, the newest first, and how many there are
    ///
    /// # Errors
    /// [`GroupError::Unknown`], or what the storage reported.
    pub(crate) async fn deployments(
        &self,
        name: &str,
        skipped: usize,
        size: usize,
    ) -> Result<(Vec<DeploymentRecord>, usize), GroupError> {
        let group = self.show(name).await?;
        let prefix = DeploymentRecord::prefix_of(group.name.as_str());
        let all = self.store.list(Query::prefix(prefix)).await?.entries;
        let mut found = Vec::with_capacity(all.len());
        for entry in all.into_iter().rev() {
            let record = Stored::<DeploymentRecord>::decode(entry)?.record;
            if record.revision > 0 {
                found.push(record);
            }
        }
        let total = found.len();
        Ok((found.into_iter().skip(skipped).take(size).collect(), total))
    }

    /// One deployment
    ///
    /// # Errors
    /// [`GroupError::UnknownDeployment`], and the others.
    pub(crate) async fn deployment(&self, name: &str, revision: u32) -> Result<DeploymentRecord, GroupError> {
        let group = self.show(name).await?;
        Ok(self.known(group.name, revision).await?.record)
    }

    async fn known(&self, group: GroupName, revision: u32) -> Result<Stored<DeploymentRecord>, GroupError> {
        let found = match revision {
            0 => None,
            revision => self.recorded(group, revision).await?,
        };
        found.ok_or_else(|| GroupError::UnknownDeployment {
            group: group.to_string(),
            revision,
        })
    }
}

/// What a change of the rollout of a group is made on top of
struct Before {
    group: Group,
    rollout: Stored<RolloutRecord>,
    active: Option<Stored<DeploymentRecord>>,
    /// To be recorded with the first deployment
    baseline: Option<DeploymentRecord>,
}

impl Upkeep {
    /// Brings what a group says now, and the versions of its templates that count now, to all of its servers
    ///
    /// # Errors
    /// [`GroupError`] with what keeps it from being started at all; nothing is changed then.
    pub(crate) async fn deploy(
        &self,
        actor: &str,
        name: &str,
        pace: Pace,
        trial: Trial,
    ) -> Result<Deployed, GroupError> {
        for _ in 0..ATTEMPTS {
            let before = self.before(name).await?;
            let _turn = self.groups.turns.of(&before.group.name).lock_owned().await;
            let blueprint = self.groups.blueprint_now(&before.group).await?;
            // Better now than by its servers.
            drop(self.groups.order(&blueprint, &BTreeMap::new()).await?);
            let mut deployment = before.next(actor, pace);
            deployment.content = deployment.revision;
            self.groups.pin(&blueprint, &mut deployment).await?;
            let txn = Txn::new().put_record(&audit::entry(
                actor,
                "group.deploy",
                name,
                &deployment.revision.to_string(),
            ));
            // What was looked at is what is pinned.
            let key = GroupRecord::key_of(name);
            let txn = txn.expect(key, Expect::At(Revision(before.group.revision)));
            if let Some(deployed) = self.begin(before, deployment, txn, trial).await? {
                return Ok(deployed);
            }
        }
        Err(changed_by_many(name))
    }

    /// Undoes a deployment: what was in force before it is deployed again, and the settings of the group are those again
    ///
    /// # Errors
    /// [`GroupError::UnknownDeployment`], and [`GroupError::Conflict`] if it was undone already, or what was before is forgotten.
    pub(crate) async fn rollback(
        &self,
        actor: &str,
        name: &str,
        revision: u32,
        trial: Trial,
    ) -> Result<Deployed, GroupError> {
        for _ in 0..ATTEMPTS {
            let mut before = self.before(name).await?;
            let group = &before.group;
            let _turn = self.groups.turns.of(&group.name).lock_owned().await;
            let mut undone = self.groups.known(group.name, revision).await?;
            if undone.record.state() == DeploymentState::RolledBack {
                return Err(GroupError::Conflict(format!(
                    "deployment {revision} of {name} was rolled back already: prexorctl deploy list {name}"
                )));
            }
            let pace = Pace {
                batch: undone.record.batch,
                timeout_seconds: undone.record.timeout_seconds,
            };
            let blueprint = self.groups.blueprint(group, undone.record.base).await?;
            let mut deployment = before.next(actor, pace);
            deployment.content = undone.record.base;
            deployment.rollback_of = revision;
            let mut txn = Txn::new().put_record(&audit::entry(
                actor,
                "group.rollback",
                name,
                &revision.to_string(),
            ));
            txn = txn.expect(GroupRecord::key_of(name), Expect::At(Revision(group.revision)));
            if blueprint.group.settings != group.settings {
                let mut restored = blueprint.group.clone();
                restored.hidden.extend(group.hidden.iter().cloned());
                let settings = &self.groups.meaning(&restored)?.variable_values;
                restored.hidden.retain(|key| settings.contains_key(key));
                restored.updated_at_ms = now_millis();
                txn = txn
                    .put_record(&self.groups.seal(&restored)?)
                    .tell(&Event::GroupUpdated {
                        group_name: name.to_owned(),
                    });
            }
            let now_ms = now_millis();
            let is_active = before.rollout.record.active == revision;
            undone.record.set_state(DeploymentState::RolledBack);
            if undone.record.completed_at_ms == 0 {
                undone.record.completed_at_ms = now_ms;
                txn = txn.tell(&completed(&undone.record));
            }
            txn = txn.replace(undone.revision, &undone.record);
            if is_active {
                before.active = None;
            }
            if let Some(deployed) = self.begin(before, deployment, txn, trial).await? {
                return Ok(deployed);
            }
        }
        Err(changed_by_many(name))
    }

    /// Stops no more servers for the sake of a deployment
    ///
    /// # Errors
    /// [`GroupError::Conflict`] if it is not under way.
    pub(crate) async fn pause_deployment(
        &self,
        actor: &str,
        name: &str,
        revision: u32,
    ) -> Result<DeploymentRecord, GroupError> {
        self.turn_deployment(
            actor,
            name,
            revision,
            "group.deploy.pause",
            |record, _| match record.state() {
                DeploymentState::InProgress | DeploymentState::Paused => {
                    record.set_state(DeploymentState::Paused);
                    true
                }
                _ => false,
            },
        )
        .await
    }

    /// Goes on with a deployment that was paused, or was halted: what has failed is tried again
    ///
    /// # Errors
    /// [`GroupError::Conflict`] if it is over.
    pub(crate) async fn resume_deployment(
        &self,
        actor: &str,
        name: &str,
        revision: u32,
    ) -> Result<DeploymentRecord, GroupError> {
        self.turn_deployment(actor, name, revision, "group.deploy.resume", |record, rollout| {
            let now_ms = now_millis();
            match record.state() {
                DeploymentState::InProgress => return true,
                DeploymentState::Paused => {}
                DeploymentState::Failed => rollout.since_ms = now_ms,
                _ => return false,
            }
            record.set_state(DeploymentState::InProgress);
            record.completed_at_ms = 0;
            record.reason.clear();
            rollout.replacing.values_mut().for_each(|since| *since = now_ms);
            true
        })
        .await
    }

    async fn turn_deployment(
        &self,
        actor: &str,
        name: &str,
        revision: u32,
        action: &str,
        turn: impl Fn(&mut DeploymentRecord, &mut RolloutRecord) -> bool,
    ) -> Result<DeploymentRecord, GroupError> {
        for _ in 0..ATTEMPTS {
            let group = self.groups.show(name).await?;
            let mut deployment = self.groups.known(group.name, revision).await?;
            let state = deployment.record.state().name();
            let over = || {
                Err(GroupError::Conflict(format!(
                    "deployment {revision} of {name} is {state}, and not under way: prexorctl deploy list {name}"
                )))
            };
            let Some((mut rollout, _)) = self.groups.rollout(group.name).await? else {
                return over();
            };
            let is_active = rollout.record.active == revision;
            if !is_active || !turn(&mut deployment.record, &mut rollout.record) {
                return over();
            }
            let txn = Txn::new()
                .replace(deployment.revision, &deployment.record)
                .replace(rollout.revision, &rollout.record)
                .put_record(&audit::entry(actor, action, name, &revision.to_string()));
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(deployment.record);
            }
        }
        Err(changed_by_many(name))
    }

    async fn before(&self, name: &str) -> Result<Before, GroupError> {
        let group = self.groups.show(name).await?;
        let known = self.groups.rollout(group.name).await?;
        if let Some((rollout, active)) = known {
            return Ok(Before {
                group,
                rollout,
                active,
                baseline: None,
            });
        }
        let members = self.fleet.members(group.name).await?;
        let live = members.iter().filter(|member| member.record.is_live());
        let live: Vec<InstanceId> = live.map(|member| member.record.instance).collect();
        Ok(Before {
            rollout: Stored {
                record: RolloutRecord {
                    name: group.name.to_string(),
                    ..RolloutRecord::default()
                },
                revision: Revision::ZERO,
            },
            active: None,
            baseline: Some(self.groups.baseline(&group, &live).await?),
            group,
        })
    }

    /// Records a deployment as the one under way; `None` = somebody else has changed something meanwhile
    async fn begin(
        &self,
        before: Before,
        mut deployment: DeploymentRecord,
        mut txn: Txn,
        trial: Trial,
    ) -> Result<Option<Deployed>, GroupError> {
        let Before {
            group,
            mut rollout,
            active,
            baseline,
        } = before;
        let (now_ms, revision) = (now_millis(), deployment.revision);
        if let Some(mut active) = active {
            if active.record.state() != DeploymentState::Failed {
                active.record.set_state(DeploymentState::Failed);
                active.record.completed_at_ms = now_ms;
                active.record.reason = format!("deployment {revision} took its place before it was done");
                txn = txn.tell(&completed(&active.record));
            }
            txn = txn.replace(active.revision, &active.record);
        }
        let record = &mut rollout.record;
        record.last_revision = revision;
        record.active = revision;
        record.since_ms = now_ms;
        record.replacing.values_mut().for_each(|since| *since = now_ms);
        let started = record.rollout(Some(&deployment));
        let (servers, wish) = self.servers(&group).await?;
        let verdict = rollout::decide(now_ms, &started, &servers, wish.min);
        deployment.total = count(verdict.total);
        deployment.updated = count(verdict.updated);
        let waves = rollout::rehearse(&started, &servers, wish.min);
        if trial == Trial::Dry {
            return Ok(Some(Deployed { deployment, waves }));
        }
        txn = txn.create(&deployment).tell(&Event::DeploymentCreated {
            group_name: group.name.to_string(),
            revision,
            strategy: STRATEGY.to_owned(),
        });
        txn = match rollout.revision {
            Revision::ZERO => txn.create(&rollout.record),
            revision => txn.replace(revision, &rollout.record),
        };
        if let Some(baseline) = baseline {
            txn = txn.create(&baseline);
        }
        let txn = self.groups.prune(txn, &rollout.record, &deployment).await?;
        let committed = self.store.txn(txn).await?.committed();
        Ok(committed.map(|_| Deployed { deployment, waves }))
    }
}

impl Before {
    fn next(&self, actor: &str, pace: Pace) -> DeploymentRecord {
        let rollout = &self.rollout.record;
        DeploymentRecord {
            group: self.group.name.to_string(),
            revision: rollout.last_revision + 1,
            base: rollout.in_force,
            batch: pace.batch,
            timeout_seconds: pace.timeout_seconds,
            created_at_ms: now_millis(),
            created_by: actor.to_owned(),
            ..DeploymentRecord::default()
        }
    }
}

/// What is told of a deployment that is over
pub(super) fn completed(record: &DeploymentRecord) -> Event {
    Event::DeploymentCompleted {
        group_name: record.group.clone(),
        revision: record.revision,
        outcome: record.state().name().to_owned(),
    }
}

pub(super) fn count(servers: usize) -> u32 {
    u32::try_from(servers).unwrap_or(u32::MAX)
}

/// A rollout as it is recorded, and what a look at it has come to
pub(super) struct Progress {
    pub(super) rollout: Stored<RolloutRecord>,
    pub(super) active: Option<Stored<DeploymentRecord>>,
    /// It has ended with this look
    pub(super) has_ended: bool,
    /// There is something to record
    pub(super) is_news: bool,
    /// How many more may come up with what is wanted
    pub(super) room: usize,
}

impl Progress {
    /// Takes in what was decided
    pub(super) fn note(&mut self, now_ms: i64, verdict: &rollout::Verdict) {
        let (before, deployment) = (self.rollout.record.clone(), self.active.clone());
        let replacing = verdict.replacing.iter();
        self.rollout.record.replacing = replacing
            .map(|(instance, since)| (instance.to_string(), *since))
            .collect();
        self.room = verdict.room;
        if let Some(active) = &mut self.active {
            let record = &mut active.record;
            record.total = count(verdict.total);
            record.updated = count(verdict.updated);
            match &verdict.end {
                None => {}
                Some(rollout::End::Done) => {
                    record.set_state(DeploymentState::Completed);
                    record.completed_at_ms = now_ms;
                    self.rollout.record.in_force = record.content;
                    self.rollout.record.active = 0;
                }
                Some(rollout::End::Halted(halt)) => {
                    record.set_state(DeploymentState::Failed);
                    record.completed_at_ms = now_ms;
                    record.reason = halt.to_string();
                }
            }
        }
        self.has_ended = verdict.end.is_some();
        self.is_news = before != self.rollout.record || deployment != self.active;
    }

    /// The rollout as it goes on from here
    pub(super) fn after(&self) -> Rollout {
        let active = self.active.as_ref().map(|active| &active.record);
        self.rollout
            .record
            .rollout(active.filter(|_| self.rollout.record.active != 0))
    }
}
