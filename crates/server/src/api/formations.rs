//! `/apps/X/formation`: process types, how many dynos of each, and of what size.
//!
//! Scaling changes rows only; the dyno manager does the rest.

use crate::api::body::Body;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{OperateApp, ViewApp};
use crate::crash_point;
use crate::dynos::Allotment;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::formation::Formation;
use ferroku_core::app::App;
use ferroku_core::dyno_size;
use ferroku_core::event::Actor;
use ferroku_core::formation::{Formation as Stored, QuantityChange};
use ferroku_core::release::RELEASE;
use ferroku_store::{Connection, events, formations, limits};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

const SORT_FIELDS: [SortField<Formation>; 2] = [
    ("type", SortBy::Text(|formation| formation.process_type.clone())),
    ("id", SortBy::Text(|formation| formation.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/formation", get(list).patch(update_batch))
        .route("/apps/{app}/formation/{formation}", get(show).patch(update))
}

#[derive(Deserialize)]
struct Batch {
    updates: Vec<Update>,
}

/// One change. `quantity` is a number, or a text such as `"2"`, `"+1"`, `"-1"`.
#[derive(Deserialize)]
struct Update {
    #[serde(default, rename = "type")]
    process_type: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    quantity: Option<Value>,
    #[serde(default)]
    size: Option<String>,
    #[serde(default)]
    dyno_size: Option<SizeReference>,
    #[serde(default)]
    docker_image: Option<Value>,
}

/// A dyno size by name, as text or as an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum SizeReference {
    Name(String),
    Object { name: String },
}

/// A change that has been read.
struct Change {
    /// Name or id of the process type.
    process_type: String,
    quantity: Option<QuantityChange>,
    size: Option<String>,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    range: ListRange,
) -> Result<Response, ApiError> {
    let all = formations::list(&node.store, app.id).await?;
    let all = all.iter().map(|stored| Formation::new(stored, &app)).collect();
    Ok(range.answer(all, &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<Formation>, ApiError> {
    let all = formations::list(&node.store, app.id).await?;
    Ok(Json(Formation::new(find(&all, &name)?, &app)))
}

async fn update_batch(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Body(batch): Body<Batch>,
) -> Result<Json<Vec<Formation>>, ApiError> {
    let changes: Result<Vec<Change>, ApiError> =
        batch.updates.into_iter().map(|update| read(update, None)).collect();
    let changed = apply(&node, &app, &changes?, &user.actor).await?;
    Ok(Json(changed.iter().map(|stored| Formation::new(stored, &app)).collect()))
}

async fn update(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
    Body(update): Body<Update>,
) -> Result<Json<Formation>, ApiError> {
    let change = read(update, Some(name))?;
    let changed = apply(&node, &app, &[change], &user.actor).await?;
    let stored = changed.first().ok_or_else(|| ApiError::not_found("process type"))?;
    Ok(Json(Formation::new(stored, &app)))
}

/// Reads a change; `name` is the process type that the path names.
fn read(update: Update, name: Option<String>) -> Result<Change, ApiError> {
    if update.docker_image.is_some() {
        return Err(ApiError::invalid_params("This node does not run container images. Deploy with git."));
    }
    let process_type = name
        .or(update.process_type)
        .or(update.id)
        .ok_or_else(|| ApiError::invalid_params("Each update needs a type: the process type to change."))?;
    let quantity = match update.quantity {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.parse().map_err(refused)?),
        // A number is never a change: -1 is a mistake, "-1" is one less.
        Some(Value::Number(number)) if number.as_u64().is_some() => {
            Some(number.to_string().parse().map_err(refused)?)
        }
        Some(other) => {
            let message = format!("Invalid value for quantity: {other} is no number of dynos.");
            return Err(ApiError::invalid_params(message));
        }
    };
    let size = update.size.or(match update.dyno_size {
        Some(SizeReference::Name(name) | SizeReference::Object { name }) => Some(name),
        None => None,
    });
    Ok(Change { process_type, quantity, size })
}

/// Applies all changes or none.
async fn apply(node: &Node, app: &App, changes: &[Change], actor: &Actor) -> Result<Vec<Stored>, ApiError> {
    crash_point::hit("formation.before_update");
    let changed = write(node, app, changes, actor).await??;
    crash_point::hit("formation.updated");
    node.events.poke();
    node.dynos.poke(app.id);
    Ok(changed)
}

async fn write(
    node: &Node,
    app: &App,
    changes: &[Change],
    actor: &Actor,
) -> ferroku_store::Result<Result<Vec<Stored>, ApiError>> {
    let now = now_ms();
    ferroku_store::write!(&node.store, tx => {
        let before = formations::list_in(&mut tx, app.id).await?;
        let planned = match plan(&before, changes) {
            Ok(planned) => planned,
            Err(error) => return Ok(Err(error)),
        };
        let wanted = formations::quantities_by_size(&mut tx).await?;
        if let Err(error) = check_room(node.dynos.allotment(), &wanted, &before, &planned) {
            return Ok(Err(error));
        }
        check_limits(&mut tx, app, &before, &planned).await?;
        for (name, quantity, size) in &planned {
            formations::update(&mut tx, app.id, name, *quantity, size.name, now).await?;
        }
        if !planned.is_empty() {
            announce(&mut tx, app, &planned, actor, now).await?;
        }
        let after = formations::list_in(&mut tx, app.id).await?;
        let of_name = |name: &String| after.iter().find(|one| one.process_type == *name).cloned();
        Ok(Ok(planned.iter().filter_map(|(name, _, _)| of_name(name)).collect()))
    })
}

/// Refuses what the app's owner may not have.
async fn check_limits(
    tx: &mut Connection,
    app: &App,
    before: &[Stored],
    planned: &[Planned],
) -> ferroku_store::Result<()> {
    for (name, quantity, size) in planned {
        let old = before.iter().find(|one| one.process_type == *name);
        let more =
            old.is_none_or(|old| u64::from(*quantity) > u64::from(old.quantity) || old.size != size.name);
        if *quantity > 0 && more {
            limits::check_dyno_size(tx, app.owner_id, size.name).await?;
        }
    }
    let memory = |size: &str| dyno_size::find(size).map_or(0, |size| size.memory_bytes);
    limits::check(tx, app.owner_id, |usage| {
        for (name, quantity, size) in planned {
            if let Some(old) = before.iter().find(|one| one.process_type == *name) {
                let quantity = u64::from(old.quantity);
                usage.dynos = usage.dynos.saturating_sub(quantity);
                usage.memory_bytes = usage.memory_bytes.saturating_sub(quantity * memory(&old.size));
            }
            usage.dynos += u64::from(*quantity);
            usage.memory_bytes += u64::from(*quantity) * size.memory_bytes;
        }
    })
    .await
}

type Planned = (String, u32, &'static dyno_size::DynoSize);

/// What each process type named becomes. One that is named twice is changed twice.
fn plan(before: &[Stored], changes: &[Change]) -> Result<Vec<Planned>, ApiError> {
    let mut planned: Vec<Planned> = Vec::new();
    for change in changes {
        let mut current = find(before, &change.process_type)?.clone();
        let earlier = planned.iter().position(|(name, _, _)| *name == current.process_type);
        if let Some((_, quantity, size)) = earlier.map(|at| &planned[at]) {
            current.quantity = *quantity;
            current.size = size.name.to_owned();
        }
        let (quantity, size) = current.changed(change.quantity, change.size.as_deref()).map_err(refused)?;
        if current.process_type == RELEASE && quantity > 0 {
            let message =
                "The release process type cannot be scaled: its command runs once for each release.";
            return Err(ApiError::invalid_params(message));
        }
        match earlier {
            Some(at) => planned[at] = (current.process_type, quantity, size),
            None => planned.push((current.process_type, quantity, size)),
        }
    }
    Ok(planned)
}

/// Refuses what would promise more memory than the admin allots, all apps together; to want less is always allowed.
fn check_room(
    allotment: Option<Allotment>,
    wanted: &[(String, u64)],
    before: &[Stored],
    planned: &[Planned],
) -> Result<(), ApiError> {
    const MIB: u64 = 1024 * 1024;
    let Some(Allotment { allotted_bytes, beside_bytes }) = allotment else { return Ok(()) };
    let bytes =
        |size: &str, quantity: u64| dyno_size::find(size).map_or(0, |size| size.memory_bytes * quantity);
    let all: u64 = wanted.iter().map(|(size, quantity)| bytes(size, *quantity)).sum();
    let changed = |one: &&Stored| planned.iter().any(|(name, _, _)| *name == one.process_type);
    let old: u64 = before.iter().filter(changed).map(|one| bytes(&one.size, u64::from(one.quantity))).sum();
    let new: u64 = planned.iter().map(|(_, quantity, size)| bytes(size.name, u64::from(*quantity))).sum();
    let after = all.saturating_sub(old) + new + beside_bytes;
    if new <= old || after <= allotted_bytes {
        return Ok(());
    }
    let names: Vec<String> =
        planned.iter().map(|(name, quantity, _)| format!("{name} to {quantity}")).collect();
    Err(ApiError::invalid_params(format!(
        "Cannot scale {}: the dynos and builds of this node would take {} MB of memory, and {} MB are allotted to them. \
         Scale something down, or ask the node's admin (--memory-overcommit).",
        names.join(", "),
        after / MIB,
        allotted_bytes / MIB
    )))
}

/// `Scaled to web@2:Basic worker@1:Basic`
async fn announce(
    tx: &mut Connection,
    app: &App,
    planned: &[Planned],
    actor: &Actor,
    now: i64,
) -> ferroku_store::Result<()> {
    let parts: Vec<String> = planned
        .iter()
        .map(|(name, quantity, size)| format!("{name}@{quantity}:{}", size.display_name))
        .collect();
    let event = events::NewEvent {
        app_id: Some(app.id),
        actor,
        kind: "formation.update",
        log_message: Some(format!("Scaled to {}", parts.join(" "))),
    };
    events::append(tx, event, now).await?;
    Ok(())
}

fn find<'a>(all: &'a [Stored], name_or_id: &str) -> Result<&'a Stored, ApiError> {
    all.iter()
        .find(|one| one.process_type == name_or_id || one.id.to_string() == name_or_id)
        .ok_or_else(|| no_process_type(name_or_id, all))
}

/// 404 in Heroku's words, with the types that there are.
pub(super) fn no_process_type(name: &str, all: &[Stored]) -> ApiError {
    let known: Vec<&str> = all.iter().map(|one| one.process_type.as_str()).collect();
    let known = match known.as_slice() {
        [] => "This app has none yet: they come with the first deploy.".to_owned(),
        known => format!("This app has: {}.", known.join(", ")),
    };
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("Couldn't find that process type ({name}). {known}"),
    )
}

fn refused(error: ferroku_core::formation::FormationError) -> ApiError {
    ApiError::invalid_params(error.to_string())
}
