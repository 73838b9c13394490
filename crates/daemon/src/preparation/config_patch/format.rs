//! One value of a file, found, replaced or added

use prexorcloud_security::files::without_mark;

use super::super::merge;
use super::entry::{Entry, SECTION, Value, quoted};
use super::{json, properties, toml, yaml};

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Properties,
    Toml,
    Yaml,
    Json,
}

impl Format {
    pub(super) fn of(file: &str) -> Option<Self> {
        let name = file.to_lowercase();
        if name.ends_with(".properties") {
            Some(Self::Properties)
        } else if name.ends_with(".toml") {
            Some(Self::Toml)
        } else if name.ends_with(".yml") || name.ends_with(".yaml") {
            Some(Self::Yaml)
        } else if name.ends_with(".json") {
            Some(Self::Json)
        } else {
            None
        }
    }

    /// The text with the value in it; `None` if there is no such key and none may be added
    pub(super) fn edit(
        self,
        text: &str,
        key: &str,
        value: &Value,
        is_set: bool,
    ) -> Result<Option<String>, String> {
        let body = self.body(text);
        let mark = text.len() - body.len();
        let before = self.entries(body)?;
        let rendered = self.rendered(value);
        let (patched, path) = match self.find(&before, key)? {
            Some(entry) => {
                if let Some(obstacle) = entry.obstacle {
                    return Err(format!(
                        "line {}: {key} cannot be replaced: {obstacle}",
                        entry.line
                    ));
                }
                let range = entry.bytes.start + mark..entry.bytes.end + mark;
                if text.get(range.clone()).is_none() {
                    return Err(format!("the place of {key} is not clear"));
                }
                let mut patched = text.to_owned();
                patched.replace_range(range, &format!("{}{rendered}", entry.joint));
                (patched, Some(entry.path.as_slice()))
            }
            // A dotted key names sections of YAML, which may not be there either.
            None if is_set && !(self == Self::Yaml && key.contains('.')) => {
                let added = self.with_addition(body, &before, key, &rendered);
                let mark = text.get(..mark).unwrap_or_default();
                let added = added.map_err(|problem| format!("{key} cannot be added: {problem}"))?;
                (format!("{mark}{added}"), None)
            }
            None => return Ok(None),
        };
        let after = self.entries(self.body(&patched));
        match after.map(|after| self.is_exact(&before, &after, path, key, value)) {
            Ok(true) => Ok(Some(patched)),
            _ => Err(format!("{key} cannot be changed without changing more than that")),
        }
    }

    /// Why the text cannot be read, if it cannot
    pub(super) fn problem(self, text: &str) -> Option<String> {
        self.entries(self.body(text)).err()
    }

    /// Without the byte order mark, which Java takes for part of the first property
    pub(super) fn body(self, text: &str) -> &str {
        match self {
            Self::Properties => text,
            Self::Toml | Self::Yaml | Self::Json => without_mark(text),
        }
    }

    pub(super) fn entries(self, text: &str) -> Result<Vec<Entry>, String> {
        match self {
            Self::Properties => properties::entries(text),
            Self::Toml => toml::entries(text),
            Self::Yaml => yaml::entries(text),
            Self::Json => json::entries(text),
        }
    }

    pub(super) fn rendered(self, value: &Value) -> String {
        match self {
            Self::Properties => properties::rendered(&value.text),
            Self::Toml => toml::rendered(value),
            Self::Yaml | Self::Json => value.rendered(),
        }
    }

    /// The value that `key` means: the one with exactly that path, else, in YAML and TOML, the only one of that name in
    /// any section
    fn find<'e>(self, entries: &'e [Entry], key: &str) -> Result<Option<&'e Entry>, String> {
        if self == Self::Properties {
            let marked = entries.first().and_then(|first| first.path.first());
            if marked.and_then(|name| name.strip_prefix('\u{feff}')) == Some(key) {
                return Err(format!(
                    "a byte order mark stands before {key}, which servers take for part of it"
                ));
            }
        }
        let those = |is_meant: &dyn Fn(&[String]) -> bool| -> Vec<&'e Entry> {
            entries.iter().filter(|entry| is_meant(&entry.path)).collect()
        };
        let mut found = those(&|path| matches!(path, [name] if name == key));
        if found.is_empty() && self != Self::Properties {
            found = those(&|path| path.join(".") == key);
        }
        if found.is_empty() && matches!(self, Self::Toml | Self::Yaml) && !key.contains('.') {
            found = those(&|path| path.last().is_some_and(|name| name == key));
        }
        match found.as_slice() {
            [] => Ok(None),
            [entry] => {
                // A section that is there twice is read in different ways.
                let parents = (1..entry.path.len()).filter_map(|length| entry.path.get(..length));
                for parent in parents {
                    if entries.iter().filter(|other| other.path == parent).count() > 1 {
                        return Err(format!("{} is there twice", parent.join(".")));
                    }
                }
                Ok(Some(entry))
            }
            several => {
                let lines: Vec<String> = several.iter().map(|entry| entry.line.to_string()).collect();
                Err(format!(
                    "{key} is there {} times, in lines {}",
                    several.len(),
                    lines.join(", ")
                ))
            }
        }
    }

    /// The text with a new value, in a section of its own where the key names one
    fn with_addition(
        self,
        text: &str,
        entries: &[Entry],
        key: &str,
        rendered: &str,
    ) -> Result<String, String> {
        let names: Vec<&str> = match key.split('.').collect::<Vec<_>>() {
            names if names.iter().all(|name| !name.is_empty()) => names,
            _ => vec![key],
        };
        let has_section = names.split_last().is_some_and(|(_, sections)| {
            !sections.is_empty() && entries.iter().any(|entry| entry.path == sections)
        });
        match self {
            Self::Json => merged(text, |text| {
                merge::json::edit(text, &json::document(&names, rendered))
            }),
            Self::Toml if has_section => merged(text, |text| {
                let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
                merge::toml::edit(text, &format!("{} = {rendered}\n", names.join(".")))
            }),
            Self::Properties => Ok(with_line(text, text.len(), &properties::line(key, rendered))),
            Self::Yaml => Ok(with_line(text, text.len(), &yaml::line(key, rendered))),
            Self::Toml => {
                let at = before_sections(text, entries);
                Ok(with_line(text, at, &toml::line(key, rendered)))
            }
        }
    }

    /// Whether the one value is what was wanted, and everything else is what it was
    fn is_exact(
        self,
        before: &[Entry],
        after: &[Entry],
        path: Option<&[String]>,
        key: &str,
        value: &Value,
    ) -> bool {
        let others = |entries: &[Entry], path: &[String]| {
            let mut others: Vec<(Vec<String>, String)> = entries
                .iter()
                .filter(|entry| entry.path != path)
                .map(|entry| (entry.path.clone(), entry.seal.clone()))
                .collect();
            others.sort();
            others
        };
        // A value that was added has the path that the file gives it.
        let added = || {
            let mut new = after
                .iter()
                .filter(|entry| entry.obstacle.is_none() && entry.path.join(".") == key);
            new.find(|entry| before.iter().all(|former| former.path != entry.path))
                .map(|entry| entry.path.as_slice())
        };
        let Some(path) = path.or_else(added) else {
            return false;
        };
        let mut target = after.iter().filter(|entry| entry.path == path);
        let is_there = match (target.next(), target.next()) {
            (Some(entry), None) => self.alone(value).as_ref() == Some(&entry.seal),
            _ => false,
        };
        // Sections that a dotted key brings with it.
        let is_kept = |entry: &&Entry| {
            entry.seal != SECTION
                || before.iter().any(|former| former.path == entry.path)
                || !path.starts_with(&entry.path)
        };
        let kept: Vec<Entry> = after.iter().filter(is_kept).cloned().collect();
        is_there && others(before, path) == others(&kept, path)
    }

    /// What the value is in a file of its own, if it is there what the patch says
    fn alone(self, value: &Value) -> Option<String> {
        let rendered = self.rendered(value);
        let file = match self {
            Self::Properties => format!("a={rendered}\nb=\n"),
            Self::Toml => format!("a = {rendered}\nb = 1\n"),
            Self::Yaml => format!("a: {rendered}\nb: 1\n"),
            Self::Json => format!("{{\"a\": {rendered},\n\"b\": 1}}"),
        };
        match self.entries(&file).ok()?.as_slice() {
            // Escapes of a property are the patch's own.
            [entry, _] if self == Self::Properties || value.is_read_as(&entry.value) => {
                Some(entry.seal.clone())
            }
            _ => None,
        }
    }
}

/// Where a line goes that is to be in no section: a line behind the last one that is in none, or the first line
fn before_sections(text: &str, entries: &[Entry]) -> usize {
    let is_own = |entry: &&Entry| entry.path.len() == 1 && entry.obstacle.is_none();
    if entries.iter().all(|entry| is_own(&entry)) {
        return text.len();
    }
    let last = entries.iter().filter(is_own).map(|entry| entry.bytes.end).max();
    let rest = text.get(last.unwrap_or(0)..).unwrap_or_default();
    match (last, rest.find('\n')) {
        (None, _) => 0,
        (Some(last), Some(at)) => last + at + 1,
        (Some(_), None) => text.len(),
    }
}

/// The text with one more line, with line ends as the first one has
fn with_line(text: &str, at: usize, line: &str) -> String {
    let end = match text.split_once('\n') {
        Some((first, _)) if first.ends_with('\r') => "\r\n",
        _ => "\n",
    };
    let (before, behind) = text.split_at_checked(at).unwrap_or((text, ""));
    let joint = if before.is_empty() || before.ends_with('\n') {
        ""
    } else {
        end
    };
    format!("{before}{joint}{line}{end}{behind}")
}

/// The text with what merging put in at one place; line ends stay
fn merged(text: &str, merge: impl FnOnce(&str) -> Result<String, String>) -> Result<String, String> {
    let has_crlf = text.contains("\r\n");
    let plain = text.replace("\r\n", "\n");
    let restored = |text: &str| match has_crlf {
        true => text.replace('\n', "\r\n"),
        false => text.to_owned(),
    };
    if restored(&plain) != text {
        return Err("its line ends are of two kinds".to_owned());
    }
    let merged = merge(&plain)?;
    let same = |pair: &(u8, u8)| pair.0 == pair.1;
    let head = plain.bytes().zip(merged.bytes()).take_while(same).count();
    let tail = plain
        .bytes()
        .rev()
        .zip(merged.bytes().rev())
        .take_while(same)
        .count();
    if head + tail < plain.len() {
        return Err("more than that would change".to_owned());
    }
    Ok(restored(&merged))
}
