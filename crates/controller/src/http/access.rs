//! Who calls, and whether they may

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{header::AUTHORIZATION, request::Parts},
};

use super::{Api, error::ApiError};
use crate::access::{AccessError, Caller, Permission};

/// A caller with a valid bearer token
pub(super) struct Authenticated(Caller);

impl Authenticated {
    /// Whether this caller may do what a token with this permission would allow
    pub(super) fn may_grant(&self, permission: &str) -> bool {
        self.0.may_grant(permission)
    }

    /// Who it is
    pub(super) fn into_caller(self) -> Caller {
        self.0
    }

    /// The name for the audit log, if this caller may do that
    pub(super) fn require(&self, permission: Permission) -> Result<String, ApiError> {
        if self.0.may(permission) {
            Ok(self.0.actor())
        } else {
            Err(ApiError::forbidden(format!(
                "the permission {} is required",
                permission.name()
            )))
        }
    }
}

impl From<Caller> for Authenticated {
    /// Who was known by something else than the header, such as a ticket
    fn from(caller: Caller) -> Self {
        Self(caller)
    }
}

impl FromRequestParts<Arc<Api>> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let missing = || ApiError::unauthorized("an Authorization header with a bearer token is required");
        let header = parts.headers.get(AUTHORIZATION).ok_or_else(missing)?;
        let header = header.to_str().map_err(|_| missing())?;
        match api.access.authenticate(header).await {
            Ok(caller) => Ok(Self(caller)),
            Err(AccessError::Invalid) => Err(ApiError::unauthorized("the bearer token is not valid")),
            Err(AccessError::Store(error)) => Err(error.into()),
        }
    }
}
