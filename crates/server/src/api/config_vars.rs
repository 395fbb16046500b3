//! `/apps/X/config-vars`: read all, change some.
//!
//! Every change makes one release, unless it changes nothing.

use crate::api::body::Body;
use crate::api::routes::{Routes, get};
use crate::auth::{ReadConfigApp, WriteConfigApp};
use crate::crash_point;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::State;
use ferroku_core::config_var::{ConfigPatch, ConfigVars};
use ferroku_store::releases;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new().route("/apps/{app}/config-vars", get(list).patch(update))
}

async fn list(
    State(node): State<Arc<Node>>,
    ReadConfigApp { app, .. }: ReadConfigApp,
) -> Result<Json<ConfigVars>, ApiError> {
    Ok(Json(releases::app_config_vars(&node.store, app.id).await?))
}

async fn update(
    State(node): State<Arc<Node>>,
    WriteConfigApp { app, user }: WriteConfigApp,
    Body(patch): Body<ConfigPatch>,
) -> Result<Json<ConfigVars>, ApiError> {
    crash_point::hit("config_vars.before_commit");
    let (vars, release) =
        releases::patch_config_vars(&node.store, app.id, &patch, &user.actor, now_ms()).await?;
    crash_point::hit("config_vars.committed");
    if release.is_some() {
        node.events.poke();
        node.dynos.poke(app.id);
    }
    Ok(Json(vars))
}
