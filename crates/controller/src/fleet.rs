//! The instances of all nodes: where a new one goes, and where an existing one is

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prexorcloud_proto::{InstanceFileContent, InstanceFileTree, ReadInstanceFile, WalkInstanceFiles};
use prexorcloud_protocol::{GroupName, Incarnation, InstanceId, NodeId, instance::State};
use tokio::sync::OnceCell;

use crate::{
    inventory::{Inventory, Outline},
    nodes::{
        CommandResult, FilesAnswer, FilesAsked, NodeSummary, NodeView, Nodes, OrderError, StartOrder,
        StopAnswer, Vitals,
    },
    placement::{self, Booked, Candidate, NoPlace, Wish},
    store::StoreError,
    trace,
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
    pub(crate) record: Arc<Outline>,
    pub(crate) vitals: Option<Vitals>,
    /// What it waits for, for people
    pub(crate) detail: Option<String>,
}

impl Seen {
    fn of(record: Arc<Outline>, nodes: &Nodes) -> Self {
        let known = nodes.ask_view(record.node, |view| Self::beside(&record, Some(view)));
        let (vitals, detail) = known.unwrap_or_else(|| Self::beside(&record, None));
        Self {
            record,
            vitals,
            detail,
        }
    }

    fn beside(record: &Outline, view: Option<&NodeView>) -> (Option<Vitals>, Option<String>) {
        let id = &record.instance;
        let vitals = view.and_then(|view| view.vitals.get(id).copied());
        let waiting = view.and_then(|view| view.waiting.get(id).cloned());
        let state = State::try_from(i32::from(record.state));
        let is_away = view.is_none_or(|view| view.session.is_none());
        let detail = match waiting {
            None if is_away && state.is_ok_and(State::is_coming_up) => {
                Some("waiting for the node, which is not connected".to_owned())
            }
            // The record may be a moment behind.
            waiting => waiting.filter(|_| state == Ok(State::Starting)),
        };
        (vitals, detail)
    }
}

/// An instance of a group, as whoever decides over their number sees it
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) record: Arc<Outline>,
    /// `None` = nobody has said since this controller started
    pub(crate) players: Option<u32>,
    /// When its node was last heard of, if that is not connected
    pub(crate) away_since_ms: Option<i64>,
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
    inventory: Arc<Inventory>,
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
    pub(crate) fn new(nodes: Arc<Nodes>) -> Self {
        Self {
            inventory: Arc::clone(&nodes.context().inventory),
            nodes,
            reserved: Mutex::default(),
            commands: Mutex::default(),
        }
    }

    /// Starts an instance on the node that was asked for, or on the best one that has room
    pub(crate) async fn start(&self, request: Request) -> Result<Seen, OrderError> {
        let mut refused = OrderError::NotConnected;
        for _ in 0..ATTEMPTS {
            let mut order = request.order.clone();
            order.is_hand_placed = request.node.is_some();
            let reserved = match request.instance {
                Some(_) => None,
                None => Some(self.free_id(order.group).await?),
            };
            if let Some(instance) = request.instance.or(reserved.as_ref().map(|reserved| reserved.id)) {
                order.instance = instance;
            }
            let candidates = match request.node {
                Some(node) => vec![node],
                None => match self.home_of(&order).await? {
                    Some(node) => vec![node],
                    None => self.by_room(&order).await?,
                },
            };
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

    /// The nodes that have room for an instance, the best first
    async fn by_room(&self, order: &StartOrder) -> Result<Vec<NodeId>, OrderError> {
        let booked = self.inventory.booked(order.group).await?;
        let mut candidates = self.nodes.survey(candidate);
        for one in &mut candidates {
            one.booked = booked.get(&one.node).copied().unwrap_or_default();
        }
        let group = &order.group_says;
        let isolation = group.isolation.unwrap_or_default();
        let configured = &self.nodes.context().config.instances.port_range;
        let wish = Wish {
            memory_mb: order.memory_mb.into(),
            cpu: isolation.cpu_reservation,
            disk_mb: isolation.disk_reservation_mb,
            affinity: &group.affinity,
            anti_affinity: &group.anti_affinity,
            ports: group.ports.as_ref().unwrap_or(configured).len(),
        };
        placement::rank(&wish, &candidates).map_err(|none| match none {
            NoPlace::Full(why) => OrderError::NoCapacity(why),
            NoPlace::Never(why) => OrderError::Unsuitable(why),
        })
    }

    /// Where the files of a static instance are, if it has been started before
    async fn home_of(&self, order: &StartOrder) -> Result<Option<NodeId>, OrderError> {
        if !order.group_says.is_static {
            return Ok(None);
        }
        let known = self.inventory.get(order.instance).await?;
        let Some(known) = known.filter(|known| known.is_static) else {
            return Ok(None);
        };
        let node = known.node;
        let is_there = self.nodes.ask_view(node, |view| view.session.is_some());
        if is_there == Some(true) {
            return Ok(Some(node));
        }
        let instance = order.instance;
        Err(OrderError::Conflict(format!(
            "{instance} is static and has its files on {node}, which is not connected: start its daemon, or begin anew on another node after prexorctl instance delete {instance}"
        )))
    }

    /// How many instances of a group have not ended
    pub(crate) async fn live_of(&self, group: GroupName) -> Result<usize, StoreError> {
        let all = self.inventory.of_group(group).await?;
        Ok(all.iter().filter(|outline| outline.is_live()).count())
    }

    /// The recorded instances of a group, those that have ended among them
    pub(crate) async fn members(&self, group: GroupName) -> Result<Vec<Member>, StoreError> {
        let all = self.inventory.of_group(group).await?;
        let member = |record: Arc<Outline>| {
            let known = self.nodes.ask_view(record.node, |view| {
                let is_there = view.session.as_ref().is_some_and(|session| !session.unreachable);
                let last = view.heard_at_ms.max(view.record.last_seen_ms);
                let vitals = view.vitals.get(&record.instance);
                (
                    vitals.map(|vitals| vitals.player_count),
                    (!is_there).then_some(last),
                )
            });
            // A node that is not known any more was heard of at no time.
            let (players, away_since_ms) = known.unwrap_or((None, Some(0)));
            Member {
                players: players.map(|players| u32::try_from(players).unwrap_or(0)),
                away_since_ms,
                record,
            }
        };
        Ok(all.into_iter().map(member).collect())
    }

    /// Whether all nodes that are recorded are connected
    pub(crate) fn is_complete(&self) -> bool {
        self.nodes
            .survey(|view| view.session.is_none().then_some(()))
            .is_empty()
    }

    /// How many nodes take new instances
    pub(crate) fn ready_nodes(&self) -> usize {
        let ready = self
            .nodes
            .survey(|view| (view.status() == NodeSummary::Online).then_some(()));
        ready.len()
    }

    /// The groups that have instances recorded for a node
    pub(crate) async fn groups_on(&self, node: NodeId) -> Result<BTreeSet<GroupName>, StoreError> {
        let (all, _) = self
            .inventory
            .page(Some(node), None, usize::MAX, |_| true)
            .await?;
        Ok(all.iter().filter_map(|outline| outline.group).collect())
    }

    /// Whether an instance has not ended
    pub(crate) async fn is_live(&self, instance: InstanceId) -> Result<bool, StoreError> {
        let known = self.inventory.get(instance).await?;
        Ok(known.is_some_and(|known| known.is_live()))
    }

    /// What is recorded of instances that match and come after an id, by id, and whether there are more
    pub(crate) async fn list(
        &self,
        node: Option<NodeId>,
        after: Option<InstanceId>,
        limit: usize,
        is_wanted: impl Fn(&Outline) -> bool,
    ) -> Result<(Vec<Arc<Outline>>, bool), StoreError> {
        self.inventory.page(node, after, limit, is_wanted).await
    }

    /// A recorded instance with what is not recorded of it
    pub(crate) fn seen(&self, record: Arc<Outline>) -> Seen {
        Seen::of(record, &self.nodes)
    }

    /// A number that rises whenever something is recorded of an instance
    pub(crate) async fn version(&self) -> Result<u64, StoreError> {
        self.inventory.version().await
    }

    pub(crate) async fn get(&self, instance: InstanceId) -> Result<Seen, OrderError> {
        Ok(Seen::of(self.recorded(instance).await?, &self.nodes))
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
        let typed = tokio::spawn(trace::carried(async move {
            let typed = outcome.get_or_try_init(|| nodes.command(node, instance, line));
            typed.await.cloned()
        }));
        typed.await.unwrap_or(Err(OrderError::Unanswered))
    }

    fn commands(&self) -> MutexGuard<'_, NamedCommands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in the folder of an instance; what is 0 is up to the daemon
    pub(crate) async fn walk_files(
        &self,
        instance: InstanceId,
        limits: WalkInstanceFiles,
    ) -> Result<InstanceFileTree, OrderError> {
        let record = self.recorded(instance).await?;
        let asked = WalkInstanceFiles {
            group: group_of(&record)?,
            instance_id: instance.to_string(),
            ..limits
        };
        match self.nodes.files(record.node, FilesAsked::Walk(asked)).await? {
            FilesAnswer::Tree(tree) => Ok(tree),
            FilesAnswer::Content(_) => Err(OrderError::Silent),
        }
    }

    /// What is in a file of an instance
    pub(crate) async fn read_file(
        &self,
        instance: InstanceId,
        what: ReadInstanceFile,
    ) -> Result<InstanceFileContent, OrderError> {
        let record = self.recorded(instance).await?;
        let asked = ReadInstanceFile {
            group: group_of(&record)?,
            instance_id: instance.to_string(),
            ..what
        };
        match self.nodes.files(record.node, FilesAsked::Read(asked)).await? {
            FilesAnswer::Content(content) => Ok(content),
            FilesAnswer::Tree(_) => Err(OrderError::Silent),
        }
    }

    /// Somebody who knows says that the instance is ready
    pub(crate) async fn ready(&self, instance: InstanceId) -> Result<(), OrderError> {
        let record = self.recorded(instance).await?;
        self.nodes
            .ready(record.node, instance, Incarnation::new(record.incarnation))
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
        let is_old = |outline: &Outline| {
            // Where the files of a static one are is nowhere else.
            !outline.is_live()
                && !outline.is_static
                && now_millis() - outline.updated_at_ms > REMEMBERED_FOR_MS
        };
        let (old, _) = self.inventory.page(None, None, usize::MAX, is_old).await?;
        let mut pruned = 0;
        for Outline { node, instance, .. } in old.iter().map(AsRef::as_ref) {
            match self.nodes.forget(*node, *instance).await {
                Ok(()) => pruned += 1,
                Err(error) => tracing::warn!(%instance, %error, "an old instance could not be forgotten"),
            }
        }
        Ok(pruned)
    }

    async fn recorded(&self, instance: InstanceId) -> Result<Arc<Outline>, OrderError> {
        let found = self.inventory.get(instance).await?;
        found.ok_or(OrderError::UnknownInstance)
    }

    async fn node_of(&self, instance: InstanceId) -> Result<NodeId, OrderError> {
        Ok(self.recorded(instance).await?.node)
    }

    /// `<group>-<n>` with the lowest n that no live instance has
    async fn free_id(&self, group: GroupName) -> Result<Reserved<'_>, OrderError> {
        loop {
            let is_reserved = |id: &str| self.reserved().contains(id);
            let free = self.inventory.free_id(group, is_reserved).await?;
            let id = free.ok_or_else(|| {
                OrderError::Invalid("the group's name is too long to number its instances".to_owned())
            })?;
            // Else somebody else was faster.
            if self.reserved().insert(id.to_string()) {
                return Ok(Reserved { fleet: self, id });
            }
        }
    }

    fn reserved(&self) -> MutexGuard<'_, HashSet<String>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a node, for whoever looks for a place
fn candidate(view: &NodeView) -> Option<Candidate> {
    let load = view.load.as_ref();
    Some(Candidate {
        node: view.record.node_id.parse().ok()?,
        status: view.status(),
        labels: view.record.labels.clone(),
        total_memory_mb: view.total_memory_mb(),
        used_memory_mb: load.map_or(0, |load| load.used_memory_mb),
        cpu: load.map(|load| load.cpu_usage),
        free_disk_mb: load.map_or(0, |load| load.free_disk_mb),
        booked: Booked::default(),
    })
}

/// Where the daemon has the files of an instance depends on its group
fn group_of(record: &Outline) -> Result<String, OrderError> {
    let group = record.group.as_ref();
    group
        .map(ToString::to_string)
        .ok_or_else(|| OrderError::Conflict("the group of this instance is not known".to_owned()))
}
