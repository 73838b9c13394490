//! From an order to a process that can be started
//!
//! ```text
//! validation ── workspace ── runtime jar ── extensions ── variables ── config patches ── launch
//! ```
//!
//! Each stage fails with a [`PreparationError`] that knows its stage, its stable code, whether trying again can help, and
//! the root cause in words. Preparing is a future: dropping it deletes what was staged and nothing has started.

mod artifact;
mod config_patch;
mod failure;
mod inside;
mod launch;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the stage that applies templates is to use it")
)]
mod merge;
mod order;
mod substitution;
mod workspace;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use prexorcloud_proto::StartInstance;
use prexorcloud_protocol::instance::Limits;
use prexorcloud_protocol::readiness::Rule;
use prexorcloud_protocol::redact;

use crate::control::LaunchSpec;
use crate::supervisor::{EphemeralFolder, InstanceFacts};

use artifact::Artifacts;
use inside::InsideError;
use order::Assignment;
use workspace::{Workspace, Workspaces};

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
}

/// A prepared instance
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the supervisor needs to know
    pub facts: InstanceFacts,
    /// What is to be started
    pub launch: LaunchSpec,
}

impl Preparer {
    /// A preparer, after a sweep of what an earlier one left half-done
    ///
    /// # Errors
    /// If the instances' folder exists and cannot be listed.
    pub fn new(settings: Settings) -> io::Result<Self> {
        let workspaces = Workspaces::new(settings.instances_folder.clone());
        workspaces.sweep()?;
        Ok(Self {
            workspaces,
            artifacts: Artifacts::new(settings.cache_folder.clone(), settings.downloads),
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
        if !order.templates.is_empty() {
            return Err(PreparationError::TemplatesUnsupported {
                names: order.templates.join(", "),
            });
        }
        let runtime = self.runtime(&order)?;
        let workspace = self.workspaces.open(&order)?;
        if !order.wants_standin() {
            self.provide_runtime(&order, &workspace).await?;
        }
        self.provide_extensions(&order, &workspace).await?;
        let workspace = self.configure(&order, workspace).await?;
        let folder = workspace.promote()?;
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
        let (program, arguments) = launch::command(&order, &runtime);
        Ok(Prepared {
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

    /// Bytes of the downloads that are kept
    #[must_use]
    pub fn cached_bytes(&self) -> i64 {
        self.artifacts.kept_bytes()
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
        let binary = find_java(self.settings.java.as_deref(), |key| std::env::var(key).ok())?;
        Ok(Runtime::Java { binary })
    }

    async fn provide_runtime(
        &self,
        order: &Assignment,
        workspace: &Workspace,
    ) -> Result<(), PreparationError> {
        let target = workspace.path().join(&order.jar_file);
        if order.download_url.is_empty() && order.sha256.is_empty() && target.is_file() {
            return Ok(());
        }
        let provided = self
            .artifacts
            .provide(&order.download_url, &order.sha256, &target);
        provided.await.map_err(|source| PreparationError::Runtime {
            file: order.jar_file.clone(),
            source,
        })
    }

    async fn provide_extensions(
        &self,
        order: &Assignment,
        workspace: &Workspace,
    ) -> Result<(), PreparationError> {
        for extension in &order.extensions {
            order::check_file_name("extension.file_name", &extension.file_name)?;
            let file = extension.file_name.clone();
            let failed = |source| PreparationError::Extension {
                file: file.clone(),
                source,
            };
            let sha256 = extension.sha256.trim().to_ascii_lowercase();
            if sha256.is_empty() {
                let url = redact::urls(&extension.download_url).into_owned();
                return Err(failed(ArtifactError::NoDigest { url }));
            }
            let relative = format!("{}/{}", extension.install_path, extension.file_name);
            let inside = workspace.inside()?;
            let target = match inside.resolve(relative.trim_start_matches('/')) {
                Ok(place) => inside.path(&place),
                Err(InsideError::Io(error)) => {
                    let path = workspace.path().join(&relative);
                    return Err(failed(ArtifactError::Io { path, error }));
                }
                Err(error) => {
                    let problem = format!("is {:?}: {error}", extension.install_path);
                    return Err(order::invalid("extension.install_path", problem));
                }
            };
            if let Some(folder) = target.parent() {
                tokio::fs::create_dir_all(folder).await.map_err(|error| {
                    failed(ArtifactError::Io {
                        path: folder.to_path_buf(),
                        error,
                    })
                })?;
            }
            let provided = self
                .artifacts
                .provide(extension.download_url.trim(), &sha256, &target);
            provided.await.map_err(failed)?;
        }
        Ok(())
    }

    /// Variables and config patches, where file work may block
    async fn configure(
        &self,
        order: &Assignment,
        workspace: Workspace,
    ) -> Result<Workspace, PreparationError> {
        let variables = substitution::variables(order, &self.settings.node_id);
        let patches = order.config_patches.clone();
        let path = workspace.path().to_path_buf();
        let work = tokio::task::spawn_blocking(move || {
            let inside = workspace.inside()?;
            substitution::substitute(&inside, &variables, workspace.lifetime())?;
            config_patch::apply(&inside, &patches)?;
            Ok(workspace)
        });
        match work.await {
            Ok(result) => result,
            Err(error) => Err(PreparationError::Workspace {
                path,
                error: io::Error::other(error),
            }),
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use prexorcloud_proto::{
        CompositionPlan, ConfigPatch, ExtensionArtifact, RuntimeArtifact, StartFailureDisposition,
        StartPreparationStage, TemplateRef,
    };
    use sha2::{Digest as _, Sha256};

    use super::*;

    struct Node {
        folder: tempfile::TempDir,
        preparer: Preparer,
    }

    fn node() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let preparer = Preparer::new(Settings {
            node_id: "node-1".into(),
            instances_folder: folder.path().join("instances"),
            cache_folder: folder.path().join("cache"),
            java: Some("/bin/sh".into()),
            standin: None,
            downloads: DownloadLimits::default(),
            default_grace: Duration::from_secs(30),
        })
        .unwrap();
        std::fs::write(folder.path().join("server.jar"), "jar").unwrap();
        Node { folder, preparer }
    }

    fn start(node: &Node) -> StartInstance {
        let port = TcpListener::bind("0.0.0.0:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        StartInstance {
            instance_id: "lobby-1".into(),
            group: "lobby".into(),
            port: i32::from(port),
            jar_file: "server.jar".into(),
            download_url: format!("file://{}", node.folder.path().join("server.jar").display()),
            ..StartInstance::default()
        }
    }

    fn hex(digest: &[u8]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn plan(start: &mut StartInstance) -> &mut CompositionPlan {
        let runtime = RuntimeArtifact {
            jar_file: start.jar_file.clone(),
            download_url: start.download_url.clone(),
            ..RuntimeArtifact::default()
        };
        start.composition_plan.insert(CompositionPlan {
            runtime: Some(runtime),
            ..CompositionPlan::default()
        })
    }

    fn leftovers(node: &Node) -> Vec<PathBuf> {
        let staging = node.folder.path().join("instances/.staging");
        match std::fs::read_dir(staging) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        }
    }

    async fn error(node: &Node, start: &StartInstance) -> PreparationError {
        let error = node
            .preparer
            .prepare(start, Limits::of(start), None)
            .await
            .unwrap_err();
        assert!(leftovers(node).is_empty(), "nothing half-prepared stays");
        error
    }

    #[tokio::test]
    async fn a_dynamic_instance_gets_a_fresh_folder_with_its_jar() {
        let node = node();
        let start = start(&node);
        for _ in 0..2 {
            let prepared = node
                .preparer
                .prepare(&start, Limits::of(&start), None)
                .await
                .unwrap();
            let folder = node.folder.path().join("instances/lobby/lobby-1");
            assert_eq!(prepared.launch.working_folder, folder);
            assert_eq!(std::fs::read(folder.join("server.jar")).unwrap(), b"jar");
            assert!(
                !folder.join("world").exists(),
                "what an earlier start wrote is gone"
            );
            std::fs::write(folder.join("world"), "").unwrap();
            assert!(prepared.facts.ephemeral_folder.is_some());
            assert_eq!(prepared.facts.grace, Duration::from_secs(30));
        }
        assert!(leftovers(&node).is_empty());
        let group = node.folder.path().join("instances/lobby");
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while std::fs::read_dir(&group).unwrap().count() > 1 {
            assert!(std::time::Instant::now() < deadline, "the former folder stays");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_static_instance_keeps_its_folder_and_gets_a_new_jar() {
        let node = node();
        let mut start = start(&node);
        start.static_instance = true;
        let folder = node.folder.path().join("instances/lobby/lobby-1");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("world"), "precious").unwrap();
        std::fs::write(folder.join("server.jar"), "old").unwrap();
        let prepared = node
            .preparer
            .prepare(&start, Limits::of(&start), None)
            .await
            .unwrap();
        assert_eq!(std::fs::read(folder.join("world")).unwrap(), b"precious");
        assert_eq!(std::fs::read(folder.join("server.jar")).unwrap(), b"jar");
        assert!(prepared.facts.ephemeral_folder.is_none());
        start.download_url.clear();
        node.preparer
            .prepare(&start, Limits::of(&start), None)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_static_folder_keeps_its_variables_and_its_links() {
        let node = node();
        let plugin = node.folder.path().join("plugin.jar");
        std::fs::write(&plugin, "plugin").unwrap();
        let mut start = start(&node);
        start.static_instance = true;
        plan(&mut start).extensions = vec![ExtensionArtifact {
            file_name: "plugin.jar".into(),
            download_url: plugin.to_str().unwrap().into(),
            sha256: hex(&Sha256::digest(b"plugin")),
            install_path: "plugins".into(),
            ..ExtensionArtifact::default()
        }];
        let folder = node.folder.path().join("instances/lobby/lobby-1");
        std::fs::create_dir_all(folder.join("shared/plugins")).unwrap();
        std::os::unix::fs::symlink("shared/plugins", folder.join("plugins")).unwrap();
        std::fs::write(folder.join("server.properties"), "server-port=%PORT%\n").unwrap();
        // The mount point of a file system, and nobody's group.
        std::fs::create_dir_all(node.folder.path().join("instances/lost+found")).unwrap();
        for _ in 0..2 {
            start.port = self::start(&node).port;
            node.preparer
                .prepare(&start, Limits::of(&start), None)
                .await
                .unwrap();
            assert_eq!(
                std::fs::read_to_string(folder.join("server.properties")).unwrap(),
                format!("server-port={}\n", start.port)
            );
            assert_eq!(
                std::fs::read(folder.join("shared/plugins/plugin.jar")).unwrap(),
                b"plugin"
            );
        }
        std::fs::remove_file(folder.join("plugins")).unwrap();
        std::os::unix::fs::symlink(node.folder.path(), folder.join("plugins")).unwrap();
        let error = node
            .preparer
            .prepare(&start, Limits::of(&start), None)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("the link plugins leads out"),
            "{error}"
        );
        assert_eq!(error.disposition(), StartFailureDisposition::Permanent);
    }

    #[tokio::test]
    async fn a_missing_jar_is_permanent_and_named() {
        let node = node();
        let mut start = start(&node);
        start.download_url = "/no/such/server.jar".into();
        let error = error(&node, &start).await;
        assert_eq!(error.code(), "RUNTIME_PROVISION_FAILED");
        assert_eq!(error.stage(), StartPreparationStage::RuntimeProvision);
        assert_eq!(error.disposition(), StartFailureDisposition::Permanent);
        assert_eq!(error.retry_after(), Duration::ZERO);
        assert!(error.to_string().contains("/no/such/server.jar"), "{error}");
    }

    #[tokio::test]
    async fn a_refused_download_may_be_tried_again() {
        let node = node();
        let mut start = start(&node);
        let port = start.port;
        plan(&mut start).runtime.as_mut().unwrap().sha256 = "a".repeat(64);
        plan_runtime(&mut start).download_url = format!("http://127.0.0.1:{port}/server.jar");
        let error = error(&node, &start).await;
        assert_eq!(error.code(), "RUNTIME_PROVISION_FAILED");
        assert_eq!(error.disposition(), StartFailureDisposition::Transient);
        assert_eq!(error.retry_after(), Duration::from_secs(3));
    }

    fn plan_runtime(start: &mut StartInstance) -> &mut RuntimeArtifact {
        start.composition_plan.as_mut().unwrap().runtime.as_mut().unwrap()
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_and_tried_again_later() {
        let node = node();
        let mut start = start(&node);
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(occupied) = TcpListener::bind(address) else {
                continue;
            };
            let port = occupied.local_addr().unwrap().port();
            start.port = i32::from(port);
            let error = error(&node, &start).await;
            assert_eq!(
                (error.code(), error.stage()),
                ("PORT_IN_USE", StartPreparationStage::Validation)
            );
            assert_eq!(error.disposition(), StartFailureDisposition::Transient);
            assert_eq!(error.retry_after(), Duration::from_secs(5));
            assert!(error.to_string().contains(&port.to_string()));
        }
    }

    #[tokio::test]
    async fn templates_are_refused_by_name_and_not_ignored() {
        let node = node();
        let mut start = start(&node);
        start.templates = vec![TemplateRef {
            name: "base".into(),
            ..TemplateRef::default()
        }];
        let error = error(&node, &start).await;
        assert_eq!(error.stage(), StartPreparationStage::TemplateApply);
        assert_eq!(error.code(), "TEMPLATE_APPLY_FAILED");
        assert_eq!(error.disposition(), StartFailureDisposition::Permanent);
        assert!(error.to_string().contains("base"));
    }

    #[tokio::test]
    async fn the_stand_in_needs_permission() {
        let node = node();
        let mut start = start(&node);
        start.jar_file = "demo.standin".into();
        let error = error(&node, &start).await;
        assert_eq!(error.code(), "RUNTIME_PROVISION_FAILED");
        assert!(error.to_string().contains("allow_standin"));
    }

    #[tokio::test]
    async fn extensions_patches_and_variables_come_together() {
        let node = node();
        let plugin = node.folder.path().join("plugin.jar");
        std::fs::write(&plugin, "plugin").unwrap();
        let properties = node.folder.path().join("server.properties");
        std::fs::write(&properties, "motd=%GROUP%\nport=1\n").unwrap();
        let digest = |path: &Path| {
            let digest = Sha256::digest(std::fs::read(path).unwrap());
            digest
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect::<String>()
        };
        let extension = |path: &Path, install_path: &str| ExtensionArtifact {
            file_name: path.file_name().unwrap().to_str().unwrap().into(),
            download_url: path.to_str().unwrap().into(),
            sha256: digest(path),
            install_path: install_path.into(),
            ..ExtensionArtifact::default()
        };
        let mut start = start(&node);
        plan(&mut start).extensions = vec![extension(&plugin, "plugins"), extension(&properties, ".")];
        start.composition_plan.as_mut().unwrap().config_patches = vec![ConfigPatch {
            file: "server.properties".into(),
            key: "port".into(),
            value: "2".into(),
            op: 0,
        }];
        node.preparer
            .prepare(&start, Limits::of(&start), None)
            .await
            .unwrap();
        let folder = node.folder.path().join("instances/lobby/lobby-1");
        assert_eq!(
            std::fs::read(folder.join("plugins/plugin.jar")).unwrap(),
            b"plugin"
        );
        let text = std::fs::read_to_string(folder.join("server.properties")).unwrap();
        assert_eq!(text, "motd=lobby\nport=2\n");

        let extensions = &mut start.composition_plan.as_mut().unwrap().extensions;
        extensions[0].install_path = "../../elsewhere".into();
        assert!(error(&node, &start).await.to_string().contains("leads out"));
        let extensions = &mut start.composition_plan.as_mut().unwrap().extensions;
        extensions[0].install_path = "plugins".into();
        extensions[0].sha256 = "0".repeat(64);
        let wrong = error(&node, &start).await;
        assert_eq!(wrong.code(), "EXTENSION_PROVISION_FAILED");
        assert_eq!(wrong.disposition(), StartFailureDisposition::Permanent);
        let patches = &mut start.composition_plan.as_mut().unwrap().config_patches;
        patches[0].file = "../outside.properties".into();
        start.composition_plan.as_mut().unwrap().extensions.clear();
        assert_eq!(error(&node, &start).await.code(), "CONFIG_PATCH_FAILED");
        start.composition_plan.as_mut().unwrap().config_patches[0].op = 9;
        assert_eq!(
            error(&node, &start).await.disposition(),
            StartFailureDisposition::Permanent
        );
    }

    #[tokio::test]
    async fn a_cancelled_preparation_leaves_nothing() {
        let node = node();
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut start = start(&node);
        plan(&mut start).runtime.as_mut().unwrap().sha256 = "a".repeat(64);
        plan_runtime(&mut start).download_url = format!("http://{}/x.jar", silent.local_addr().unwrap());
        {
            let mut preparing = std::pin::pin!(node.preparer.prepare(&start, Limits::of(&start), None));
            tokio::select! {
                result = &mut preparing => panic!("{result:?}"),
                // The request has arrived: the download is under way.
                _ = silent.accept() => {}
            }
            assert_eq!(leftovers(&node).len(), 1);
        }
        assert!(leftovers(&node).is_empty());
    }

    #[test]
    fn leftovers_of_a_killed_daemon_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join("instances").join(name);
        for name in [
            ".staging/lobby-1-1-1/x",
            "lobby/.lobby-1-ended-7/x",
            "lobby/.lobby-2-replaced-a/x",
            "lobby/lobby-3/x",
        ] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        Workspaces::new(folder.path().join("instances")).sweep().unwrap();
        assert!(!path(".staging").exists());
        assert_eq!(std::fs::read_dir(path("lobby")).unwrap().count(), 1);
        assert!(path("lobby/lobby-3/x").exists());
    }
}
