//! Whether an answer of the API is what the Platform API's schema says it is.
//!
//! `platform_api.json` holds, for the resources that Ferroku serves, each property and its type, and which
//! resource each endpoint answers. Types: `string`, `uuid`, `time`, `integer`, `boolean`, `number`, `object`, `any`,
//! `=word` for a fixed word, joined by `|`, with `null` among them if it may be null; `[T]` a list; an object with `?`
//! may be null. Every listed property must be there; more may be.

use crate::traffic::Exchange;
use serde_json::{Map, Value};
use std::sync::LazyLock;

static TABLE: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("platform_api.json")).expect("the table is valid JSON")
});

/// What is wrong with an answer; empty for a right one and for endpoints outside the schema.
pub fn violations(exchange: &Exchange) -> Vec<String> {
    let path = exchange.path.split('?').next().unwrap_or_default();
    let title = format!("{} {path} -> {}", exchange.method, exchange.status);
    if exchange.status >= 400 {
        return error_violations(exchange).into_iter().map(|text| format!("{title}: {text}")).collect();
    }
    if exchange.status >= 300 || exchange.status == 204 {
        return Vec::new();
    }
    let Some(kind) = endpoint(&exchange.method, path) else { return Vec::new() };
    if !exchange.content_type.contains("json") {
        return vec![format!("{title}: the content type is {:?}, not JSON", exchange.content_type)];
    }
    let Ok(body) = serde_json::from_slice::<Value>(&exchange.body) else {
        return vec![format!("{title}: the body is no JSON")];
    };
    let mut found = Vec::new();
    match kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')) {
        Some(item) => match body.as_array() {
            Some(items) => {
                for (index, value) in items.iter().enumerate() {
                    check_resource(item, value, &format!("{title}: {item}[{index}]"), &mut found);
                }
            }
            None => found.push(format!("{title}: the body is no list")),
        },
        None => check_resource(kind, &body, &format!("{title}: {kind}"), &mut found),
    }
    found
}

fn error_violations(exchange: &Exchange) -> Option<String> {
    let is_text = |value: &Value, key| value.get(key).is_some_and(Value::is_string);
    // git, log streams and the like speak to programs that want no JSON.
    if !exchange.content_type.contains("json") {
        let of_api =
            endpoint(&exchange.method, exchange.path.split('?').next().unwrap_or_default()).is_some();
        return of_api.then(|| format!("an error of type {:?} instead of JSON", exchange.content_type));
    }
    match serde_json::from_slice::<Value>(&exchange.body) {
        Ok(body) if is_text(&body, "id") && is_text(&body, "message") => None,
        Ok(body) => Some(format!("an error without id and message: {body}")),
        Err(_) => Some("an error that is no JSON".to_owned()),
    }
}

/// The resource that `method path` answers: `app`, `[app]`.
fn endpoint(method: &str, path: &str) -> Option<&'static str> {
    let endpoints = TABLE["endpoints"].as_object().expect("the table has endpoints");
    let segments: Vec<&str> = path.split('/').collect();
    endpoints
        .iter()
        .filter(|(pattern, _)| {
            let Some((wanted, pattern)) = pattern.split_once(' ') else { return false };
            let pattern: Vec<&str> = pattern.split('/').collect();
            wanted == method
                && pattern.len() == segments.len()
                && pattern.iter().zip(&segments).all(|(want, have)| *want == "*" || want == have)
        })
        // `/oauth/authorizations/~` fits a starred pattern too; a literal one says more.
        .min_by_key(|(pattern, _)| pattern.matches('*').count())
        .and_then(|(_, kind)| kind.as_str())
}

fn check_resource(name: &str, value: &Value, place: &str, found: &mut Vec<String>) {
    match name {
        "object" if value.is_object() => {}
        "object" => found.push(format!("{place} is no object")),
        "config-var" => check_config_vars(value, place, found),
        _ => match TABLE["resources"].get(name) {
            Some(wanted) => check(wanted, value, place, found),
            None => found.push(format!("{place}: the table does not know this resource")),
        },
    }
}

fn check_config_vars(value: &Value, place: &str, found: &mut Vec<String>) {
    let texts = value.as_object().is_some_and(|vars| vars.values().all(Value::is_string));
    if !texts {
        found.push(format!("{place} is not an object of texts"));
    }
}

fn check(wanted: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    match wanted {
        Value::String(types) => {
            if !types.split('|').any(|wanted| is(wanted, value)) {
                found.push(format!("{place} is {value}, not {types}"));
            }
        }
        Value::Array(types) => {
            let nullable = types.get(1).is_some();
            match value {
                Value::Array(items) => {
                    for (index, item) in items.iter().enumerate() {
                        check(&types[0], item, &format!("{place}[{index}]"), found);
                    }
                }
                Value::Null if nullable => {}
                _ => found.push(format!("{place} is {value}, not a list")),
            }
        }
        Value::Object(properties) => check_object(properties, value, place, found),
        _ => found.push(format!("{place}: the table has no type for it")),
    }
}

fn check_object(properties: &Map<String, Value>, value: &Value, place: &str, found: &mut Vec<String>) {
    let Value::Object(have) = value else {
        if !(value.is_null() && properties.contains_key("?")) {
            found.push(format!("{place} is {value}, not an object"));
        }
        return;
    };
    for (name, wanted) in properties.iter().filter(|(name, _)| *name != "?") {
        match have.get(name) {
            Some(value) => check(wanted, value, &format!("{place}.{name}"), found),
            None => found.push(format!("{place}.{name} is missing")),
        }
    }
}

fn is(wanted: &str, value: &Value) -> bool {
    match wanted {
        "any" => true,
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "uuid" => value.as_str().is_some_and(|text| uuid::Uuid::parse_str(text).is_ok()),
        "time" => value.as_str().is_some_and(is_time),
        _ => wanted.strip_prefix('=').is_some_and(|word| value.as_str() == Some(word)),
    }
}

/// `2026-01-01T12:00:00Z`, with or without parts of a second.
fn is_time(text: &str) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    text.ends_with('Z')
        && digits(0..4)
        && digits(5..7)
        && digits(8..10)
        && text.get(10..11) == Some("T")
        && digits(11..13)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(method: &str, path: &str, status: u16, body: &str) -> Exchange {
        Exchange {
            method: method.to_owned(),
            path: path.to_owned(),
            status,
            content_type: "application/json".to_owned(),
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_missing_property_a_wrong_type_and_a_wrong_shape_are_found() {
        let right = r#"{"created_at":"2026-01-01T12:00:00Z","id":"01234567-89ab-cdef-0123-456789abcdef",
            "logplex_url":"http://localhost/x","updated_at":"2026-01-01T12:00:00Z"}"#;
        assert_eq!(violations(&exchange("POST", "/apps/a/log-sessions", 201, right)), Vec::<String>::new());
        let missing =
            violations(&exchange("POST", "/apps/a/log-sessions", 201, &right.replace("updated_at", "x")));
        assert_eq!(missing, ["POST /apps/a/log-sessions -> 201: log-session.updated_at is missing"]);
        let wrong =
            violations(&exchange("POST", "/apps/a/log-sessions", 201, &right.replace("01234567-", "")));
        assert!(wrong[0].contains("log-session.id is "), "{wrong:?}");
        assert_eq!(
            violations(&exchange("GET", "/apps?x=1", 200, "{}")),
            ["GET /apps -> 200: the body is no list"]
        );
        assert_eq!(
            violations(&exchange("GET", "/apps/a/config-vars", 200, r#"{"A":"b"}"#)),
            Vec::<String>::new()
        );
        assert_eq!(violations(&exchange("GET", "/apps/a/config-vars", 200, r#"{"A":1}"#)).len(), 1);
    }

    #[test]
    fn an_error_has_an_id_and_a_message() {
        assert_eq!(
            violations(&exchange("GET", "/apps/a", 404, r#"{"id":"not_found","message":"m"}"#)),
            Vec::<String>::new()
        );
        assert_eq!(violations(&exchange("GET", "/apps/a", 404, r#"{"error":"m"}"#)).len(), 1);
    }
}
