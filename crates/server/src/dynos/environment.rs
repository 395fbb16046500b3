//! The environment of a dyno: config vars, what every dyno has, and dyno metadata.
//!
//! Order of precedence, lowest first: base paths, config vars of the release, a one-off's own variables,
//! and what the platform alone decides (`DYNO`, `PORT`, `HOME`, `HEROKU_*` metadata).
//! Source: heroku-behaviour reference, section 6.5.

use ferroku_core::Millis;
use ferroku_core::app::App;
use ferroku_core::config_var::ConfigVars;
use ferroku_core::dyno::{Dyno, DynoKind};
use ferroku_core::formation::Formation;
use ferroku_core::release::Release;
use std::collections::BTreeMap;

/// Everything a dyno's environment is made of.
pub struct Sources<'a> {
    pub app: &'a App,
    pub dyno: &'a Dyno,
    pub release: &'a Release,
    /// Commit of the release's slug, if it has one.
    pub slug_commit: Option<&'a str>,
    pub config_vars: ConfigVars,
    /// What `heroku run -e` gave.
    pub extra: BTreeMap<String, String>,
    /// The app's default host name.
    pub default_host: &'a str,
}

/// The variables of a dyno.
pub fn variables(sources: Sources<'_>) -> BTreeMap<String, String> {
    let Sources { app, dyno, release, slug_commit, config_vars, extra, default_host } = sources;
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
    set("PATH", "/usr/local/bin:/usr/bin:/bin".into());
    if dyno.kind == DynoKind::Run {
        set("PS1", r"\w $ ".into());
    }
    variables.extend(config_vars);
    variables.extend(extra);
    let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
    set("HOME", "/app".into());
    set("PWD", "/app".into());
    set("DYNO", dyno.name());
    if let Some(port) = dyno.port {
        set("PORT", port.to_string());
    }
    set("HEROKU_APP_ID", app.id.to_string());
    set("HEROKU_APP_NAME", app.name.clone());
    set("HEROKU_APP_DEFAULT_DOMAIN_NAME", default_host.to_owned());
    set("HEROKU_DYNO_ID", dyno.id.to_string());
    set("HEROKU_RELEASE_VERSION", format!("v{}", release.version));
    set("HEROKU_RELEASE_CREATED_AT", timestamp(release.created_at));
    if let Some(commit) = slug_commit {
        let short = commit.get(..8).unwrap_or(commit);
        for kind in ["SLUG", "BUILD"] {
            set(&format!("HEROKU_{kind}_COMMIT"), commit.to_owned());
            set(&format!("HEROKU_{kind}_DESCRIPTION"), format!("Deploy {short}"));
        }
    }
    variables
}

/// `2015-04-02T18:00:42Z`
fn timestamp(at: Millis) -> String {
    let time = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The command of a one-off: a process type's name in front stands for its definition, as in
/// `heroku run worker --once`.
pub fn substitute(command: &str, formation: &[Formation]) -> String {
    let trimmed = command.trim_start();
    let (first, rest) = match trimmed.split_once(char::is_whitespace) {
        Some((first, rest)) => (first, Some(rest)),
        None => (trimmed, None),
    };
    let Some(found) = formation.iter().find(|one| one.process_type == first) else {
        return command.to_owned();
    };
    match rest {
        Some(rest) if !rest.trim().is_empty() => format!("{} {rest}", found.command),
        _ => found.command.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroku_core::{AppId, FormationId};
    use uuid::Uuid;

    #[test]
    fn a_process_types_name_stands_for_its_command() {
        let worker = Formation {
            id: FormationId(Uuid::nil()),
            app_id: AppId(Uuid::nil()),
            process_type: "worker".into(),
            command: "python work.py".into(),
            quantity: 0,
            size: "basic".into(),
            created_at: 0,
            updated_at: 0,
        };
        let substituted = |command| substitute(command, std::slice::from_ref(&worker));
        assert_eq!(substituted("worker"), "python work.py");
        assert_eq!(substituted("worker --once 'a  b'"), "python work.py --once 'a  b'");
        assert_eq!(substituted("workers"), "workers");
        assert_eq!(substituted("echo worker"), "echo worker");
        assert_eq!(
            substituted("worker ; echo \"\u{ffff} heroku-command-exit-status: $?\""),
            "python work.py ; echo \"\u{ffff} heroku-command-exit-status: $?\""
        );
    }
}
