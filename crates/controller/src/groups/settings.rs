//! What is set in a group, and what it means

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
};

use prexorcloud_protocol::{GroupName, InstanceId, validate::is_refused_variable};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    fields::{Effect, FIELDS, Field, FieldError},
    scaling::{Mode, Wish},
};
use crate::{
    config::InstanceConfig,
    nodes::{Ready, check_jar, check_sha256, check_stop_command},
    templates::MAX_LAYERS,
};

/// Longest arguments, environment and variables of one start, in bytes
const MAX_TEXT_BYTES: usize = 256 * 1024;

/// Templates that a group has without naming them: `base`, the one of its platform, and its own
pub(super) const IMPLICIT: usize = 3;

/// The fields that somebody has set
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings(Map<String, Value>);

/// What acts of them, with what nobody has set
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meaning {
    pub(crate) platform: String,
    pub(crate) platform_version: String,
    runtime_target: RuntimeTarget,
    pub(crate) jar_file: String,
    pub(crate) jar: String,
    pub(crate) sha256: String,
    pub(crate) templates: Vec<String>,
    pub(crate) variable_values: BTreeMap<String, String>,
    pub(crate) config_patches: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) memory_mb: i32,
    pub(crate) cpu_reservation: f64,
    pub(crate) disk_reservation_mb: i64,
    pub(crate) jvm_args: Vec<String>,
    pub(crate) arguments: Option<Vec<String>>,
    pub(crate) stop_command: String,
    pub(crate) env: HashMap<String, String>,
    port_range_start: i64,
    port_range_end: i64,
    pub(crate) min_instances: usize,
    pub(crate) scaling_mode: Mode,
    scale_up_threshold: f64,
    scale_up_margin: f64,
    scale_down_after_seconds: i64,
    scale_cooldown_seconds: i64,
    on_clean_exit: OnCleanExit,
    on_node_loss: OnNodeLoss,
    node_loss_grace_seconds: i64,
    pub(crate) priority: i64,
    pub(crate) startup_weight: i64,
    pub(crate) max_instances: usize,
    pub(crate) max_players: i32,
    #[serde(rename = "static")]
    pub(crate) is_static: bool,
    pub(crate) static_instance_names: Vec<String>,
    pub(crate) protected_paths: Vec<String>,
    pub(crate) node_affinity: Vec<String>,
    pub(crate) node_anti_affinity: Vec<String>,
    pub(crate) startup_timeout_seconds: u64,
    pub(crate) shutdown_grace_seconds: u64,
    pub(crate) max_lifetime_seconds: u64,
    pub(crate) ready: Option<Ready>,
}

/// What follows when a server ends by itself with exit code 0
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum OnCleanExit {
    Restart,
    Stop,
}

/// What follows when a node stays away
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum OnNodeLoss {
    Restart,
    Wait,
}

#[derive(Clone, Debug, Deserialize)]
struct RuntimeTarget {
    family: String,
}

impl Settings {
    pub(super) fn of(set: Map<String, Value>) -> Self {
        Self(set)
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// What a server is made of as it was pinned, and all else as it is now
    pub(super) fn made_of(pinned: &Self, now: &Self) -> Self {
        let deployed = |name: &String| Field::named(name).is_ok_and(Field::is_deployed);
        let pinned = pinned.0.iter().filter(|(name, _)| deployed(name));
        let now = now.0.iter().filter(|(name, _)| !deployed(name));
        Self(
            pinned
                .chain(now)
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        )
    }

    /// Takes changes in; says which fields they are of
    ///
    /// # Errors
    /// What the first of them does not take; nothing that was taken in until then counts.
    pub(super) fn change(
        &mut self,
        changes: Map<String, Value>,
    ) -> Result<BTreeSet<&'static str>, FieldError> {
        let mut changed = BTreeSet::new();
        for (name, change) in changes {
            let field = Field::named(&name)?;
            changed.insert(field.name);
            match field.change(self.0.get(field.name), change)? {
                Some(value) => drop(self.0.insert(field.name.to_owned(), value)),
                None => drop(self.0.remove(field.name)),
            }
        }
        if changed.contains("runtimeTarget") {
            self.unfold_target(&changed)?;
        }
        Ok(changed)
    }

    /// Platform and version are said once, whichever way they came
    fn unfold_target(&mut self, changed: &BTreeSet<&'static str>) -> Result<(), FieldError> {
        let Some(Value::Object(mut target)) = self.0.remove("runtimeTarget") else {
            return Ok(());
        };
        for name in ["platform", "platformVersion"] {
            let Some(Value::String(said)) = target.remove(name) else {
                continue;
            };
            let known = self.0.get(name).and_then(Value::as_str).unwrap_or_default();
            if changed.contains(name) && known != said {
                return Err(FieldError::Value(format!(
                    "runtimeTarget.{name} and {name} are not the same: leave one of them out"
                )));
            }
            match said.is_empty() {
                true => drop(self.0.remove(name)),
                false => drop(self.0.insert(name.to_owned(), said.into())),
            }
        }
        if target.get("family").is_some_and(Value::is_string) {
            self.0.insert("runtimeTarget".to_owned(), target.into());
        }
        Ok(())
    }

    /// Every field, with what it is where nobody says
    pub(crate) fn complete(&self, instances: &InstanceConfig) -> Map<String, Value> {
        let mut all: Map<String, Value> = FIELDS
            .iter()
            .map(|field| {
                let value = self.0.get(field.name).cloned();
                (field.name.to_owned(), value.unwrap_or_else(|| field.default()))
            })
            .collect();
        let configured = [
            ("portRangeStart", u64::from(*instances.port_range.start())),
            ("portRangeEnd", u64::from(*instances.port_range.end())),
            ("startupTimeoutSeconds", instances.startup_timeout.as_secs()),
            ("shutdownGraceSeconds", instances.shutdown_grace.as_secs()),
        ];
        for (name, value) in configured {
            if all.get(name).and_then(Value::as_i64) == Some(0) {
                all.insert(name.to_owned(), value.into());
            }
        }
        let text = |name: &str| all.get(name).cloned().unwrap_or_default();
        let family = text("runtimeTarget").get("family").cloned();
        let target = json!({
            "platform": text("platform"), "platformVersion": text("platformVersion"),
            "family": family.unwrap_or_else(|| family_of(text("platform").as_str().unwrap_or_default()).into()),
        });
        all.insert("runtimeTarget".to_owned(), target);
        all
    }

    /// What acts
    ///
    /// # Errors
    /// Never for what [`change`](Self::change) has taken; a record of a later release may be unreadable.
    pub(crate) fn meaning(&self, instances: &InstanceConfig) -> Result<Meaning, String> {
        // The words of this error may quote a value.
        Meaning::deserialize(Value::Object(self.complete(instances))).map_err(|_| {
            "this group was written by a later release, which this one does not understand".to_owned()
        })
    }

    /// The fields that are kept, and that somebody has set
    pub(crate) fn kept(&self) -> Vec<&'static str> {
        let is_kept = |field: &&Field| field.effect == Effect::Kept && self.0.contains_key(field.name);
        FIELDS.iter().filter(is_kept).map(|field| field.name).collect()
    }
}

impl Meaning {
    /// Whether the fields make sense, and together
    ///
    /// # Errors
    /// A sentence with the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self {
            min_instances,
            max_instances,
            ..
        } = self;
        if min_instances > max_instances {
            return Err(format!(
                "minInstances ({min_instances}) cannot exceed maxInstances ({max_instances})"
            ));
        }
        self.check_ports()?;
        for (name, text) in [
            ("platform", &self.platform),
            ("platformVersion", &self.platform_version),
        ] {
            let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
            if text.len() > 64 || !text.bytes().all(is_known) || text.starts_with('.') {
                return Err(format!("{name} has at most 64 letters, digits and any of ._+-"));
            }
        }
        self.check_files()?;
        self.check_names()?;
        self.check_texts()?;
        self.ready.clone().map(Ready::rule).transpose()?;
        Ok(())
    }

    fn check_ports(&self) -> Result<(), String> {
        let ports = [self.port_range_start, self.port_range_end];
        if !ports.iter().all(|port| (1..=65_535).contains(port)) {
            return Err(
                "portRangeStart/portRangeEnd must be valid TCP ports in the range 1-65535".to_owned(),
            );
        }
        if self.port_range_start > self.port_range_end {
            return Err(format!(
                "portRangeStart ({}) is above portRangeEnd ({})",
                self.port_range_start, self.port_range_end
            ));
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), String> {
        let name = &self.jar_file;
        let is_plain = !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with(['-', '.', '@']);
        if !is_plain || name.len() > 128 || name.chars().any(char::is_control) {
            return Err("jarFile must be a plain file name of at most 128 bytes".to_owned());
        }
        if !self.jar.is_empty() {
            check_jar(&self.jar)?;
        }
        check_sha256(&self.sha256)?;
        let files = self.config_patches.keys().map(|file| ("configPatches", file));
        let paths = self.protected_paths.iter().map(|path| ("protectedPaths", path));
        for (field, path) in files.chain(paths) {
            let stays = path.split('/').all(|part| part != "..");
            let is_path = !path.is_empty() && !path.starts_with('/') && !path.contains('\\');
            if !stays || !is_path || path.chars().any(char::is_control) {
                return Err(format!(
                    "{field}: {path:?} is no path within the folder of a server"
                ));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), String> {
        let most = MAX_LAYERS - IMPLICIT;
        if self.templates.len() > most {
            return Err(format!("a group names at most {most} templates"));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.templates.iter().find(|name| !seen.insert(*name)) {
            return Err(format!("templates: {twice:?} is there twice"));
        }
        let mut seen = BTreeSet::new();
        for name in &self.static_instance_names {
            if name.parse::<InstanceId>().is_err() {
                return Err(format!(
                    "staticInstanceNames: {name:?} is no name of an instance: 1 to 64 letters, digits, dots, hyphens or underscores"
                ));
            }
            if !seen.insert(name) {
                return Err(format!("staticInstanceNames: {name:?} is there twice"));
            }
        }
        for label in self.node_affinity.iter().chain(&self.node_anti_affinity) {
            if label.is_empty() || label.starts_with('=') {
                return Err("nodeAffinity and nodeAntiAffinity hold labels: KEY or KEY=VALUE".to_owned());
            }
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), String> {
        let pairs = self.env.iter().chain(&self.variable_values);
        let arguments = self.jvm_args.iter().chain(self.arguments.iter().flatten());
        let text = arguments.map(String::len).sum::<usize>()
            + pairs.map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if text > MAX_TEXT_BYTES {
            return Err(format!(
                "jvmArgs, arguments, env and variableValues together have at most {MAX_TEXT_BYTES} bytes"
            ));
        }
        check_stop_command(&self.stop_command)?;
        if self.env.keys().any(|name| name.contains('=')) {
            return Err("names in env must not contain =".to_owned());
        }
        if let Some(name) = self.env.keys().find(|name| is_refused_variable(name)) {
            return Err(format!(
                "env.{name} is handed to no server, since it makes a process load foreign code; options of the JVM belong into jvmArgs"
            ));
        }
        Ok(())
    }

    pub(crate) fn ports(&self) -> RangeInclusive<u16> {
        let port = |port: i64| u16::try_from(port).unwrap_or(u16::MAX);
        port(self.port_range_start)..=port(self.port_range_end)
    }

    /// How many servers there should be
    pub(crate) fn wish(&self, group: GroupName) -> Wish {
        let names = match self.is_static {
            true => &self.static_instance_names[..],
            false => &[],
        };
        Wish {
            group,
            mode: self.scaling_mode,
            min: self.min_instances,
            max: self.max_instances,
            names: names.iter().filter_map(|name| name.parse().ok()).collect(),
            keeps_files: self.is_static,
            seats: u32::try_from(self.max_players).unwrap_or(0),
            scale_up_threshold: self.scale_up_threshold,
            scale_up_margin: self.scale_up_margin,
            scale_down_after_ms: self.scale_down_after_seconds * 1000,
            cooldown_ms: self.scale_cooldown_seconds * 1000,
            replaces_clean_exits: self.on_clean_exit == OnCleanExit::Restart,
            node_grace_ms: (self.on_node_loss == OnNodeLoss::Restart)
                .then(|| self.node_loss_grace_seconds * 1000),
        }
    }

    pub(crate) fn is_proxy(&self) -> bool {
        self.runtime_target.family == "PROXY"
    }
}

/// Whether software of this name is a proxy, unless somebody says otherwise
fn family_of(platform: &str) -> &'static str {
    match platform.to_ascii_lowercase().as_str() {
        "velocity" | "bungeecord" | "waterfall" => "PROXY",
        _ => "SERVER",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::ControllerConfig;

    fn changed(changes: Value) -> Result<Settings, String> {
        let mut settings = Settings::default();
        let Value::Object(changes) = changes else {
            unreachable!("tests give objects")
        };
        settings.change(changes).map_err(|error| error.to_string())?;
        let meaning = settings.meaning(&ControllerConfig::default().instances)?;
        meaning.check().map(|()| settings)
    }

    #[test]
    fn what_nobody_has_set_is_the_default_and_is_not_kept() {
        let instances = ControllerConfig::default().instances;
        let settings = changed(json!({ "maxInstances": 10, "routing": "RANDOM", "priority": 0 })).unwrap();
        assert_eq!(settings.0.len(), 1, "{settings:?}");
        assert_eq!(settings.kept(), ["routing"]);
        let all = settings.complete(&instances);
        assert_eq!(
            (&all["maxInstances"], &all["portRangeStart"]),
            (&json!(10), &json!(30_000))
        );
        assert_eq!(all["startupTimeoutSeconds"], 120);
        let meaning = Settings::default().meaning(&instances).unwrap();
        meaning.check().unwrap();
        assert_eq!(meaning.ports(), instances.port_range);
    }

    #[test]
    fn a_platform_is_said_once_whichever_way_it_comes() {
        let instances = ControllerConfig::default().instances;
        let target = json!({ "platform": "VELOCITY", "platformVersion": "3.4.0" });
        let settings = changed(json!({ "runtimeTarget": target })).unwrap();
        let meaning = settings.meaning(&instances).unwrap();
        assert!(meaning.is_proxy());
        assert_eq!(
            (meaning.platform.as_str(), meaning.platform_version.as_str()),
            ("VELOCITY", "3.4.0")
        );
        let said = json!({ "platform": "MINE", "runtimeTarget": { "platform": "MINE", "family": "PROXY" } });
        let settings = changed(said).unwrap();
        assert!(settings.meaning(&instances).unwrap().is_proxy());
        let twice = json!({ "platform": "A", "runtimeTarget": { "platform": "B" } });
        assert!(changed(twice).unwrap_err().contains("are not the same"));
    }

    #[test]
    fn what_makes_no_sense_is_said_in_a_sentence() {
        for (changes, sentence) in [
            (
                json!({ "minInstances": 5, "maxInstances": 2 }),
                "minInstances (5) cannot exceed maxInstances (2)",
            ),
            (
                json!({ "portRangeStart": 99_999 }),
                "portRangeStart/portRangeEnd must be valid TCP ports in the range 1-65535",
            ),
            (
                json!({ "portRangeStart": 30_002, "portRangeEnd": 30_001 }),
                "portRangeStart (30002) is above portRangeEnd (30001)",
            ),
            (
                json!({ "jarFile": "../x.jar" }),
                "jarFile must be a plain file name",
            ),
            (
                json!({ "jar": "server.jar" }),
                "jar must be an absolute path on the node",
            ),
            (json!({ "sha256": "abc" }), "sha256 must be 64 hexadecimal digits"),
            (json!({ "platform": "../PAPER" }), "platform has at most 64"),
            (
                json!({ "configPatches": { "../x.yml": { "a": "1" } } }),
                "is no path within the folder",
            ),
            (
                json!({ "protectedPaths": ["/etc"] }),
                "is no path within the folder",
            ),
            (
                json!({ "staticInstanceNames": ["a/b"] }),
                "is no name of an instance",
            ),
            (json!({ "templates": ["a", "a"] }), "is there twice"),
            (
                json!({ "env": { "LD_PRELOAD": "x" } }),
                "env.LD_PRELOAD is handed to no server",
            ),
            (
                json!({ "env": { "A=B": "x" } }),
                "names in env must not contain =",
            ),
            (json!({ "nodeAffinity": ["=x"] }), "hold labels"),
            (json!({ "stopCommand": " " }), "stopCommand must be one line"),
            (
                json!({ "stopCommand": "save\nstop" }),
                "stopCommand must be one line",
            ),
            (json!({ "ready": { "line": " " } }), "ready.line"),
        ] {
            let error = changed(changes.clone()).unwrap_err();
            assert!(error.contains(sentence), "{changes}: {error}");
        }
        // One port is a range.
        changed(json!({ "portRangeStart": 30_001, "portRangeEnd": 30_001 })).unwrap();
    }
}
