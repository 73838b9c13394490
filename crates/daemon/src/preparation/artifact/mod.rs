//! Files from elsewhere: read or downloaded, verified while they stream, in place only when they are whole
//!
//! What has a digest is kept under its digest, so that the next instance needs no download. A kept file is verified
//! again each time it is used. A download that was broken off is gone on with by the next one of the same digest.

mod download;
mod failures;
mod kept;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prexorcloud_content::Digest;
use prexorcloud_proto::JarCacheEntry;
use prexorcloud_protocol::redact;
use prexorcloud_transport::Locks;
use reqwest::Url;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::timeout;

use super::ArtifactError;
use crate::durable;
use crate::partial::{self, Partial};

pub(super) use kept::Description;

use download::Download;
use failures::Failures;
use kept::Kept;

/// Downloads at a time; more would only share the same line
const PARALLEL_DOWNLOADS: usize = 4;

/// Arrivals that a download may be behind; each that another address is tried for needs one of the downloads
const ARRIVALS: usize = 64;

/// Bounds of downloads
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownloadLimits {
    /// The most bytes that a file may have
    pub max_bytes: u64,
    /// How long one download may take, with all its attempts
    pub deadline: Duration,
    /// How long nothing may come before it is tried again
    pub stall: Duration,
    /// Whether files without a digest may come over the network
    pub allow_unverified: bool,
    /// Bytes of the files that are kept while nobody uses them, with what has come of others
    pub max_kept_bytes: u64,
}

impl Default for DownloadLimits {
    fn default() -> Self {
        Self {
            max_bytes: 2 * 1024 * 1024 * 1024,
            deadline: Duration::from_secs(600),
            stall: Duration::from_secs(30),
            allow_unverified: false,
            max_kept_bytes: 20 * 1024 * 1024 * 1024,
        }
    }
}

/// Gets files, and keeps those whose digest is known
#[derive(Debug)]
pub(super) struct Artifacts {
    kept: Kept,
    limits: DownloadLimits,
    client: OnceLock<reqwest::Client>,
    slots: Semaphore,
    /// One download of the same content at a time, and of the same content from the same address
    running: Locks<String>,
    /// How long a download is waited for before another address of the same content is tried beside it
    patience: Duration,
    /// What came from such an address, by its digest
    arrivals: broadcast::Sender<String>,
    /// What came of those that others waited for
    failures: Failures,
}

/// What a file is wanted for
#[derive(Clone, Copy, Debug)]
enum Purpose<'p> {
    /// To be here later
    Keep,
    /// To be put there
    Copy(&'p Path),
}

/// Where a file is
#[derive(Debug)]
enum Source {
    Path(PathBuf),
    Http(Url),
}

impl Artifacts {
    /// Keeps files in `folder`, which is created when the first one comes
    pub(super) fn new(folder: PathBuf, limits: DownloadLimits) -> Self {
        Self {
            kept: Kept {
                folder,
                max_bytes: limits.max_kept_bytes,
            },
            limits,
            client: OnceLock::new(),
            slots: Semaphore::new(PARALLEL_DOWNLOADS),
            running: Locks::default(),
            patience: limits.stall,
            arrivals: broadcast::Sender::new(ARRIVALS),
            failures: Failures::default(),
        }
    }

    /// Puts the file from `url` at `target`, which must be in an existing folder
    ///
    /// `sha256` is lower-case hexadecimal, or empty if nobody knows it. An existing file is replaced at once or not at
    /// all.
    pub(super) async fn provide(&self, url: &str, sha256: &str, target: &Path) -> Result<(), ArtifactError> {
        if !sha256.is_empty() {
            check_digest(sha256)?;
        }
        if target.is_dir() {
            return Err(ArtifactError::NotAFile {
                path: target.to_path_buf(),
            });
        }
        match source(url)? {
            Source::Path(path) => self.copy(path, sha256, target).await,
            Source::Http(url) if sha256.is_empty() => {
                if !self.limits.allow_unverified {
                    return Err(ArtifactError::NoDigest { url: shown(&url) });
                }
                tracing::warn!(url = shown(&url), "downloading a file that nothing verifies");
                let part = target.with_extension(partial::SUFFIX);
                self.download(url, sha256, target, part).await
            }
            Source::Http(url) => self.have(url, sha256, Purpose::Copy(target)).await,
        }
    }

    /// Has a file from the network in the cache, verified
    pub(super) async fn keep(&self, url: &str, sha256: &str) -> Result<(), ArtifactError> {
        let Source::Http(url) = source(url)? else {
            // It is on this machine.
            return Ok(());
        };
        if sha256.is_empty() {
            return Err(ArtifactError::NoDigest { url: shown(&url) });
        }
        check_digest(sha256)?;
        self.have(url, sha256, Purpose::Keep).await
    }

    /// Has a file from the network in the cache, and uses it
    ///
    /// Those who want it from the same address follow one download. Those who know another address try that one beside it when the
    /// download takes long, and take what comes first.
    async fn have(&self, url: Url, sha256: &str, purpose: Purpose<'_>) -> Result<(), ArtifactError> {
        let (kept, asked) = (self.kept.path(sha256), Instant::now());
        // What is held is in use: it is not evicted.
        let content = self.running.of(sha256);
        let _same_address = self.running.of(&format!("{sha256} {url}")).lock_owned().await;
        if let Ok(_turn) = timeout(self.patience, Arc::clone(&content).lock_owned()).await {
            return self.have_in_turn(url, sha256, &kept, asked, purpose).await;
        }
        tracing::info!(
            sha256,
            url = shown(&url),
            "another download of it takes long, it is tried from this address beside that one"
        );
        let digest = Digest::of(url.as_str().as_bytes()).to_string();
        let part = format!(
            "{sha256}-{}.{}",
            digest.get(..16).unwrap_or_default(),
            partial::SUFFIX
        );
        let part = kept.with_file_name(part);
        let beside = async {
            self.check_failures(&url, asked)?;
            let downloaded = self.download(url.clone(), sha256, &kept, part.clone()).await;
            self.note_failure(&url, &downloaded);
            downloaded
        };
        let mut beside = std::pin::pin!(beside);
        let downloaded = tokio::select! {
            _ = Arc::clone(&content).lock_owned() => {
                if kept.is_file() && self.take(&kept, sha256, purpose).await.is_ok() {
                    // What has come of it here is of no use any more.
                    let _ = std::fs::remove_file(&part);
                    return Ok(());
                }
                beside.await
            }
            downloaded = &mut beside => downloaded,
        };
        match downloaded {
            // Nobody may be there to hear it.
            Ok(()) => drop(self.arrivals.send(sha256.to_owned())),
            Err(error) => {
                let _turn = content.lock_owned().await;
                if !kept.is_file() {
                    return Err(error);
                }
            }
        }
        self.take(&kept, sha256, purpose).await
    }

    /// The same, for whoever downloads it now if it is not there
    async fn have_in_turn(
        &self,
        url: Url,
        sha256: &str,
        kept: &Path,
        asked: Instant,
        purpose: Purpose<'_>,
    ) -> Result<(), ArtifactError> {
        if kept.is_file() {
            match self.take(kept, sha256, purpose).await {
                Err(error) if is_damage(&error, kept) => {
                    tracing::warn!(file = %kept.display(), "a kept file was damaged; downloading it again");
                }
                result => return result,
            }
        }
        self.download_kept(url, sha256, kept, asked).await?;
        match purpose {
            Purpose::Keep => Ok(()),
            Purpose::Copy(target) => self.copy(kept.to_path_buf(), sha256, target).await,
        }
    }

    /// Uses a kept file, which is verified
    async fn take(&self, kept: &Path, sha256: &str, purpose: Purpose<'_>) -> Result<(), ArtifactError> {
        let taken = match purpose {
            Purpose::Copy(target) => self.copy(kept.to_path_buf(), sha256, target).await,
            Purpose::Keep => {
                let (path, expected) = (kept.to_path_buf(), sha256.to_owned());
                let limit = self.limits.max_bytes;
                blocking(kept, move || verify(&path, &expected, limit)).await
            }
        };
        if matches!(purpose, Purpose::Copy(_)) && !taken.as_ref().is_err_and(|error| is_damage(error, kept)) {
            self.kept.touch(sha256);
        }
        taken
    }

    /// Opens a file that is here: kept, or on this machine anyway
    pub(super) fn open(&self, url: &str, sha256: &str) -> Result<File, ArtifactError> {
        let path = match source(url)? {
            Source::Path(path) => path,
            Source::Http(_) => {
                check_digest(sha256)?;
                self.kept.path(sha256)
            }
        };
        durable::open_regular(&path, OpenOptions::new().read(true)).map_err(io_error(&path))
    }

    /// Has a file in the cache, or takes part in the failure of another download from there that ended since it was `asked` for
    async fn download_kept(
        &self,
        url: Url,
        sha256: &str,
        kept: &Path,
        asked: Instant,
    ) -> Result<(), ArtifactError> {
        self.check_failures(&url, asked)?;
        let folder = &self.kept.folder;
        durable::private_folder(folder).map_err(io_error(folder))?;
        let is_in_use = |path: &Path| {
            let content = path.file_stem().and_then(OsStr::to_str);
            let sha256 = content.and_then(|content| content.split('-').next());
            sha256.is_some_and(|sha256| self.running.is_wanted(sha256))
        };
        let unfinished = partial::sweep(folder, self.kept.max_bytes, is_in_use);
        let part = kept.with_extension(partial::SUFFIX);
        let mut arrivals = self.arrivals.subscribe();
        let arrived = async {
            loop {
                match arrivals.recv().await {
                    Ok(arrived) if arrived == sha256 => break,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    // The sender lives as long as this.
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let downloaded = tokio::select! {
            downloaded = self.download(url.clone(), sha256, kept, part.clone()) => downloaded,
            () = arrived => {
                tracing::info!(sha256, "it came from another address meanwhile");
                // What has come of it here is of no use any more.
                let _ = std::fs::remove_file(&part);
                Ok(())
            }
        };
        self.note_failure(&url, &downloaded);
        downloaded?;
        self.kept
            .evict(unfinished, |sha256| self.running.is_wanted(sha256));
        Ok(())
    }

    /// Fails as a download from there did that ended since this one was `asked` for
    fn check_failures(&self, url: &Url, asked: Instant) -> Result<(), ArtifactError> {
        let failed = |problem| ArtifactError::Download {
            url: shown(url),
            problem,
        };
        self.failures
            .since(url, asked)
            .map_or(Ok(()), |problem| Err(failed(problem)))
    }

    fn note_failure(&self, url: &Url, downloaded: &Result<(), ArtifactError>) {
        if let Err(ArtifactError::Download { problem, .. }) = downloaded {
            self.failures.note(url.clone(), problem.clone());
        }
    }

    /// Says what a kept file is; one that is not kept is none
    pub(super) fn describe(&self, sha256: &str, description: &Description) {
        if is_sha256(sha256)
            && let Err(error) = self.kept.describe(sha256, description)
        {
            tracing::warn!(sha256, %error, "what a kept file is cannot be written down");
        }
    }

    /// Bytes of the files that are kept
    pub(super) fn kept_bytes(&self) -> i64 {
        self.kept.bytes()
    }

    /// The runtimes that are kept
    pub(super) fn kept_jars(&self) -> Vec<JarCacheEntry> {
        self.kept.jars()
    }

    async fn copy(&self, from: PathBuf, sha256: &str, target: &Path) -> Result<(), ArtifactError> {
        let (sha256, target, limit) = (sha256.to_owned(), target.to_path_buf(), self.limits.max_bytes);
        blocking(&target.clone(), move || copy(&from, &sha256, &target, limit)).await
    }

    /// Puts at `target` what comes, which is gathered in `part` if it has a digest
    async fn download(
        &self,
        url: Url,
        sha256: &str,
        target: &Path,
        part: PathBuf,
    ) -> Result<(), ArtifactError> {
        let shown = shown(&url);
        // Never closed. Waiting for a slot does not count towards the deadline.
        let _slot = self.slots.acquire().await;
        let client = self.client().map_err(|error| ArtifactError::Download {
            url: shown.clone(),
            problem: download::causes(&error.without_url()),
        })?;
        let download = Download {
            client,
            url,
            shown: shown.clone(),
            sha256,
            target,
            part,
            max_bytes: self.limits.max_bytes,
        };
        match timeout(self.limits.deadline, download.run()).await {
            Ok(result) => result,
            Err(_) => Err(ArtifactError::Download {
                url: shown,
                problem: format!("not complete within {} s", self.limits.deadline.as_secs()),
            }),
        }
    }

    /// The client is made when it is first needed: it reads the system's certificates
    fn client(&self) -> Result<reqwest::Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let client = download::client(self.limits.stall)?;
        Ok(self.client.get_or_init(|| client).clone())
    }
}

/// Whether a kept file is not what it was, so that another one takes its place
fn is_damage(error: &ArtifactError, kept: &Path) -> bool {
    match error {
        ArtifactError::WrongDigest { .. } | ArtifactError::TooLarge { .. } => true,
        ArtifactError::Io { path, error } => {
            path == kept && error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        }
        _ => false,
    }
}

/// Whether a file has to be there after a power failure
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasts {
    Yes,
    No,
}

/// Gives a file its name if it is what was wanted; else nobody goes on with it
fn finish(
    partial: Partial,
    target: &Path,
    origin: &str,
    sha256: &str,
    lasts: Lasts,
) -> Result<(), ArtifactError> {
    let got = partial.digest().to_string();
    if !sha256.is_empty() && got != sha256 {
        partial.discard();
        return Err(ArtifactError::WrongDigest {
            origin: origin.to_owned(),
            expected: sha256.to_owned(),
            got,
        });
    }
    if lasts == Lasts::Yes {
        partial.sync().map_err(io_error(target))?;
    }
    partial.keep(target).map_err(io_error(target))?;
    match lasts {
        Lasts::Yes => durable::sync_parent(target).map_err(io_error(target)),
        Lasts::No => Ok(()),
    }
}

fn copy(from: &Path, sha256: &str, target: &Path, limit: u64) -> Result<(), ArtifactError> {
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ArtifactError::Missing {
            path: from.to_path_buf(),
        },
        _ => io_error(from)(error),
    };
    // Without NONBLOCK, opening a pipe would wait for its writer; what was opened is what is looked at.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).custom_flags(nonblocking).open(from);
    let not_a_file = || ArtifactError::NotAFile {
        path: from.to_path_buf(),
    };
    let mut file = match opened {
        // A socket cannot be opened at all.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            return Err(not_a_file());
        }
        opened => opened.map_err(missing)?,
    };
    let metadata = file.metadata().map_err(missing)?;
    if !metadata.is_file() {
        return Err(not_a_file());
    }
    if metadata.len() > limit {
        return Err(ArtifactError::TooLarge {
            origin: from.display().to_string(),
            limit,
        });
    }
    let mut partial = Partial::beside(target).map_err(io_error(target))?;
    if !partial.share(&file, limit).map_err(io_error(target))? {
        let mut buffer = vec![0; 256 * 1024];
        while partial.length() <= limit {
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_error(from)(error)),
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            partial.write(bytes).map_err(io_error(target))?;
        }
    }
    if partial.length() > limit {
        return Err(ArtifactError::TooLarge {
            origin: from.display().to_string(),
            limit,
        });
    }
    // The preparation syncs it where it has to last.
    let origin = from.display().to_string();
    finish(partial, target, &origin, sha256, Lasts::No)
}

/// Reads a kept file, and says whether it is what its name says
fn verify(path: &Path, sha256: &str, limit: u64) -> Result<(), ArtifactError> {
    let file = durable::open_regular(path, OpenOptions::new().read(true)).map_err(io_error(path))?;
    // One byte more, to see whether there is more.
    let mut bounded = file.take(limit.saturating_add(1));
    let digest = Digest::of_reader(&mut bounded).map_err(io_error(path))?;
    if bounded.limit() == 0 {
        let origin = path.display().to_string();
        return Err(ArtifactError::TooLarge { origin, limit });
    }
    let got = digest.to_string();
    if got == sha256 {
        return Ok(());
    }
    Err(ArtifactError::WrongDigest {
        origin: path.display().to_string(),
        expected: sha256.to_owned(),
        got,
    })
}

fn source(url: &str) -> Result<Source, ArtifactError> {
    let unsupported = || ArtifactError::UnsupportedUrl {
        url: redact::urls(url).chars().take(200).collect(),
    };
    if url.is_empty() {
        return Err(ArtifactError::NoSource);
    }
    if Path::new(url).is_absolute() {
        return Ok(Source::Path(PathBuf::from(url)));
    }
    if url
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
    {
        return file(url).map(Source::Path).ok_or_else(unsupported);
    }
    let parsed = Url::parse(url).map_err(|_| unsupported())?;
    match parsed.scheme() {
        "http" | "https" => Ok(Source::Http(parsed)),
        _ => Err(unsupported()),
    }
}

/// A file has neither query nor fragment: what looks like one is part of its name
fn file(url: &str) -> Option<PathBuf> {
    let mut escaped = String::with_capacity(url.len());
    for character in url.chars() {
        match character {
            '?' | '#' | '\\' | '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "%{:02X}", u32::from(character));
            }
            other => escaped.push(other),
        }
    }
    Url::parse(&escaped).ok()?.to_file_path().ok()
}

/// The address without what may be secret in it: user, password and query
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Cannot fail for http and https.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> ArtifactError + '_ {
    move |error| ArtifactError::Io {
        path: path.to_path_buf(),
        error,
    }
}

fn check_digest(sha256: &str) -> Result<(), ArtifactError> {
    if is_sha256(sha256) {
        return Ok(());
    }
    Err(ArtifactError::MalformedDigest {
        given: sha256.chars().take(80).collect(),
    })
}

fn is_sha256(text: &str) -> bool {
    text.parse::<Digest>().is_ok()
}

/// Runs file work where it may block
async fn blocking(
    path: &Path,
    work: impl FnOnce() -> Result<(), ArtifactError> + Send + 'static,
) -> Result<(), ArtifactError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io_error(path)(io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests;
