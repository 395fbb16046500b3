//! Random requests, mostly wrong ones: what the router accepts is all that reaches a dyno, each request once.
#![allow(clippy::unwrap_used)]

mod abuse {
    pub mod heads;
    pub mod recorder;
}
mod common;

use std::sync::{LazyLock, Mutex, PoisonError};

use abuse::heads::Heads;
use proptest::prelude::*;

static HEADS: LazyLock<Mutex<Heads>> = LazyLock::new(|| Mutex::new(Heads::start()));

/// Pieces that requests and attacks on them are made of.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        "GET /a HTTP/1.1\r\nHost: shop.localhost\r\n",
        "POST /b HTTP/1.1\r\nHost: shop.localhost\r\n",
        "GET http://shop.localhost/c HTTP/1.1\r\nHost: other\r\n",
        "POST /d HTTP/1.0\r\nHost: shop.localhost\r\n",
        "HEAD /e HTTP/1.1\r\nHost: SHOP.localhost:80\r\n",
    ]);
    let header = prop::sample::select(vec![
        "Content-Length: 3\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 003\r\n",
        "Content-Length: 3, 3\r\n",
        "Content_Length: 50\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding:\tchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Connection: close\r\n",
        "Connection: content-length, transfer-encoding\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "Trailer: content-length\r\n",
        "Host: shop.localhost\r\n",
        "X: 1\r\n folded\r\n",
        "X: \0\r\n",
    ]);
    let rest = prop::sample::select(vec![
        "\r\n",
        "\n",
        "\r",
        "\n\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "3;x\r\nabc\r\n",
        "-1\r\n",
        "5\r\nab\r\n",
        " ",
        ":",
    ]);
    prop_oneof![
        3 => start.prop_map(|text| text.as_bytes().to_vec()),
        4 => header.prop_map(|text| text.as_bytes().to_vec()),
        6 => rest.prop_map(|text| text.as_bytes().to_vec()),
        2 => Just(b"\r\n".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_reaches_a_dyno_is_what_was_accepted(
        pieces in prop::collection::vec(piece(), 1..14),
        begins_well in any::<bool>(),
    ) {
        let mut wire = pieces.concat();
        if begins_well {
            wire.splice(0..0, *b"POST /first HTTP/1.1\r\nHost: shop.localhost\r\n");
        }
        HEADS.lock().unwrap_or_else(PoisonError::into_inner).check(&wire);
    }
}
