//! Resources that this node has none of, which clients ask for on the way to others.
//!
//! `heroku apps:info` asks for add-ons, `heroku apps` for spaces. Each answer is
//! what Heroku says of an account or app that has none: an empty list, or 404 with the noun. Whatever else is asked of
//! these nouns is 404 with a message that says what this node has not ([`not_here`]).

use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{Browse, ViewApp};
use crate::error::ApiError;
use axum::response::Response;
use http::StatusCode;

/// Nothing can be sorted by anything.
const SORT_FIELDS: [SortField<()>; 2] = [("id", SortBy::Number(|()| 0)), ("name", SortBy::Number(|()| 0))];

/// What this node has not, by the beginnings of the paths under which Heroku has it; `*` is any segment.
const NOT_HERE: [(&str, &str); 31] = [
    ("actions/addon-attachments", "add-ons"),
    ("actions/addons", "add-ons"),
    ("addon-attachments", "add-ons"),
    ("addon-region-capabilities", "add-ons"),
    ("addon-services", "add-ons"),
    ("addons", "add-ons"),
    ("app-setups", "app setups"),
    ("apps/*/addon-attachments", "add-ons"),
    ("apps/*/addons", "add-ons"),
    ("apps/*/log-drains", "log drains"),
    ("apps/*/review-app", "review apps"),
    ("apps/*/telemetry-drains", "telemetry drains"),
    ("apps/*/webhook-deliveries", "webhooks"),
    ("apps/*/webhook-events", "webhooks"),
    ("apps/*/webhooks", "webhooks"),
    ("archives", "enterprise accounts"),
    ("client/v11", "add-ons, and so no databases"),
    ("data", "add-ons, and so no databases"),
    ("enterprise-accounts", "enterprise accounts"),
    ("peerings", "private spaces"),
    ("pipeline-transfers", "transfers of pipelines"),
    ("pipelines", "review apps and no CI"),
    ("postgres/v0", "add-ons, and so no databases"),
    ("redis/v0", "add-ons, and so no databases"),
    ("review-apps", "review apps"),
    ("spaces", "private spaces"),
    ("teams/*/addons", "add-ons"),
    ("telemetry-drains", "telemetry drains"),
    ("test-runs", "CI"),
    ("users/*/addons", "add-ons"),
    ("vpn-connections", "private spaces"),
];

/// The answer to a request for what no node has.
pub fn not_here(path: &str) -> Option<ApiError> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let begins_with = |pattern: &str| {
        let mut have = segments.iter();
        pattern.split('/').all(|wanted| have.next().is_some_and(|have| wanted == "*" || wanted == *have))
    };
    let (_, what) = NOT_HERE.iter().find(|(pattern, _)| begins_with(pattern))?;
    let message = format!("This node has no {what}. What it has is listed in docs/compatibility.md.");
    Some(ApiError::new(StatusCode::NOT_FOUND, "not_found", message))
}

/// The endpoints of these nouns.
pub fn routes() -> Routes {
    Routes::new()
        .route("/account/features", get(none))
        .route("/account/features/{feature}", get(no_feature))
        .route("/addon-attachments", get(none))
        .route("/addons", get(none))
        .route("/apps/{app}/addon-attachments", get(none_of_app))
        .route("/apps/{app}/addons", get(none_of_app))
        .route("/apps/{app}/log-drains", get(none_of_app))
        .route("/apps/{app}/telemetry-drains", get(none_of_app))
        .route("/apps/{app}/webhooks", get(none_of_app))
        .route("/spaces", get(none))
}

async fn none(_user: Browse, range: ListRange) -> Response {
    range.answer(Vec::new(), &SORT_FIELDS)
}

async fn none_of_app(_app: ViewApp, range: ListRange) -> Response {
    range.answer(Vec::new(), &SORT_FIELDS)
}

async fn no_feature(_user: Browse) -> ApiError {
    ApiError::not_found("feature")
}
