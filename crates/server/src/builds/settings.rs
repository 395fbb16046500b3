//! What every build dyno is given of the node: its certificates, and the admin's settings for package indexes.
//!
//! In: `DIR/build/{env,pip.conf,.npmrc}` where the admin wrote them, else what the host itself uses (its pip.conf and
//! .npmrc, the proxy and index variables that the node was started with). Out: files for `/build/settings` inside the
//! build dyno, and variables that name them. That is what lets a build work behind a company's proxy or mirror.
//!
//! Invariant: nothing else of the node's environment reaches a build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the files are inside a build dyno.
pub const SETTINGS_DIR: &str = "/build/settings";

/// The host's bundle of trusted certificates, Debian's place.
const HOST_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Variables that programs of all kinds read the certificate bundle's place from.
const CERTIFICATE_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
];

/// Variables of the node's own environment that are passed on when the admin wrote no `env` file.
const HOST_VARIABLES: [&str; 25] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_HTTP_TIMEOUT",
    "UV_PYTHON_INSTALL_MIRROR",
    "NPM_CONFIG_REGISTRY",
    "npm_config_registry",
    "GOPROXY",
    "GONOPROXY",
    "GOPRIVATE",
    "GOSUMDB",
    "GONOSUMDB",
];

/// What a build dyno is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildSettings {
    pub variables: BTreeMap<String, String>,
    /// Files of the host by the name that they get in [`SETTINGS_DIR`].
    pub files: Vec<(&'static str, PathBuf)>,
}

impl BuildSettings {
    /// Reads the settings anew, so that the admin's changes count from the next build on.
    ///
    /// # Errors
    /// The admin's `env` file cannot be read, or has a line that is no `KEY=VALUE`.
    pub fn load(data: &Path) -> Result<Self, String> {
        let host: BTreeMap<String, String> = HOST_VARIABLES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        let home = std::env::var_os("HOME").map(PathBuf::from);
        Self::gather(&data.join("build"), host, home.as_deref(), Path::new("/etc"))
    }

    fn gather(
        folder: &Path,
        host: BTreeMap<String, String>,
        home: Option<&Path>,
        etc: &Path,
    ) -> Result<Self, String> {
        let mut settings = Self::default();
        let certificates = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from).filter(|path| path.is_file());
        let certificates = certificates.unwrap_or_else(|| PathBuf::from(HOST_CERTIFICATES));
        if certificates.is_file() {
            let place = format!("{SETTINGS_DIR}/ca-certificates.crt");
            for name in CERTIFICATE_VARIABLES {
                settings.variables.insert(name.to_owned(), place.clone());
            }
            settings.files.push(("ca-certificates.crt", certificates));
        }
        let in_home = |name: &str| home.map(|home| home.join(name));
        let pip = [
            Some(folder.join("pip.conf")),
            in_home(".config/pip/pip.conf"),
            in_home(".pip/pip.conf"),
            Some(etc.join("pip.conf")),
        ];
        settings.offer("pip.conf", "PIP_CONFIG_FILE", pip);
        let npm = [Some(folder.join(".npmrc")), in_home(".npmrc"), Some(etc.join("npmrc"))];
        settings.offer("npmrc", "NPM_CONFIG_USERCONFIG", npm);
        let env_file = folder.join("env");
        match std::fs::read_to_string(&env_file) {
            Ok(text) => settings.variables.extend(parse_env(&text, &env_file)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => settings.variables.extend(host),
            Err(error) => return Err(format!("cannot read {}: {error}", env_file.display())),
        }
        Ok(settings)
    }

    /// Takes the first of `places` that is there.
    fn offer<const N: usize>(&mut self, name: &'static str, variable: &str, places: [Option<PathBuf>; N]) {
        if let Some(path) = places.into_iter().flatten().find(|path| path.is_file()) {
            self.variables.insert(variable.to_owned(), format!("{SETTINGS_DIR}/{name}"));
            self.files.push((name, path));
        }
    }
}

/// `KEY=VALUE` lines; empty ones and those that begin with `#` say nothing.
fn parse_env(text: &str, path: &Path) -> Result<BTreeMap<String, String>, String> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| match line.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("line {number} of {} is not KEY=VALUE", path.display())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admins_settings_come_before_the_hosts() {
        let folder = tempfile::tempdir().expect("a folder");
        let (build, home, etc) =
            (folder.path().join("build"), folder.path().join("home"), folder.path().join("etc"));
        for path in [&build, &home, &etc] {
            std::fs::create_dir(path).expect("new");
        }
        let host = BTreeMap::from([("HTTP_PROXY".to_owned(), "http://host".to_owned())]);
        let bare = BuildSettings::gather(&build, host.clone(), Some(&home), &etc).expect("valid");
        assert_eq!(bare.variables.get("HTTP_PROXY").map(String::as_str), Some("http://host"));
        assert!(!bare.variables.contains_key("PIP_CONFIG_FILE"));

        std::fs::write(etc.join("pip.conf"), "").expect("written");
        std::fs::write(home.join(".npmrc"), "").expect("written");
        let hosts = BuildSettings::gather(&build, host.clone(), Some(&home), &etc).expect("valid");
        assert!(hosts.files.contains(&("pip.conf", etc.join("pip.conf"))));
        assert_eq!(hosts.variables["NPM_CONFIG_USERCONFIG"], "/build/settings/npmrc");

        std::fs::write(build.join("pip.conf"), "").expect("written");
        std::fs::write(build.join("env"), "# mirrors\nPIP_INDEX_URL=http://mirror/simple?a=b\n")
            .expect("written");
        let admins = BuildSettings::gather(&build, host.clone(), Some(&home), &etc).expect("valid");
        assert!(admins.files.contains(&("pip.conf", build.join("pip.conf"))));
        assert_eq!(admins.variables["PIP_INDEX_URL"], "http://mirror/simple?a=b");
        assert!(!admins.variables.contains_key("HTTP_PROXY"), "the file says it all");

        std::fs::write(build.join("env"), "A=1\nnonsense\n").expect("written");
        let error = BuildSettings::gather(&build, host, None, &etc).expect_err("a broken line");
        assert!(error.contains("line 2"), "{error}");
    }
}
