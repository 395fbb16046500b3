//! Shared with the router's tests.
#![allow(dead_code)]

#[path = "../../../crates/router/tests/abuse/case.rs"]
pub mod case;
#[path = "../../../crates/router/tests/abuse/heads.rs"]
pub mod heads;
#[path = "../../../crates/router/tests/abuse/recorder.rs"]
pub mod recorder;
