//! Whatever a client writes into a `Range` header, a body or a path is read or refused, never a panic; and the parts of a list
//! that follow each other are the whole list, once.
//!
//! For the fuzzer (`fuzz/fuzz_targets/api.rs`) and, with random inputs, for the unit tests. The parent names the crate
//! `server`.

use super::server::api::body;
use super::server::api::range::{ListRange, SortBy, SortField};
use ferroku_core::{app, domain};
use http::HeaderValue;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Ends a part of the fuzzer's input; it is in no UTF-8.
pub const SEPARATOR: u8 = 0xFF;
const ITEMS: i64 = 12;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(dead_code)]
struct Everything {
    text: Option<String>,
    #[serde(deserialize_with = "body::flag")]
    flag: Option<bool>,
    number: Option<i64>,
    list: Vec<BTreeMap<String, Option<String>>>,
    any: Value,
}

/// Reads the input's parts: a header, a body, a segment of a path.
pub fn check(input: &[u8]) {
    let mut parts = input.splitn(3, |byte| *byte == SEPARATOR);
    let header = HeaderValue::from_bytes(parts.next().unwrap_or_default()).ok();
    if let Some(text) = header.as_ref().and_then(|value| value.to_str().ok()) {
        range(text);
    }
    if let Err(error) = body::parse::<Everything>(parts.next().unwrap_or_default()) {
        assert!(error.status.is_client_error(), "{}: {}", error.status, error.message);
    }
    let segment = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let _ = app::check_name(&segment);
    if let Ok(name) = domain::normalize(&segment) {
        assert_eq!(domain::normalize(&name).as_ref(), Ok(&name), "what is normal stays as it is");
    }
}

fn range(text: &str) {
    let fields: [SortField<i64>; 2] =
        [("version", SortBy::Number(|item| *item)), ("id", SortBy::Text(|item| format!("{item:03}")))];
    let mut seen = Vec::new();
    let mut text = text.to_owned();
    loop {
        let response = ListRange::parse(&text).answer((1..=ITEMS).collect(), &fields);
        let status = response.status().as_u16();
        let next = response.headers().get("next-range").map(|next| next.to_str().expect("text").to_owned());
        assert_eq!(status == 206, next.is_some(), "{text:?}");
        if status == 416 {
            assert!(seen.is_empty(), "{text:?} is a Next-Range");
            return;
        }
        let body = futures::FutureExt::now_or_never(response.into_body().collect());
        let body = body.expect("in memory").expect("in memory").to_bytes();
        let items: Vec<i64> = serde_json::from_slice(&body).expect("a list");
        assert!(next.is_none() || !items.is_empty(), "{text:?} would go on for ever");
        seen.extend(items);
        match next {
            Some(next) => text = next,
            None => break,
        }
    }
    let falling = seen.first() > seen.last();
    if falling {
        seen.reverse();
    }
    assert!(seen.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{text:?}: {seen:?}");
}
