//! Log sessions: the Platform API's endpoints.

use crate::node::Node;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> axum::Router<Arc<Node>> {
    axum::Router::new()
}
