//! YAML files

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::{Edit, Value, apply, line_end, line_start};
use crate::yaml::{self, Content, Node, Style};

type Pair = (Node, Node);

pub(super) fn values(text: &str) -> Result<Value, String> {
    match root(text)? {
        Some(root) => value(&root),
        None => Ok(Value::Section(BTreeMap::new())),
    }
}

/// The section that the file is; `None` if there is nothing in it
fn root(text: &str) -> Result<Option<Node>, String> {
    let stream = yaml::parse(text).map_err(|error| format!("line {}: {}", error.line, error.detail))?;
    if stream.documents > 1 {
        return Err("it holds several documents".to_owned());
    }
    match stream.root {
        Some(root) if root.text() == Some("") => Ok(None),
        Some(root) if !matches!(root.content, Content::Mapping(_)) => {
            Err(format!("it is {} and no section", root.kind()))
        }
        root => Ok(root),
    }
}

fn value(node: &Node) -> Result<Value, String> {
    Ok(match &node.content {
        Content::Mapping(pairs) => {
            let mut section = BTreeMap::new();
            for (key, inner) in pairs {
                let name = name(key)?;
                if section.insert(name.to_owned(), value(inner)?).is_some() {
                    return Err(format!("line {}: {name} is there twice", key.line));
                }
            }
            Value::Section(section)
        }
        Content::Sequence(items) => {
            let items: Result<Vec<Value>, String> = items.iter().map(value).collect();
            Value::List(items?)
        }
        // Quotes say that it is text.
        Content::Scalar { text, style } => {
            Value::Other(format!("{:?}{text:?}{}", node.tag, *style == Style::Plain))
        }
        Content::Alias => Value::Other("*".to_owned()),
    })
}

fn name(key: &Node) -> Result<&str, String> {
    key.text()
        .ok_or_else(|| format!("line {}: {} stands for a key", key.line, key.kind()))
}

pub(super) fn edit(base: &str, overlay: &str) -> Result<String, String> {
    let Some(newer) = root(overlay)? else {
        return Ok(base.to_owned());
    };
    let former = match root(base)? {
        Some(former) if pairs(&former).is_empty() && former.bytes.is_empty() => None,
        former => former,
    };
    let Some(former) = former else {
        // Comments at most.
        let end = if base.is_empty() || base.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        return Ok(format!("{base}{end}{overlay}"));
    };
    let mut edits = Vec::new();
    Texts { base, overlay }.merge(&former, &newer, &mut edits)?;
    apply(base, edits)
}

fn pairs(node: &Node) -> &[Pair] {
    match &node.content {
        Content::Mapping(pairs) => pairs,
        _ => &[],
    }
}

/// Whether an anchor or an alias is in it: copied elsewhere, it could mean something else
fn is_shared(node: &Node) -> bool {
    node.is_anchored
        || match &node.content {
            Content::Alias => true,
            Content::Scalar { .. } => false,
            Content::Sequence(items) => items.iter().any(is_shared),
            Content::Mapping(pairs) => pairs
                .iter()
                .any(|(key, value)| is_shared(key) || is_shared(value)),
        }
}

/// Where the last thing written in it ends
fn end(text: &str, key: &Node, value: &Node) -> usize {
    if !value.bytes.is_empty() {
        // Lines of a block end with their line end.
        let written = text.get(value.bytes.clone()).unwrap_or_default();
        return value.bytes.start + written.trim_end().len();
    }
    let inner = match &value.content {
        Content::Mapping(pairs) => pairs.last().map(|(key, value)| end(text, key, value)),
        Content::Sequence(items) => items.last().map(|item| match &item.content {
            Content::Scalar { .. } | Content::Alias if item.bytes.is_empty() => {
                text.get(..item.bytes.start).unwrap_or_default().trim_end().len()
            }
            _ => end(text, item, item),
        }),
        Content::Scalar { .. } | Content::Alias => None,
    };
    inner.unwrap_or_else(|| {
        key.value_place(text, value)
            .map_or(key.bytes.end, |(place, _)| place.end)
    })
}

/// How far in a key stands, if nothing else is before it in its line
fn column(text: &str, key: &Node) -> Option<usize> {
    let before = text.get(line_start(text, key.bytes.start)..key.bytes.start)?;
    before.bytes().all(|byte| byte == b' ').then_some(before.len())
}

#[derive(Copy, Clone)]
struct Texts<'t> {
    base: &'t str,
    overlay: &'t str,
}

impl Texts<'_> {
    fn merge(self, base: &Node, overlay: &Node, edits: &mut Vec<Edit>) -> Result<(), String> {
        let known: HashMap<&str, &Pair> = pairs(base)
            .iter()
            .filter_map(|pair| Some((pair.0.text()?, pair)))
            .collect();
        let mut added = Vec::new();
        for pair in pairs(overlay) {
            let (key, newer) = pair;
            let Some((former_key, former)) = known.get(name(key)?) else {
                added.push(pair);
                continue;
            };
            if value(former)? == value(newer)? && !is_shared(newer) {
                continue;
            }
            if former.is_anchored || is_shared(newer) {
                return Err(format!(
                    "line {}: an anchor lets it stand elsewhere, too",
                    former_key.line
                ));
            }
            match (&former.content, &newer.content) {
                (Content::Mapping(_), Content::Mapping(_)) => self.merge(former, newer, edits)?,
                _ => edits.push(self.replaced(former_key, former, pair)?),
            }
        }
        if added.is_empty() {
            return Ok(());
        }
        if base.is_anchored {
            return Err(format!(
                "line {}: an anchor lets it stand elsewhere, too",
                base.line
            ));
        }
        let new: Result<String, String> = if base.bytes.is_empty() {
            return self.append(base, &added, edits);
        } else {
            let texts: Result<Vec<String>, String> = added.iter().map(|pair| self.in_line(pair)).collect();
            texts.map(|texts| texts.join(", "))
        };
        let at = match pairs(base).last() {
            Some((key, value)) => (end(self.base, key, value), ", "),
            None => (base.bytes.start + 1, ""),
        };
        edits.push(Edit {
            bytes: at.0..at.0,
            text: format!("{}{}", at.1, new?),
        });
        Ok(())
    }

    /// New keys behind the last one of a section
    fn append(self, base: &Node, added: &[&Pair], edits: &mut Vec<Edit>) -> Result<(), String> {
        let unclear = || format!("line {}: where this section ends is not clear", base.line);
        let (first, _) = pairs(base).first().ok_or_else(unclear)?;
        let (last, value) = pairs(base).last().ok_or_else(unclear)?;
        let column = column(self.base, first).ok_or_else(unclear)?;
        let at = line_end(self.base, end(self.base, last, value));
        let mut text = String::new();
        if !self.base.get(..at).is_some_and(|before| before.ends_with('\n')) {
            text.push('\n');
        }
        for pair in added {
            text.push_str(&" ".repeat(column));
            text.push_str(&self.moved(pair, column)?);
            text.push('\n');
        }
        edits.push(Edit { bytes: at..at, text });
        Ok(())
    }

    fn replaced(self, key: &Node, former: &Node, newer: &Pair) -> Result<Edit, String> {
        let is_line = |text: &str, node: &Node| {
            let written = text.get(node.bytes.clone()).unwrap_or_default();
            let is_scalar = matches!(&node.content, Content::Scalar { style, .. } if *style != Style::Block);
            let is_bracketed = !node.bytes.is_empty();
            (is_scalar || is_bracketed) && node.tag.is_none() && !written.contains('\n')
        };
        if is_line(self.base, former) && is_line(self.overlay, &newer.1) {
            let (bytes, joint) = key
                .value_place(self.base, former)
                .ok_or_else(|| format!("line {}: nothing stands there", key.line))?;
            let written = self.overlay.get(newer.1.bytes.clone()).unwrap_or_default();
            return Ok(Edit {
                bytes,
                text: format!("{joint}{written}"),
            });
        }
        let column = column(self.base, key)
            .ok_or_else(|| format!("line {}: it does not have its line for itself", key.line))?;
        Ok(Edit {
            bytes: key.bytes.start..end(self.base, key, former),
            text: self.moved(newer, column)?,
        })
    }

    /// A key with its value from the overlay, its lines moved as far in as `to`
    fn moved(self, (key, value): &Pair, to: usize) -> Result<String, String> {
        if is_shared(key) || is_shared(value) {
            return Err(format!(
                "line {}: an anchor lets it stand elsewhere, too",
                key.line
            ));
        }
        let piece = key.bytes.start..end(self.overlay, key, value);
        let text = self.piece(piece, value)?;
        if !text.contains('\n') {
            return Ok(text.to_owned());
        }
        let from = column(self.overlay, key)
            .ok_or_else(|| format!("line {}: it does not have its line for itself", key.line))?;
        let mut lines = text.split('\n');
        let mut moved = lines.next().unwrap_or_default().to_owned();
        for line in lines {
            moved.push('\n');
            if line.trim().is_empty() {
                continue;
            }
            let blanks = line.len() - line.trim_start_matches(' ').len();
            let rest = line.get(blanks.min(from)..).unwrap_or_default();
            moved.push_str(&" ".repeat(to));
            moved.push_str(rest);
        }
        Ok(moved)
    }

    fn piece(&self, piece: Range<usize>, value: &Node) -> Result<&str, String> {
        self.overlay
            .get(piece)
            .ok_or_else(|| format!("line {}: where this ends is not clear", value.line))
    }

    /// A key with its value for a section in brackets
    fn in_line(self, (key, value): &Pair) -> Result<String, String> {
        let text = self.piece(key.bytes.start..end(self.overlay, key, value), value)?;
        let is_block = matches!(
            &value.content,
            Content::Scalar {
                style: Style::Block,
                ..
            }
        ) || value.bytes.is_empty() && !matches!(value.content, Content::Scalar { .. });
        if is_block || text.contains('\n') || is_shared(value) {
            return Err(format!("line {}: it does not fit into brackets", key.line));
        }
        Ok(text.to_owned())
    }
}
