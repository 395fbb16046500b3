//! `docs/openapi.json`: the API as an OpenAPI document, from the router's list of routes, the table of bodies, and the testkit's
//! table of what each resource looks like; and Schemathesis, which sends what that document allows, and what it does not.
//! With `FERROKU_BLESS=1` the document is written anew.

use super::bodies::{Field, table};
use super::conventions::lists;
use super::patch;
use crate::api;
use http::Method;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const RESOURCES: &str = include_str!("../../../../testkit/src/schema/platform_api.json");
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools");
/// Requests that Schemathesis makes up for each operation, besides those at the borders of what the document allows.
const EXAMPLES: &str = "8";
const SEED: &str = "20260101";
/// It takes some 30 s of an idle core.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// A word of the testkit's table: `uuid|null`.
fn kind(word: &str) -> Value {
    let one = |word: &str| match word {
        "any" => json!({}),
        "uuid" => json!({"type": "string", "format": "uuid"}),
        "time" => json!({"type": "string", "format": "date-time"}),
        word if word.starts_with('=') => json!({"const": &word[1..]}),
        word => json!({"type": word}),
    };
    let mut all: Vec<Value> = word.split('|').map(one).collect();
    if all.len() == 1 { all.remove(0) } else { json!({"anyOf": all}) }
}

/// A resource, or a part of one, of the testkit's table.
fn resource(value: &Value) -> Value {
    match value {
        Value::String(word) => kind(word),
        Value::Array(items) => {
            let kinds = if items.len() > 1 { json!(["array", "null"]) } else { json!("array") };
            json!({"type": kinds, "items": resource(&items[0])})
        }
        Value::Object(properties) => {
            let kinds =
                if properties.contains_key("?") { json!(["object", "null"]) } else { json!("object") };
            let named = properties.iter().filter(|(name, _)| *name != "?");
            let required: Vec<&String> = named.clone().map(|(name, _)| name).collect();
            let properties: Map<String, Value> =
                named.map(|(name, value)| (name.clone(), resource(value))).collect();
            json!({"type": kinds, "properties": properties, "required": required})
        }
        _ => json!({}),
    }
}

/// What a route answers when it does what it is asked for.
fn answer(endpoints: &Value, method: &Method, path: &str) -> Value {
    let starred: Vec<&str> =
        path.split('/').map(|segment| if segment.starts_with('{') { "*" } else { segment }).collect();
    let name = endpoints[format!("{method} {}", starred.join("/"))].as_str();
    let reference = |name: &str| match name {
        "object" | "config-var" => json!({"type": "object"}),
        name => json!({"$ref": format!("#/components/schemas/{name}")}),
    };
    match name.map(|name| (name, name.strip_prefix('[').and_then(|name| name.strip_suffix(']')))) {
        None => json!({}),
        Some((_, Some(item))) => json!({"type": "array", "items": reference(item)}),
        Some((name, None)) => reference(name),
    }
}

fn body(fields: &[Field]) -> Value {
    let value = |kind: &str| match kind {
        "text" => json!({"type": ["string", "null"]}),
        "number" => json!({"type": ["integer", "null"]}),
        "flag" => json!({"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}]}),
        "list" => json!({"type": "array"}),
        "object" => json!({"type": ["object", "null"]}),
        _ => json!({}),
    };
    let mut schema = json!({"type": "object"});
    if let Some(any) = fields.iter().find(|field| field.name == "*") {
        schema["additionalProperties"] = value(any.kind);
        return schema;
    }
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.to_owned(), value(field.kind))).collect();
    schema["properties"] = json!(properties);
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// The document. `known` names values of parameters, by method and name; a method `*` is any.
fn document(known: &BTreeMap<(&str, &str), Vec<String>>) -> Value {
    let resources: Value = serde_json::from_str(RESOURCES).expect("JSON");
    let bodies = table();
    let mut paths: Map<String, Value> = Map::new();
    let mut used = BTreeSet::new();
    let routes = api::routes();
    // What speaks git, plain text or the exec protocol is no JSON; a login waits for a browser.
    let of_api = |path: &str| {
        !["/{repository}", "/streams", "/logs", "/api/v2", "/auth", "/metrics"]
            .iter()
            .any(|other| path.starts_with(other))
    };
    for (method, path) in routes.table().iter().filter(|(_, path)| of_api(path)) {
        let parameter = |name: &str| {
            let values = known.get(&(method.as_str(), name)).or_else(|| known.get(&("*", name)));
            let schema = match values {
                Some(values) => json!({"type": "string", "enum": values}),
                None => json!({"type": "string", "minLength": 1}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        };
        let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = names.map(parameter).collect();
        let content = answer(&resources["endpoints"], method, path);
        if content["type"] == "array" && method == Method::GET {
            parameters.push(json!({"name": "Range", "in": "header", "schema": {"type": "string"}}));
        }
        for name in [&content["$ref"], &content["items"]["$ref"]].into_iter().filter_map(Value::as_str) {
            used.insert(name.rsplit('/').next().unwrap_or(name).to_owned());
        }
        let mut operation = json!({
            "parameters": parameters,
            "responses": {
                "2XX": {"description": "done", "content": {"application/json": {"schema": content}}},
                "default": {
                    "description": "refused",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/error"}}}
                }
            }
        });
        let row = bodies.iter().find(|row| row.method == method && row.path == *path);
        if let Some(fields) = row.and_then(|row| row.fields.as_ref()) {
            let required = fields.iter().any(|field| field.required);
            operation["requestBody"] =
                json!({"required": required, "content": {"application/json": {"schema": body(fields)}}});
        }
        let operations = paths.entry((*path).to_owned()).or_insert_with(|| json!({}));
        operations[method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut schemas: Map<String, Value> =
        used.into_iter().map(|name| (name.clone(), resource(&resources["resources"][&name]))).collect();
    schemas.insert("error".to_owned(), resource(&json!({"id": "string", "message": "string"})));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ferroku",
            "version": "3",
            "description": "Heroku's Platform API as Ferroku serves it. What all answers have in common: docs/api-conventions.md."
        },
        "servers": [{"url": "http://localhost:5080"}],
        "security": [{"token": []}],
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}, "schemas": schemas},
        "paths": paths
    })
}

#[test]
fn the_openapi_document_tells_what_is_routed() {
    let mut text = serde_json::to_string_pretty(&document(&BTreeMap::new())).expect("JSON");
    text.push('\n');
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("FERROKU_BLESS").is_some() {
        fs::write(&path, &text).expect("the document can be written");
    }
    let have = fs::read_to_string(&path).unwrap_or_default();
    assert!(have == text, "docs/openapi.json is stale: run this test with FERROKU_BLESS=1");
}

/// Everything at once: right and wrong values of every parameter, header and body, with the token of the node's owner, who may
/// do most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_no_request_that_the_api_fails_at() {
    let program = Path::new(TOOLS).join("schemathesis/bin/schemathesis");
    assert!(program.exists(), "{} is missing; scripts/setup.sh test installs it", program.display());
    let api = lists().await;
    let id = async |name: &str| api.client.app(name).await.expect("there").id.to_string();
    // By their ids, because names are changed; the one that may be destroyed is not the one that the others ask for.
    let (shop, zebra) = (id("shop").await, id("zebra").await);
    let texts = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let known = BTreeMap::from([
        (("*", "app"), vec![shop]),
        (("DELETE", "app"), vec![zebra]),
        (("*", "domain"), texts(&["www.example.com", "example.org"])),
        (("*", "feature"), texts(&["http-session-affinity"])),
        (("*", "formation"), texts(&["web", "worker"])),
        (("*", "type"), texts(&["web", "worker"])),
        (("*", "release"), texts(&["1", "v3"])),
        (("*", "user"), texts(&["~"])),
        // Its own token must outlive the run.
        (("*", "authorization"), texts(&["01234567-89ab-cdef-0123-456789abcdef"])),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("openapi.json");
    let mut document = document(&known);
    // This node runs no dynos, and says so with 503.
    document["paths"]["/apps/{app}/dynos"].as_object_mut().expect("an object").remove("post").expect("there");
    fs::write(&file, document.to_string()).expect("written");
    let run = tokio::process::Command::new(program)
        .args(["run", "--url", &api.url, "--header", &format!("Authorization: Bearer {}", api.owner.api_key)])
        .args([
            "--checks",
            "not_a_server_error",
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            EXAMPLES,
        ])
        .args([
            "--seed",
            SEED,
            "--workers",
            "2",
            "--no-shrink",
            "--continue-on-failure",
            "--request-timeout",
            "30",
        ])
        .args(["--warnings", "off", "--no-color", "--suppress-health-check", "all"])
        .arg(&file)
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(TIME_LIMIT, run).await.expect("it ends in time").expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    // The token still works, and the API still does what it is for: nothing was tested in vain.
    api.client.patch_config_vars("another", &patch(&[("AFTER", Some("all"))])).await.expect("it goes on");
    assert!(text.contains("Test cases:"), "it says how much it has done:\n{text}");
}
