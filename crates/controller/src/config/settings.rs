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

/// Seconds of a day
const DAY_S: u64 = 86_400;

#[derive(Debug)]
enum Value {
    Text(String),
    Integer(i64),
    TextList(Vec<String>),
    /// A type that no key has, as the operator would call it
    Other(&'static str),
}

#[derive(Debug)]
struct Setting {
    value: Value,
    origin: Origin,
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

    /// Applies the variables of the controller; the answer warns about those that look like one and are none
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
            let value = match key.kind {
                Kind::Text => Value::Text(text),
                Kind::TextList => Value::TextList(
                    text.split(',')
                        .map(str::trim)
                        .filter(|item| !item.is_empty())
                        .map(str::to_owned)
                        .collect(),
                ),
                Kind::Integer => {
                    Value::Integer(text.trim().parse().map_err(|_| ConfigError::InvalidValue {
                        origin: origin.clone(),
                        key: key.path.to_owned(),
                        expected: "an integer".to_owned(),
                        found: format!("`{text}`"),
                    })?)
                }
            };
            self.0.insert(key.path, Setting { value, origin });
        }
        Ok(warnings.into_iter().collect())
    }

    /// The error that says what `key` must be, beside what it is
    pub(super) fn invalid(&self, key: &'static str, expected: &str) -> ConfigError {
        let setting = self.0.get(key);
        ConfigError::InvalidValue {
            origin: setting.map_or(Origin::Default, |setting| setting.origin.clone()),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: setting.map_or_else(|| "the default".to_owned(), |setting| setting.value.describe()),
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

    pub(super) fn strings(
        &self,
        key: &'static str,
        default: Vec<String>,
    ) -> Result<Vec<String>, ConfigError> {
        match self.0.get(key).map(|setting| &setting.value) {
            None => Ok(default),
            Some(Value::TextList(items)) => Ok(items.clone()),
            Some(_) => Err(self.invalid(key, "a list of strings")),
        }
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

    pub(super) fn port(&self, key: &'static str, default: u16) -> Result<u16, ConfigError> {
        let value = self.integer(key, i64::from(default), 1..=65535)?;
        Ok(u16::try_from(value).unwrap_or(default))
    }

    pub(super) fn size(
        &self,
        key: &'static str,
        default: usize,
        range: RangeInclusive<i64>,
    ) -> Result<usize, ConfigError> {
        let value = self.integer(key, i64::try_from(default).unwrap_or(i64::MAX), range)?;
        Ok(usize::try_from(value).unwrap_or(default))
    }

    /// Up to the default, which is also the most
    pub(super) fn bytes(&self, key: &'static str, most: u64) -> Result<u64, ConfigError> {
        let default = i64::try_from(most).unwrap_or(i64::MAX);
        Ok(self.integer(key, default, 1..=default)?.unsigned_abs())
    }

    pub(super) fn count(
        &self,
        key: &'static str,
        default: u32,
        range: RangeInclusive<i64>,
    ) -> Result<u32, ConfigError> {
        let value = self.integer(key, i64::from(default), range)?;
        Ok(u32::try_from(value).unwrap_or(default))
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

    pub(super) fn days(
        &self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<i64>,
    ) -> Result<Duration, ConfigError> {
        let default = i64::try_from(default.as_secs() / DAY_S).unwrap_or(i64::MAX);
        let days = self.integer(key, default, range)?;
        Ok(Duration::from_secs(days.unsigned_abs() * DAY_S))
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
            DeValue::Boolean(_) => Self::Other("true or false"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a section"),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(value) => value.to_string(),
            Self::TextList(items) => format!("{items:?}"),
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
