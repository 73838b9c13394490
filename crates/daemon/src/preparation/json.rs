//! JSON as a tree that knows where each of its values stands in the text

use std::ops::Range;

use serde::de::IgnoredAny;

/// Values within values: as many as `serde_json` takes, and no more than a stack bears
const MAX_DEPTH: usize = 128;

/// More values are no configuration
const MAX_NODES: usize = 200_000;

/// A value, and where it stands
#[derive(Debug)]
pub(super) struct Node {
    pub(super) bytes: Range<usize>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Object(Vec<Member>),
    List(Vec<Node>),
    /// A text, a number, or a word
    Other,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// The name with its quotes
    pub(super) key: Range<usize>,
    pub(super) value: Node,
}

impl Node {
    /// Of an object
    pub(super) fn members(&self) -> Option<&[Member]> {
        match &self.content {
            Content::Object(members) => Some(members),
            Content::List(_) | Content::Other => None,
        }
    }
}

/// Reads `text`, which has no byte order mark
pub(super) fn parse(text: &str) -> Result<Node, String> {
    // It is JSON before it is looked through; how deep it is nested is not looked at here.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string())?;
    let mut reader = Reader {
        text,
        at: 0,
        depth: 0,
        nodes: 0,
    };
    reader.node()
}

/// Finds its way through what is known to be JSON
struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    nodes: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Result<u8, String> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.at += blanks;
        rest.get(blanks)
            .copied()
            .ok_or_else(|| "it ends too early".to_owned())
    }

    fn node(&mut self) -> Result<Node, String> {
        let first = self.peek()?;
        let start = self.at;
        if self.depth >= MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH}"));
        }
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err("there are too many values".to_owned());
        }
        self.depth += 1;
        let content = match first {
            b'{' => Content::Object(self.object()?),
            b'[' => Content::List(self.list()?),
            b'"' => {
                self.string();
                Content::Other
            }
            _ => {
                self.word();
                Content::Other
            }
        };
        self.depth -= 1;
        Ok(Node {
            bytes: start..self.at,
            content,
        })
    }

    fn object(&mut self) -> Result<Vec<Member>, String> {
        let mut members = Vec::new();
        self.at += 1;
        loop {
            match self.peek()? {
                b'}' => break,
                b',' => self.at += 1,
                _ => {
                    let start = self.at;
                    self.string();
                    let key = start..self.at;
                    let written = self.text.get(key.clone()).unwrap_or_default();
                    let name = serde_json::from_str(written).map_err(|error| error.to_string())?;
                    self.peek()?;
                    self.at += 1;
                    let value = self.node()?;
                    members.push(Member { name, key, value });
                }
            }
        }
        self.at += 1;
        Ok(members)
    }

    fn list(&mut self) -> Result<Vec<Node>, String> {
        let mut items = Vec::new();
        self.at += 1;
        loop {
            match self.peek()? {
                b']' => break,
                b',' => self.at += 1,
                _ => items.push(self.node()?),
            }
        }
        self.at += 1;
        Ok(items)
    }

    fn string(&mut self) {
        self.at += 1;
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let mut is_escaped = false;
        let end = rest.iter().position(|byte| {
            let is_end = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            is_end
        });
        self.at += end.map_or(rest.len(), |end| end + 1);
    }

    fn word(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
        self.at += rest.iter().position(is_end).unwrap_or(rest.len()).max(1);
    }
}
