//! JSON files

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::super::json::{self, Member, Node};
use super::{Edit, Value, apply, line_start};

pub(super) fn values(text: &str) -> Result<Value, String> {
    value(text, &parse(text)?)
}

pub(in crate::preparation) fn edit(base: &str, overlay: &str) -> Result<String, String> {
    let (former, newer) = (parse(base)?, parse(overlay)?);
    let mut edits = Vec::new();
    let texts = Texts { base, overlay };
    match (former.members(), newer.members()) {
        (Some(members), Some(others)) => texts.merge(&former, members, others, &mut edits)?,
        _ => return Ok(overlay.to_owned()),
    }
    apply(base, edits)
}

#[derive(Copy, Clone)]
struct Texts<'t> {
    base: &'t str,
    overlay: &'t str,
}

impl Texts<'_> {
    fn merge(
        self,
        object: &Node,
        base: &[Member],
        overlay: &[Member],
        edits: &mut Vec<Edit>,
    ) -> Result<(), String> {
        let known: HashMap<&str, &Member> =
            base.iter().map(|member| (member.name.as_str(), member)).collect();
        let mut added = Vec::new();
        for member in overlay {
            let Some(former) = known.get(member.name.as_str()) else {
                added.push(member);
                continue;
            };
            match (former.value.members(), member.value.members()) {
                (Some(inner), Some(others)) => self.merge(&former.value, inner, others, edits)?,
                _ if value(self.base, &former.value)? == value(self.overlay, &member.value)? => {}
                _ => edits.push(Edit {
                    bytes: former.value.bytes.clone(),
                    text: self.moved(
                        member,
                        member.value.bytes.clone(),
                        indent(self.base, former.key.start),
                    ),
                }),
            }
        }
        if added.is_empty() {
            return Ok(());
        }
        let brace = object.bytes.end.saturating_sub(1);
        match base.last() {
            Some(last) => {
                let is_own_line = |member: &Member| {
                    let line = line_start(self.base, member.key.start);
                    self.base
                        .get(line..member.key.start)
                        .is_some_and(|before| before.trim().is_empty())
                };
                let before = base
                    .first()
                    .filter(|first| is_own_line(first))
                    .map(|first| indent(self.base, first.key.start));
                let mut text = String::new();
                for member in added {
                    text.push(',');
                    match before {
                        Some(indent) => {
                            text.push('\n');
                            text.push_str(indent);
                        }
                        None => text.push(' '),
                    }
                    let whole = member.key.start..member.value.bytes.end;
                    text.push_str(&self.moved(member, whole, before.unwrap_or_default()));
                }
                let at = last.value.bytes.end;
                edits.push(Edit { bytes: at..at, text });
            }
            None => {
                let outer = indent(self.base, object.bytes.start);
                let inner = format!("{outer}  ");
                let members: Vec<String> = added
                    .into_iter()
                    .map(|member| {
                        let whole = member.key.start..member.value.bytes.end;
                        format!("\n{inner}{}", self.moved(member, whole, &inner))
                    })
                    .collect();
                edits.push(Edit {
                    bytes: object.bytes.start + 1..brace,
                    text: format!("{}\n{outer}", members.join(",")),
                });
            }
        }
        Ok(())
    }

    /// A piece of the overlay, with its lines as far in as `indent`
    fn moved(self, member: &Member, piece: Range<usize>, to: &str) -> String {
        let from = indent(self.overlay, member.key.start);
        let text = self.overlay.get(piece).unwrap_or_default();
        let mut lines = text.split('\n');
        let mut moved = lines.next().unwrap_or_default().to_owned();
        for line in lines {
            moved.push('\n');
            moved.push_str(to);
            moved.push_str(line.strip_prefix(from).unwrap_or_else(|| line.trim_start()));
        }
        moved
    }
}

/// The blanks at the start of the line
fn indent(text: &str, at: usize) -> &str {
    let line = text.get(line_start(text, at)..).unwrap_or_default();
    let length = line.len() - line.trim_start_matches([' ', '\t']).len();
    line.get(..length).unwrap_or_default()
}

fn value(text: &str, node: &Node) -> Result<Value, String> {
    let Some(members) = node.members() else {
        let written = text.get(node.bytes.clone()).unwrap_or_default();
        return Ok(Value::Other(without_blanks(written)));
    };
    let mut section = BTreeMap::new();
    for member in members {
        if section
            .insert(member.name.clone(), value(text, &member.value)?)
            .is_some()
        {
            return Err(format!("{:?} is there twice", member.name));
        }
    }
    Ok(Value::Section(section))
}

/// Without what means nothing between values
fn without_blanks(text: &str) -> String {
    let (mut short, mut in_text, mut is_escaped) = (String::with_capacity(text.len()), false, false);
    for character in text.chars() {
        match character {
            ' ' | '\t' | '\n' | '\r' if !in_text => continue,
            '"' if !is_escaped => in_text = !in_text,
            _ => {}
        }
        is_escaped = in_text && character == '\\' && !is_escaped;
        short.push(character);
    }
    short
}

fn parse(text: &str) -> Result<Node, String> {
    let node = json::parse(text)?;
    match node.members() {
        Some(_) => Ok(node),
        None => Err("it is no object".to_owned()),
    }
}
