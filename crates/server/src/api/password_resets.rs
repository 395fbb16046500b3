//! `/password-resets`: Heroku's endpoints for whoever lost their password. Neither takes credentials.

use crate::api::body::Body;
use crate::api::conventions::RequestContext;
use crate::api::routes::{Routes, post};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::people::account;
use axum::Json;
use axum::extract::{Path, State};
use ferroku_api::Timestamp;
use http::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/password-resets", post(create))
        .route("/password-resets/{token}/actions/finalize", post(finalize))
}

#[derive(Deserialize)]
struct Create {
    email: String,
}

async fn create(
    State(node): State<Arc<Node>>,
    context: RequestContext,
    Body(Create { email }): Body<Create>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    account::request_reset(&node, &email, &context)?;
    Ok((StatusCode::CREATED, Json(answer(&email))))
}

#[derive(Deserialize)]
struct Finalize {
    password: String,
    password_confirmation: String,
}

async fn finalize(
    State(node): State<Arc<Node>>,
    context: RequestContext,
    Path(token): Path<String>,
    Body(Finalize { password, password_confirmation }): Body<Finalize>,
) -> Result<Json<Value>, ApiError> {
    let (password, confirmation) = (SecretString::from(password), SecretString::from(password_confirmation));
    account::refuse_unlike(&password, &confirmation)?;
    let account = account::reset_password(&node, &token.into(), password, &context).await?;
    Ok(Json(answer(&account.email)))
}

/// Without the account's id, which would tell whether there is an account.
fn answer(email: &str) -> Value {
    json!({"created_at": Timestamp(now_ms()), "user": {"email": email}})
}
