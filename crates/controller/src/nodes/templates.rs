//! Templates on their way to a node
//!
//! An answer may have 100 MiB, so few are in memory at a time, and each leaves when its stream has room for it. A start names
//! the version that counted when it was ordered; whoever names none gets the one that counts now.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prexorcloud_content::{Digest, MAX_INLINE_BYTES};
use prexorcloud_proto::{
    ArtifactKind, ArtifactRef, ErrorReport, TemplateData, TemplateRequest, TemplateUpToDate,
    controller_message,
};
use prexorcloud_protocol::{
    Capabilities, ControllerSession, NodeId,
    content::requests::{TEMPLATE_NOT_FOUND, TEMPLATE_TOO_LARGE, TEMPLATE_UNAVAILABLE},
    limits::MAX_MESSAGE_BYTES,
};
use prexorcloud_transport::SessionHandle;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    inline::{is_next, until_next},
    registry::NodeContext,
    task::Node,
};
use crate::{
    records::InstanceRecord,
    store,
    templates::{TemplateError, TemplateVersionRecord, layers},
};

/// Answers of a node that are under way; a daemon asks for four at a time
const AT_ONCE: usize = 16;

/// Archives that are in memory for all nodes
pub(crate) const IN_MEMORY: usize = 2;

/// How long an answer may take; the daemon waits for 120 s
const WITHIN: Duration = Duration::from_secs(110);

/// Why a daemon does not get a template
struct Refusal {
    code: &'static str,
    message: String,
}

impl From<TemplateError> for Refusal {
    fn from(error: TemplateError) -> Self {
        Self {
            code: TEMPLATE_UNAVAILABLE,
            message: error.to_string(),
        }
    }
}

/// The answers that a node has under way
pub(super) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE))
}

impl Node {
    pub(super) fn serve_template(&mut self, request: TemplateRequest) {
        let Ok(turn) = Arc::clone(&self.template_turns).try_acquire_owned() else {
            let message = "this node asks for too many templates at once";
            return self.answer_error(
                "TemplateRequest",
                TEMPLATE_UNAVAILABLE,
                message,
                request.template_name,
            );
        };
        let Some(session) = self.current_session().cloned() else {
            return;
        };
        let (context, node) = (Arc::clone(&self.context), self.id);
        tokio::spawn(async move {
            let name = request.template_name.clone();
            if timeout(WITHIN, serve(&context, node, &session, request))
                .await
                .is_err()
            {
                let code = TEMPLATE_UNAVAILABLE;
                let message =
                    "it could not be sent in time, since the daemon or the disk was busy".to_owned();
                refuse(node, &session, name, Refusal { code, message });
            }
            drop(turn);
        });
    }
}

async fn serve(
    context: &NodeContext,
    node: NodeId,
    session: &SessionHandle<ControllerSession>,
    request: TemplateRequest,
) {
    let name = request.template_name.clone();
    let version = match wanted(context, node, &request).await {
        Ok(version) => version,
        Err(refusal) => return refuse(node, session, name, refusal),
    };
    if version.is_known_as(&request.known_hash) {
        let up_to_date = TemplateUpToDate { template_name: name };
        let payload = controller_message::Payload::TemplateUpToDate(up_to_date);
        if let Err(error) = session.with(|session, _| session.send(payload)) {
            tracing::debug!(%node, %error, "an answer about a template was not sent");
        }
        return;
    }
    if session
        .with(|session, _| session.capabilities())
        .is_some_and(|both| both.contains(Capabilities::ARTIFACTS))
    {
        return refer(context, node, session, name, &version);
    }
    if version.archive_bytes > MAX_INLINE_BYTES {
        let message = format!(
            "its archive has {} bytes, and a message {MAX_MESSAGE_BYTES}",
            version.archive_bytes
        );
        let code = TEMPLATE_TOO_LARGE;
        return refuse(node, session, name, Refusal { code, message });
    }
    loop {
        if !until_next(session).await {
            return;
        }
        let Ok(_turn) = context.archives.acquire().await else {
            return;
        };
        if !session.with(|session, _| is_next(session)) {
            continue;
        }
        let archive = match archive_of(context, &version).await {
            Ok(archive) => archive,
            Err(refusal) => return refuse(node, session, name, refusal),
        };
        let data = TemplateData {
            template_name: name.clone(),
            hash: version.archive.clone(),
            tar_gz: archive.into(),
            ..TemplateData::default()
        };
        let payload = controller_message::Payload::TemplateData(Box::new(data));
        let sent = session.with(|session, _| is_next(session).then(|| session.send(payload)));
        match sent {
            None => {}
            Some(Ok(())) => {
                let (version, bytes) = (version.number, version.archive_bytes);
                return tracing::info!(%node, template = name, version, bytes, "a template is sent");
            }
            Some(Err(error)) => {
                return tracing::debug!(%node, template = name, %error, "a template was not sent");
            }
        }
    }
}

/// Says where the daemon may fetch it
fn refer(
    context: &NodeContext,
    node: NodeId,
    session: &SessionHandle<ControllerSession>,
    name: String,
    version: &TemplateVersionRecord,
) {
    let Ok(digest) = version.archive.parse::<Digest>() else {
        return refuse(node, session, name, lost());
    };
    let pin = context.templates.content().pin(digest);
    context
        .grants
        .grant(Instant::now(), node, (ArtifactKind::Template, &name), digest, pin);
    let (number, bytes) = (version.number, version.archive_bytes);
    let data = TemplateData {
        template_name: name.clone(),
        hash: version.archive.clone(),
        artifact: Some(ArtifactRef {
            sha256: version.archive.clone(),
            size_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        }),
        ..TemplateData::default()
    };
    let payload = controller_message::Payload::TemplateData(Box::new(data));
    match session.with(|session, _| session.send(payload)) {
        Ok(()) => {
            tracing::info!(%node, template = name, version = number, bytes, "a daemon may fetch a template")
        }
        Err(error) => tracing::debug!(%node, template = name, %error, "a template was not sent"),
    }
}

/// The version that the request means, if this node was told to have it
///
/// A request without a hash means the version that the node was told: the one that counts, if it is among several.
async fn wanted(
    context: &NodeContext,
    node: NodeId,
    request: &TemplateRequest,
) -> Result<TemplateVersionRecord, Refusal> {
    let (name, wanted) = (request.template_name.as_str(), request.wanted_hash.as_str());
    let told = told(context, node, name).await?;
    let (versions, current) = match context.templates.versions(name).await {
        Ok(found) => found,
        Err(TemplateError::Unknown) => (Vec::new(), 0),
        Err(error) => return Err(error.into()),
    };
    let is_it = |version: &TemplateVersionRecord| {
        told.iter().any(|hash| version.is_known_as(hash))
            && (wanted.is_empty() || version.is_known_as(wanted))
    };
    let found = versions.into_iter().filter(is_it);
    if let Some(version) = found.max_by_key(|version| (version.number == current, version.number)) {
        return Ok(version);
    }
    // It was deleted after the node was told.
    let mut hashes = told
        .iter()
        .rev()
        .filter(|hash| wanted.is_empty() || *hash == wanted);
    if let Some(digest) = hashes.find_map(|hash| hash.parse::<Digest>().ok()) {
        let sizes = context.templates.content().renew(vec![digest]).await;
        if let Some(bytes) = sizes.map_err(TemplateError::from)?.get(&digest) {
            return Ok(TemplateVersionRecord {
                template: name.to_owned(),
                archive: digest.to_string(),
                archive_bytes: *bytes,
                ..TemplateVersionRecord::default()
            });
        }
    }
    Err(Refusal {
        code: TEMPLATE_NOT_FOUND,
        message: "there is no such template, or no start of this node names it".to_owned(),
    })
}

/// The hashes under which a node was told of a template: by starts that are not over, and by orders to have it in time
async fn told(context: &NodeContext, node: NodeId, name: &str) -> Result<Vec<String>, TemplateError> {
    let mut hashes = context.grants.warmed(Instant::now(), node, name);
    let living = context
        .inventory
        .page(Some(node), None, usize::MAX, |outline| outline.is_live());
    for outline in living.await?.0 {
        let stored = store::load::<InstanceRecord>(&*context.store, outline.instance.as_str()).await?;
        let Some(start) = stored.and_then(|stored| stored.record.start) else {
            continue;
        };
        for layer in layers(&start) {
            if layer.name == name && !hashes.contains(&layer.hash) {
                hashes.push(layer.hash.clone());
            }
        }
    }
    Ok(hashes)
}

fn lost() -> Refusal {
    Refusal {
        code: TEMPLATE_UNAVAILABLE,
        message: "the controller has lost its archive; push it again".to_owned(),
    }
}

async fn archive_of(context: &NodeContext, version: &TemplateVersionRecord) -> Result<Vec<u8>, Refusal> {
    let digest: Digest = version.archive.parse().map_err(|_| lost())?;
    let content = context.templates.content();
    let read = async || -> Result<Option<Vec<u8>>, Refusal> {
        let read = content.read(digest, version.archive_bytes).await;
        Ok(read.map_err(TemplateError::from)?)
    };
    if let Some(archive) = read().await? {
        return Ok(archive);
    }
    tracing::error!(
        template = version.template,
        "the archive of a template is missing or damaged, and is made anew"
    );
    context.templates.mend(digest).await?;
    read().await?.ok_or_else(lost)
}

fn refuse(node: NodeId, session: &SessionHandle<ControllerSession>, name: String, refusal: Refusal) {
    let Refusal { code, message } = refusal;
    tracing::warn!(%node, template = name, code, message, "a daemon does not get a template");
    let report = ErrorReport {
        error_code: code.to_owned(),
        error_message: message,
        context: name,
        retry_after_seconds: 0,
    };
    session.with(|session, now| session.refuse(now, "TemplateRequest", report));
}
