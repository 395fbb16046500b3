//! Real routers in the process of a test.

use ferroku_router::limits::{ConnectionLimits, Timeouts};
use ferroku_router::{Listener, Router, RouterConfig, socket};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// A router that keeps its state and its socket in `folder`.
pub fn start_router(folder: &Path, listener: &TcpListener) -> Router {
    Router::start(RouterConfig {
        listeners: vec![Listener { listener: listener.try_clone().unwrap(), public_port: None }],
        api_listener: None,
        control: socket::bind(&folder.join("router.sock")).unwrap(),
        state_folder: folder.to_owned(),
        binary_digest: String::new(),
        workers: 1,
        trusted_uid: rustix::process::geteuid().as_raw(),
        timeouts: Timeouts { leave_idle: Duration::from_millis(50), ..Timeouts::default() },
        connection_limits: ConnectionLimits::default(),
        ssh_socket: None,
    })
    .unwrap()
}

/// Has it leave, and waits until it has.
pub async fn end(router: Router) {
    router.leave();
    tokio::task::spawn_blocking(move || router.wait()).await.unwrap();
}
