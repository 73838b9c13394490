//! Single values in a server's own configuration files
//!
//! A patch replaces the bytes of one value, or adds one line, and leaves every other byte as it is. The file is read before
//! and after: if anything but that value would be different to the server, or it is not clear which value is meant, the
//! patch is refused and the file stays.

pub(super) mod entry;
mod expression;
mod format;
mod json;
pub(super) mod properties;
#[cfg(test)]
mod tests;
mod toml;
mod yaml;

use std::io;

use prexorcloud_proto::{ConfigPatch, ConfigPatchOp};
use prexorcloud_security::files::without_mark;

use super::PreparationError;
use super::encoding::{Charset, decode, encode};
use super::inside::{Inside, InsideError};
use super::notes::Notes;
use entry::Value;
use expression::Expression;
use format::Format;

/// Larger files are no configuration
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Stands for the trimmed content of `forwarding.secret` in the workspace
const FORWARDING_SECRET: &str = "%FORWARDING_SECRET%";

/// Applies the patches in order
///
/// A patch for a file that does not exist is passed over with a note, as the server has not written it yet; one that
/// leads out of the workspace, or that this daemon cannot carry out exactly, is an error.
pub(super) fn apply(inside: &Inside, patches: &[ConfigPatch]) -> Result<Notes, PreparationError> {
    let mut notes = Notes::default();
    for patch in patches {
        if patch.file.trim().is_empty() || patch.key.trim().is_empty() {
            continue;
        }
        carry_out(inside, patch, &mut notes).map_err(|problem| PreparationError::ConfigPatch {
            file: patch.file.clone(),
            is_transient: matches!(problem, Problem::Io(_)),
            problem: problem.to_string(),
        })?;
    }
    Ok(notes)
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Io(io::Error),
}

impl From<InsideError> for Problem {
    fn from(error: InsideError) -> Self {
        match error {
            InsideError::Io(error) => Self::Io(error),
            refused => Self::Refused(refused.to_string()),
        }
    }
}

fn refused(problem: impl Into<String>) -> Problem {
    Problem::Refused(problem.into())
}

fn carry_out(inside: &Inside, patch: &ConfigPatch, notes: &mut Notes) -> Result<(), Problem> {
    let mut passed_over = |key: &str, problem: &str| {
        notes.add(format!(
            "config patch of {}{key} passed over: {problem}",
            patch.file
        ));
    };
    let path = inside.resolve(&patch.file)?;
    let op = ConfigPatchOp::try_from(patch.op)
        .map_err(|_| refused(format!("operation {} is not known here", patch.op)))?;
    let Some(bytes) = inside.read(&path, MAX_FILE)? else {
        passed_over("", "there is no such file");
        return Ok(());
    };
    let Some(secret) = secret(inside, &patch.value)? else {
        passed_over("", "forwarding.secret is missing");
        return Ok(());
    };
    if patch.value.contains(['\n', '\r']) || secret.contains(['\n', '\r']) || patch.key.contains(['\n', '\r'])
    {
        return Err(refused("key and value must be one line"));
    }
    match patched(&patch.file, &bytes, op, &patch.key, &patch.value, &secret).map_err(refused)? {
        Some(patched) if patched != bytes => {
            inside.replace(&path, &patched)?;
        }
        Some(_) => {}
        None => passed_over(&format!(", {}", patch.key), "there is no such key"),
    }
    Ok(())
}

/// The bytes of a file with the patch in it; `None` if there is nothing that it is for
fn patched(
    file: &str,
    bytes: &[u8],
    op: ConfigPatchOp,
    key: &str,
    value: &str,
    secret: &str,
) -> Result<Option<Vec<u8>>, String> {
    let format = Format::of(file);
    let (text, charset) = decode(bytes);
    if text.contains('\0') {
        return Err("it is no text".to_owned());
    }
    let is_latin = format == Some(Format::Properties);
    if charset == Charset::Latin1 && !is_latin {
        if matches!(format, Some(Format::Toml | Format::Json)) {
            return Err("it is not UTF-8 text".to_owned());
        }
        // Which of the others it is, nobody knows; what is ASCII is the same in all of them.
        if !(key.is_ascii() && value.is_ascii() && secret.is_ascii()) {
            return Err("it is not UTF-8 text, so nothing but ASCII can be put into it".to_owned());
        }
    }
    let patched = if op == ConfigPatchOp::Regex {
        let patched = Expression::new(key, value, secret)?.replace_all(&text)?;
        let broken = format.filter(|format| format.problem(&text).is_none());
        if let Some(problem) = broken.and_then(|format| format.problem(&patched)) {
            return Err(format!("it could not be read any more: {problem}"));
        }
        Some(patched)
    } else {
        let format = format.ok_or(
            "SET and REPLACE are for .properties, .toml, .yml, .yaml and .json files, REGEX is for all",
        )?;
        // A backslash in a property begins an escape, which the patch may have and a secret has not.
        let secret = match format {
            Format::Properties => secret.replace('\\', "\\\\"),
            Format::Toml | Format::Yaml | Format::Json => secret.to_owned(),
        };
        let value = Value {
            text: value.replace(FORWARDING_SECRET, &secret),
            is_text: value.contains(FORWARDING_SECRET),
        };
        format.edit(&text, key, &value, op == ConfigPatchOp::Set)?
    };
    match patched {
        Some(patched) => encode(&patched, charset, is_latin).map(Some),
        None => Ok(None),
    }
}

/// What stands for the secret in `value`, empty if nothing does; `None` if it is missing
fn secret(inside: &Inside, value: &str) -> Result<Option<String>, Problem> {
    const FILE: &str = "forwarding.secret";
    if !value.contains(FORWARDING_SECRET) {
        return Ok(Some(String::new()));
    }
    let of_secret = |error: InsideError| match Problem::from(error) {
        Problem::Refused(problem) => refused(format!("{FILE}: {problem}")),
        io => io,
    };
    let path = inside.resolve(FILE).map_err(of_secret)?;
    let Some(bytes) = inside.read(&path, MAX_FILE).map_err(of_secret)? else {
        return Ok(None);
    };
    let secret = String::from_utf8(bytes).map_err(|_| refused(format!("{FILE}: it is not UTF-8 text")))?;
    let secret = without_mark(&secret).trim();
    Ok((!secret.is_empty()).then(|| secret.to_owned()))
}
