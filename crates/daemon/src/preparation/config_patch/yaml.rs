//! YAML files

use super::entry::{Entry, SECTION, quoted};
use crate::yaml::{self, Content, Node, Style};

/// Every value with its place, and every section and list
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let stream = yaml::parse(text).map_err(|error| format!("line {}: {}", error.line, error.detail))?;
    if stream.documents > 1 {
        return Err("it holds several documents".to_owned());
    }
    let mut entries = Vec::new();
    match &stream.root {
        None => {}
        Some(root) if matches!(root.content, Content::Mapping(_)) => {
            collect(text, root, root.is_anchored, &mut Vec::new(), &mut entries)?;
        }
        Some(root) if root.text() == Some("") => {}
        Some(root) => return Err(format!("it is {} and no section", root.kind())),
    }
    Ok(entries)
}

fn collect(
    text: &str,
    node: &Node,
    is_shared: bool,
    path: &mut Vec<String>,
    entries: &mut Vec<Entry>,
) -> Result<(), String> {
    match &node.content {
        Content::Mapping(pairs) => {
            for (key, value) in pairs {
                let name = key
                    .text()
                    .ok_or_else(|| format!("line {}: {} stands for a key", key.line, key.kind()))?;
                path.push(name.to_owned());
                add(text, Some(key), value, is_shared, path, entries)?;
                path.pop();
            }
        }
        Content::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(format!("[{index}]"));
                add(text, None, item, is_shared, path, entries)?;
                path.pop();
            }
        }
        Content::Scalar { .. } | Content::Alias => {}
    }
    Ok(())
}

fn add(
    text: &str,
    key: Option<&Node>,
    value: &Node,
    is_shared: bool,
    path: &mut Vec<String>,
    entries: &mut Vec<Entry>,
) -> Result<(), String> {
    let is_shared = is_shared || value.is_anchored;
    let mut obstacle = match &value.content {
        Content::Scalar {
            style: Style::Block, ..
        } => Some("it is a block of lines"),
        Content::Scalar { .. } if value.tag.is_some() => Some("it has a tag"),
        Content::Scalar { .. } => None,
        Content::Sequence(_) => Some("it is a list"),
        Content::Mapping(_) => Some("it is a section"),
        Content::Alias => Some("it is an alias"),
    };
    if is_shared {
        obstacle = Some("an anchor lets it stand elsewhere, too");
    }
    let (mut bytes, mut joint) = (value.bytes.clone(), "");
    if let Some(key) = key
        && obstacle.is_none()
    {
        match key.value_place(text, value) {
            Some(place) => (bytes, joint) = place,
            None => obstacle = Some("nothing stands there"),
        }
    }
    entries.push(Entry {
        path: path.clone(),
        value: value.text().unwrap_or_default().to_owned(),
        seal: match &value.content {
            Content::Mapping(_) if value.tag.is_none() && !value.is_anchored => SECTION.to_owned(),
            _ => format!("{}{:?}{:?}", value.kind(), value.tag, scalar(value)),
        },
        joint,
        bytes,
        line: key.unwrap_or(value).line,
        obstacle,
    });
    collect(text, value, is_shared, path, entries)
}

fn scalar(node: &Node) -> Option<(&str, Style)> {
    match &node.content {
        Content::Scalar { text, style } => Some((text, *style)),
        _ => None,
    }
}

/// A line that adds a value
pub(super) fn line(key: &str, value: &str) -> String {
    let is_plain = key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        && !WORDS.iter().any(|word| key.eq_ignore_ascii_case(word));
    let key = if is_plain { key.to_owned() } else { quoted(key) };
    format!("{key}: {value}")
}

/// What is no text to some readers of YAML
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
