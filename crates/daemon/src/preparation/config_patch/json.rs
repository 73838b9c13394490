//! JSON files

use super::super::json::{self, Content, Node};
use super::entry::{Entry, SECTION, quoted};

/// Every value with its place, and every section and list
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let root = json::parse(text)?;
    if matches!(root.content, Content::Other) {
        return Err("it is neither an object nor a list".to_owned());
    }
    let mut walk = Walk {
        text,
        at: 0,
        line: 1,
        path: Vec::new(),
        entries: Vec::new(),
    };
    walk.inner(&root)?;
    Ok(walk.entries)
}

struct Walk<'t> {
    text: &'t str,
    /// The lines up to here are counted
    at: usize,
    line: usize,
    path: Vec<String>,
    entries: Vec<Entry>,
}

impl Walk<'_> {
    fn inner(&mut self, node: &Node) -> Result<(), String> {
        match &node.content {
            Content::Object(members) => {
                for member in members {
                    self.path.push(member.name.clone());
                    self.add(&member.value)?;
                    self.path.pop();
                }
            }
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.path.push(format!("[{index}]"));
                    self.add(item)?;
                    self.path.pop();
                }
            }
            Content::Other => {}
        }
        Ok(())
    }

    fn add(&mut self, node: &Node) -> Result<(), String> {
        let between = self.text.get(self.at..node.bytes.start).unwrap_or_default();
        self.line += between.matches('\n').count();
        self.at = node.bytes.start;
        let written = self.text.get(node.bytes.clone()).unwrap_or_default();
        let (value, seal, obstacle) = match &node.content {
            Content::Object(_) => (String::new(), SECTION.to_owned(), Some("it is a section")),
            Content::List(_) => (String::new(), "[]".to_owned(), Some("it is a list")),
            Content::Other if written.starts_with('"') => {
                let text: String = serde_json::from_str(written).map_err(|error| error.to_string())?;
                let seal = format!("{text:?}");
                (text, seal, None)
            }
            Content::Other => (written.to_owned(), written.to_owned(), None),
        };
        self.entries.push(Entry {
            path: self.path.clone(),
            value,
            seal,
            bytes: node.bytes.clone(),
            joint: "",
            line: self.line,
            obstacle,
        });
        self.inner(node)
    }
}

/// A file with nothing in it but one value
pub(super) fn document(path: &[&str], value: &str) -> String {
    let before: String = path.iter().map(|name| format!("{{{}: ", quoted(name))).collect();
    format!("{before}{value}{}", "}".repeat(path.len()))
}
