//! Pages of a list: how many, after which, and where the next one begins
//!
//! A list stays an array, with and without pages. Where there is more, a header says what `cursor` the next page has; without
//! it, that was all.

use axum::{
    Json,
    body::Bytes,
    http::{HeaderName, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use serde::Serialize;

use super::error::ApiError;

/// What the next page is asked for with
pub(super) const NEXT: HeaderName = HeaderName::from_static("x-next-cursor");

/// Most entries of one page
pub(super) const MAX_LIMIT: usize = 1000;

/// Longest cursor; it is one of ours or nothing
const MAX_CURSOR: usize = 128;

/// How many entries are wanted at most
///
/// # Errors
/// For none, and for more than an answer may have.
pub(super) fn limit(wanted: Option<usize>) -> Result<Option<usize>, ApiError> {
    match wanted {
        None => Ok(None),
        Some(limit @ 1..=MAX_LIMIT) => Ok(Some(limit)),
        Some(_) => Err(ApiError::invalid(format!("limit must be from 1 to {MAX_LIMIT}"))),
    }
}

/// What a page comes after
///
/// # Errors
/// For what no list has given.
pub(super) fn cursor<T: std::str::FromStr>(given: Option<&str>) -> Result<Option<T>, ApiError> {
    let Some(given) = given else { return Ok(None) };
    let known = if given.len() <= MAX_CURSOR {
        given.parse().ok()
    } else {
        None
    };
    let unknown = || ApiError::invalid("cursor must be one that the page before has named in X-Next-Cursor");
    known.map(Some).ok_or_else(unknown)
}

/// A list that is written already, and where the next page begins
pub(super) fn written(body: Bytes, next: Option<String>) -> Response {
    let next = next.map(|next| (NEXT, next));
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (AppendHeaders(next), kind, body).into_response()
}

/// A page, and where the next one begins
pub(super) fn page<T: Serialize>(entries: Vec<T>, next: Option<String>) -> Response {
    let next = next.map(|next| (NEXT, next));
    (AppendHeaders(next), Json(entries)).into_response()
}
