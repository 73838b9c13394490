//! What a module says of itself
//!
//! The fields are those of the Java programs, and unknown ones are refused, because a field that is ignored is a promise that is not kept.
//! `backend.daemon.host: process` and `backend.daemon.memoryMb` are additions of ours. A Java daemon refuses a manifest with them, and
//! says so: such a module cannot run inside of it.

use std::collections::BTreeSet;

use super::section::{Read, Section, is_id, text, wrong};
use super::yaml;
use super::{Range, Version};

/// The manifest of a module
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// 1 or 2
    pub manifest_version: u32,
    /// The id: `^[a-z][a-z0-9-]*$`
    pub id: String,
    /// The version
    pub version: Version,
    /// Where it runs; never empty
    pub hosts: BTreeSet<Host>,
    /// What runs in the controller
    pub controller: Option<Entrypoint>,
    /// What runs in daemons, or beside them
    pub daemon: Option<DaemonBackend>,
    /// What it shows
    pub frontend: Option<Frontend>,
    /// What it wants kept
    pub storage: ModuleStorage,
    /// What it provides to others
    pub provides: Vec<Provided>,
    /// What it needs of others
    pub requires: Vec<Required>,
    /// The ids of what it brings into servers
    pub extensions: Vec<String>,
}

/// A program that modules run in
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// The controller
    Controller,
    /// Every daemon
    Daemon,
}

/// A class that is loaded into its host
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrypoint {
    /// Its full name
    pub class: String,
    /// Whether it can be replaced without being stopped
    pub reloadable: bool,
}

/// What runs on nodes
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonBackend {
    /// The class: with a [process](Self::process) one that has `main`, else one for the process of a Java daemon
    pub entrypoint: Entrypoint,
    /// The process of its own that it asks for; `None` if only a Java daemon can run it
    pub process: Option<ProcessHost>,
}

/// A process that a daemon runs a module in
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessHost {
    /// The heap of its JVM, in MiB
    pub memory_mb: u32,
}

impl ProcessHost {
    /// What a module has that asks for nothing
    pub const DEFAULT_MEMORY_MB: u32 = 64;
    /// The least that a JVM works with
    pub const MIN_MEMORY_MB: u32 = 8;
    /// The most that a module may ask for
    pub const MAX_MEMORY_MB: u32 = 16_384;
}

/// A bundle for the dashboard
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The version of the interface that it is made for
    pub sdk_version: u32,
    /// Its file
    pub entry: String,
}

/// Storage that a module asks its controller for
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModuleStorage {
    /// Documents
    pub mongo: bool,
    /// Keys
    pub redis: bool,
    /// At most so many documents; 0 = no limit
    pub mongo_documents: u64,
    /// At most so many keys; 0 = no limit
    pub redis_keys: u64,
}

/// A capability that a module provides
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provided {
    /// Its id
    pub id: String,
    /// Its version
    pub version: Version,
    /// Since which version it should not be used any more
    pub deprecated_since: Option<Version>,
    /// In which version it will be gone
    pub removed_in: Option<Version>,
}

/// A capability that a module needs
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Required {
    /// Its id
    pub id: String,
    /// Which versions of it do
    pub versions: Range,
}

/// Why a manifest is refused
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the module's manifest is refused: {path}{}{detail}", if path.is_empty() { "" } else { ": " })]
pub struct ManifestError {
    /// Which field, such as `backend.daemon.entrypoint`; empty if it is the text as a whole
    pub path: String,
    /// What is wrong with it
    pub detail: String,
}

impl Manifest {
    /// Reads the text of a manifest
    ///
    /// # Errors
    /// [`ManifestError`], about the first field that is wrong.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > super::MAX_MANIFEST {
            return wrong("", "it is larger than 64 KiB");
        }
        let plain = text.strip_prefix('\u{feff}').unwrap_or(text);
        let value = yaml::parse(plain)
            .or_else(|malformed| wrong("", format!("line {}: {}", malformed.line, malformed.detail)))?;
        let root = Section::of("", &value)?;
        root.only(&[
            "manifestVersion",
            "id",
            "version",
            "hosts",
            "backend",
            "frontend",
            "capabilities",
            "storage",
            "extensions",
        ])?;
        let manifest_version = match root.integer("manifestVersion")? {
            None => 2,
            Some(version @ 1..=2) => u32::try_from(version).unwrap_or(2),
            Some(other) => {
                return wrong(
                    "manifestVersion",
                    format!("{other} is not supported, 1 and 2 are"),
                );
            }
        };
        let id = root.id("id")?;
        let version = root.version("version", str::parse)?;
        let hosts = hosts(&root)?;
        let (controller, daemon) = backend(&root, manifest_version, &hosts)?;
        let (provides, requires) = capabilities(&root, manifest_version)?;
        Ok(Self {
            manifest_version,
            id,
            version,
            controller,
            daemon,
            frontend: frontend(&root)?,
            storage: storage(&root)?,
            provides,
            requires,
            extensions: extensions(&root)?,
            hosts,
        })
    }

    /// Whether daemons get it
    #[must_use]
    pub fn is_for_daemons(&self) -> bool {
        self.hosts.contains(&Host::Daemon)
    }
}

fn hosts(root: &Section<'_>) -> Read<BTreeSet<Host>> {
    let Some(list) = root.list("hosts")? else {
        return Ok(BTreeSet::from([Host::Controller]));
    };
    let mut hosts = BTreeSet::new();
    for (path, value) in list {
        let name = text(&path, value)?;
        let host = match name.to_ascii_uppercase().as_str() {
            "CONTROLLER" => Host::Controller,
            "DAEMON" => Host::Daemon,
            _ => return wrong(path, "it is neither controller nor daemon"),
        };
        if !hosts.insert(host) {
            return wrong(path, "it is there twice");
        }
    }
    if hosts.is_empty() {
        return wrong("hosts", "it names none");
    }
    Ok(hosts)
}

type Backends = (Option<Entrypoint>, Option<DaemonBackend>);

fn backend(root: &Section<'_>, manifest_version: u32, hosts: &BTreeSet<Host>) -> Read<Backends> {
    let Some(backend) = root.section("backend")? else {
        return wrong("backend", "it is required");
    };
    backend.only(&["entrypoint", "controller", "daemon"])?;
    let reloadable: &[&str] = if manifest_version >= 2 {
        &["reloadable"]
    } else {
        &[]
    };
    let read = |section: &Section<'_>, more: &[&str]| {
        section.only(&[&["entrypoint"], reloadable, more].concat())?;
        Ok(Entrypoint {
            class: section.class("entrypoint")?,
            reloadable: section.boolean("reloadable")?,
        })
    };
    let (mut controller, mut daemon) = (None, None);
    if let Some(section) = backend.section("controller")? {
        controller = Some(read(&section, &[])?);
    }
    if let Some(section) = backend.section("daemon")? {
        daemon = Some(DaemonBackend {
            entrypoint: read(&section, &["host", "memoryMb"])?,
            process: process(&section)?,
        });
    }
    if backend.has("entrypoint") {
        if controller.is_some() || daemon.is_some() {
            return wrong(
                "backend.entrypoint",
                "it cannot stand beside `controller` and `daemon`",
            );
        }
        controller = Some(Entrypoint {
            class: backend.class("entrypoint")?,
            reloadable: false,
        });
    }
    for (host, name, is_there) in [
        (Host::Controller, "controller", controller.is_some()),
        (Host::Daemon, "daemon", daemon.is_some()),
    ] {
        if hosts.contains(&host) && !is_there {
            let path = format!("backend.{name}.entrypoint");
            return wrong(path, format!("it is required, since `hosts` names {name}"));
        }
    }
    if backend.has("entrypoint") && !hosts.contains(&Host::Controller) {
        return wrong("backend.entrypoint", "`hosts` does not name controller");
    }
    Ok((controller, daemon))
}

fn process(daemon: &Section<'_>) -> Read<Option<ProcessHost>> {
    let path = |name: &str| format!("backend.daemon.{name}");
    match daemon.text("host")? {
        None if daemon.has("memoryMb") => wrong(path("memoryMb"), "it is for `host: process` only"),
        None => Ok(None),
        Some("process") => {
            let (least, most) = (ProcessHost::MIN_MEMORY_MB, ProcessHost::MAX_MEMORY_MB);
            let asked = daemon
                .integer("memoryMb")?
                .map(|asked| u32::try_from(asked).unwrap_or(0));
            match asked.unwrap_or(ProcessHost::DEFAULT_MEMORY_MB) {
                memory_mb if (least..=most).contains(&memory_mb) => Ok(Some(ProcessHost { memory_mb })),
                _ => wrong(path("memoryMb"), format!("it is not from {least} to {most}")),
            }
        }
        Some(_) => wrong(path("host"), "the only one is `process`"),
    }
}

fn frontend(root: &Section<'_>) -> Read<Option<Frontend>> {
    let Some(frontend) = root.section("frontend")? else {
        return Ok(None);
    };
    frontend.only(&["sdkVersion", "entry"])?;
    if frontend.integer("sdkVersion")? != Some(1) {
        return wrong("frontend.sdkVersion", "it has to be 1");
    }
    let entry = frontend.required("entry")?.to_owned();
    Ok(Some(Frontend {
        sdk_version: 1,
        entry,
    }))
}

fn storage(root: &Section<'_>) -> Read<ModuleStorage> {
    let Some(section) = root.section("storage")? else {
        return Ok(ModuleStorage::default());
    };
    section.only(&["mongo", "redis", "limits"])?;
    let mut storage = ModuleStorage {
        mongo: section.boolean("mongo")?,
        redis: section.boolean("redis")?,
        ..ModuleStorage::default()
    };
    if let Some(limits) = section.section("limits")? {
        limits.only(&["mongoDocuments", "redisKeys"])?;
        for (name, is_wanted, kept) in [
            ("mongoDocuments", storage.mongo, &mut storage.mongo_documents),
            ("redisKeys", storage.redis, &mut storage.redis_keys),
        ] {
            match limits.integer(name)? {
                None => {}
                Some(0) => return wrong(limits.path(name), "it has to be above 0"),
                Some(_) if !is_wanted => return wrong(limits.path(name), "that storage is not asked for"),
                Some(limit) => *kept = limit,
            }
        }
    }
    Ok(storage)
}

fn capabilities(root: &Section<'_>, manifest_version: u32) -> Read<(Vec<Provided>, Vec<Required>)> {
    let (mut provides, mut requires) = (Vec::<Provided>::new(), Vec::new());
    let Some(section) = root.section("capabilities")? else {
        return Ok((provides, requires));
    };
    section.only(&["provides", "requires"])?;
    for (path, value) in section.list("provides")?.unwrap_or_default() {
        let entry = Section::of(&path, value)?;
        let later: &[&str] = if manifest_version >= 2 {
            &["deprecatedSince", "removedIn"]
        } else {
            &[]
        };
        entry.only(&[&["id", "version"], later].concat())?;
        let since = |name| match entry.text(name)? {
            None => Ok(None),
            Some(_) => entry.version(name, Version::with_build).map(Some),
        };
        let provided = Provided {
            id: entry.id("id")?,
            version: entry.version("version", Version::with_build)?,
            deprecated_since: since("deprecatedSince")?,
            removed_in: since("removedIn")?,
        };
        if provided.removed_in.is_some() && provided.deprecated_since.is_none() {
            return wrong(entry.path("removedIn"), "it needs `deprecatedSince` beside it");
        }
        if provides.iter().any(|known| known.id == provided.id) {
            return wrong(entry.path("id"), "it is provided twice");
        }
        provides.push(provided);
    }
    for (path, value) in section.list("requires")?.unwrap_or_default() {
        let entry = Section::of(&path, value)?;
        entry.only(&["id", "versionRange"])?;
        let versions = entry.required("versionRange")?.parse();
        let versions =
            versions.or_else(|bad: super::BadRange| wrong(entry.path("versionRange"), bad.to_string()))?;
        requires.push(Required {
            id: entry.id("id")?,
            versions,
        });
    }
    Ok((provides, requires))
}

fn extensions(root: &Section<'_>) -> Read<Vec<String>> {
    let mut ids: Vec<String> = Vec::new();
    for (path, value) in root.list("extensions")?.unwrap_or_default() {
        let extension = Section::of(&path, value)?;
        extension.only(&["id", "target", "activation", "conflicts", "variants"])?;
        let id = extension.id("id")?;
        if ids.contains(&id) {
            return wrong(extension.path("id"), "it is there twice");
        }
        let is_target = |target: &str| {
            let parts = target.split_once('/');
            parts.is_some_and(|(kind, runtime)| is_id(kind) && is_id(runtime))
        };
        if !is_target(extension.required("target")?) {
            return wrong(
                extension.path("target"),
                "it is no `type/runtime`, such as server/paper",
            );
        }
        let policies = ["explicit-group-attach", "default-enabled", "always"];
        if !policies.contains(&extension.required("activation")?) {
            return wrong(
                extension.path("activation"),
                format!("it is none of {}", policies.join(", ")),
            );
        }
        for (path, value) in extension.list("conflicts")?.unwrap_or_default() {
            text(&path, value)?;
        }
        variants(&extension)?;
        ids.push(id);
    }
    Ok(ids)
}

fn variants(extension: &Section<'_>) -> Read<()> {
    let mut ids: Vec<String> = Vec::new();
    for (path, value) in extension.list("variants")?.unwrap_or_default() {
        let variant = Section::of(&path, value)?;
        variant.only(&[
            "id",
            "mcVersionRange",
            "runtimeApiVersion",
            "artifact",
            "sha256",
            "installPath",
        ])?;
        let id = variant.id("id")?;
        if ids.contains(&id) {
            return wrong(variant.path("id"), "it is there twice");
        }
        if let Err(bad) = variant.required("mcVersionRange")?.parse::<Range>() {
            return wrong(variant.path("mcVersionRange"), bad.to_string());
        }
        if variant
            .integer("runtimeApiVersion")?
            .is_none_or(|version| version == 0)
        {
            return wrong(variant.path("runtimeApiVersion"), "it has to be 1 or more");
        }
        for name in ["artifact", "installPath"] {
            let path = variant.required(name)?;
            if path.starts_with(['/', '\\']) || path.split(['/', '\\']).any(|part| part == "..") {
                return wrong(variant.path(name), "it has to be a relative path without `..`");
            }
        }
        let sha256 = variant.required("sha256")?;
        if sha256.len() != 64 || !sha256.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return wrong(variant.path("sha256"), "it is not 64 hexadecimal digits");
        }
        ids.push(id);
    }
    if ids.is_empty() {
        return wrong(extension.path("variants"), "there has to be one");
    }
    Ok(())
}
