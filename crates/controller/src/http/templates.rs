//! `/templates`: what there is, which version counts, and what its files may ask for

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use prexorcloud_content::{Difference, Kind, Manifest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Body, Id, Params, time},
};
use crate::{
    access::Permission,
    templates::{
        TemplateRecord, TemplateVersionRecord,
        variables::{Scope, Validation, Variable, VariableType},
    },
};

/// Entries of a difference; who wants more asks for both manifests
const MAX_DIFFERENCES: usize = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    name: String,
    description: String,
    platform: String,
    /// Empty = nothing was pushed
    hash: String,
    size_bytes: u64,
    files: u64,
    version: u64,
    created_at: String,
    updated_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    number: u64,
    hash: String,
    archive: String,
    archive_bytes: u64,
    size_bytes: u64,
    files: u64,
    created_at: String,
    created_by: String,
    current: bool,
    /// Whether its manifest is not what it was: nobody can be sent it anew, and no bytes are removed
    damaged: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    platform: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    description: Option<String>,
    platform: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    hash: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Compared {
    from: Option<String>,
    to: Option<String>,
}

/// Groups that a refusal names
const MAX_NAMED: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Delete {
    /// Refuse it while groups use the template; the Java controller, and who does not ask for this, deletes it all the same
    #[serde(default)]
    if_unused: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ShownVariable {
    key: String,
    #[serde(rename = "type")]
    kind: VariableType,
    /// Never that of a SECRET
    #[serde(default)]
    default_value: Option<String>,
    /// Of a SECRET whether it has a default; said so by whoever sets it, it keeps the one that it has
    #[serde(default, skip_serializing_if = "Option::is_none")]
    has_default: Option<bool>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    scope: Scope,
    #[serde(default)]
    visibility: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    validation: Option<Validation>,
}

fn shown((template, current): (TemplateRecord, Option<TemplateVersionRecord>)) -> Shown {
    let current = current.unwrap_or_default();
    Shown {
        name: template.name,
        description: template.description,
        platform: template.platform,
        hash: current.manifest,
        size_bytes: current.size_bytes,
        files: current.files,
        version: template.current,
        created_at: time(template.created_at_ms),
        updated_at: time(template.updated_at_ms),
    }
}

pub(super) fn version(version: TemplateVersionRecord, current: u64, damaged: bool) -> Version {
    Version {
        current: version.number == current,
        damaged,
        number: version.number,
        hash: version.manifest,
        archive: version.archive,
        archive_bytes: version.archive_bytes,
        size_bytes: version.size_bytes,
        files: version.files,
        created_at: time(version.created_at_ms),
        created_by: version.created_by,
    }
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
) -> Result<Json<Vec<Shown>>, ApiError> {
    caller.require(Permission::TemplatesView)?;
    Ok(Json(api.templates.list().await?.into_iter().map(shown).collect()))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Shown>), ApiError> {
    let actor = caller.require(Permission::TemplatesManage)?;
    let created = api
        .templates
        .create(&actor, &create.name, &create.description, &create.platform)
        .await?;
    Ok((StatusCode::CREATED, Json(shown((created, None)))))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
) -> Result<Json<Shown>, ApiError> {
    caller.require(Permission::TemplatesView)?;
    Ok(Json(shown(api.templates.show(&name).await?)))
}

pub(super) async fn update(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Body(update): Body<Update>,
) -> Result<Json<Shown>, ApiError> {
    let actor = caller.require(Permission::TemplatesManage)?;
    let (description, platform) = (update.description.as_deref(), update.platform.as_deref());
    api.templates
        .describe(&actor, &name, description, platform)
        .await?;
    Ok(Json(shown(api.templates.show(&name).await?)))
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Params(Delete { if_unused }): Params<Delete>,
) -> Result<StatusCode, ApiError> {
    let actor = caller.require(Permission::TemplatesManage)?;
    if if_unused {
        api.templates.show(&name).await?;
        let using = api.groups.using(&name).await?;
        if !using.is_empty() {
            let mut named: Vec<String> = using.iter().take(MAX_NAMED).map(ToString::to_string).collect();
            if let Some(more) = using.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
                named.push(format!("{more} more"));
            }
            return Err(ApiError::conflict(format!(
                "servers of these groups get files of {name}: {}. Take it from them first, or delete it all the same",
                named.join(", ")
            )));
        }
    }
    api.templates.delete(&actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn versions(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
) -> Result<Json<Vec<Version>>, ApiError> {
    caller.require(Permission::TemplatesView)?;
    let (versions, current) = api.templates.versions(&name).await?;
    let damaged = api.templates.damaged(&versions).await?;
    let shown = versions.into_iter().map(|its| {
        let is_damaged = damaged.contains(&its.manifest);
        version(its, current, is_damaged)
    });
    Ok(Json(shown.collect()))
}

pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Body(Rollback { hash }): Body<Rollback>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::TemplatesManage)?;
    let restored = api.templates.rollback(&actor, &name, hash.as_deref()).await?;
    Ok(Json(json!({
        "status": "restored", "hash": restored.manifest, "version": restored.number,
    })))
}

/// What changed from one version to another: by itself from the one before to the one that counts
pub(super) async fn difference(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Params(Compared { from, to }): Params<Compared>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::TemplatesView)?;
    let to = api
        .templates
        .find_version(&name, to.as_deref().unwrap_or("current"))
        .await?;
    let from = match from {
        Some(from) => Some(api.templates.find_version(&name, &from).await?),
        None => {
            let (versions, _) = api.templates.versions(&name).await?;
            versions.into_iter().find(|version| version.number < to.number)
        }
    };
    let after = api.templates.manifest(&to).await?;
    let before = match &from {
        Some(from) => api.templates.manifest(from).await?,
        None => Manifest::default(),
    };
    let compared = tokio::task::spawn_blocking(move || compared(&before, &after));
    let (total, changes) = compared
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(Json(json!({
        "from": from.map(|from| from.manifest), "to": to.manifest, "total": total, "changes": changes,
    })))
}

/// How many entries differ, and the first of them
fn compared(before: &Manifest, after: &Manifest) -> (usize, Vec<Value>) {
    let size = |kind: Option<&Kind>| match kind {
        Some(Kind::File(blob)) => Some(blob.size),
        _ => None,
    };
    let differing = before.difference(after);
    let total = differing.len();
    let changes = differing
        .into_iter()
        .take(MAX_DIFFERENCES)
        .map(|entry| {
            let change = match entry.difference {
                Difference::Added => "added",
                Difference::Removed => "removed",
                Difference::Changed => "changed",
            };
            json!({
                "path": entry.path, "change": change,
                "sizeBefore": size(entry.before), "sizeAfter": size(entry.after),
            })
        })
        .collect();
    (total, changes)
}

pub(super) async fn variables(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
) -> Result<Json<Vec<ShownVariable>>, ApiError> {
    caller.require(Permission::TemplatesView)?;
    let variables = api.templates.variables(&name).await?;
    let show = |variable: Variable| {
        let is_secret = variable.kind == VariableType::Secret;
        ShownVariable {
            key: variable.key,
            kind: variable.kind,
            has_default: is_secret.then_some(variable.default.is_some()),
            default_value: variable.default.filter(|_| !is_secret),
            required: variable.required,
            scope: variable.scope,
            visibility: variable.visibility,
            description: variable.description,
            validation: Some(variable.validation).filter(|its| *its != Validation::default()),
        }
    };
    Ok(Json(variables.into_iter().map(show).collect()))
}

pub(super) async fn set_variables(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Body(variables): Body<Vec<ShownVariable>>,
) -> Result<StatusCode, ApiError> {
    let actor = caller.require(Permission::TemplatesManage)?;
    let mut kept = Vec::new();
    let mut set = Vec::with_capacity(variables.len());
    for variable in variables {
        if variable.default_value.is_none() && variable.has_default == Some(true) {
            kept.push(variable.key.clone());
        }
        set.push(Variable {
            key: variable.key,
            kind: variable.kind,
            default: variable.default_value,
            required: variable.required,
            scope: variable.scope,
            visibility: variable.visibility,
            description: variable.description,
            validation: variable.validation.unwrap_or_default(),
            was_secret: false,
        });
    }
    api.templates.set_variables(&actor, &name, &set, &kept).await?;
    Ok(StatusCode::NO_CONTENT)
}
