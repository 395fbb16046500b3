//! Arbitrary bytes of a client: what reaches a dyno is what the router has accepted, each request once.
#![no_main]

mod abuse;
#[path = "../../crates/router/tests/common/mod.rs"]
mod common;

use std::sync::{LazyLock, Mutex, PoisonError};

use abuse::heads::Heads;
use libfuzzer_sys::fuzz_target;

static HEADS: LazyLock<Mutex<Heads>> = LazyLock::new(|| Mutex::new(Heads::start()));

fuzz_target!(|wire: &[u8]| {
    // It begins a TLS handshake, for which the router waits 15 s.
    if wire.first() == Some(&0x16) {
        return;
    }
    HEADS.lock().unwrap_or_else(PoisonError::into_inner).check(wire);
});
