//! `prexorctl template push` and `pull`

use std::io::{self, Read};
use std::path::Path;

use prexorcloud_content::{Digest, Limits, Manifest, UnpackError, unpack};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::staging::Staging;
use super::{resolve_some, short, size};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::push::{Pushed, push_folder};
use crate::resource::TemplateVersion;
use crate::transfer::progress;

/// Parts of an archive that wait to be unpacked
const WAITING: usize = 8;

fn usage(message: impl Into<String>) -> Failure {
    Failure::Usage {
        message: message.into(),
    }
}

fn name_of(dir: &Path, name: Option<String>) -> Result<String, Failure> {
    if let Some(name) = name {
        return Ok(name);
    }
    let whole = dir
        .canonicalize()
        .map_err(|error| usage(format!("{} cannot be read: {error}", dir.display())))?;
    let name = whole.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .ok_or_else(|| usage("the folder has no name that a template could have; give it one: --name NAME"))
}

pub(super) async fn push(
    dir: &Path,
    name: Option<String>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let name = name_of(dir, name)?;
    let pushed = push_folder(client, &name, dir, |total| progress(total, output.is_json())).await?;
    let Pushed {
        version,
        mut json,
        sent_files,
        sent_bytes,
        is_unchanged,
    } = pushed;
    if output.is_json() {
        json["sentFiles"] = json!(sent_files);
        json["sentBytes"] = json!(sent_bytes);
        json["unchanged"] = Value::Bool(is_unchanged);
        return output.json(&json);
    }
    if is_unchanged {
        return output.text(&format!(
            "{name} is unchanged: version {} ({}) holds the same",
            version.number,
            short(&version.hash)
        ));
    }
    output.text(&format!(
        "{name} is version {} now ({}): {} files, {}. Sent {sent_files} of them, {sent_bytes} bytes",
        version.number,
        short(&version.hash),
        version.files,
        size(version.size_bytes)
    ))?;
    match needs_artifacts(&version) {
        Some(note) => output.text(&note),
        None => Ok(()),
    }
}

/// What is to be known of a template that does not fit into one message
fn needs_artifacts(version: &TemplateVersion) -> Option<String> {
    let most = prexorcloud_content::MAX_INLINE_BYTES;
    (version.archive_bytes > most).then(|| {
        format!(
            "Its archive has {}: daemons in Java, which take at most {} at once, cannot be given it; starts there fail with TEMPLATE_TOO_LARGE",
            size(version.archive_bytes),
            size(most)
        )
    })
}

pub(super) async fn pull(
    name: &str,
    dir: &Path,
    version: Option<&str>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let cannot = |error: String| usage(format!("{name} cannot be pulled into {}: {error}", dir.display()));
    let staging = Staging::beside(dir, name).map_err(|error| cannot(error.to_string()))?;
    let versions = client
        .get::<Vec<TemplateVersion>>(&["templates", name, "versions"], &[])
        .await?
        .value;
    let wanted = resolve_some(name, version, client).await?;
    let version = versions
        .into_iter()
        .find(|version| match &wanted {
            Some(hash) => version.hash == *hash,
            None => version.current,
        })
        .ok_or_else(|| cannot("nothing was pushed to it".to_owned()))?;

    let mut download = client
        .download(&["templates", name, "versions", &version.hash, "archive"])
        .await?;
    let bar = progress(version.archive_bytes, output.is_json());
    bar.set_message(name.to_owned());
    let (parts, waiting) = mpsc::channel(WAITING);
    let into = staging.path().to_path_buf();
    let unpacking =
        tokio::task::spawn_blocking(move || unpack(Parts::new(waiting), &into, &Limits::default()));
    let mut failure = None;
    loop {
        match download.next().await {
            Ok(Some(part)) => {
                bar.inc(part.len() as u64);
                // Nobody takes it any more: unpacking says why.
                if parts.send(Ok(part)).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                let _ = parts.send(Err(io::ErrorKind::ConnectionAborted.into())).await;
                failure = Some(error);
                break;
            }
        }
    }
    drop(parts);
    let unpacked = unpacking.await.map_err(io::Error::other)?;
    bar.finish_and_clear();
    if let Some(failure) = failure {
        return Err(failure);
    }
    let unpacked = unpacked.map_err(|error: UnpackError| cannot(error.to_string()))?;
    verify(&unpacked.manifest, unpacked.archive_sha256, &version)
        .map_err(|error| cannot(error.to_owned()))?;
    staging.take_place().map_err(|error| cannot(error.to_string()))?;
    if output.is_json() {
        return output.json(&json!({
            "name": name, "hash": version.hash, "files": version.files, "receivedBytes": unpacked.archive_bytes,
        }));
    }
    output.text(&format!(
        "version {} of {name} ({}) is in {}: {} files, {}",
        version.number,
        short(&version.hash),
        dir.display(),
        version.files,
        size(version.size_bytes)
    ))
}

fn verify(manifest: &Manifest, archive: Digest, version: &TemplateVersion) -> Result<(), &'static str> {
    let is_whole = archive.to_string() == version.archive
        && manifest
            .digest()
            .is_ok_and(|digest| digest.to_string() == version.hash);
    match is_whole {
        true => Ok(()),
        false => Err("the archive that came is not that of the version; it was damaged on its way"),
    }
}

/// Parts that come from elsewhere, as one reader
struct Parts {
    waiting: mpsc::Receiver<io::Result<Vec<u8>>>,
    part: io::Cursor<Vec<u8>>,
}

impl Parts {
    fn new(waiting: mpsc::Receiver<io::Result<Vec<u8>>>) -> Self {
        Self {
            waiting,
            part: io::Cursor::default(),
        }
    }
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.part.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.waiting.blocking_recv() {
                Some(part) => self.part = io::Cursor::new(part?),
                None => return Ok(0),
            }
        }
    }
}
