//! Every key once: its name, its default as an operator would write it, and what it means

/// One key of the configuration
pub(super) struct Key {
    /// With its section, for instance `grpc.listen`
    pub(super) path: &'static str,
    /// How an environment variable's text becomes a value
    pub(super) kind: Kind,
    default: &'static str,
    meaning: &'static str,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    /// Comma separated in an environment variable
    TextList,
}

const fn key(path: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key {
        path,
        kind,
        default,
        meaning,
    }
}

pub(super) const KEYS: &[Key] = &[
    key(
        "data_dir",
        Kind::Text,
        "\"/var/lib/prexorcloud/controller\"",
        "Store, certificate authority and admin token. One controller per folder, on a local disk.",
    ),
    key(
        "grpc.listen",
        Kind::Text,
        "\"0.0.0.0:9090\"",
        "Where daemons connect (mutual TLS).",
    ),
    key(
        "grpc.names",
        Kind::TextList,
        "[]",
        "Further host names or IP addresses of this controller, for its certificate and for daemons.",
    ),
    key(
        "http.listen",
        Kind::Text,
        "\"127.0.0.1:8080\"",
        "Where prexorctl connects (plain HTTP: keep it on loopback).",
    ),
    key(
        "http.max_body_bytes",
        Kind::Integer,
        "1048576",
        "Largest request body.",
    ),
    key(
        "http.request_timeout_seconds",
        Kind::Integer,
        "30",
        "Longest request that is not a stream.",
    ),
    key(
        "heartbeat.interval_ms",
        Kind::Integer,
        "30000",
        "Between two Pings, at least 1000.",
    ),
    key(
        "heartbeat.missed_limit",
        Kind::Integer,
        "3",
        "Unanswered Pings until a node is UNREACHABLE.",
    ),
    key(
        "tokens.default_ttl_seconds",
        Kind::Integer,
        "3600",
        "Lifetime of a join token that asks for none.",
    ),
    key(
        "tokens.max_ttl_seconds",
        Kind::Integer,
        "2592000",
        "Longest lifetime of a join token, at most 30 days.",
    ),
    key(
        "enrolment.failures_per_minute",
        Kind::Integer,
        "60",
        "Failed token exchanges forgiven per minute and peer address.",
    ),
    key(
        "enrolment.failure_burst",
        Kind::Integer,
        "128",
        "Failed token exchanges at once before an address must wait.",
    ),
    key(
        "instances.port_range_start",
        Kind::Integer,
        "30000",
        "First port for instances that ask for none.",
    ),
    key(
        "instances.port_range_end",
        Kind::Integer,
        "30100",
        "Last port for instances that ask for none.",
    ),
    key(
        "instances.startup_timeout_seconds",
        Kind::Integer,
        "120",
        "Time to reach RUNNING, unless a start says otherwise.",
    ),
    key(
        "instances.shutdown_grace_seconds",
        Kind::Integer,
        "30",
        "Time to stop by itself, unless a start says otherwise.",
    ),
    key(
        "instances.console_lines",
        Kind::Integer,
        "500",
        "Console lines kept in memory per instance.",
    ),
    key(
        "certificates.node_days",
        Kind::Integer,
        "365",
        "How long a node's certificate counts. It renews itself after half of that.",
    ),
    key(
        "certificates.server_days",
        Kind::Integer,
        "365",
        "How long this controller's own certificate counts. It renews itself after half of that.",
    ),
    key(
        "crashes.keep",
        Kind::Integer,
        "500",
        "Crash records kept; the oldest go first.",
    ),
    key(
        "templates.max_entries",
        Kind::Integer,
        "50000",
        "Files, folders and links of a template; more than the default would be refused by daemons, as with the next three.",
    ),
    key(
        "templates.max_file_bytes",
        Kind::Integer,
        "2147483648",
        "Largest file of a template.",
    ),
    key(
        "templates.max_total_bytes",
        Kind::Integer,
        "8589934592",
        "All files of a template together.",
    ),
    key(
        "templates.max_ratio",
        Kind::Integer,
        "200",
        "How many bytes may come out of one byte of a template's archive, from 64 MiB on.",
    ),
    key(
        "modules.signing.mode",
        Kind::Text,
        "\"required\"",
        "\"required\" refuses modules that nobody has signed who is trusted; \"optional\" takes unsigned ones.",
    ),
    key(
        "modules.signing.trust_root",
        Kind::Text,
        "\"\"",
        "PEM file with the public keys, or the authorities of certificates, that are trusted to sign modules.",
    ),
    key(
        "modules.signing.log_keys",
        Kind::Text,
        "\"\"",
        "PEM file with public keys of transparency logs (Rekor); with it a module needs an entry of one of them.",
    ),
    key(
        "log.filter",
        Kind::Text,
        "\"info,h2=error\"",
        "Log filter, for instance \"info,h2=error,prexorcloud_controller=debug\"; h2 warns of each connection that a stranger breaks off.",
    ),
    key("log.format", Kind::Text, "\"text\"", "\"text\" or \"json\"."),
    key(
        "log.mirror_level",
        Kind::Text,
        "\"info\"",
        "Of what passes the filter, the least that the controller shows of itself (`prexorctl logs controller`): trace, debug, info, warn, error or off.",
    ),
    key(
        "log.file",
        Kind::Text,
        "\"\"",
        "A file that has the log, too; empty = none. Beside it are those before it, .1 the newest.",
    ),
    key(
        "log.file_mb",
        Kind::Integer,
        "50",
        "Size at which the file is rolled.",
    ),
    key(
        "log.file_count",
        Kind::Integer,
        "5",
        "How many former files stay.",
    ),
];

/// The environment variables that override keys begin with this
pub(super) const VARIABLE_PREFIX: &str = "PREXORCLOUD_CONTROLLER_";

impl Key {
    /// The environment variable that overrides this key
    pub(super) fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.path.replace('.', "_").to_uppercase())
    }
}

/// A complete configuration file: every key with its meaning and its default
#[must_use]
pub fn example() -> String {
    let mut text = String::from(
        "# PrexorCloud controller. Every key with its default; an environment variable overrides each,\n\
         # for instance PREXORCLOUD_CONTROLLER_GRPC_LISTEN for grpc.listen.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if of != section {
            text.push_str(&format!("\n[{of}]\n"));
            section = of;
        }
        text.push_str(&format!("# {}\n{name} = {}\n", key.meaning, key.default));
    }
    text
}

/// The candidate that resembles `written` most, if it resembles it enough to be what was meant
pub(super) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(written, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
