//! The Platform API, version 3: one module a noun, merged here.

pub mod buildpack_installations;
pub mod builds;
pub mod dyno_sizes;
pub mod dynos;
pub mod formations;
pub mod log_sessions;
pub mod slugs;

use crate::node::Node;
use std::sync::Arc;

/// The whole API as one axum app.
pub fn app(node: Arc<Node>) -> axum::Router {
    axum::Router::new()
        .merge(buildpack_installations::routes())
        .merge(builds::routes())
        .merge(dyno_sizes::routes())
        .merge(dynos::routes())
        .merge(formations::routes())
        .merge(log_sessions::routes())
        .merge(slugs::routes())
        .with_state(node)
}
