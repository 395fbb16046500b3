//! What `bin/release` prints: YAML with `default_process_types`, `config_vars`, `addons`.
//!
//! Example: `---\ndefault_process_types:\n  web: ./run.sh\n`. Nothing, `---` and `--- {}` are valid. `addons` is read over:
//! what is attached to an app is its owner's choice.

use crate::ReleaseInfo;
use ferroku_core::procfile::is_process_type;
use std::collections::BTreeMap;
use thiserror::Error;
use yaml_rust2::{Yaml, YamlLoader};

/// Longest text that is read, in bytes: aliases may blow up a longer one.
const MAX_YAML_BYTES: usize = 64 * 1024;

/// Why the text was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReleaseError {
    #[error("it printed {0} bytes; at most {MAX_YAML_BYTES} are read")]
    TooLong(usize),
    #[error("it printed no valid YAML: {0}")]
    Yaml(String),
    #[error("{0} must be a mapping of names to values")]
    NoMapping(&'static str),
    #[error("the value of {0:?} must be a text or a number")]
    BadValue(String),
    #[error("{0:?} is no process type name: only letters, digits, \"-\" and \"_\" may be in it")]
    BadProcessType(String),
}

/// Reads the output of `bin/release`.
///
/// # Errors
/// It is not of that form.
pub fn parse(text: &str) -> Result<ReleaseInfo, ReleaseError> {
    if text.len() > MAX_YAML_BYTES {
        return Err(ReleaseError::TooLong(text.len()));
    }
    let documents = YamlLoader::load_from_str(text).map_err(|error| ReleaseError::Yaml(error.to_string()))?;
    let root = match documents.into_iter().next() {
        None | Some(Yaml::Null) => return Ok(ReleaseInfo::default()),
        Some(root) if root.as_hash().is_some() => root,
        Some(_) => return Err(ReleaseError::NoMapping("the text as a whole")),
    };
    let default_process_types = texts(&root, "default_process_types")?;
    if let Some(name) = default_process_types.keys().find(|name| !is_process_type(name)) {
        return Err(ReleaseError::BadProcessType(name.clone()));
    }
    Ok(ReleaseInfo { default_process_types, config_vars: texts(&root, "config_vars")? })
}

fn texts(root: &Yaml, key: &'static str) -> Result<BTreeMap<String, String>, ReleaseError> {
    let mapping = match &root[key] {
        Yaml::BadValue | Yaml::Null => return Ok(BTreeMap::new()),
        Yaml::Hash(mapping) => mapping,
        _ => return Err(ReleaseError::NoMapping(key)),
    };
    mapping
        .iter()
        .map(|(name, value)| {
            let name = scalar(name).ok_or(ReleaseError::NoMapping(key))?;
            let value = scalar(value).ok_or_else(|| ReleaseError::BadValue(name.clone()))?;
            Ok((name, value))
        })
        .collect()
}

fn scalar(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) | Yaml::Real(text) => Some(text.trim_end_matches('\n').to_owned()),
        Yaml::Integer(number) => Some(number.to_string()),
        Yaml::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, types: &[(&str, &str)], vars: &[(&str, &str)]) {
        let info = parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(
            info,
            ReleaseInfo { default_process_types: map(types), config_vars: map(vars) },
            "{text:?}"
        );
    }

    #[test]
    fn reads_what_buildpacks_print() {
        check("", &[], &[]);
        check("--- {}\n", &[], &[]);
        check("---\naddons: []\n", &[], &[]);
        check("---\naddons:\n  - heroku-postgresql\nconfig_vars: {}\ndefault_process_types:\n", &[], &[]);
        check(
            "default_process_types:\n  web: ./run.sh --port $PORT\n",
            &[("web", "./run.sh --port $PORT")],
            &[],
        );
        check(
            "---\nconfig_vars:\n  PATH: /app/bin:$PATH\n  N: 5\n  B: true\ndefault_process_types:\n  web: \"a: b\"\n  rake: 'it''s'\n",
            &[("rake", "it's"), ("web", "a: b")],
            &[("PATH", "/app/bin:$PATH"), ("N", "5"), ("B", "true")],
        );
        check("default_process_types: {\"web\": \"npm start\"}", &[("web", "npm start")], &[]);
        check(
            "default_process_types:\n  web: |\n    one\n  w: >\n    a\n    b\n",
            &[("w", "a b"), ("web", "one")],
            &[],
        );
    }

    #[test]
    fn refuses_other_forms() {
        assert!(matches!(parse("a: [b\n"), Err(ReleaseError::Yaml(_))));
        assert_eq!(parse("- web\n"), Err(ReleaseError::NoMapping("the text as a whole")));
        assert_eq!(
            parse("default_process_types: web\n"),
            Err(ReleaseError::NoMapping("default_process_types"))
        );
        assert_eq!(parse("config_vars:\n  A: [1]\n"), Err(ReleaseError::BadValue("A".to_owned())));
        let bad = parse("default_process_types:\n  \"a b\": x\n");
        assert_eq!(bad, Err(ReleaseError::BadProcessType("a b".to_owned())));
        assert_eq!(parse(&"#".repeat(70_000)), Err(ReleaseError::TooLong(70_000)));
    }
}
