//! `/apps/X/acm`: certificates that the node gets and renews by itself.

use crate::api::apps::present_stored;
use crate::api::body::Body;
use crate::api::domains::changed;
use crate::api::links::Links;
use crate::api::routes::{Routes, post};
use crate::auth::OperateApp;
use crate::crash_point;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::State;
use ferroku_api::app::App;
use ferroku_store::acm;
use serde::Deserialize;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new().route("/apps/{app}/acm", post(enable).patch(refresh).delete(disable))
}

#[derive(Deserialize)]
struct Refresh {
    #[serde(default)]
    acm_refresh: bool,
}

async fn enable(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    links: Links,
) -> Result<Json<App>, ApiError> {
    if !node.acm.is_configured() {
        return Err(ApiError::invalid_params(
            "This node gets no certificates by itself yet. Its administrator must name a certificate authority: \
             ferrokud server --acme-directory https://acme-v02.api.letsencrypt.org/directory \
             (which says yes to the terms of service of Let's Encrypt). Until then, add your own with \
             `heroku certs:add`.",
        ));
    }
    let app = acm::enable(&node.store, app.id, &user.actor, now_ms()).await?;
    crash_point::hit("acm.enabled");
    changed(&node, &app);
    Ok(Json(present_stored(&node, &links, &app).await?))
}

async fn refresh(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    links: Links,
    Body(refresh): Body<Refresh>,
) -> Result<Json<App>, ApiError> {
    if !app.acm {
        return Err(ApiError::invalid_params(format!(
            "Automatic Certificate Management is not enabled on {}. Run `heroku certs:auto:enable`.",
            app.name
        )));
    }
    if refresh.acm_refresh {
        acm::refresh(&node.store, app.id, &user.actor, now_ms()).await?;
        changed(&node, &app);
    }
    Ok(Json(present_stored(&node, &links, &app).await?))
}

async fn disable(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    links: Links,
) -> Result<Json<App>, ApiError> {
    let app = acm::disable(&node.store, app.id, &user.actor, now_ms()).await?;
    crash_point::hit("acm.disabled");
    changed(&node, &app);
    Ok(Json(present_stored(&node, &links, &app).await?))
}
