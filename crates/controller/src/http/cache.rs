//! `/nodes/{id}/cache`: what a node keeps for later starts, and filling that

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use axum::{Json, extract::State, http::StatusCode};
use prexorcloud_proto::ConfigFormat;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Body, Id, time, time_unless_never},
    nodes::authorize,
};
use crate::{
    access::Permission,
    nodes::{CacheView, Warming},
    templates::TemplateVersionRecord,
};

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::NodesView)?;
    let cache = api.nodes.ask_view(id.parse("node")?, |view| view.cache.clone());
    let cache = cache.ok_or_else(|| ApiError::not_found("no such node"))?;
    let kept = cache.status.iter().flat_map(|status| &status.templates);
    let names: BTreeSet<String> = kept.map(|entry| entry.name.clone()).collect();
    let mut versions = Versions::new();
    for name in names {
        // One that was deleted, or is another controller's, has none.
        let Ok((known, _)) = api.templates.versions(&name).await else {
            continue;
        };
        // The newest of those that hold the same is the one that counts, if one does.
        for version in known.into_iter().rev() {
            versions.insert((name.clone(), version.archive.clone()), version);
        }
    }
    Ok(Json(shown(cache, &versions)))
}

/// Versions of templates by name and archive
type Versions = HashMap<(String, String), TemplateVersionRecord>;

fn shown(cache: CacheView, versions: &Versions) -> Value {
    let CacheView {
        status,
        heard_at_ms,
        number,
        warming,
        ..
    } = cache;
    let status = status.as_deref().cloned().unwrap_or_default();
    let templates = status.templates.iter().map(|entry| {
        // A daemon knows the archive, and whoever pushed the manifest.
        let version = versions.get(&(entry.name.clone(), entry.hash.clone()));
        json!({
            "name": entry.name, "hash": entry.hash, "sizeBytes": entry.size_bytes,
            "lastUsed": time_unless_never(entry.last_used_ms),
            "version": version.map(|version| version.number),
            "versionHash": version.map(|version| &version.manifest),
        })
    });
    let jars = status.jars.iter().map(|entry| {
        json!({
            "platform": entry.platform, "version": entry.version, "jarFile": entry.jar_file,
            "sizeBytes": entry.size_bytes, "sha256": entry.sha256, "cachedAt": time_unless_never(entry.cached_at_ms),
        })
    });
    let bootstraps = status.bootstraps.iter().map(|entry| {
        let format = ConfigFormat::try_from(entry.config_format).unwrap_or_default();
        json!({
            "configFormat": format.as_str_name(), "version": entry.version, "hasCds": entry.has_cds,
            "sizeBytes": entry.size_bytes,
        })
    });
    json!({
        "templates": templates.collect::<Vec<_>>(), "jars": jars.collect::<Vec<_>>(),
        "bootstraps": bootstraps.collect::<Vec<_>>(), "totalSizeBytes": status.total_size_bytes,
        "receivedAt": time_unless_never(heard_at_ms), "number": number, "warming": warming.map(outcome),
    })
}

/// What came of the last order to fill it
fn outcome(warming: Warming) -> Value {
    let failures = warming.failures.iter().map(|failure| {
        json!({
            "what": failure.context, "code": failure.error_code, "message": failure.error_message,
            "retryAfterSeconds": failure.retry_after_seconds,
        })
    });
    json!({
        "state": warming.state(Instant::now()), "runtimes": warming.runtimes, "templates": warming.templates,
        "beganAt": time(warming.began_at_ms), "endedAt": time_unless_never(warming.ended_at_ms),
        "failures": failures.collect::<Vec<_>>(),
    })
}

/// Asks the daemon; what it says has a higher number than this answer
pub(super) async fn refresh(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let node = authorize(&api, &caller, &id, "node.cache.refresh").await?;
    let number = api.nodes.ask_about_cache(node).await?;
    let answer = json!({ "status": "REQUESTED", "number": number });
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Warm {
    /// Whose jars and templates; of all groups if nothing is named
    groups: Option<Vec<String>>,
    /// Further templates
    #[serde(default)]
    templates: Vec<String>,
}

pub(super) async fn warm(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    Body(warm): Body<Warm>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let node = authorize(&api, &caller, &id, "node.cache.warm").await?;
    let groups = match (&warm.groups, warm.templates.is_empty()) {
        (None, false) => Some(&[][..]),
        (groups, _) => groups.as_deref(),
    };
    let order = api.groups.warmth(groups, &warm.templates).await?;
    let (runtimes, templates) = (order.entries.len(), order.templates.len());
    if runtimes + templates == 0 {
        return Err(ApiError::invalid(
            "there is nothing to fetch: no group names a jar by an http(s) URL, and nothing was pushed to their templates",
        ));
    }
    api.nodes.warm_cache(node, order).await?;
    let answer = json!({ "status": "WARMING", "runtimes": runtimes, "templates": templates });
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
