//! What every handler and background task of the control process shares.

use crate::builds::Builds;
use crate::dynos::DynoManager;
use crate::events::EventFeed;
use ferroku_store::Store;
use std::net::SocketAddr;
use std::path::PathBuf;

/// How this node was told to run.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The data folder.
    pub data: PathBuf,
    /// Where API and git listen.
    pub listen: SocketAddr,
    /// Where the router listens; its port goes into every app's `web_url`.
    pub router: SocketAddr,
    /// Apps are served at `NAME.DOMAIN`.
    pub domain: String,
    pub owner_email: String,
    /// A PostgreSQL URL; None keeps the store in the data folder.
    pub database_url: Option<String>,
}

/// The state of the control process. Held as `Arc<Node>`.
pub struct Node {
    pub config: NodeConfig,
    pub store: Store,
    pub events: EventFeed,
    pub dynos: DynoManager,
    pub builds: Builds,
}
