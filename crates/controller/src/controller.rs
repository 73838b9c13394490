//! A controller from its start to its end

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prexorcloud_logs::{Counts, Mirror, RollingFile};
use prexorcloud_proto::{
    admin_service_server::AdminServiceServer, artifact_service_server::ArtifactServiceServer,
    bootstrap_service_server::BootstrapServiceServer,
};
use prexorcloud_protocol::{Epoch, limits::BOOTSTRAP_BYTES};
use prexorcloud_security::{
    authority::{Authorities, Authority, AuthorityFolder, LoadError},
    files::{DataDirLock, LockError},
    revocation::SharedRevocations,
    seal::{SealingKey, SealingKeyError},
};
use prexorcloud_transport::{BindError, DaemonService, Server, ServerHandle, Target, Vital};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::{
    access::{ADMIN_TOKEN_FILE, AccessTokens, MintError},
    authorities::SharedAuthorities,
    catalog::Catalog,
    certificates::{self, Certificates, ServerCertificate, ServerCertificateError},
    config::ControllerConfig,
    console::Consoles,
    content::{CONTENT_FOLDER, Content, FolderBlobs},
    descriptors::Shares,
    enrolment::Enrolment,
    events::Feed,
    fleet::Fleet,
    groups::{Groups, Reconciler, Upkeep},
    host_access::HostAccessFile,
    http::{self, Api, HttpServer, HttpServerError, SharedAnswer, Tickets},
    inventory::Inventory,
    join_tokens::{JoinTokens, MintTokenError, MintedToken},
    lineage::{Known, Lineage, LineageError, STORE_FILE},
    logs::Logs,
    maintenance::Maintenance,
    modules::{Modules, PolicyError},
    nodes::{self, NodeContext, Nodes, StreamAcceptor},
    readiness::Readiness,
    records::ControllerRecord,
    rotation::Rotation,
    secrets,
    services::{Admin, Artifacts, Bootstrap},
    store::{self, OpenError, SqliteOptions, SqliteStore, Store, StoreError},
    templates::Templates,
    workloads::Workloads,
};

/// How long connections may take to end at a shutdown
const FAREWELL: Duration = Duration::from_secs(5);

/// Between two looks at the storage
const PROBE: Duration = Duration::from_secs(10);

/// Why a controller did not start: one sentence for the operator
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data folder is in use or cannot be written
    #[error(transparent)]
    DataDir(#[from] LockError),
    /// The store cannot be opened
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store cannot be read or written
    #[error(transparent)]
    Records(#[from] StoreError),
    /// The parts of the data folder do not belong together
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The key of what is secret in the records cannot be used
    #[error(transparent)]
    SealingKey(#[from] SealingKeyError),
    /// The keys that may sign modules cannot be read
    #[error(transparent)]
    Signing(#[from] PolicyError),
    /// The folder of templates' bytes cannot be used
    #[error("{} cannot be used for the bytes of templates: {error}", folder.display())]
    Content {
        /// The folder
        folder: PathBuf,
        /// What the system said
        error: std::io::Error,
    },
    /// The certificate authority cannot be loaded
    #[error(transparent)]
    Authority(#[from] LoadError),
    /// The first administrator's token cannot be made
    #[error("an administrator's token cannot be made: {0}")]
    AdminToken(#[from] MintError),
    /// There is no server certificate
    #[error(transparent)]
    Certificate(#[from] ServerCertificateError),
    /// The gRPC port cannot be used
    #[error("grpc.listen: {0}")]
    Grpc(#[from] BindError),
    /// The HTTP port cannot be used
    #[error(transparent)]
    Http(#[from] HttpServerError),
    /// The start was interrupted
    #[error("the start was interrupted")]
    Interrupted,
}

/// Why a running controller cannot go on
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerFailure {
    /// The store is damaged or closed
    #[error("the store failed: {0}")]
    Store(StoreError),
    /// The HTTP listener ended
    #[error("the HTTP listener ended")]
    Http,
    /// Nobody accepts connections of daemons any more
    #[error("the gRPC listener ended")]
    Grpc,
    /// A task that the controller cannot be without has died, which is a bug
    #[error("{task} has died; the log says why")]
    Task {
        /// Which one
        task: String,
    },
}

/// What only the program around a controller can count, for `/metrics`
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Log lines that could not be written
    pub lost_log_lines: Arc<AtomicU64>,
    /// What the program logs, to be shown at `/system/logs`
    pub log: Option<Mirror>,
    /// The file that has the log, too
    pub log_file: Option<RollingFile>,
}

impl Surroundings {
    pub(crate) fn lost_log_lines(&self) -> u64 {
        self.lost_log_lines.load(Ordering::Relaxed)
    }

    pub(crate) fn lost_file_lines(&self) -> u64 {
        self.log_file.as_ref().map_or(0, RollingFile::lost)
    }

    pub(crate) fn log_counts(&self) -> Counts {
        self.log.as_ref().map(Mirror::counts).unwrap_or_default()
    }
}

/// What a first start left for the operator
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstRun {
    /// The file with the administrator's bearer token (0600)
    pub admin_token_file: PathBuf,
}

/// The controller
#[derive(Debug)]
pub enum Controller {}

impl Controller {
    /// Starts a controller and returns when both ports serve
    ///
    /// A rustls provider must be installed for the process. Instances that were recorded before are taken up again;
    /// nodes find their way back by themselves.
    ///
    /// # Errors
    /// [`StartError`] is one sentence that says what the operator has to do. Nothing is left running then.
    pub async fn start(config: ControllerConfig) -> Result<RunningController, StartError> {
        Self::start_within(Surroundings::default(), config).await
    }

    /// The same, for a program that counts something
    ///
    /// # Errors
    /// See [`start`](Self::start).
    pub async fn start_within(
        surroundings: Surroundings,
        config: ControllerConfig,
    ) -> Result<RunningController, StartError> {
        let foundation = Foundation::lay(&config).await?;
        let shares = Shares::of_this_process();
        let grpc = Server::bind(config.grpc.listen, shares.grpc).await?;
        let http = HttpServer::bind(config.http.listen, shares.http).await?;
        foundation.serve(surroundings, config, grpc, http).await
    }
}

/// What has to be there before anything can be served
struct Foundation {
    lock: DataDirLock,
    store: Arc<dyn Store>,
    content: Arc<Content>,
    lineage: Arc<Lineage>,
    authorities: SharedAuthorities,
    sealing: Arc<SealingKey>,
    epoch: Epoch,
    access: AccessTokens,
    first_run: Option<FirstRun>,
    certificate: Arc<ServerCertificate>,
    revocations: SharedRevocations,
}

impl Foundation {
    async fn lay(config: &ControllerConfig) -> Result<Self, StartError> {
        let data_dir = config.data_dir.clone();
        let on_disk = tokio::task::spawn_blocking(move || {
            let lock = DataDirLock::acquire(&data_dir, "controller")?;
            let store = SqliteStore::open(data_dir.join(STORE_FILE), &SqliteOptions::default())?;
            let folder = data_dir.join(CONTENT_FOLDER);
            let blobs = FolderBlobs::open(&folder).map_err(|error| StartError::Content { folder, error })?;
            Ok::<_, StartError>((lock, store, blobs))
        });
        let (lock, store, blobs) = on_disk.await.map_err(|_| StartError::Interrupted)??;
        let store: Arc<dyn Store> = Arc::new(store);
        let known = Known::of(&*store).await?;
        let (data_dir, policy) = (config.data_dir.clone(), config.certificates.policy());
        let on_disk = tokio::task::spawn_blocking(move || {
            let lineage = Lineage::examine(&data_dir, &known)?;
            let folder = lineage.authority_folder();
            let sealing = secrets::key_of(folder)?;
            let authorities = match lineage.is_first_start() {
                true => Authorities {
                    signer: Authority::load_or_create(folder, &policy, SystemTime::now())?.0,
                    next: None,
                    former: None,
                },
                false => AuthorityFolder::new(folder, policy).load(known.authority())?,
            };
            lineage.require_signer(&known, authorities.signer.fingerprint())?;
            Ok::<_, StartError>((lineage, authorities, sealing))
        });
        let (lineage, authorities, sealing) = on_disk.await.map_err(|_| StartError::Interrupted)??;
        let lineage = Arc::new(lineage);
        let signer = authorities.signer.fingerprint();
        let epoch = lineage.next_epoch(&*store, signer).await?;
        let authorities = SharedAuthorities::new(authorities);
        let access = AccessTokens::new(Arc::clone(&store));
        let first_run = access.mint_first(&config.data_dir).await?.then(|| FirstRun {
            admin_token_file: config.data_dir.join(ADMIN_TOKEN_FILE),
        });
        let revocations = SharedRevocations::new(certificates::load_revocations(&*store).await?);
        let certificate = ServerCertificate::issue(
            authorities.clone(),
            config.grpc.names.clone(),
            revocations.clone(),
        )?;
        let certificate = Arc::new(certificate);
        Ok(Self {
            lock,
            store,
            content: Arc::new(Content::new(Arc::new(blobs))),
            lineage,
            authorities,
            sealing: Arc::new(sealing),
            epoch,
            access,
            first_run,
            certificate,
            revocations,
        })
    }

    async fn serve(
        self,
        surroundings: Surroundings,
        config: ControllerConfig,
        grpc: Server,
        http: HttpServer,
    ) -> Result<RunningController, StartError> {
        let Self {
            lock,
            store,
            content,
            lineage,
            authorities,
            sealing,
            epoch,
            access,
            first_run,
            certificate,
            revocations,
        } = self;
        let (host_access, host) = HostAccessFile::write(&config.data_dir, http.local_addr())?;
        let access = access.with_host(host);
        secrets::seal_what_is_open(&*store, &sealing).await?;
        let stopping = CancellationToken::new();
        let (vital, deaths) = Vital::new();
        let (failed, failure) = watch::channel(None);
        let logs = Arc::new(Logs::default());
        if let Some(mirror) = surroundings.log.clone() {
            let (logs, until) = (Arc::clone(&logs), stopping.clone());
            // Not vital: a controller can do without its own log.
            tokio::spawn(async move { logs.follow(mirror, until).await });
        }
        let consoles = Arc::new(Consoles::keeping(config.instances.console_lines));
        let workloads = Arc::new(Workloads::default());
        let inventory = Arc::new(Inventory::new(Arc::clone(&store)));
        let templates = Templates::new(
            Arc::clone(&store),
            content,
            Arc::clone(&sealing),
            config.templates.clone(),
        );
        let catalog = Catalog::new(Arc::clone(&store));
        let groups = Arc::new(Groups::new(
            Arc::clone(&store),
            templates.clone(),
            Arc::clone(&sealing),
            config.instances.clone(),
            catalog.clone(),
        ));
        let policy = config.module_signing.load()?;
        let modules = Modules::open(Arc::clone(&store), Arc::clone(templates.content()), policy).await?;
        let events = Arc::new(Feed::new(Arc::clone(&store)));
        let context = NodeContext {
            events: Arc::clone(&events),
            store: Arc::clone(&store),
            modules: modules.clone(),
            inventory: Arc::clone(&inventory),
            consoles: Arc::clone(&consoles),
            logs: Arc::clone(&logs),
            epoch,
            templates: templates.clone(),
            archives: Semaphore::new(nodes::ARCHIVES_IN_MEMORY),
            grants: Arc::default(),
            http_port: http.local_addr().port(),
            grpc_addresses: announced(
                &config.grpc.names,
                config.grpc.listen.ip(),
                grpc.local_addr().port(),
            ),
            config: config.clone(),
            stopping: stopping.clone(),
            vital: vital.clone(),
            crashes_since_pruning: Default::default(),
            notes: Arc::new(Semaphore::new(nodes::NOTES)),
            workloads: Arc::clone(&workloads),
            authorities: authorities.clone(),
            sealing,
        };
        nodes::summarise_crashes(&*store).await?;
        let logged = events.catch_up().await?;
        let nodes = Nodes::start(Arc::new(context)).await?;
        let tokens = JoinTokens::new(Arc::clone(&store), authorities.clone(), config.tokens.clone());
        let enrolment = Enrolment::new(
            Arc::clone(&store),
            tokens.clone(),
            authorities.clone(),
            revocations.clone(),
            &config.enrolment,
        );
        let certificates = Arc::new(Certificates::new(
            Arc::clone(&store),
            revocations.clone(),
            Arc::clone(&nodes),
        ));

        let acceptor = StreamAcceptor::new(Arc::clone(&nodes), revocations.clone());
        let admin = Admin::new(tokens.clone(), access.clone(), revocations.clone());
        let artifacts = Artifacts::new(Arc::clone(nodes.context()), revocations.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<DaemonService<StreamAcceptor>>().await;
        health.set_serving::<BootstrapServiceServer<Bootstrap>>().await;
        health.set_serving::<AdminServiceServer<Admin>>().await;
        health.set_serving::<ArtifactServiceServer<Artifacts>>().await;
        let bootstrap = BootstrapServiceServer::new(Bootstrap::new(
            Arc::new(enrolment),
            Arc::clone(&nodes),
            Arc::clone(&certificates),
        ));
        let routes = Routes::new(DaemonService::new(Arc::new(acceptor)))
            .add_service(bootstrap.max_decoding_message_size(BOOTSTRAP_BYTES))
            .add_service(AdminServiceServer::new(admin))
            .add_service(ArtifactServiceServer::new(artifacts))
            .add_service(health_service);
        let traced = axum::middleware::from_fn(crate::trace::answer);
        let routes = Routes::from(routes.into_axum_router().layer(traced));
        let tls = Arc::clone(&certificate);
        let grpc = grpc.serve(move || tls.config(), routes);

        certificates.serve(grpc.clone());
        let rotation = Rotation::new(
            Arc::clone(&store),
            AuthorityFolder::new(lineage.authority_folder(), config.certificates.policy()),
            authorities.clone(),
            Arc::clone(&certificate),
            Arc::clone(&certificates),
            Arc::clone(&nodes),
        );
        let fleet = Arc::new(Fleet::new(Arc::clone(&nodes)));
        let upkeep = Arc::new(Upkeep::new(
            Arc::clone(&store),
            Arc::clone(&groups),
            Arc::clone(&fleet),
        ));
        let reconciler = Reconciler::new(Arc::clone(&upkeep));
        let api = Api {
            store: Arc::clone(&store),
            tokens: tokens.clone(),
            templates: templates.clone(),
            modules: modules.clone(),
            access,
            fleet,
            groups,
            upkeep,
            catalog,
            nodes: Arc::clone(&nodes),
            certificates,
            rotation,
            consoles,
            workloads,
            event_streams: Arc::new(Semaphore::new(http::MAX_EVENT_STREAMS)),
            events: Arc::clone(&events),
            tickets: Tickets::default(),
            stopping: stopping.clone(),
            readiness: Readiness::new(Arc::clone(&store)),
            surroundings,
            logs,
            all_instances: SharedAnswer::default(),
        };
        let http_address = http.local_addr();
        let http = http.serve(http::router(Arc::new(api), &config.http), stopping.clone());
        let maintenance = Maintenance {
            store: Arc::clone(&store),
            tokens: tokens.clone(),
            templates,
            nodes: Arc::clone(&nodes),
            certificate: Arc::clone(&certificate),
            keep_crashes: config.crashes.keep,
        };
        tokio::spawn(vital.guard("the maintenance", maintenance.run(stopping.clone())));
        tokio::spawn(vital.guard("the log of events", events.follow(logged, stopping.clone())));
        tokio::spawn(vital.guard("the modules", modules.clone().follow(stopping.clone())));
        tokio::spawn(vital.guard("the keeping of groups", reconciler.run(stopping.clone())));
        tokio::spawn(vital.guard("the inventory", inventory.follow(stopping.clone())));
        let (following, followed, until) = (Arc::clone(&lineage), Arc::clone(&store), stopping.clone());
        let following = async move { following.follow(&*followed, until).await };
        tokio::spawn(vital.guard("the mark beside the authority", following));
        let http = tokio::spawn(watch_http(http, stopping.clone(), failed.clone()));
        tokio::spawn(watch_grpc(grpc.clone(), stopping.clone(), failed.clone()));
        let watched = watch_store(Arc::clone(&store), stopping.clone(), failed.clone());
        tokio::spawn(vital.guard("the watch over the store", watched));
        tokio::spawn(async move {
            let task = deaths.first().await;
            failed.send_replace(Some(ControllerFailure::Task { task }));
        });
        if !http_address.ip().is_loopback() {
            tracing::warn!(http = %http_address, "http.listen is not loopback: tokens and consoles travel unencrypted there, put a TLS proxy in front");
        }
        tracing::info!(grpc = %grpc.local_addr(), http = %http_address, epoch = epoch.get(), "the controller serves");
        let grpc_address = grpc.local_addr();
        let ending = Ending {
            health,
            nodes,
            http,
            grpc,
            store,
            lineage,
            host_access,
            lock,
        };
        Ok(RunningController {
            config,
            first_run,
            authorities,
            tokens,
            certificate,
            grpc_address,
            http_address,
            failure,
            ending: tokio::spawn(ending.run(stopping.clone())),
            stop: stopping.drop_guard(),
        })
    }
}

/// What has to end, in this order, whoever gave the word
struct Ending {
    health: HealthReporter,
    nodes: Arc<Nodes>,
    http: JoinHandle<()>,
    grpc: ServerHandle,
    store: Arc<dyn Store>,
    lineage: Arc<Lineage>,
    host_access: HostAccessFile,
    lock: DataDirLock,
}

impl Ending {
    async fn run(self, stopping: CancellationToken) {
        stopping.cancelled().await;
        self.health
            .set_not_serving::<DaemonService<StreamAcceptor>>()
            .await;
        self.nodes.stopped().await;
        if self.http.await.is_err() {
            tracing::warn!("the HTTP listener had failed");
        }
        let ended = self.grpc.shutdown(FAREWELL).await;
        if ended.cut_off > 0 {
            tracing::warn!(connections = ended.cut_off, "connections were cut at the end");
        }
        self.lineage.note(&*self.store).await;
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the store did not close cleanly; nothing that was acknowledged is lost");
        }
        self.host_access.remove();
        // The last to go: nobody else may open the folder before the store is closed.
        drop(self.lock);
        tracing::info!("the controller has stopped");
    }
}

/// A controller that serves
///
/// Dropping it begins the same end as [`shutdown`](Self::shutdown), without waiting for it.
pub struct RunningController {
    config: ControllerConfig,
    first_run: Option<FirstRun>,
    authorities: SharedAuthorities,
    tokens: JoinTokens,
    certificate: Arc<ServerCertificate>,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    failure: watch::Receiver<Option<ControllerFailure>>,
    ending: JoinHandle<()>,
    stop: DropGuard,
}

impl RunningController {
    /// Where daemons connect; the real port if the configured one was 0
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where HTTP is served; the real port if the configured one was 0
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http_address
    }

    /// The data folder
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// What daemons recognise this cluster by: base64url of the SHA-256 of the authority's certificate
    #[must_use]
    pub fn token_pin(&self) -> String {
        self.authorities.pin().to_string()
    }

    /// What the first start left for the operator; `None` at later ones
    #[must_use]
    pub fn first_run(&self) -> Option<&FirstRun> {
        self.first_run.as_ref()
    }

    /// Mints a join token in this process, for `node` or any, with the configured lifetime unless `ttl` says otherwise
    ///
    /// # Errors
    /// [`MintTokenError`]; nothing is recorded then.
    pub async fn create_join_token(
        &self,
        node: Option<&str>,
        ttl: Option<Duration>,
    ) -> Result<MintedToken, MintTokenError> {
        self.tokens.mint("controller", node, ttl).await
    }

    /// Issues another server certificate, for `names` beside those of this machine; open connections stay
    ///
    /// Nodes notice nothing: they believe the authority, which stays the same.
    ///
    /// # Errors
    /// [`ServerCertificateError`]; the controller goes on with the certificate that it has.
    pub fn reissue_certificate(&self, names: Vec<String>) -> Result<(), ServerCertificateError> {
        self.certificate.reissue(names)
    }

    /// Resolves when the controller cannot go on; the process should end with an error
    ///
    /// The future does not borrow, so the controller can be shut down while it waits.
    pub fn wait_failed(&self) -> impl Future<Output = ControllerFailure> + Send + use<> {
        let mut failure = self.failure.clone();
        async move {
            match failure
                .wait_for(Option::is_some)
                .await
                .map(|failure| failure.clone())
            {
                Ok(Some(failure)) => failure,
                // The controller was shut down in order: it did not fail and never will.
                _ => std::future::pending().await,
            }
        }
    }

    /// Ends sessions, requests and connections in good order and closes the store
    ///
    /// Instances run on; their nodes connect to the next controller.
    pub async fn shutdown(self) {
        drop(self.stop);
        if self.ending.await.is_err() {
            tracing::error!("the controller could not end in good order");
        }
    }
}

/// The addresses that daemons are told for later: only those that mean something elsewhere
fn announced(names: &[String], listen: IpAddr, port: u16) -> Vec<String> {
    let own = Some(listen)
        .filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
        .map(|ip| ip.to_string());
    let mut addresses: Vec<String> = names
        .iter()
        .chain(&own)
        // What stands in a certificate and cannot be dialled, such as a wildcard, helps nobody.
        .filter_map(|name| Target::new(name.trim(), port).ok())
        .map(|target| target.to_string())
        .collect();
    addresses.dedup();
    addresses.truncate(16);
    addresses
}

type Failed = watch::Sender<Option<ControllerFailure>>;

async fn watch_http(http: JoinHandle<()>, stopping: CancellationToken, failed: Failed) {
    if http.await.is_err() || !stopping.is_cancelled() {
        failed.send_replace(Some(ControllerFailure::Http));
    }
}

async fn watch_grpc(grpc: ServerHandle, stopping: CancellationToken, failed: Failed) {
    grpc.accepts_no_more().await;
    if !stopping.is_cancelled() {
        failed.send_replace(Some(ControllerFailure::Grpc));
    }
}

async fn watch_store(store: Arc<dyn Store>, stopping: CancellationToken, failed: Failed) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(PROBE) => {}
        }
        match store::load::<ControllerRecord>(&*store, ControllerRecord::ONLY).await {
            Err(error) if error.is_final() && !stopping.is_cancelled() => {
                failed.send_replace(Some(ControllerFailure::Store(error)));
                return;
            }
            Err(error) => tracing::error!(%error, "the store does not answer"),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_mean_something_elsewhere_are_announced() {
        let names = ["controller.example ", "2001:db8::1", "*.example", "[2001:db8::2]"].map(str::to_owned);
        let listen = |text: &str| text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        assert_eq!(
            announced(&names, listen("0.0.0.0"), 9090),
            [
                "controller.example:9090",
                "[2001:db8::1]:9090",
                "[2001:db8::2]:9090"
            ]
        );
        assert_eq!(announced(&[], listen("127.0.0.1"), 9090), Vec::<String>::new());
        assert_eq!(announced(&[], listen("203.0.113.9"), 9090), ["203.0.113.9:9090"]);
    }
}
