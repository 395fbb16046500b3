//! `ferrokud env`: the shell exports that point the Heroku CLI, git and heroku3 at this node.
//!
//! In: a data folder that a node has run on. Out: `export NAME='value'` lines for `eval "$(ferrokud env)"`.
//!
//! What a user has set already is kept: certificates that the environment names are put into one file with
//! the node's own, and git's settings are added after those that are there. Git gets the API key from a helper of
//! ours, because the Heroku CLI's takes a second to start and git asks it twice a push; without a key in the
//! environment, as after `heroku login`, the CLI's is asked. The facts about the clients (which variable moves what) were
//! read in the CLI's packages (`@heroku-cli/command`, `vars.js`) and in git's `http.c`.

use anyhow::Context;
use serde::Deserialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the running node can be reached; written by the supervisor at each start.
pub const ENDPOINT_FILE: &str = "run/endpoint";

#[derive(Deserialize)]
struct Owner {
    api_key: String,
}

/// What the exports are made of.
struct Facts<'a> {
    /// `localhost:5080`.
    authority: &'a str,
    api_key: &'a str,
    /// Our CA alone.
    ca: &'a str,
    /// The file for `NODE_EXTRA_CA_CERTS`.
    node_ca: &'a str,
    /// The file for `GIT_SSL_CAINFO`, where the user's environment sets it already: it overrides git's configuration.
    git_ca: Option<&'a str>,
    /// Number of our first `GIT_CONFIG_KEY_n`: after those that the environment has, or where ours are already.
    git_setting: usize,
    /// How many there are with ours.
    git_settings: usize,
}

/// What git runs to get the password. Says nothing of other remotes: it is asked for this node's only.
const GIT_HELPER: &str = "!f() { if [ -z \"$HEROKU_API_KEY\" ]; then exec heroku git:credentials \"$1\"; fi; \
    [ \"$1\" = get ] && echo username=heroku && echo \"password=$HEROKU_API_KEY\"; }; f";

/// Prints the exports.
///
/// # Errors
/// No node has run on this folder, or its owner's key cannot be read by this user.
pub fn run(data: &Path) -> anyhow::Result<ExitCode> {
    let data = data.canonicalize().with_context(|| {
        format!("{} is no data folder; name the node's one with --data DIR", data.display())
    })?;
    let endpoint = fs::read_to_string(data.join(ENDPOINT_FILE))
        .with_context(|| format!("no node runs on {}; start one with `ferrokud server`", data.display()))?;
    let owner = fs::read_to_string(data.join("owner.json"))
        .with_context(|| format!("cannot read {}; run this as root", data.join("owner.json").display()))?;
    let owner: Owner = serde_json::from_str(&owner).context("owner.json is not as the node wrote it")?;
    let ca = data.join("ca.crt");
    let node_ca = with_certificates_of("NODE_EXTRA_CA_CERTS", &ca, &data.join("ca-bundle-node.crt"))?;
    let git_ca = match std::env::var_os("GIT_SSL_CAINFO") {
        Some(_) => Some(with_certificates_of("GIT_SSL_CAINFO", &ca, &data.join("ca-bundle-git.crt"))?),
        None => None,
    };
    let port = endpoint.trim().rsplit(':').next().unwrap_or("5080");
    let authority = format!("localhost:{port}");
    let have: usize =
        std::env::var("GIT_CONFIG_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let first = git_settings(&authority, "").map(|(key, _)| key)[0].clone();
    let is_ours =
        |number: &usize| std::env::var(format!("GIT_CONFIG_KEY_{number}")).is_ok_and(|key| key == first);
    let git_setting = (0..have).find(is_ours).unwrap_or(have);
    let text = exports(&Facts {
        authority: &authority,
        api_key: &owner.api_key,
        ca: &ca.to_string_lossy(),
        node_ca: &node_ca.to_string_lossy(),
        git_ca: git_ca.as_ref().map(|path| path.to_string_lossy()).as_deref(),
        git_setting,
        git_settings: have.max(git_setting + git_settings(&authority, "").len()),
    });
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

/// The node's CA, and with it what the file named by `variable` holds. That file is ours already when this ran in the
/// same shell before.
fn with_certificates_of(variable: &str, ca: &Path, bundle: &Path) -> anyhow::Result<PathBuf> {
    let Some(theirs) = std::env::var_os(variable).map(PathBuf::from) else { return Ok(ca.to_path_buf()) };
    if theirs.as_os_str().is_empty() || theirs == ca || theirs == bundle {
        return Ok(if theirs == bundle { bundle.to_path_buf() } else { ca.to_path_buf() });
    }
    let mut certificates = fs::read_to_string(&theirs)
        .with_context(|| format!("cannot read {variable}={}", theirs.display()))?;
    certificates.push('\n');
    certificates.push_str(&fs::read_to_string(ca).with_context(|| format!("cannot read {}", ca.display()))?);
    fs::write(bundle, certificates).with_context(|| format!("cannot write {}", bundle.display()))?;
    Ok(bundle.to_path_buf())
}

fn exports(facts: &Facts<'_>) -> String {
    let http = format!("http://{}", facts.authority);
    let mut variables = vec![
        ("HEROKU_HOST".to_owned(), http.clone()),
        ("HEROKU_API_KEY".to_owned(), facts.api_key.to_owned()),
        // A bare name: the CLI takes scheme and port from HEROKU_HOST.
        ("HEROKU_DATA_HOST".to_owned(), "localhost".to_owned()),
        // Without it the CLI sends the token to particleboard.heroku.com as well.
        ("HEROKU_PARTICLEBOARD_URL".to_owned(), http.clone()),
        ("HEROKU_BUILDPACK_REGISTRY_URL".to_owned(), http.clone()),
        ("HEROKU_LOGIN_HOST".to_owned(), http.clone()),
        ("HEROKU_STATUS_HOST".to_owned(), http.clone()),
        ("HEROKU_ANALYTICS_URL".to_owned(), format!("{http}/hamurai")),
        ("HEROKU_EXEC_URL".to_owned(), format!("https://{}/", facts.authority)),
        ("DISABLE_TELEMETRY".to_owned(), "true".to_owned()),
        ("HEROKU_SKIP_NEW_VERSION_CHECK".to_owned(), "true".to_owned()),
        ("HEROKU_DISABLE_AUTOUPDATE".to_owned(), "1".to_owned()),
        // The OS keychain knows no hosts: it would overwrite a login to Heroku itself.
        ("HEROKU_NETRC_WRITE".to_owned(), "true".to_owned()),
        ("NODE_EXTRA_CA_CERTS".to_owned(), facts.node_ca.to_owned()),
        ("GIT_CONFIG_COUNT".to_owned(), facts.git_settings.to_string()),
    ];
    for (number, (key, value)) in (facts.git_setting..).zip(git_settings(facts.authority, facts.ca)) {
        variables.push((format!("GIT_CONFIG_KEY_{number}"), key));
        variables.push((format!("GIT_CONFIG_VALUE_{number}"), value));
    }
    if let Some(git_ca) = facts.git_ca {
        variables.push(("GIT_SSL_CAINFO".to_owned(), git_ca.to_owned()));
    }
    variables.iter().map(|(name, value)| format!("export {name}={}\n", quote(value))).collect()
}

/// For this node only, so that git goes on to trust other remotes by the machine's certificates and to ask its own
/// helpers for them. The empty helper takes away those that are configured elsewhere, the CLI's among them.
fn git_settings(authority: &str, ca: &str) -> [(String, String); 3] {
    let helper = format!("credential.https://{authority}.helper");
    [
        (format!("http.https://{authority}/.sslCAInfo"), ca.to_owned()),
        (helper.clone(), String::new()),
        (helper, GIT_HELPER.to_owned()),
    ]
}

/// Quotes for a POSIX shell.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_export_survives_a_shell() {
        let text = exports(&Facts {
            authority: "localhost:5080",
            api_key: "it's; $secret",
            ca: "/data folder/ca.crt",
            node_ca: "/data folder/ca.crt",
            git_ca: None,
            git_setting: 2,
            git_settings: 5,
        });
        let output = std::process::Command::new("sh")
            .args(["-c", "eval \"$1\"; printf '%s|' \"$HEROKU_API_KEY\" \"$GIT_CONFIG_COUNT\" \"$GIT_CONFIG_KEY_2\" \"$GIT_CONFIG_VALUE_2\"", "sh", &text])
            .output()
            .expect("sh runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "it's; $secret|5|http.https://localhost:5080/.sslCAInfo|/data folder/ca.crt|"
        );
        assert!(
            !text.contains("GIT_SSL_CAINFO"),
            "it would replace the machine's own certificates for every remote"
        );
    }
    #[test]
    fn git_gets_the_key_and_no_other_remote_does() {
        let text = exports(&Facts {
            authority: "localhost:5080",
            api_key: "HRKU-a-b",
            ca: "/ca.crt",
            node_ca: "/ca.crt",
            git_ca: None,
            git_setting: 0,
            git_settings: 3,
        });
        let ask = |host: &str| {
            let script = "eval \"$1\"; printf 'protocol=https\\nhost=%s\\n\\n' \"$2\" | GIT_TERMINAL_PROMPT=0 git credential fill 2>&1";
            let output = std::process::Command::new("sh").args(["-c", script, "sh", &text, host]).output();
            String::from_utf8_lossy(&output.expect("sh runs").stdout).into_owned()
        };
        let answer = ask("localhost:5080");
        assert!(answer.contains("username=heroku\npassword=HRKU-a-b\n"), "{answer}");
        let answer = ask("localhost:5081");
        assert!(!answer.contains("HRKU"), "{answer}");
    }
}
