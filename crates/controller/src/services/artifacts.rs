//! `ArtifactService`: what a node was told to fetch, in pieces, on a connection of its own

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use prexorcloud_content::{Digest, Hasher};
use prexorcloud_proto::{
    ArtifactChunk, ArtifactKind, FetchArtifactRequest, artifact_service_server::ArtifactService,
};
use prexorcloud_protocol::{Code, ModuleId, NodeId, TemplateName};
use prexorcloud_security::revocation::SharedRevocations;
use prexorcloud_transport::Peer;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tonic::{Request, Response, Status};

use super::node_of;
use crate::nodes::{Fetching, NodeContext, NotGranted};

/// Calls of all nodes at a time; each has a few pieces in memory
const CALLS: usize = 256;

/// Pieces that are read ahead of what HTTP/2 takes
const AHEAD: usize = 2;

/// How long a daemon may take nothing until its call is ended; it calls again when it can
const STALLED: Duration = Duration::from_secs(60);

/// Implements `ArtifactService` over what nodes were told to fetch
///
/// | Status | When |
/// |---|---|
/// | `INVALID_ARGUMENT` | no kind, an unsafe name, a hash that is none, a negative offset |
/// | `NOT_FOUND` | the node was not told to fetch this, or it is gone: ask for the template again |
/// | `OUT_OF_RANGE` | an offset past the end |
/// | `DATA_LOSS` | it was damaged on disk, and is made anew: fetch it from its first byte |
/// | `PERMISSION_DENIED` | not a node's certificate, or a revoked one |
/// | `RESOURCE_EXHAUSTED` | too many calls at once |
/// | `UNAVAILABLE` | the storage failed, the controller stops, or the daemon took nothing for a minute: continue |
pub(crate) struct Artifacts {
    context: Arc<NodeContext>,
    revocations: SharedRevocations,
    turns: Arc<Semaphore>,
}

impl Artifacts {
    pub(crate) fn new(context: Arc<NodeContext>, revocations: SharedRevocations) -> Self {
        Self {
            context,
            revocations,
            turns: Arc::new(Semaphore::new(CALLS)),
        }
    }

    fn caller(&self, request: &Request<FetchArtifactRequest>) -> Result<NodeId, Status> {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::permission_denied("a node's certificate is required"))?;
        node_of(peer, &self.revocations).map_err(|close| match close.code {
            Code::PermissionDenied => Status::permission_denied(close.message),
            _ => Status::unavailable(close.message),
        })
    }
}

/// What a call asks for, where it makes sense
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    kind: ArtifactKind,
    /// A safe name: of a template, or of a module
    name: String,
    digest: Digest,
    offset: u64,
}

impl Asked {
    fn read(request: &FetchArtifactRequest) -> Result<Self, Status> {
        let invalid = |what: String| Status::invalid_argument(what);
        let kind = ArtifactKind::try_from(request.kind);
        let name = match kind {
            Ok(ArtifactKind::Template) => TemplateName::new(&request.name).map(|name| name.to_string()),
            Ok(ArtifactKind::Module) => ModuleId::new(&request.name).map(|name| name.to_string()),
            _ => return Err(invalid(format!("{} is no kind of artifact", request.kind))),
        };
        let kind = kind.unwrap_or_default();
        let name = name.map_err(|error| invalid(format!("the name: {error}")))?;
        let digest = request.hash.parse();
        let digest = digest.map_err(|_| invalid("the hash is not a SHA-256 in lower-case hex".to_owned()))?;
        let offset = u64::try_from(request.offset);
        let offset = offset.map_err(|_| invalid("the offset is negative".to_owned()))?;
        Ok(Self {
            kind,
            name,
            digest,
            offset,
        })
    }
}

fn lost() -> Status {
    Status::not_found("it is missing on the controller's disk, and cannot be made anew: push it again")
}

fn unknown() -> Status {
    Status::not_found("this node was not told to fetch that; ask for the template again")
}

#[tonic::async_trait]
impl ArtifactService for Artifacts {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<ArtifactChunk, Status>> + Send>>;

    async fn fetch(
        &self,
        request: Request<FetchArtifactRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let node = self.caller(&request)?;
        let asked = Asked::read(request.get_ref())?;
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            return Err(Status::resource_exhausted(
                "too many artifacts are being fetched, try again",
            ));
        };
        let grants = &self.context.grants;
        let begun = grants.begin(Instant::now(), node, (asked.kind, &asked.name), asked.digest);
        let fetching = begun.map_err(|error| match error {
            NotGranted::Unknown => unknown(),
            NotGranted::Busy => Status::resource_exhausted("this node fetches too much at once, try again"),
        })?;
        let content = self.context.templates.content();
        let failed = |error| {
            tracing::error!(%node, template = %asked.name, %error, "an artifact cannot be read");
            Status::unavailable("the controller's storage failed, try again")
        };
        let sizes = match content.renew(vec![asked.digest]).await.map_err(failed)? {
            sizes if sizes.get(&asked.digest).is_some_and(|size| *size > 0) => sizes,
            // No artifact is empty: it is gone from the disk, or the disk has lost what was in it.
            _ => {
                let archive = asked.kind == ArtifactKind::Template;
                let made = archive && self.context.templates.mend(asked.digest).await.unwrap_or(false);
                tracing::error!(%node, name = %asked.name, made, "an artifact is missing on the controller's disk");
                content.renew(vec![asked.digest]).await.map_err(failed)?
            }
        };
        let size = *sizes.get(&asked.digest).ok_or_else(lost)?;
        if asked.offset > size {
            return Err(Status::out_of_range(format!("it has {size} bytes")));
        }
        let pieces = content.stream(asked.digest, asked.offset).await.map_err(failed)?;
        let pieces = pieces.ok_or_else(unknown)?;
        let (chunks, mut received) = mpsc::channel(AHEAD);
        let sending = Sending {
            context: Arc::clone(&self.context),
            node,
            asked,
            size,
            chunks,
            _fetching: fetching,
        };
        tokio::spawn(async move {
            sending.run(pieces).await;
            drop(turn);
        });
        let chunks = stream::poll_fn(move |context| received.poll_recv(context));
        Ok(Response::new(Box::pin(chunks)))
    }
}

/// One call on its way
struct Sending {
    context: Arc<NodeContext>,
    node: NodeId,
    asked: Asked,
    size: u64,
    chunks: mpsc::Sender<Result<ArtifactChunk, Status>>,
    _fetching: Fetching,
}

impl Sending {
    async fn run(self, pieces: impl Stream<Item = std::io::Result<Bytes>>) {
        let mut pieces = std::pin::pin!(pieces);
        let mut sent = self.asked.offset;
        // Of what was sent from the beginning it is known whether it is what it should be.
        let mut hasher = (sent == 0).then(Hasher::default);
        if sent == self.size {
            self.send(sent, Bytes::new()).await;
            return;
        }
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = self.context.stopping.cancelled() => return self.end("the controller is stopping").await,
            };
            match piece {
                Some(Ok(piece)) if sent + piece.len() as u64 <= self.size => {
                    if let Some(hasher) = &mut hasher {
                        hasher.update(&piece);
                    }
                    let begin = sent;
                    sent += piece.len() as u64;
                    if sent == self.size {
                        // Before the last piece: a daemon would take it for whole.
                        let is_it = hasher.is_none_or(|hasher| hasher.finish() == self.asked.digest);
                        if !is_it {
                            return self.mend().await;
                        }
                        self.send(begin, piece).await;
                        return;
                    }
                    if !self.send(begin, piece).await {
                        return;
                    }
                }
                Some(Err(error)) => {
                    let (node, template) = (self.node, &self.asked.name);
                    tracing::error!(%node, %template, %error, "an artifact cannot be read");
                    return self.end("the controller's storage failed, try again").await;
                }
                Some(Ok(_)) | None => return self.mend().await,
            }
        }
    }

    /// Makes the archive anew, since it is not what it was
    async fn mend(&self) {
        let (node, template) = (self.node, &self.asked.name);
        if self.asked.kind == ArtifactKind::Module {
            tracing::error!(%node, module = %template, "the jar of a module is damaged on the controller's disk; uninstall it and install it again");
            if let Err(error) = self.context.modules.content().discard(self.asked.digest).await {
                tracing::error!(module = %template, %error, "a damaged jar cannot be removed");
            }
            return self
                .end("the jar is damaged on the controller's disk, and has to be installed again")
                .await;
        }
        tracing::error!(%node, %template, "the archive of a template is damaged on the controller's disk, and is made anew");
        if let Err(error) = self.context.templates.mend(self.asked.digest).await {
            tracing::error!(%template, %error, "the archive of a template cannot be made anew; push the template again");
        }
        let damaged = Status::data_loss("it was damaged on the controller's disk; fetch it again");
        // Whoever does not listen does not need to be told.
        let _ = timeout(STALLED, self.chunks.send(Err(damaged))).await;
    }

    /// Whether the daemon still listens
    async fn send(&self, offset: u64, data: Bytes) -> bool {
        let end = offset + data.len() as u64;
        let chunk = ArtifactChunk {
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            data,
            last: end == self.size,
        };
        match timeout(STALLED, self.chunks.send(Ok(chunk))).await {
            Ok(sent) => sent.is_ok(),
            Err(_) => {
                tracing::info!(node = %self.node, template = %self.asked.name, "a daemon takes nothing of an artifact; its call is ended");
                false
            }
        }
    }

    async fn end(&self, reason: &'static str) {
        // Whoever does not listen does not need to be told.
        let _ = timeout(STALLED, self.chunks.send(Err(Status::unavailable(reason)))).await;
    }
}
