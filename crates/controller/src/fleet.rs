//! The instances of all nodes: where a new one goes, and where an existing one is

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prexorcloud_protocol::{GroupName, Incarnation, InstanceId, NodeId, instance::State};
use tokio::sync::OnceCell;

use crate::{
    nodes::{
        CommandResult, NodeSummary, NodeView, Nodes, OrderError, StartOrder, StopAnswer, Vitals, is_live,
    },
    records::InstanceRecord,
    store::{self, Store, StoreError},
    wall_clock::now_millis,
};

/// Named commands that are remembered
const NAMED_COMMANDS: usize = 1024;

/// Times that a start is placed anew because others were faster
const ATTEMPTS: usize = 8;

/// How long the record of an instance that has ended is kept
const REMEMBERED_FOR_MS: i64 = 7 * 24 * 3600 * 1000;

/// An instance with what is not recorded of it
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) record: InstanceRecord,
    pub(crate) vitals: Option<Vitals>,
    /// What it waits for, for people
    pub(crate) detail: Option<String>,
}

impl Seen {
    fn of(record: InstanceRecord, view: Option<&NodeView>) -> Self {
        let id = record.instance_id.as_str();
        let vitals = view.and_then(|view| view.vitals.get(id).copied());
        let waiting = view.and_then(|view| view.waiting.get(id).cloned());
        let state = State::try_from(record.state);
        let is_away = view.is_none_or(|view| view.session.is_none());
        let detail = match waiting {
            None if is_away && state.is_ok_and(State::is_coming_up) => {
                Some("waiting for the node, which is not connected".to_owned())
            }
            // The record may be a moment behind.
            waiting => waiting.filter(|_| state == Ok(State::Starting)),
        };
        Self {
            record,
            vitals,
            detail,
        }
    }
}

/// A start that still needs a place
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) node: Option<NodeId>,
    pub(crate) instance: Option<InstanceId>,
    /// Its instance id is replaced if none was asked for
    pub(crate) order: StartOrder,
}

pub(crate) struct Fleet {
    store: Arc<dyn Store>,
    nodes: Arc<Nodes>,
    /// Ids that were chosen for starts under way, so that starts at the same time choose different ones
    reserved: Mutex<HashSet<String>>,
    commands: Mutex<NamedCommands>,
}

/// Commands that their callers have named; the oldest is forgotten first
#[derive(Default)]
struct NamedCommands(VecDeque<(InstanceId, String, Outcome)>);

/// What became of a command, once that is known
type Outcome = Arc<OnceCell<CommandResult>>;

impl NamedCommands {
    fn of(&mut self, instance: InstanceId, name: String) -> Outcome {
        let known = self
            .0
            .iter()
            .find(|(of, known, _)| *of == instance && *known == name);
        if let Some((_, _, outcome)) = known {
            return Arc::clone(outcome);
        }
        if self.0.len() >= NAMED_COMMANDS {
            self.0.pop_front();
        }
        let outcome = Outcome::default();
        self.0.push_back((instance, name, Arc::clone(&outcome)));
        outcome
    }
}

/// An id that nobody else chooses while this exists
struct Reserved<'a> {
    fleet: &'a Fleet,
    id: InstanceId,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.fleet.reserved().remove(self.id.as_str());
    }
}

impl Fleet {
    pub(crate) fn new(store: Arc<dyn Store>, nodes: Arc<Nodes>) -> Self {
        Self {
            store,
            nodes,
            reserved: Mutex::default(),
            commands: Mutex::default(),
        }
    }

    /// Starts an instance on the node that was asked for, or on the least loaded one that is ready
    pub(crate) async fn start(&self, request: Request) -> Result<Seen, OrderError> {
        let mut refused = OrderError::NotConnected;
        for _ in 0..ATTEMPTS {
            let mut order = request.order.clone();
            let reserved = match request.instance {
                Some(_) => None,
                None => Some(self.free_id(order.group).await?),
            };
            if let Some(instance) = request.instance.or(reserved.as_ref().map(|reserved| reserved.id)) {
                order.instance = instance;
            }
            let candidates = match request.node {
                Some(node) => vec![node],
                None => by_load(self.nodes.views()),
            };
            if candidates.is_empty() {
                return Err(OrderError::NoNode);
            }
            let mut contended = false;
            for node in candidates {
                match self.nodes.launch(node, order.clone()).await {
                    Ok(record) => {
                        return Ok(Seen {
                            record,
                            vitals: None,
                            detail: None,
                        });
                    }
                    Err(error @ OrderError::Invalid(_)) => return Err(error),
                    // It may have been started, and two would be one too many.
                    Err(error @ (OrderError::Unanswered | OrderError::Store(StoreError::Timeout))) => {
                        return Err(error);
                    }
                    Err(error) if request.node.is_some() && request.instance.is_some() => return Err(error),
                    // Another node may have room; another id may be free.
                    Err(error) => {
                        contended |= matches!(error, OrderError::Conflict(_));
                        refused = error;
                    }
                }
            }
            if request.instance.is_some() || !contended {
                return Err(refused);
            }
        }
        Err(refused)
    }

    /// All instances, by id
    pub(crate) async fn list(&self) -> Result<Vec<Seen>, StoreError> {
        let (stored, _) = store::load_all::<InstanceRecord>(&*self.store).await?;
        let views = self.nodes.views();
        let views: HashMap<&str, &NodeView> = views
            .iter()
            .map(|view| (view.record.node_id.as_str(), view))
            .collect();
        Ok(stored
            .into_iter()
            .map(|stored| {
                let view = views.get(stored.record.node_id.as_str()).copied();
                Seen::of(stored.record, view)
            })
            .collect())
    }

    pub(crate) async fn get(&self, instance: InstanceId) -> Result<Seen, OrderError> {
        let found = store::load::<InstanceRecord>(&*self.store, instance.as_str()).await?;
        let record = found.ok_or(OrderError::UnknownInstance)?.record;
        let node: Option<NodeId> = record.node_id.parse().ok();
        let view = node.and_then(|node| self.nodes.view(node));
        Ok(Seen::of(record, view.as_ref()))
    }

    pub(crate) async fn stop(&self, instance: InstanceId, force: bool) -> Result<StopAnswer, OrderError> {
        self.nodes
            .stop(self.node_of(instance).await?, instance, force)
            .await
    }

    pub(crate) async fn command(
        &self,
        instance: InstanceId,
        line: String,
    ) -> Result<CommandResult, OrderError> {
        self.nodes
            .command(self.node_of(instance).await?, instance, line)
            .await
    }

    /// The same for a caller that may ask again: what is named alike is typed once, and answered alike
    pub(crate) async fn command_once(
        &self,
        instance: InstanceId,
        name: String,
        line: String,
    ) -> Result<CommandResult, OrderError> {
        let node = self.node_of(instance).await?;
        let (nodes, outcome) = (Arc::clone(&self.nodes), self.commands().of(instance, name));
        // Goes on when the caller has gone: it may have been typed. What was refused was not, and may be tried again.
        let typed = tokio::spawn(async move {
            let typed = outcome.get_or_try_init(|| nodes.command(node, instance, line));
            typed.await.cloned()
        });
        typed.await.unwrap_or(Err(OrderError::Unanswered))
    }

    fn commands(&self) -> MutexGuard<'_, NamedCommands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody who knows says that the instance is ready
    pub(crate) async fn ready(&self, instance: InstanceId) -> Result<(), OrderError> {
        let found = store::load::<InstanceRecord>(&*self.store, instance.as_str()).await?;
        let record = found.ok_or(OrderError::UnknownInstance)?.record;
        let node = record.node_id.parse().map_err(|_| OrderError::UnknownNode)?;
        let incarnation = record.start.unwrap_or_default().incarnation;
        self.nodes
            .ready(node, instance, Incarnation::new(incarnation))
            .await
    }

    pub(crate) async fn declare_lost(&self, instance: InstanceId) -> Result<(), OrderError> {
        self.nodes
            .declare_lost(self.node_of(instance).await?, instance)
            .await
    }

    pub(crate) async fn forget(&self, instance: InstanceId) -> Result<(), OrderError> {
        self.nodes.forget(self.node_of(instance).await?, instance).await
    }

    /// Forgets instances that ended long ago; says how many
    pub(crate) async fn prune(&self) -> Result<usize, StoreError> {
        let mut pruned = 0;
        for stored in store::load_all::<InstanceRecord>(&*self.store).await?.0 {
            let record = stored.record;
            if is_live(&record) || now_millis() - record.updated_at_ms <= REMEMBERED_FOR_MS {
                continue;
            }
            let (Ok(node), Ok(instance)) = (record.node_id.parse(), record.instance_id.parse()) else {
                continue;
            };
            match self.nodes.forget(node, instance).await {
                Ok(()) => pruned += 1,
                Err(error) => tracing::warn!(%instance, %error, "an old instance could not be forgotten"),
            }
        }
        Ok(pruned)
    }

    async fn node_of(&self, instance: InstanceId) -> Result<NodeId, OrderError> {
        let found = store::load::<InstanceRecord>(&*self.store, instance.as_str()).await?;
        let record = found.ok_or(OrderError::UnknownInstance)?.record;
        record.node_id.parse().map_err(|_| OrderError::UnknownNode)
    }

    /// `<group>-<n>` with the lowest n that no live instance has
    async fn free_id(&self, group: GroupName) -> Result<Reserved<'_>, OrderError> {
        let (stored, _) = store::load_all::<InstanceRecord>(&*self.store).await?;
        let taken: HashSet<String> = stored
            .into_iter()
            .map(|stored| stored.record)
            .filter(is_live)
            .map(|record| record.instance_id)
            .collect();
        let mut reserved = self.reserved();
        let free = (1_u32..)
            .map(|number| format!("{group}-{number}"))
            .find(|id| !taken.contains(id) && !reserved.contains(id));
        let id: Option<InstanceId> = free.and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| {
            OrderError::Invalid("the group's name is too long to number its instances".to_owned())
        })?;
        reserved.insert(id.to_string());
        Ok(Reserved { fleet: self, id })
    }

    fn reserved(&self) -> MutexGuard<'_, HashSet<String>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nodes that take new instances, the least loaded first
fn by_load(views: Vec<NodeView>) -> Vec<NodeId> {
    let mut ready: Vec<NodeView> = views
        .into_iter()
        .filter(|view| view.status() == NodeSummary::Online)
        .collect();
    ready.sort_by_key(|view| {
        let free_mb = view
            .load
            .as_ref()
            .map_or(0, |load| load.total_memory_mb - load.used_memory_mb);
        (
            view.live_instances,
            std::cmp::Reverse(free_mb),
            view.record.node_id.clone(),
        )
    });
    ready
        .into_iter()
        .filter_map(|view| view.record.node_id.parse().ok())
        .collect()
}
