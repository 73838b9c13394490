//! Every key once: its name, its default as an operator would write it, and what it means

/// One key of the configuration
pub(super) struct Key {
    /// With its section, for instance `health.listen`
    pub(super) path: &'static str,
    /// How an environment variable's text becomes a value
    pub(super) kind: Kind,
    default: &'static str,
    meaning: &'static str,
    /// The key of a Java daemon's `daemon.yml` that means the same; empty if there is none
    pub(super) java: &'static str,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Switch,
    /// Comma separated in an environment variable
    TextList,
    /// `name=value` pairs, comma separated in an environment variable; a section in the file
    TextMap,
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    java: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default,
        meaning,
        java,
    }
}

pub(super) const KEYS: &[Key] = &[
    key(
        "node_id",
        Kind::Text,
        "\"node-1\"",
        "nodeId",
        "The node's name in the cluster: letters, digits, '.', '_' and '-', at most 64.",
    ),
    key(
        "data_dir",
        Kind::Text,
        "\"/var/lib/prexorcloud/daemon\"",
        "",
        "Certificates, instances, consoles and downloads. One daemon per folder, on a local disk.",
    ),
    key(
        "advertise_address",
        Kind::Text,
        "\"\"",
        "advertiseAddress",
        "The address that players and proxies reach this node by; empty = the one that the controller sees.",
    ),
    key(
        "controller.endpoints",
        Kind::TextList,
        "[\"127.0.0.1:9090\"]",
        "controller.endpoints",
        "The controllers, \"host:port\" or \"[IPv6]:port\".",
    ),
    key(
        "enrolment.join_token",
        Kind::Text,
        "\"\"",
        "security.joinToken",
        "The one-time token (`prexorctl token create`); removed from this file once it is used.",
    ),
    key(
        "enrolment.join_token_file",
        Kind::Text,
        "\"\"",
        "",
        "A file that holds the token instead; deleted once it is used.",
    ),
    key(
        "enrolment.trust_on_first_use",
        Kind::Switch,
        "false",
        "",
        "Believe whoever answers if the token has no pin, as tokens of Java controllers have none.",
    ),
    key(
        "enrolment.certificate_dir",
        Kind::Text,
        "\"\"",
        "security.certificateDir",
        "Where the certificate is kept; empty = `security` in data_dir.",
    ),
    key(
        "health.enabled",
        Kind::Switch,
        "true",
        "health.enabled",
        "Answer GET /health and /ready.",
    ),
    key(
        "health.listen",
        Kind::Text,
        "\"127.0.0.1:9091\"",
        "",
        "Where (plain HTTP: keep it on loopback).",
    ),
    key(
        "instances.directory",
        Kind::Text,
        "\"\"",
        "instances.directory",
        "Where instances run; empty = `instances` in data_dir.",
    ),
    key(
        "instances.shutdown_timeout_seconds",
        Kind::Integer,
        "30",
        "instances.shutdownTimeoutSeconds",
        "Time to stop by itself, unless a start says otherwise.",
    ),
    key(
        "instances.kill_timeout_seconds",
        Kind::Integer,
        "10",
        "instances.killTimeoutSeconds",
        "Time between SIGTERM and SIGKILL.",
    ),
    key(
        "instances.keep_crashed_seconds",
        Kind::Integer,
        "30",
        "",
        "How long the folder of a crashed dynamic instance stays.",
    ),
    key(
        "instances.keep_dumps_mb",
        Kind::Integer,
        "10240",
        "",
        "Space for folders of crashed dynamic instances with a heap dump (*.hprof) or a JVM's crash log (hs_err_pid*.log): \
         they stay until you delete them, or together take more than this, the oldest first; 0 = keep none.",
    ),
    key(
        "console.retained_mb",
        Kind::Integer,
        "16",
        "",
        "End of each console log that is kept on disk.",
    ),
    key(
        "console.backlog_mb",
        Kind::Integer,
        "64",
        "",
        "Console output that may wait for a controller, per instance; older lines are given up.",
    ),
    key(
        "runtime.java",
        Kind::Text,
        "\"\"",
        "",
        "The java executable; empty = JAVA_HOME, then PATH.",
    ),
    key(
        "runtime.allow_standin",
        Kind::Switch,
        "false",
        "",
        "Let *.standin jars start the built-in stand-in server.",
    ),
    key(
        "runtime.allow_unverified_downloads",
        Kind::Switch,
        "false",
        "",
        "Accept downloads without a sha256.",
    ),
    key(
        "runtime.max_download_mb",
        Kind::Integer,
        "2048",
        "",
        "Largest download.",
    ),
    key(
        "runtime.download_timeout_seconds",
        Kind::Integer,
        "600",
        "",
        "Longest download.",
    ),
    key(
        "runtime.download_cache_mb",
        Kind::Integer,
        "20480",
        "",
        "Downloads that are kept on this node; those in use are kept beyond that.",
    ),
    key(
        "runtime.template_cache_mb",
        Kind::Integer,
        "4096",
        "",
        "Templates that are kept on this node; those in use are kept beyond that.",
    ),
    key(
        "runtime.bootstrap_cache_mb",
        Kind::Integer,
        "4096",
        "",
        "What jars of Paper and Spigot have made beforehand for their servers, by a short run of each jar; 0 = make nothing beforehand.",
    ),
    key(
        "runtime.template_timeout_seconds",
        Kind::Integer,
        "120",
        "",
        "How long a controller may take to send a template.",
    ),
    key(
        "modules.signing_required",
        Kind::Switch,
        "false",
        "modules.signing.required",
        "Refuse modules without a signature of somebody in modules.trust_root; the controller has looked before, by its own rules.",
    ),
    key(
        "modules.trust_root",
        Kind::Text,
        "\"\"",
        "modules.signing.trustRoot",
        "A PEM file of public keys and certificate authorities: signatures of modules are verified with it; empty = not at all.",
    ),
    key(
        "resources.max_memory_mb",
        Kind::Integer,
        "0",
        "resources.maxMemoryMb",
        "Memory that instances of this node may be given; 0 = 80 % of what control groups leave of the machine's.",
    ),
    key(
        "reconnect.initial_delay_ms",
        Kind::Integer,
        "1000",
        "reconnect.initialDelayMs",
        "First wait before a controller is dialled again.",
    ),
    key(
        "reconnect.max_delay_ms",
        Kind::Integer,
        "60000",
        "reconnect.maxDelayMs",
        "Longest wait before a controller is dialled again.",
    ),
    key(
        "log.filter",
        Kind::Text,
        "\"info,h2=error\"",
        "logging.level",
        "Log filter, for instance \"info,h2=error,prexorcloud_daemon=debug\"; h2 warns of each connection that a stranger breaks off.",
    ),
    key("log.format", Kind::Text, "\"text\"", "", "\"text\" or \"json\"."),
    key(
        "log.mirror_level",
        Kind::Text,
        "\"info\"",
        "",
        "Of what passes the filter, the least that the controller shows of this node (`prexorctl logs daemon`): trace, debug, info, warn, error or off.",
    ),
    key(
        "log.file",
        Kind::Text,
        "\"\"",
        "",
        "A file that has the log, too; empty = none. Beside it are those before it, .1 the newest.",
    ),
    key(
        "log.file_mb",
        Kind::Integer,
        "50",
        "",
        "Size at which the file is rolled.",
    ),
    key(
        "log.file_count",
        Kind::Integer,
        "5",
        "",
        "How many former files stay.",
    ),
    key(
        "labels",
        Kind::TextMap,
        "",
        "labels",
        "Labels of the node, as name = \"value\" lines.",
    ),
];

/// The environment variables that override keys begin with this
pub(super) const VARIABLE_PREFIX: &str = "PREXORCLOUD_DAEMON_";

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
        "# PrexorCloud daemon. Every key with its default; an environment variable overrides each,\n\
         # for instance PREXORCLOUD_DAEMON_HEALTH_LISTEN for health.listen.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.kind == Kind::TextMap {
            text.push_str(&format!("\n# {}\n[{}]\n", key.meaning, key.path));
            continue;
        }
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
