//! The one form of an error

use std::time::Duration;

use axum::{
    Json,
    extract::{
        Request,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    content::BlobError, groups::GroupError, modules::ModuleError, nodes::OrderError, rotation::RotationError,
    store::StoreError, templates::TemplateError,
};

/// What went wrong, for the caller
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Envelope {
    error: Body,
}

#[derive(Serialize)]
struct Body {
    code: &'static str,
    message: String,
    status: u16,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// For whoever tells it beside something else
    pub(super) fn message(self) -> String {
        self.message
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    /// A daemon says that a command did not get to its instance
    pub(super) fn not_written(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "COMMAND_NOT_WRITTEN", message)
    }

    /// A field is well-formed and still not acceptable
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR", message)
    }

    pub(super) fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "PAYLOAD_TOO_LARGE",
            "the request body is too large",
        )
    }

    pub(super) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body {
            code: self.code,
            message: self.message,
            status: self.status.as_u16(),
        };
        (self.status, Json(Envelope { error: body })).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a request failed because of the storage");
        Self::unavailable("the controller's storage failed, try again")
    }
}

impl From<RotationError> for ApiError {
    fn from(error: RotationError) -> Self {
        let message = error.to_string();
        match error {
            RotationError::OutOfOrder(_) => Self::conflict(message),
            RotationError::LocksOut { .. } => Self::new(StatusCode::CONFLICT, "NODES_LOCKED_OUT", message),
            RotationError::Store(error) => error.into(),
            RotationError::Conflict | RotationError::Stopping => Self::unavailable(message),
            RotationError::Files(_) | RotationError::Server(_) => {
                tracing::error!(%error, "the authorities could not be changed");
                Self::unavailable(message)
            }
        }
    }
}

impl From<OrderError> for ApiError {
    fn from(error: OrderError) -> Self {
        let message = error.to_string();
        match error {
            OrderError::UnknownNode | OrderError::UnknownInstance => Self::not_found(message),
            OrderError::NotConnected => Self::new(StatusCode::CONFLICT, "NODE_NOT_CONNECTED", message),
            OrderError::NotSchedulable(_) | OrderError::Conflict(_) => Self::conflict(message),
            OrderError::NoCapacity(_) | OrderError::NoFreePort { .. } => {
                Self::new(StatusCode::CONFLICT, "NO_CAPACITY", message)
            }
            OrderError::Invalid(_) | OrderError::Unsuitable(_) => Self::invalid(message),
            OrderError::Busy | OrderError::Unanswered => Self::unavailable(message),
            OrderError::Silent => Self::new(StatusCode::SERVICE_UNAVAILABLE, "TIMEOUT", message),
            OrderError::Store(error) => error.into(),
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        let message = error.to_string();
        match error {
            BlobError::NoSpace => {
                tracing::warn!("content was refused, because the volume of the data folder is nearly full");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "INSUFFICIENT_STORAGE", message)
            }
            BlobError::Mismatch => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "CONTENT_MISMATCH", message),
            BlobError::Incomplete { .. } => Self::bad_request(message),
            BlobError::Busy => Self::unavailable(message),
            BlobError::Io { .. } => {
                tracing::error!(%error, "a request failed because of the content");
                Self::unavailable(message)
            }
        }
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        let message = error.to_string();
        match error {
            TemplateError::Unknown | TemplateError::UnknownVersion => Self::not_found(message),
            TemplateError::Invalid(_) => Self::invalid(message),
            TemplateError::Exists | TemplateError::Conflict(_) => Self::conflict(message),
            TemplateError::Missing { .. } => Self::new(StatusCode::CONFLICT, "CONTENT_MISSING", message),
            TemplateError::NoPrevious => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "NO_SNAPSHOT", message),
            TemplateError::Blob(error) => error.into(),
            TemplateError::Damaged { .. } => Self::internal(message),
            TemplateError::Store(error) => error.into(),
        }
    }
}

impl From<ModuleError> for ApiError {
    fn from(error: ModuleError) -> Self {
        let message = error.to_string();
        match error {
            ModuleError::Unknown(_) => Self::not_found(message),
            ModuleError::Invalid(_) => Self::invalid(message),
            ModuleError::Signature(_) => {
                let code = "SIGNATURE_VERIFICATION_FAILED";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
            }
            ModuleError::Conflict(_) => Self::new(StatusCode::CONFLICT, "PLATFORM_INSTALL_FAILED", message),
            ModuleError::Blob(error) => error.into(),
            ModuleError::Store(error) => error.into(),
        }
    }
}

impl From<GroupError> for ApiError {
    fn from(error: GroupError) -> Self {
        let message = error.to_string();
        match error {
            GroupError::Unknown(_) | GroupError::UnknownDeployment { .. } => Self::not_found(message),
            GroupError::Malformed(_) => Self::bad_request(message),
            // As the Java controller answers.
            GroupError::Exists(_) | GroupError::Invalid(_) => Self::invalid(message),
            GroupError::Overtaken { .. } => {
                Self::new(StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED", message)
            }
            GroupError::Conflict(_) => Self::conflict(message),
            GroupError::Template(error) => error.into(),
            GroupError::Order(error) => error.into(),
            GroupError::Store(error) => error.into(),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

pub(super) async fn no_such_route() -> ApiError {
    ApiError::not_found("no such resource")
}

pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        "this resource does not have that method",
    )
}

/// Answers a request that takes too long; a stream has been answered as soon as it begins
pub(super) async fn within(timeout: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::unavailable("the request took too long").into_response(),
    }
}
