//! What an operator can set: one TOML file, overridden by environment variables
//!
//! Every key is described once, in a table that serves the reading, the errors, the names of the environment variables
//! and [`example`]. An unknown key is an error that names the nearest known one; it is never ignored. A Java daemon's
//! `daemon.yml` is understood too; what has no meaning here is told in a warning.
//!
//! ```
//! use prexorcloud_daemon::config;
//!
//! let error = config::parse("[health]\nlisten_on = \"x\"", "daemon.toml", []).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "daemon.toml:2: unknown key `health.listen_on`, did you mean `health.listen`?"
//! );
//! ```

mod error;
mod jackson;
mod java;
mod keys;
mod settings;
mod token;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prexorcloud_protocol::peer::KILL_TIMEOUT;
use prexorcloud_security::files::without_mark;
use prexorcloud_security::token::JoinToken;
use prexorcloud_transport::Target;
use tracing::level_filters::LevelFilter;

use settings::Settings;

pub use error::{ConfigError, Origin};
pub use keys::example;
pub use token::TokenSource;

/// The largest configuration file that is read
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Everything a daemon can be told; [`Default`] is a complete configuration
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// The node's name in the cluster
    pub node_id: String,
    /// Where the daemon keeps everything; created with mode 0700
    pub data_dir: PathBuf,
    /// The address that others reach this node by; empty for the one that the controller sees
    pub advertise_address: String,
    /// Labels of the node
    pub labels: BTreeMap<String, String>,
    /// The controllers
    pub controller: ControllerConfig,
    /// How the node joins the cluster
    pub enrolment: EnrolmentConfig,
    /// The health endpoint
    pub health: HealthConfig,
    /// How instances are kept
    pub instances: InstanceConfig,
    /// How much of consoles is kept
    pub console: ConsoleConfig,
    /// What instances run on
    pub runtime: RuntimeConfig,
    /// What modules have to be
    pub modules: ModuleConfig,
    /// What instances may use
    pub resources: ResourceConfig,
    /// How controllers are dialled again
    pub reconnect: ReconnectConfig,
    /// What the binary logs; the library does not set up logging
    pub log: LogConfig,
}

/// The controllers
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// The address of each; at least one
    pub endpoints: Vec<Target>,
}

/// How the node joins the cluster
#[derive(Clone, Debug, Default)]
pub struct EnrolmentConfig {
    /// The one-time token, and where it came from; needed only until the node has a certificate
    pub token: Option<(JoinToken, TokenSource)>,
    /// Whether to believe whoever answers if the token has no pin
    pub trust_on_first_use: bool,
    /// Where the certificate is kept; `security` in the data folder if absent
    pub certificate_dir: Option<PathBuf>,
}

/// The health endpoint
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Whether there is one
    pub enabled: bool,
    /// Address and port; port 0 takes a free one. It speaks plain HTTP, so keep it on loopback
    pub listen: SocketAddr,
}

/// How instances are kept
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceConfig {
    /// Where they run; `instances` in the data folder if absent
    pub directory: Option<PathBuf>,
    /// Time to stop by itself, unless a start says otherwise
    pub shutdown_timeout: Duration,
    /// Time between SIGTERM and SIGKILL
    pub kill_timeout: Duration,
    /// How long the folder of a crashed dynamic instance stays
    pub keep_crashed: Duration,
    /// Bytes for folders of crashed dynamic instances with a heap dump or a JVM's crash log
    pub keep_dumps_bytes: u64,
}

/// How much of consoles is kept
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// Bytes at the end of each log that stay on disk
    pub retained_bytes: u64,
    /// Bytes that may wait for a controller
    pub backlog_bytes: u64,
}

/// What instances run on
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The java executable; looked for if absent
    pub java: Option<PathBuf>,
    /// Whether `*.standin` jars start the built-in stand-in server
    pub allow_standin: bool,
    /// Whether downloads without a digest are accepted
    pub allow_unverified_downloads: bool,
    /// Bytes of the largest download
    pub max_download_bytes: u64,
    /// Longest download
    pub download_timeout: Duration,
    /// Bytes of downloads that are kept
    pub download_cache_bytes: u64,
    /// Bytes of templates that are kept
    pub template_cache_bytes: u64,
    /// Bytes of what jars have made beforehand; 0 = nothing is made
    pub bootstrap_cache_bytes: u64,
    /// How long a controller may take to send a template
    pub template_timeout: Duration,
}

/// What modules have to be
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleConfig {
    /// Whether unsigned modules are refused
    pub signing_required: bool,
    /// A PEM file with the public keys and certificate authorities that are believed
    pub trust_root: Option<PathBuf>,
}

/// What instances may use
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceConfig {
    /// MiB of memory; 0 for 80 % of the machine's
    pub max_memory_mb: u64,
}

/// How controllers are dialled again
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconnectConfig {
    /// First wait
    pub initial_delay: Duration,
    /// Longest wait
    pub max_delay: Duration,
}

/// What the binary logs
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A `tracing` filter, for instance `info,prexorcloud_daemon=debug`
    pub filter: String,
    /// How a line looks
    pub format: LogFormat,
    /// The least important level that the controller shows
    pub mirror: LevelFilter,
    /// A file for the same lines
    pub file: Option<PathBuf>,
    /// The size at which the file is rolled
    pub file_bytes: u64,
    /// How many former files stay
    pub file_count: usize,
}

/// How a log line looks
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

const MIB: u64 = 1024 * 1024;

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            node_id: "node-1".to_owned(),
            data_dir: PathBuf::from("/var/lib/prexorcloud/daemon"),
            advertise_address: String::new(),
            labels: BTreeMap::new(),
            controller: ControllerConfig {
                endpoints: Target::new("127.0.0.1", 9090).into_iter().collect(),
            },
            enrolment: EnrolmentConfig::default(),
            health: HealthConfig {
                enabled: true,
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9091)),
            },
            instances: InstanceConfig {
                directory: None,
                shutdown_timeout: Duration::from_secs(30),
                kill_timeout: KILL_TIMEOUT,
                keep_crashed: Duration::from_secs(30),
                keep_dumps_bytes: 10_240 * MIB,
            },
            console: ConsoleConfig {
                retained_bytes: 16 * MIB,
                backlog_bytes: 64 * MIB,
            },
            runtime: RuntimeConfig {
                java: None,
                allow_standin: false,
                allow_unverified_downloads: false,
                max_download_bytes: 2048 * MIB,
                download_timeout: Duration::from_secs(600),
                download_cache_bytes: 20_480 * MIB,
                template_cache_bytes: 4096 * MIB,
                bootstrap_cache_bytes: 4096 * MIB,
                template_timeout: Duration::from_secs(120),
            },
            modules: ModuleConfig::default(),
            resources: ResourceConfig { max_memory_mb: 0 },
            reconnect: ReconnectConfig {
                initial_delay: Duration::from_secs(1),
                max_delay: Duration::from_secs(60),
            },
            log: LogConfig {
                filter: "info,h2=error".to_owned(),
                format: LogFormat::Text,
                mirror: LevelFilter::INFO,
                file: None,
                file_bytes: 50 * 1024 * 1024,
                file_count: 5,
            },
        }
    }
}

impl DaemonConfig {
    /// Where the certificate is kept
    #[must_use]
    pub fn certificate_dir(&self) -> PathBuf {
        let configured = self.enrolment.certificate_dir.clone();
        configured.unwrap_or_else(|| self.data_dir.join("security"))
    }

    /// Where instances run
    #[must_use]
    pub fn instances_dir(&self) -> PathBuf {
        let configured = self.instances.directory.clone();
        configured.unwrap_or_else(|| self.data_dir.join("instances"))
    }
}

/// A configuration, and what the operator should be told about it
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration
    pub config: DaemonConfig,
    /// Sentences for the log: nothing is wrong, but something may not be as intended
    pub warnings: Vec<String>,
}

/// Reads `file` (if given) and the overrides in `environment`
///
/// A file whose name ends in `.yml` or `.yaml` is read as a Java daemon's.
///
/// # Errors
/// [`ConfigError`] with file, line and key, or the name of the variable, for the first thing that is wrong.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let Some(path) = file else {
        return parse("", "", environment);
    };
    let text = read(path)?;
    let name = path.display().to_string();
    let is_yaml = path
        .extension()
        .is_some_and(|extension| extension == "yml" || extension == "yaml");
    let (settings, warnings) = if is_yaml {
        java::settings(&text, &name)?
    } else {
        (Settings::from_toml(&text, &name)?, Vec::new())
    };
    finish(settings, warnings, environment, Some(path))
}

/// Like [`load`], for the TOML text of a file that errors call `name`
///
/// A token in it cannot be removed once it is used.
///
/// # Errors
/// As [`load`].
pub fn parse(
    text: &str,
    name: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    finish(Settings::from_toml(text, name)?, Vec::new(), environment, None)
}

fn finish(
    mut settings: Settings,
    mut warnings: Vec<String>,
    environment: impl IntoIterator<Item = (String, String)>,
    file: Option<&Path>,
) -> Result<Loaded, ConfigError> {
    warnings.extend(settings.override_from(environment)?);
    let config = configure(&settings, file)?;
    if let Some((_, source)) = &config.enrolment.token {
        warnings.extend(source.exposure());
    }
    Ok(Loaded { config, warnings })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |detail: String| ConfigError::Unreadable {
        file: path.display().to_string(),
        detail,
    };
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if !metadata.is_file() {
        return Err(unreadable("it is not a regular file".to_owned()));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(unreadable(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))?;
    Ok(without_mark(&text).to_owned())
}

fn configure(settings: &Settings, file: Option<&Path>) -> Result<DaemonConfig, ConfigError> {
    const DAY: i64 = 86_400;
    let default = DaemonConfig::default();
    let node_id = settings.text("node_id", default.node_id)?;
    if !prexorcloud_security::name::is_safe_name(&node_id) {
        return Err(settings.invalid(
            "node_id",
            "1 to 64 letters, digits, '.', '_' or '-', the first one a letter or digit",
        ));
    }
    let endpoints = match settings.strings("controller.endpoints")? {
        None => default.controller.endpoints,
        Some(texts) => {
            let targets: Result<Vec<Target>, _> = texts.iter().map(|text| text.parse()).collect();
            let wrong = || settings.invalid("controller.endpoints", "at least one \"host:port\"");
            targets
                .ok()
                .filter(|targets| !targets.is_empty())
                .ok_or_else(wrong)?
        }
    };
    let initial_delay = settings.milliseconds(
        "reconnect.initial_delay_ms",
        default.reconnect.initial_delay,
        10..=3_600_000,
    )?;
    let max_delay = settings.milliseconds(
        "reconnect.max_delay_ms",
        default.reconnect.max_delay,
        10..=3_600_000,
    )?;
    if max_delay < initial_delay {
        return Err(settings.invalid("reconnect.max_delay_ms", "at least reconnect.initial_delay_ms"));
    }
    Ok(DaemonConfig {
        node_id,
        data_dir: settings.path("data_dir", default.data_dir)?,
        advertise_address: settings.text("advertise_address", default.advertise_address)?,
        labels: settings.map("labels")?,
        controller: ControllerConfig { endpoints },
        enrolment: EnrolmentConfig {
            token: token::read(settings, file)?,
            trust_on_first_use: settings.switch("enrolment.trust_on_first_use", false)?,
            certificate_dir: settings.optional_path("enrolment.certificate_dir")?,
        },
        health: HealthConfig {
            enabled: settings.switch("health.enabled", default.health.enabled)?,
            listen: settings.address("health.listen", default.health.listen)?,
        },
        instances: InstanceConfig {
            directory: settings.optional_path("instances.directory")?,
            shutdown_timeout: settings.seconds(
                "instances.shutdown_timeout_seconds",
                default.instances.shutdown_timeout,
                1..=DAY,
            )?,
            kill_timeout: settings.seconds(
                "instances.kill_timeout_seconds",
                default.instances.kill_timeout,
                1..=DAY,
            )?,
            keep_crashed: settings.seconds(
                "instances.keep_crashed_seconds",
                default.instances.keep_crashed,
                0..=30 * DAY,
            )?,
            keep_dumps_bytes: MIB * settings.number("instances.keep_dumps_mb", 10_240, 0..=1 << 40)?,
        },
        console: ConsoleConfig {
            retained_bytes: MIB * settings.number("console.retained_mb", 16, 13..=16_384)?,
            backlog_bytes: MIB * settings.number("console.backlog_mb", 64, 1..=65_536)?,
        },
        runtime: RuntimeConfig {
            java: settings.optional_path("runtime.java")?,
            allow_standin: settings.switch("runtime.allow_standin", default.runtime.allow_standin)?,
            allow_unverified_downloads: settings.switch(
                "runtime.allow_unverified_downloads",
                default.runtime.allow_unverified_downloads,
            )?,
            max_download_bytes: MIB * settings.number("runtime.max_download_mb", 2048, 1..=1_048_576)?,
            download_timeout: settings.seconds(
                "runtime.download_timeout_seconds",
                default.runtime.download_timeout,
                1..=DAY,
            )?,
            download_cache_bytes: MIB * settings.number("runtime.download_cache_mb", 20_480, 0..=1 << 30)?,
            template_cache_bytes: MIB * settings.number("runtime.template_cache_mb", 4096, 0..=1_048_576)?,
            bootstrap_cache_bytes: MIB
                * settings.number("runtime.bootstrap_cache_mb", 4096, 0..=1_048_576)?,
            template_timeout: settings.seconds(
                "runtime.template_timeout_seconds",
                default.runtime.template_timeout,
                1..=DAY,
            )?,
        },
        modules: ModuleConfig {
            signing_required: settings.switch("modules.signing_required", false)?,
            trust_root: settings.optional_path("modules.trust_root")?,
        },
        resources: ResourceConfig {
            max_memory_mb: settings.number("resources.max_memory_mb", 0, 0..=1 << 40)?,
        },
        reconnect: ReconnectConfig {
            initial_delay,
            max_delay,
        },
        log: LogConfig {
            filter: settings.text("log.filter", default.log.filter)?,
            format: match settings.text("log.format", "text".to_owned())?.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(settings.invalid("log.format", "\"text\" or \"json\"")),
            },
            mirror: match settings.text("log.mirror_level", "info".to_owned())?.parse() {
                Ok(level) => level,
                Err(_) => {
                    return Err(
                        settings.invalid("log.mirror_level", "trace, debug, info, warn, error or off")
                    );
                }
            },
            file: settings.optional_path("log.file")?,
            file_bytes: MIB * settings.number("log.file_mb", 50, 1..=1 << 20)?,
            file_count: usize::try_from(settings.number("log.file_count", 5, 0..=1000)?).unwrap_or_default(),
        },
    })
}
