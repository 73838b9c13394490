//! The catalog of platforms

use serde::Deserialize;

/// A version of a platform
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CatalogEntry {
    /// The name of the software
    pub platform: String,
    /// Its version
    pub version: String,
    /// SERVER or PROXY
    pub category: String,
    /// Groups that name no version get this one
    pub recommended: bool,
    /// An http(s) URL, or a path on the nodes
    pub download_url: String,
    /// Of the jar; empty = not said
    pub sha256: String,
}

/// Some of the versions
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CatalogPage {
    /// By platform and version
    pub data: Vec<CatalogEntry>,
    /// How many a page has that is not the last
    pub page_size: usize,
}
