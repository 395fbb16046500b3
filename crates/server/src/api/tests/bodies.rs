//! Bodies and paths that no client should send, to every route: each is refused with 4xx, and the store is as it was before.

use super::Api;
use super::conventions::lists;
use crate::api;
use crate::api::body::MAX_BODY_BYTES;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use tower::ServiceExt;

/// A row of `bodies.txt`.
pub(super) struct Row {
    pub method: Method,
    pub path: &'static str,
    /// None for a route that takes no body.
    pub fields: Option<Vec<Field>>,
}

pub(super) struct Field {
    /// `*` for any.
    pub name: &'static str,
    pub kind: &'static str,
    pub required: bool,
}

pub(super) fn table() -> Vec<Row> {
    let lines = include_str!("bodies.txt").lines();
    let row = |line: &'static str| {
        let mut words = line.split(' ');
        let method = words.next().expect("a method").parse().expect("a method");
        let path = words.next().expect("a path");
        let field = |word: &'static str| {
            let (name, kind) = word.split_once(':').unwrap_or_else(|| panic!("no kind: {line}"));
            Field { name: name.trim_end_matches('!'), kind, required: name.ends_with('!') }
        };
        let fields: Vec<&str> = words.collect();
        let fields = (fields != ["-"]).then(|| fields.into_iter().map(field).collect());
        Row { method, path, fields }
    };
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(row).collect()
}

/// What stands for a parameter of a path in the world of [`lists`].
fn parameter(name: &str) -> &'static str {
    match name {
        "app" => "shop",
        "domain" => "www.example.com",
        "dyno" => "web.1",
        "feature" => "http-session-affinity",
        "formation" | "type" => "web",
        "release" => "3",
        "repository" => "shop.git",
        "user" | "account" => "~",
        _ => "01234567-89ab-cdef-0123-456789abcdef",
    }
}

/// The path, with `value` for the parameter number `at` and what is there for the others.
fn concrete(path: &str, at: usize, value: &str) -> String {
    let mut number = 0;
    let mut segments = Vec::new();
    for segment in path.split('/') {
        let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) else {
            segments.push(segment);
            continue;
        };
        segments.push(if number == at { value } else { parameter(name) });
        number += 1;
    }
    segments.join("/")
}

/// Values that are not of a kind.
fn wrong(kind: &str) -> Vec<Value> {
    match kind {
        "text" => vec![json!(7), json!(true), json!([]), json!({"a": 1})],
        "number" => vec![json!("x"), json!([]), json!({}), json!(1.5), json!(1e99), json!(false)],
        "flag" => vec![json!("yes"), json!(2), json!([]), json!({})],
        "list" => vec![json!("x"), json!(7), json!({}), json!([7]), json!([null]), json!([[]])],
        "object" => vec![json!("x"), json!(7), json!([])],
        "any" => vec![json!([]), json!({"nonsense": []})],
        kind => panic!("{kind} is no kind"),
    }
}

/// Bodies that a route with these fields must refuse.
fn bad_bodies(fields: &[Field]) -> Vec<String> {
    let deep = "[".repeat(100_000);
    let mut bodies: Vec<String> =
        ["{", "[]", "null", "7", "\"x\"", "{} {}", "{\"a\"}", "{'a': 1}", "\u{feff}{}", &deep]
            .map(str::to_owned)
            .into();
    bodies.push(format!("{{\"a\":{deep}"));
    bodies.push(" ".repeat(MAX_BODY_BYTES + 1));
    if fields.iter().any(|field| field.required) {
        bodies.push("{}".to_owned());
    }
    for field in fields {
        let name = if field.name == "*" { "NAME" } else { field.name };
        bodies.extend(wrong(field.kind).into_iter().map(|value| json!({name: value}).to_string()));
        if field.kind == "text" {
            bodies.push(json!({name: "a\u{0}b"}).to_string());
        }
        // The same name twice: whichever is taken, the other was meant.
        bodies.push(format!("{{\"{name}\": [1], \"{name}\": [2]}}"));
    }
    bodies
}

impl Api {
    /// Every row of the store, as text.
    fn rows(&self) -> String {
        let program = "import sqlite3, sys; print('\\n'.join(sqlite3.connect(sys.argv[1]).iterdump()))";
        let file = self.node.config.data.join("ferroku.sqlite");
        let output = Command::new("python3").arg("-c").arg(program).arg(file).output().expect("python3 runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    async fn status(&self, method: &Method, path: &str, body: String) -> StatusCode {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.owner.api_key))
            .body(Body::from(body))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        api::app(self.node.clone()).oneshot(request).await.expect("infallible").status()
    }
}

#[test]
fn every_route_that_changes_something_says_what_its_body_is() {
    let name = |method: &Method, path: &str| format!("{method} {path}");
    let table: BTreeSet<String> = table().iter().map(|row| name(&row.method, row.path)).collect();
    let routes = api::routes();
    let writing = routes
        .table()
        .iter()
        .filter(|(method, path)| method != Method::GET && !path.contains("{repository}"));
    let writing: BTreeSet<String> = writing.map(|(method, path)| name(method, path)).collect();
    let missing: Vec<_> = writing.difference(&table).collect();
    assert!(missing.is_empty(), "bodies.txt lacks {missing:?}");
    let gone: Vec<_> = table.difference(&writing).collect();
    assert!(gone.is_empty(), "no such route: {gone:?}");
}

#[tokio::test]
async fn a_body_that_cannot_be_is_refused_and_changes_nothing() {
    let api = lists().await;
    let before = api.rows();
    let mut wrong = Vec::new();
    for row in table() {
        let path = concrete(row.path, usize::MAX, "");
        for body in bad_bodies(row.fields.as_deref().unwrap_or_default()) {
            // Whatever is sent to a route that takes no body is not read.
            if row.fields.is_none() {
                continue;
            }
            let shown: String = body.chars().take(80).collect();
            let status = api.status(&row.method, &path, body).await;
            if !status.is_client_error() {
                wrong.push(format!("{} {path} {shown}: {status}", row.method));
            }
        }
    }
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
    assert!(api.rows() == before, "a refused request changed the store");
}

#[tokio::test]
async fn whatever_stands_in_a_path_is_answered_and_changes_nothing() {
    let api = lists().await;
    let before = api.rows();
    let long = "a".repeat(5000);
    let nonsense = [
        "%00",
        "a%00b",
        "%FF",
        "..",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        &long,
        "%F0%9F%92%A9",
        "'%20OR%20'1'='1",
        "-1",
        "v0",
        "99999999999999999999",
        "%0d%0aX-Evil:%20yes",
        "*",
        "%25s",
        "%",
    ];
    let mut wrong = Vec::new();
    for (method, path) in api::routes().table() {
        for at in 0..path.matches('{').count() {
            for value in nonsense {
                let path = concrete(path, at, value);
                let status = api.status(method, &path, "{}".to_owned()).await;
                if status.is_server_error() {
                    wrong.push(format!("{method} {path}: {status}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(api.rows() == before, "nonsense in a path changed the store");
}
