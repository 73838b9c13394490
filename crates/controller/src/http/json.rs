//! Reading requests with our errors, and writing times

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// A JSON body, whatever its content type says; an empty body is an empty object
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            match rejection.status().as_u16() {
                413 => ApiError::too_large(),
                _ => ApiError::bad_request(rejection.body_text()),
            }
        })?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| match error.classify() {
                serde_json::error::Category::Data => ApiError::invalid(unquoted(&error.to_string())),
                _ => ApiError::bad_request(format!("the body is not JSON: {error}")),
            })
    }
}

/// What the parser says without the value that it quotes, which may be secret
fn unquoted(error: &str) -> String {
    let is_quoting = error.starts_with("invalid type: ") || error.starts_with("invalid value: ");
    match error.rsplit_once(", expected ") {
        Some((_, expected)) if is_quoting => {
            format!("a value has another type than it must have: {expected}")
        }
        _ => error.to_owned(),
    }
}

/// Query parameters; an unknown one is an error where the type says so
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::<T>::from_request_parts(parts, state).await?;
        Ok(Self(params))
    }
}

/// The one variable part of a path
pub(super) struct Id(pub(super) String);

impl Id {
    /// As a validated id; what cannot be one names nothing
    pub(super) fn parse<T: std::str::FromStr>(&self, what: &str) -> Result<T, ApiError> {
        self.0
            .parse()
            .map_err(|_| ApiError::not_found(format!("no such {what}")))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await?;
        Ok(Self(id))
    }
}

/// RFC 3339 in UTC with milliseconds, for instance `2026-11-21T20:00:00.000Z`
pub(super) fn time(millis: i64) -> String {
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        // Outside of the years that a timestamp can have: no clock says that.
        Err(_) => "1970-01-01T00:00:00.000Z".to_owned(),
    }
}

/// The same, where 0 means "never"
pub(super) fn time_unless_never(millis: i64) -> Option<String> {
    (millis != 0).then(|| time(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_wrong_type_is_not_quoted() {
        let error = serde_json::from_str::<u32>("\"hunter2, expected\"").map_err(|error| error.to_string());
        let told = unquoted(&error.err().unwrap_or_default());
        assert_eq!(
            told,
            "a value has another type than it must have: u32 at line 1 column 19"
        );
        let unknown = "unknown field `x`, expected `y`";
        assert_eq!(unquoted(unknown), unknown);
    }

    #[test]
    fn times_have_a_zone_and_milliseconds() {
        assert_eq!(time(1_764_000_000_042), "2025-11-24T16:00:00.042Z");
        assert_eq!(time(i64::MAX), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_unless_never(0), None);
    }
}
