//! A file that grows while it comes, with its digest

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prexorcloud_content::{Digest, Hasher};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::durable;

/// Pieces that wait for the disk; a controller sends no more until there is room
const WAITING: usize = 4;

/// Bytes of the volume that are left to everything else
const RESERVE: u64 = 64 << 20;

/// A file that is whole and on disk, and goes with this unless it is [kept](Part::keep)
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    pub(super) sha256: Digest,
    pub(super) bytes: u64,
}

impl Part {
    /// Gives it its name; the caller syncs the folder
    pub(super) fn keep(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "what has come of a template cannot be deleted");
    }
}

enum Piece {
    /// Nothing of what has come
    Begin,
    Bytes(Bytes),
    Digest(oneshot::Sender<Digest>),
    Finish(oneshot::Sender<Part>),
}

/// Writes such a file on a thread of its own
#[derive(Debug)]
pub(super) struct Writer {
    pieces: mpsc::Sender<Piece>,
    thread: Option<JoinHandle<io::Result<()>>>,
    written: u64,
}

impl Writer {
    /// Begins one of `bytes` bytes; its folder is made if it is not there
    pub(super) fn begin(path: PathBuf, bytes: u64) -> Self {
        let (pieces, received) = mpsc::channel(WAITING);
        let thread = tokio::task::spawn_blocking(move || {
            let written = write(&path, bytes, received);
            if written.is_err() {
                remove(&path);
            }
            written
        });
        Self {
            pieces,
            thread: Some(thread),
            written: 0,
        }
    }

    /// Keeps the first `bytes` of what has come: all of it, or nothing
    pub(super) async fn keep(&mut self, bytes: u64) -> io::Result<()> {
        if bytes == self.written {
            return Ok(());
        }
        self.written = 0;
        self.send(Piece::Begin).await
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.send(Piece::Bytes(bytes)).await
    }

    /// Of what has come
    pub(super) async fn digest(&mut self) -> io::Result<Digest> {
        self.ask(Piece::Digest).await
    }

    /// Makes it last
    pub(super) async fn finish(mut self) -> io::Result<Part> {
        self.ask(Piece::Finish).await
    }

    async fn ask<T>(&mut self, piece: impl FnOnce(oneshot::Sender<T>) -> Piece) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        self.send(piece(answer)).await?;
        match answered.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.failure().await),
        }
    }

    async fn send(&mut self, piece: Piece) -> io::Result<()> {
        match self.pieces.send(piece).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    async fn failure(&mut self) -> io::Error {
        let ended = || io::Error::other("its writer ended");
        match self.thread.take() {
            Some(thread) => match thread.await {
                Ok(Err(error)) => error,
                _ => ended(),
            },
            None => ended(),
        }
    }
}

fn write(path: &Path, bytes: u64, mut pieces: mpsc::Receiver<Piece>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        durable::private_folder(folder)?;
        let volume = rustix::fs::statvfs(folder)?;
        if volume.f_bavail.saturating_mul(volume.f_frsize) < bytes.saturating_add(RESERVE) {
            return Err(io::ErrorKind::StorageFull.into());
        }
    }
    let mut options = OpenOptions::new();
    let mut file: File = options
        .write(true)
        .create_new(true)
        .mode(durable::PRIVATE_FILE)
        .open(path)?;
    let mut hasher = Hasher::default();
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Begin => {
                file.set_len(0)?;
                file.rewind()?;
                hasher = Hasher::default();
            }
            Piece::Bytes(bytes) => {
                file.write_all(&bytes)?;
                hasher.update(&bytes);
            }
            Piece::Digest(answer) => drop(answer.send(hasher.clone().finish())),
            Piece::Finish(answer) => {
                file.sync_all()?;
                let part = Part {
                    path: path.to_path_buf(),
                    sha256: hasher.finish(),
                    bytes: file.metadata()?.len(),
                };
                // Whoever asked may be gone, and the file with what it was told.
                drop(answer.send(part));
                return Ok(());
            }
        }
    }
    Err(io::Error::other("nobody waits for it any more"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_file_has_its_digest_and_goes_unless_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache/a.part");
        let mut writer = Writer::begin(path.clone(), 6);
        for (piece, kept) in [("wrong", 0), ("abc", 3), ("def", 6)] {
            writer.write(Bytes::from(piece)).await.unwrap();
            writer.keep(kept).await.unwrap();
        }
        let digest = Digest::of(b"abcdef");
        assert_eq!(writer.digest().await.unwrap(), digest);
        let part = writer.finish().await.unwrap();
        assert_eq!((part.sha256, part.bytes), (digest, 6));
        assert_eq!(fs::read(&path).unwrap(), b"abcdef");
        part.keep(&folder.path().join("kept")).unwrap();
        assert_eq!(fs::read(folder.path().join("kept")).unwrap(), b"abcdef");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_nobody_finishes_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.part");
        let mut writer = Writer::begin(path.clone(), 6);
        writer.write(Bytes::from("abc")).await.unwrap();
        let thread = writer.thread.take().unwrap();
        drop(writer);
        assert!(thread.await.unwrap().is_err());
        assert!(!path.exists());
        let mut writer = Writer::begin(path.clone(), 0);
        writer.digest().await.unwrap();
        drop(writer.finish().await.unwrap());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_does_not_fit_on_the_volume_is_told_before_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::begin(folder.path().join("a.part"), u64::MAX / 2);
        let error = writer.digest().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
