//! `/apps/X/buildpack-installations`: which buildpacks an app uses; and the registry that turns names into addresses.
//!
//! The CLI asks the registry (`GET /buildpacks/heroku%2Fpython`) for a name's `blob_url` and sends that back in the
//! list, so the registry of this node answers with what its own `PUT` takes.

use crate::api::body::Body;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{PushApp, ViewApp};
use crate::crash_point;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::buildpack_installation::{BuildpackInstallation, Update};
use ferroku_buildpacks::registry::BUILT_IN;
use ferroku_core::AppId;
use ferroku_core::buildpack_installation::{BuildpackAddress, MAX_BUILDPACKS};
use ferroku_core::event::Actor;
use ferroku_store::events::{self, NewEvent};
use ferroku_store::{StoreError, buildpack_installations, write};
use serde::Serialize;
use std::sync::Arc;

const SORT_FIELDS: [SortField<BuildpackInstallation>; 1] =
    [("ordinal", SortBy::Number(|installation| installation.ordinal.into()))];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/buildpack-installations", get(list).put(replace))
        .route("/buildpacks/{name}", get(find_in_registry))
}

#[derive(Debug, Serialize)]
struct RegistryEntry {
    blob_url: String,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = buildpack_installations::list(&node.store, app.id).await?;
    Ok(range.answer(stored.iter().map(BuildpackInstallation::from).collect(), &SORT_FIELDS))
}

async fn replace(
    State(node): State<Arc<Node>>,
    PushApp { app, user }: PushApp,
    Body(update): Body<Update>,
) -> Result<Json<Vec<BuildpackInstallation>>, ApiError> {
    let urls = check_all(&node, update.updates.iter().map(|item| item.buildpack.as_str()))?;
    crash_point::hit("buildpack_installations.before_commit");
    write_urls(&node, app.id, &urls, &user.actor).await?;
    crash_point::hit("buildpack_installations.committed");
    let stored = buildpack_installations::list(&node.store, app.id).await?;
    Ok(Json(stored.iter().map(BuildpackInstallation::from).collect()))
}

/// The addresses in the form that is stored.
pub(super) fn check_all<'a>(
    node: &Node,
    named: impl ExactSizeIterator<Item = &'a str>,
) -> Result<Vec<String>, ApiError> {
    if named.len() > MAX_BUILDPACKS {
        return Err(ApiError::invalid_params(format!(
            "An app may have {MAX_BUILDPACKS} buildpacks at most."
        )));
    }
    named.map(|text| check(node, text)).collect()
}

/// The address in the form that is stored. A folder must be one that the admin has put up for apps: anything else on
/// the node is nobody's to read.
fn check(node: &Node, text: &str) -> Result<String, ApiError> {
    let refuse = |message: String| ApiError::invalid_params(message);
    let address = BuildpackAddress::parse(text, &BUILT_IN).map_err(|error| {
        let message = error.to_string();
        refuse(if message.ends_with('.') { message } else { format!("{message}.") })
    })?;
    let BuildpackAddress::Folder(path) = &address else { return Ok(address.as_str().to_owned()) };
    let folder = node.builds.buildpacks_folder();
    let path_only = path.split('#').next().unwrap_or(path);
    if !std::path::Path::new(path_only).starts_with(&folder) {
        return Err(refuse(format!(
            "A buildpack of the node itself must be in {}, where the node's admin puts them.",
            folder.display()
        )));
    }
    if !std::path::Path::new(path_only).exists() {
        return Err(refuse(format!("There is no buildpack at {path_only} on the node.")));
    }
    Ok(format!("file://{path}"))
}

async fn write_urls(node: &Node, app_id: AppId, urls: &[String], actor: &Actor) -> Result<(), StoreError> {
    write!(&node.store, tx => {
        buildpack_installations::replace(&mut tx, app_id, urls, false).await?;
        let log_message = Some(format!("Set the buildpacks to {}", urls.join(" ")));
        let event =
            NewEvent { app_id: Some(app_id), actor, kind: "buildpack_installation.update", log_message };
        events::append(&mut tx, event, now_ms()).await?;
        Ok(())
    })
}

/// Without credentials, as Heroku's registry: the CLI sends none. Every name has an address, because the CLI takes a
/// 404 for an entry without one and sends on nothing; [`replace`] is what refuses a name, and says why.
async fn find_in_registry(Path(name): Path<String>) -> Json<RegistryEntry> {
    Json(RegistryEntry { blob_url: format!("urn:buildpack:{name}") })
}
