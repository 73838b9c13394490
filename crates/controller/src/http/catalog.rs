//! `/catalog`: which jar a version of a platform is
//!
//! Paths, bodies and answers are those of the Java controller; but what is not there is said so when it is to be changed or recommended.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    groups::{Pages, number},
    json::{Body, Id, Params},
};
use crate::{
    access::Permission,
    catalog::{CatalogError, CatalogRecord},
};

/// Entries of one page, and the most that can be asked for
const PAGE: usize = 100;

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        let message = error.to_string();
        match error {
            CatalogError::Unknown { .. } => Self::not_found(message),
            CatalogError::Invalid(_) => Self::invalid(message),
            CatalogError::Contended => Self::conflict(message),
            CatalogError::Store(error) => error.into(),
        }
    }
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(pages): Params<Pages>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Permission::GroupsView)?;
    let page = number("page", pages.page, 1)?;
    let size = number("pageSize", pages.page_size, PAGE)?.min(PAGE);
    let (records, total) = api.catalog.page((page - 1).saturating_mul(size), size).await?;
    let data: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "platform": record.platform, "category": record.category, "configFormat": record.config_format,
                "version": record.version, "downloadUrl": record.download_url, "sha256": record.sha256,
                "recommended": record.recommended, "proxy": record.is_proxy(),
            })
        })
        .collect();
    Ok(Json(
        json!({ "data": data, "page": page, "pageSize": size, "total": total }),
    ))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Entry {
    version: Option<String>,
    category: Option<String>,
    config_format: Option<String>,
    download_url: Option<String>,
    sha256: Option<String>,
}

impl Entry {
    fn record(self, platform: String) -> CatalogRecord {
        CatalogRecord {
            platform,
            version: self.version.unwrap_or_default(),
            category: self.category.unwrap_or_default(),
            config_format: self.config_format.unwrap_or_default(),
            download_url: self.download_url.unwrap_or_default(),
            sha256: self.sha256.unwrap_or_default(),
            recommended: false,
        }
    }
}

pub(super) async fn add(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(platform): Id,
    Body(entry): Body<Entry>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let mut record = entry.record(platform);
    if record.category.is_empty() {
        "SERVER".clone_into(&mut record.category);
    }
    let added = api.catalog.put(&actor, record).await?;
    let shown = json!({ "platform": added.platform, "version": added.version });
    Ok((StatusCode::CREATED, Json(shown)))
}

pub(super) async fn update(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path((platform, version)): Path<(String, String)>,
    Body(entry): Body<Entry>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let change = entry.record(String::new());
    let changed = api.catalog.change(&actor, &platform, &version, change).await?;
    Ok(Json(
        json!({ "platform": changed.platform, "version": changed.version }),
    ))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path((platform, version)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    api.catalog.remove(&actor, &platform, &version).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn recommend(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Path((platform, version)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    api.catalog.recommend(&actor, &platform, &version).await?;
    Ok(Json(
        json!({ "platform": platform, "recommended": true, "version": version }),
    ))
}
