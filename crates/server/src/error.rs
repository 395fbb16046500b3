//! Errors at the API's edge, in Heroku's shape: `{"id": "not_found", "message": "Couldn't find that app."}`.
//!
//! Each constructor names one of Heroku's error ids and its status. An internal
//! error shows nothing of its cause to the client; the whole chain is logged
//! once, with the request's id.

use crate::dynos::DynosError;
use crate::release_output::OutputError;
use axum::response::{IntoResponse, Response};
use ferroku_core::room::Shortage;
use ferroku_logplex::LogplexError;
use ferroku_store::StoreError;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

/// Heroku's id of the error that asks for a code; it comes with a header of the same meaning.
pub const TWO_FACTOR: &str = "two_factor";
const TWO_FACTOR_REQUIRED: HeaderName = HeaderName::from_static("heroku-two-factor-required");

/// What a handler answers when it refuses or fails.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    /// Heroku's name for the kind of error: `not_found`, `invalid_params` ...
    pub id: &'static str,
    pub message: String,
    /// What was not found, in the CLI's words: it tells `session` and `authorization` apart.
    resource: Option<String>,
    /// Why, for the log; never shown to the client.
    cause: Option<anyhow::Error>,
}

/// The cause of an internal error on its way to the middleware that logs it with the request's id.
#[derive(Debug, Clone)]
pub(crate) struct Cause(pub std::sync::Arc<anyhow::Error>);

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a str>,
}

impl ApiError {
    /// An error with this status, id and message.
    pub fn new(status: StatusCode, id: &'static str, message: impl Into<String>) -> Self {
        Self { status, id, message: message.into(), resource: None, cause: None }
    }

    /// 404: `what` is the noun in Heroku's words, such as `app` or `release`.
    pub fn not_found(what: &str) -> Self {
        let message = format!("Couldn't find that {what}.");
        Self { resource: Some(what.to_owned()), ..Self::new(StatusCode::NOT_FOUND, "not_found", message) }
    }

    /// 401: wrong credentials.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Invalid credentials provided.")
    }

    /// 401: no credentials.
    pub fn no_credentials() -> Self {
        let message = "There were no credentials in your `Authorization` header. \
                       Try `Authorization: Bearer <OAuth access token>`.";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 403: an admin keeps the account out.
    pub fn suspended() -> Self {
        Self::new(StatusCode::FORBIDDEN, "suspended", "Your account is suspended. Ask the node's admin why.")
    }

    /// 403: the password was right, and a code is asked for beside it.
    pub fn two_factor() -> Self {
        let message = "A second authentication factor is required: send it as Heroku-Two-Factor-Code.";
        Self::new(StatusCode::FORBIDDEN, TWO_FACTOR, message)
    }

    /// 400: the request cannot be read.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 422: the request can be read but asks for something that is not allowed.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_params", message)
    }

    /// 429: too many requests.
    pub fn rate_limit(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit", message)
    }

    /// 503: try again later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", message)
    }

    /// 503: nothing can be written.
    pub fn disk_full() -> Self {
        Self::unavailable(
            "The node's disk is full: nothing was changed. Free some space on the node and try again.",
        )
    }

    /// The same with a cause for the log.
    fn because(self, cause: impl Into<anyhow::Error>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// 500: our own fault; `cause` goes to the log.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_server_error",
                "Internal server error. The node's log says more under this request's Request-Id.",
            )
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { what } => Self::not_found(what),
            StoreError::Refused(message) => Self::invalid_params(message),
            StoreError::Taken { what } => Self::invalid_params(format!("That {what} is already taken.")),
            error if error.is_disk_full() => Self::disk_full().because(error),
            error if error.is_unavailable() => {
                let message = "The node's database is busy or away. Try again in a moment.";
                Self::unavailable(message).because(error)
            }
            error => Self::internal(error),
        }
    }
}

impl From<DynosError> for ApiError {
    fn from(error: DynosError) -> Self {
        match error {
            DynosError::Store(error) => error.into(),
            DynosError::NoRoom(shortage) => shortage.into(),
            DynosError::Closing => Self::unavailable("The node is stopping. Try again in a moment."),
            error => Self::internal(error),
        }
    }
}

impl From<Shortage> for ApiError {
    fn from(shortage: Shortage) -> Self {
        match shortage {
            Shortage::Disk => Self::disk_full(),
            Shortage::Memory { .. } => Self::invalid_params(format!(
                "There is no room for this dyno: {shortage}. Scale something down, or ask the node's admin \
                 (--memory-overcommit)."
            )),
        }
    }
}

impl From<OutputError> for ApiError {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::Log(error) => error.into(),
            OutputError::Store(error) => error.into(),
            error => Self::unavailable(format!("The node is busy: {error}.")),
        }
    }
}

impl From<LogplexError> for ApiError {
    fn from(error: LogplexError) -> Self {
        match error {
            LogplexError::Removed { .. } => Self::not_found("app"),
            LogplexError::TooManyTails { .. } => Self::unavailable(format!("The node is busy: {error}.")),
            error => Self::internal(error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body { id: self.id, message: &self.message, resource: self.resource.as_deref() };
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.id == TWO_FACTOR {
            response.headers_mut().insert(TWO_FACTOR_REQUIRED, HeaderValue::from_static("true"));
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(Cause(cause.into()));
        }
        response
    }
}
