//! `/nodes`: what they are doing, and what they should do

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use prexorcloud_protocol::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Id, Params, time, time_unless_never},
};
use crate::{
    access::Permission,
    audit,
    nodes::{NodeView, contract_name},
    store::Txn,
};

/// How long a shutdown waits for the daemon's acknowledgement
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(5);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    id: String,
    node_id: String,
    status: &'static str,
    connected: bool,
    cordoned: bool,
    draining: bool,
    address: String,
    version: String,
    cpu_usage: f64,
    total_memory_mb: i64,
    used_memory_mb: i64,
    free_disk_mb: i64,
    total_disk_mb: i64,
    instance_count: usize,
    used_ports: Vec<i32>,
    labels: HashMap<String, String>,
    host_info: Option<Value>,
    session_id: Option<String>,
    /// Whether the daemon was built from the same contract: `SAME`, `DIFFERENT`, `UNKNOWN`
    contract: Option<&'static str>,
    /// Another daemon that came with the identity of this one
    rival: Option<Value>,
    connected_since: Option<String>,
    last_heartbeat: Option<String>,
    first_seen: String,
    last_seen: String,
    /// What came of its daemon's log; `None` in a list
    logs: Option<Value>,
    /// The events that its daemon has subscribed to
    event_types: Vec<String>,
    /// When the certificate expires that it has
    certificate_expires_at: Option<String>,
}

impl From<NodeView> for Node {
    fn from(view: NodeView) -> Self {
        let status = view.status().name();
        let total_memory_mb = view.total_memory_mb();
        let NodeView {
            record,
            session,
            load,
            heard_at_ms,
            live_instances,
            rival,
            event_types,
            ..
        } = view;
        let load = load.unwrap_or_default();
        let host_info = record.host_info.map(|host| {
            json!({
                "osName": host.os_name, "osVersion": host.os_version, "arch": host.arch,
                "cpuModel": host.cpu_model, "cpuPhysicalCores": host.cpu_physical_cores,
                "cpuLogicalCores": host.cpu_logical_cores, "cpuMaxFreqHz": host.cpu_max_freq_hz,
                "javaVersion": host.java_version, "javaVendor": host.java_vendor,
                "javaRuntime": host.java_runtime, "javaGc": host.java_gc,
            })
        });
        Self {
            node_id: record.node_id.clone(),
            id: record.node_id,
            status,
            connected: session.is_some(),
            cordoned: record.cordoned,
            draining: record.drain.is_some(),
            address: record.address,
            version: record.version,
            cpu_usage: (load.cpu_usage * 1000.0).round() / 10.0,
            total_memory_mb,
            used_memory_mb: load.used_memory_mb,
            free_disk_mb: load.free_disk_mb,
            total_disk_mb: load.total_disk_mb,
            instance_count: live_instances,
            used_ports: load.used_ports,
            labels: record.labels,
            host_info,
            contract: session.as_ref().map(|session| contract_name(session.contract)),
            rival: rival.map(|rival| {
                json!({
                    "address": rival.address.to_string(), "lastSeen": time(rival.at_ms), "attempts": rival.attempts,
                })
            }),
            connected_since: session.as_ref().map(|session| time(session.since_ms)),
            session_id: session.map(|session| session.session_id),
            last_heartbeat: time_unless_never(heard_at_ms),
            logs: None,
            event_types: event_types.to_vec(),
            certificate_expires_at: time_unless_never(record.certificate_expires_at_ms),
            first_seen: time(record.first_seen_ms),
            last_seen: time(record.last_seen_ms.max(heard_at_ms)),
        }
    }
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Vec<Node>>, ApiError> {
    caller.require(Permission::NodesView)?;
    Ok(Json(api.nodes.views().into_iter().map(Node::from).collect()))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Node>, ApiError> {
    caller.require(Permission::NodesView)?;
    let id: NodeId = id.parse("node")?;
    let view = api.nodes.view(id);
    let mut node = Node::from(view.ok_or_else(|| ApiError::not_found("no such node"))?);
    let received = api.logs.received_of(id);
    node.logs = Some(json!({ "received": received.records, "lost": received.lost }));
    Ok(Json(node))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    #[serde(default)]
    shutdown: bool,
    #[serde(default = "default_drain_seconds")]
    timeout: u64,
}

fn default_drain_seconds() -> u64 {
    60
}

pub(super) async fn drain(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    Params(Drain { shutdown, timeout }): Params<Drain>,
) -> Result<Json<Value>, ApiError> {
    let node = authorize(&api, &caller, &id, "node.drain").await?;
    if timeout > 86_400 {
        return Err(ApiError::invalid("timeout is at most 86400 seconds"));
    }
    let stopping = api
        .nodes
        .drain(node, shutdown, Duration::from_secs(timeout))
        .await?;
    Ok(Json(json!({
        "status": "DRAINING", "shutdown": shutdown, "drainTimeoutSeconds": timeout, "stopping": stopping,
    })))
}

pub(super) async fn undrain(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Value>, ApiError> {
    let node = authorize(&api, &caller, &id, "node.undrain").await?;
    let status = api.nodes.undrain(node).await?;
    Ok(Json(json!({ "status": status.name() })))
}

pub(super) async fn cordon(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Value>, ApiError> {
    let node = authorize(&api, &caller, &id, "node.cordon").await?;
    let status = api.nodes.cordon(node, true).await?;
    Ok(Json(json!({ "status": status.name() })))
}

pub(super) async fn uncordon(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Value>, ApiError> {
    let node = authorize(&api, &caller, &id, "node.uncordon").await?;
    let status = api.nodes.cordon(node, false).await?;
    Ok(Json(json!({ "status": status.name() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shutdown {
    reason: Option<String>,
}

pub(super) async fn shutdown(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    Params(Shutdown { reason }): Params<Shutdown>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let node = authorize(&api, &caller, &id, "node.shutdown").await?;
    let reason = reason.unwrap_or_else(|| "Operator requested immediate shutdown".to_owned());
    let acknowledgement = api.nodes.shut_down(node, reason).await?;
    let body = match tokio::time::timeout(ACKNOWLEDGEMENT, acknowledgement).await {
        Ok(Ok(ack)) => json!({
            "status": "STOPPING",
            "acknowledged": true,
            "runningInstances": ack.running_instances,
            "estimatedDrainSeconds": ack.estimated_drain_seconds,
        }),
        // A daemon that does not acknowledge, or one that is gone already.
        _ => json!({ "status": "STOPPING", "acknowledged": false }),
    };
    Ok((StatusCode::ACCEPTED, Json(body)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remove {
    #[serde(default)]
    force: bool,
}

/// The node is known no more: its certificates are revoked, its instances forgotten, its record deleted
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    Params(Remove { force }): Params<Remove>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::NodesManage)?;
    let node: NodeId = id.parse("node")?;
    let view = api.nodes.view(node);
    if view
        .ok_or_else(|| ApiError::not_found("no such node"))?
        .session
        .is_some()
    {
        return Err(ApiError::conflict(
            "the node is connected: drain it and shut its daemon down first",
        ));
    }
    let (there, _) = api.fleet.list(Some(node), None, usize::MAX, |_| true).await?;
    let live = there.iter().filter(|record| record.is_live()).count();
    if live > 0 && !force {
        return Err(ApiError::conflict(format!(
            "{live} instances count as alive there, and may run: remove it with force to give them up"
        )));
    }
    let entry = audit::entry(
        &actor,
        "node.remove",
        node.as_str(),
        if force { "force" } else { "" },
    );
    // A put without a condition cannot conflict.
    let _ = api.store.txn(Txn::new().put_record(&entry)).await?;
    // First of all nobody may come back under its name.
    let tokens = api.tokens.open_of(node).await?;
    for token in &tokens {
        let _ = api.tokens.revoke(&actor, token).await?;
    }
    let revoked = api.certificates.revoke_node(&actor, node).await?;
    api.nodes.remove(node).await?;
    Ok(Json(json!({
        "nodeId": node.to_string(), "status": "REMOVED", "instances": there.len(),
        "revokedSerials": revoked.serials, "revokedTokens": tokens,
        "closedConnections": revoked.closed_connections,
    })))
}

pub(super) async fn delete(
    api: State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    force: Params<Remove>,
) -> Result<StatusCode, ApiError> {
    let _ = remove(api, caller, id, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn revoke_certificates(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::NodesManage)?;
    let node: NodeId = id.parse("node")?;
    let revoked = api.certificates.revoke_node(&actor, node).await?;
    Ok(Json(json!({
        "nodeId": node.to_string(),
        "revokedSerials": revoked.serials,
        // Its daemon comes back by itself with one of these that it was given.
        "openTokens": api.tokens.open_of(node).await?,
        "closedConnections": revoked.closed_connections,
    })))
}

/// Its daemon asks for another certificate now
pub(super) async fn renew_certificate(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let node = authorize(&api, &caller, &id, "node.renew-certificate").await?;
    api.nodes.renew_certificate(node).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "status": "ASKED" }))))
}

/// Checks the permission and the node, and leaves a trace of who wanted what
pub(super) async fn authorize(
    api: &Api,
    caller: &Authenticated,
    id: &Id,
    action: &str,
) -> Result<NodeId, ApiError> {
    let actor = caller.require(Permission::NodesManage)?;
    let node: NodeId = id.parse("node")?;
    if api.nodes.view(node).is_none() {
        return Err(ApiError::not_found("no such node"));
    }
    let entry = audit::entry(&actor, action, node.as_str(), "");
    // A put without a condition cannot conflict.
    let _ = api.store.txn(Txn::new().put_record(&entry)).await?;
    Ok(node)
}
