//! `/apps/X/dynos`: what runs; one-off dynos; commands inside a dyno; restart and stop.
//!
//! Restart and stop write down what is wanted; the dyno manager does it. A dyno is named by its label
//! (`web.1`), its id, or its process type (`web`: all of them).

use crate::access::Access;
use crate::api::body::{Body, flag};
use crate::api::formations::no_process_type;
use crate::api::links::Links;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, delete, get, post};
use crate::auth::{OperateApp, RunApp, ViewApp};
use crate::crash_point;
use crate::dynos::{InsideRequest, RunError, RunRequest, check_up, substitute, terminal_size};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::rendezvous::Session;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::dyno::Dyno;
use ferroku_core::app::App;
use ferroku_core::authorize::Verb;
use ferroku_core::config_var::MAX_CONFIG_BYTES;
use ferroku_core::dyno::{Dyno as Stored, DynoKind, DynoState};
use ferroku_core::event::Actor;
use ferroku_runtime::Command;
use ferroku_store::dynos::Selector;
use ferroku_store::{dynos, events, formations};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest life of a one-off that asks for an end, in seconds: 24 h, as on Heroku.
const MAX_TIME_TO_LIVE_S: i64 = 86_400;
/// How long a client waits for a dyno that sleeps: a boot's time, below what clients wait for an answer.
const WAKE_LIMIT: Duration = Duration::from_secs(20);
const WAKE_PAUSE: Duration = Duration::from_millis(50);
/// Longest command, in bytes: as much as one argument of a program may have on Linux.
pub const MAX_COMMAND_BYTES: usize = 128 * 1024;
/// Longest name of a process type. Source: the Platform API's schema.
const MAX_TYPE_CHARACTERS: usize = 128;

const SORT_FIELDS: [SortField<Dyno>; 2] = [
    // Numbers by their value: web.2 before web.10.
    ("name", SortBy::Numbered(|dyno| dyno.name.clone())),
    ("id", SortBy::Text(|dyno| dyno.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/dynos", get(list).post(create).delete(restart_all))
        .route("/apps/{app}/dynos/{dyno}", get(show).post(run_inside).delete(restart))
        .route("/apps/{app}/dynos/{dyno}/actions/stop", post(stop))
        .route("/apps/{app}/formations/{type}", delete(restart_type))
        .route("/apps/{app}/formations/{type}/actions/stop", post(stop_type))
}

#[derive(Deserialize)]
struct Create {
    command: String,
    #[serde(default, deserialize_with = "flag")]
    attach: Option<bool>,
    #[serde(default)]
    env: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "flag")]
    force_no_tty: Option<bool>,
    #[serde(default)]
    size: Option<String>,
    #[serde(default, rename = "type")]
    process_type: Option<String>,
    #[serde(default)]
    time_to_live: Option<i64>,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    range: ListRange,
) -> Result<Response, ApiError> {
    let shown = shown(&node, &app).await?;
    let shown = shown.iter().map(|stored| present(&node, stored, &app)).collect();
    Ok(range.answer(shown, &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<Dyno>, ApiError> {
    Ok(Json(present(&node, &find_shown(&node, &app, &name).await?, &app)))
}

/// The dyno as the API shows it. One that there is no room for says so as its state, which is what `heroku ps` shows.
fn present(node: &Node, stored: &Stored, app: &App) -> Dyno {
    let mut dyno = Dyno::new(stored, app, None);
    if let Some(shortage) = node.dynos.shortage(stored.id) {
        dyno.state = format!("waiting for {}", shortage.waits_for());
    }
    dyno
}

async fn create(
    State(node): State<Arc<Node>>,
    RunApp { app, user }: RunApp,
    links: Links,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Dyno>), ApiError> {
    let request = read(create)?;
    let attach = request.attach;
    let stored = node.dynos.run_one_off(&app, request, &user.actor).await.map_err(|error| match error {
        RunError::NoCode => ApiError::conflict(error.to_string()),
        RunError::TooMany | RunError::Size(_) | RunError::OutOfEcoHours | RunError::Limit(_) => {
            ApiError::invalid_params(error.to_string())
        }
        RunError::Failed(cause) => cause.into(),
    })?;
    node.events.poke();
    let attach_url = attach.then(|| {
        let access = Access::new(user.authorization.id, app.id, Verb::Run);
        let secret = node.rendezvous.issue(Session::OneOff(stored.id), access);
        format!("rendezvous://{}/{secret}", links.authority())
    });
    Ok((StatusCode::CREATED, Json(Dyno::new(&stored, &app, attach_url))))
}

/// `heroku run:inside`: the command runs once its client has come to the rendezvous.
async fn run_inside(
    State(node): State<Arc<Node>>,
    RunApp { app, user }: RunApp,
    Path((_, name)): Path<(String, String)>,
    links: Links,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Dyno>), ApiError> {
    let RunRequest { command, environment, terminal, .. } = read(create)?;
    let stored = find_awake(&node, &app, &name).await?;
    let command = substitute(&command, &formations::list(&node.store, app.id).await?);
    let request = InsideRequest {
        dyno_id: stored.id,
        shown: Some(command.clone()),
        command: Command::Shell(command),
        terminal: terminal.then(|| terminal_size(&environment)),
        environment,
        actor: user.actor,
    };
    let access = Access::new(user.authorization.id, app.id, Verb::Run);
    let secret = node.rendezvous.issue(Session::Inside(Box::new(request)), access);
    let attach_url = format!("rendezvous://{}/{secret}", links.authority());
    Ok((StatusCode::CREATED, Json(Dyno::new(&stored, &app, Some(attach_url)))))
}

/// The dyno of this label or id, woken if it sleeps, and up.
pub(super) async fn find_awake(node: &Node, app: &App, name: &str) -> Result<Stored, ApiError> {
    let stored = awake(node, app, &find_shown(node, app, name).await?).await?;
    check_up(&stored).map_err(|error| ApiError::invalid_params(error.to_string()))?;
    Ok(stored)
}

/// The dyno; of one that sleeps, what is there under its name once it has been woken.
async fn awake(node: &Node, app: &App, stored: &Stored) -> Result<Stored, ApiError> {
    let mut found = stored.clone();
    if stored.state == DynoState::Idle {
        node.dynos.wake(app.id);
        let deadline = Instant::now() + WAKE_LIMIT;
        while found.state != DynoState::Up && Instant::now() < deadline {
            tokio::time::sleep(WAKE_PAUSE).await;
            let shown = shown(node, app).await?;
            found = find(&shown, &stored.name()).ok_or_else(|| ApiError::not_found("dyno"))?.clone();
        }
    }
    Ok(found)
}

async fn restart_all(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    ask(&node, &app, Ask::RestartAll, &user.actor).await
}

async fn restart(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    match find(&shown(&node, &app).await?, &name) {
        Some(stored) => ask(&node, &app, Ask::Restart(Selector::One(stored.id)), &user.actor).await,
        None => {
            known_type(&node, &app, &name).await?;
            ask(&node, &app, Ask::Restart(Selector::Type(&name)), &user.actor).await
        }
    }
}

async fn restart_type(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    known_type(&node, &app, &name).await?;
    ask(&node, &app, Ask::Restart(Selector::Type(&name)), &user.actor).await
}

async fn stop(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    match find(&shown(&node, &app).await?, &name) {
        Some(stored) => ask(&node, &app, Ask::Stop(Selector::One(stored.id)), &user.actor).await,
        None => {
            known_type(&node, &app, &name).await?;
            ask(&node, &app, Ask::Stop(Selector::Type(&name)), &user.actor).await
        }
    }
}

async fn stop_type(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    known_type(&node, &app, &name).await?;
    ask(&node, &app, Ask::Stop(Selector::Type(&name)), &user.actor).await
}

enum Ask<'a> {
    RestartAll,
    Restart(Selector<'a>),
    Stop(Selector<'a>),
}

/// Writes down what is wanted, and has it done.
async fn ask(
    node: &Node,
    app: &App,
    ask: Ask<'_>,
    actor: &Actor,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    crash_point::hit("dynos.before_ask");
    write(node, app, &ask, actor).await?;
    crash_point::hit("dynos.asked");
    node.events.poke();
    node.dynos.poke(app.id);
    Ok((StatusCode::ACCEPTED, Json(json!({}))))
}

async fn write(node: &Node, app: &App, ask: &Ask<'_>, actor: &Actor) -> ferroku_store::Result<()> {
    let now = now_ms();
    ferroku_store::write!(&node.store, tx => {
        let (kind, message) = match ask {
            Ask::RestartAll => {
                dynos::restart_all(&mut tx, app.id).await?;
                ("dyno.restart_all", "Restart all dynos".to_owned())
            }
            Ask::Restart(selector) => {
                dynos::request_restart(&mut tx, app.id, selector, now).await?;
                ("dyno.restart", format!("Restart {}", selected(selector)))
            }
            Ask::Stop(selector) => {
                dynos::request_stop(&mut tx, app.id, selector, now).await?;
                ("dyno.stop", format!("Stop {}", selected(selector)))
            }
        };
        let event = events::NewEvent { app_id: Some(app.id), actor, kind, log_message: Some(message) };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

fn selected(selector: &Selector<'_>) -> String {
    match selector {
        Selector::One(id) => format!("the dyno {id}"),
        Selector::Type(name) => format!("the dynos of type {name}"),
    }
}

/// The dyno of this label or id, when it is listed.
async fn find_shown(node: &Node, app: &App, name: &str) -> Result<Stored, ApiError> {
    find(&shown(node, app).await?, name).cloned().ok_or_else(|| ApiError::not_found("dyno"))
}

/// The dynos as they are listed: those that hold their label, and during a deploy those that still serve.
pub(super) async fn shown(node: &Node, app: &App) -> Result<Vec<Stored>, ApiError> {
    let all = dynos::list(&node.store, app.id).await?;
    // One that is being stopped for sleep drains, too, but is not on its way out.
    Ok(all.into_iter().filter(|stored| stored.draining_at.is_none() || stored.retired_at.is_none()).collect())
}

/// By id or label; of two with one label the one that will stay.
fn find<'a>(shown: &'a [Stored], name: &str) -> Option<&'a Stored> {
    let named = || shown.iter().filter(|stored| stored.name() == name || stored.id.to_string() == name);
    named().find(|stored| stored.retired_at.is_none()).or_else(|| named().next())
}

/// Whether anything is or may be of this type.
async fn known_type(node: &Node, app: &App, name: &str) -> Result<(), ApiError> {
    let formation = formations::list(&node.store, app.id).await?;
    let in_formation = formation.iter().any(|one| one.process_type == name);
    let one_off = |stored: &Stored| stored.kind != DynoKind::Formation && stored.process_type == name;
    if in_formation || shown(node, app).await?.iter().any(one_off) {
        return Ok(());
    }
    if name.contains('.') {
        return Err(ApiError::not_found("dyno"));
    }
    Err(no_process_type(name, &formation))
}

fn read(create: Create) -> Result<RunRequest, ApiError> {
    if create.command.trim().is_empty() {
        return Err(ApiError::invalid_params("Invalid value for command: it is empty."));
    }
    if create.command.len() > MAX_COMMAND_BYTES || create.command.contains('\0') {
        let message =
            format!("Invalid value for command: at most {MAX_COMMAND_BYTES} bytes, none of them zero.");
        return Err(ApiError::invalid_params(message));
    }
    let process_type = create.process_type.filter(|name| !name.is_empty());
    if let Some(name) = &process_type {
        let valid = name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_'));
        if !valid || name.len() > MAX_TYPE_CHARACTERS {
            let message = format!("Invalid value for type: {name} is no name of a process type.");
            return Err(ApiError::invalid_params(message));
        }
    }
    let time_to_live_s = match create.time_to_live {
        None => None,
        Some(seconds) => Some(u32::try_from(seconds).ok().filter(|_| (1..=MAX_TIME_TO_LIVE_S).contains(&seconds)).ok_or_else(
            || {
                let message =
                    format!("Invalid value for time_to_live: {seconds} is not within 1 and {MAX_TIME_TO_LIVE_S} seconds.");
                ApiError::invalid_params(message)
            },
        )?),
    };
    Ok(RunRequest {
        command: create.command,
        attach: create.attach.unwrap_or(false),
        environment: environment(create.env.unwrap_or_default())?,
        size: create.size,
        process_type,
        time_to_live_s,
        terminal: !create.force_no_tty.unwrap_or(false),
    })
}

/// Variables may be texts, numbers (`COLUMNS`) or flags.
fn environment(given: Map<String, Value>) -> Result<BTreeMap<String, String>, ApiError> {
    let (mut variables, mut size_bytes) = (BTreeMap::new(), 0);
    for (name, value) in given {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(ApiError::invalid_params(format!(
                "Invalid value for env: {name:?} is no name of a variable."
            )));
        }
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => {
                let message = format!("Invalid value for env.{name}: it must be a text or a number.");
                return Err(ApiError::invalid_params(message));
            }
        };
        if text.contains('\0') {
            return Err(ApiError::invalid_params(format!(
                "Invalid value for env.{name}: it has a zero byte."
            )));
        }
        size_bytes += name.len() + text.len();
        variables.insert(name, text);
    }
    if size_bytes > MAX_CONFIG_BYTES {
        return Err(ApiError::invalid_params(format!(
            "Invalid value for env: it is {size_bytes} bytes long in all; the limit is {MAX_CONFIG_BYTES} bytes (64 KB), as for \
             config vars."
        )));
    }
    Ok(variables)
}
