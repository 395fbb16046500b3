//! The Platform API, version 3: one module a noun, merged here.

pub mod absent;
pub mod account_limits;
pub mod accounts;
pub mod acm;
pub mod admin;
pub mod app_features;
pub mod app_transfers;
pub mod apps;
pub mod audit;
pub mod body;
pub mod buildpack_installations;
pub mod builds;
pub mod cli_logins;
pub mod collaborators;
pub mod config_vars;
pub mod conventions;
pub mod domains;
pub mod dyno_sizes;
pub mod dynos;
pub mod exec;
pub mod exposure;
pub mod formations;
pub mod garbage;
pub mod keys;
pub mod links;
pub mod log_sessions;
pub mod metrics;
pub mod node_admins;
pub mod oauth_authorizations;
pub mod oauth_clients;
pub mod password_resets;
pub mod pipeline_promotions;
pub mod pipelines;
pub mod range;
pub mod regions;
pub mod releases;
pub mod representation;
pub mod routes;
pub mod slugs;
pub mod sni_endpoints;
pub mod sources;
pub mod stacks;
pub mod streams;
pub mod team_apps;
pub mod team_members;
pub mod teams;
#[cfg(test)]
mod tests;
pub mod to_the_end;

use crate::api::routes::Routes;
use crate::node::Node;
use axum::middleware;
use std::sync::Arc;

/// The whole API as one axum app.
pub fn app(node: Arc<Node>) -> axum::Router {
    routes()
        .into_router()
        .nest("/web", crate::pages::router())
        .method_not_allowed_fallback(conventions::unknown_method)
        .fallback(conventions::unknown_route)
        .layer(middleware::from_fn(conventions::check))
        .layer(middleware::from_fn(exposure::refuse_other_sites))
        .layer(middleware::from_fn(exposure::refuse_clear_text))
        .layer(middleware::from_fn(conventions::apply))
        .layer(middleware::from_fn(exposure::protect))
        .with_state(node)
}

/// Every route. Each needs a row in `tests/authorization.txt`.
pub fn routes() -> Routes {
    Routes::new()
        .merge(absent::routes())
        .merge(account_limits::routes())
        .merge(accounts::routes())
        .merge(acm::routes())
        .merge(app_features::routes())
        .merge(admin::routes())
        .merge(app_transfers::routes())
        .merge(apps::routes())
        .merge(audit::routes())
        .merge(buildpack_installations::routes())
        .merge(builds::routes())
        .merge(cli_logins::routes())
        .merge(collaborators::routes())
        .merge(config_vars::routes())
        .merge(domains::routes())
        .merge(dyno_sizes::routes())
        .merge(dynos::routes())
        .merge(exec::routes())
        .merge(formations::routes())
        .merge(garbage::routes())
        .merge(keys::routes())
        .merge(log_sessions::routes())
        .merge(metrics::routes())
        .merge(node_admins::routes())
        .merge(oauth_authorizations::routes())
        .merge(oauth_clients::routes())
        .merge(password_resets::routes())
        .merge(pipeline_promotions::routes())
        .merge(pipelines::routes())
        .merge(regions::routes())
        .merge(releases::routes())
        .merge(slugs::routes())
        .merge(sni_endpoints::routes())
        .merge(sources::routes())
        .merge(crate::git::routes::routes())
        .merge(stacks::routes())
        .merge(team_apps::routes())
        .merge(team_members::routes())
        .merge(teams::routes())
}
