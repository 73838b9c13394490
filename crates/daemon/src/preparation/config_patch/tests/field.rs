//! Files in the shape in which real programs write them, and a table of what patches do to them
//!
//! `patches.json` has the patches, what the files say afterwards, and the lines that differ. Here the lines are compared, byte
//! for byte; `interop/test_patched_files.py` has a daemon make the same patches and reads the files with parsers of
//! another language, which have to find the value and its type at the path.
//! `UPDATE_SNAPSHOTS=1` writes the lines anew; review every one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::*;

/// One patch of one file
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    file: String,
    op: String,
    key: String,
    value: String,
    /// Where the value is: names, and numbers in lists
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    at: Vec<serde_json::Value>,
    /// The value that is read there
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reads: Option<serde_json::Value>,
    /// The first line that differs, from 1
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// The lines that are there no more
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    was: Vec<String>,
    /// The lines in their place
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    is: Vec<String>,
    /// Words of the error, if it is refused
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// Whether there is nothing that it is for
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
}

impl Row {
    fn op(&self) -> i32 {
        let op = ConfigPatchOp::from_str_name(&format!("CONFIG_PATCH_OP_{}", self.op));
        op.unwrap() as i32
    }

    /// Applies it to a copy: what was there, what is there, and the error
    fn apply(&self, files: &Path) -> (Vec<u8>, Vec<u8>, Option<PreparationError>) {
        let folder = Folder::new();
        let path = folder.0.path().join(&self.file);
        let former = fs::read(files.join(&self.file)).unwrap_or_default();
        if !former.is_empty() {
            fs::write(&path, &former).unwrap();
        }
        let error = folder
            .carry_out(&self.file, &self.key, &self.value, self.op())
            .err();
        (former, fs::read(&path).unwrap_or_default(), error)
    }
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// The lines as text without their ends; the ends have to be those of the file
fn shown(lines: &[&[u8]], end: &str) -> Vec<String> {
    let shown = lines.iter().map(|line| {
        let (text, _) = decode(line);
        text.strip_suffix(end).unwrap_or(&text).to_owned()
    });
    shown.collect()
}

#[test]
fn patches_of_real_files_touch_their_lines_only() {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/preparation/config_patch/tests");
    let table = tests.join("patches.json");
    let mut rows: Vec<Row> = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
    let is_update = std::env::var_os("UPDATE_SNAPSHOTS").is_some();
    let mut wrong = Vec::new();
    for row in &mut rows {
        let (former, patched, error) = row.apply(&tests.join("files"));
        if let Some(error) = error {
            let said = error.to_string();
            let is_meant = row.refused.as_ref().is_some_and(|words| said.contains(words));
            let is_permanent = error.disposition() == prexorcloud_proto::StartFailureDisposition::Permanent;
            if !is_meant || !is_permanent || former != patched {
                wrong.push(format!("{} {} {:?}: {said}", row.file, row.key, row.value));
            }
            continue;
        }
        if row.refused.is_some() || row.skipped != (former == patched) {
            wrong.push(format!(
                "{} {} {:?} was not expected to be applied",
                row.file, row.key, row.value
            ));
        }
        if row.skipped {
            continue;
        }
        let (before, after) = (lines(&former), lines(&patched));
        let head = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
        let (before, after) = (&before[head..], &after[head..]);
        let tail = before
            .iter()
            .rev()
            .zip(after.iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        let end = if former.windows(2).any(|pair| pair == b"\r\n") {
            "\r\n"
        } else {
            "\n"
        };
        let line = Some(head + 1);
        let was = shown(&before[..before.len() - tail], end);
        let is = shown(&after[..after.len() - tail], end);
        if is_update {
            (row.line, row.was, row.is) = (line, was, is);
        } else if (row.line, &row.was, &row.is) != (line, &was, &is) {
            wrong.push(format!(
                "{} {}: line {line:?}: {was:?} -> {is:?}",
                row.file, row.key
            ));
        }
    }
    if is_update {
        let rows: Vec<String> = rows
            .iter()
            .map(|row| serde_json::to_string(row).unwrap())
            .collect();
        fs::write(&table, format!("[\n{}\n]\n", rows.join(",\n"))).unwrap();
    }
    assert_eq!(wrong, Vec::<String>::new());
}
