//! Where packages come from: the node's pip settings, said to uv.
//!
//! In: pip's environment variables (`PIP_INDEX_URL` ...) and configuration files of the stack (`/etc/pip.conf` ...).
//! Out: variables that uv reads. So a node behind a company's network is set up once, in pip's own terms. Of the app's
//! config vars only `PIP_EXTRA_INDEX_URL` counts, as on Heroku. Source: pip documentation "Configuration".

use crate::context::{BuildContext, Environment};
use crate::error::BuildError;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian keeps the certificates that the node trusts.
pub const STACK_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// pip's settings that matter here: option name, uv's variable.
const TRANSLATED: [(&str, &str); 5] = [
    ("index-url", "UV_DEFAULT_INDEX"),
    ("extra-index-url", "UV_EXTRA_INDEX_URL"),
    ("find-links", "UV_FIND_LINKS"),
    ("trusted-host", "UV_INSECURE_HOST"),
    ("cert", "SSL_CERT_FILE"),
];

/// Adds uv's variables to the environment of the build. What is set for uv itself wins.
///
/// # Errors
/// A config var cannot be read.
pub fn environment(context: &BuildContext) -> Result<Environment, BuildError> {
    let mut environment = context.environment.clone();
    if let Some(extra) = context.config_var("PIP_EXTRA_INDEX_URL")? {
        environment.insert("PIP_EXTRA_INDEX_URL".into(), extra);
    }
    let files: Vec<String> =
        configuration_files(&environment).iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    translate(&mut environment, &files);
    let certificates: OsString = STACK_CERTIFICATES.into();
    if !environment.contains_key(OsStr::new("SSL_CERT_FILE")) && Path::new(STACK_CERTIFICATES).is_file() {
        environment.insert("SSL_CERT_FILE".into(), certificates);
    }
    Ok(environment)
}

/// pip's own order: later ones win.
fn configuration_files(environment: &Environment) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/pip.conf")];
    if let Some(home) = environment.get(OsStr::new("HOME")) {
        files.push(Path::new(home).join(".pip/pip.conf"));
        files.push(Path::new(home).join(".config/pip/pip.conf"));
    }
    files.extend(environment.get(OsStr::new("PIP_CONFIG_FILE")).map(PathBuf::from));
    files
}

fn translate(environment: &mut Environment, configuration_files: &[String]) {
    let mut options = BTreeMap::new();
    for text in configuration_files {
        options.extend(read_configuration(text));
    }
    for (option, uv_variable) in TRANSLATED {
        let pip_variable = format!("PIP_{}", option.to_ascii_uppercase().replace('-', "_"));
        let value = match environment.get(OsStr::new(&pip_variable)) {
            Some(value) => value.to_string_lossy().into_owned(),
            None => options.get(option).cloned().unwrap_or_default(),
        };
        let mut words: Vec<&str> = value.split_whitespace().collect();
        if option == "find-links" {
            // pip passes over a folder that is not there; uv stops.
            words.retain(|word| word.contains("://") || Path::new(word).exists());
        }
        if !words.is_empty() && !environment.contains_key(OsStr::new(uv_variable)) {
            let separator = if option == "find-links" { "," } else { " " };
            environment.insert(uv_variable.into(), words.join(separator).into());
        }
    }
    // pip takes the best version of all indexes; uv by itself takes the first index that has the package.
    if environment.contains_key(OsStr::new("UV_EXTRA_INDEX_URL")) {
        environment.entry("UV_INDEX_STRATEGY".into()).or_insert_with(|| "unsafe-best-match".into());
    }
}

/// The options of `[global]` and `[install]`; a value may go on in indented lines.
fn read_configuration(text: &str) -> BTreeMap<String, String> {
    let (mut global, mut install) = (BTreeMap::new(), BTreeMap::new());
    let (mut section, mut option) = (String::new(), String::new());
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let goes_on = line.starts_with([' ', '\t']);
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (section, option) = (name.to_owned(), String::new());
            continue;
        }
        let options: &mut BTreeMap<String, String> = match section.as_str() {
            "global" => &mut global,
            "install" => &mut install,
            _ => continue,
        };
        if goes_on && !option.is_empty() {
            let value = options.entry(option.clone()).or_default();
            *value = format!("{value} {trimmed}").trim().to_owned();
        } else if let Some((name, value)) = trimmed.split_once(['=', ':']) {
            option = name.trim().to_ascii_lowercase().replace('_', "-");
            options.insert(option.clone(), value.trim().to_owned());
        }
    }
    global.extend(install);
    global
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], files: &[&str], expected: &[(&str, &str)]) {
        let mut environment: Environment = variables.iter().map(|(k, v)| (k.into(), v.into())).collect();
        translate(&mut environment, &files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>());
        for (name, _) in variables {
            environment.remove(OsStr::new(name));
        }
        let found: Vec<(&str, &str)> = environment
            .iter()
            .map(|(k, v)| (k.to_str().expect("utf-8"), v.to_str().expect("utf-8")))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn pip_settings_reach_uv() {
        check(&[], &[], &[]);
        check(
            &[],
            &["[global]\nindex-url = https://a/simple\ncert = /c.pem\n"],
            &[("SSL_CERT_FILE", "/c.pem"), ("UV_DEFAULT_INDEX", "https://a/simple")],
        );
        check(
            &[("PIP_INDEX_URL", "https://b")],
            &["[global]\nindex_url: https://a\n"],
            &[("UV_DEFAULT_INDEX", "https://b")],
        );
        check(
            &[],
            &["[global]\nindex-url=x\n[install]\nindex-url=y\n[list]\nindex-url=z\n"],
            &[("UV_DEFAULT_INDEX", "y")],
        );
        check(&[], &["[global]\nindex-url=x\n", "[global]\nindex-url=y\n"], &[("UV_DEFAULT_INDEX", "y")]);
        check(
            &[],
            &["[global]\n# c\nextra-index-url =\n    https://a\n    https://b\n"],
            &[("UV_EXTRA_INDEX_URL", "https://a https://b"), ("UV_INDEX_STRATEGY", "unsafe-best-match")],
        );
        check(
            &[("PIP_FIND_LINKS", "/not/there https://l /usr")],
            &[],
            &[("UV_FIND_LINKS", "https://l,/usr")],
        );
        check(&[("PIP_FIND_LINKS", "/not/there")], &[], &[]);
        check(&[("PIP_TRUSTED_HOST", "h"), ("UV_INSECURE_HOST", "own")], &[], &[]);
    }
}
