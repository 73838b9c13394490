//! Groups: what servers of a kind are started with
//!
//! A group is a record that operators write and that starts read. How many servers it should have is decided by [`scaling`], and which are replaced
//! next when what they are made of changes by [`rollout`]; neither performs anything. [`upkeep`] says what a group is to be seen as, and [`reconciler`] carries out what follows. Its fields are those of the Java
//! controller ([`fields`]). Environment and variables may hold passwords, so both are sealed as a whole, and a variable that is or was a
//! SECRET is shown to nobody. A write compares with what was read, so of two at once the second is told or is made on top of the first.

mod deployments;
mod fields;
mod reconciler;
mod record;
mod rollout;
mod scaling;
mod settings;
mod start;
mod upkeep;
mod warmth;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use prexorcloud_protocol::GroupName;
use prexorcloud_security::seal::SealingKey;
use prexorcloud_transport::Locks;
use prost::Message as _;
use serde_json::{Map, Value};

pub(crate) use self::{
    deployments::{Deployed, Pace, STRATEGY, Trial},
    reconciler::Reconciler,
    rollout::{MAX_BATCH, record::DeploymentRecord},
    scaling::Plan,
    start::Started,
    upkeep::{Outlook, Refusal, Upkeep},
};
use self::{
    fields::FieldError,
    record::{GroupHealthRecord, GroupRecord, GroupSecrets},
    settings::{Meaning, Settings},
};
use crate::{
    audit,
    catalog::Catalog,
    config::InstanceConfig,
    events::Event,
    fleet::Fleet,
    nodes::OrderError,
    store::{self, Expect, Query, Record as _, Revision, Store, StoreError, Stored, Txn, TxnOutcome},
    templates::{Layer, TemplateError, Templates, variables::Definitions, variables::Scope},
    wall_clock::now_millis,
};

/// Most groups
const MAX_GROUPS: usize = 16_384;

/// Attempts to change a record that others change at the same time
const ATTEMPTS: usize = 16;

/// A variable that starts have without a template that defines it
const MOTD: &str = "MOTD";

/// Why something was not done to a group
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    #[error("Group not found: {0}")]
    Unknown(String),
    #[error("Deployment not found: {group}/{revision}")]
    UnknownDeployment { group: String, revision: u32 },
    #[error("Group already exists: {0}")]
    Exists(String),
    /// No such field, or another type
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Invalid(String),
    /// It is not any more what the caller has seen
    #[error(
        "somebody else has changed {name} meanwhile: it has revision {now}, and not {seen}. Nothing was changed; look at it and try again: prexorctl group info {name}"
    )]
    Overtaken { name: String, seen: u64, now: u64 },
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FieldError> for GroupError {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::Value(sentence) => Self::Invalid(sentence),
            error => Self::Malformed(error.to_string()),
        }
    }
}

/// A group as it is
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: GroupName,
    pub(crate) revision: u64,
    pub(crate) created_at_ms: i64,
    pub(crate) updated_at_ms: i64,
    pub(crate) settings: Settings,
    /// Variables whose values were a SECRET when they were set
    hidden: BTreeSet<String>,
    /// What is secret was sealed with a key that is not here
    is_unreadable: bool,
}

/// A page of groups, by name
pub(crate) struct Page {
    pub(crate) groups: Vec<Group>,
    pub(crate) total: usize,
}

/// The groups of this controller
pub(crate) struct Groups {
    store: Arc<dyn Store>,
    templates: Templates,
    sealing: Arc<SealingKey>,
    instances: InstanceConfig,
    catalog: Catalog,
    /// Who starts from a group or deletes it, one at a time for each
    turns: Locks<GroupName>,
}

impl Groups {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        templates: Templates,
        sealing: Arc<SealingKey>,
        instances: InstanceConfig,
        catalog: Catalog,
    ) -> Self {
        Self {
            store,
            templates,
            sealing,
            instances,
            catalog,
            turns: Locks::default(),
        }
    }

    /// What is configured for all groups
    pub(crate) fn defaults(&self) -> &InstanceConfig {
        &self.instances
    }

    /// Creates a group
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong.
    pub(crate) async fn create(
        &self,
        actor: &str,
        mut fields: Map<String, Value>,
    ) -> Result<Group, GroupError> {
        let name = match fields.remove("name") {
            None | Some(Value::Null) => return Err(GroupError::Invalid("Group name is required".to_owned())),
            Some(Value::String(name)) => checked(&name)?,
            Some(_) => return Err(GroupError::Malformed("name must be a text".to_owned())),
        };
        let known = self.store.get(&GroupRecord::key_of(name.as_str())).await?;
        if known.is_some() {
            return Err(GroupError::Exists(name.to_string()));
        }
        if self.store.count(GroupRecord::PREFIX).await? >= MAX_GROUPS {
            return Err(GroupError::Conflict(format!(
                "there are {MAX_GROUPS} groups, which is the limit: delete some"
            )));
        }
        let now = now_millis();
        let mut group = Group {
            name,
            revision: 0,
            created_at_ms: now,
            updated_at_ms: now,
            settings: Settings::default(),
            hidden: BTreeSet::new(),
            is_unreadable: false,
        };
        self.change(&mut group, fields).await?;
        let record = self.seal(&group)?;
        let audit = audit::entry(actor, "group.create", name.as_str(), "");
        let created = Event::GroupCreated {
            group_name: name.to_string(),
        };
        let txn = Txn::new().create(&record).put_record(&audit).tell(&created);
        match self.store.txn(txn).await? {
            TxnOutcome::Committed { revision } => {
                group.revision = revision.0;
                Ok(group)
            }
            TxnOutcome::Conflict { .. } => Err(GroupError::Exists(name.to_string())),
        }
    }

    /// A group by its name
    ///
    /// # Errors
    /// [`GroupError::Unknown`], or what the storage reported.
    pub(crate) async fn show(&self, name: &str) -> Result<Group, GroupError> {
        let name = named(name)?;
        let stored = store::load::<GroupRecord>(&*self.store, name.as_str()).await?;
        self.open(stored.ok_or_else(|| GroupError::Unknown(name.to_string()))?)
    }

    /// A page of them, by name, after so many
    ///
    /// # Errors
    /// What the storage reported.
    pub(crate) async fn page(&self, skipped: usize, size: usize) -> Result<Page, GroupError> {
        let total = self.store.count(GroupRecord::PREFIX).await?;
        let page = Query::prefix(GroupRecord::PREFIX).skip(skipped).limit(size);
        let page = self.store.list(page).await?.entries.into_iter();
        let groups = page.map(|entry| self.open(Stored::decode(entry)?));
        Ok(Page {
            groups: groups.collect::<Result<_, _>>()?,
            total,
        })
    }

    /// Changes the fields that are named; `seen` is the revision that the caller has looked at
    ///
    /// # Errors
    /// [`GroupError::Overtaken`] if it is not any more what the caller has seen; [`GroupError`] with what is wrong.
    pub(crate) async fn update(
        &self,
        actor: &str,
        name: &str,
        mut fields: Map<String, Value>,
        seen: Option<u64>,
    ) -> Result<Group, GroupError> {
        match fields.remove("name") {
            None | Some(Value::Null) => {}
            Some(Value::String(other)) if other == name => {}
            Some(_) => {
                return Err(GroupError::Invalid(format!(
                    "a group keeps its name: create another one, and delete {name}"
                )));
            }
        }
        for _ in 0..ATTEMPTS {
            let mut group = self.show(name).await?;
            group.require(seen)?;
            if fields.is_empty() {
                return Ok(group);
            }
            let changed = self.change(&mut group, fields.clone()).await?;
            group.updated_at_ms = now_millis();
            let record = self.seal(&group)?;
            let changed: Vec<&str> = changed.into_iter().collect();
            let audit = audit::entry(actor, "group.update", name, &changed.join(", "));
            let txn = Txn::new()
                .replace(Revision(group.revision), &record)
                .put_record(&audit)
                .tell(&Event::GroupUpdated {
                    group_name: name.to_owned(),
                });
            if let TxnOutcome::Committed { revision } = self.store.txn(txn).await? {
                group.revision = revision.0;
                return Ok(group);
            }
        }
        Err(changed_by_many(name))
    }

    /// Deletes a group of which nothing lives
    ///
    /// # Errors
    /// [`GroupError::Conflict`] if something lives, and the others.
    pub(crate) async fn delete(
        &self,
        actor: &str,
        name: &str,
        seen: Option<u64>,
        fleet: &Fleet,
    ) -> Result<(), GroupError> {
        for _ in 0..ATTEMPTS {
            let group = self.show(name).await?;
            // Nothing is started from it meanwhile.
            let _turn = self.turns.of(&group.name).lock_owned().await;
            group.require(seen)?;
            let live = fleet.live_of(group.name).await?;
            if live > 0 {
                return Err(GroupError::Conflict(format!(
                    "{live} instances of {name} live: stop them first (prexorctl instance list --group {name})"
                )));
            }
            let key = GroupRecord::key_of(group.name.as_str());
            let audit = audit::entry(actor, "group.delete", name, "");
            let txn = self
                .forget_deployments(group.name)
                .await?
                .expect(&key, Expect::At(Revision(group.revision)))
                .delete(&key)
                .delete(GroupHealthRecord::key_of(group.name.as_str()))
                .put_record(&audit)
                .tell(&Event::GroupDeleted {
                    group_name: name.to_owned(),
                });
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(());
            }
        }
        Err(changed_by_many(name))
    }

    /// Takes changes into a group, checked against what there is
    async fn change(
        &self,
        group: &mut Group,
        fields: Map<String, Value>,
    ) -> Result<BTreeSet<&'static str>, GroupError> {
        if group.is_unreadable {
            return Err(unreadable(group.name));
        }
        let given: BTreeSet<String> = match fields.get("variableValues") {
            Some(Value::Object(values)) => values.keys().cloned().collect(),
            _ => BTreeSet::new(),
        };
        let changed = group.settings.change(fields)?;
        let meaning = self.meaning(group)?;
        meaning.check().map_err(GroupError::Invalid)?;
        if changed.contains("templates") {
            for name in &meaning.templates {
                match self.templates.show(name).await {
                    Ok(_) => {}
                    Err(TemplateError::Unknown) => {
                        return Err(GroupError::Invalid(format!("Template not found: {name}")));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if !meaning.variable_values.is_empty() || !group.hidden.is_empty() {
            self.check_variables(group, &meaning, &given).await?;
        }
        Ok(changed)
    }

    async fn check_variables(
        &self,
        group: &mut Group,
        meaning: &Meaning,
        given: &BTreeSet<String>,
    ) -> Result<(), GroupError> {
        let layers = self.layers(group.name, meaning).await?;
        let defined = self.templates.definitions(&layers)?;
        let definitions = Definitions::of(&defined);
        let values = &meaning.variable_values;
        let is_unknown =
            |key: &&String| values.contains_key(*key) && !definitions.knows(key) && key.as_str() != MOTD;
        if let Some(key) = given.iter().find(is_unknown) {
            return Err(GroupError::Invalid(format!(
                "Invalid group variables: unknown variable '{key}' set at GROUP scope; a template of the group defines it: prexorctl template var set TEMPLATE {key}"
            )));
        }
        let set = values.iter().filter(|(key, _)| given.contains(*key));
        let set: BTreeMap<String, String> = set.map(|(key, value)| (key.clone(), value.clone())).collect();
        definitions.check_given(&set, Scope::Group).map_err(|wrong| {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            GroupError::Invalid(format!("Invalid group variables: {}", wrong.join("; ")))
        })?;
        let is_hidden = |key: &&String| definitions.hides(key);
        group.hidden.extend(values.keys().filter(is_hidden).cloned());
        group.hidden.retain(|key| values.contains_key(key));
        Ok(())
    }

    /// The values of variables that may be shown, and the names of the others
    ///
    /// A value is shown where a template of the group defines it, and none has or had it as a SECRET.
    ///
    /// # Errors
    /// What the storage reported.
    pub(crate) async fn shown_variables(
        &self,
        group: &Group,
        meaning: &Meaning,
    ) -> Result<(BTreeMap<String, String>, BTreeSet<String>), GroupError> {
        let mut shown = meaning.variable_values.clone();
        if shown.is_empty() {
            return Ok((shown, BTreeSet::new()));
        }
        let layers = self.layers(group.name, meaning).await?;
        let defined = self.templates.definitions(&layers)?;
        let definitions = Definitions::of(&defined);
        let is_hidden = |key: &String| {
            let is_known = definitions.knows(key) || key == MOTD;
            group.hidden.contains(key) || definitions.hides(key) || !is_known
        };
        let hidden: BTreeSet<String> = shown.keys().filter(|key| is_hidden(key)).cloned().collect();
        shown.retain(|key, _| !hidden.contains(key));
        Ok((shown, hidden))
    }

    /// The groups whose servers get files of this template, by its name or because it is called as `base` or they are
    ///
    /// # Errors
    /// What the storage reported.
    pub(crate) async fn using(&self, template: &str) -> Result<Vec<GroupName>, GroupError> {
        let mut using = Vec::new();
        for group in self.page(0, usize::MAX).await?.groups {
            // One that cannot be read starts nothing.
            let Ok(meaning) = self.meaning(&group) else {
                continue;
            };
            let mut named = implicit(group.name, &meaning)
                .into_iter()
                .chain(meaning.templates);
            if named.any(|name| name == template) {
                using.push(group.name);
            }
        }
        Ok(using)
    }

    /// The templates of its servers, in the order in which they are laid over each other
    ///
    /// As the Java controller has it, `base`, `base-<platform>` and the one that is called as the group come first, where there are such; one
    /// that the group names has the place where it is named.
    ///
    /// # Errors
    /// What the storage reported.
    pub(crate) async fn layers(&self, name: GroupName, meaning: &Meaning) -> Result<Vec<Layer>, GroupError> {
        let mut layers: Vec<Layer> = Vec::with_capacity(settings::IMPLICIT + meaning.templates.len());
        for name in implicit(name, meaning) {
            let is_known = layers.iter().any(|layer| layer.name() == name);
            if is_known || meaning.templates.contains(&name) {
                continue;
            }
            let layer = self.templates.layer(&name).await?;
            // Else nothing was pushed to it, or there is none.
            if layer.reference().is_some() {
                layers.push(layer);
            }
        }
        for name in &meaning.templates {
            layers.push(self.templates.layer(name).await?);
        }
        Ok(layers)
    }

    /// What its fields mean
    ///
    /// # Errors
    /// [`GroupError::Conflict`] if a later release has written it.
    pub(crate) fn meaning(&self, group: &Group) -> Result<Meaning, GroupError> {
        group
            .settings
            .meaning(&self.instances)
            .map_err(GroupError::Conflict)
    }

    fn seal(&self, group: &Group) -> Result<GroupRecord, GroupError> {
        let mut settings = group.settings.clone().into_map();
        let secrets = GroupSecrets {
            env: texts(settings.remove("env")),
            variable_values: texts(settings.remove("variableValues")),
        };
        let sealed = match secrets == GroupSecrets::default() {
            true => Vec::new(),
            false => self
                .sealing
                .seal(&context(group.name), &secrets.encode_to_vec())
                .map_err(|error| StoreError::Io {
                    detail: error.to_string(),
                })?,
        };
        Ok(GroupRecord {
            name: group.name.to_string(),
            settings: Value::Object(settings).to_string(),
            sealed,
            hidden: group.hidden.iter().cloned().collect(),
            created_at_ms: group.created_at_ms,
            updated_at_ms: group.updated_at_ms,
        })
    }

    fn open(&self, stored: Stored<GroupRecord>) -> Result<Group, GroupError> {
        let Stored { record, revision } = stored;
        let undecodable = |detail: String| StoreError::Undecodable {
            key: record.key(),
            detail,
        };
        let name: GroupName = record
            .name
            .parse()
            .map_err(|_| undecodable("its name is no safe name".to_owned()))?;
        let mut settings: Map<String, Value> =
            serde_json::from_str(&record.settings).map_err(|error| undecodable(error.to_string()))?;
        let opened = match record.sealed.is_empty() {
            true => Some(GroupSecrets::default()),
            false => {
                let opened = self.sealing.open(&context(name), &record.sealed).ok();
                opened.and_then(|bytes| GroupSecrets::decode(bytes.as_slice()).ok())
            }
        };
        let is_unreadable = opened.is_none();
        let secrets = opened.unwrap_or_default();
        for (field, texts) in [("env", secrets.env), ("variableValues", secrets.variable_values)] {
            if !texts.is_empty() {
                let texts = texts.into_iter().map(|(key, text)| (key, text.into()));
                settings.insert(field.to_owned(), Value::Object(texts.collect()));
            }
        }
        Ok(Group {
            name,
            revision: revision.0,
            created_at_ms: record.created_at_ms,
            updated_at_ms: record.updated_at_ms,
            settings: Settings::of(settings),
            hidden: record.hidden.into_iter().collect(),
            is_unreadable,
        })
    }
}

impl Group {
    fn require(&self, seen: Option<u64>) -> Result<(), GroupError> {
        match seen {
            Some(seen) if seen != self.revision => Err(GroupError::Overtaken {
                name: self.name.to_string(),
                seen,
                now: self.revision,
            }),
            _ => Ok(()),
        }
    }
}

/// The name of a group that may be there
fn named(name: &str) -> Result<GroupName, GroupError> {
    name.parse()
        .map_err(|_| GroupError::Unknown(name.chars().take(64).collect()))
}

fn changed_by_many(name: &str) -> GroupError {
    GroupError::Conflict(format!("{name} is changed by many at once, try again"))
}

fn unreadable(name: GroupName) -> GroupError {
    GroupError::Conflict(format!(
        "environment and variables of {name} were sealed with another key: restore ca/records.key, or delete the group and create it anew"
    ))
}

/// What is sealed is of one group
fn context(name: GroupName) -> Vec<u8> {
    format!("group\n{name}").into_bytes()
}

fn texts(map: Option<Value>) -> HashMap<String, String> {
    let Some(Value::Object(map)) = map else {
        return HashMap::new();
    };
    let text = |(key, value)| match value {
        Value::String(text) => Some((key, text)),
        _ => None,
    };
    map.into_iter().filter_map(text).collect()
}

/// The name of a group that is created, in the words of the Java controller
fn checked(name: &str) -> Result<GroupName, GroupError> {
    let shown: String = name.chars().take(64).collect();
    let invalid = |message: String| Err(GroupError::Invalid(message));
    if name.is_empty() {
        return invalid("Group name is required".to_owned());
    }
    if name.starts_with('_') {
        return invalid(format!(
            "Invalid group name: {shown}: groups that begin with _ are there to be inherited from, and nothing inherits here"
        ));
    }
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    match name.parse::<GroupName>() {
        Ok(_) if name.len() > 32 => invalid(format!("Group name too long (max 32): {shown}")),
        Ok(parsed) if name.bytes().all(is_known) => Ok(parsed),
        Ok(_) => invalid(format!(
            "Invalid group name: {shown} (must match [a-z0-9][a-z0-9_-]*)"
        )),
        Err(_) => invalid(format!(
            "Group name must be 1-64 characters, alphanumeric with dots/hyphens/underscores: {shown}"
        )),
    }
}

/// The templates that the servers of a group get without naming them, where there are such
fn implicit(group: GroupName, meaning: &Meaning) -> Vec<String> {
    let platform = meaning.platform.to_ascii_lowercase();
    let mut implicit = vec!["base".to_owned()];
    if !platform.is_empty() {
        implicit.push(format!("base-{platform}"));
    }
    implicit.push(group.to_string());
    implicit
}
