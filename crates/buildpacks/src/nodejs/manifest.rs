//! What `package.json` and the lock files say about how to build an app.
//!
//! Only what matters here is looked at; whatever has another type than npm expects counts as absent, as npm itself does.

use super::error::{NodeError, two_lock_files};
use super::manager::{Manager, YARN_BERRY_SINCE};
use crate::context::BuildContext;
use crate::error::BuildError;
use nodejs_semver::{Range, Version};
use serde_json::{Map, Value};
use std::fs;

/// Largest `package.json` that is read, in bytes; real ones have some kilobytes.
const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

/// Scripts of the app itself that package managers run while they install: what they do depends on the source, so that
/// an app with one of them is installed by every push.
const INSTALL_SCRIPTS: [&str; 6] =
    ["preinstall", "install", "postinstall", "prepublish", "prepare", "pnpm:devPreinstall"];

/// The app's `package.json`.
#[derive(Debug)]
pub struct Manifest {
    root: Map<String, Value>,
}

/// A version range and where it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub field: &'static str,
    pub text: String,
    pub range: Range,
}

impl Manifest {
    /// Reads the app's.
    ///
    /// # Errors
    /// It cannot be read, or is no JSON object.
    pub fn read(context: &BuildContext) -> Result<Self, BuildError> {
        let path = context.file("package.json");
        let fail = |error| BuildError::io("read", &path, error);
        if fs::metadata(&path).map_err(fail)?.len() > MAX_MANIFEST_BYTES {
            let reason = format!("It has more than {} MB.", MAX_MANIFEST_BYTES >> 20);
            return Err(NodeError::PackageJson { reason }.into());
        }
        Ok(Self::parse(&fs::read(&path).map_err(fail)?)?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, NodeError> {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match serde_json::from_slice(text) {
            Ok(Value::Object(root)) => Ok(Self { root }),
            Ok(_) => Err(NodeError::PackageJson { reason: "It is no object: { ... }.".to_owned() }),
            Err(error) => Err(NodeError::PackageJson { reason: error.to_string() }),
        }
    }

    /// The script of this name, if there is one.
    #[must_use]
    pub fn script(&self, name: &str) -> Option<&str> {
        self.root.get("scripts")?.get(name)?.as_str()
    }

    /// Whether the app's own scripts run when its packages are installed.
    #[must_use]
    pub fn has_install_scripts(&self) -> bool {
        INSTALL_SCRIPTS.iter().any(|name| self.script(name).is_some())
    }

    /// Whether the object `name` is there and has anything in it.
    #[must_use]
    pub fn has_any(&self, name: &str) -> bool {
        match self.root.get(name) {
            Some(Value::Object(object)) => !object.is_empty(),
            Some(Value::Array(array)) => !array.is_empty(),
            _ => false,
        }
    }

    /// Everything but what has no influence on which packages are installed, as text to compare.
    #[must_use]
    pub fn dependencies_text(&self) -> String {
        const WITHOUT_INFLUENCE: [&str; 14] = [
            "author",
            "bugs",
            "contributors",
            "description",
            "eslintConfig",
            "files",
            "funding",
            "homepage",
            "jest",
            "keywords",
            "license",
            "main",
            "repository",
            "scripts",
        ];
        let mut root = self.root.clone();
        WITHOUT_INFLUENCE.iter().for_each(|name| drop(root.remove(*name)));
        Value::Object(root).to_string()
    }

    /// Folders that the app wants to find again in its next build.
    #[must_use]
    pub fn cache_directories(&self) -> Vec<&str> {
        let named = ["cacheDirectories", "cache_directories"]
            .iter()
            .find_map(|name| self.root.get(*name)?.as_array());
        named.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The range in `engines`, if one is named there.
    ///
    /// # Errors
    /// It is no range.
    pub fn engine(&self, name: &str) -> Result<Option<Wanted>, NodeError> {
        let field = match name {
            "node" => "engines.node",
            "npm" => "engines.npm",
            "yarn" => "engines.yarn",
            _ => "engines.pnpm",
        };
        let found = self.root.get("engines").and_then(|engines| engines.get(name)).and_then(Value::as_str);
        let Some(text) = found.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
        // npm's own word for any version.
        let range = if text == "latest" { Ok(Range::any()) } else { Range::parse(text) };
        let range = range.map_err(|_| NodeError::BadRange { field, found: text.to_owned() })?;
        Ok(Some(Wanted { field, text: text.to_owned(), range }))
    }

    /// What `packageManager` names: `yarn@4.1.0`, with or without a digest after it.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn package_manager(&self) -> Result<Option<(&str, Version)>, NodeError> {
        let Some(text) = self.root.get("packageManager").and_then(Value::as_str) else { return Ok(None) };
        let bad = || NodeError::BadPackageManager { found: text.to_owned() };
        let (name, version) = text.split_once('@').ok_or_else(bad)?;
        let version = version.split('+').next().unwrap_or_default();
        match Version::parse(version) {
            Ok(version) if ["npm", "yarn", "pnpm"].contains(&name) => Ok(Some((name, version))),
            _ => Err(bad()),
        }
    }

    /// The version of a package manager that is asked for, in `engines` or, for the one that it names, `packageManager`.
    ///
    /// # Errors
    /// One of them is wrong.
    pub fn manager_version(&self, name: &str) -> Result<Option<Wanted>, NodeError> {
        if let Some(wanted) = self.engine(name)? {
            return Ok(Some(wanted));
        }
        Ok(self.package_manager()?.filter(|(named, _)| *named == name).and_then(|(_, version)| {
            let text = version.to_string();
            Some(Wanted { field: "packageManager", range: Range::parse(&text).ok()?, text })
        }))
    }

    /// Who installs the packages: by the lock file, else by `packageManager`, else npm.
    ///
    /// # Errors
    /// There are lock files of two, or `packageManager` is wrong.
    pub fn manager(&self, context: &BuildContext) -> Result<Manager, BuildError> {
        let npm_lock =
            if context.has_file("npm-shrinkwrap.json") { "npm-shrinkwrap.json" } else { "package-lock.json" };
        let found: Vec<_> = [(npm_lock, "npm"), ("yarn.lock", "yarn"), ("pnpm-lock.yaml", "pnpm")]
            .into_iter()
            .filter(|(file, _)| context.has_file(file))
            .collect();
        if found.len() > 1 {
            return Err(two_lock_files(&found).into());
        }
        let named = self.package_manager()?;
        let name = found.first().map(|(_, name)| *name).or(named.map(|(name, _)| name)).unwrap_or("npm");
        Ok(match name {
            "yarn" if self.is_berry(context)? => Manager::Berry,
            "yarn" => Manager::Yarn,
            "pnpm" => Manager::Pnpm,
            _ => Manager::Npm,
        })
    }

    /// Whether this is yarn 2 or newer: by its settings file, or by the version that is asked for.
    fn is_berry(&self, context: &BuildContext) -> Result<bool, NodeError> {
        let named = self.manager_version("yarn")?;
        let oldest = named.and_then(|wanted| wanted.range.min_version());
        Ok(context.has_file(".yarnrc.yml")
            || oldest.is_some_and(|version| version.major() >= YARN_BERRY_SINCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> Manifest {
        Manifest::parse(text.as_bytes()).expect("valid")
    }

    #[test]
    fn reads_what_matters_and_passes_over_wrong_types() {
        let odd =
            manifest("\u{feff}{\"scripts\": [1], \"engines\": \"20\", \"devDependencies\": {}, \"main\": 3}");
        assert_eq!((odd.script("start"), odd.engine("node").expect("none")), (None, None));
        assert!(!odd.has_any("devDependencies") && !odd.has_install_scripts());
        let full = manifest(
            r#"{"scripts": {"start": "node .", "postinstall": "x"}, "engines": {"node": " >=18 <21 || 22.x "},
                "packageManager": "pnpm@9.1.2+sha512.abc", "cacheDirectories": ["a", 1, "b/c"]}"#,
        );
        assert_eq!(full.script("start"), Some("node ."));
        assert!(full.has_install_scripts());
        let node = full.engine("node").expect("valid").expect("named");
        let fits = |version: &str| node.range.satisfies(&Version::parse(version).expect("valid"));
        assert_eq!(["18.1.0", "21.0.0", "22.20.0"].map(fits), [true, false, true]);
        assert_eq!(
            full.manager_version("pnpm").expect("valid").map(|wanted| wanted.text),
            Some("9.1.2".to_owned())
        );
        assert_eq!(full.manager_version("npm").expect("valid"), None);
        assert_eq!(full.cache_directories(), ["a", "b/c"]);
    }

    #[test]
    fn says_what_is_wrong() {
        let message = |text: &str| Manifest::parse(text.as_bytes()).expect_err("wrong").to_string();
        assert!(message("{\"name\": \"x\",}").contains("trailing comma at line 1"));
        assert!(message("[]").contains("no object"));
        let bad = manifest(r#"{"engines": {"node": "twenty"}, "packageManager": "bun@1.0.0"}"#);
        assert!(
            bad.engine("node").expect_err("no range").to_string().contains("engines.node in package.json")
        );
        assert!(bad.package_manager().expect_err("unknown").to_string().contains("'bun@1.0.0'"));
    }

    #[test]
    fn scripts_do_not_change_what_is_installed() {
        let of = |text: &str| manifest(text).dependencies_text();
        assert_eq!(
            of(r#"{"scripts": {"a": "b"}, "dependencies": {"x": "1"}}"#),
            of(r#"{"dependencies": {"x": "1"}}"#)
        );
        assert_ne!(of(r#"{"overrides": {"x": "1"}}"#), of(r#"{"overrides": {"x": "2"}}"#));
    }
}
