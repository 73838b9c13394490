//! The files that a server would make of its jar at its first start, brought from the cache
//!
//! They make a start faster and nothing else: whatever goes wrong is told, and the server does it itself.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use prexorcloud_content::{Blob, Digest, EntryPath};
use prexorcloud_proto::ConfigFormat;

use super::PreparationError;
use super::artifact::Description;
use super::inside::{Inside, InsideError, Place};
use super::launch::{self, Runtime};
use super::order::Assignment;
use super::workspace::{Preparing, Workspace};
use crate::cache::bootstrap::{Bootstraps, Held, Wanted, jar_time};
use crate::durable;

/// Puts into the workspace what is not there; returns the class archive for the JVM, if there is one
pub(super) async fn provide(
    bootstraps: &Arc<Bootstraps>,
    order: &Assignment,
    runtime: &Runtime,
    preparing: &mut Preparing,
) -> Result<Option<PathBuf>, PreparationError> {
    let Runtime::Java { binary } = runtime else {
        return Ok(None);
    };
    if bootstraps.is_off() || !Wanted::is_for(order.config_format) {
        return Ok(None);
    }
    // What is damaged is thrown away, and made anew once.
    for _ in 0..2 {
        let (name, known) = (order.jar_file.clone(), order.sha256.parse().ok());
        let opened = preparing.work(move |workspace| Ok(jar(workspace, &name, known)));
        let (jar, sha256) = match opened.await? {
            Ok(jar) => jar,
            Err(error) => {
                tracing::warn!(instance = %order.instance, %error, "its jar cannot be read, nothing is prepared for it");
                return Ok(None);
            }
        };
        let wanted = Wanted {
            sha256,
            jar_file: order.jar_file.clone(),
            format: order.config_format,
            version: order.platform_version.clone(),
            java: binary.clone(),
        };
        let Some(held) = bootstraps.get(&wanted, jar).await else {
            return Ok(None);
        };
        let name = order.jar_file.clone();
        let takes_archive = launch::takes_archive(order);
        let apply = move |workspace: &Workspace| Ok(apply(workspace, &held, &name, takes_archive));
        match preparing.work(apply).await? {
            Err(Missed::Damaged) => {}
            Err(Missed::Failed(error)) => {
                tracing::warn!(instance = %order.instance, %error, "not all prepared files can be put there, the server makes the rest");
                return Ok(None);
            }
            Ok(archive) => return Ok(archive),
        }
    }
    Ok(None)
}

/// Has the files of a jar in the cache before a start needs them
pub(super) async fn make_ahead(
    bootstraps: &Arc<Bootstraps>,
    jar: File,
    description: &Description,
    format: ConfigFormat,
    java: PathBuf,
) {
    if bootstraps.is_off() || !Wanted::is_for(format) {
        return;
    }
    let read = tokio::task::spawn_blocking(move || Ok::<_, io::Error>((Digest::of_reader(&jar)?, jar)));
    if let Ok(Ok((sha256, jar))) = read.await {
        let wanted = Wanted {
            sha256,
            jar_file: description.file.clone(),
            format,
            version: description.version.clone(),
            java,
        };
        bootstraps.make_ahead(&wanted, jar).await;
    }
}

/// Why not everything is there
enum Missed {
    Damaged,
    Failed(InsideError),
}

impl From<InsideError> for Missed {
    fn from(error: InsideError) -> Self {
        match error {
            InsideError::Io(error) if durable::is_damage(&error) => Self::Damaged,
            error => Self::Failed(error),
        }
    }
}

/// The jar in the workspace, and its digest, which `known` is if it was verified on its way
fn jar(workspace: &Workspace, name: &str, known: Option<Digest>) -> Result<(File, Digest), InsideError> {
    let inside = workspace.inside().map_err(io::Error::other)?;
    let opened = inside.open(&inside.resolve(name)?)?;
    let file = opened.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let sha256 = match known {
        Some(sha256) => sha256,
        None => Digest::of_reader(&file)?,
    };
    Ok((file, sha256))
}

fn apply(
    workspace: &Workspace,
    held: &Held,
    jar: &str,
    takes_archive: bool,
) -> Result<Option<PathBuf>, Missed> {
    let inside = workspace
        .inside()
        .map_err(io::Error::other)
        .map_err(InsideError::Io)?;
    let files = missing(&inside, held)?;
    let places: Vec<Place> = files.iter().map(|(place, ..)| place.clone()).collect();
    let folders = places.iter().filter_map(Place::parent).collect();
    inside.remember_ahead(places, folders)?;
    for (place, path, blob) in files {
        if let Some(folder) = place.parent() {
            inside.make_folder(&folder)?;
        }
        inside
            .write_new(&place, |file| held.copy(path, blob, file))
            .map_err(Missed::from)
            .inspect_err(|missed| {
                if matches!(missed, Missed::Damaged) {
                    held.reject(path);
                }
            })?;
    }
    let Some(archive) = held.archive().filter(|_| takes_archive) else {
        return Ok(None);
    };
    inside
        .open(&inside.resolve(jar)?)?
        .map_or(Ok(()), |jar| jar.set_modified(jar_time()))
        .map_err(InsideError::Io)?;
    Ok(Some(archive.to_path_buf()))
}

/// What no template and no static folder has; links of theirs are followed as far as they stay inside
fn missing<'h>(
    inside: &Inside,
    held: &'h Held,
) -> Result<Vec<(Place, &'h EntryPath, &'h Blob)>, InsideError> {
    let mut missing = Vec::new();
    for (path, blob) in held.files() {
        let place = inside.resolve(path.as_str())?;
        if inside.kind(&place)?.is_none() {
            missing.push((place, path, blob));
        }
    }
    Ok(missing)
}
