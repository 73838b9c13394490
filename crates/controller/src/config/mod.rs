//! What an operator can set: one TOML file, overridden by environment variables
//!
//! Every key is described once, in a table that serves the reading, the errors, the names of the environment variables
//! and [`example`]. An unknown key is an error that names the nearest known one; it is never ignored.
//!
//! ```
//! use prexorcloud_controller::config;
//!
//! let error = config::parse("[heartbeat]\ninterval_millis = 5000", "controller.toml", []).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "controller.toml:2: unknown key `heartbeat.interval_millis`, did you mean `heartbeat.interval_ms`?"
//! );
//! ```

mod error;
mod keys;
mod settings;

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use prexorcloud_content::Limits;
use prexorcloud_protocol::heartbeat::{DEFAULT_INTERVAL, MISSED_LIMIT};
use prexorcloud_security::{authority::AuthorityPolicy, files::without_mark};
use tracing::level_filters::LevelFilter;

use self::settings::Settings;
pub use self::{
    error::{ConfigError, Origin},
    keys::example,
};
use crate::modules::SigningConfig;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The largest configuration file that is read
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Everything a controller can be told; [`Default`] is a complete configuration
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerConfig {
    /// Where the store, the certificate authority and the admin token live; created with mode 0700
    pub data_dir: PathBuf,
    /// The port that daemons and gRPC tools dial
    pub grpc: GrpcConfig,
    /// The port that `prexorctl` and browsers use
    pub http: HttpConfig,
    /// How silence of a node is noticed
    pub heartbeat: HeartbeatConfig,
    /// Join tokens
    pub tokens: TokenConfig,
    /// Protection of the one call that needs no certificate
    pub enrolment: EnrolmentConfig,
    /// Defaults of instances
    pub instances: InstanceConfig,
    /// Lifetimes of certificates
    pub certificates: CertificateConfig,
    /// Crash records
    pub crashes: CrashConfig,
    /// How much a template may hold, told when it is pushed; what was pushed before stays
    pub templates: Limits,
    /// Who may sign modules
    pub module_signing: SigningConfig,
    /// What the binary logs; the library does not set up logging
    pub log: LogConfig,
}

/// The gRPC listener
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcConfig {
    /// Address and port; port 0 takes a free one
    pub listen: SocketAddr,
    /// Host names or IP addresses by which daemons reach this controller, beyond those of this machine's interfaces:
    /// they go into the server certificate and into the list that daemons remember
    pub names: Vec<String>,
}

/// The HTTP listener
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Address and port; port 0 takes a free one. It speaks plain HTTP, so keep it on loopback or behind a proxy
    pub listen: SocketAddr,
    /// Largest request body in bytes
    pub max_body_bytes: usize,
    /// Longest time for a request that is not a stream
    pub request_timeout: Duration,
}

/// How a silent node is noticed
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// Between two Pings; at least one second
    pub interval: Duration,
    /// Unanswered Pings until a node counts as UNREACHABLE
    pub missed_limit: u32,
}

/// Lifetimes of join tokens
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenConfig {
    /// When a request names none
    pub default_ttl: Duration,
    /// The longest that may be asked for
    pub max_ttl: Duration,
}

/// Limits for `ExchangeJoinToken`, per peer address (IPv6: per /64)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentConfig {
    /// Failed exchanges that are forgiven per minute
    pub failures_per_minute: u32,
    /// Failed exchanges at once before callers from that address get `RESOURCE_EXHAUSTED`
    pub failure_burst: u32,
}

/// Defaults and bounds of instances
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceConfig {
    /// Ports given to instances that ask for none
    pub port_range: RangeInclusive<u16>,
    /// From the start of the process to RUNNING
    pub startup_timeout: Duration,
    /// From the stop command to the kill
    pub shutdown_grace: Duration,
    /// Console lines kept in memory per instance
    pub console_lines: usize,
}

/// Lifetimes of certificates; each is renewed after half of it
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateConfig {
    /// Of a node's; at most 365 days, which is how long a revocation is remembered
    pub node_lifetime: Duration,
    /// Of the controller's own
    pub server_lifetime: Duration,
}

impl CertificateConfig {
    pub(crate) fn policy(&self) -> AuthorityPolicy {
        let mut policy = AuthorityPolicy::default();
        policy.node_lifetime = self.node_lifetime;
        policy.server_lifetime = self.server_lifetime;
        policy
    }
}

/// Crash records
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashConfig {
    /// The newest that are kept
    pub keep: usize,
}

/// What the binary logs
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A `tracing` filter, for instance `info,prexorcloud_controller=debug`
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

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/prexorcloud/controller"),
            grpc: GrpcConfig {
                listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9090)),
                names: Vec::new(),
            },
            http: HttpConfig {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
                max_body_bytes: 1024 * 1024,
                request_timeout: Duration::from_secs(30),
            },
            heartbeat: HeartbeatConfig {
                interval: DEFAULT_INTERVAL,
                missed_limit: MISSED_LIMIT,
            },
            tokens: TokenConfig {
                default_ttl: Duration::from_secs(3600),
                max_ttl: Duration::from_secs(30 * 24 * 3600),
            },
            enrolment: EnrolmentConfig {
                failures_per_minute: 60,
                failure_burst: 128,
            },
            instances: InstanceConfig {
                port_range: 30000..=30100,
                startup_timeout: Duration::from_secs(120),
                shutdown_grace: Duration::from_secs(30),
                console_lines: 500,
            },
            certificates: CertificateConfig {
                node_lifetime: 365 * DAY,
                server_lifetime: 365 * DAY,
            },
            crashes: CrashConfig { keep: 500 },
            templates: Limits::default(),
            module_signing: SigningConfig::default(),
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

/// A configuration, and what the operator should be told about it
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration
    pub config: ControllerConfig,
    /// Sentences for the log: nothing is wrong, but something may not be as intended
    pub warnings: Vec<String>,
}

/// Reads `file` (if given) and the overrides in `environment`
///
/// # Errors
/// [`ConfigError`] with file, line and key, or the name of the variable, for the first thing that is wrong.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    match file {
        None => parse("", "", environment),
        Some(path) => parse(&read(path)?, &path.display().to_string(), environment),
    }
}

/// Like [`load`], for the text of a file that errors call `name`
///
/// # Errors
/// As [`load`].
pub fn parse(
    text: &str,
    name: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let mut settings = Settings::from_toml(text, name)?;
    let warnings = settings.override_from(environment)?;
    Ok(Loaded {
        config: configure(&settings)?,
        warnings,
    })
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

/// Daemons unpack what fits their own limits, which are the defaults: more would be refused by each of them
fn templates(settings: &Settings) -> Result<Limits, ConfigError> {
    let default = Limits::default();
    let limits = Limits {
        entries: settings.size("templates.max_entries", default.entries, 1..=50_000)?,
        entry_bytes: settings.bytes("templates.max_file_bytes", default.entry_bytes)?,
        total_bytes: settings.bytes("templates.max_total_bytes", default.total_bytes)?,
        ratio: settings.count("templates.max_ratio", 200, 2..=200)?.into(),
        ..default
    };
    if limits.entry_bytes > limits.total_bytes {
        return Err(settings.invalid("templates.max_file_bytes", "at most templates.max_total_bytes"));
    }
    Ok(limits)
}

fn module_signing(settings: &Settings) -> Result<SigningConfig, ConfigError> {
    let file = |key| {
        let name = settings.text(key, String::new())?;
        Ok::<_, ConfigError>((!name.is_empty()).then(|| PathBuf::from(name)))
    };
    let is_optional = match settings
        .text("modules.signing.mode", "required".to_owned())?
        .as_str()
    {
        "required" => false,
        "optional" => true,
        _ => return Err(settings.invalid("modules.signing.mode", "\"required\" or \"optional\"")),
    };
    Ok(SigningConfig {
        is_optional,
        trust_root: file("modules.signing.trust_root")?,
        log_keys: file("modules.signing.log_keys")?,
    })
}

fn configure(settings: &Settings) -> Result<ControllerConfig, ConfigError> {
    let default = ControllerConfig::default();
    let first_port = settings.port(
        "instances.port_range_start",
        *default.instances.port_range.start(),
    )?;
    let last_port = settings.port("instances.port_range_end", *default.instances.port_range.end())?;
    if last_port < first_port {
        return Err(settings.invalid(
            "instances.port_range_end",
            "a port that is not below instances.port_range_start",
        ));
    }
    let max_ttl = settings.seconds(
        "tokens.max_ttl_seconds",
        default.tokens.max_ttl,
        1..=30 * 24 * 3600,
    )?;
    let default_ttl = settings.seconds(
        "tokens.default_ttl_seconds",
        default.tokens.default_ttl,
        1..=30 * 24 * 3600,
    )?;
    if default_ttl > max_ttl {
        return Err(settings.invalid("tokens.default_ttl_seconds", "at most tokens.max_ttl_seconds"));
    }
    let grpc_listen = settings.address("grpc.listen", default.grpc.listen)?;
    let http_listen = settings.address("http.listen", default.http.listen)?;
    if grpc_listen == http_listen && grpc_listen.port() != 0 {
        return Err(settings.invalid("http.listen", "an address that differs from grpc.listen"));
    }
    Ok(ControllerConfig {
        data_dir: settings.path("data_dir", default.data_dir)?,
        grpc: GrpcConfig {
            listen: grpc_listen,
            names: settings.strings("grpc.names", default.grpc.names)?,
        },
        http: HttpConfig {
            listen: http_listen,
            max_body_bytes: settings.size(
                "http.max_body_bytes",
                default.http.max_body_bytes,
                1024..=64 << 20,
            )?,
            request_timeout: settings.seconds(
                "http.request_timeout_seconds",
                default.http.request_timeout,
                1..=600,
            )?,
        },
        heartbeat: HeartbeatConfig {
            interval: settings.milliseconds(
                "heartbeat.interval_ms",
                default.heartbeat.interval,
                1000..=3_600_000,
            )?,
            missed_limit: settings.count(
                "heartbeat.missed_limit",
                default.heartbeat.missed_limit,
                1..=100,
            )?,
        },
        tokens: TokenConfig { default_ttl, max_ttl },
        enrolment: EnrolmentConfig {
            failures_per_minute: settings.count(
                "enrolment.failures_per_minute",
                default.enrolment.failures_per_minute,
                1..=1_000_000,
            )?,
            failure_burst: settings.count(
                "enrolment.failure_burst",
                default.enrolment.failure_burst,
                1..=1_000_000,
            )?,
        },
        instances: InstanceConfig {
            port_range: first_port..=last_port,
            startup_timeout: settings.seconds(
                "instances.startup_timeout_seconds",
                default.instances.startup_timeout,
                1..=86_400,
            )?,
            shutdown_grace: settings.seconds(
                "instances.shutdown_grace_seconds",
                default.instances.shutdown_grace,
                1..=86_400,
            )?,
            console_lines: settings.size(
                "instances.console_lines",
                default.instances.console_lines,
                1..=100_000,
            )?,
        },
        certificates: CertificateConfig {
            node_lifetime: settings.days(
                "certificates.node_days",
                default.certificates.node_lifetime,
                1..=365,
            )?,
            server_lifetime: settings.days(
                "certificates.server_days",
                default.certificates.server_lifetime,
                1..=365,
            )?,
        },
        crashes: CrashConfig {
            keep: settings.size("crashes.keep", default.crashes.keep, 1..=100_000)?,
        },
        templates: templates(settings)?,
        module_signing: module_signing(settings)?,
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
            file: Some(settings.text("log.file", String::new())?)
                .filter(|file| !file.trim().is_empty())
                .map(PathBuf::from),
            file_bytes: 1024 * 1024 * settings.size("log.file_mb", 50, 1..=1 << 20)? as u64,
            file_count: settings.size("log.file_count", 5, 0..=1000)?,
        },
    })
}
