//! `/apps/X/builds`: what was built, its text, and stopping it.
//!
//! A build's text is at `/streams/builds/TOKEN`, without credentials, as Heroku's; see [`super::streams`]. While the build
//! runs, the answer goes on until it ends.

use crate::api::body::Body;
use crate::api::buildpack_installations::check_all;
use crate::api::conventions::RequestContext;
use crate::api::links::Links;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, delete, get};
use crate::api::sources::grant_of;
use crate::api::streams::{self, BUILDS, StreamLinks};
use crate::auth::{PushApp, ViewApp};
use crate::builds::archive::{self, Archive, ArchiveBuild, Place};
use crate::builds::stream::{self, Wanted};
use crate::builds::uploads::Action;
use crate::error::ApiError;
use crate::fetch::{self, FetchError};
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use ferroku_api::build::{Build, SourceBlob};
use ferroku_core::BuildId;
use ferroku_core::build::{Build as Stored, BuildSource};
use ferroku_store::{accounts, builds, events};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest version, or description of one, in characters: what fits a table.
const MAX_WORDS: usize = 256;

const SORT_FIELDS: [SortField<Build>; 2] = [
    ("created_at", SortBy::Text(|build| build.created_at.to_string())),
    ("id", SortBy::Text(|build| build.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/builds", get(list).post(create))
        .route("/apps/{app}/builds/{build}", get(show).delete(cancel))
        .route("/apps/{app}/build-cache", delete(purge_cache))
        .route("/streams/builds/{token}", get(show_text))
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
    range: ListRange,
) -> Result<Response, ApiError> {
    let links = StreamLinks::new(&node, links, BUILDS, &app, &user);
    let stored = builds::list(&node.store, app.id).await?;
    let emails = accounts::emails(&node.store).await?;
    let shown = stored.iter().map(|build| present(build, &app.name, &emails, &links)).collect();
    Ok(range.answer(shown, &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
    Path((_, build)): Path<(String, String)>,
) -> Result<Json<Build>, ApiError> {
    let links = StreamLinks::new(&node, links, BUILDS, &app, &user);
    let missing = || ApiError::not_found("build");
    let id: BuildId = build.parse().map_err(|_| missing())?;
    let stored = builds::find(&node.store, app.id, id).await?.ok_or_else(missing)?;
    let emails = accounts::emails(&node.store).await?;
    Ok(Json(present(&stored, &app.name, &emails, &links)))
}

/// Body of `POST /apps/X/builds`.
#[derive(Deserialize)]
struct Create {
    source_blob: SourceOfBuild,
    buildpacks: Option<Vec<NamedBuildpack>>,
}

#[derive(Deserialize)]
struct SourceOfBuild {
    url: String,
    checksum: Option<String>,
    version: Option<String>,
    version_description: Option<String>,
}

/// As Heroku, which takes either.
#[derive(Deserialize)]
struct NamedBuildpack {
    url: Option<String>,
    name: Option<String>,
}

async fn create(
    State(node): State<Arc<Node>>,
    PushApp { app, user }: PushApp,
    links: Links,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Build>), ApiError> {
    let links = StreamLinks::new(&node, links, BUILDS, &app, &user);
    let buildpacks = match &create.buildpacks {
        Some(named) if !named.is_empty() => {
            let names =
                named.iter().map(|one| one.url.as_deref().or(one.name.as_deref()).unwrap_or_default());
            Some(check_all(&node, names)?)
        }
        _ => None,
    };
    let SourceOfBuild { url, checksum, version, version_description } = create.source_blob;
    for (name, text) in [("version", &version), ("version_description", &version_description)] {
        check_words(name, text.as_deref())?;
    }
    let sha256 = checksum.as_deref().map(read_checksum).transpose()?;
    let (place, url) = place_of(&node, &url).await?;
    let checksum = sha256.as_ref().map(|hex| format!("SHA256:{hex}"));
    let request = ArchiveBuild {
        app: app.clone(),
        actor: user.actor,
        archive: Archive { place, sha256 },
        buildpacks,
        version: version.filter(|version| !version.is_empty()),
        source: BuildSource { url, checksum, version_description },
    };
    let stored = archive::start(&node.builds, request).await?;
    let emails = accounts::emails(&node.store).await?;
    Ok((StatusCode::CREATED, Json(present(&stored, &app.name, &emails, &links))))
}

/// Where the archive is, and its URL as it is kept.
async fn place_of(node: &Node, url: &str) -> Result<(Place, String), ApiError> {
    let refused =
        |why: FetchError| ApiError::invalid_params(format!("Invalid value for source_blob.url: {why}."));
    let parsed = fetch::parse(url).map_err(refused)?;
    let shown = fetch::without_secrets(&parsed);
    let grant = match parsed.path().strip_prefix("/sources/").zip(parsed.query()) {
        Some((source, query)) => grant_of(node, Action::Get, source, query).await?,
        None => None,
    };
    let Some(grant) = grant else { return Ok((Place::Url(parsed), shown)) };
    let file = node.builds.uploads().place(&grant);
    match file.is_file() {
        true => Ok((Place::Upload(file), shown)),
        false => Err(ApiError::invalid_params("Nothing was uploaded to this source's put_url yet.")),
    }
}

/// `SHA256:` and hex, as the hex in lower case.
pub(super) fn read_checksum(text: &str) -> Result<String, ApiError> {
    let hex =
        text.split_once(':').filter(|(kind, _)| kind.eq_ignore_ascii_case("sha256")).map(|(_, hex)| hex);
    let hex = hex.filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex.map(str::to_ascii_lowercase).ok_or_else(|| {
        ApiError::invalid_params("Invalid value for checksum: write SHA256: and the 64 hexadecimal digits.")
    })
}

/// Refuses what a table or a log cannot show in a line.
pub(super) fn check_words(name: &str, text: Option<&str>) -> Result<(), ApiError> {
    let fits = |text: &str| text.chars().count() <= MAX_WORDS && !text.contains(char::is_control);
    match text.is_none_or(fits) {
        true => Ok(()),
        false => Err(ApiError::invalid_params(format!(
            "Invalid value for {name}: at most {MAX_WORDS} characters in one line."
        ))),
    }
}

async fn cancel(
    State(node): State<Arc<Node>>,
    PushApp { app, user }: PushApp,
    links: Links,
    Path((_, build)): Path<(String, String)>,
) -> Result<Json<Build>, ApiError> {
    let links = StreamLinks::new(&node, links, BUILDS, &app, &user);
    let missing = || ApiError::not_found("build");
    let id: BuildId = build.parse().map_err(|_| missing())?;
    let stored = builds::find(&node.store, app.id, id).await?.ok_or_else(missing)?;
    if node.builds.output(id).is_none() {
        return Err(ApiError::invalid_params("That build is not under way any more."));
    }
    let message = format!("Cancel build {id}");
    events::record(&node.store, app.id, "build.cancel", &message, &user.actor, now_ms()).await?;
    node.builds.cancel(id);
    let emails = accounts::emails(&node.store).await?;
    Ok(Json(present(&stored, &app.name, &emails, &links)))
}

async fn purge_cache(
    State(node): State<Arc<Node>>,
    PushApp { app, user }: PushApp,
) -> Result<Json<ferroku_api::reference::Id>, ApiError> {
    let message = "Purge the build cache";
    events::record(&node.store, app.id, "build_cache.destroy", message, &user.actor, now_ms()).await?;
    node.builds.purge_cache(app.id).await.map_err(ApiError::internal)?;
    Ok(Json(ferroku_api::reference::Id { id: app.id.0 }))
}

async fn show_text(
    State(node): State<Arc<Node>>,
    Path(token): Path<String>,
    context: RequestContext,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let missing = || ApiError::not_found("build");
    let (app_id, id, held) = streams::open(&node, BUILDS, &token, &context).await?;
    let id = builds::find(&node.store, app_id, BuildId(id)).await?.ok_or_else(missing)?.id;
    let progress = node.builds.output(id).map(|output| output.watch());
    let file = tokio::fs::File::open(node.builds.output_path(id)).await.map_err(|_| missing())?;
    let wanted = Wanted::of(&headers);
    let body = stream::body(file, progress, wanted).await.map_err(ApiError::internal)?;
    let mut response = (wanted.status(), held.limit(node, body)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(wanted.content_type()));
    Ok(response)
}

fn present(
    build: &Stored,
    app_name: &str,
    emails: &BTreeMap<ferroku_core::AccountId, String>,
    links: &StreamLinks<'_>,
) -> Build {
    let email = emails.get(&build.account_id).map_or("", String::as_str);
    let source = build.source.as_ref();
    let source = SourceBlob {
        checksum: source.and_then(|source| source.checksum.clone()),
        url: source.map_or_else(|| links.links.git_url(app_name), |source| source.url.clone()),
        version: build.source_version.clone(),
        version_description: source.and_then(|source| source.version_description.clone()),
    };
    Build::new(build, email, links.url(build.id.0), source)
}
