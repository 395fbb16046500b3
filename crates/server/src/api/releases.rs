//! `/apps/X/releases`: the ledger, going back in it, and releasing a slug anew.
//!
//! What a release's command prints is at `/streams/releases/TOKEN`, without credentials, as Heroku's; see [`super::streams`].
//! While the command runs, the answer goes on until it ends.

use crate::api::body::Body;
use crate::api::conventions::RequestContext;
use crate::api::links::Links;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::api::streams::{self, RELEASES, StreamLinks};
use crate::auth::{ReadConfigApp, ReleaseApp, ViewApp};
use crate::crash_point;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::release_output::ReleaseOutput;
use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use ferroku_api::release::Release;
use ferroku_core::app::App;
use ferroku_core::config_var::ConfigVars;
use ferroku_core::event::Actor;
use ferroku_core::release::Release as Stored;
use ferroku_core::{ReleaseId, SlugId};
use ferroku_store::{accounts, releases};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use std::sync::Arc;

/// Longest description of a release that a client gives, in characters: what fits a table.
const MAX_DESCRIPTION_CHARACTERS: usize = 256;

const SORT_FIELDS: [SortField<Release>; 2] = [
    ("version", SortBy::Number(|release| release.version)),
    ("id", SortBy::Text(|release| release.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/releases", get(list).post(create))
        .route("/apps/{app}/releases/{release}", get(show))
        .route("/apps/{app}/releases/{release}/config-vars", get(config_vars))
        .route("/streams/releases/{token}", get(output))
}

/// Which release to go back to: an id, `vN` or `N`, as text or as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Target {
    Version(i64),
    Name(String),
}

/// A release to go back to, or a slug to be released anew (`releases:retry`).
#[derive(Deserialize)]
struct Create {
    release: Option<Target>,
    slug: Option<String>,
    description: Option<String>,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
    range: ListRange,
) -> Result<Response, ApiError> {
    let links = StreamLinks::new(&node, links, RELEASES, &app, &user);
    let stored = releases::list(&node.store, app.id).await?;
    let current = releases::current(&node.store, app.id).await?;
    let emails = accounts::emails(&node.store).await?;
    let email = |release: &Stored| emails.get(&release.account_id).map_or("", String::as_str);
    let present = |release: &Stored| {
        Release::new(release, &app, email(release), current.as_ref(), links.url(release.id.0))
    };
    Ok(range.answer(stored.iter().map(present).collect(), &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
    Path((_, release)): Path<(String, String)>,
) -> Result<Json<Release>, ApiError> {
    let stored = find(&node, &app, &release).await?;
    let links = StreamLinks::new(&node, links, RELEASES, &app, &user);
    Ok(Json(present(&node, &app, &links, &stored).await?))
}

async fn config_vars(
    State(node): State<Arc<Node>>,
    ReadConfigApp { app, .. }: ReadConfigApp,
    Path((_, release)): Path<(String, String)>,
) -> Result<Json<ConfigVars>, ApiError> {
    let stored = find(&node, &app, &release).await?;
    Ok(Json(releases::config_vars(&node.store, &stored).await?))
}

async fn create(
    State(node): State<Arc<Node>>,
    ReleaseApp { app, user }: ReleaseApp,
    links: Links,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Release>), ApiError> {
    let stored = match (create.release, create.slug) {
        (Some(target), None) => roll_back(&node, &app, target, &user.actor).await?,
        (None, Some(slug)) => release_slug(&node, &app, &slug, create.description, &user.actor).await?,
        _ => {
            let message =
                "Name either the release to go back to (release), or the slug to be released (slug).";
            return Err(ApiError::invalid_params(message));
        }
    };
    node.events.poke();
    node.dynos.poke(app.id);
    let links = StreamLinks::new(&node, links, RELEASES, &app, &user);
    Ok((StatusCode::CREATED, Json(present(&node, &app, &links, &stored).await?)))
}

async fn roll_back(node: &Node, app: &App, target: Target, actor: &Actor) -> Result<Stored, ApiError> {
    let target = match target {
        Target::Version(version) => version.to_string(),
        Target::Name(name) => name,
    };
    crash_point::hit("rollback.before_commit");
    let stored = releases::rollback(&node.store, app.id, &target, actor, now_ms()).await?;
    crash_point::hit("rollback.committed");
    Ok(stored)
}

async fn release_slug(
    node: &Node,
    app: &App,
    slug: &str,
    description: Option<String>,
    actor: &Actor,
) -> Result<Stored, ApiError> {
    let slug_id: SlugId = slug.parse().map_err(|_| ApiError::not_found("slug"))?;
    let description = description.filter(|text| !text.trim().is_empty());
    let description = description.unwrap_or_else(|| format!("Deploy slug {slug}"));
    if description.chars().count() > MAX_DESCRIPTION_CHARACTERS || description.contains(char::is_control) {
        let message = format!(
            "Invalid value for description: at most {MAX_DESCRIPTION_CHARACTERS} characters in one line."
        );
        return Err(ApiError::invalid_params(message));
    }
    Ok(releases::release_slug(&node.store, app.id, slug_id, &description, actor, now_ms()).await?)
}

async fn output(
    State(node): State<Arc<Node>>,
    Path(token): Path<String>,
    context: RequestContext,
) -> Result<Response, ApiError> {
    let missing = || ApiError::not_found("release");
    let (_, id, held) = streams::open(&node, RELEASES, &token, &context).await?;
    let stored = releases::by_id(&node.store, ReleaseId(id)).await?.ok_or_else(missing)?;
    let output = ReleaseOutput::open(&node.store, &node.logplex, stored).await?.ok_or_else(missing)?;
    let lines = futures::stream::unfold(output, |mut output| async move {
        // A reader whose answer breaks off is told so by the missing end.
        output.next().await.transpose().map(|lines| (lines, output))
    });
    let mut response = held.limit(node, HttpBody::from_stream(lines)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

async fn find(node: &Node, app: &App, id_or_version: &str) -> Result<Stored, ApiError> {
    releases::find(&node.store, app.id, id_or_version).await?.ok_or_else(|| ApiError::not_found("release"))
}

async fn present(
    node: &Node,
    app: &App,
    links: &StreamLinks<'_>,
    release: &Stored,
) -> Result<Release, ApiError> {
    let current = releases::current(&node.store, app.id).await?;
    let emails = accounts::emails(&node.store).await?;
    let email = emails.get(&release.account_id).map_or("", String::as_str);
    Ok(Release::new(release, app, email, current.as_ref(), links.url(release.id.0)))
}
