//! The node's network: a bridge, one network namespace a dyno, the packet filter, and names.

mod dns;
mod firewall;
mod links;

pub(crate) use dns::Forwarder;
pub(crate) use firewall::{install, is_installed, remove};
pub(crate) use links::{Lease, Links, link_names};
