//! The data plane: takes HTTP requests from the world and passes each to a dyno.
//!
//! In: connections on the router's listener, route tables on `DIR/run/router.sock`. Out: requests to dynos,
//! request records and reports about drained dynos back over the socket.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod socket;
