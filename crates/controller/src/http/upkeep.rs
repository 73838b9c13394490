//! `/groups/{name}/plan`, `/scale`, `/pause` and the others: how many servers a group has, and why

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    groups::{Sight, answer, fields, seen},
    instances::note,
    json::{Body, Id, time, time_unless_never},
};
use crate::{
    access::Permission,
    groups::{Group, Outlook, Plan, Refusal},
};

/// What is done about the number of servers of a group
pub(super) async fn scaling(api: &Api, group: &Group) -> Result<Value, ApiError> {
    let outlook = api.upkeep.outlook(group).await?;
    let refusal = api.upkeep.refusal(group.name);
    Ok(summary(&outlook, refusal.as_ref()))
}

fn summary(outlook: &Outlook, refusal: Option<&Refusal>) -> Value {
    let plan = &outlook.plan;
    let notes: Vec<String> = plan.notes.iter().map(ToString::to_string).collect();
    json!({
        "state": plan.standing.name(),
        "desired": plan.desired,
        "serving": plan.serving,
        "reasons": notes,
        "pausedUntil": outlook.paused_until_ms().and_then(time_unless_never),
        "pausedBy": outlook.held_by(),
        "refused": refusal.map(|refusal| &refusal.sentence),
        "refusedAt": refusal.map(|refusal| time(refusal.at_ms)),
    })
}

fn steps(plan: &Plan) -> Value {
    let steps = plan.steps.iter().map(|step| {
        json!({
            "action": step.kind.name(),
            "instance": step.instance.as_str(),
            "reason": step.why.to_string(),
        })
    });
    steps.collect()
}

async fn planned(api: &Api, name: &str, changes: Map<String, Value>) -> Result<Json<Value>, ApiError> {
    let group = api.groups.show(name).await?;
    let outlook = api.upkeep.outlook_with(name, changes).await?;
    let refusal = api.upkeep.refusal(group.name);
    let mut shown = summary(&outlook, refusal.as_ref());
    shown["name"] = name.into();
    shown["revision"] = group.revision.into();
    shown["steps"] = steps(&outlook.plan);
    Ok(Json(shown))
}

/// What is about to be started and stopped
pub(super) async fn plan(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::GroupsView)?;
    planned(&api, &name, Map::new()).await
}

/// The same as if a change of the group had been made
pub(super) async fn plan_with(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Body(body): Body<Value>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::GroupsManage)?;
    planned(&api, &name, fields(body)?).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scale {
    instances: usize,
}

pub(super) async fn scale(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    headers: HeaderMap,
    Body(Scale { instances }): Body<Scale>,
) -> Result<Response, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let (group, stopped) = api
        .upkeep
        .scale(&actor, &name, instances, seen(&headers)?)
        .await?;
    for instance in stopped {
        note(&api, &actor, "instance.stop", instance.as_str(), "group.scale").await;
    }
    answer(&api, StatusCode::OK, &group, Sight::All).await
}

pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
) -> Result<Response, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let group = api.upkeep.hold(&actor, &name).await?;
    answer(&api, StatusCode::OK, &group, Sight::All).await
}

pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
) -> Result<Response, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let group = api.upkeep.resume(&actor, &name).await?;
    answer(&api, StatusCode::OK, &group, Sight::All).await
}

/// Stops all servers of a group, and pauses it, so that they stay stopped
pub(super) async fn stop(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let stopped = api.upkeep.stop_all(&actor, &name).await?;
    for instance in &stopped {
        note(&api, &actor, "instance.stop", instance.as_str(), "group.stop").await;
    }
    let names: Vec<&str> = stopped.iter().map(|instance| instance.as_str()).collect();
    Ok(Json(json!({
        "status": "stopping", "count": names.len(), "instances": names, "paused": true,
    })))
}
