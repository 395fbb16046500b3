//! Resources that this node has none of, which clients ask for on the way to others.
//!
//! `heroku apps:info` asks for add-ons, `heroku ps` for an hours' quota, `heroku apps` for spaces. Each answer is
//! what Heroku says of an account or app that has none: an empty list, or 404 with the noun.

use crate::api::accounts::own;
use crate::api::routes::{Routes, get};
use crate::auth::{Browse, ViewApp};
use crate::error::ApiError;
use axum::Json;
use axum::extract::Path;

type Nothing = Json<[(); 0]>;

/// The endpoints of these nouns.
pub fn routes() -> Routes {
    Routes::new()
        .route("/account/features", get(none))
        .route("/account/features/{feature}", get(no_feature))
        .route("/account/keys", get(none))
        .route("/accounts/{account}/actions/get-quota", get(no_quota))
        .route("/addon-attachments", get(none))
        .route("/addons", get(none))
        .route("/apps/{app}/addon-attachments", get(none_of_app))
        .route("/apps/{app}/addons", get(none_of_app))
        .route("/apps/{app}/log-drains", get(none_of_app))
        .route("/apps/{app}/pipeline-couplings", get(no_coupling))
        .route("/apps/{app}/webhooks", get(none_of_app))
        .route("/oauth/clients", get(none))
        .route("/pipelines", get(none))
        .route("/spaces", get(none))
        .route("/teams", get(none))
}

async fn none(_user: Browse) -> Nothing {
    Json([])
}

async fn none_of_app(_app: ViewApp) -> Nothing {
    Json([])
}

async fn no_feature(_user: Browse) -> ApiError {
    ApiError::not_found("feature")
}

async fn no_coupling(_app: ViewApp) -> ApiError {
    ApiError::not_found("pipeline coupling")
}

async fn no_quota(Browse(user): Browse, Path(account): Path<String>) -> Result<Nothing, ApiError> {
    own(&user, &account)?;
    Err(ApiError::not_found("account quota"))
}
