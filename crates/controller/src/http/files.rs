//! `/instances/{id}/files`: what is in the folder of an instance, and in a file of it
//!
//! Files hold passwords, so both need the permission to manage instances, and a file that was read is noted in the audit
//! log. What a daemon gives is shown as it is; its errors keep their names.

use std::{str, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use prexorcloud_proto::{FileEntry, ReadInstanceFile, WalkInstanceFiles};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    instances::note,
    json::{Id, Params, time},
};
use crate::access::Permission;

/// The longest character has so many bytes; a cut may leave all but one of them
const CUT_BYTES: usize = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct Walk {
    max_entries: i32,
    max_depth: i32,
    summarize_threshold: i32,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    Params(walk): Params<Walk>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::InstancesManage)?;
    let limits = WalkInstanceFiles {
        max_entries: walk.max_entries,
        max_depth: walk.max_depth,
        summarize_threshold: walk.summarize_threshold,
        ..WalkInstanceFiles::default()
    };
    let tree = api.fleet.walk_files(id.parse("instance")?, limits).await?;
    told(&tree.error)?;
    let entries: Vec<_> = tree.entries.iter().map(shown).collect();
    Ok(Json(json!({ "entries": entries, "truncated": tree.truncated })))
}

fn shown(entry: &FileEntry) -> Value {
    let mut shown = json!({
        "path": entry.path, "isDir": entry.is_dir, "sizeBytes": entry.size_bytes,
        "modifiedAt": time(entry.modified_at_ms),
    });
    if entry.summary {
        shown["summary"] = true.into();
        shown["childCount"] = entry.child_count.into();
    }
    shown
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Read {
    path: String,
    #[serde(default)]
    max_bytes: i32,
    #[serde(default)]
    tail: bool,
}

pub(super) async fn content(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    Params(Read {
        path,
        max_bytes,
        tail,
    }): Params<Read>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::InstancesManage)?;
    let instance = id.parse("instance")?;
    let what = ReadInstanceFile {
        path: path.clone(),
        max_bytes,
        tail,
        ..ReadInstanceFile::default()
    };
    let found = api.fleet.read_file(instance, what).await?;
    told(&found.error)?;
    note(&api, &actor, "instance.file.read", &id.0, &path).await;
    let is_cut_before = tail && found.truncated;
    let is_cut_behind = !tail && found.truncated;
    let (encoding, content) = match text_of(&found.content, is_cut_before, is_cut_behind) {
        Some(text) => ("utf-8", text.to_owned()),
        None => ("base64", STANDARD.encode(&found.content)),
    };
    Ok(Json(json!({
        "content": content, "encoding": encoding,
        "totalSizeBytes": found.total_size_bytes, "truncated": found.truncated,
    })))
}

/// The text that bytes are, without the part of a character at an end where they were cut
fn text_of(bytes: &[u8], is_cut_before: bool, is_cut_behind: bool) -> Option<&str> {
    let begins: usize = if is_cut_before { CUT_BYTES } else { 0 };
    let ends: usize = if is_cut_behind { CUT_BYTES } else { 0 };
    let cuts = (0..=begins).flat_map(|begin| (0..=ends).map(move |end| (begin, end)));
    cuts.filter_map(|(begin, end)| bytes.get(begin..bytes.len().checked_sub(end)?))
        .find_map(|part| str::from_utf8(part).ok())
}

/// The daemon's error, if it has one
fn told(error: &str) -> Result<(), ApiError> {
    let (status, code, message) = match error {
        "" => return Ok(()),
        "INSTANCE_NOT_FOUND" => (
            StatusCode::NOT_FOUND,
            "INSTANCE_NOT_FOUND",
            "the node has no folder of this instance: it was never started there, or its folder was removed after it ended",
        ),
        "FILE_NOT_FOUND" => (
            StatusCode::NOT_FOUND,
            "FILE_NOT_FOUND",
            "the instance has no such file",
        ),
        "NOT_REGULAR_FILE" => (
            StatusCode::BAD_REQUEST,
            "NOT_REGULAR_FILE",
            "that is a folder, a link or a device, not a file",
        ),
        "PATH_OUTSIDE_INSTANCE" => (
            StatusCode::BAD_REQUEST,
            "PATH_OUTSIDE_INSTANCE",
            "that path leads out of the instance's folder",
        ),
        "INVALID_REQUEST" => (StatusCode::BAD_REQUEST, "INVALID_REQUEST", "that is not a path"),
        "DAEMON_NOT_READY" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "DAEMON_NOT_READY",
            "the node's daemon has too much to do, try again",
        ),
        "FILE_UNREADABLE" | "DIR_UNREADABLE" => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNREADABLE",
            "the node's daemon may not read it, or its disk fails",
        ),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "DAEMON_ERROR",
            "the node's daemon refuses, and gives a reason that this controller does not know",
        ),
    };
    if code == "DAEMON_ERROR" {
        tracing::warn!(
            error,
            "a daemon answers a question about files with an unknown error"
        );
    }
    Err(ApiError::new(status, code, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_character_makes_no_binary_of_a_text() {
        let text = "größer";
        let bytes = text.as_bytes();
        assert_eq!(text_of(bytes, false, false), Some(text));
        assert_eq!(text_of(&bytes[..3], false, true), Some("gr"));
        assert_eq!(text_of(&bytes[3..], true, false), Some("ßer"));
        assert_eq!(text_of(&bytes[..3], false, false), None);
        assert_eq!(text_of(b"\xff\xfe\xfd\xfc\xfb", true, false), None);
        assert_eq!(text_of(b"", true, true), Some(""));
    }
}
