//! Arbitrary `Range` headers, bodies and segments of paths, with 0xFF between them.
#![no_main]

use ferroku_server as server;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/server/tests/nonsense/mod.rs"]
mod nonsense;

fuzz_target!(|input: &[u8]| nonsense::check(input));
