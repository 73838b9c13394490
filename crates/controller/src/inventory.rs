//! What is recorded of every instance, in memory: by id, by node, and by the numbers of a group
//!
//! A copy of the records without what only their node needs. It follows the store's log of changes and catches up before
//! every answer, so whoever saw a transaction acknowledged finds it here. Nobody reads or decodes the records of a whole
//! fleet to learn something about one of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _};
use prexorcloud_proto::InstanceState;
use prexorcloud_protocol::{GroupName, InstanceId, NodeId, instance::State};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::{
    placement::{Booked, millionths},
    records::{InstanceRecord, Wanted},
    store::{Change, Query, Record as _, Store, StoreError, Stored, Watch, WatchError},
};

/// Records that are read at once
const PAGE: usize = 1024;

/// Between two looks at the store's log
const FOLLOWED_EVERY: Duration = Duration::from_millis(250);

/// What is recorded of an instance, without what it is started with
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) instance: InstanceId,
    pub(crate) node: NodeId,
    pub(crate) group: Option<GroupName>,
    pub(crate) state: InstanceState,
    pub(crate) wanted: Wanted,
    pub(crate) port: i32,
    pub(crate) incarnation: u64,
    pub(crate) memory_mb: i32,
    /// Share of its node's processors that is reserved
    pub(crate) cpu_millionths: i64,
    /// The deployment that has brought what it is made of; 0 = none
    pub(crate) deployment_revision: u32,
    /// Only its daemon knew of it
    pub(crate) is_adopted: bool,
    /// Its folder is kept, on its node
    pub(crate) is_static: bool,
    /// It only counts as ended because nothing was heard of it
    pub(crate) is_lost: bool,
    pub(crate) created_at_ms: i64,
    pub(crate) running_since_ms: i64,
    pub(crate) updated_at_ms: i64,
    pub(crate) last_error: String,
    /// Values that were given at its start are kept for when it comes back
    pub(crate) keeps_values: bool,
    /// Why its group has started it; empty = somebody has
    pub(crate) started_because: String,
}

impl Outline {
    fn of(record: InstanceRecord) -> Option<Self> {
        let (state, wanted) = (record.state(), record.wanted());
        let start = record.start.unwrap_or_default();
        Some(Self {
            instance: record.instance_id.parse().ok()?,
            node: record.node_id.parse().ok()?,
            group: start.group.parse().ok(),
            state,
            wanted,
            port: start.port,
            incarnation: start.incarnation,
            memory_mb: start.memory_mb,
            cpu_millionths: start
                .isolation
                .as_ref()
                .map_or(0, |one| millionths(one.cpu_reservation)),
            deployment_revision: u32::try_from(start.deployment_revision).unwrap_or(0),
            is_adopted: start.jar_file.is_empty(),
            is_static: start.static_instance,
            is_lost: record.lost,
            created_at_ms: record.created_at_ms,
            running_since_ms: record.running_since_ms,
            updated_at_ms: record.updated_at_ms,
            last_error: record.last_error,
            keeps_values: !record.sealed_given.is_empty(),
            started_because: record.started_because,
        })
    }

    /// Whether it has not ended, as far as its record tells
    pub(crate) fn is_live(&self) -> bool {
        !State::try_from(i32::from(self.state)).is_ok_and(State::is_terminal)
    }
}

/// The records of all instances
pub(crate) struct Inventory {
    store: Arc<dyn Store>,
    tables: Mutex<Tables>,
    /// Only one reads everything at a time
    loading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Tables {
    outlines: BTreeMap<InstanceId, Arc<Outline>>,
    by_node: BTreeMap<NodeId, BTreeSet<InstanceId>>,
    by_group: BTreeMap<GroupName, BTreeSet<InstanceId>>,
    /// What the live instances of each node were promised
    booked: HashMap<NodeId, Booked>,
    /// By what an id has before its last hyphen: below this number none is free
    lowest: HashMap<String, u32>,
    /// What happens after what is in the tables; `None` = they have to be read anew
    changes: Option<Watch>,
    /// How often they have changed
    version: u64,
}

impl Inventory {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            tables: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// Reads all records, and shows each of them
    pub(crate) async fn load(&self, mut each: impl FnMut(InstanceRecord)) -> Result<(), StoreError> {
        let _only = self.loading.lock().await;
        self.read_all(&mut each).await
    }

    async fn read_all(&self, each: &mut impl FnMut(InstanceRecord)) -> Result<(), StoreError> {
        let mut tables = Tables::default();
        let mut query = Query::prefix(InstanceRecord::PREFIX).limit(PAGE);
        loop {
            let page = self.store.list(query.clone()).await?;
            if tables.changes.is_none() {
                // What later pages have that is newer comes again, in its order.
                tables.changes = Some(self.store.watch(InstanceRecord::PREFIX, page.revision));
            }
            let Some(last) = page.entries.last() else { break };
            query = query.after(last.key.clone());
            for entry in page.entries {
                let key = entry.key.clone();
                let record = Stored::<InstanceRecord>::decode(entry)?.record;
                each(record.clone());
                tables.put(&key, record);
            }
        }
        let mut current = self.tables();
        tables.version = current.version + 1;
        *current = tables;
        Ok(())
    }

    /// Keeps up with the store even while nobody asks: its log is bounded, and what has left it must all be read again
    pub(crate) async fn follow(self: Arc<Self>, stopping: CancellationToken) {
        loop {
            if let Err(error) = self.with(|_| ()).await {
                tracing::debug!(%error, "what is recorded of the instances cannot be followed for now");
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(FOLLOWED_EVERY) => {}
            }
        }
    }

    /// A number that rises whenever something is recorded
    pub(crate) async fn version(&self) -> Result<u64, StoreError> {
        self.with(|tables| tables.version).await
    }

    /// One instance
    pub(crate) async fn get(&self, instance: InstanceId) -> Result<Option<Arc<Outline>>, StoreError> {
        self.with(|tables| tables.outlines.get(&instance).cloned()).await
    }

    /// All of a group, those that have ended among them, in the order of their ids
    pub(crate) async fn of_group(&self, group: GroupName) -> Result<Vec<Arc<Outline>>, StoreError> {
        self.with(|tables| {
            let ids = tables.by_group.get(&group).into_iter().flatten();
            ids.filter_map(|id| tables.outlines.get(id)).cloned().collect()
        })
        .await
    }

    /// What the live instances of each node were promised, and how many of them are of a group; nodes without any are left out
    pub(crate) async fn booked(&self, group: GroupName) -> Result<HashMap<NodeId, Booked>, StoreError> {
        self.with(|tables| {
            let mut booked = tables.booked.clone();
            let ids = tables.by_group.get(&group).into_iter().flatten();
            for outline in ids.filter_map(|id| tables.outlines.get(id)) {
                if outline.is_live()
                    && let Some(booked) = booked.get_mut(&outline.node)
                {
                    booked.of_group += 1;
                }
            }
            booked
        })
        .await
    }

    /// Those that match and come after an id, in the order of the ids, and whether there are more
    pub(crate) async fn page(
        &self,
        node: Option<NodeId>,
        after: Option<InstanceId>,
        limit: usize,
        is_wanted: impl Fn(&Outline) -> bool,
    ) -> Result<(Vec<Arc<Outline>>, bool), StoreError> {
        self.with(|tables| {
            let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let mut found: Vec<Arc<Outline>> = match node {
                None => {
                    let all = tables.outlines.range(range).map(|(_, outline)| outline);
                    let matching = all.filter(|outline| is_wanted(outline));
                    matching.take(limit.saturating_add(1)).cloned().collect()
                }
                Some(node) => {
                    let ids = tables.by_node.get(&node);
                    let ids = ids.into_iter().flat_map(|ids| ids.range(range));
                    let all = ids.filter_map(|id| tables.outlines.get(id));
                    let matching = all.filter(|outline| is_wanted(outline));
                    matching.take(limit.saturating_add(1)).cloned().collect()
                }
            };
            let has_more = found.len() > limit;
            found.truncate(limit);
            (found, has_more)
        })
        .await
    }

    /// Which of these are recorded alive on another node than this one
    pub(crate) async fn elsewhere(
        &self,
        node: NodeId,
        instances: impl Iterator<Item = InstanceId>,
    ) -> Result<Vec<InstanceId>, StoreError> {
        self.with(|tables| {
            let is_elsewhere = |instance: &InstanceId| {
                let known = tables.outlines.get(instance);
                known.is_some_and(|known| known.node != node && known.is_live())
            };
            instances.filter(is_elsewhere).collect()
        })
        .await
    }

    /// `<group>-<n>` with the lowest n that no live instance has and that is not `taken` otherwise
    pub(crate) async fn free_id(
        &self,
        group: GroupName,
        is_taken: impl Fn(&str) -> bool,
    ) -> Result<Option<InstanceId>, StoreError> {
        self.with(|tables| tables.free_id(group, is_taken)).await
    }

    /// Answers by what is recorded now
    async fn with<R>(&self, answer: impl FnOnce(&mut Tables) -> R) -> Result<R, StoreError> {
        loop {
            {
                let mut tables = self.tables();
                if tables.catch_up()? {
                    return Ok(answer(&mut tables));
                }
            }
            let _only = self.loading.lock().await;
            if self.tables().changes.is_none() {
                self.read_all(&mut |_| ()).await?;
            }
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// Takes in what has happened; false if too much has, so that all has to be read again
    fn catch_up(&mut self) -> Result<bool, StoreError> {
        loop {
            let Some(changes) = &mut self.changes else {
                return Ok(false);
            };
            // What the scheduler thinks of this task must not hide a change that is there.
            match tokio::task::unconstrained(changes.next()).now_or_never() {
                None => return Ok(true),
                Some(Some(Ok(set))) => {
                    let applied = set.changes.into_iter().try_for_each(|change| self.apply(change));
                    if let Err(error) = applied {
                        // The rest of the set is missing.
                        self.changes = None;
                        return Err(error);
                    }
                }
                Some(Some(Err(WatchError::Lagged { .. }))) => self.changes = None,
                Some(Some(Err(WatchError::Closed)) | None) => return Err(StoreError::Closed),
            }
        }
    }

    fn apply(&mut self, change: Change) -> Result<(), StoreError> {
        self.version += 1;
        let Some(value) = change.value else {
            self.remove(&change.key);
            return Ok(());
        };
        let record = InstanceRecord::decode(value).map_err(|error| StoreError::Undecodable {
            key: change.key.clone(),
            detail: error.to_string(),
        })?;
        self.put(&change.key, record);
        Ok(())
    }

    fn put(&mut self, key: &str, record: InstanceRecord) {
        self.remove(key);
        let Some(outline) = Outline::of(record) else {
            return tracing::error!(
                key,
                "a recorded instance is ignored, for its ids are no safe names"
            );
        };
        let instance = outline.instance;
        self.by_node.entry(outline.node).or_default().insert(instance);
        if let Some(group) = outline.group {
            self.by_group.entry(group).or_default().insert(instance);
        }
        if outline.is_live() {
            let booked = self.booked.entry(outline.node).or_default();
            booked.add(outline.memory_mb, outline.cpu_millionths);
        } else {
            self.release_number(instance.as_str());
        }
        self.outlines.insert(instance, Arc::new(outline));
    }

    fn remove(&mut self, key: &str) {
        let id = key.strip_prefix(InstanceRecord::PREFIX).unwrap_or(key);
        let Some(outline) = id
            .parse::<InstanceId>()
            .ok()
            .and_then(|id| self.outlines.remove(&id))
        else {
            return;
        };
        if outline.is_live()
            && let Some(booked) = self.booked.get_mut(&outline.node)
        {
            booked.remove(outline.memory_mb, outline.cpu_millionths);
            if booked.instances == 0 {
                self.booked.remove(&outline.node);
            }
        }
        if let Some(ids) = self.by_node.get_mut(&outline.node) {
            ids.remove(&outline.instance);
            if ids.is_empty() {
                self.by_node.remove(&outline.node);
            }
        }
        if let Some(group) = outline.group
            && let Some(ids) = self.by_group.get_mut(&group)
        {
            ids.remove(&outline.instance);
            if ids.is_empty() {
                self.by_group.remove(&group);
            }
        }
        self.release_number(outline.instance.as_str());
    }

    fn release_number(&mut self, id: &str) {
        if let Some((group, number)) = id.rsplit_once('-')
            && let Ok(number @ 1..) = number.parse::<u32>()
            && let Some(lowest) = self.lowest.get_mut(group)
        {
            *lowest = number.min(*lowest);
        }
    }

    fn free_id(&mut self, group: GroupName, is_taken: impl Fn(&str) -> bool) -> Option<InstanceId> {
        let id_of = |number: u32| format!("{group}-{number}").parse::<InstanceId>().ok();
        let is_live = |id: &InstanceId| self.outlines.get(id).is_some_and(|known| known.is_live());
        let mut number = self.lowest.get(group.as_str()).copied().unwrap_or(1);
        while is_live(&id_of(number)?) {
            number += 1;
        }
        let free = (number..)
            .map_while(id_of)
            .find(|id| !is_live(id) && !is_taken(id.as_str()));
        // Ids that are only taken for the moment are looked at again.
        self.lowest.insert(group.to_string(), number);
        free
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::store::{SqliteOptions, SqliteStore, Txn};

    fn record(id: &str, node: &str, state: State) -> InstanceRecord {
        InstanceRecord {
            instance_id: id.into(),
            node_id: node.into(),
            start: Some(prexorcloud_proto::StartInstance {
                instance_id: id.into(),
                group: "lobby".into(),
                incarnation: 1,
                ..Default::default()
            }),
            state: state.to_wire(),
            ..InstanceRecord::default()
        }
    }

    async fn inventory(options: &SqliteOptions) -> (tempfile::TempDir, Arc<dyn Store>, Inventory) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("controller.db"), options).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let inventory = Inventory::new(Arc::clone(&store));
        (folder, store, inventory)
    }

    async fn put(store: &dyn Store, record: &InstanceRecord) {
        let _ = store.txn(Txn::new().put_record(record)).await.unwrap();
    }

    async fn ids(inventory: &Inventory, node: Option<&str>) -> Vec<String> {
        let node = node.map(|node| node.parse().unwrap());
        let (page, _) = inventory.page(node, None, 100, |_| true).await.unwrap();
        page.iter().map(|outline| outline.instance.to_string()).collect()
    }

    #[tokio::test]
    async fn what_is_acknowledged_is_there_at_once() {
        let (_folder, store, inventory) = inventory(&SqliteOptions::default()).await;
        put(&*store, &record("lobby-1", "node-1", State::Running)).await;
        assert_eq!(ids(&inventory, None).await, ["lobby-1"]);
        put(&*store, &record("lobby-2", "node-2", State::Running)).await;
        assert_eq!(ids(&inventory, Some("node-2")).await, ["lobby-2"]);
        // It moves, and the other one goes.
        put(&*store, &record("lobby-2", "node-1", State::Stopped)).await;
        let _ = store.txn(Txn::new().delete("instances/lobby-1")).await.unwrap();
        assert_eq!(ids(&inventory, Some("node-1")).await, ["lobby-2"]);
        assert!(ids(&inventory, Some("node-2")).await.is_empty());
        store.close().await.unwrap();
        assert_eq!(
            inventory.get("lobby-2".parse().unwrap()).await,
            Err(StoreError::Closed)
        );
    }

    #[tokio::test]
    async fn more_changes_than_the_store_remembers_are_read_anew() {
        let options = SqliteOptions {
            watch_commits: 2,
            ..SqliteOptions::default()
        };
        let (_folder, store, inventory) = inventory(&options).await;
        assert!(ids(&inventory, None).await.is_empty());
        for number in 1..=9 {
            put(
                &*store,
                &record(&format!("lobby-{number}"), "node-1", State::Running),
            )
            .await;
        }
        assert_eq!(ids(&inventory, None).await.len(), 9);
    }

    #[tokio::test]
    async fn the_lowest_free_number_is_found_again_when_its_instance_has_ended() {
        let (_folder, store, inventory) = inventory(&SqliteOptions::default()).await;
        let group: GroupName = "lobby".parse().unwrap();
        let free = async || {
            inventory
                .free_id(group, |_| false)
                .await
                .unwrap()
                .unwrap()
                .to_string()
        };
        for number in 1..=3 {
            assert_eq!(free().await, format!("lobby-{number}"));
            put(
                &*store,
                &record(&format!("lobby-{number}"), "node-1", State::Running),
            )
            .await;
        }
        put(&*store, &record("lobby-2", "node-1", State::Crashed)).await;
        let taken = inventory.free_id(group, |id| id == "lobby-2").await.unwrap();
        assert_eq!(
            taken.unwrap().as_str(),
            "lobby-4",
            "somebody else is about to take it"
        );
        assert_eq!(free().await, "lobby-2");
        let _ = store.txn(Txn::new().delete("instances/lobby-1")).await.unwrap();
        assert_eq!(free().await, "lobby-1");
    }

    #[tokio::test]
    async fn only_what_lives_on_another_node_is_elsewhere() {
        let (_folder, store, inventory) = inventory(&SqliteOptions::default()).await;
        put(&*store, &record("here", "node-1", State::Running)).await;
        put(&*store, &record("there", "node-2", State::Running)).await;
        put(&*store, &record("over", "node-2", State::Stopped)).await;
        let listed = ["here", "there", "over", "unknown"].map(|id| id.parse().unwrap());
        let elsewhere = inventory.elsewhere("node-1".parse().unwrap(), listed.into_iter());
        let elsewhere = elsewhere.await.unwrap();
        assert_eq!(elsewhere, ["there".parse().unwrap()]);
    }

    #[tokio::test]
    async fn the_instances_of_a_group_are_found_by_its_name() {
        let (_folder, store, inventory) = inventory(&SqliteOptions::default()).await;
        let of = async |group: &str| {
            let found = inventory.of_group(group.parse().unwrap()).await.unwrap();
            found
                .iter()
                .map(|outline| outline.instance.to_string())
                .collect::<Vec<_>>()
        };
        put(&*store, &record("lobby-2", "node-1", State::Crashed)).await;
        put(&*store, &record("lobby-1", "node-2", State::Running)).await;
        let mut moved = record("moved", "node-1", State::Running);
        put(&*store, &moved).await;
        assert_eq!(of("lobby").await, ["lobby-1", "lobby-2", "moved"]);
        moved.start.as_mut().unwrap().group = "game".into();
        put(&*store, &moved).await;
        let _ = store.txn(Txn::new().delete("instances/lobby-1")).await.unwrap();
        assert_eq!(
            (of("lobby").await, of("game").await),
            (vec!["lobby-2".to_owned()], vec!["moved".to_owned()])
        );
        assert_eq!(of("other").await, [""; 0]);
    }

    #[tokio::test]
    async fn a_page_says_whether_there_is_another() {
        let (_folder, store, inventory) = inventory(&SqliteOptions::default()).await;
        for id in ["a", "b", "c"] {
            put(&*store, &record(id, "node-1", State::Running)).await;
        }
        let page = async |after: Option<&str>| {
            let after = after.map(|id| id.parse().unwrap());
            let (page, more) = inventory.page(None, after, 2, |_| true).await.unwrap();
            (
                page.iter()
                    .map(|outline| outline.instance.to_string())
                    .collect::<Vec<_>>(),
                more,
            )
        };
        assert_eq!(page(None).await, (vec!["a".to_owned(), "b".to_owned()], true));
        assert_eq!(page(Some("b")).await, (vec!["c".to_owned()], false));
    }
}
