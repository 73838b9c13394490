//! From an order to a process that can be started
//!
//! ```text
//! validation ── templates, variables ── runtime jar ── extensions ── prepared files ── config patches ── promotion ── launch
//! ```
//!
//! Each stage fails with a [`PreparationError`] that knows its stage, its stable code, whether trying again can help, and
//! the root cause in words. Preparing is a future: after it is dropped what was staged is deleted, a static folder is what it was, and
//! nothing has started; the next preparation of the instance waits for that.

mod artifact;
mod bootstrap;
mod config_patch;
mod encoding;
mod failure;
mod inside;
mod install;
mod json;
mod launch;
mod leftovers;
mod merge;
mod notes;
mod order;
mod protected;
mod substitution;
mod templates;
#[cfg(test)]
mod tests;
mod turns;
mod undo;
mod workspace;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prexorcloud_proto::{CacheStatus, ConfigFormat, PreWarmEntry, StartInstance};
use prexorcloud_protocol::instance::Limits;
use prexorcloud_protocol::readiness::Rule;

use crate::cache;
use crate::cache::bootstrap::Bootstraps;
use crate::cache::templates::Templates;
use crate::control::LaunchSpec;
use crate::supervisor::{EphemeralFolder, InstanceFacts};

use artifact::{Artifacts, Description};
use notes::Notes;
use order::Assignment;
use protected::Protected;
use workspace::{Preparing, Workspace, Workspaces};

pub use crate::cache::templates::TemplateError;
pub use artifact::DownloadLimits;
pub use failure::{ArtifactError, PreparationError};
pub use launch::{ControllerApi, Runtime, find_java};
pub use order::STANDIN_SUFFIX;

/// How instances are prepared on this node
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's id
    pub node_id: String,
    /// The folder of the instances' workspaces
    pub instances_folder: PathBuf,
    /// The folder of kept downloads
    pub cache_folder: PathBuf,
    /// The configured `java`, if it is not to be looked for
    pub java: Option<PathBuf>,
    /// The built-in stand-in server, if it may be used
    pub standin: Option<Runtime>,
    /// The folder of kept templates
    pub templates_folder: PathBuf,
    /// Bytes of the templates that are kept while nobody uses them
    pub max_template_bytes: u64,
    /// The folder of what jars have made beforehand
    pub bootstraps_folder: PathBuf,
    /// Bytes of it that are kept while nobody uses them; 0 = nothing is made beforehand
    pub max_bootstrap_bytes: u64,
    /// How long a controller may take to send a template
    pub template_deadline: Duration,
    /// Bounds of downloads
    pub downloads: DownloadLimits,
    /// How long an instance may take to stop if its order does not say
    pub default_grace: Duration,
}

/// Prepares instances
#[derive(Debug)]
pub struct Preparer {
    settings: Settings,
    workspaces: Workspaces,
    artifacts: Artifacts,
    templates: Arc<Templates>,
    bootstraps: Arc<Bootstraps>,
}

/// A prepared instance
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the supervisor needs to know
    pub facts: InstanceFacts,
    /// What is to be started
    pub launch: LaunchSpec,
    /// What was passed over, one bounded line each, for the console of the instance
    pub notes: Vec<String>,
}

impl Preparer {
    /// A preparer, after a sweep of what an earlier one left half-done
    ///
    /// # Errors
    /// If the instances' folder exists and cannot be listed.
    pub fn new(settings: Settings) -> io::Result<Self> {
        leftovers::sweep(&settings.instances_folder)?;
        Ok(Self {
            workspaces: Workspaces::new(settings.instances_folder.clone()),
            artifacts: Artifacts::new(settings.cache_folder.clone(), settings.downloads),
            templates: Templates::new(cache::templates::Limits {
                folder: settings.templates_folder.clone(),
                max_bytes: settings.max_template_bytes,
                deadline: settings.template_deadline,
            }),
            bootstraps: Bootstraps::new(cache::bootstrap::Settings::new(
                settings.bootstraps_folder.clone(),
                settings.max_bootstrap_bytes,
            )),
            settings,
        })
    }

    /// Prepares one instance
    ///
    /// `limits` has the deadline for being ready that holds; `api` is where the controller's REST interface is, if that is known by now.
    ///
    /// # Errors
    /// [`PreparationError`]; nothing of the instance is left then, except the folder of a static one.
    pub async fn prepare(
        &self,
        start: &StartInstance,
        limits: Limits,
        api: Option<&ControllerApi>,
    ) -> Result<Prepared, PreparationError> {
        let order = Assignment::read(start)?;
        check_port(order.port)?;
        let runtime = self.runtime(&order)?;
        let fetched = templates::fetch(&self.templates, &order.templates).await?;
        let mut preparing = self.workspaces.open(&order).await?;
        let filled = self.fill(&order, &runtime, fetched, &mut preparing).await;
        let (folder, archive, notes) = match filled {
            Ok((archive, notes)) => (preparing.promote().await?, archive, notes),
            Err(error) => {
                preparing.give_up().await;
                return Err(error);
            }
        };
        let failed = |error| PreparationError::Workspace {
            path: folder.clone(),
            error,
        };
        let ephemeral_folder = if order.is_static {
            None
        } else {
            Some(EphemeralFolder::of(&folder).map_err(failed)?)
        };
        let working_folder = std::path::absolute(&folder).map_err(failed)?;
        let (program, arguments) =
            launch::command(&order, &self.settings.node_id, &runtime, archive.as_deref());
        Ok(Prepared {
            notes: notes.into_lines(),
            launch: LaunchSpec {
                program,
                arguments,
                environment: launch::environment(&order, &self.settings.node_id, api, inherited()),
                working_folder,
            },
            facts: InstanceFacts {
                instance: order.instance,
                group: order.group,
                incarnation: order.incarnation,
                port: order.port,
                stop_command: launch::stop_command(&order).to_owned(),
                readiness: Rule::of(start),
                startup_timeout: limits.startup,
                grace: order.grace.unwrap_or(self.settings.default_grace),
                max_lifetime: order.max_lifetime,
                ephemeral_folder,
            },
        })
    }

    /// Has a runtime in the cache before it is needed, and what it makes at its first start; an entry that lacks something is skipped
    ///
    /// What it makes is worth no error: the status of the cache shows whether it is there.
    ///
    /// # Errors
    /// If it cannot be downloaded, or is not what its digest says; without a digest nothing is kept.
    pub async fn warm(&self, entry: &PreWarmEntry) -> Result<(), ArtifactError> {
        let wanted = [
            &entry.platform,
            &entry.platform_version,
            &entry.jar_file,
            &entry.download_url,
        ];
        if wanted.iter().any(|text| text.trim().is_empty()) {
            return Ok(());
        }
        let sha256 = entry.sha256.trim().to_ascii_lowercase();
        self.artifacts.keep(entry.download_url.trim(), &sha256).await?;
        let description = Description {
            platform: entry.platform.clone(),
            version: entry.platform_version.clone(),
            file: entry.jar_file.clone(),
        };
        self.artifacts.describe(&sha256, &description);
        let format = ConfigFormat::try_from(entry.config_format).unwrap_or_default();
        let jar = self.artifacts.open(entry.download_url.trim(), &sha256);
        if let (Ok(jar), Ok(java)) = (jar, self.java()) {
            bootstrap::make_ahead(&self.bootstraps, jar, &description, format, java).await;
        }
        Ok(())
    }

    /// What is kept on this node
    #[must_use]
    pub fn cache_status(&self) -> CacheStatus {
        let templates = i64::try_from(self.templates.kept_bytes()).unwrap_or(i64::MAX);
        let java = self.java().ok();
        let bootstraps = self.bootstraps.entries(java.as_deref());
        let prepared: i64 = bootstraps.iter().map(|entry| entry.size_bytes).sum();
        let jars = self.artifacts.kept_bytes();
        CacheStatus {
            templates: self.templates.entries(),
            jars: self.artifacts.kept_jars(),
            bootstraps,
            total_size_bytes: jars.saturating_add(templates).saturating_add(prepared),
        }
    }

    /// Gives up what is on its way to the caches
    pub(crate) fn abandon(&self) {
        self.templates.abandon();
        self.bootstraps.abandon();
    }

    /// Where templates come from
    pub(crate) fn templates(&self) -> Arc<Templates> {
        Arc::clone(&self.templates)
    }

    fn runtime(&self, order: &Assignment) -> Result<Runtime, PreparationError> {
        if order.wants_standin() {
            let file = order.jar_file.clone();
            return self
                .settings
                .standin
                .clone()
                .ok_or(PreparationError::StandinNotAllowed { file });
        }
        let binary = self.java()?;
        Ok(Runtime::Java { binary })
    }

    fn java(&self) -> Result<PathBuf, PreparationError> {
        find_java(self.settings.java.as_deref(), |key| std::env::var(key).ok())
    }

    /// Puts into a workspace what the order says; returns the class archive for the JVM, if there is one, and what was passed over
    async fn fill(
        &self,
        order: &Assignment,
        runtime: &Runtime,
        fetched: Vec<templates::Fetched>,
        preparing: &mut Preparing,
    ) -> Result<(Option<PathBuf>, Notes), PreparationError> {
        let mut notes = Notes::default();
        if !fetched.is_empty() {
            let variables = substitution::variables(order, &self.settings.node_id);
            let protected = Protected::new(&order.protected_paths);
            let apply =
                move |workspace: &Workspace| templates::apply(fetched, workspace, &protected, &variables);
            notes.extend(preparing.work(apply).await?);
        }
        install::provide(&self.artifacts, order, preparing).await?;
        let archive = bootstrap::provide(&self.bootstraps, order, runtime, preparing).await?;
        let patches = order.config_patches.clone();
        let patch = move |workspace: &Workspace| {
            let inside = workspace.inside()?;
            let files = patches
                .iter()
                .filter_map(|patch| inside.resolve(&patch.file).ok());
            let remembered = inside.remember_ahead(files.collect(), Vec::new());
            remembered.map_err(|error| PreparationError::Workspace {
                path: workspace.path().to_path_buf(),
                error: error.into_io(),
            })?;
            config_patch::apply(&inside, &patches)
        };
        notes.extend(preparing.work(patch).await?);
        Ok((archive, notes))
    }
}

fn inherited() -> impl Iterator<Item = (String, String)> {
    // Values that are not UTF-8 cannot be handed on as text.
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

/// Fails if somebody listens on the port, on any address
fn check_port(port: u16) -> Result<(), PreparationError> {
    for address in [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    ] {
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(PreparationError::PortInUse { port });
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(PreparationError::PortDenied { port, error });
            }
            // A machine without IPv6 has nothing that could be in use there.
            Err(_) if address.is_ipv6() => {}
            Err(error) => return Err(PreparationError::PortDenied { port, error }),
        }
    }
    Ok(())
}
