//! What the processes say to each other: length-prefixed frames over unix sockets.
//!
//! Frame layout, version 1, all integers little-endian:
//!
//! ```text
//! u32 length of what follows | u8 frame type | payload (length - 1 bytes)
//! ```
//!
//! Payloads are JSON unless a frame type says that they are raw bytes. Unknown
//! JSON fields and unknown frame types are ignored, so that a dyno-init of an
//! older release and a control of a newer one understand each other.

pub mod build;
pub mod dyno;
pub mod frame;
pub mod push;
pub mod router;
pub mod router_metrics;
pub mod router_table;
