//! `.properties` files, read as patches read them

use std::collections::{BTreeMap, HashMap};

use super::super::config_patch::entry::Entry;
use super::super::config_patch::properties::entries;
use super::{Edit, Value, apply, line_start};

pub(super) fn values(text: &str) -> Result<Value, String> {
    // Of a key that is there twice, the last value is the one that is read.
    let pairs = entries(text)?.into_iter().filter_map(|entry| {
        let key = entry.path.into_iter().next()?;
        Some((key, Value::Other(entry.seal)))
    });
    Ok(Value::Section(pairs.collect::<BTreeMap<_, _>>()))
}

pub(super) fn edit(base: &str, overlay: &str) -> Result<String, String> {
    let (former, newer) = (entries(base)?, entries(overlay)?);
    let known: HashMap<&[String], &Entry> = former
        .iter()
        .map(|entry| (entry.path.as_slice(), entry))
        .collect();
    let last: HashMap<&[String], usize> = newer
        .iter()
        .enumerate()
        .map(|(index, entry)| (entry.path.as_slice(), index))
        .collect();
    let (mut edits, mut added) = (Vec::new(), String::new());
    for (index, entry) in newer.iter().enumerate() {
        if last.get(entry.path.as_slice()) != Some(&index) {
            continue;
        }
        match known.get(entry.path.as_slice()) {
            Some(former) if former.seal == entry.seal => {}
            Some(former) => edits.push(Edit {
                bytes: former.bytes.clone(),
                text: format!(
                    "{}{}",
                    former.joint,
                    overlay.get(entry.bytes.clone()).unwrap_or_default()
                ),
            }),
            None => {
                let start = logical_start(overlay, entry.bytes.start);
                added.push_str(overlay.get(start..entry.bytes.end).unwrap_or_default());
                added.push('\n');
            }
        }
    }
    let mut edited = apply(base, edits)?;
    if !added.is_empty() {
        if !edited.is_empty() && !edited.ends_with('\n') {
            edited.push('\n');
        }
        edited.push_str(&added);
    }
    Ok(edited)
}

/// Where the property begins whose value begins at `at`: lines that end in a backslash go on in the next
fn logical_start(text: &str, at: usize) -> usize {
    let mut start = line_start(text, at);
    while let Some(before) = text.get(..start).and_then(|before| before.strip_suffix('\n')) {
        let backslashes = before.len() - before.trim_end_matches('\\').len();
        if backslashes % 2 == 0 {
            break;
        }
        start = line_start(text, before.len());
    }
    start
}
