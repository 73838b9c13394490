//! YAML as a tree that knows where each of its values stands in the text
//!
//! Nothing is interpreted: a scalar is its text and how it was written, an alias stays an alias, a key that is there twice
//! is there twice. What a value means differs between readers, so the callers decide it.

use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

/// Deeper nesting is no configuration
const MAX_DEPTH: usize = 64;

/// More nodes are no configuration
const MAX_NODES: usize = 200_000;

/// Where a value stands, and what is written there
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// From 1
    pub(crate) line: usize,
    /// The bytes of a scalar, its quotes included, or of a list or section in brackets; empty where nothing is written, and of
    /// other lists and sections
    pub(crate) bytes: Range<usize>,
    /// Whether aliases may stand for it elsewhere
    pub(crate) is_anchored: bool,
    /// An explicit tag, in full
    pub(crate) tag: Option<String>,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Scalar { text: String, style: Style },
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
    Alias,
}

/// How a scalar is written
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Quoted,
    /// `|` or `>`
    Block,
}

/// What a text holds
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The first document; `None` if there is none
    pub(crate) root: Option<Node>,
    /// How many documents there are
    pub(crate) documents: usize,
}

/// The text is not YAML
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// From 1
    pub(crate) line: usize,
    pub(crate) detail: String,
}

impl Node {
    /// The text of a scalar
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Where its value is written or would be, and what has to stand before it there; `None` if that is not clear
    pub(crate) fn value_place(&self, text: &str, value: &Self) -> Option<(Range<usize>, &'static str)> {
        if !value.bytes.is_empty() {
            return Some((value.bytes.clone(), ""));
        }
        // Nothing is written there: the value goes behind the colon.
        let rest = text.get(self.bytes.end..)?;
        let colon = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let at = self.bytes.end + colon + 1;
        rest.get(colon..)?.starts_with(':').then_some((at..at, " "))
    }

    /// What it is, in a word or two for an error
    pub(crate) fn kind(&self) -> &'static str {
        match &self.content {
            Content::Scalar { .. } => "a value",
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a section",
            Content::Alias => "an alias",
        }
    }
}

/// A collection whose end has not come yet
struct Open {
    node: Node,
    /// The key of a mapping whose value comes next
    key: Option<Node>,
}

/// Whether `text` is not YAML, however deep and long it is
pub(crate) fn is_malformed(text: &str) -> bool {
    Parser::new_from_str(text).any(|event| event.is_err())
}

/// Reads `text`, which has no byte order mark
pub(crate) fn parse(text: &str) -> Result<Stream, Malformed> {
    let mut stream = Stream {
        root: None,
        documents: 0,
    };
    let mut open: Vec<Open> = Vec::new();
    let mut nodes = 0_usize;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Malformed {
            line: error.marker().line().max(1),
            detail: error.info(),
        })?;
        let malformed = |detail: &str| Malformed {
            line: line(&span),
            detail: detail.to_owned(),
        };
        let whole = match event {
            Event::DocumentStart(..) => {
                stream.documents += 1;
                continue;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                // What is not there is told as a tilde.
                let is_written = span.byte_range().is_some_and(|bytes| !bytes.is_empty());
                let text = if is_written {
                    text.into_owned()
                } else {
                    String::new()
                };
                node(&span, anchor, tag.as_deref(), Content::Scalar { text, style })
            }
            Event::Alias(_) => node(&span, 0, None, Content::Alias),
            Event::SequenceStart(_, anchor, tag) => {
                let node = node(&span, anchor, tag.as_deref(), Content::Sequence(Vec::new()));
                open.push(Open { node, key: None });
                continue_within(&open).map_err(malformed)?;
                continue;
            }
            Event::MappingStart(_, anchor, tag) => {
                let node = node(&span, anchor, tag.as_deref(), Content::Mapping(Vec::new()));
                open.push(Open { node, key: None });
                continue_within(&open).map_err(malformed)?;
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(mut ended) => {
                    if let Some(bracket) = span.byte_range().filter(|bytes| !bytes.is_empty()) {
                        ended.node.bytes.end = bracket.end;
                    } else {
                        ended.node.bytes.end = ended.node.bytes.start;
                    }
                    ended.node
                }
                None => continue,
            },
            _ => continue,
        };
        nodes += 1;
        if nodes > MAX_NODES {
            return Err(malformed("there are too many values"));
        }
        match open.last_mut() {
            Some(parent) => parent.take(whole),
            None if stream.documents <= 1 => stream.root = Some(whole),
            None => {}
        }
    }
    Ok(stream)
}

impl Open {
    fn take(&mut self, child: Node) {
        match &mut self.node.content {
            Content::Sequence(items) => items.push(child),
            Content::Mapping(entries) => match self.key.take() {
                Some(key) => entries.push((key, child)),
                None => self.key = Some(child),
            },
            Content::Scalar { .. } | Content::Alias => {}
        }
    }
}

fn continue_within(open: &[Open]) -> Result<(), &'static str> {
    if open.len() > MAX_DEPTH {
        Err("it is nested too deeply")
    } else {
        Ok(())
    }
}

fn node(span: &Span, anchor: usize, tag: Option<&Tag>, content: Content) -> Node {
    Node {
        line: line(span),
        bytes: span.byte_range().unwrap_or_default(),
        is_anchored: anchor != 0,
        tag: tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix())),
        content,
    }
}

fn line(span: &Span) -> usize {
    span.start.line().max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn entries(node: &Node) -> &[(Node, Node)] {
        match &node.content {
            Content::Mapping(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_know_their_lines_and_bytes() {
        let text = "# top\r\na: 'x ä' # why\r\nb:\r\n  c: [1, \"two\"]\r\n  d:\r\n";
        let root = parse(text).unwrap().root.unwrap();
        let (key, value) = &entries(&root)[0];
        assert_eq!(
            (key.text(), value.text(), value.line),
            (Some("a"), Some("x ä"), 2)
        );
        assert_eq!(&text[value.bytes.clone()], "'x ä'");
        let b = entries(&entries(&root)[1].1);
        let Content::Sequence(items) = &b[0].1.content else {
            panic!("{b:?}")
        };
        assert_eq!(&text[items[1].bytes.clone()], "\"two\"");
        assert_eq!((items[1].line, b[1].1.text()), (4, Some("")));
        assert!(b[1].1.bytes.is_empty());
    }

    #[test]
    fn nothing_is_resolved() {
        let text = "a: &x 1\nb: *x\na: !!str 2\nc: !mine 3\n";
        let root = parse(text).unwrap().root.unwrap();
        let entries = entries(&root);
        assert!(entries[0].1.is_anchored);
        assert_eq!(entries[1].1.content, Content::Alias);
        assert_eq!(entries[2].1.tag.as_deref(), Some("tag:yaml.org,2002:str"));
        assert_eq!(&text[entries[2].1.bytes.clone()], "2");
        assert_eq!(entries[3].1.tag.as_deref(), Some("!mine"));
        assert_eq!(parse("---\na: 1\n---\nb: 2\n").unwrap().documents, 2);
        assert_eq!(parse("# nothing\n").unwrap().root, None);
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        assert_eq!(parse("a: 1\nb: [1\nc: 2\n").unwrap_err().line, 3);
        assert!(parse(&"[".repeat(1000)).is_err());
        let many = format!("a: [{}]", "1,".repeat(MAX_NODES + 1));
        assert!(parse(&many).unwrap_err().detail.contains("too many"));
    }
}
