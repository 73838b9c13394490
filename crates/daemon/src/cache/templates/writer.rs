//! The thread that writes what comes of an archive

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prexorcloud_content::Digest;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::durable;
use crate::partial::Partial;

/// Pieces that wait for the disk; a controller sends no more until there is room
const WAITING: usize = 4;

/// Bytes of the volume that are left to everything else
const RESERVE: u64 = 64 << 20;

enum Piece {
    /// How much there is of it
    Length(oneshot::Sender<u64>),
    /// Nothing of what has come
    Begin,
    /// Nobody goes on with it
    Discard,
    Bytes(Bytes),
    Digest(oneshot::Sender<Digest>),
    Finish(oneshot::Sender<Partial>),
}

/// Writes such a file on a thread of its own
#[derive(Debug)]
pub(super) struct Writer {
    pieces: mpsc::Sender<Piece>,
    thread: Option<JoinHandle<io::Result<()>>>,
    written: u64,
}

impl Writer {
    /// Goes on with one of `bytes` bytes, or begins it; its folder is made if it is not there
    pub(super) async fn open(path: PathBuf, bytes: u64) -> io::Result<Self> {
        let (pieces, received) = mpsc::channel(WAITING);
        let thread = tokio::task::spawn_blocking(move || write(path, bytes, received));
        let mut writer = Self {
            pieces,
            thread: Some(thread),
            written: 0,
        };
        writer.written = writer.ask(Piece::Length).await?;
        Ok(writer)
    }

    /// Bytes that are there
    pub(super) fn written(&self) -> u64 {
        self.written
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
    pub(super) async fn finish(mut self) -> io::Result<Partial> {
        self.ask(Piece::Finish).await
    }

    /// Deletes it: nobody goes on with what is damaged
    pub(super) async fn discard(mut self) {
        // If its thread has ended, so has the file.
        let _ = self.send(Piece::Discard).await;
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

fn write(path: PathBuf, bytes: u64, mut pieces: mpsc::Receiver<Piece>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        durable::private_folder(folder)?;
    }
    let mut partial = Partial::resume(path.clone(), bytes)?;
    let room = require_room(&path, bytes.saturating_sub(partial.length()));
    let take = |partial: &mut Partial, piece| -> io::Result<Option<oneshot::Sender<Partial>>> {
        match piece {
            Piece::Length(answer) => drop(answer.send(partial.length())),
            Piece::Begin => partial.restart()?,
            Piece::Bytes(bytes) => partial.write(&bytes)?,
            Piece::Digest(answer) => drop(answer.send(partial.digest())),
            Piece::Discard => return Err(io::Error::other("it is given up")),
            Piece::Finish(answer) => {
                partial.sync()?;
                return Ok(Some(answer));
            }
        }
        Ok(None)
    };
    if let Err(error) = room {
        partial.discard();
        return Err(error);
    }
    while let Some(piece) = pieces.blocking_recv() {
        match take(&mut partial, piece) {
            Ok(None) => {}
            Ok(Some(answer)) => {
                // Whoever asked may be gone: the next one finds it whole.
                drop(answer.send(partial));
                return Ok(());
            }
            Err(error) => {
                // A disk that is full has to get its space back.
                partial.discard();
                return Err(error);
            }
        }
    }
    Err(io::Error::other("nobody waits for it any more"))
}

fn require_room(path: &Path, bytes: u64) -> io::Result<()> {
    let volume = rustix::fs::statvfs(path)?;
    if volume.f_bavail.saturating_mul(volume.f_frsize) < bytes.saturating_add(RESERVE) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_file_is_gone_on_with_and_has_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache/a.part");
        let mut writer = Writer::open(path.clone(), 6).await.unwrap();
        for (piece, kept) in [("wrong", 0), ("abc", 3)] {
            writer.write(Bytes::from(piece)).await.unwrap();
            writer.keep(kept).await.unwrap();
        }
        let thread = writer.thread.take().unwrap();
        drop(writer);
        assert!(thread.await.unwrap().is_err());
        let mut writer = Writer::open(path.clone(), 6).await.unwrap();
        assert_eq!(writer.written(), 3);
        writer.write(Bytes::from("def")).await.unwrap();
        let digest = Digest::of(b"abcdef");
        assert_eq!(writer.digest().await.unwrap(), digest);
        let part = writer.finish().await.unwrap();
        assert_eq!((part.digest(), part.length()), (digest, 6));
        part.keep(&folder.path().join("kept")).unwrap();
        assert_eq!(fs::read(folder.path().join("kept")).unwrap(), b"abcdef");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn nobody_goes_on_with_what_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.part");
        let mut writer = Writer::open(path.clone(), 6).await.unwrap();
        writer.write(Bytes::from("abc")).await.unwrap();
        let thread = writer.thread.take().unwrap();
        writer.discard().await;
        assert!(thread.await.unwrap().is_err());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_does_not_fit_on_the_volume_is_told_before_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.part");
        let error = Writer::open(path.clone(), u64::MAX / 2).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(!path.exists());
    }
}
