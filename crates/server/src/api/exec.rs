//! `/api/v2`: what Heroku's exec manager answers, for `heroku ps:exec`, `ps:copy`, `ps:forward` and `ps:socks`.
//!
//! The app is the user name of Basic credentials, the password an access token. A client registers a public key for one dyno
//! and gets where to go by SSH with it; see [`crate::ssh`].
//!
//! Source: the CLI's `lib/ps-exec/exec.js`.

use crate::access::Access;
use crate::api::body::Body;
use crate::api::dynos::{find_awake, shown};
use crate::api::routes::{Routes, get, put};
use crate::auth::{Authenticated, Credentials, app_of, credentials};
use crate::dynos::check_up;
use crate::error::ApiError;
use crate::node::Node;
use crate::ssh::parse_client_key;
use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use ferroku_core::app::App;
use ferroku_core::app_feature::{self, EXEC};
use ferroku_core::authorize::Verb;
use ferroku_store::app_features;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new().route("/api/v2", get(list)).route("/api/v2/{dyno}", put(register))
}

/// The app that the credentials name, which the sender may run commands in.
struct ExecApp {
    app: App,
    user: Authenticated,
}

impl FromRequestParts<Arc<Node>> for ExecApp {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
        let Credentials::Basic { user: app, .. } = credentials(&parts.headers)? else {
            let message =
                "Name the app as the user of Basic credentials, with an access token as the password.";
            return Err(ApiError::bad_request(message));
        };
        let (app, user) = app_of(node, parts, &app, Verb::Run).await?;
        Ok(Self { app, user })
    }
}

#[derive(Deserialize)]
struct Register {
    client_key: String,
}

/// Where to go by SSH, on port 80.
#[derive(Serialize)]
struct Reservation {
    tunnel_host: String,
    client_user: String,
    proxy_public_key: String,
    dyno_ip: String,
}

/// A dyno that takes SSH sessions.
#[derive(Serialize)]
struct Reserved {
    dyno_name: String,
}

async fn list(
    State(node): State<Arc<Node>>,
    ExecApp { app, .. }: ExecApp,
) -> Result<Json<Vec<Reserved>>, ApiError> {
    if !is_enabled(&node, &app).await? {
        return Ok(Json(Vec::new()));
    }
    let shown = shown(&node, &app).await?;
    let up = shown.iter().filter(|stored| check_up(stored).is_ok());
    Ok(Json(up.map(|stored| Reserved { dyno_name: stored.name() }).collect()))
}

async fn register(
    State(node): State<Arc<Node>>,
    ExecApp { app, user }: ExecApp,
    Path(name): Path<String>,
    Body(register): Body<Register>,
) -> Result<Json<Reservation>, ApiError> {
    if !is_enabled(&node, &app).await? {
        let message = format!("{EXEC} is off for this app. Turn it on: `heroku features:enable {EXEC}`.");
        return Err(ApiError::forbidden(message));
    }
    let stored = find_awake(&node, &app, &name).await?;
    let key = parse_client_key(&register.client_key)
        .map_err(|error| ApiError::invalid_params(format!("Invalid value for client_key: {error}.")))?;
    let proxy_public_key =
        node.ssh.public_key().map_err(|error| ApiError::internal(anyhow::anyhow!(error)))?;
    let access = Access::by_ssh(user.authorization.id, app.id);
    let address = stored.address.as_deref().and_then(|address| address.split(':').next());
    Ok(Json(Reservation {
        tunnel_host: tunnel_host(&node, &app),
        dyno_ip: address.unwrap_or("127.0.0.1").to_owned(),
        proxy_public_key,
        client_user: node.ssh.keys.register(key, stored.id, access, user.actor),
    }))
}

/// Whether the app takes SSH clients.
pub(crate) async fn is_enabled(node: &Node, app: &App) -> Result<bool, ApiError> {
    Ok(app_feature::is_enabled(&app_features::list(&node.store, app.id).await?, EXEC))
}

/// A name that leads to the router. Resolvers know `localhost`, but not all of them the names below it.
fn tunnel_host(node: &Node, app: &App) -> String {
    match node.config.domain.as_str() {
        domain @ "localhost" => domain.to_owned(),
        domain => app.default_host(domain),
    }
}
