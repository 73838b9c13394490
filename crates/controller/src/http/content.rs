//! Pushing and pulling: manifests, blobs by their SHA-256, archives
//!
//! A push asks which blobs are missing, sends those, and publishes. Blobs and archives are streams in both directions: one part of them is in
//! memory at a time.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::StreamExt as _;
use prexorcloud_content::{Digest, Manifest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Id, Params},
    templates,
};
use crate::{
    access::Permission,
    templates::{MAX_MANIFEST_BYTES, TemplateVersionRecord},
};

/// Longest push of one blob, and longest making of an archive: 2 GiB over a line of 5 Mbit/s
///
/// Whoever is silent on the way is given up much earlier.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// Longest silence of a sender
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest coming of a manifest: the largest one over a line of 5 Mbit/s, twice
const MANIFEST_DEADLINE: Duration = Duration::from_secs(120);

/// Manifests that are read at once: each is a few times its size in memory
static MANIFESTS: Semaphore = Semaphore::const_new(4);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base {
    /// The version that counted when the push began
    base: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    #[serde(default)]
    offset: u64,
}

fn digest(text: &str) -> Result<Digest, ApiError> {
    text.parse()
        .map_err(|error: prexorcloud_content::NotADigest| ApiError::invalid(error.to_string()))
}

async fn manifest(api: &Arc<Api>, body: Body) -> Result<Manifest, ApiError> {
    let Ok(_turn) = tokio::time::timeout(PATIENCE, MANIFESTS.acquire()).await else {
        return Err(ApiError::unavailable(
            "the manifests of other pushes are still coming; try again",
        ));
    };
    let bytes = match tokio::time::timeout(MANIFEST_DEADLINE, whole(body)).await {
        Ok(bytes) => bytes?,
        Err(_) => return Err(ApiError::unavailable("the manifest did not come in time")),
    };
    // Millions of bytes of JSON are no work for a thread that others wait for.
    let api = Arc::clone(api);
    let parsed = tokio::task::spawn_blocking(move || api.templates.parse(&bytes));
    Ok(parsed
        .await
        .map_err(|error| ApiError::internal(error.to_string()))??)
}

/// A manifest, of which something has to come at least every [`PATIENCE`]
async fn whole(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut parts = body.into_data_stream();
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, parts.next()).await {
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(part))) if part.len() <= MAX_MANIFEST_BYTES - bytes.len() => {
                bytes.extend_from_slice(&part)
            }
            Ok(Some(Ok(_))) => return Err(ApiError::too_large()),
            Ok(Some(Err(error))) => {
                return Err(ApiError::bad_request(format!("the manifest broke off: {error}")));
            }
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                return Err(ApiError::unavailable(format!(
                    "nothing came of the manifest for {seconds} s"
                )));
            }
        }
    }
}

/// Which blobs of a manifest are not here
pub(super) async fn missing(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::TemplatesManage)?;
    let manifest = manifest(&api, body).await?;
    let lacking = api.templates.lacking(&name, &manifest).await?;
    let bytes: u64 = lacking.blobs.iter().map(|(_, size)| size).sum();
    let blobs: Vec<_> = lacking
        .blobs
        .iter()
        .map(|(name, size)| json!({ "sha256": name, "sizeBytes": size }))
        .collect();
    let current = lacking.current.map(|version| version.manifest);
    Ok(Json(
        json!({ "missing": blobs, "missingBytes": bytes, "current": current }),
    ))
}

/// Makes a manifest the version that counts
pub(super) async fn publish(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Params(Base { base }): Params<Base>,
    body: Body,
) -> Result<(StatusCode, Json<templates::Version>), ApiError> {
    let actor = caller.require(Permission::TemplatesManage)?;
    let base = base.as_deref().map(digest).transpose()?;
    let manifest = manifest(&api, body).await?;
    let published = api.templates.publish(&actor, &name, manifest, base).await?;
    let status = if published.unchanged {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let number = published.version.number;
    Ok((status, Json(templates::version(published.version, number, false))))
}

/// Takes a blob
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    caller.require(Permission::TemplatesManage)?;
    let name = digest(&name)?;
    let size = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
        .ok_or_else(|| ApiError::bad_request("a blob comes with its Content-Length"))?;
    if size > api.templates.limits().entry_bytes {
        return Err(ApiError::too_large());
    }
    let content = api.templates.content();
    content
        .receive(name, size, PATIENCE, body.into_data_stream())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a blob
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Params(From { offset }): Params<From>,
) -> Result<Response, ApiError> {
    caller.require(Permission::TemplatesView)?;
    let name = digest(&name)?;
    stream(&api, name, offset).await
}

async fn stream(api: &Api, name: Digest, offset: u64) -> Result<Response, ApiError> {
    let content = api.templates.content();
    let size = content.renew(vec![name]).await?.get(&name).copied();
    let not_found = || ApiError::not_found("no such blob");
    let size = size.ok_or_else(not_found)?;
    if offset > size {
        return Err(ApiError::invalid(format!(
            "offset is beyond the {size} bytes of this blob"
        )));
    }
    let bytes = content.stream(name, offset).await?.ok_or_else(not_found)?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, (size - offset).to_string()),
    ];
    let stopping = api.stopping.clone();
    let bytes = bytes.take_until(stopping.cancelled_owned());
    Ok((headers, Body::from_stream(bytes)).into_response())
}

async fn version(
    api: &Api,
    caller: &Authenticated,
    (name, hash): &(String, String),
) -> Result<TemplateVersionRecord, ApiError> {
    caller.require(Permission::TemplatesView)?;
    Ok(api.templates.find_version(name, hash).await?)
}

/// Gives the archive of a version
pub(super) async fn archive(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(path): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let version = version(&api, &caller, &path).await?;
    let archive = digest(&version.archive)?;
    if !api.templates.content().is_whole(archive).await? && !api.templates.mend(archive).await? {
        return Err(ApiError::internal(format!(
            "the archive of {} is missing or damaged, and cannot be made anew: push the same files again",
            version.title()
        )));
    }
    stream(&api, archive, 0).await
}

/// Gives the manifest of a version
pub(super) async fn show_manifest(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path(path): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let version = version(&api, &caller, &path).await?;
    let manifest = api.templates.manifest(&version).await?;
    let (_, json, _) = api.templates.written(manifest).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], Bytes::from(json)).into_response())
}
