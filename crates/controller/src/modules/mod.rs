//! Modules: jars that operators install, and that nodes get
//!
//! A jar is judged before it is stored: its manifest, who has signed it, and whether modules would need each other in a circle. Its bytes are a
//! blob ([`crate::content`]); a record names it, and the one before it. What is installed is published to the tasks of the nodes, each of which
//! plans what its node lacks ([`prexorcloud_protocol::modules`]).

mod dependencies;
mod installed;
mod policy;
mod record;
mod traces;

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use prexorcloud_content::{
    Digest,
    module::{MAX_JAR_BYTES, Manifest, read_manifest},
};
use prexorcloud_protocol::trace::TraceParent;
use prexorcloud_security::signature::{self, Artifact, Form, Policy, SignatureError, Verified};
use tokio::sync::{Mutex, watch};

pub(crate) use self::installed::{Entry, Installed, wanted};
pub use self::{
    policy::{PolicyError, SigningConfig},
    record::{ModuleArtifact, ModuleRecord, NodeModule, NodeModulesRecord},
};
use self::{record::ModuleSetRecord, traces::Traces};
use crate::{
    audit,
    content::{BlobError, Content},
    events::Event,
    store::{self, Expect, Record as _, Store, StoreError, Stored, Txn},
    trace,
    wall_clock::now_millis,
};

/// Most modules
pub const MAX_MODULES: usize = 128;

/// Versions of a module that are kept beside the one that counts
const FORMER: usize = 5;

/// Attempts to change the modules while others change them
const ATTEMPTS: usize = 16;

/// Why something was not done to a module
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// No such module
    #[error("Platform module not found: {0}")]
    Unknown(String),
    /// The jar or its manifest is not acceptable
    #[error("{0}")]
    Invalid(String),
    /// Nobody who is believed has signed it
    #[error("{0}")]
    Signature(#[from] SignatureError),
    /// It does not fit to what is installed, or somebody else was faster
    #[error("{0}")]
    Conflict(String),
    /// The jar could not be kept
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// It could not be recorded
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A jar that somebody uploads
#[derive(Debug)]
pub struct Upload {
    /// Its name, for people
    pub file_name: String,
    /// The jar
    pub jar: Bytes,
    /// The signature file, and its form
    pub signature: Option<(Form, Bytes)>,
}

/// The modules of this controller
#[derive(Clone)]
pub(crate) struct Modules {
    store: Arc<dyn Store>,
    content: Arc<Content>,
    policy: Arc<Policy>,
    installed: Arc<watch::Sender<Installed>>,
    /// Held by whoever reads what is installed and shows it, so that nothing older is shown after it
    publishing: Arc<Mutex<()>>,
    traces: Arc<Traces>,
}

/// A jar after its judgement
struct Judged {
    manifest: Manifest,
    artifact: ModuleArtifact,
}

impl Modules {
    /// Over this store and these blobs; reads what is installed
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        content: Arc<Content>,
        policy: Policy,
    ) -> Result<Self, StoreError> {
        let modules = Self {
            store,
            content,
            policy: Arc::new(policy),
            installed: Arc::new(watch::Sender::new(Installed::default())),
            publishing: Arc::default(),
            traces: Arc::default(),
        };
        modules.publish().await?;
        Ok(modules)
    }

    #[cfg(test)]
    pub(crate) fn none(store: Arc<dyn Store>, content: Arc<Content>) -> Self {
        Self {
            store,
            content,
            policy: Arc::default(),
            installed: Arc::new(watch::Sender::new(Installed::default())),
            publishing: Arc::default(),
            traces: Arc::default(),
        }
    }

    /// What is installed, now and whenever it changes
    pub(crate) fn watch(&self) -> watch::Receiver<Installed> {
        self.installed.subscribe()
    }

    pub(crate) fn installed(&self) -> Installed {
        Arc::clone(&self.installed.borrow())
    }

    /// The trace of what was asked last about a module, for the orders that come of it
    pub(crate) fn trace_of(&self, id: &str) -> Option<TraceParent> {
        self.traces.of(id)
    }

    /// Nodes are about to be given orders about a module, because of the present request
    pub(crate) fn asked_about(&self, id: &str) {
        self.traces.note(id, trace::current());
    }

    pub(crate) fn content(&self) -> &Arc<Content> {
        &self.content
    }

    /// Installs a module, or another version of one; says whether that was so before
    pub(crate) async fn install(&self, actor: &str, upload: Upload) -> Result<(String, bool), ModuleError> {
        let policy = Arc::clone(&self.policy);
        let jar = upload.jar.clone();
        let judging = tokio::task::spawn_blocking(move || judge(&policy, upload));
        let Judged {
            manifest,
            mut artifact,
        } = judging
            .await
            .map_err(|_| internal("the worker that judged the jar ended"))??;
        let id = manifest.id.clone();
        actor.clone_into(&mut artifact.stored_by);
        let name = artifact
            .sha256
            .parse::<Digest>()
            .map_err(|_| internal("a digest is none"))?;
        let _pin = self.content.pin(name);
        let begun = store::load::<ModuleRecord>(&*self.store, &id).await?;
        self.content.keep(jar).await?;
        for _ in 0..ATTEMPTS {
            let set = store::load::<ModuleSetRecord>(&*self.store, "current").await?;
            let (mut all, _) = self.load_all().await?;
            let known = store::load::<ModuleRecord>(&*self.store, &id).await?;
            if known.as_ref().map(|known| known.revision) != begun.as_ref().map(|begun| begun.revision) {
                return Err(ModuleError::Conflict(format!(
                    "another version of {id} was installed meanwhile; look at it, and install this one again if it shall count"
                )));
            }
            let current = known.as_ref().and_then(|known| known.record.current.clone());
            if current
                .as_ref()
                .is_some_and(|current| current.sha256 == artifact.sha256)
            {
                return Ok((id, true));
            }
            if let Some(current) = current
                .as_ref()
                .filter(|current| current.version == artifact.version)
            {
                return Err(ModuleError::Conflict(format!(
                    "{id} {} is installed with another jar (SHA-256 {}); give this one a version of its own",
                    current.version, current.sha256
                )));
            }
            all.insert(id.clone(), manifest.clone());
            if all.len() > MAX_MODULES {
                return Err(ModuleError::Conflict(format!(
                    "there are {MAX_MODULES} modules, which is the limit"
                )));
            }
            refuse_circle(&all)?;
            let before = known.as_ref().map_or(&[][..], |known| &known.record.former);
            let record = ModuleRecord {
                id: id.clone(),
                current: Some(artifact.clone()),
                former: others(current.iter().chain(before), &artifact),
            };
            let audit = audit::entry(actor, "module.install", &id, &artifact.version);
            let txn =
                changed(set.as_ref())
                    .put_record(&record)
                    .put_record(&audit)
                    .tell(&Event::ModuleLoaded {
                        module_name: id.clone(),
                        has_frontend: manifest.frontend.is_some(),
                    });
            let txn = match &known {
                Some(known) => txn.expect(record.key(), Expect::At(known.revision)),
                None => txn.expect(record.key(), Expect::Absent),
            };
            self.asked_about(&id);
            if self.store.txn(txn).await?.committed().is_some() {
                tracing::info!(
                    module = id,
                    version = artifact.version,
                    sha256 = artifact.sha256,
                    signer = artifact.signer,
                    "a module was installed"
                );
                self.publish_soon().await;
                return Ok((id, false));
            }
        }
        Err(ModuleError::Conflict(
            "the modules change all the time, try again".to_owned(),
        ))
    }

    /// Lets another version of a module count that is kept: the named one, or the one that was uploaded before the one that counts
    pub(crate) async fn rollback(
        &self,
        actor: &str,
        id: &str,
        version: Option<&str>,
    ) -> Result<ModuleArtifact, ModuleError> {
        for _ in 0..ATTEMPTS {
            let set = store::load::<ModuleSetRecord>(&*self.store, "current").await?;
            let (mut all, _) = self.load_all().await?;
            let known = store::load::<ModuleRecord>(&*self.store, id).await?;
            let known = known.ok_or_else(|| unknown(id))?;
            let former = &known.record.former;
            let current = known.record.current.as_ref();
            let before = |artifact: &&ModuleArtifact| {
                current.is_none_or(|current| artifact.stored_at_ms < current.stored_at_ms)
            };
            let found = match version {
                Some(version) if current.is_some_and(|current| current.version == version) => {
                    return Err(ModuleError::Conflict(format!("{id} {version} counts already")));
                }
                Some(version) => former.iter().find(|artifact| artifact.version == version),
                None => former.iter().find(before),
            };
            let artifact = found.cloned().ok_or_else(|| nothing_kept(id, version, former))?;
            self.refuse_damaged(id, &artifact).await?;
            let manifest = Manifest::parse(&artifact.manifest)
                .map_err(|error| ModuleError::Invalid(error.to_string()))?;
            all.insert(id.to_owned(), manifest);
            refuse_circle(&all)?;
            let record = ModuleRecord {
                id: id.to_owned(),
                current: Some(artifact.clone()),
                former: others(current.into_iter().chain(former), &artifact),
            };
            let audit = audit::entry(actor, "module.rollback", id, &artifact.version);
            let txn = changed(set.as_ref()).put_record(&record).put_record(&audit);
            let txn = txn.expect(record.key(), Expect::At(known.revision));
            self.asked_about(id);
            if self.store.txn(txn).await?.committed().is_some() {
                tracing::info!(
                    module = id,
                    version = artifact.version,
                    sha256 = artifact.sha256,
                    "an earlier version of a module counts again"
                );
                self.publish_soon().await;
                return Ok(artifact);
            }
        }
        Err(ModuleError::Conflict(
            "the modules change all the time, try again".to_owned(),
        ))
    }

    /// A version whose jar is not what it was would be sent to nobody
    async fn refuse_damaged(&self, id: &str, artifact: &ModuleArtifact) -> Result<(), ModuleError> {
        let name = artifact.sha256.parse::<Digest>();
        let name = name.map_err(|_| internal("a recorded digest is none"))?;
        let jar = self.content.read(name, MAX_JAR_BYTES).await?;
        let is_whole = tokio::task::spawn_blocking(move || jar.is_some_and(|jar| Digest::of(&jar) == name));
        match is_whole.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ModuleError::Conflict(format!(
                "the jar of {id} {} is missing or damaged on the controller's disk; install it again",
                artifact.version
            ))),
            Err(_) => Err(internal("the worker that hashed the jar ended")),
        }
    }

    /// Uninstalls a module here and on every node
    pub(crate) async fn uninstall(&self, actor: &str, id: &str) -> Result<(), ModuleError> {
        for _ in 0..ATTEMPTS {
            let set = store::load::<ModuleSetRecord>(&*self.store, "current").await?;
            let known = store::load::<ModuleRecord>(&*self.store, id).await?;
            let known = known.ok_or_else(|| unknown(id))?;
            let key = known.record.key();
            let audit = audit::entry(actor, "module.uninstall", id, "");
            let txn = changed(set.as_ref()).expect(key.clone(), Expect::At(known.revision));
            let txn = txn.delete(key).put_record(&audit).tell(&Event::ModuleUnloaded {
                module_name: id.to_owned(),
            });
            self.asked_about(id);
            if self.store.txn(txn).await?.committed().is_some() {
                tracing::info!(module = id, "a module was uninstalled");
                self.publish_soon().await;
                return Ok(());
            }
        }
        Err(ModuleError::Conflict(
            "the modules change all the time, try again".to_owned(),
        ))
    }
}

/// The blobs that modules refer to
pub(crate) async fn referenced(store: &dyn Store) -> Result<Vec<Digest>, StoreError> {
    let (records, _) = store::load_all::<ModuleRecord>(store).await?;
    let artifacts = records
        .into_iter()
        .flat_map(|stored| stored.record.current.into_iter().chain(stored.record.former));
    Ok(artifacts
        .filter_map(|artifact| artifact.sha256.parse().ok())
        .collect())
}

fn unknown(id: &str) -> ModuleError {
    ModuleError::Unknown(id.chars().take(64).collect())
}

fn nothing_kept(id: &str, version: Option<&str>, former: &[ModuleArtifact]) -> ModuleError {
    let kept: Vec<&str> = former.iter().map(|former| former.version.as_str()).collect();
    let kept = match kept.is_empty() {
        true => "no other version is".to_owned(),
        false => format!("these are: {}", kept.join(", ")),
    };
    ModuleError::Conflict(match version {
        Some(version) => format!("{id} {version:.64} is not kept; {kept}"),
        None => format!("no version of {id} from before this one is kept; {kept}"),
    })
}

/// What stays beside the version that counts now: no second jar of a version, the newest uploads first
fn others<'a>(
    artifacts: impl Iterator<Item = &'a ModuleArtifact>,
    counts: &ModuleArtifact,
) -> Vec<ModuleArtifact> {
    let is_other = |artifact: &&ModuleArtifact| artifact.version != counts.version;
    let mut others: Vec<_> = artifacts.filter(is_other).cloned().collect();
    others.sort_by_key(|artifact| std::cmp::Reverse(artifact.stored_at_ms));
    others.truncate(FORMER);
    others
}

fn refuse_circle(all: &BTreeMap<String, Manifest>) -> Result<(), ModuleError> {
    let Some(circle) = dependencies::cycle(all) else {
        return Ok(());
    };
    let circle = circle.join(" -> ");
    Err(ModuleError::Conflict(format!(
        "modules would need each other in a circle: {circle}"
    )))
}

fn changed(set: Option<&Stored<ModuleSetRecord>>) -> Txn {
    let record = ModuleSetRecord {
        changed_at_ms: now_millis(),
    };
    match set {
        Some(set) => Txn::new().replace(set.revision, &record),
        None => Txn::new().create(&record),
    }
}

fn internal(detail: &str) -> ModuleError {
    ModuleError::Blob(BlobError::Io {
        detail: detail.to_owned(),
    })
}

/// Reads and verifies a jar; takes as long as its bytes take to be hashed
fn judge(policy: &Policy, upload: Upload) -> Result<Judged, ModuleError> {
    let Upload {
        file_name,
        jar,
        signature,
    } = upload;
    if jar.len() as u64 > MAX_JAR_BYTES {
        return Err(ModuleError::Invalid(format!(
            "the jar has more than {MAX_JAR_BYTES} bytes"
        )));
    }
    let text = read_manifest(Cursor::new(&jar)).map_err(|error| ModuleError::Invalid(error.to_string()))?;
    let manifest = Manifest::parse(&text).map_err(|error| ModuleError::Invalid(error.to_string()))?;
    let digest = Digest::of(&jar);
    let sha256 = digest.to_string();
    let open = || Ok(Box::new(Cursor::new(jar.clone())) as Box<dyn Read>);
    let artifact = Artifact::new(digest.into(), &open);
    let signed = signature.as_ref().map(|(form, file)| (*form, &file[..]));
    let signer = match signature::verify(policy, &artifact, signed, SystemTime::now())? {
        Verified::By { signer } => signer,
        Verified::NotSigned | Verified::NotChecked => String::new(),
    };
    let (kind, signature) = match signature {
        Some((form, file)) => (form.as_str(), file.to_vec()),
        None => ("", Vec::new()),
    };
    if signature.len() > signature::MAX_SIGNATURE_FILE {
        return Err(ModuleError::Invalid(
            "the signature file has more than 256 KiB".to_owned(),
        ));
    }
    let artifact = ModuleArtifact {
        version: manifest.version.to_string(),
        sha256,
        size_bytes: jar.len() as u64,
        file_name: file_name
            .chars()
            .filter(|letter| !letter.is_control())
            .take(128)
            .collect(),
        manifest: text,
        signature,
        signature_kind: kind.to_owned(),
        signer,
        stored_at_ms: now_millis(),
        stored_by: String::new(),
    };
    Ok(Judged { manifest, artifact })
}
