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
use crate::resource::{MissingContent, TemplateVersion};

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
/// # Errors
/// [`Failure::Usage`] if the folder cannot be pushed or changes meanwhile, else what the controller said.
pub async fn push_folder(
    client: &Client,
    name: &str,
    dir: &Path,
    progress: impl FnOnce(u64) -> ProgressBar,
) -> Result<Pushed, Failure> {
    let cannot = |error: String| Failure::Usage {
        message: format!("{} cannot be pushed: {error}", dir.display()),
    };
    let folder = Folder::open(dir).map_err(|error| cannot(error.to_string()))?;
    let manifest = folder
        .scan(&Limits::default())
        .map_err(|error| cannot(error.to_string()))?;
    let json = manifest.to_json()?;
    let missing = client
        .post_manifest::<MissingContent>(&["templates", name, "missing"], &[], json.clone())
        .await?
        .value;
    let files: HashMap<String, &EntryPath> = manifest
        .files()
        .map(|(path, blob)| (blob.sha256.to_string(), path))
        .collect();
    let total: u64 = missing.missing.iter().map(|blob| blob.size_bytes).sum();
    let bar = progress(total);
    bar.set_message(name.to_owned());
    for blob in &missing.missing {
        let path = files
            .get(&blob.sha256)
            .ok_or_else(|| cannot("the controller asks for a file that is not in it".to_owned()))?;
        let changed = || {
            cannot(format!(
                "{path:?} changed while it was pushed; try again when nobody writes to it"
            ))
        };
        let file = folder
            .open_file(path)
            .map_err(|error| cannot(format!("{path:?} cannot be read: {error}")))?;
        let is_shorter = |length: u64| length < blob.size_bytes;
        if is_shorter(file.metadata()?.len()) {
            return Err(changed());
        }
        let sent = client.put_blob(&blob.sha256, blob.size_bytes, file, &bar).await;
        match sent {
            Ok(()) => {}
            Err(Failure::Refused { code, .. }) if code == "CONTENT_MISMATCH" => return Err(changed()),
            Err(error) => {
                // A file that became shorter ends the request in the middle, and its length says so.
                let now = folder.open_file(path).and_then(|file| file.metadata());
                return Err(match now {
                    Ok(metadata) if !is_shorter(metadata.len()) => error,
                    _ => changed(),
                });
            }
        }
    }
    bar.finish_and_clear();
    let base = missing.current.clone().map(|base| ("base", base));
    let query: Vec<_> = base.into_iter().collect();
    let published = client
        .post_manifest::<TemplateVersion>(&["templates", name, "versions"], &query, json)
        .await?;
    Ok(Pushed {
        is_unchanged: missing.current.as_ref() == Some(&published.value.hash),
        version: published.value,
        json: published.json,
        sent_files: missing.missing.len(),
        sent_bytes: total,
    })
}
