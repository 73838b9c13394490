//! The YAML of a manifest: sections, lists and plain values, and nothing that could mean two things

use granit_parser::{Event, Parser, ScalarStyle};

const MAX_DEPTH: usize = 16;
const MAX_NODES: usize = 8192;

/// A value of a manifest
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Scalar {
        text: String,
        is_plain: bool,
    },
    List(Vec<Value>),
    /// In the order in which they are written; no key is there twice
    Section(Vec<(String, Value)>),
}

/// Why a text cannot be read
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) detail: String,
}

enum Open {
    List(Vec<Value>),
    Section {
        entries: Vec<(String, Value)>,
        key: Option<String>,
    },
}

pub(super) fn parse(text: &str) -> Result<Value, Malformed> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let (mut nodes, mut documents) = (0_usize, 0_usize);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Malformed {
            line: error.marker().line().max(1),
            detail: error.info(),
        })?;
        let malformed = |detail: &str| Malformed {
            line: span.start.line().max(1),
            detail: detail.to_owned(),
        };
        let refused = |anchor: usize, is_tagged: bool| match (anchor, is_tagged) {
            (0, false) => Ok(()),
            _ => Err(malformed("anchors and tags have no place in a manifest")),
        };
        let value = match event {
            Event::DocumentStart(..) => {
                documents += 1;
                if documents > 1 {
                    return Err(malformed("a manifest is one document"));
                }
                continue;
            }
            Event::Alias(_) => return Err(malformed("aliases have no place in a manifest")),
            Event::Scalar(text, style, anchor, tag) => {
                refused(anchor, tag.is_some())?;
                let is_plain = style == ScalarStyle::Plain;
                match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if is_plain => Value::Null,
                    _ => Value::Scalar {
                        text: text.into_owned(),
                        is_plain,
                    },
                }
            }
            Event::SequenceStart(_, anchor, tag) => {
                refused(anchor, tag.is_some())?;
                open.push(Open::List(Vec::new()));
                if open.len() > MAX_DEPTH {
                    return Err(malformed("it is nested too deeply"));
                }
                continue;
            }
            Event::MappingStart(_, anchor, tag) => {
                refused(anchor, tag.is_some())?;
                open.push(Open::Section {
                    entries: Vec::new(),
                    key: None,
                });
                if open.len() > MAX_DEPTH {
                    return Err(malformed("it is nested too deeply"));
                }
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::List(items),
                Some(Open::Section { entries, .. }) => Value::Section(entries),
                None => continue,
            },
            _ => continue,
        };
        nodes += 1;
        if nodes > MAX_NODES {
            return Err(malformed("there are too many values"));
        }
        match open.last_mut() {
            None => root = Some(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Section { entries, key }) => match key.take() {
                Some(key) => entries.push((key, value)),
                None => {
                    let Value::Scalar { text, .. } = value else {
                        return Err(malformed("a name has to be a text"));
                    };
                    if entries.iter().any(|(known, _)| *known == text) {
                        return Err(malformed(&format!("'{}' is there twice", text.escape_debug())));
                    }
                    *key = Some(text);
                }
            },
        }
    }
    Ok(root.unwrap_or(Value::Null))
}
