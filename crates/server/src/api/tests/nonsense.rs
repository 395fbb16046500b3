//! Random headers, bodies and path segments, mostly wrong ones.

use crate as server;
use proptest::prelude::*;

#[path = "../../../tests/nonsense/mod.rs"]
mod check;

/// Pieces that ranges, bodies and names are made of.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "version ",
        "id ",
        "name ",
        "..",
        "]",
        "[",
        ";",
        ",",
        "=",
        " ",
        "max=",
        "order=",
        "desc",
        "asc",
        "1",
        "3",
        "007",
        "-1",
        "99999999999999999999",
        "bytes=0-1",
        "{",
        "}",
        "[]",
        ":",
        "\"text\"",
        "\"flag\"",
        "\"number\"",
        "\"list\"",
        "\"any\"",
        "null",
        "true",
        "1e400",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "shop",
        "*.",
        "example.com",
        "xn--",
        "ß",
        "。",
        "%00",
    ]);
    prop_oneof![
        8 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => Just(vec![check::SEPARATOR]),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn whatever_a_client_writes_is_read_or_refused(pieces in prop::collection::vec(piece(), 0..24)) {
        check::check(&pieces.concat());
    }
}
