//! One run of a jar that prepares its files and ends, without starting a server
//!
//! Paperclip, which Paper and its kin are packed in, fetches and patches the server and unpacks its libraries; with
//! `paperclip.patchonly` it ends then. So does the bundler of Mojang, which Spigot is packed in, when it is given no class to
//! start. No world is made, no port opened, and nobody's licence accepted: a jar that knows neither property starts as far as its
//! question about the EULA, and the deadline ends what goes on behind it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prexorcloud_content::{Digest, Folder, Limits, Manifest, ScanError};

use super::Wanted;
use super::jvm::Stamp;
use super::shelf::{Archive, FILES, Held, Made, Shelf, archive_name};
use super::supervised::{Failure, Surroundings, run};
use crate::{durable, reflink};

/// What is kept of what a jar makes. `config` is not: it belongs to the operator.
const KEPT: [&str; 4] = ["cache", "versions", "libraries", "bundler"];

const WORK: &str = "work";
const CLASSES: &str = "classes.jsa";

/// Why there is nothing to keep
#[derive(Debug, thiserror::Error)]
pub(super) enum WarmUpError {
    #[error(transparent)]
    Run(#[from] Failure),
    #[error("its files cannot be kept: {0}")]
    Io(#[from] io::Error),
    #[error("what it has made is refused: {0}")]
    Refused(#[from] ScanError),
    #[error("the jar changed while it was copied")]
    Changed,
    #[error("it has made {bytes} bytes, and the cache may have {limit}")]
    TooLarge { bytes: u64, limit: u64 },
}

impl WarmUpError {
    /// Whether what was kept of the jar was damaged; it is not kept any more
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Io(error) if durable::is_damage(error))
    }
}

impl From<tokio::task::JoinError> for WarmUpError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Io(io::Error::other(error))
    }
}

/// The time that jars have where an archive is made and where it is used: a JVM takes another one for another jar
pub(crate) fn jar_time() -> SystemTime {
    // Any would do; it is that of files in templates.
    UNIX_EPOCH + Duration::from_secs(1_704_067_200)
}

/// The arguments for a run that ends by itself
fn arguments(wanted: &Wanted, archive: Option<&Path>) -> Vec<String> {
    let mut arguments = vec![
        "-Xmx512m".to_owned(),
        "-Djava.awt.headless=true".to_owned(),
        "-Dpaperclip.patchonly=true".to_owned(),
        "-DbundlerMainClass=".to_owned(),
    ];
    if let Some(archive) = archive {
        // A JVM before 13 knows no such thing.
        arguments.push("-XX:+IgnoreUnrecognizedVMOptions".to_owned());
        arguments.push(format!("-XX:ArchiveClassesAtExit={}", archive.display()));
    }
    arguments.extend(["-jar".to_owned(), wanted.jar_file.clone()]);
    arguments
}

/// Runs the jar, and keeps what comes of it; `former` is what is kept of it already
pub(super) async fn warm_up(
    shelf: &Shelf,
    wanted: &Wanted,
    jar: File,
    jvm: Option<(Stamp, String)>,
    former: Option<Held>,
    deadline: Duration,
) -> Result<(), WarmUpError> {
    let staging = shelf.staging()?;
    let work = staging.path().join(WORK);
    fs::create_dir(&work)?;
    let is_known = former.is_some();
    let (folder, name, sha256) = (work.clone(), wanted.jar_file.clone(), wanted.sha256);
    let filled = move || fill(&folder, &name, &sha256, &jar, former.as_ref());
    tokio::task::spawn_blocking(filled).await??;
    let classes = staging.path().join(CLASSES);
    let surroundings = Surroundings {
        folder: &work,
        output: &staging.path().join("output.log"),
        deadline,
        max_file_bytes: shelf.max_bytes,
    };
    let archive = jvm.as_ref().map(|_| classes.as_path());
    run(&wanted.java, &arguments(wanted, archive), &surroundings).await?;
    if !is_known {
        let made = staging.path().join("made");
        let collected = tokio::task::spawn_blocking({
            let made = made.clone();
            move || collect(&work, &made)
        });
        let files = collected.await??;
        let bytes = files.total_bytes();
        if bytes > shelf.max_bytes {
            let limit = shelf.max_bytes;
            return Err(WarmUpError::TooLarge { bytes, limit });
        }
        shelf.put(&wanted.sha256, &made, wanted.origin(), files)?;
    }
    if let Some((java, build)) = jvm {
        let path = classes.clone();
        let made = tokio::task::spawn_blocking(move || measure(&path)).await??;
        let jar_file = wanted.jar_file.clone();
        let archive = Archive {
            build,
            jar_file,
            java,
            made,
        };
        shelf.put_archive(&wanted.sha256, archive, &classes)?;
    }
    Ok(())
}

/// The archive that a jar of this name has with a build of the JVM
pub(super) fn archive_of(wanted: &Wanted, build: &str) -> Digest {
    archive_name(build, &wanted.jar_file)
}

fn fill(
    work: &Path,
    name: &str,
    sha256: &Digest,
    jar: &File,
    former: Option<&Held>,
) -> Result<(), WarmUpError> {
    let create = |path: &Path| File::options().read(true).write(true).create_new(true).open(path);
    let copy = create(&work.join(name))?;
    if reflink::copy(jar, &copy)? != *sha256 {
        return Err(WarmUpError::Changed);
    }
    copy.set_modified(jar_time())?;
    let Some(former) = former else {
        return Ok(());
    };
    // What is made already is not made again for another archive.
    for (path, blob) in former.files() {
        let target = work.join(path.as_str());
        fs::create_dir_all(target.parent().unwrap_or(work))?;
        let copied = former.copy(path, blob, &create(&target)?);
        copied.inspect_err(|error| {
            if durable::is_damage(error) {
                former.reject(error);
            }
        })?;
    }
    Ok(())
}

/// Moves what is kept to a folder of its own
fn collect(work: &Path, made: &Path) -> Result<Manifest, WarmUpError> {
    let files = made.join(FILES);
    fs::create_dir_all(&files)?;
    for name in KEPT {
        let from = work.join(name);
        if fs::symlink_metadata(&from).is_ok_and(|metadata| metadata.is_dir()) {
            fs::rename(from, files.join(name))?;
        }
    }
    Ok(Folder::open(&files)?.scan(&Limits::default())?)
}

fn measure(archive: &Path) -> io::Result<Option<Made>> {
    match File::open(archive) {
        Ok(file) => Ok(Some(Made {
            bytes: file.metadata()?.len(),
            sha256: Digest::of_reader(file)?,
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_jar_that_changed_since_it_was_read_is_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let jar = folder.path().join("server.jar");
        fs::write(&jar, "jar").unwrap();
        let fill =
            |name: &str, sha256: Digest| fill(folder.path(), name, &sha256, &File::open(&jar).unwrap(), None);
        assert!(fill("a.jar", Digest::of(b"jar")).is_ok());
        assert!(matches!(
            fill("b.jar", Digest::of(b"another")),
            Err(WarmUpError::Changed)
        ));
    }
}
