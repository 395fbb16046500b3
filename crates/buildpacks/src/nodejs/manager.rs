//! npm, yarn (classic, and 2 or newer, called berry) and pnpm: how each installs, prunes and runs scripts.
//!
//! Options are those of Heroku's buildpack: exactly what the lock file says, or an error; with devDependencies, which are
//! taken out again after the build script.

use crate::context::{BuildContext, Environment};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

/// First major version of yarn that works in the new way.
pub const YARN_BERRY_SINCE: u64 = 2;

/// pnpm by the format of its lock file, as its releases write it.
const PNPM_FOR_LOCK: [(&str, &str); 3] = [("5.", "7.x"), ("6.", "8.x"), ("9.", "10.x")];

/// Who installs the packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    Npm,
    Yarn,
    Berry,
    Pnpm,
}

impl Manager {
    /// The program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Yarn | Self::Berry => "yarn",
            Self::Pnpm => "pnpm",
        }
    }

    /// The lock file, if the app has one.
    #[must_use]
    pub fn lock_file(self, context: &BuildContext) -> Option<&'static str> {
        let names: &[&'static str] = match self {
            Self::Npm => &["npm-shrinkwrap.json", "package-lock.json"],
            Self::Yarn | Self::Berry => &["yarn.lock"],
            Self::Pnpm => &["pnpm-lock.yaml"],
        };
        names.iter().copied().find(|name| context.has_file(name))
    }

    /// How a user writes the lock file anew.
    #[must_use]
    pub fn lock_command(self) -> &'static str {
        match self {
            Self::Npm => "npm install",
            Self::Yarn | Self::Berry => "yarn install",
            Self::Pnpm => "pnpm install",
        }
    }

    /// Arguments that install what the lock file says; with devDependencies unless `production`.
    #[must_use]
    pub fn install(self, has_lock: bool, production: bool) -> Vec<&'static str> {
        let dev = |yes: &'static str, no: &'static str| if production { no } else { yes };
        match self {
            Self::Npm => vec![if has_lock { "ci" } else { "install" }, dev("--include=dev", "--omit=dev")],
            Self::Yarn => {
                let production = dev("--production=false", "--production=true");
                let mut words = vec!["install", production, "--ignore-engines", "--prefer-offline"];
                words.extend(has_lock.then_some("--frozen-lockfile"));
                words
            }
            Self::Berry if has_lock => vec!["install", "--immutable"],
            Self::Berry => vec!["install", "--no-immutable"],
            Self::Pnpm => {
                let frozen = if has_lock { "--frozen-lockfile" } else { "--no-frozen-lockfile" };
                vec!["install", dev("--no-prod", "--prod"), frozen, "--package-import-method=copy"]
            }
        }
    }

    /// Arguments that take devDependencies out again.
    #[must_use]
    pub fn prune(self) -> &'static [&'static str] {
        match self {
            Self::Npm => &["prune", "--omit=dev"],
            Self::Yarn => &[
                "install",
                "--production=true",
                "--frozen-lockfile",
                "--ignore-engines",
                "--ignore-scripts",
                "--prefer-offline",
            ],
            Self::Berry => &["workspaces", "focus", "--all", "--production"],
            Self::Pnpm => &["prune", "--prod", "--ignore-scripts"],
        }
    }

    /// Arguments that run the script `name`, with `flags` for the script itself.
    #[must_use]
    pub fn run(self, name: &str, flags: Option<OsString>) -> Vec<OsString> {
        let mut words = vec![OsString::from("run"), OsString::from(name)];
        if let Some(flags) = flags {
            words.extend((self == Self::Npm || self == Self::Pnpm).then(|| OsString::from("--")));
            words.push(flags);
        }
        words
    }

    /// Whether what `install` printed at its end says that the lock file does not fit `package.json`.
    #[must_use]
    pub fn says_outdated_lock(self, tail: &str) -> bool {
        let signs: &[&str] = match self {
            Self::Npm => &["can only install packages when your package.json and"],
            Self::Yarn => &["Your lockfile needs to be updated"],
            Self::Berry => &["YN0028"],
            Self::Pnpm => &["ERR_PNPM_OUTDATED_LOCKFILE", "\"frozen-lockfile\" installation"],
        };
        signs.iter().any(|sign| tail.contains(sign))
    }
}

/// Which pnpm reads the app's lock file.
#[must_use]
pub fn pnpm_for_lock(context: &BuildContext) -> &'static str {
    let text = fs::read_to_string(context.file("pnpm-lock.yaml")).unwrap_or_default();
    let version = text.lines().find_map(|line| line.strip_prefix("lockfileVersion:")).unwrap_or_default();
    let version = version.trim().trim_matches(['\'', '"']);
    PNPM_FOR_LOCK.iter().find(|(format, _)| version.starts_with(format)).map_or("10.x", |(_, pnpm)| pnpm)
}

/// Whether packages go to `node_modules`; yarn 2 and newer have another way, and it is their default.
#[must_use]
pub fn uses_node_modules(manager: Manager, context: &BuildContext) -> bool {
    let settings = || fs::read_to_string(context.file(".yarnrc.yml")).unwrap_or_default();
    manager != Manager::Berry
        || settings().lines().any(|line| {
            line.strip_prefix("nodeLinker:").is_some_and(|value| {
                ["node-modules", "pnpm"].contains(&value.trim().trim_matches(['\'', '"']))
            })
        })
}

/// Sets where each keeps what it has downloaded, and what they are to leave alone.
pub fn settle(environment: &mut Environment, cache: &Path, manager: Manager, node_modules: bool) {
    let mut set = |name: &str, value: OsString| drop(environment.insert(name.into(), value));
    set("npm_config_cache", cache.join("npm").into());
    set("YARN_CACHE_FOLDER", cache.join("yarn").into());
    set("npm_config_store_dir", cache.join("pnpm").into());
    // Their settings, states and histories: not into the slug, not into a home that may not be written.
    for name in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "PNPM_HOME"] {
        set(name, cache.join("home").into());
    }
    for name in ["npm_config_audit", "npm_config_fund", "npm_config_update_notifier"] {
        set(name, "false".into());
    }
    if manager == Manager::Berry {
        environment.remove(OsStr::new("YARN_CACHE_FOLDER"));
        let mut set = |name: &str, value: OsString| drop(environment.insert(name.into(), value));
        set("YARN_GLOBAL_FOLDER", cache.join("berry").into());
        // Without node_modules the archives themselves are what runs.
        set("YARN_ENABLE_GLOBAL_CACHE", if node_modules { "true" } else { "false" }.into());
        set("YARN_ENABLE_TELEMETRY", "false".into());
        set("YARN_ENABLE_PROGRESS_BARS", "false".into());
    }
}

/// Says npm's registry to yarn, which does not read npm's settings in all its versions.
pub fn name_registry(environment: &mut Environment) {
    let value = |name: &str| environment.get(OsStr::new(name)).cloned();
    let in_file = || {
        let home = value("HOME").map(|home| Path::new(&home).join(".npmrc").into_os_string());
        let files = [value("NPM_CONFIG_USERCONFIG"), home, Some("/etc/npmrc".into())];
        files.into_iter().flatten().find_map(|path| {
            let text = fs::read_to_string(Path::new(&path)).ok()?;
            let line = text
                .lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| name.trim() == "registry")?;
            Some(OsString::from(line.1.trim()))
        })
    };
    let registry = value("NPM_CONFIG_REGISTRY").or_else(|| value("npm_config_registry")).or_else(in_file);
    if let Some(registry) = registry {
        environment.entry("YARN_NPM_REGISTRY_SERVER".into()).or_insert_with(|| registry.clone());
        environment.entry("YARN_REGISTRY".into()).or_insert(registry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_gets_the_registry_of_npms_settings() {
        let folder = tempfile::tempdir().expect("tempdir");
        let npmrc = folder.path().join("npmrc");
        fs::write(&npmrc, "cafile=/c.pem\n//mirror/:_authToken=x\nregistry = https://mirror/npm/\n")
            .expect("write");
        let check = |variables: &[(&str, &str)], expected: Option<&str>| {
            let mut environment: Environment = variables.iter().map(|(k, v)| (k.into(), v.into())).collect();
            name_registry(&mut environment);
            let found =
                environment.get(OsStr::new("YARN_NPM_REGISTRY_SERVER")).map(|value| value.to_string_lossy());
            assert_eq!(found.as_deref(), expected);
        };
        let npmrc = npmrc.to_str().expect("UTF-8");
        check(&[("NPM_CONFIG_USERCONFIG", npmrc)], Some("https://mirror/npm/"));
        check(&[("NPM_CONFIG_USERCONFIG", npmrc), ("NPM_CONFIG_REGISTRY", "https://b")], Some("https://b"));
        check(
            &[("NPM_CONFIG_REGISTRY", "https://b"), ("YARN_NPM_REGISTRY_SERVER", "https://c")],
            Some("https://c"),
        );
    }

    #[test]
    fn flags_go_to_the_script() {
        let words = |manager: Manager| manager.run("build", Some("--prod".into())).join(OsStr::new(" "));
        assert_eq!([Manager::Npm, Manager::Yarn].map(words), ["run build -- --prod", "run build --prod"]);
    }
}
