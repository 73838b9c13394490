//! `/groups/{name}/deploy` and `/groups/{name}/deployments`: what a group is made of, brought to its servers and taken back
//!
//! Paths and answers are those of the Java controller; what is ours comes beside it: `contentRevision`, the deployment that has pinned what this
//! one brings, `baseRevision`, what was in force before, `reason`, `createdBy`, and `waves`, the order in which servers are replaced. A
//! rollout field of that controller which nothing acts on here is taken at its default alone.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    groups::{Pages, fields, number},
    json::{Body, Id, Params, time, time_unless_never},
};
use crate::{
    access::Permission,
    groups::{Deployed, DeploymentRecord, MAX_BATCH, Pace, STRATEGY, Trial},
};

/// Deployments of one page, and the most that can be asked for
const PAGE: usize = 100;

/// The longest that the replacement of one server may take, in seconds
const MAX_TIMEOUT_SECONDS: i64 = 86_400;

/// What the Java controller takes beside ours, and the only value that is taken here
const NEITHER: [&str; 6] = [
    "canaryInstances",
    "healthGateEnabled",
    "autoRollbackOnFailure",
    "promotionTimeoutSeconds",
    "minHealthySeconds",
    "minHealthyTps",
];

fn shown(record: &DeploymentRecord) -> Map<String, Value> {
    let hashes = record.layers.iter().map(|layer| {
        let version = layer.version.as_ref();
        (&layer.name, version.map(|version| version.archive.as_str()))
    });
    let hashes: BTreeMap<&String, Option<&str>> = hashes.collect();
    let is_rollback = record.rollback_of > 0;
    let timeout = record.timeout_seconds;
    let config = json!({ "group": record.group, "strategy": STRATEGY, "replacementTimeoutSeconds": timeout });
    let fields = [
        ("id", record.revision.into()),
        ("groupName", record.group.as_str().into()),
        ("revision", record.revision.into()),
        ("trigger", if is_rollback { "rollback" } else { "manual" }.into()),
        ("strategy", STRATEGY.into()),
        ("state", record.state().name().into()),
        ("templateSnapshot", json!(hashes).to_string().into()),
        ("configSnapshot", config.to_string().into()),
        ("totalInstances", record.total.into()),
        ("updatedInstances", record.updated.into()),
        ("createdAt", time(record.created_at_ms).into()),
        ("completedAt", json!(time_unless_never(record.completed_at_ms))),
        (
            "rollbackOf",
            if is_rollback {
                record.rollback_of.into()
            } else {
                Value::Null
            },
        ),
        (
            "rollout",
            json!({
                "batchSize": record.batch, "canaryInstances": 0, "healthGateEnabled": false,
                "autoRollbackOnFailure": false, "promotionTimeoutSeconds": 0, "minHealthySeconds": 0,
                "minHealthyTps": 0.0, "replacementTimeoutSeconds": timeout,
            }),
        ),
        ("contentRevision", record.content.into()),
        ("baseRevision", record.base.into()),
        ("reason", record.reason.as_str().into()),
        ("createdBy", record.created_by.as_str().into()),
    ];
    let fields = fields.into_iter();
    fields.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn with_waves(Deployed { deployment, waves }: &Deployed) -> Map<String, Value> {
    let mut shown = shown(deployment);
    let waves: Vec<Vec<&str>> = waves
        .iter()
        .map(|wave| wave.iter().map(|instance| instance.as_str()).collect())
        .collect();
    shown.insert("waves".to_owned(), json!(waves));
    shown
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rehearsed {
    dry_run: Option<bool>,
}

impl Rehearsed {
    fn trial(&self) -> Trial {
        match self.dry_run {
            Some(true) => Trial::Dry,
            Some(false) | None => Trial::Real,
        }
    }
}

/// How fast it goes, from a body whose fields may also be in its `rollout`
fn pace(body: Value) -> Result<Pace, ApiError> {
    let mut fields = fields(body)?;
    match fields.remove("rollout") {
        None | Some(Value::Null) => {}
        Some(Value::Object(rollout)) => fields.extend(rollout),
        Some(_) => return Err(ApiError::bad_request("rollout must be an object")),
    }
    let mut pace = Pace::default();
    let whole = |name: &str, value: &Value, most: i64| {
        let number = value.as_i64().filter(|number| (1..=most).contains(number));
        let number = number.and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| ApiError::invalid(format!("{name} must be a whole number from 1 to {most}")))
    };
    for (name, value) in fields {
        match name.as_str() {
            _ if value.is_null() => {}
            "batchSize" => pace.batch = whole(&name, &value, i64::from(MAX_BATCH))?,
            "replacementTimeoutSeconds" => pace.timeout_seconds = whole(&name, &value, MAX_TIMEOUT_SECONDS)?,
            "strategy" if value.as_str() == Some(STRATEGY) => {}
            "strategy" => return Err(ApiError::invalid(format!("strategy: only {STRATEGY} is known"))),
            name if NEITHER.contains(&name) => {
                let is_nothing = value == json!(false) || value.as_f64() == Some(0.0);
                if !is_nothing {
                    return Err(ApiError::invalid(format!(
                        "{name}: nothing acts on it here; a deployment halts at its first failure, and is rolled back by a command"
                    )));
                }
            }
            other => {
                let other: String = other.chars().take(64).collect();
                return Err(ApiError::bad_request(format!(
                    "a deployment has no field {other:?}: it has batchSize and replacementTimeoutSeconds"
                )));
            }
        }
    }
    Ok(pace)
}

fn revision(text: &str) -> Result<u32, ApiError> {
    let number = text.parse();
    number.map_err(|_| ApiError::bad_request("the revision of a deployment is a whole number"))
}

pub(super) async fn deploy(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Params(rehearsed): Params<Rehearsed>,
    Body(body): Body<Value>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let (pace, trial) = (pace(body)?, rehearsed.trial());
    let deployed = api.upkeep.deploy(&actor, &name, pace, trial).await?;
    let status = match trial {
        Trial::Real => StatusCode::ACCEPTED,
        Trial::Dry => StatusCode::OK,
    };
    Ok((status, Json(with_waves(&deployed).into())))
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Params(pages): Params<Pages>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::GroupsView)?;
    let page = number("page", pages.page, 1)?;
    let size = number("pageSize", pages.page_size, PAGE)?.min(PAGE);
    let skipped = (page - 1).saturating_mul(size);
    let (found, total) = api.groups.deployments(&name, skipped, size).await?;
    let data: Vec<Value> = found.iter().map(|record| shown(record).into()).collect();
    Ok(Json(
        json!({ "data": data, "page": page, "pageSize": size, "total": total }),
    ))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path((name, number)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::GroupsView)?;
    let record = api.groups.deployment(&name, revision(&number)?).await?;
    Ok(Json(shown(&record).into()))
}

fn turned(status: &str, mut shown: Map<String, Value>) -> Json<Value> {
    shown.insert("status".to_owned(), status.into());
    Json(shown.into())
}

pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path((name, number)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let paused = api.upkeep.pause_deployment(&actor, &name, revision(&number)?);
    Ok(turned("paused", shown(&paused.await?)))
}

pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path((name, number)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let resumed = api.upkeep.resume_deployment(&actor, &name, revision(&number)?);
    Ok(turned("resumed", shown(&resumed.await?)))
}

/// The answer is the deployment that undoes the other
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path((name, number)): Path<(String, String)>,
    Params(rehearsed): Params<Rehearsed>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let trial = rehearsed.trial();
    let deployed = api
        .upkeep
        .rollback(&actor, &name, revision(&number)?, trial)
        .await?;
    let status = match trial {
        Trial::Real => "rolled_back",
        Trial::Dry => "dry_run",
    };
    Ok(turned(status, with_waves(&deployed)))
}
