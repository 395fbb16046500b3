//! The built-in buildpack `heroku/static`: files as they are, served by the rules of a `static.json`.
//!
//! In: `static.json` (root, clean_urls, routes, redirects, headers, error_page, https_only), in the form of
//! heroku-buildpack-static. Out: a small server for Python's own library, which every stack has (no other web server is sure
//! to be there), in `.heroku/static`, and the process type `web` that runs it.
//!
//! Invariant: what would be served otherwise than `static.json` says is refused here: a site that is to ask for a password
//! must not be open.

use crate::context::BuildContext;
use crate::error::BuildError;
use crate::files::create_folder;
use crate::{Buildpack, Detection, ReleaseInfo};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Component, Path};
use thiserror::Error;

/// The program that serves.
const SERVER: &str = include_str!("server.py");

/// Where it is, below the app's folder.
const PLACE: &str = ".heroku/static";

/// What `web` runs.
const COMMAND: &str = "python3 .heroku/static/server.py";

/// Settings that are understood, each with a test of its value and what is expected.
const KNOWN: [(&str, fn(&Value) -> bool, &str); 7] = [
    ("root", is_inside, "the name of a folder of the app"),
    ("clean_urls", Value::is_boolean, "true or false"),
    ("https_only", Value::is_boolean, "true or false"),
    ("error_page", is_inside, "the name of a file in the root folder"),
    ("routes", |value| each(value, Value::is_string), "paths, each with a file"),
    ("redirects", |value| each(value, is_redirect), "paths, each with a url and, if it is not 301, a status"),
    (
        "headers",
        |value| each(value, |named| each(named, is_header)),
        "paths, each with names and values of headers",
    ),
];

/// Why a site cannot be served.
#[derive(Debug, Error)]
pub enum StaticError {
    #[error("Error: static.json cannot be read.\n\n{0}\n\nCorrect it, commit and push again.")]
    Json(String),
    #[error("Error: '{name}' in static.json must be {expected}.\n\nCorrect it, commit and push again.")]
    BadSetting { name: String, expected: &'static str },
    #[error(
        "Error: '{name}' in static.json is not supported here.\n\nKnown are: {known}.\n\nRemove it (or set a buildpack that has it by its address), commit and push again."
    )]
    Unsupported { name: String, known: String },
    #[error(
        "Error: The folder '{0}', which is to be served, is not there.\n\nName another one as 'root' in static.json, commit and push again."
    )]
    NoRoot(String),
}

/// The buildpack.
pub struct StaticSite;

impl Buildpack for StaticSite {
    fn detect(&self, context: &BuildContext) -> Result<Detection, BuildError> {
        if context.has_file("static.json") {
            return Ok(Detection::Passed { name: "Static HTML".to_owned() });
        }
        let help = "Error: Your app is configured to use the static buildpack,\nbut it has no 'static.json'. Add one such as:\n\n    {\"root\": \"public\"}";
        Ok(Detection::Failed { help: help.lines().map(str::to_owned).collect() })
    }

    fn compile(&self, context: &mut BuildContext) -> Result<(), BuildError> {
        let path = context.file("static.json");
        let text = fs::read(&path).map_err(|error| BuildError::io("read", &path, error))?;
        let root = check(&text)?;
        if !context.file(&root).is_dir() {
            return Err(StaticError::NoRoot(root).into());
        }
        let folder = context.file(PLACE);
        create_folder(&folder)?;
        let path = folder.join("server.py");
        fs::write(&path, SERVER).map_err(|error| BuildError::io("write", &path, error))?;
        context.output.detail(&format!("The files of {root} are served as they are, by static.json."));
        Ok(())
    }

    fn release(&self, _context: &BuildContext) -> Result<ReleaseInfo, BuildError> {
        let mut info = ReleaseInfo::default();
        info.default_process_types.insert("web".to_owned(), COMMAND.to_owned());
        Ok(info)
    }
}

/// Whether all of it can be done; gives the root folder.
fn check(text: &[u8]) -> Result<String, StaticError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let settings: Map<String, Value> =
        serde_json::from_slice(text).map_err(|error| StaticError::Json(error.to_string()))?;
    for (name, value) in &settings {
        match KNOWN.iter().find(|(known, _, _)| known == name) {
            Some((_, is_right, _)) if is_right(value) => {}
            Some((_, _, expected)) => return Err(StaticError::BadSetting { name: name.clone(), expected }),
            None => {
                let known = KNOWN.map(|(known, _, _)| known).join(", ");
                return Err(StaticError::Unsupported { name: name.clone(), known });
            }
        }
    }
    Ok(settings.get("root").and_then(Value::as_str).unwrap_or("public_html").to_owned())
}

fn is_inside(value: &Value) -> bool {
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    value.as_str().is_some_and(|name| !name.is_empty() && Path::new(name).components().all(inside))
}

fn each(value: &Value, is_right: impl Fn(&Value) -> bool) -> bool {
    value.as_object().is_some_and(|object| object.values().all(is_right))
}

fn is_header(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.contains(['\r', '\n']))
}

fn is_redirect(value: &Value) -> bool {
    value["url"].is_string()
        && value
            .get("status")
            .is_none_or(|status| status.as_u64().is_some_and(|status| (300..400).contains(&status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_and_unknown_ones_refused() {
        let root = |text: &str| check(text.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(root("{}"), Ok("public_html".to_owned()));
        assert_eq!(root(r#"{"root": "./dist/", "headers": {"/**": {"X": "y"}}}"#), Ok("./dist/".to_owned()));
        for (text, expected) in [
            ("{,}", "static.json cannot be read"),
            (r#"{"root": "../x"}"#, "'root' in static.json must be the name of a folder"),
            (r#"{"root": "/etc"}"#, "'root'"),
            (r#"{"redirects": {"/a": {"url": "/", "status": 200}}}"#, "'redirects'"),
            (r#"{"headers": {"/": {"X": "a\r\nB: c"}}}"#, "'headers'"),
            (r#"{"basic_auth": true}"#, "'basic_auth' in static.json is not supported here"),
        ] {
            let error = root(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }
}
