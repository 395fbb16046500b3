//! Shared with the router's tests.

#[path = "../../../crates/router/tests/abuse/heads.rs"]
pub mod heads;
#[path = "../../../crates/router/tests/abuse/recorder.rs"]
pub mod recorder;
