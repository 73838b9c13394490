//! Templates, from the cache or from the controller
//!
//! ```text
//!  preparations ──get──> Templates ──ask──> the session ──> controller
//!        ▲                 │    ▲                             │
//!        └──── Held ───────┘    └───── TemplateData, … ───────┘
//! ```
//!
//! Whom to ask for what, and what an answer means, is decided by [`TemplateRequests`]; here it is carried out. An answer has the
//! archive, or says where to [fetch] it. What has come is on disk before anybody uses it, and is verified each time it is used.

mod fetch;
mod shelf;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use prexorcloud_proto::{ArtifactKind, TemplateCacheEntry, TemplateData, controller_message};
use prexorcloud_protocol::TemplateName;
use prexorcloud_protocol::content::requests::{
    Outcome, RequestOutput, RequestsConfig, TEMPLATE_NOT_FOUND, TEMPLATE_TOO_LARGE, TEMPLATE_UNKNOWN,
    TemplateRequests, Wanted,
};
use prexorcloud_transport::Locks;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

pub(crate) use fetch::{Artifact, FetchError, Source};
pub(crate) use shelf::Held;
use shelf::{InUse, Shelf};

/// Where and how much, and how long a controller has
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) folder: PathBuf,
    /// Bytes of all archives together, but for those in use
    pub(crate) max_bytes: u64,
    /// How long a controller may take to answer
    pub(crate) deadline: Duration,
}

/// Why a template cannot be had
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The controller says so
    #[error("the controller does not give it: {message} ({code})")]
    Refused {
        /// Its code
        code: String,
        /// Its words
        message: String,
    },
    /// The controller does not say anything
    #[error("the controller did not answer within {} s", waited.as_secs_f64())]
    NoAnswer {
        /// For how long it was waited
        waited: Duration,
    },
    /// There was no controller to ask
    #[error("there was no connection to a controller for {} s", waited.as_secs_f64())]
    NoController {
        /// For how long it was waited
        waited: Duration,
    },
    /// It does not come, or is not what it should be
    #[error("it cannot be fetched from the controller: {problem}")]
    Transfer {
        /// What went wrong
        problem: String,
    },
    /// Too much is asked for already
    #[error("too many templates are being fetched")]
    TooMany,
    /// The cache cannot be read or written
    #[error("it cannot be kept in {path}: {problem}", path = path.display())]
    Cache {
        /// The folder
        path: PathBuf,
        /// What the system said
        problem: String,
    },
}

impl TemplateError {
    /// Whether trying again can help
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                let never = [TEMPLATE_NOT_FOUND, TEMPLATE_TOO_LARGE, TEMPLATE_UNKNOWN];
                !never.contains(&code.as_str())
            }
            _ => true,
        }
    }
}

/// The templates of this node
#[derive(Debug)]
pub(crate) struct Templates {
    shelf: Arc<Shelf>,
    deadline: Duration,
    asking: Mutex<Asking>,
    woken: Notify,
    /// Where artifacts are fetched; a node that announces no such ability has none
    source: OnceLock<Arc<Source>>,
    /// By the file that grows
    fetching: Locks<PathBuf>,
    /// What is being taken
    taking: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Asking {
    requests: TemplateRequests,
    /// Also while an answer is written to disk, so that nobody asks again meanwhile
    waiting: HashMap<Wanted, Vec<oneshot::Sender<Answer>>>,
}

/// What those who wait hear: the hash under which it is there, and that it stays until they have it
type Answer = Result<(String, InUse), TemplateError>;

/// What a controller's answer has
enum Brought {
    Inside(bytes::Bytes),
    Artifact(Artifact),
}

/// Why what a controller gave is not here
enum Lost {
    /// Not with the controller either, any more
    Gone(String),
    For(TemplateError),
}

/// A request to be sent
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) wanted: Wanted,
    pub(crate) known_hash: String,
}

impl Templates {
    /// What an earlier daemon kept is there; what had come of an archive is gone on with by whoever wants it
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let config = RequestsConfig {
            deadline: limits.deadline,
            ..RequestsConfig::default()
        };
        Arc::new(Self {
            shelf: Arc::new(Shelf::open(limits.folder, limits.max_bytes)),
            deadline: limits.deadline,
            asking: Mutex::new(Asking {
                requests: TemplateRequests::new(config),
                waiting: HashMap::new(),
            }),
            woken: Notify::new(),
            source: OnceLock::new(),
            fetching: Locks::default(),
            taking: Mutex::default(),
        })
    }

    /// Fetches artifacts from there
    pub(crate) fn fetch_from(&self, source: Arc<Source>) {
        // The first one counts: a node has one.
        let _ = self.source.set(source);
    }

    /// Gives up what is on its way
    pub(crate) fn abandon(&self) {
        self.taking().abort_all();
    }

    fn taking(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A content of a template, verified, from here or from the controller
    pub(crate) async fn get(&self, wanted: &Wanted) -> Result<Held, TemplateError> {
        // What the controller said is up to date may turn out to be damaged.
        for _ in 0..2 {
            if let Some(held) = self.take(wanted.clone()).await? {
                return Ok(held);
            }
            let Some(answer) = self.wait_for(wanted) else {
                // It came just now.
                continue;
            };
            let gone = || TemplateError::NoAnswer {
                waited: Duration::ZERO,
            };
            let (hash, _in_use) = answer.await.map_err(|_| gone())??;
            if hash != wanted.hash {
                tracing::warn!(template = %wanted.name, ordered = wanted.hash, used = hash,
                    "the controller has another content of the template than was ordered, and that is used");
            }
            let name = wanted.name;
            if let Some(held) = self.take(Wanted { name, hash }).await? {
                return Ok(held);
            }
        }
        Err(TemplateError::Cache {
            path: self.shelf.folder().to_path_buf(),
            problem: "what is written there is damaged when it is read".to_owned(),
        })
    }

    async fn take(&self, wanted: Wanted) -> Result<Option<Held>, TemplateError> {
        let shelf = Arc::clone(&self.shelf);
        let taken = tokio::task::spawn_blocking(move || shelf.take(&wanted));
        let taken = taken.await.map_err(|error| self.cache_error(&error))?;
        taken.map_err(|error| self.cache_error(&error))
    }

    fn cache_error(&self, problem: &dyn std::fmt::Display) -> TemplateError {
        TemplateError::Cache {
            path: self.shelf.folder().to_path_buf(),
            problem: problem.to_string(),
        }
    }

    /// Joins those who wait; `None` if there is nothing to wait for any more
    fn wait_for(&self, wanted: &Wanted) -> Option<oneshot::Receiver<Answer>> {
        let mut asking = self.asking();
        if self.shelf.has(wanted) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let is_under_way = asking.waiting.contains_key(wanted);
        asking.waiting.entry(wanted.clone()).or_default().push(sender);
        if !is_under_way {
            let known = self.shelf.newest(wanted.name).unwrap_or_default();
            asking
                .requests
                .handle_wanted(Instant::now(), wanted.clone(), &known);
            self.woken.notify_one();
        }
        Some(receiver)
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there may be something to ask for
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// When a request is overdue
    pub(crate) fn timeout(&self) -> Option<Instant> {
        self.asking().requests.poll_timeout().map(|deadline| deadline.at)
    }

    pub(crate) fn handle_connected(&self) {
        self.asking().requests.handle_connected(Instant::now());
        self.woken.notify_one();
    }

    pub(crate) fn handle_disconnected(&self) {
        self.asking().requests.handle_disconnected();
    }

    pub(crate) fn handle_unsent(&self, wanted: &Wanted) {
        self.asking().requests.handle_unsent(wanted);
    }

    /// What is to be asked for now; tells those who wait what is decided
    pub(crate) fn poll(&self) -> Vec<Ask> {
        let mut asking = self.asking();
        asking.requests.handle_timeout(Instant::now());
        let mut asks = Vec::new();
        while let Some(output) = asking.requests.poll_output() {
            match output {
                RequestOutput::Ask { wanted, known_hash } => asks.push(Ask { wanted, known_hash }),
                RequestOutput::Settled { wanted, outcome } => {
                    let waited = self.deadline;
                    let answer = match outcome {
                        // If it went meanwhile, those who wait ask again.
                        Outcome::UpToDate { known_hash } => {
                            let name = wanted.name;
                            let known = Wanted {
                                name,
                                hash: known_hash.clone(),
                            };
                            Ok((known_hash, InUse::of(&self.shelf, known)))
                        }
                        Outcome::Refused { code, message } => Err(TemplateError::Refused { code, message }),
                        Outcome::Overdue { asked: true } => Err(TemplateError::NoAnswer { waited }),
                        Outcome::Overdue { asked: false } => Err(TemplateError::NoController { waited }),
                        Outcome::TooMany => Err(TemplateError::TooMany),
                    };
                    asking.answer(&wanted, &answer);
                }
            }
        }
        asks
    }

    /// Takes an answer of the controller; gives back what is none
    pub(crate) fn handle_request(
        self: &Arc<Self>,
        request: controller_message::Payload,
    ) -> Option<controller_message::Payload> {
        let now = Instant::now();
        // Whatever comes, somebody may have his answer, or another request its turn.
        self.woken.notify_one();
        match request {
            controller_message::Payload::TemplateData(data) => self.handle_data(now, *data),
            controller_message::Payload::TemplateUpToDate(answer) => {
                let name = TemplateName::new(&answer.template_name);
                let is_answer = name.is_ok_and(|name| self.asking().requests.handle_up_to_date(now, name));
                if !is_answer {
                    tracing::warn!(
                        template = answer.template_name,
                        "the controller says that a template is up to date, and nobody asked"
                    );
                }
            }
            controller_message::Payload::ErrorReport(report) => {
                let (code, message) = (&report.error_code, &report.error_message);
                let mut asking = self.asking();
                if !asking.requests.handle_error(now, code, &report.context, message) {
                    return Some(controller_message::Payload::ErrorReport(report));
                }
            }
            other => return Some(other),
        }
        None
    }

    fn handle_data(self: &Arc<Self>, now: Instant, data: TemplateData) {
        let Ok(name) = TemplateName::new(&data.template_name) else {
            return;
        };
        let answered = self.asking().requests.handle_data(now, name, &data.hash);
        let Some(first) = answered.first() else {
            tracing::warn!(template = %name, "the controller sent a template that nobody asked for; it is ignored");
            return;
        };
        let hash = if data.hash.is_empty() {
            first.hash.clone()
        } else {
            data.hash
        };
        let kept = Wanted { name, hash };
        let brought = match &data.artifact {
            None => Ok(Brought::Inside(data.tar_gz)),
            Some(reference) => Artifact::new(ArtifactKind::Template, name.as_str(), reference)
                .map(Brought::Artifact)
                .ok_or_else(|| format!("the controller's reference to it makes no sense: {reference:?}")),
        };
        let templates = Arc::clone(self);
        let mut taking = self.taking();
        // Those that have ended meanwhile.
        while taking.try_join_next().is_some() {}
        taking.spawn(async move { templates.take_in(kept, answered, brought).await });
    }

    /// Keeps what the controller gave, and tells those who wait
    async fn take_in(self: Arc<Self>, kept: Wanted, answered: Vec<Wanted>, brought: Result<Brought, String>) {
        let taken = match brought {
            Ok(Brought::Inside(archive)) => {
                let (shelf, kept) = (Arc::clone(&self.shelf), kept.clone());
                self.on_shelf(move || shelf.put(&kept, &archive)).await
            }
            Ok(Brought::Artifact(artifact)) => self.fetch(&kept, &artifact).await,
            Err(problem) => Err(Lost::For(TemplateError::Transfer { problem })),
        };
        let now = Instant::now();
        let mut asking = self.asking();
        match taken {
            Err(Lost::Gone(message)) => {
                for wanted in &answered {
                    asking.requests.handle_gone(now, wanted, &message);
                }
            }
            taken => {
                let answer = match taken {
                    Ok(in_use) => Ok((kept.hash, in_use)),
                    Err(Lost::For(error)) => {
                        tracing::error!(template = %kept.name, %error, "a template cannot be had");
                        Err(error)
                    }
                    Err(Lost::Gone(problem)) => Err(TemplateError::Transfer { problem }),
                };
                for wanted in &answered {
                    asking.requests.handle_taken(now, wanted);
                    asking.answer(wanted, &answer);
                }
            }
        }
        drop(asking);
        self.woken.notify_one();
    }

    async fn fetch(&self, kept: &Wanted, artifact: &Artifact) -> Result<InUse, Lost> {
        let transfer = |problem: String| Lost::For(TemplateError::Transfer { problem });
        let Some(source) = self.source.get() else {
            return Err(transfer("this node fetches nothing".to_owned()));
        };
        let path = self.shelf.part_path(kept, &artifact.sha256);
        // An answer that comes late may bring the same content.
        let _turn = self.fetching.of(&path).lock_owned().await;
        if self.shelf.has(kept) {
            return Ok(InUse::of(&self.shelf, kept.clone()));
        }
        let begun = Instant::now();
        let (shelf, bytes) = (Arc::clone(&self.shelf), artifact.bytes);
        let unfinished = self.shelf.sweep_unfinished(|path| self.fetching.is_wanted(path));
        let room = tokio::task::spawn_blocking(move || shelf.make_room(bytes.saturating_add(unfinished)));
        room.await.map_err(|error| transfer(error.to_string()))?;
        let part = match source.fetch(artifact, path).await {
            Ok(part) => part,
            Err(FetchError::Gone(message)) => return Err(Lost::Gone(message)),
            Err(FetchError::Failed(failure)) => return Err(transfer(failure.to_string())),
            Err(FetchError::Disk(error)) => return Err(Lost::For(self.cache_error(&error))),
        };
        let milliseconds = begun.elapsed().as_millis();
        tracing::info!(template = %kept.name, hash = kept.hash, bytes, milliseconds, "a template was fetched");
        let (shelf, kept) = (Arc::clone(&self.shelf), kept.clone());
        self.on_shelf(move || shelf.adopt(&kept, part)).await
    }

    async fn on_shelf(
        &self,
        work: impl FnOnce() -> std::io::Result<InUse> + Send + 'static,
    ) -> Result<InUse, Lost> {
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(in_use)) => Ok(in_use),
            Ok(Err(error)) => Err(Lost::For(self.cache_error(&error))),
            Err(error) => Err(Lost::For(self.cache_error(&error))),
        }
    }

    /// The templates that are kept, as a controller is told
    pub(crate) fn entries(&self) -> Vec<TemplateCacheEntry> {
        self.shelf.entries()
    }

    /// Bytes of all of them
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.shelf.bytes()
    }
}

impl Asking {
    fn answer(&mut self, wanted: &Wanted, answer: &Answer) {
        for waiting in self.waiting.remove(wanted).unwrap_or_default() {
            // Whoever has given up hears nothing.
            let _ = waiting.send(answer.clone());
        }
    }
}
