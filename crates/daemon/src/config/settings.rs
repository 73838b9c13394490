//! Keys with their values and origins, before they mean anything

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, Origin,
    keys::{KEYS, Kind, VARIABLE_PREFIX, nearest},
};

#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Switch(bool),
    TextList(Vec<String>),
    TextMap(BTreeMap<String, String>),
    /// A type that no key has, as the operator would call it
    Other(&'static str),
}

#[derive(Debug)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) origin: Origin,
    /// The key as the operator wrote it
    pub(super) written: String,
}

/// What was set, by key path
#[derive(Debug)]
pub(super) struct Settings(BTreeMap<&'static str, Setting>);

impl Settings {
    pub(super) fn from_toml(text: &str, file: &str) -> Result<Self, ConfigError> {
        let line_of = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        let at = |offset: usize| Origin::File {
            file: file.to_owned(),
            line: line_of(offset),
        };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            origin: at(error.span().map_or(0, |span| span.start)),
            detail: error.message().trim().replace('\n', ", "),
        })?;
        let mut settings = BTreeMap::new();
        collect("", table.get_ref(), &at, &mut settings)?;
        Ok(Self(settings))
    }

    /// Applies the variables of the daemon; the answer warns about those that look like one and are none
    ///
    /// They are not errors, because container platforms put variables of their own under our prefix.
    pub(super) fn override_from(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Vec<String>, ConfigError> {
        let keys: BTreeMap<String, _> = KEYS.iter().map(|key| (key.variable(), key)).collect();
        let mut warnings = BTreeSet::new();
        for (variable, text) in environment {
            if !variable.starts_with(VARIABLE_PREFIX) {
                continue;
            }
            let Some(key) = keys.get(&variable) else {
                let meant = nearest(&variable, keys.keys().map(String::as_str))
                    .map(|known| format!(", did you mean {known}?"))
                    .unwrap_or_default();
                warnings.insert(format!("{variable} is not a setting and is ignored{meant}"));
                continue;
            };
            let origin = Origin::Environment { variable };
            let unsuitable = |expected: &str| ConfigError::InvalidValue {
                origin: origin.clone(),
                key: key.path.to_owned(),
                expected: expected.to_owned(),
                found: format!("`{text}`"),
            };
            let value = match key.kind {
                Kind::Text => Value::Text(text.clone()),
                Kind::TextList => Value::TextList(
                    text.split(',')
                        .map(str::trim)
                        .filter(|item| !item.is_empty())
                        .map(str::to_owned)
                        .collect(),
                ),
                Kind::TextMap => Value::TextMap(
                    text.split(',')
                        .filter(|item| !item.trim().is_empty())
                        .map(|item| {
                            item.split_once('=')
                                .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
                                .ok_or_else(|| unsuitable("name=value pairs with commas between them"))
                        })
                        .collect::<Result<_, _>>()?,
                ),
                Kind::Integer => Value::Integer(text.trim().parse().map_err(|_| unsuitable("an integer"))?),
                Kind::Switch => match text.trim() {
                    "true" | "1" => Value::Switch(true),
                    "false" | "0" => Value::Switch(false),
                    _ => return Err(unsuitable("true or false")),
                },
            };
            let written = key.path.to_owned();
            self.0.insert(
                key.path,
                Setting {
                    value,
                    origin,
                    written,
                },
            );
        }
        Ok(warnings.into_iter().collect())
    }

    /// Takes over what was read from a file of another kind
    pub(super) fn from_values(values: impl IntoIterator<Item = (&'static str, Setting)>) -> Self {
        Self(values.into_iter().collect())
    }

    /// Whether the value came from a file, and not from the environment
    pub(super) fn is_from_file(&self, key: &str) -> bool {
        matches!(
            self.0.get(key).map(|setting| &setting.origin),
            Some(Origin::File { .. })
        )
    }

    /// Where the value of `key` came from, and how the key was written there
    pub(super) fn place(&self, key: &'static str) -> (Origin, String) {
        match self.0.get(key) {
            Some(setting) => (setting.origin.clone(), setting.written.clone()),
            None => (Origin::Default, key.to_owned()),
        }
    }

    /// The error that says what `key` must be, beside what it is
    pub(super) fn invalid(&self, key: &'static str, expected: &str) -> ConfigError {
        let (origin, written) = self.place(key);
        ConfigError::InvalidValue {
            origin,
            key: written,
            expected: expected.to_owned(),
            found: self
                .0
                .get(key)
                .map_or_else(|| "the default".to_owned(), |setting| setting.value.describe()),
        }
    }

    /// A text without the white space around it, which means nothing in a name or an address
    pub(super) fn text(&self, key: &'static str, default: String) -> Result<String, ConfigError> {
        Ok(self.verbatim(key, default)?.trim().to_owned())
    }

    fn verbatim(&self, key: &'static str, default: String) -> Result<String, ConfigError> {
        match self.0.get(key).map(|setting| &setting.value) {
            None => Ok(default),
            Some(Value::Text(text)) => Ok(text.clone()),
            Some(_) => Err(self.invalid(key, "a string")),
        }
    }

    pub(super) fn strings(&self, key: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        match self.0.get(key).map(|setting| &setting.value) {
            None => Ok(None),
            Some(Value::TextList(items)) => Ok(Some(items.clone())),
            Some(_) => Err(self.invalid(key, "a list of strings")),
        }
    }

    pub(super) fn optional_path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let text = self.verbatim(key, String::new())?;
        Ok((!text.trim().is_empty()).then(|| PathBuf::from(text)))
    }

    pub(super) fn path(&self, key: &'static str, default: PathBuf) -> Result<PathBuf, ConfigError> {
        let text = match self.0.get(key) {
            None => return Ok(default),
            Some(_) => self.verbatim(key, String::new())?,
        };
        if text.trim().is_empty() {
            Err(self.invalid(key, "a path"))
        } else {
            Ok(PathBuf::from(text))
        }
    }

    pub(super) fn address(&self, key: &'static str, default: SocketAddr) -> Result<SocketAddr, ConfigError> {
        let text = self.text(key, default.to_string())?;
        text.parse()
            .map_err(|_| self.invalid(key, "an IP address with a port, for instance \"127.0.0.1:8080\""))
    }

    pub(super) fn switch(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.0.get(key).map(|setting| &setting.value) {
            None => Ok(default),
            Some(Value::Switch(value)) => Ok(*value),
            Some(_) => Err(self.invalid(key, "true or false")),
        }
    }

    pub(super) fn map(&self, key: &'static str) -> Result<BTreeMap<String, String>, ConfigError> {
        match self.0.get(key).map(|setting| &setting.value) {
            None => Ok(BTreeMap::new()),
            Some(Value::TextMap(map)) => Ok(map.clone()),
            Some(_) => Err(self.invalid(key, "a section of strings")),
        }
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<i64>,
    ) -> Result<u64, ConfigError> {
        let value = self.integer(key, i64::try_from(default).unwrap_or(i64::MAX), range)?;
        Ok(value.unsigned_abs())
    }

    pub(super) fn seconds(
        &self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<i64>,
    ) -> Result<Duration, ConfigError> {
        let value = self.integer(key, i64::try_from(default.as_secs()).unwrap_or(i64::MAX), range)?;
        Ok(Duration::from_secs(value.unsigned_abs()))
    }

    pub(super) fn milliseconds(
        &self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<i64>,
    ) -> Result<Duration, ConfigError> {
        let value = self.integer(key, i64::try_from(default.as_millis()).unwrap_or(i64::MAX), range)?;
        Ok(Duration::from_millis(value.unsigned_abs()))
    }

    fn integer(
        &self,
        key: &'static str,
        default: i64,
        range: RangeInclusive<i64>,
    ) -> Result<i64, ConfigError> {
        match self.0.get(key).map(|setting| &setting.value) {
            None => Ok(default),
            Some(Value::Integer(value)) if range.contains(value) => Ok(*value),
            Some(_) => Err(self.invalid(
                key,
                &format!("an integer from {} to {}", range.start(), range.end()),
            )),
        }
    }
}

impl Value {
    fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(integer) => {
                let digits = integer.as_str().replace('_', "");
                i64::from_str_radix(&digits, integer.radix())
                    .map_or(Self::Other("a very large integer"), Self::Integer)
            }
            DeValue::Array(items) => {
                let texts: Option<Vec<String>> = items
                    .iter()
                    .map(|item| match item.get_ref() {
                        DeValue::String(text) => Some(text.to_string()),
                        _ => None,
                    })
                    .collect();
                texts.map_or(Self::Other("a list of other things"), Self::TextList)
            }
            DeValue::Float(_) => Self::Other("a number with a fraction"),
            DeValue::Boolean(value) => Self::Switch(*value),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(table) => {
                let texts: Option<BTreeMap<String, String>> = table
                    .iter()
                    .map(|(name, value)| match value.get_ref() {
                        DeValue::String(text) => Some((name.get_ref().to_string(), text.to_string())),
                        _ => None,
                    })
                    .collect();
                texts.map_or(Self::Other("a section of other things"), Self::TextMap)
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(value) => value.to_string(),
            Self::Switch(value) => value.to_string(),
            Self::TextList(items) => format!("{items:?}"),
            Self::TextMap(_) => "a section".to_owned(),
            Self::Other(what) => (*what).to_owned(),
        }
    }
}

fn collect(
    section: &str,
    table: &DeTable<'_>,
    at: &impl Fn(usize) -> Origin,
    settings: &mut BTreeMap<&'static str, Setting>,
) -> Result<(), ConfigError> {
    for (name, value) in table.iter() {
        let path = join(section, name.get_ref());
        let origin = at(name.span().start);
        if let Some(key) = KEYS.iter().find(|key| key.path == path) {
            settings.insert(
                key.path,
                Setting {
                    value: Value::from_toml(value.get_ref()),
                    origin,
                    written: path,
                },
            );
            continue;
        }
        match nested(value) {
            Some(table) if KEYS.iter().any(|key| is_within(key.path, &path)) => {
                collect(&path, table, at, settings)?;
            }
            _ => {
                let nearest = nearest(&path, KEYS.iter().map(|key| key.path)).map(str::to_owned);
                return Err(ConfigError::UnknownKey {
                    origin,
                    key: path,
                    nearest,
                });
            }
        }
    }
    Ok(())
}

fn nested<'a, 'i>(value: &'a Spanned<DeValue<'i>>) -> Option<&'a DeTable<'i>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() {
        name.to_owned()
    } else {
        format!("{section}.{name}")
    }
}

fn is_within(key: &str, section: &str) -> bool {
    key.strip_prefix(section)
        .is_some_and(|rest| rest.starts_with('.'))
}
