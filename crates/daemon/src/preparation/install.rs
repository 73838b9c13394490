//! The files of an order that are no templates: the runtime and the extensions
//!
//! They are got beside the workspace, where a download that is given up harms nobody, and take their places together.

use std::path::{Path, PathBuf};

use super::artifact::{Artifacts, Description};
use super::inside::{Inside, InsideError, Kind, Place};
use super::order::{self, Assignment};
use super::workspace::{Preparing, Workspace};
use super::{ArtifactError, PreparationError};
use prexorcloud_protocol::redact;

/// A file that an order wants at a place
#[derive(Clone, Debug)]
struct Wanted {
    part: Part,
    /// Its name, as the order has it
    file: String,
    url: String,
    sha256: String,
    place: Place,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Part {
    Runtime,
    Extension,
}

impl Wanted {
    fn failed(&self, source: ArtifactError) -> PreparationError {
        let file = self.file.clone();
        match self.part {
            Part::Runtime => PreparationError::Runtime { file, source },
            Part::Extension => PreparationError::Extension { file, source },
        }
    }

    fn io_failed(&self, path: &Path, error: InsideError) -> PreparationError {
        let path = path.to_path_buf();
        self.failed(match error {
            InsideError::Io(error) => ArtifactError::Io { path, error },
            _ => ArtifactError::NotAFile { path },
        })
    }
}

/// Gets the files, and puts them into the workspace
pub(super) async fn provide(
    artifacts: &Artifacts,
    order: &Assignment,
    preparing: &mut Preparing,
) -> Result<(), PreparationError> {
    let asked = order.clone();
    let wanted = preparing.work(move |workspace| wanted(&asked, workspace)).await?;
    let mut files = Vec::new();
    for (number, wanted) in wanted.into_iter().enumerate() {
        let file = preparing.scratch().join("files").join(number.to_string());
        let provided = artifacts.provide(&wanted.url, &wanted.sha256, &file).await;
        provided.map_err(|source| wanted.failed(source))?;
        if wanted.part == Part::Runtime && !order.platform.is_empty() && !order.platform_version.is_empty() {
            let description = Description {
                platform: order.platform.clone(),
                version: order.platform_version.clone(),
                file: order.jar_file.clone(),
            };
            artifacts.describe(&order.sha256, &description);
        }
        files.push((wanted, number.to_string()));
    }
    if files.is_empty() {
        return Ok(());
    }
    preparing.work(move |workspace| install(&files, workspace)).await
}

/// What has to be got, and where it belongs; makes the folder in which it is put before
fn wanted(order: &Assignment, workspace: &Workspace) -> Result<Vec<Wanted>, PreparationError> {
    let inside = workspace.inside()?;
    let mut files = Vec::new();
    let is_there = || workspace.path().join(&order.jar_file).is_file();
    // Nothing else is known of it than that it has to be there.
    let is_brought = order.download_url.is_empty() && order.sha256.is_empty() && is_there();
    if !order.wants_standin() && !is_brought {
        files.push(Wanted {
            part: Part::Runtime,
            file: order.jar_file.clone(),
            url: order.download_url.clone(),
            sha256: order.sha256.clone(),
            place: Place::root().join(order.jar_file.as_ref()),
        });
    }
    for extension in &order.extensions {
        order::check_file_name("extension.file_name", &extension.file_name)?;
        let file = extension.file_name.clone();
        let sha256 = extension.sha256.trim().to_ascii_lowercase();
        let failed = |source| PreparationError::Extension {
            file: file.clone(),
            source,
        };
        if sha256.is_empty() {
            let url = redact::urls(&extension.download_url).into_owned();
            return Err(failed(ArtifactError::NoDigest { url }));
        }
        let relative = format!("{}/{}", extension.install_path, extension.file_name);
        let place = match inside.resolve(relative.trim_start_matches('/')) {
            Ok(place) => place,
            Err(InsideError::Io(error)) => {
                let path = workspace.path().join(&relative);
                return Err(failed(ArtifactError::Io { path, error }));
            }
            Err(error) => {
                let problem = format!("is {:?}: {error}", extension.install_path);
                return Err(order::invalid("extension.install_path", problem));
            }
        };
        files.push(Wanted {
            part: Part::Extension,
            file,
            url: extension.download_url.trim().to_owned(),
            sha256,
            place,
        });
    }
    if !files.is_empty() {
        workspace.scratch("files")?;
    }
    Ok(files)
}

fn install(files: &[(Wanted, String)], workspace: &Workspace) -> Result<(), PreparationError> {
    let (inside, scratch) = (workspace.inside()?, workspace.scratch("files")?);
    let from = Inside::new(&scratch).map_err(|error| PreparationError::Workspace {
        path: scratch.clone(),
        error,
    })?;
    let places = files.iter().map(|(wanted, _)| wanted.place.clone()).collect();
    let remembered = inside.remember_ahead(places, Vec::new());
    remembered.map_err(|error| PreparationError::Workspace {
        path: workspace.path().to_path_buf(),
        error: error.into_io(),
    })?;
    for (wanted, number) in files {
        let path: PathBuf = inside.path(&wanted.place);
        let source = Place::root().join(number.as_ref());
        install_file(&inside, wanted, &from, &source).map_err(|error| wanted.io_failed(&path, error))?;
    }
    Ok(())
}

fn install_file(inside: &Inside, wanted: &Wanted, from: &Inside, source: &Place) -> Result<(), InsideError> {
    if let Some(folder) = wanted.place.parent() {
        inside.make_folder(&folder)?;
    }
    if inside.kind(&wanted.place)? == Some(Kind::Folder) {
        return Err(InsideError::NotAFile("a folder"));
    }
    inside.take_over(&wanted.place, from, source)
}
