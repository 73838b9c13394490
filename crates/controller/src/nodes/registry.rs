//! The tasks of all nodes, by node id

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use prexorcloud_proto::{PreWarmCache, ShutdownNodeAck};
use prexorcloud_protocol::{Close, Epoch, Incarnation, InstanceId, ModuleId, NodeId};
use prexorcloud_security::seal::SealingKey;
use prexorcloud_transport::Vital;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    CommandResult, FilesAnswer, FilesAsked, NodeSummary, NodeView, OrderError, StartOrder, StopAnswer,
    files::ANSWERED_WITHIN,
    grants::Grants,
    order::{NodeRequest, Reply, Traced},
    plugins,
    task::Node,
};
use crate::{
    authorities::SharedAuthorities,
    config::ControllerConfig,
    console::Consoles,
    events::Feed,
    inventory::{Inventory, Outline},
    logs::Logs,
    modules::{Modules, NodeModulesRecord},
    records::{InstanceRecord, NodeRecord, PluginCredential},
    store::{self, Store, StoreError, Stored},
    templates::Templates,
    wall_clock::now_millis,
    workloads::{Digest, LIFE, Workload, Workloads},
};

/// Orders that wait for one node's task
const MAILBOX: usize = 256;

/// Longest wait for a node's task to take and carry out an order
const ORDER_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest wait for a daemon to say what became of a command
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// What every node's task needs to know
pub(crate) struct NodeContext {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) consoles: Arc<Consoles>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) events: Arc<Feed>,
    pub(crate) config: ControllerConfig,
    pub(crate) epoch: Epoch,
    /// Told to daemons; 0 = no HTTP
    pub(crate) http_port: u16,
    /// Told to daemons, for later reconnects
    pub(crate) grpc_addresses: Vec<String>,
    pub(crate) stopping: CancellationToken,
    pub(crate) vital: Vital,
    /// A daemon that sends crash after crash must not fill the disk until the next maintenance
    pub(crate) crashes_since_pruning: AtomicUsize,
    /// Bounds the notes that are being written
    pub(crate) notes: Arc<Semaphore>,
    /// The plugins inside the servers
    pub(crate) workloads: Arc<Workloads>,
    /// Who signs the certificates of nodes
    pub(crate) authorities: SharedAuthorities,
    /// What is secret in an order is recorded under this
    pub(crate) sealing: Arc<SealingKey>,
    /// What is laid into the folders of instances
    pub(crate) templates: Templates,
    /// What is installed on nodes
    pub(crate) modules: Modules,
    /// Bounds the archives that are in memory on their way to nodes
    pub(crate) archives: Semaphore,
    /// What each node was told to fetch
    pub(crate) grants: Arc<Grants>,
}

/// Notes about instances that may be on their way to the storage; what is beyond is left out
pub(crate) const NOTES: usize = 64;

#[cfg(test)]
impl NodeContext {
    /// For trying nodes alone; blobs are in `folder`
    pub(super) fn of(store: Arc<dyn Store>, folder: &std::path::Path) -> Self {
        use crate::content::{Content, FolderBlobs};

        let open = FolderBlobs::open(&folder.join("content"));
        let blobs = open.unwrap_or_else(|error| unreachable!("{error}"));
        let generated = SealingKey::generate();
        let sealing = Arc::new(generated.unwrap_or_else(|error| unreachable!("{error}")));
        let content = Arc::new(Content::new(Arc::new(blobs)));
        Self {
            modules: Modules::none(Arc::clone(&store), Arc::clone(&content)),
            templates: Templates::new(
                Arc::clone(&store),
                content,
                Arc::clone(&sealing),
                prexorcloud_content::Limits::default(),
            ),
            archives: Semaphore::new(1),
            grants: Arc::default(),
            authorities: authority_for_trying(),
            sealing,
            inventory: Arc::new(Inventory::new(Arc::clone(&store))),
            events: Arc::new(Feed::new(Arc::clone(&store))),
            store,
            consoles: Arc::new(Consoles::keeping(1)),
            logs: Arc::default(),
            config: ControllerConfig::default(),
            epoch: Epoch::new(1),
            http_port: 0,
            grpc_addresses: Vec::new(),
            stopping: CancellationToken::new(),
            vital: Vital::new().0,
            crashes_since_pruning: AtomicUsize::default(),
            notes: Arc::new(Semaphore::new(NOTES)),
            workloads: Arc::default(),
        }
    }
}

#[cfg(test)]
fn authority_for_trying() -> SharedAuthorities {
    let policy = prexorcloud_security::authority::AuthorityPolicy::default();
    let created = prexorcloud_security::authority::Authority::create(&policy, std::time::SystemTime::now());
    SharedAuthorities::only(created.unwrap_or_else(|error| unreachable!("{error}")))
}

pub(super) type SharedView = Arc<Mutex<NodeView>>;

struct Entry {
    orders: mpsc::Sender<Traced>,
    view: SharedView,
}

/// Finds or starts the task of a node
pub(crate) struct Nodes {
    context: Arc<NodeContext>,
    entries: Mutex<BTreeMap<NodeId, Entry>>,
    tasks: TaskTracker,
}

impl Nodes {
    /// Starts a task for every recorded node, with the instances that are recorded for it
    pub(crate) async fn start(context: Arc<NodeContext>) -> Result<Arc<Self>, StoreError> {
        let (records, _) = store::load_all::<NodeRecord>(&*context.store).await?;
        let mut known: BTreeMap<String, (Option<Stored<NodeRecord>>, Vec<InstanceRecord>)> = BTreeMap::new();
        for stored in records {
            let node_id = stored.record.node_id.clone();
            known.entry(node_id).or_default().0 = Some(stored);
        }
        let mut recorded = |record: InstanceRecord| {
            known.entry(record.node_id.clone()).or_default().1.push(record);
        };
        context.inventory.load(&mut recorded).await?;
        let nodes = Arc::new(Self {
            context,
            entries: Mutex::default(),
            tasks: TaskTracker::new(),
        });
        let (modules, _) = store::load_all::<NodeModulesRecord>(&*nodes.context.store).await?;
        let mut modules: BTreeMap<_, _> = modules
            .into_iter()
            .map(|stored| (stored.record.node_id.clone(), stored.record))
            .collect();
        for (node_id, (record, instances)) in known {
            let modules = modules.remove(&node_id).unwrap_or_default();
            match node_id.parse() {
                Ok(node) => drop(nodes.entry(node, |task| {
                    task.restore_modules(modules);
                    task.restore(record, instances);
                })),
                Err(error) => tracing::error!(node_id, %error, "a recorded node is ignored"),
            }
        }
        Ok(nodes)
    }

    /// Ends all sessions and waits for the tasks; the context's token must be cancelled
    pub(crate) async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn context(&self) -> &Arc<NodeContext> {
        &self.context
    }

    /// All nodes as last seen, by id
    pub(crate) fn views(&self) -> Vec<NodeView> {
        self.survey(|view| Some(view.clone()))
    }

    /// One node as last seen
    pub(crate) fn view(&self, node: NodeId) -> Option<NodeView> {
        self.ask_view(node, Clone::clone)
    }

    /// Makes a node that enrolled visible before it connects
    pub(crate) async fn add_enrolled(&self, node: NodeId) -> Result<(), OrderError> {
        self.entry(node, |_| {});
        self.ask(node, |reply| NodeRequest::LoadRecord { reply }).await
    }

    /// What some nodes say of themselves, as last seen
    pub(crate) fn survey<R>(&self, about: impl FnMut(&NodeView) -> Option<R>) -> Vec<R> {
        let views: Vec<SharedView> = self
            .entries()
            .values()
            .map(|entry| Arc::clone(&entry.view))
            .collect();
        let mut about = about;
        let known = |view: &SharedView| {
            let view = look(view);
            if view.record.node_id.is_empty() {
                None
            } else {
                about(&view)
            }
        };
        views.iter().filter_map(known).collect()
    }

    /// What one node says of itself, as last seen
    pub(crate) fn ask_view<R>(&self, node: NodeId, about: impl FnOnce(&NodeView) -> R) -> Option<R> {
        let view = Arc::clone(&self.entries().get(&node)?.view);
        let view = look(&view);
        (!view.record.node_id.is_empty()).then(|| about(&view))
    }

    /// Starts an instance; the answer is what is recorded of it
    pub(crate) async fn launch(&self, node: NodeId, order: StartOrder) -> Result<Arc<Outline>, OrderError> {
        let instance = order.instance;
        self.ask(node, |reply| NodeRequest::Start {
            order: Box::new(order),
            reply,
        })
        .await?;
        // It is recorded: whatever fails from here on does not mean that it was not started.
        let found = self.context.inventory.get(instance).await;
        found.ok().flatten().ok_or(OrderError::Unanswered)
    }

    pub(crate) async fn stop(
        &self,
        node: NodeId,
        instance: InstanceId,
        force: bool,
    ) -> Result<StopAnswer, OrderError> {
        self.ask(node, |reply| NodeRequest::Stop {
            instance,
            force,
            reply,
        })
        .await
    }

    pub(crate) async fn command(
        &self,
        node: NodeId,
        instance: InstanceId,
        line: String,
    ) -> Result<CommandResult, OrderError> {
        let asked = self.ask(node, |reply| NodeRequest::Command {
            instance,
            line,
            reply,
        });
        let Some(told) = asked.await? else {
            return Ok(CommandResult::Unconfirmed(
                "the node's daemon does not say what becomes of a command",
            ));
        };
        match tokio::time::timeout(COMMAND_TIMEOUT, told).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Ok(CommandResult::Unconfirmed("the controller is stopping")),
            Err(_) => Ok(CommandResult::Unconfirmed(
                "the node's daemon did not say so in time",
            )),
        }
    }

    /// What the daemon says about the files of an instance
    pub(crate) async fn files(&self, node: NodeId, asked: FilesAsked) -> Result<FilesAnswer, OrderError> {
        let answer = self
            .ask(node, |reply| NodeRequest::Files { asked, reply })
            .await?;
        match tokio::time::timeout(ANSWERED_WITHIN, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(OrderError::NotConnected),
            Err(_) => Err(OrderError::Silent),
        }
    }

    /// Asks a node's daemon what it keeps; the answer is the number of the last status before
    pub(crate) async fn ask_about_cache(&self, node: NodeId) -> Result<u64, OrderError> {
        self.ask(node, |reply| NodeRequest::AskAboutCache { reply }).await
    }

    /// Tells a node's daemon what to have before it is needed
    pub(crate) async fn warm_cache(&self, node: NodeId, order: PreWarmCache) -> Result<(), OrderError> {
        let order = Box::new(order);
        self.ask(node, |reply| NodeRequest::WarmCache { order, reply })
            .await
    }

    /// A start of an instance says that it is ready
    pub(crate) async fn ready(
        &self,
        node: NodeId,
        instance: InstanceId,
        incarnation: Incarnation,
    ) -> Result<(), OrderError> {
        self.ask(node, |reply| NodeRequest::Ready {
            instance,
            incarnation,
            reply,
        })
        .await
    }

    /// The plugin inside a start has this token from now on; whether that start is not over
    pub(crate) async fn replace_plugin(&self, workload: Workload, hash: Digest) -> Result<bool, StoreError> {
        let expires_at_ms = now_millis() + i64::try_from(LIFE.as_millis()).unwrap_or_default();
        let credential = PluginCredential {
            hash: hash.to_vec(),
            expires_at_ms,
        };
        let is_recorded = plugins::record(&*self.context.store, workload, credential, true).await?;
        if is_recorded {
            self.context
                .workloads
                .replace(hash, workload, Instant::now() + LIFE);
        }
        Ok(is_recorded)
    }

    pub(crate) async fn declare_lost(&self, node: NodeId, instance: InstanceId) -> Result<(), OrderError> {
        self.ask(node, |reply| NodeRequest::DeclareLost { instance, reply })
            .await
    }

    pub(crate) async fn forget(&self, node: NodeId, instance: InstanceId) -> Result<(), OrderError> {
        self.ask(node, |reply| NodeRequest::Forget { instance, reply })
            .await
    }

    pub(crate) async fn cordon(&self, node: NodeId, cordoned: bool) -> Result<NodeSummary, OrderError> {
        self.ask(node, |reply| NodeRequest::Cordon { cordoned, reply })
            .await
    }

    /// How many instances are being stopped
    pub(crate) async fn drain(
        &self,
        node: NodeId,
        shutdown: bool,
        timeout: Duration,
    ) -> Result<usize, OrderError> {
        self.ask(node, |reply| NodeRequest::Drain {
            shutdown,
            timeout,
            reply,
        })
        .await
    }

    pub(crate) async fn undrain(&self, node: NodeId) -> Result<NodeSummary, OrderError> {
        self.ask(node, |reply| NodeRequest::Undrain { reply }).await
    }

    pub(crate) async fn shut_down(
        &self,
        node: NodeId,
        reason: String,
    ) -> Result<oneshot::Receiver<ShutdownNodeAck>, OrderError> {
        self.ask(node, |reply| NodeRequest::ShutDown { reason, reply })
            .await
    }

    /// Gives up whatever lives on a node that is away; the answer is how many that is
    pub(crate) async fn give_up_all(&self, node: NodeId) -> Result<usize, OrderError> {
        self.ask(node, |reply| NodeRequest::GiveUpAll { reply }).await
    }

    /// Removes a node that is away with all that is recorded of it, and ends its task
    pub(crate) async fn remove(&self, node: NodeId) -> Result<(), OrderError> {
        self.ask(node, |reply| NodeRequest::Retire { reply }).await?;
        self.entries().remove(&node);
        Ok(())
    }

    /// Lets every node do now what has failed of a module; says on how many there was such a thing
    pub(crate) async fn retry_module(&self, module: ModuleId) -> usize {
        let nodes: Vec<NodeId> = self.entries().keys().copied().collect();
        let asked = nodes.into_iter().map(|node| async move {
            let asked = self.ask(node, |reply| NodeRequest::RetryModule { module, reply });
            asked.await.unwrap_or(false)
        });
        let retried = futures_util::future::join_all(asked).await;
        retried.into_iter().filter(|is_retried| *is_retried).count()
    }

    /// Has the daemon of a node ask for another certificate
    pub(crate) async fn renew_certificate(&self, node: NodeId) -> Result<(), OrderError> {
        self.ask(node, |reply| NodeRequest::RenewCertificate { reply })
            .await
    }

    /// Has every node that listens hear that the authorities are others
    ///
    /// One that is too busy to be told hears it when it connects again.
    pub(crate) fn tell_authorities(&self) {
        let tasks: Vec<_> = self
            .entries()
            .values()
            .map(|entry| entry.orders.clone())
            .collect();
        tokio::spawn(async move {
            for orders in tasks {
                let telling = orders.send(Traced::now(NodeRequest::AuthoritiesChanged));
                if tokio::time::timeout(ORDER_TIMEOUT, telling).await.is_err() {
                    tracing::warn!(
                        "a node is too busy to hear of the authorities, and hears of them when it connects again"
                    );
                }
            }
        });
    }

    pub(crate) async fn close(&self, node: NodeId, close: Close) -> Result<(), OrderError> {
        self.ask(node, |reply| NodeRequest::Close { close, reply }).await
    }

    /// Hands over a stream whose handshake is complete
    pub(super) async fn join(&self, node: NodeId, order: NodeRequest) -> Result<(), OrderError> {
        let orders = self.entry(node, |_| {});
        let sent = tokio::time::timeout(ORDER_TIMEOUT, orders.send(Traced::now(order))).await;
        sent.map_err(|_| OrderError::Busy)?.map_err(|_| OrderError::Busy)
    }

    async fn ask<T>(
        &self,
        node: NodeId,
        order: impl FnOnce(Reply<T>) -> NodeRequest,
    ) -> Result<T, OrderError> {
        let orders = self.entries().get(&node).map(|entry| entry.orders.clone());
        let orders = orders.ok_or(OrderError::UnknownNode)?;
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            orders
                .send(Traced::now(order(reply)))
                .await
                .map_err(|_| OrderError::Unanswered)?;
            answer.await.map_err(|_| OrderError::Unanswered)?
        };
        tokio::time::timeout(ORDER_TIMEOUT, exchange)
            .await
            .unwrap_or(Err(OrderError::Unanswered))
    }

    /// The mailbox of a node's task, which is started if there is none; `prepare` sees a new one before it runs
    fn entry(&self, node: NodeId, prepare: impl FnOnce(&mut Node)) -> mpsc::Sender<Traced> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&node) {
            return entry.orders.clone();
        }
        let (orders, mailbox) = mpsc::channel(MAILBOX);
        let view = SharedView::default();
        let mut task = Node::new(node, Arc::clone(&self.context), Arc::clone(&view));
        prepare(&mut task);
        let vital = &self.context.vital;
        self.tasks
            .spawn(vital.guard(format!("the task of {node}"), task.run(mailbox)));
        entries.insert(
            node,
            Entry {
                orders: orders.clone(),
                view,
            },
        );
        orders
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<NodeId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn look(view: &SharedView) -> MutexGuard<'_, NodeView> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}
