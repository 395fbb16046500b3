//! The post-receive hook: shows whoever pushed what the release's command prints, once the references have moved.
//!
//! In: the push's token and control's socket in the environment. Out: text on standard output. Nothing depends on it: the
//! push has happened, and goes on though nobody watches.

use super::pre_receive::{connect, converse, send_json};
use ferroku_core::protocol::push::{Hello, VERSION, frame_type};
use std::process::ExitCode;

/// Runs the hook.
pub fn main() -> ExitCode {
    follow();
    ExitCode::SUCCESS
}

/// Shows what there is to show. Says nothing of failures: a push without a release command has nothing to show.
pub fn follow() {
    let Ok((socket, token)) = connect() else { return };
    let hello = Hello { version: VERSION, token, updates: Vec::new(), commit: None };
    if send_json(&socket, frame_type::HELLO, &hello).is_ok() {
        let _ = converse(&socket);
    }
}
