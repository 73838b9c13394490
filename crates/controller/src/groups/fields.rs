//! Every field of a group once: its name, what it takes, what it is if nobody says, and what becomes of it
//!
//! The names and meanings are those of the Java controller, whose tools write them; those that it does not have are marked in
//! `docs/groups.md`, which a test holds against this table. A field either acts, or is kept and shown until a later release acts on it, or
//! is refused, so that nothing that an operator writes is dropped without a word.

use serde_json::{Map, Value};

/// Most entries of a list or map
const MAX_ENTRIES: usize = 1024;

/// Longest text in bytes, but for names
const MAX_TEXT: usize = 4096;

/// One field of a group
pub(crate) struct Field {
    pub(crate) name: &'static str,
    kind: Kind,
    /// As JSON
    default: &'static str,
    pub(crate) effect: Effect,
}

/// What becomes of a field
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The next start follows it
    Acts,
    /// It is kept and shown
    Kept,
    /// Only its default is taken, for this reason
    Refused(&'static str),
}

/// What a field takes
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// A text or null
    MaybeText,
    Flag,
    Whole {
        min: i64,
        max: i64,
    },
    /// Zero or more
    Number,
    OneOf(&'static [&'static str]),
    Texts,
    /// A list of texts or null
    MaybeTexts,
    TextMap,
    /// Files, keys in them, and values
    Patches,
    Runtime,
    Ready,
}

/// What a field does not take; no value is quoted, since it may be secret
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// No such field
    #[error("a group has no field {0:?}")]
    Unknown(String),
    /// Another type
    #[error("{field} must be {expected}")]
    Type {
        /// Which
        field: &'static str,
        /// What it takes
        expected: String,
    },
    /// The type is right
    #[error("{0}")]
    Value(String),
}

const NO_MODULES: &str = "this controller installs no modules and extensions into servers";

const MAX_I32: i64 = i32::MAX as i64;
const COUNT: Kind = Kind::Whole { min: 0, max: 100_000 };
const SECONDS: Kind = Kind::Whole { min: 0, max: MAX_I32 };
const MEGABYTES: Kind = Kind::Whole {
    min: 1,
    max: 16 << 20,
};
const ANY: Kind = Kind::Whole {
    min: -MAX_I32,
    max: MAX_I32,
};

const fn acts(name: &'static str, kind: Kind, default: &'static str) -> Field {
    field(name, kind, default, Effect::Acts)
}

const fn kept(name: &'static str, kind: Kind, default: &'static str) -> Field {
    field(name, kind, default, Effect::Kept)
}

const fn refused(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Field {
    field(name, kind, default, Effect::Refused(why))
}

const fn field(name: &'static str, kind: Kind, default: &'static str, effect: Effect) -> Field {
    Field {
        name,
        kind,
        default,
        effect,
    }
}

pub(crate) const FIELDS: &[Field] = &[
    acts("platform", Kind::Text, "\"\""),
    acts("platformVersion", Kind::Text, "\"\""),
    acts("runtimeTarget", Kind::Runtime, "null"),
    acts("jarFile", Kind::Text, "\"server.jar\""),
    acts("jar", Kind::Text, "\"\""),
    acts("sha256", Kind::Text, "\"\""),
    acts("templates", Kind::Texts, "[]"),
    acts("variableValues", Kind::TextMap, "{}"),
    acts("configPatches", Kind::Patches, "{}"),
    acts("memoryMb", MEGABYTES, "1024"),
    acts("cpuReservation", Kind::Number, "0.0"),
    acts("diskReservationMb", Kind::Whole { min: 0, max: 1 << 40 }, "0"),
    acts("jvmArgs", Kind::Texts, "[]"),
    acts("arguments", Kind::MaybeTexts, "null"),
    acts("stopCommand", Kind::Text, "\"\""),
    acts("env", Kind::TextMap, "{}"),
    acts("portRangeStart", ANY, "0"),
    acts("portRangeEnd", ANY, "0"),
    acts("maxInstances", COUNT, "10"),
    acts("maxPlayers", COUNT, "100"),
    acts("static", Kind::Flag, "false"),
    acts("staticInstanceNames", Kind::Texts, "[]"),
    acts("protectedPaths", Kind::Texts, "[]"),
    acts("nodeAffinity", Kind::Texts, "[]"),
    acts("nodeAntiAffinity", Kind::Texts, "[]"),
    acts("startupTimeoutSeconds", SECONDS, "0"),
    acts("shutdownGraceSeconds", SECONDS, "0"),
    acts("maxLifetimeSeconds", SECONDS, "0"),
    acts("ready", Kind::Ready, "null"),
    acts("minInstances", COUNT, "0"),
    acts(
        "scalingMode",
        Kind::OneOf(&["DYNAMIC", "STATIC", "MANUAL"]),
        "\"DYNAMIC\"",
    ),
    acts("scaleUpThreshold", Kind::Number, "0.8"),
    acts("scaleUpMargin", Kind::Number, "0.0"),
    acts("scaleDownAfterSeconds", SECONDS, "300"),
    acts("scaleCooldownSeconds", SECONDS, "60"),
    acts("onCleanExit", Kind::OneOf(&["RESTART", "STOP"]), "\"RESTART\""),
    acts("onNodeLoss", Kind::OneOf(&["RESTART", "WAIT"]), "\"RESTART\""),
    acts("nodeLossGraceSeconds", SECONDS, "120"),
    acts("priority", ANY, "0"),
    acts("startupWeight", ANY, "0"),
    kept("predictiveScaling", Kind::Flag, "false"),
    kept("burstCeiling", COUNT, "0"),
    kept("warmPoolMinPrepared", COUNT, "0"),
    kept("updateStrategy", Kind::Text, "\"ROLLING\""),
    kept("routing", Kind::MaybeText, "null"),
    kept("dependsOn", Kind::Texts, "[]"),
    kept("spreadConstraint", Kind::Text, "\"\""),
    kept("fallbackGroup", Kind::MaybeText, "null"),
    kept("defaultGroup", Kind::Flag, "false"),
    kept("drainOnShutdown", Kind::Flag, "false"),
    kept("maintenance", Kind::Flag, "false"),
    kept("maintenanceMessage", Kind::Text, "\"\""),
    kept("maintenanceBypass", Kind::Texts, "[]"),
    kept("motdMode", Kind::Text, "\"STATIC\""),
    kept("motds", Kind::Texts, "[]"),
    kept("motdIntervalSeconds", SECONDS, "30"),
    kept("bedrockProxyGroup", Kind::Text, "\"\""),
    kept("disabledModules", Kind::Texts, "[]"),
    kept("disabledExtensions", Kind::Texts, "[]"),
    refused(
        "parent",
        Kind::MaybeText,
        "null",
        "groups inherit nothing from each other here: write what it has into this group",
    ),
    refused("attachedModules", Kind::Texts, "[]", NO_MODULES),
    refused("attachedExtensions", Kind::Texts, "[]", NO_MODULES),
    refused("enabledModules", Kind::Texts, "[]", NO_MODULES),
    refused("enabledExtensions", Kind::Texts, "[]", NO_MODULES),
];

/// What acts at once, and not by what a server is made of: how many there are, in which order, and under which names
const AT_ONCE: [&str; 14] = [
    "maxInstances",
    "minInstances",
    "scalingMode",
    "scaleUpThreshold",
    "scaleUpMargin",
    "scaleDownAfterSeconds",
    "scaleCooldownSeconds",
    "onCleanExit",
    "onNodeLoss",
    "nodeLossGraceSeconds",
    "priority",
    "startupWeight",
    "static",
    "staticInstanceNames",
];

impl Field {
    /// Whether a server is made of it, so that a deployment brings it and a rollback takes it back
    pub(crate) fn is_deployed(&self) -> bool {
        self.effect == Effect::Acts && !AT_ONCE.contains(&self.name)
    }

    /// The field with this name, or with the one that the Java controller's requests have for it
    pub(crate) fn named(name: &str) -> Result<&'static Self, FieldError> {
        let name = match name {
            "isStatic" => "static",
            name => name,
        };
        let found = FIELDS.iter().find(|field| field.name == name);
        found.ok_or_else(|| FieldError::Unknown(name.chars().take(64).collect()))
    }

    /// What it is if nobody says
    pub(crate) fn default(&self) -> Value {
        // The table is read whole by a test.
        serde_json::from_str(self.default).unwrap_or(Value::Null)
    }

    /// Takes a change of this field; `None` = it is its default again
    ///
    /// Null is the default, and in a map each entry is changed alone: null removes it.
    ///
    /// # Errors
    /// What the field takes.
    pub(crate) fn change(&self, before: Option<&Value>, change: Value) -> Result<Option<Value>, FieldError> {
        if change.is_null() {
            return Ok(None);
        }
        let after = match (self.kind, change) {
            (Kind::TextMap | Kind::Patches, Value::Object(changes)) => {
                let before = before.and_then(Value::as_object).cloned().unwrap_or_default();
                Value::Object(merge(before, changes))
            }
            (_, change) => change,
        };
        self.check(&after)?;
        match self.effect {
            Effect::Refused(why) if !is_nothing(&after) => {
                Err(FieldError::Value(format!("{}: {why}", self.name)))
            }
            Effect::Refused(_) => Ok(None),
            _ if after == self.default() => Ok(None),
            _ => Ok(Some(after)),
        }
    }

    fn check(&self, value: &Value) -> Result<(), FieldError> {
        let of_type = |is_it: bool, expected: &str| {
            let wrong = FieldError::Type {
                field: self.name,
                expected: expected.to_owned(),
            };
            if is_it { Ok(()) } else { Err(wrong) }
        };
        match self.kind {
            Kind::Text | Kind::MaybeText => {
                of_type(value.is_string(), "a text")?;
                self.check_text(value)
            }
            Kind::Flag => of_type(value.is_boolean(), "true or false"),
            Kind::Whole { min, max } => {
                let Some(number) = value.as_i64() else {
                    return of_type(false, "a whole number");
                };
                if (min..=max).contains(&number) {
                    return Ok(());
                }
                Err(FieldError::Value(format!(
                    "{} must be from {min} to {max}, and is {number}",
                    self.name
                )))
            }
            Kind::Number => {
                let number = value.as_f64();
                let is_it = number.is_some_and(|number| number.is_finite() && number >= 0.0);
                of_type(is_it, "a number that is not below 0")
            }
            Kind::OneOf(known) => {
                of_type(value.is_string(), "a text")?;
                self.check_text(value)?;
                let given = value.as_str().unwrap_or_default();
                if known.contains(&given) {
                    return Ok(());
                }
                let (last, first) = known.split_last().unwrap_or((&"", &[]));
                let known = format!("{}, or {last}", first.join(", "));
                Err(FieldError::Value(format!(
                    "Unsupported {} '{given}' (expected {known})",
                    self.name
                )))
            }
            Kind::Texts | Kind::MaybeTexts => {
                let texts = value.as_array().filter(|list| list.iter().all(Value::is_string));
                of_type(texts.is_some(), "a list of texts")?;
                let texts = texts.map(Vec::as_slice).unwrap_or_default();
                self.check_count(texts.len())?;
                texts.iter().try_for_each(|text| self.check_text(text))
            }
            Kind::TextMap => {
                let expected = "an object whose values are texts";
                let Some(map) = value.as_object() else {
                    return of_type(false, expected);
                };
                of_type(map.values().all(Value::is_string), expected)?;
                self.check_map(map)
            }
            Kind::Patches => {
                let expected = "an object of files, each with an object of keys whose values are texts";
                let Some(files) = value.as_object() else {
                    return of_type(false, expected);
                };
                self.check_count(files.len())?;
                for keys in files.values() {
                    let keys = keys.as_object();
                    let texts = keys.filter(|keys| keys.values().all(Value::is_string));
                    of_type(texts.is_some(), expected)?;
                    texts.map_or(Ok(()), |keys| self.check_map(keys))?;
                }
                Ok(())
            }
            Kind::Runtime => {
                let known = ["platform", "platformVersion", "family"];
                let expected = "an object with platform, platformVersion and family (SERVER or PROXY)";
                let Some(parts) = value.as_object() else {
                    return of_type(false, expected);
                };
                let is_known = |(name, part): (&String, &Value)| {
                    let family = part.is_null() || matches!(part.as_str(), Some("SERVER" | "PROXY"));
                    let is_text = part.is_null() || part.is_string();
                    known.contains(&name.as_str()) && is_text && (name != "family" || family)
                };
                of_type(parts.iter().all(is_known), expected)
            }
            Kind::Ready => {
                let line = value.as_object().filter(|parts| parts.len() == 1);
                let line = line.and_then(|parts| parts.get("line"));
                let is_it =
                    matches!(value.as_str(), Some("port" | "plugin")) || line.is_some_and(Value::is_string);
                of_type(is_it, "\"port\", \"plugin\" or {\"line\": TEXT}")
            }
        }
    }

    fn check_map(&self, map: &Map<String, Value>) -> Result<(), FieldError> {
        self.check_count(map.len())?;
        if map.keys().any(|key| key.is_empty() || key.len() > 256) {
            let limit = format!("a name in {} has 1 to 256 bytes", self.name);
            return Err(FieldError::Value(limit));
        }
        map.values().try_for_each(|text| self.check_text(text))
    }

    fn check_count(&self, entries: usize) -> Result<(), FieldError> {
        if entries <= MAX_ENTRIES {
            return Ok(());
        }
        let limit = format!("{} has at most {MAX_ENTRIES} entries", self.name);
        Err(FieldError::Value(limit))
    }

    fn check_text(&self, value: &Value) -> Result<(), FieldError> {
        let text = value.as_str().unwrap_or_default();
        if text.len() > MAX_TEXT {
            let limit = format!("a text in {} has at most {MAX_TEXT} bytes", self.name);
            return Err(FieldError::Value(limit));
        }
        if text.contains('\0') {
            let zero = format!("a text in {} contains a NUL", self.name);
            return Err(FieldError::Value(zero));
        }
        Ok(())
    }
}

/// Puts changes into a map, and into the maps in it; null removes
fn merge(mut before: Map<String, Value>, changes: Map<String, Value>) -> Map<String, Value> {
    for (key, change) in changes {
        match (before.get_mut(&key), change) {
            (_, Value::Null) => drop(before.remove(&key)),
            (Some(Value::Object(inner)), Value::Object(changes)) => {
                *inner = merge(std::mem::take(inner), changes);
                if inner.is_empty() {
                    before.remove(&key);
                }
            }
            (_, change) => drop(before.insert(key, change)),
        }
    }
    before
}

/// Whether a field asks for nothing
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Null => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn each_field_takes_its_default_and_stands_there_once() {
        let mut names = BTreeSet::new();
        for field in FIELDS {
            assert!(names.insert(field.name), "{} is there twice", field.name);
            let default: Value = serde_json::from_str(field.default).unwrap();
            assert_eq!(field.change(None, default).unwrap(), None, "{}", field.name);
        }
    }

    #[test]
    fn the_page_about_groups_lists_them_all() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/groups.md");
        let text = std::fs::read_to_string(page).unwrap();
        let head = "|---|---|---|\n";
        let (before, rest) = text.split_once(head).unwrap();
        let (_, after) = rest.split_once("\nA port or a time").unwrap();
        let mut rows = String::new();
        for field in FIELDS {
            let effect = match field.effect {
                Effect::Acts => "acts",
                Effect::Kept => "kept",
                Effect::Refused(_) => "refused",
            };
            rows += &format!("| `{}` | `{}` | {effect} |\n", field.name, field.default);
        }
        let expected = format!("{before}{head}{rows}\nA port or a time{after}");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(page, &expected).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(page).unwrap(),
            expected,
            "UPDATE_SNAPSHOTS=1 writes it"
        );
    }

    #[test]
    fn maps_are_changed_entry_by_entry_and_all_else_as_a_whole() {
        let field = |name| Field::named(name).unwrap();
        let before = json!({ "A": "1", "B": "2" });
        let after = field("env").change(Some(&before), json!({ "B": null, "C": "3" }));
        assert_eq!(after.unwrap(), Some(json!({ "A": "1", "C": "3" })));
        let before = json!({ "a.yml": { "x": "1", "y": "2" }, "b.yml": { "z": "3" } });
        let change = json!({ "a.yml": { "x": null }, "b.yml": { "z": null } });
        let after = field("configPatches").change(Some(&before), change);
        assert_eq!(after.unwrap(), Some(json!({ "a.yml": { "y": "2" } })));
        let after = field("jvmArgs").change(Some(&json!(["-Xa"])), json!(["-Xb"]));
        assert_eq!(after.unwrap(), Some(json!(["-Xb"])));
        assert_eq!(field("env").change(Some(&before), Value::Null).unwrap(), None);
    }

    #[test]
    fn what_a_field_does_not_take_is_named_and_not_quoted() {
        for (name, value, sentence) in [
            ("memoryMb", json!("hunter2"), "memoryMb must be a whole number"),
            (
                "memoryMb",
                json!(-5),
                "memoryMb must be from 1 to 16777216, and is -5",
            ),
            ("static", json!("hunter2"), "static must be true or false"),
            (
                "env",
                json!({ "A": 1 }),
                "env must be an object whose values are texts",
            ),
            (
                "env",
                json!("hunter2"),
                "env must be an object whose values are texts",
            ),
            (
                "variableValues",
                json!({ "A": ["hunter2"] }),
                "variableValues must be an object whose values are texts",
            ),
            ("templates", json!([1]), "templates must be a list of texts"),
            (
                "ready",
                json!({ "line": 1 }),
                "ready must be \"port\", \"plugin\" or {\"line\": TEXT}",
            ),
            (
                "cpuReservation",
                json!(-0.5),
                "cpuReservation must be a number that is not below 0",
            ),
            (
                "scalingMode",
                json!("WEIRD"),
                "Unsupported scalingMode 'WEIRD' (expected DYNAMIC, STATIC, or MANUAL)",
            ),
            (
                "parent",
                json!("_base"),
                "parent: groups inherit nothing from each other here: write what it has into this group",
            ),
            (
                "attachedModules",
                json!(["chat"]),
                "attachedModules: this controller installs no modules and extensions into servers",
            ),
        ] {
            let error = Field::named(name).unwrap().change(None, value).unwrap_err();
            assert_eq!(error.to_string(), sentence);
        }
        let unknown = Field::named("somethingElse").err().unwrap();
        assert_eq!(unknown.to_string(), "a group has no field \"somethingElse\"");
    }
}
