//! TOML files

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::super::merge;
use super::entry::{Entry, SECTION, Value, is_number, quoted};

/// Every value with its place, and every section
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        format!(
            "line {}: {}",
            line_of(text, at),
            error.message().replace('\n', ", ")
        )
    })?;
    let mut entries = Vec::new();
    collect(text, table.get_ref(), &mut Vec::new(), &mut entries);
    Ok(entries)
}

fn collect(text: &str, table: &DeTable<'_>, path: &mut Vec<String>, entries: &mut Vec<Entry>) {
    for (name, value) in table.iter() {
        path.push(name.get_ref().to_string());
        let bytes = value.span();
        let written = text.get(bytes.clone()).unwrap_or_default();
        let (decoded, seal, obstacle) = match value.get_ref() {
            DeValue::String(text) => (text.to_string(), format!("{text:?}"), None),
            DeValue::Table(_) => (String::new(), SECTION.to_owned(), Some("it is a section")),
            DeValue::Array(items) if has_tables(items) => (
                String::new(),
                format!("{:?}", merge::toml::read(value.get_ref())),
                Some("it is a list of sections"),
            ),
            _ => (written.to_owned(), written.to_owned(), None),
        };
        entries.push(Entry {
            path: path.clone(),
            value: decoded,
            seal,
            joint: "",
            line: line_of(text, name.span().start),
            bytes,
            obstacle,
        });
        if let DeValue::Table(table) = value.get_ref() {
            collect(text, table, path, entries);
        }
        path.pop();
    }
}

fn has_tables(items: &DeArray<'_>) -> bool {
    items
        .iter()
        .map(Spanned::get_ref)
        .any(|item| matches!(item, DeValue::Table(_)))
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// A line that adds a value
pub(super) fn line(key: &str, value: &str) -> String {
    let is_bare = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    let key = if key.split('.').all(is_bare) {
        key.to_owned()
    } else {
        quoted(key)
    };
    format!("{key} = {value}")
}

/// A value as it is written; what is too large for a number of TOML is text
pub(super) fn rendered(value: &Value) -> String {
    let is_too_large =
        is_number(&value.text) && !value.text.contains('.') && value.text.parse::<i64>().is_err();
    Value {
        text: value.text.clone(),
        is_text: value.is_text || is_too_large,
    }
    .rendered()
}
