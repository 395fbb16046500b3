//! `/dyno-sizes`: what a dyno may use.

use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{Browse, ViewApp};
use crate::error::ApiError;
use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use ferroku_api::dyno_size::DynoSize;
use ferroku_core::dyno_size::DYNO_SIZES;

const SORT_FIELDS: [SortField<DynoSize>; 2] =
    [("id", SortBy::Text(|size| size.id.to_string())), ("name", SortBy::Text(|size| size.name.clone()))];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/dyno-sizes", get(list))
        .route("/dyno-sizes/{size}", get(show))
        .route("/apps/{app}/available-dyno-sizes", get(list_available))
}

async fn list(_: Browse, range: ListRange) -> Response {
    answer(&range)
}

async fn list_available(_: ViewApp, range: ListRange) -> Response {
    answer(&range)
}

async fn show(_: Browse, Path(name): Path<String>) -> Result<Json<DynoSize>, ApiError> {
    let sizes = DYNO_SIZES.iter().map(DynoSize::from);
    let found =
        sizes.into_iter().find(|size| size.name.eq_ignore_ascii_case(&name) || size.id.to_string() == name);
    found.map(Json).ok_or_else(|| ApiError::not_found("dyno size"))
}

fn answer(range: &ListRange) -> Response {
    range.answer(DYNO_SIZES.iter().map(DynoSize::from).collect(), &SORT_FIELDS)
}
