//! The listening sockets: bound once, or taken over from whoever has them.

use super::error::SupervisorError;
use crate::args::NodeArgs;
use std::io;
use std::net::{SocketAddr, TcpListener};

/// The listening sockets of a node.
#[derive(Debug)]
pub struct Sockets {
    pub api: TcpListener,
    pub router: TcpListener,
    /// The router's second one, for https.
    pub router_tls: Option<TcpListener>,
}

impl Sockets {
    /// Binds all.
    ///
    /// # Errors
    /// Names the address, and the option that chooses another.
    pub fn bind(args: &NodeArgs) -> Result<Self, SupervisorError> {
        Ok(Self {
            api: listen(args.listen, "the API and git", "--listen")?,
            router: listen(args.router, "the router", "--router")?,
            router_tls: args
                .router_tls
                .map(|address| listen(address, "the router's https", "--router-tls"))
                .transpose()?,
        })
    }

    /// Whether these sockets are those that `args` ask for; port 0 is content with any.
    pub fn fit(&self, args: &NodeArgs) -> bool {
        let same = |listener: &TcpListener, wanted: SocketAddr| {
            listener.local_addr().is_ok_and(|have| {
                have.ip() == wanted.ip() && (wanted.port() == 0 || have.port() == wanted.port())
            })
        };
        let same_tls = match (&self.router_tls, args.router_tls) {
            (Some(listener), Some(wanted)) => same(listener, wanted),
            (None, None) => true,
            _ => false,
        };
        same(&self.api, args.listen) && same(&self.router, args.router) && same_tls
    }
}

fn listen(
    address: SocketAddr,
    purpose: &'static str,
    option: &'static str,
) -> Result<TcpListener, SupervisorError> {
    // The standard library sets SO_REUSEADDR, so that connections of an earlier run do not block the port.
    TcpListener::bind(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => SupervisorError::PortInUse { address, purpose, option },
        _ => SupervisorError::Listen { address, purpose, option, source },
    })
}

/// The sockets from a router that outlived its supervisor.
pub fn take_back(router_socket: &std::path::Path) -> Option<Sockets> {
    let taken = ferroku_router::handback::take_listeners(router_socket).ok()?;
    Some(Sockets {
        api: taken.api.into(),
        router: taken.router.into(),
        router_tls: taken.router_tls.map(TcpListener::from),
    })
}
