//! `/modules`: what is installed, and what has come of it on the nodes

use std::{sync::Arc, time::Duration};

use axum::{
    Json, body,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH},
};
use prexorcloud_content::module::{Host, MAX_JAR_BYTES, Manifest};
use prexorcloud_security::signature::{Form, MAX_SIGNATURE_FILE};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Body, Id, time, time_unless_never},
    multipart,
};
use crate::{
    access::Permission,
    modules::{Entry, ModuleArtifact, Upload},
};

/// Longest upload: the largest jar over a line of 2 Mbit/s
pub(super) const LONGEST: Duration = Duration::from_secs(600);

/// Uploads at once: each is in memory
static UPLOADS: Semaphore = Semaphore::const_new(2);

/// As the Java controller lists them, but for all modules and not only those with a page for its dashboard
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Vec<Value>>, ApiError> {
    caller.require(Permission::ModulesView)?;
    let installed = api.modules.installed();
    let listed = installed.iter().map(|(id, entry)| {
        json!({
            "name": id, "version": entry.current.version, "enabled": true,
            "frontend": entry.manifest.frontend.as_ref().map(|_| json!({})), "plugins": [],
            "hosts": hosts(&entry.manifest), "sha256": entry.current.sha256,
            "signer": entry.current.signer, "unresolvedRequirements": entry.unmet,
        })
    });
    Ok(Json(listed.collect()))
}

pub(super) async fn list_all(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::ModulesView)?;
    let installed = api.modules.installed();
    let modules: Vec<_> = installed.values().map(shown).collect();
    Ok(Json(json!({ "modules": modules, "capabilityMetrics": {} })))
}

fn hosts(manifest: &Manifest) -> Vec<&'static str> {
    let name = |host: &Host| match host {
        Host::Controller => "CONTROLLER",
        Host::Daemon => "DAEMON",
    };
    manifest.hosts.iter().map(name).collect()
}

fn shown(entry: &Entry) -> Value {
    let Entry {
        current,
        manifest,
        unmet,
        former,
    } = entry;
    let ModuleArtifact {
        version,
        sha256,
        size_bytes,
        file_name,
        signer,
        stored_at_ms,
        stored_by,
        ..
    } = current;
    let controller = manifest
        .controller
        .as_ref()
        .map(|backend| json!({ "entrypoint": backend.class }));
    let daemon = manifest.daemon.as_ref().map(|backend| {
        let process = backend.process.as_ref();
        json!({
            "entrypoint": backend.entrypoint.class, "host": process.map(|_| "process"),
            "memoryMb": process.map(|process| process.memory_mb),
        })
    });
    let provides = manifest
        .provides
        .iter()
        .map(|p| json!({ "id": p.id, "version": p.version.as_str() }));
    let requires = manifest.requires.iter();
    let requires = requires.map(|r| json!({ "id": r.id, "versionRange": r.versions.to_string() }));
    json!({
        "moduleId": manifest.id, "id": manifest.id, "version": version, "state": "INSTALLED", "lastError": null,
        "jarFile": file_name, "sha256": sha256, "sizeBytes": size_bytes, "storedAt": time(*stored_at_ms),
        "storedBy": stored_by, "signer": signer, "manifestVersion": manifest.manifest_version,
        "backend": { "controller": controller, "daemon": daemon }, "hosts": hosts(manifest),
        "frontend": manifest.frontend.as_ref().map(|f| json!({ "sdkVersion": f.sdk_version, "entry": f.entry })),
        "capabilities": { "provides": provides.collect::<Vec<_>>(), "requires": requires.collect::<Vec<_>>() },
        "storage": { "mongo": manifest.storage.mongo, "redis": manifest.storage.redis },
        "formerVersions": former, "extensions": manifest.extensions, "unresolvedRequirements": unmet, "compatibility": [],
    })
}

pub(super) async fn upload(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: body::Body,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let actor = caller.require(Permission::ModulesManage)?;
    // The form around the files is small.
    let most = MAX_JAR_BYTES as usize + MAX_SIGNATURE_FILE + 16 * 1024;
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > most as u64) {
        return Err(ApiError::too_large());
    }
    let _turn = UPLOADS.acquire().await;
    let body = body::to_bytes(body, most).await.map_err(|error| {
        let source = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        match source.contains("length limit") {
            true => ApiError::too_large(),
            false => ApiError::bad_request("the upload did not come to its end"),
        }
    })?;
    let upload = read(multipart::parts(&headers, &body)?)?;
    let (id, unchanged) = api.modules.install(&actor, upload).await?;
    let installed = api.modules.installed();
    let mut answer = installed
        .get(&id)
        .map_or_else(|| json!({ "moduleId": id }), shown);
    answer["unchanged"] = unchanged.into();
    Ok((
        if unchanged {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        },
        Json(answer),
    ))
}

fn read(parts: Vec<multipart::Part>) -> Result<Upload, ApiError> {
    let refused = |code, message: &str| ApiError::new(StatusCode::BAD_REQUEST, code, message);
    let (mut jar, mut signature) = (None, None);
    for part in parts {
        match part.name.as_str() {
            "file" => jar = Some(part),
            "signature" => signature = Some(part),
            _ => {}
        }
    }
    let missing = "No file uploaded. Use multipart form with field 'file'.";
    let jar = jar.ok_or_else(|| refused("MISSING_FILE", missing))?;
    if !jar.file_name.ends_with(".jar") || jar.file_name.contains(['/', '\\']) {
        return Err(refused(
            "INVALID_FILE",
            "the file has to be a .jar, by its name without folders",
        ));
    }
    if jar.content.len() as u64 > MAX_JAR_BYTES {
        return Err(ApiError::too_large());
    }
    let signature = signature.map(|part| match Form::of_file(&part.file_name) {
        Some(form) => Ok((form, part.content)),
        None => Err(refused(
            "INVALID_SIGNATURE",
            "the name of the signature has to end in .sig or .cosign.bundle",
        )),
    });
    Ok(Upload {
        file_name: jar.file_name,
        jar: jar.content,
        signature: signature.transpose()?,
    })
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    version: Option<String>,
}

/// `POST /modules/platform/{id}/rollback`
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(id): Id,
    Body(Rollback { version }): Body<Rollback>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::ModulesManage)?;
    let counts = api.modules.rollback(&actor, &id, version.as_deref()).await?;
    Ok(Json(json!({
        "status": "restored", "moduleId": id, "version": counts.version, "sha256": counts.sha256,
    })))
}

pub(super) async fn uninstall(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    let actor = caller.require(Permission::ModulesManage)?;
    api.modules.uninstall(&actor, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /modules/platform/{id}/retry`: what has failed on nodes that are there is tried now
pub(super) async fn retry(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(id): Id,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::ModulesManage)?;
    let module = id
        .parse()
        .ok()
        .filter(|_| api.modules.installed().contains_key(&id));
    let Some(module) = module else {
        let id: String = id.chars().take(64).collect();
        return Err(ApiError::not_found(format!("Platform module not found: {id}")));
    };
    api.modules.asked_about(&id);
    let nodes = api.nodes.retry_module(module).await;
    Ok(Json(json!({ "moduleId": id, "nodes": nodes })))
}

/// The states of all modules on all nodes
pub(super) async fn all_states(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Vec<Value>>, ApiError> {
    caller.require(Permission::ModulesView)?;
    Ok(Json(states(&api, None)))
}

/// The states of one module
pub(super) async fn states_of(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(id): Id,
) -> Result<Json<Vec<Value>>, ApiError> {
    caller.require(Permission::ModulesView)?;
    let states = states(&api, Some(&id));
    if states.is_empty() && !api.modules.installed().contains_key(&id) {
        let id: String = id.chars().take(64).collect();
        return Err(ApiError::not_found(format!("Platform module not found: {id}")));
    }
    Ok(Json(states))
}

/// One for each module and node: what the node said or was sent, and `PENDING` for what it is to have and was not sent
fn states(api: &Api, only: Option<&str>) -> Vec<Value> {
    let installed = api.modules.installed();
    let is_asked_for = |id: &str| only.is_none_or(|only| only == id);
    let mut all = Vec::new();
    api.nodes.survey(|view| {
        let (node, connected) = (&view.record.node_id, view.session.is_some());
        let mut row = |id: &str, version: &str, sha256: &str, state: &str, error: &str, at_ms: i64| {
            let wanted = installed.get(id).filter(|entry| entry.manifest.is_for_daemons());
            all.push(json!({
                "module": id, "node": node, "state": state, "version": version, "sha256": sha256,
                "lastError": error, "updatedAt": time_unless_never(at_ms), "connected": connected,
                "installed": wanted.is_some(), "wantedVersion": wanted.map(|entry| &entry.current.version),
            }));
        };
        for (module, has) in view
            .modules
            .iter()
            .filter(|(module, _)| is_asked_for(module.as_str()))
        {
            row(
                module.as_str(),
                &has.version,
                &has.sha256,
                &has.state,
                &has.last_error,
                has.updated_at_ms,
            );
        }
        for (id, entry) in installed.iter().filter(|(id, _)| is_asked_for(id)) {
            let is_known = view.modules.keys().any(|module| module.as_str() == id);
            if entry.manifest.is_for_daemons() && !is_known {
                row(
                    id,
                    &entry.current.version,
                    &entry.current.sha256,
                    "PENDING",
                    "",
                    0,
                );
            }
        }
        None::<()>
    });
    all
}
