//! `/system/authorities`: who signs certificates, whom nodes believe, and another one in its place

use std::sync::Arc;

use axum::{Json, extract::State};
use prexorcloud_security::certificate::Certificate;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Params, time},
};
use crate::{
    access::Permission,
    rotation::{NodeTrust, Overview},
    wall_clock::to_millis,
};

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::NodesView)?;
    Ok(Json(shown(&api.rotation.overview())))
}

pub(super) async fn prepare(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::NodesManage)?;
    Ok(Json(shown(&api.rotation.prepare(&actor).await?)))
}

pub(super) async fn discard(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::NodesManage)?;
    Ok(Json(shown(&api.rotation.discard(&actor).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forced {
    /// Also if nodes are locked out
    #[serde(default)]
    force: bool,
}

pub(super) async fn activate(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(Forced { force }): Params<Forced>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::NodesManage)?;
    Ok(Json(shown(&api.rotation.activate(&actor, force).await?)))
}

pub(super) async fn retire(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(Forced { force }): Params<Forced>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::NodesManage)?;
    Ok(Json(shown(&api.rotation.retire(&actor, force).await?)))
}

fn shown(overview: &Overview) -> Value {
    let authorities = &overview.authorities;
    let nodes: Vec<Value> = overview.nodes.iter().map(node).collect();
    json!({
        "active": authority(authorities.signer.certificate()),
        "next": authorities.next.as_ref().map(authority),
        "former": authorities.former.as_ref().map(authority),
        "nodes": nodes,
    })
}

fn authority(certificate: &Certificate) -> Value {
    json!({
        "subject": certificate.subject(),
        "sha256": certificate.fingerprint().to_string(),
        "notBefore": time(to_millis(certificate.not_before())),
        "notAfter": time(to_millis(certificate.not_after())),
    })
}

fn node(trust: &NodeTrust) -> Value {
    json!({
        "id": trust.node,
        "signedBy": Some(&trust.signed_by).filter(|signed_by| !signed_by.is_empty()),
        "trusts": Some(&trust.trusts).filter(|trusts| !trusts.is_empty()),
        "connected": trust.is_connected,
    })
}
