//! What must not be left, and what must not be lost

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::content::{digest, files};

/// Names of files that are not whole yet
const UNFINISHED: [&str; 3] = ["new", "part", "tmp"];

/// What a daemon has left half-made in its folder
pub fn half_made(daemon: &Path) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for group in folders(&daemon.join("instances")) {
        // Beside the folders of instances stand those that are none yet, or no more.
        let hidden = |path: &PathBuf| path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
        left.extend(folders(&group).into_iter().filter(hidden));
    }
    left.extend(unfinished(&daemon.join("cache")));
    left
}

/// Files below a folder that are not whole yet
pub fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let is_unfinished = |path: &PathBuf| {
        let has_suffix = path
            .extension()
            .is_some_and(|suffix| UNFINISHED.iter().any(|known| suffix == *known));
        has_suffix || path.parent().is_some_and(|parent| parent.ends_with("incoming"))
    };
    files(folder).into_iter().filter(is_unfinished).collect()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Entries of the daemon's cache that are not what their records say
pub fn wrong_in_cache(daemon: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let kept = files(&daemon.join("cache/templates"));
    let is_record = |path: &&PathBuf| path.extension().is_some_and(|suffix| suffix == "json");
    for record in kept.iter().filter(is_record) {
        let said: Option<Value> = fs::read(record)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let of_it = |path: &&PathBuf| {
            *path != record
                && path
                    .file_name()
                    .unwrap()
                    .as_encoded_bytes()
                    .starts_with(record.file_stem().unwrap().as_encoded_bytes())
        };
        let archive = kept.iter().find(of_it);
        let (Some(said), Some(archive)) = (said, archive) else {
            wrong.push(format!(
                "{} is no record of an archive beside it",
                record.display()
            ));
            continue;
        };
        let found = digest(archive).unwrap_or_else(|error| error.to_string());
        // The hash by which our controller names an archive is its digest.
        for field in ["sha256", "hash"] {
            if said[field] != found.as_str() {
                wrong.push(format!("{} has not the {field} of its record", archive.display()));
            }
        }
    }
    wrong
}

/// The blobs that a controller has in its folder
pub fn blobs(controller: &Path) -> BTreeSet<String> {
    files(&controller.join("content/blobs"))
        .into_iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect()
}

/// Whether the blob has the bytes that its name says
pub fn is_intact(controller: &Path, blob: &str) -> bool {
    let path = controller.join("content/blobs").join(&blob[..2]).join(blob);
    digest(&path).is_ok_and(|found| found == blob)
}
