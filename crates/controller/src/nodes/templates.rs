//! Templates on their way to a node
//!
//! An answer may have 100 MiB, so few are in memory at a time, and each leaves when its stream has room for it. A start names
//! the version that counted when it was ordered; whoever names none gets the one that counts now.

use std::{sync::Arc, time::Duration};

use prexorcloud_content::Digest;
use prexorcloud_proto::{ErrorReport, TemplateData, TemplateRequest, TemplateUpToDate, controller_message};
use prexorcloud_protocol::{
    ControllerSession, NodeId,
    content::requests::{TEMPLATE_NOT_FOUND, TEMPLATE_TOO_LARGE, TEMPLATE_UNAVAILABLE},
    limits::MAX_MESSAGE_BYTES,
    session::Class,
};
use prexorcloud_transport::SessionHandle;
use tokio::{sync::Semaphore, time::timeout};

use super::{registry::NodeContext, task::Node};
use crate::templates::{TemplateError, TemplateVersionRecord};

/// Answers of a node that are under way; a daemon asks for four at a time
const AT_ONCE: usize = 16;

/// Archives that are in memory for all nodes
pub(crate) const IN_MEMORY: usize = 2;

/// How long an answer may take; the daemon waits for 120 s
const WITHIN: Duration = Duration::from_secs(110);

/// More than a message has beside the archive
const ENVELOPE_BYTES: u64 = 4096;

/// Why a daemon does not get a template
struct Refusal {
    code: &'static str,
    message: String,
}

impl From<TemplateError> for Refusal {
    fn from(error: TemplateError) -> Self {
        let code = match error {
            TemplateError::Unknown | TemplateError::UnknownVersion => TEMPLATE_NOT_FOUND,
            _ => TEMPLATE_UNAVAILABLE,
        };
        let message = error.to_string();
        Self { code, message }
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
        let current = self.machine.current_stream();
        let Some(stream) = current.and_then(|stream| self.streams.get(stream)) else {
            return;
        };
        let (context, node, session) = (Arc::clone(&self.context), self.id, stream.session.clone());
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
    let version = match wanted(context, &request).await {
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
    if version.archive_bytes + ENVELOPE_BYTES > MAX_MESSAGE_BYTES as u64 {
        let message = format!(
            "its archive has {} bytes, and a message {MAX_MESSAGE_BYTES}",
            version.archive_bytes
        );
        let code = TEMPLATE_TOO_LARGE;
        return refuse(node, session, name, Refusal { code, message });
    }
    let bytes = usize::try_from(version.archive_bytes + ENVELOPE_BYTES).unwrap_or(usize::MAX);
    loop {
        // A daemon that does not read holds up nobody but itself: its archives wait on disk.
        let room = session.wait_for(|session, _| {
            let is_established = session.is_established();
            (!is_established || session.has_room(Class::Bulk, bytes)).then_some(is_established)
        });
        if room.await != Some(true) {
            return;
        }
        let Ok(_turn) = context.archives.acquire().await else {
            return;
        };
        if !session.with(|session, _| session.has_room(Class::Bulk, bytes)) {
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
        let sent = session.with(|session, _| {
            let has_room = session.has_room(Class::Bulk, bytes);
            has_room.then(|| session.send(payload))
        });
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

/// The version that the request means
async fn wanted(context: &NodeContext, request: &TemplateRequest) -> Result<TemplateVersionRecord, Refusal> {
    let (versions, current) = context.templates.versions(&request.template_name).await?;
    let wanted = request.wanted_hash.as_str();
    let is_it = |version: &TemplateVersionRecord| match wanted {
        "" => version.number == current,
        wanted => version.is_known_as(wanted),
    };
    versions
        .into_iter()
        .find(is_it)
        .ok_or_else(|| TemplateError::UnknownVersion.into())
}

async fn archive_of(context: &NodeContext, version: &TemplateVersionRecord) -> Result<Vec<u8>, Refusal> {
    let lost = || Refusal {
        code: TEMPLATE_UNAVAILABLE,
        message: "the controller has lost its archive; push it again".to_owned(),
    };
    let digest: Digest = version.archive.parse().map_err(|_| lost())?;
    let content = context.templates.content();
    let read = content
        .read(digest, version.archive_bytes)
        .await
        .map_err(TemplateError::from)?;
    read.ok_or_else(lost)
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
