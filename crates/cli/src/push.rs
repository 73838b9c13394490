//! A folder on its way to a template
//!
//! The controller says which files it lacks, and only those travel.

use std::collections::HashMap;
use std::path::Path;

use indicatif::ProgressBar;
use prexorcloud_content::{EntryPath, Folder, Limits};
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::resource::{MissingBlob, MissingContent, TemplateVersion};

/// What became of a push
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The version that counts now
    pub version: TemplateVersion,
    /// The same as the controller said it
    pub json: Value,
    /// How many files the controller lacked
    pub sent_files: usize,
    /// Their bytes
    pub sent_bytes: u64,
    /// The version was there before, and counted
    pub is_unchanged: bool,
}

/// Publishes what is in `dir` as the version of the template `name` that counts; `progress` shows how far so many bytes are
///
/// What the controller finds damaged of what it has is sent, too.
///
/// # Errors
/// [`Failure::Usage`] if the folder cannot be pushed or changes meanwhile, else what the controller said.
pub async fn push_folder(
    client: &Client,
    name: &str,
    dir: &Path,
    progress: impl Fn(u64) -> ProgressBar,
) -> Result<Pushed, Failure> {
    let cannot = |error: String| Failure::Usage {
        message: format!("{} cannot be pushed: {error}", dir.display()),
    };
    let folder = Folder::open(dir).map_err(|error| cannot(error.to_string()))?;
    let manifest = folder
        .scan(&Limits::default())
        .map_err(|error| cannot(error.to_string()))?;
    let json = manifest.to_json()?;
    let files: HashMap<String, &EntryPath> = manifest
        .files()
        .map(|(path, blob)| (blob.sha256.to_string(), path))
        .collect();
    let (mut sent_files, mut sent_bytes, mut is_last) = (0, 0, false);
    loop {
        let missing = client
            .post_manifest::<MissingContent>(&["templates", name, "missing"], &[], json.clone())
            .await
            .map_err(|failure| match failure {
                Failure::Refused { status: 404, .. } => Failure::NoSuch {
                    message: format!(
                        "there is no template {name}; make it: prexorctl template create {name}"
                    ),
                },
                failure => failure,
            })?
            .value;
        let total: u64 = missing.missing.iter().map(|blob| blob.size_bytes).sum();
        let bar = progress(total);
        bar.set_message(name.to_owned());
        for blob in &missing.missing {
            let path = files
                .get(&blob.sha256)
                .ok_or_else(|| cannot("the controller asks for a file that is not in it".to_owned()))?;
            send(client, &folder, path, blob, &bar)
                .await
                .map_err(|unsent| match unsent {
                    Unsent::Folder(problem) => cannot(problem),
                    Unsent::Failed(failure) => failure,
                })?;
        }
        bar.finish_and_clear();
        sent_files += missing.missing.len();
        sent_bytes += total;
        let base = missing.current.clone().map(|base| ("base", base));
        let query: Vec<_> = base.into_iter().collect();
        let path = ["templates", name, "versions"];
        let published = client
            .post_manifest::<TemplateVersion>(&path, &query, json.clone())
            .await;
        match published {
            // Some of what the controller had was damaged, which it sees when it reads it.
            Err(Failure::Refused { code, .. }) if code == "CONTENT_MISSING" && !is_last => is_last = true,
            Err(failure) => return Err(failure),
            Ok(published) => {
                return Ok(Pushed {
                    is_unchanged: missing.current.as_ref() == Some(&published.value.hash),
                    version: published.value,
                    json: published.json,
                    sent_files,
                    sent_bytes,
                });
            }
        }
    }
}

/// Why a file was not sent
enum Unsent {
    /// What is wrong with the folder
    Folder(String),
    Failed(Failure),
}

impl From<Failure> for Unsent {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Sends one file that the controller lacks
async fn send(
    client: &Client,
    folder: &Folder,
    path: &EntryPath,
    blob: &MissingBlob,
    bar: &ProgressBar,
) -> Result<(), Unsent> {
    let changed = || {
        Unsent::Folder(format!(
            "{path:?} changed while it was pushed; try again when nobody writes to it"
        ))
    };
    let file = folder
        .open_file(path)
        .map_err(|error| Unsent::Folder(format!("{path:?} cannot be read: {error}")))?;
    let is_shorter = |length: u64| length < blob.size_bytes;
    if is_shorter(file.metadata().map_err(Failure::from)?.len()) {
        return Err(changed());
    }
    match client.put_blob(&blob.sha256, blob.size_bytes, file, bar).await {
        Ok(()) => Ok(()),
        Err(Failure::Refused { code, .. }) if code == "CONTENT_MISMATCH" => Err(changed()),
        Err(error) => {
            // A file that became shorter ends the request in the middle, and its length says so.
            let now = folder.open_file(path).and_then(|file| file.metadata());
            Err(match now {
                Ok(metadata) if !is_shorter(metadata.len()) => error.into(),
                _ => changed(),
            })
        }
    }
}
