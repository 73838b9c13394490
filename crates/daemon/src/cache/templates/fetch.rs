//! Archives in pieces, on a connection of their own
//!
//! The session's connection has pings to answer, so large things come on another one, with the same certificate. All
//! transfers share it, and it is closed after the last. What a transfer does next is decided by [`Transfer`]; here it is
//! carried out: one task reads from the network, and one thread writes and computes the digest.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryFutureExt as _};
use prexorcloud_content::Digest;
use prexorcloud_proto::artifact_service_client::ArtifactServiceClient;
use prexorcloud_proto::{ArtifactChunk, ArtifactKind, ArtifactRef, FetchArtifactRequest};
use prexorcloud_protocol::content::transfer::{
    MAX_CHUNK_BYTES, Transfer, TransferConfig, TransferFailure, TransferOutcome, TransferOutput,
};
use prexorcloud_transport::tonic::{Status, Streaming};
use prexorcloud_transport::{Connection, Dialer, Target, due};

use super::writer::Writer;
use crate::partial::Partial;

/// More than a message has beside its piece
const ENVELOPE_BYTES: usize = 1024;

/// What is to be fetched
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Artifact {
    pub(crate) kind: ArtifactKind,
    pub(crate) name: String,
    pub(crate) sha256: Digest,
    pub(crate) bytes: u64,
}

impl Artifact {
    /// `None` if the reference makes no sense
    pub(crate) fn new(kind: ArtifactKind, name: &str, reference: &ArtifactRef) -> Option<Self> {
        Some(Self {
            kind,
            name: name.to_owned(),
            sha256: reference.sha256.parse().ok()?,
            bytes: u64::try_from(reference.size_bytes).ok()?,
        })
    }
}

/// Why an artifact is not here
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0}")]
    Gone(String),
    #[error(transparent)]
    Failed(#[from] TransferFailure),
    #[error("it cannot be written: {0}")]
    Disk(#[from] io::Error),
}

/// Where artifacts come from: the controller that the session is with
#[derive(Debug)]
pub(crate) struct Source {
    dialer: Dialer,
    dialled: Arc<Mutex<Option<Target>>>,
    line: Mutex<Line>,
    /// One dials at a time, and the others take what it got
    dialling: tokio::sync::Mutex<()>,
}

/// The connection that all transfers share
#[derive(Debug, Default)]
struct Line {
    connection: Option<Connection>,
    transfers: usize,
}

/// Keeps the connection open
struct OnLine<'a>(&'a Source);

impl Drop for OnLine<'_> {
    fn drop(&mut self) {
        let mut line = self.0.line();
        line.transfers -= 1;
        if line.transfers == 0 {
            line.connection = None;
        }
    }
}

impl Source {
    pub(crate) fn new(dialer: Dialer, dialled: Arc<Mutex<Option<Target>>>) -> Self {
        Self {
            dialer,
            dialled,
            line: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings an artifact, whole and verified, to `path`, where what has come of it earlier may be; it is on disk then
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        artifact: &Artifact,
        path: PathBuf,
    ) -> Result<Partial, FetchError> {
        self.line().transfers += 1;
        let _on_line = OnLine(self);
        let mut writer = Writer::open(path, artifact.bytes).await?;
        let (now, here, config) = (Instant::now(), writer.written(), TransferConfig::default());
        if here > 0 {
            tracing::info!(
                name = artifact.name,
                bytes = here,
                "what has come of it earlier is gone on with"
            );
        }
        let mut transfer = Transfer::resumed(now, artifact.bytes, here, config);
        let mut call: Option<BoxStream<'static, Result<ArtifactChunk, Status>>> = None;
        loop {
            while let Some(output) = transfer.poll_output() {
                match output {
                    TransferOutput::Call { offset } => {
                        writer.keep(offset).await?;
                        let opened = Arc::clone(self).open(artifact.clone(), offset);
                        call = Some(opened.try_flatten_stream().boxed());
                    }
                    TransferOutput::Verify => {
                        call = None;
                        let sha256 = writer.digest().await?;
                        transfer.handle_verified(Instant::now(), sha256 == artifact.sha256);
                    }
                    TransferOutput::Settled(TransferOutcome::Whole) => return Ok(writer.finish().await?),
                    TransferOutput::Settled(TransferOutcome::Gone { message }) => {
                        return Err(FetchError::Gone(message));
                    }
                    TransferOutput::Settled(TransferOutcome::Failed(failure)) => {
                        if !matches!(failure, TransferFailure::Stuck { .. }) {
                            writer.discard().await;
                        }
                        return Err(failure.into());
                    }
                }
            }
            tokio::select! {
                biased;
                chunk = next(&mut call) => {
                    let now = Instant::now();
                    match chunk {
                        Some(Ok(ArtifactChunk { offset, data, last })) => {
                            if transfer.handle_chunk(now, offset, data.len(), last) {
                                writer.write(data).await?;
                            }
                        }
                        Some(Err(status)) => {
                            call = None;
                            transfer.handle_status(now, status.code().into(), status.message());
                        }
                        None => {
                            call = None;
                            transfer.handle_cut(now, "the call ended before the artifact did");
                        }
                    }
                }
                () = due(transfer.poll_timeout()) => {
                    transfer.handle_timeout(Instant::now());
                    // What stood still is not listened to any more.
                    call = None;
                }
            }
        }
    }

    async fn open(
        self: Arc<Self>,
        artifact: Artifact,
        offset: u64,
    ) -> Result<Streaming<ArtifactChunk>, Status> {
        let connection = self.connection().await?;
        let request = FetchArtifactRequest {
            kind: artifact.kind.into(),
            name: artifact.name,
            hash: artifact.sha256.to_string(),
            offset: i64::try_from(offset).map_err(|_| Status::out_of_range("more than a file has"))?,
        };
        let mut client = ArtifactServiceClient::new(connection)
            .max_decoding_message_size(MAX_CHUNK_BYTES + ENVELOPE_BYTES);
        Ok(client.fetch(request).await?.into_inner())
    }

    /// The connection to the controller of the moment
    async fn connection(&self) -> Result<Connection, Status> {
        let _turn = self.dialling.lock().await;
        let target = self
            .dialled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let target = target.ok_or_else(|| Status::unavailable("no controller was dialled"))?;
        let usable = |connection: &&Connection| connection.is_open() && *connection.target() == target;
        if let Some(connection) = self.line().connection.as_ref().filter(usable) {
            return Ok(connection.clone());
        }
        let dialled = self.dialer.dial(&target).await;
        let connection = dialled.map_err(|error| Status::unavailable(error.to_string()))?;
        self.line().connection = Some(connection.clone());
        Ok(connection)
    }
}

async fn next(
    call: &mut Option<BoxStream<'static, Result<ArtifactChunk, Status>>>,
) -> Option<Result<ArtifactChunk, Status>> {
    match call {
        Some(call) => call.next().await,
        None => std::future::pending().await,
    }
}
