//! A Java daemon's `daemon.yml`, in the words of this one
//!
//! Values are what Jackson would have made of them; what it would have refused, and what would have meant something else
//! to the Java daemon than its writer can have intended, is an error that names the line. What a Java daemon ignores is
//! told in a warning.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use prexorcloud_transport::Target;

use super::jackson;
use super::keys::{KEYS, Key, Kind, nearest};
use super::settings::{Setting, Settings, Value};
use super::{ConfigError, Origin};
use crate::yaml::{self, Content, Node};

/// Keys of a Java daemon that are read here in a way of their own
const OWN: [&str; 7] = [
    "controller.host",
    "controller.grpcPort",
    "controller.endpoints",
    "health.bindAddress",
    "health.port",
    "logging.level",
    "logging.format",
];

/// Keys and sections of a Java daemon that mean nothing to this one
const MEANINGLESS: [&str; 6] = [
    "controller.dnsSrv",
    "instances.logRingBufferLines",
    "instances.maxConsoleOutputLinesPerSecond",
    "reconnect.multiplier",
    "modules.signing.mode",
    "telemetry",
];

/// Numbers that mean their default to a Java daemon when they are not above 0
const POSITIVE: [&str; 5] = [
    "instances.shutdownTimeoutSeconds",
    "instances.killTimeoutSeconds",
    "reconnect.initialDelayMs",
    "reconnect.maxDelayMs",
    "resources.maxMemoryMb",
];

const DEFAULT_CONTROLLER_PORT: u16 = 9090;
const DEFAULT_HEALTH_PORT: u16 = 9091;

/// Reads the text; what has no meaning here becomes a warning, as a Java daemon ignores what it does not know
pub(super) fn settings(text: &str, file: &str) -> Result<(Settings, Vec<String>), ConfigError> {
    let document = yaml::parse(text).map_err(|error| ConfigError::Syntax {
        origin: Origin::File {
            file: file.to_owned(),
            line: error.line,
        },
        detail: error.detail,
    })?;
    let mut reader = Reader {
        file,
        leaves: BTreeMap::new(),
        warnings: Vec::new(),
        settings: Vec::new(),
    };
    if document.documents > 1 {
        reader
            .warnings
            .push(format!("{file}: only the first of its documents is read"));
    }
    match document.root.as_ref() {
        Some(root) if !jackson::is_null(root) => reader.walk("", root)?,
        _ => {}
    }
    for key in KEYS.iter().filter(|key| !OWN.contains(&key.java)) {
        if let Some(leaf) = reader.leaves.get(key.java).copied()
            && let Some(value) = reader.value(key, leaf)?
        {
            reader.set(key.path, value, key.java, leaf);
        }
    }
    reader.controllers()?;
    reader.health()?;
    reader.logging()?;
    // Relative paths of a Java daemon start in its working folder, and so does its state.
    reader.settings.push((
        "data_dir",
        Setting {
            value: Value::Text("prexorcloud-daemon".to_owned()),
            origin: Origin::Default,
            written: "data_dir".to_owned(),
        },
    ));
    Ok((Settings::from_values(reader.settings), reader.warnings))
}

struct Reader<'a> {
    file: &'a str,
    /// Values by the path of their key
    leaves: BTreeMap<String, &'a Node>,
    warnings: Vec<String>,
    settings: Vec<(&'static str, Setting)>,
}

impl<'a> Reader<'a> {
    fn walk(&mut self, section: &str, node: &'a Node) -> Result<(), ConfigError> {
        let Content::Mapping(entries) = &node.content else {
            let name = if section.is_empty() { "the file" } else { section };
            return Err(self.invalid(name, "a section", node));
        };
        let mut seen: BTreeMap<&str, (&Node, &Node)> = BTreeMap::new();
        for (key, value) in entries {
            let Some(name) = key.text() else {
                return Err(ConfigError::Syntax {
                    origin: self.at(key),
                    detail: format!("a key must be a name, not {}", key.kind()),
                });
            };
            if let Some((former, _)) = seen.insert(name, (key, value)) {
                self.warnings.push(format!(
                    "{}:{}: `{}` is there twice; the value from line {} is ignored",
                    self.file,
                    key.line,
                    join(section, name),
                    former.line
                ));
            }
        }
        for (name, (key, value)) in seen {
            let path = join(section, name);
            if is_leaf(&path) {
                if value.content == Content::Alias {
                    return Err(self.invalid(
                        &path,
                        "written out, because a Java daemon reads the alias's name",
                        value,
                    ));
                }
                self.leaves.insert(path, value);
            } else if is_section(&path) {
                if !jackson::is_null(value) {
                    self.walk(&path, value)?;
                }
            } else {
                self.ignored(&path, key, value);
            }
        }
        Ok(())
    }

    fn ignored(&mut self, path: &str, key: &Node, value: &Node) {
        let place = format!("{}:{}", self.file, key.line);
        if MEANINGLESS.contains(&path) {
            if jackson::is_null(value) {
                return;
            }
            self.warnings.push(format!(
                "{place}: `{path}` has no meaning for this daemon and is ignored"
            ));
            return;
        }
        let known = KEYS
            .iter()
            .map(|key| key.java)
            .chain(OWN)
            .filter(|java| !java.is_empty());
        let meant = nearest(path, known)
            .map(|known| format!(", did you mean `{known}`?"))
            .unwrap_or_default();
        self.warnings
            .push(format!("{place}: unknown key `{path}` is ignored{meant}"));
    }

    fn value(&self, key: &Key, node: &'a Node) -> Result<Option<Value>, ConfigError> {
        let wrong = |expected| self.invalid(key.java, expected, node);
        Ok(match key.kind {
            Kind::Text => jackson::text(node).map_err(wrong)?.map(Value::Text),
            Kind::Integer => jackson::integer(node)
                .map_err(wrong)?
                .filter(|number| *number > 0 || !POSITIVE.contains(&key.java))
                .map(Value::Integer),
            Kind::Switch => jackson::switch(node).map_err(wrong)?.map(Value::Switch),
            Kind::TextList => {
                let items = jackson::texts(node).map_err(wrong)?;
                Some(Value::TextList(items.into_iter().map(|(_, text)| text).collect()))
            }
            Kind::TextMap => match &node.content {
                Content::Mapping(entries) => Some(Value::TextMap(self.map(key.java, entries)?)),
                Content::Scalar { .. } if jackson::is_null(node) => None,
                _ => return Err(wrong("a section of strings")),
            },
        })
    }

    fn map(
        &self,
        section: &str,
        entries: &'a [(Node, Node)],
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        let mut map = BTreeMap::new();
        for (key, value) in entries {
            let name = key.text().unwrap_or_default();
            let path = join(section, name);
            let text = jackson::text(value).ok().flatten();
            let text = text.ok_or_else(|| self.invalid(&path, "a string", value))?;
            map.insert(name.to_owned(), text);
        }
        Ok(map)
    }

    fn controllers(&mut self) -> Result<(), ConfigError> {
        let port = self
            .port("controller.grpcPort")?
            .unwrap_or(DEFAULT_CONTROLLER_PORT);
        let mut targets = Vec::new();
        let mut place = None;
        if let Some(node) = self.leaves.get("controller.endpoints").copied() {
            let key = "controller.endpoints";
            let items = jackson::texts(node).map_err(|expected| self.invalid(key, expected, node))?;
            for (item, text) in items {
                let text = text.trim();
                if text.is_empty() {
                    continue;
                }
                // "ctrl-1:" names no port either.
                let bare = text.strip_suffix(':').filter(|host| !host.contains(':'));
                let target = Target::parse(bare.unwrap_or(text), port)
                    .map_err(|_| self.invalid(key, "\"host:port\" or \"[IPv6]:port\"", item))?;
                targets.push(target);
            }
            place = Some((key, node));
        }
        if let Some(node) = self.leaves.get("controller.host").copied() {
            let key = "controller.host";
            let host = jackson::text(node).map_err(|expected| self.invalid(key, expected, node))?;
            if let Some(host) = host.filter(|host| !host.trim().is_empty()) {
                let target = Target::new(host.trim(), port)
                    .map_err(|_| self.invalid(key, "a host name or an IP address", node))?;
                // Beside named endpoints, a loopback host is only the template's default.
                if targets.is_empty() || !target.is_local() {
                    targets.insert(0, target);
                    place = Some((key, node));
                }
            }
        }
        // A port alone means this machine's controller at that port.
        if targets.is_empty()
            && let Some(node) = self.leaves.get("controller.grpcPort").copied()
        {
            targets.extend(Target::new("127.0.0.1", port));
            place = Some(("controller.grpcPort", node));
        }
        if let (Some((written, node)), false) = (place, targets.is_empty()) {
            let value = Value::TextList(targets.iter().map(Target::to_string).collect());
            self.set("controller.endpoints", value, written, node);
        }
        Ok(())
    }

    fn health(&mut self) -> Result<(), ConfigError> {
        let bind = self.leaves.get("health.bindAddress").copied();
        let port = self.leaves.get("health.port").copied();
        let Some(place) = bind.or(port) else {
            return Ok(());
        };
        if !self.leaves.contains_key("health.enabled") {
            self.warnings.push(format!(
                "{}:{}: the health endpoint is on; a Java daemon would leave it off, because `health.enabled` is missing",
                self.file, place.line
            ));
        }
        let mut address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if let Some(node) = bind {
            let key = "health.bindAddress";
            let text = jackson::text(node).map_err(|expected| self.invalid(key, expected, node))?;
            address = match text.as_deref().map(str::trim).unwrap_or_default() {
                "" | "localhost" => address,
                text => ip(text).ok_or_else(|| self.invalid(key, "an IP address", node))?,
            };
        }
        let port = match port {
            Some(node) => match jackson::integer(node)
                .map_err(|expected| self.invalid("health.port", expected, node))?
            {
                None => DEFAULT_HEALTH_PORT,
                Some(number) => u16::try_from(number)
                    .map_err(|_| self.invalid("health.port", "a port from 0 to 65535", node))?,
            },
            None => DEFAULT_HEALTH_PORT,
        };
        let listen = SocketAddr::new(address, port);
        let written = if bind.is_some() {
            "health.bindAddress"
        } else {
            "health.port"
        };
        self.set("health.listen", Value::Text(listen.to_string()), written, place);
        Ok(())
    }

    fn logging(&mut self) -> Result<(), ConfigError> {
        for (key, path, words) in [
            (
                "logging.level",
                "log.filter",
                &[
                    ("TRACE", "trace"),
                    ("ALL", "trace"),
                    ("DEBUG", "debug"),
                    ("INFO", "info"),
                    ("WARN", "warn"),
                    ("ERROR", "error"),
                    ("OFF", "off"),
                ][..],
            ),
            (
                "logging.format",
                "log.format",
                &[("HUMAN", "text"), ("JSON", "json")][..],
            ),
        ] {
            let Some(node) = self.leaves.get(key).copied() else {
                continue;
            };
            let text = jackson::text(node).map_err(|expected| self.invalid(key, expected, node))?;
            let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
                continue;
            };
            let ours = words
                .iter()
                .find(|(java, _)| java.eq_ignore_ascii_case(text.trim()))
                .map(|(_, ours)| (*ours).to_owned());
            let known = words.iter().map(|(java, _)| *java).collect::<Vec<_>>().join(", ");
            let ours = ours.ok_or_else(|| self.invalid(key, &format!("one of {known}"), node))?;
            self.set(path, Value::Text(ours), key, node);
        }
        Ok(())
    }

    /// A port above 0; what is not above 0 is the default, as a Java daemon takes it
    fn port(&self, key: &'static str) -> Result<Option<u16>, ConfigError> {
        let Some(node) = self.leaves.get(key).copied() else {
            return Ok(None);
        };
        let number = jackson::integer(node).map_err(|expected| self.invalid(key, expected, node))?;
        number
            .filter(|number| *number > 0)
            .map(|number| {
                u16::try_from(number).map_err(|_| self.invalid(key, "a port from 1 to 65535", node))
            })
            .transpose()
    }

    fn set(&mut self, path: &'static str, value: Value, written: &str, node: &Node) {
        let setting = Setting {
            value,
            origin: self.at(node),
            written: written.to_owned(),
        };
        self.settings.push((path, setting));
    }

    fn at(&self, node: &Node) -> Origin {
        Origin::File {
            file: self.file.to_owned(),
            line: node.line,
        }
    }

    fn invalid(&self, key: &str, expected: &str, node: &Node) -> ConfigError {
        let found = match node.text() {
            // Whatever was written in the place of a token is a secret.
            Some(_) if key == "security.joinToken" => "what is there".to_owned(),
            Some(text) => format!("{text:?}"),
            None => node.kind().to_owned(),
        };
        ConfigError::InvalidValue {
            origin: self.at(node),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found,
        }
    }
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() {
        name.to_owned()
    } else {
        format!("{section}.{name}")
    }
}

fn is_leaf(path: &str) -> bool {
    !path.is_empty() && (OWN.contains(&path) || KEYS.iter().any(|key| key.java == path))
}

fn is_section(path: &str) -> bool {
    OWN.into_iter()
        .chain(KEYS.iter().map(|key| key.java))
        .any(|key| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

fn ip(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(text).parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use crate::config::{ConfigError, DaemonConfig, Loaded, LogFormat, load};

    fn read(text: &str) -> Result<Loaded, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.yml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), [])
    }

    fn config(text: &str) -> DaemonConfig {
        read(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .config
    }

    fn endpoints(text: &str) -> Vec<String> {
        let targets = config(text).controller.endpoints;
        targets.iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn assert_refused(text: &str, line: usize, words: &[&str]) {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(&format!("daemon.yml:{line}: ")), "{error}");
        for word in words {
            assert!(error.contains(word), "{word} in {error}");
        }
    }

    #[test]
    fn a_java_daemons_file_is_understood() {
        let text = "nodeId: node-7\nadvertiseAddress: 10.0.0.7\n\
            controller:\n  host: ctrl-1\n  grpcPort: 9190\n  endpoints: [ctrl-2, 'ctrl-3:9999']\n\
            security:\n  certificateDir: config/security\n  joinToken: \"\"\n\
            instances:\n  shutdownTimeoutSeconds: 12\n  logRingBufferLines: 500\n\
            health:\n  enabled: true\n  port: 9191\nresources:\n  maxMemoryMb: 2048\n\
            labels:\n  zone: eu\n  rack: 7\nlogging:\n  level: INFO\n  format: JSON\n";
        let loaded = read(text).unwrap();
        assert_eq!(endpoints(text), ["ctrl-1:9190", "ctrl-2:9190", "ctrl-3:9999"]);
        let config = loaded.config;
        assert_eq!(config.node_id, "node-7");
        assert_eq!(config.instances.shutdown_timeout, Duration::from_secs(12));
        assert_eq!(config.health.listen, "127.0.0.1:9191".parse().unwrap());
        assert_eq!(config.resources.max_memory_mb, 2048);
        assert_eq!(config.labels["rack"], "7");
        assert_eq!(config.certificate_dir().to_str().unwrap(), "config/security");
        assert_eq!(
            (config.log.filter.as_str(), config.log.format),
            ("info", LogFormat::Json)
        );
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
        assert!(loaded.warnings[0].contains("daemon.yml:12: `instances.logRingBufferLines`"));
    }

    #[test]
    fn an_address_is_a_value_and_no_text_with_a_colon() {
        for host in ["\"::1\"", "'[::1]'", "::1"] {
            let text = format!("controller:\n  host: {host}\n  grpcPort: 9190\n");
            assert_eq!(endpoints(&text), ["[::1]:9190"], "{host}");
        }
        let text = "controller:\n  endpoints: ['2001:db8::7', '[2001:db8::8]:9', 'ctrl-1:', ctrl-2]\n  grpcPort: '9190'\n";
        assert_eq!(
            endpoints(text),
            [
                "[2001:db8::7]:9190",
                "[2001:db8::8]:9",
                "ctrl-1:9190",
                "ctrl-2:9190"
            ]
        );
        assert_eq!(endpoints("controller:\n  grpcPort: 9190\n"), ["127.0.0.1:9190"]);
        for (bind, listen) in [
            ("'::1'", "[::1]:9191"),
            ("'::'", "[::]:9191"),
            ("'[::1]'", "[::1]:9191"),
            ("0.0.0.0", "0.0.0.0:9191"),
            ("localhost", "127.0.0.1:9191"),
            ("null", "127.0.0.1:9191"),
        ] {
            let text = format!("health:\n  enabled: yes\n  bindAddress: {bind}\n  port: \"9191\"\n");
            assert_eq!(config(&text).health.listen, listen.parse().unwrap(), "{bind}");
        }
        assert_refused(
            "controller:\n  host: ctrl-1:9190\n",
            2,
            &["controller.host", "ctrl-1:9190"],
        );
        assert_refused(
            "controller:\n  endpoints:\n  - a\n  - 'a:b:c'\n",
            4,
            &["controller.endpoints"],
        );
        assert_refused(
            "health:\n  bindAddress: eth0\n",
            2,
            &["health.bindAddress", "an IP address"],
        );
    }

    #[test]
    fn values_are_what_jackson_makes_of_them() {
        let text = "nodeId: 007\nhealth:\n  enabled: \"false\"\ninstances:\n  shutdownTimeoutSeconds: \"12\"\n  \
            killTimeoutSeconds: 0\nreconnect:\n  maxDelayMs: 90000.0\nresources:\n  maxMemoryMb: -1\n\
            labels:\n  rack: 1.10\n  ready: yes\n  at: 2026-01-01\nlogging:\n  level: OFF\n";
        let config = config(text);
        assert_eq!(config.node_id, "007");
        assert!(!config.health.enabled);
        assert_eq!(config.instances.shutdown_timeout, Duration::from_secs(12));
        assert_eq!(
            config.instances.kill_timeout,
            DaemonConfig::default().instances.kill_timeout
        );
        assert_eq!(config.reconnect.max_delay, Duration::from_secs(90));
        assert_eq!(config.resources.max_memory_mb, 0);
        assert_eq!(config.labels["rack"], "1.10");
        assert_eq!(config.labels["ready"], "yes");
        assert_eq!(config.labels["at"], "2026-01-01");
        assert_eq!(config.log.filter, "off");
    }

    #[test]
    fn null_is_as_if_it_were_not_there() {
        let text = "nodeId:\nadvertiseAddress: ~\ncontroller:\nsecurity:\n  joinToken: null\nhealth:\n  enabled:\n  port: null\nlabels:\n";
        let loaded = read(text).unwrap();
        let default = DaemonConfig {
            data_dir: "prexorcloud-daemon".into(),
            ..DaemonConfig::default()
        };
        assert_eq!(format!("{:?}", loaded.config), format!("{default:?}"));
        for nothing in ["", "# nothing\n", "---\n", "null\n"] {
            assert_eq!(
                format!("{:?}", config(nothing)),
                format!("{default:?}"),
                "{nothing:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        assert_refused("nodeId: [a]\n", 1, &["nodeId", "a list"]);
        assert_refused("a: 1\n\nnodeId: a b\n", 3, &["`nodeId`", "a b"]);
        assert_refused(
            "controller:\n  grpcPort: true\n",
            2,
            &["controller.grpcPort", "an integer"],
        );
        assert_refused("controller:\n  grpcPort: 70000\n", 2, &["from 1 to 65535"]);
        assert_refused("controller: ctrl-1\n", 1, &["controller", "a section"]);
        assert_refused("controller:\n  endpoints: ctrl-1\n", 2, &["a list of strings"]);
        assert_refused("health:\n  enabled: maybe\n", 2, &["true or false", "maybe"]);
        assert_refused(
            "x: &h ctrl\ncontroller:\n  host: *h\n",
            3,
            &["controller.host", "alias"],
        );
        assert_refused("labels:\n  zone:\n", 2, &["labels.zone"]);
        assert_refused("logging:\n  level: LOUD\n", 2, &["logging.level", "LOUD"]);
        assert_refused(
            "instances:\n  killTimeoutSeconds: 99999999\n",
            2,
            &["instances.killTimeoutSeconds"],
        );
        assert_refused("nodeId: a\ncontroller: [\n", 2, &["bracket"]);
        assert_refused("- a\n", 1, &["a section"]);
        assert_refused("? [a]\n: b\n", 1, &["a key must be a name"]);
        assert_refused(
            "security:\n  joinToken: pxr_cut\n",
            2,
            &["security.joinToken", "was it cut off?"],
        );
        let secret = read("security:\n  joinToken: [pxr_hunter2]\n")
            .unwrap_err()
            .to_string();
        assert!(!secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn what_a_java_daemon_ignores_is_told() {
        let text = "nodeID: x\nnodeId: a\nnodeId: b\nhealth:\n  port: 9191\nmodules:\n  signing: {mode: KEYED}\n---\nnodeId: c\n";
        let loaded = read(text).unwrap();
        assert_eq!(loaded.config.node_id, "b");
        let warnings = loaded.warnings.join("\n");
        for said in [
            "only the first of its documents is read",
            "daemon.yml:1: unknown key `nodeID` is ignored, did you mean `nodeId`?",
            "daemon.yml:3: `nodeId` is there twice; the value from line 2 is ignored",
            "daemon.yml:5: the health endpoint is on",
            "`modules.signing.mode` has no meaning",
        ] {
            assert!(warnings.contains(said), "{said} in {warnings}");
        }
    }

    #[test]
    fn editors_leave_marks_that_mean_nothing() {
        let text = "\u{feff}nodeId: eu-1 \r\ncontroller: \r\n  host: \"::1\"\t\r\n  grpcPort: 9190  # c\r\n\r\n \r\n";
        assert_eq!(config(text).node_id, "eu-1");
        assert_eq!(endpoints(text), ["[::1]:9190"]);
        assert_refused("\u{feff}a: 1\r\nnodeId: [a]\r\n", 2, &["nodeId"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(nodeId|controller|host|health|port|labels|[ \n:{}\\[\\]\"'&*!|>-]|x|1|~){0,40}") {
            let _ = super::settings(&text, "daemon.yml");
        }
    }
}
