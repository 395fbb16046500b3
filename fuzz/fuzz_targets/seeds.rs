//! Writes what clients are known to try into the corpus of `head`, one file a case: a fuzzer that begins with nothing
//! needs hours to find out what a request is.
#![allow(dead_code)]

mod abuse;
#[path = "../../crates/router/tests/common/mod.rs"]
mod common;

use std::fs;

use abuse::case::Case;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/head");
/// Longer ones are about limits, and hold the fuzzer up.
const LONGEST_BYTES: usize = 2048;

fn main() -> std::io::Result<()> {
    fs::create_dir_all(CORPUS)?;
    let cases = Case::parse(include_str!("../../crates/router/tests/abuse/http1.txt"));
    for (number, case) in cases.iter().enumerate().filter(|(_, case)| case.wire.len() <= LONGEST_BYTES) {
        fs::write(format!("{CORPUS}/case-{number}"), &case.wire)?;
    }
    Ok(())
}
