//! The built-in buildpack `heroku/nodejs`.
//!
//! In: an app with a `package.json` and, as a rule, a lock file of npm, yarn or pnpm. Out: `node_modules` without
//! devDependencies, what the app's build script made, `.heroku/node` with the programs, `.profile.d/nodejs.sh`.
//! Messages, order of steps, variables and defaults follow Heroku's heroku-buildpack-nodejs.

mod directories;
pub mod error;
pub mod manager;
pub mod manifest;
pub mod modules;
pub mod runtime;
pub mod toolbox;

use crate::command::{self, command};
use crate::context::{BuildContext, Environment};
use crate::error::BuildError;
use crate::files::{create_folder, delete};
use crate::output::DETAIL;
use crate::python::index::STACK_CERTIFICATES;
use crate::{Buildpack, Detection, ReleaseInfo};
use error::NodeError;
use manager::Manager;
use manifest::Manifest;
use modules::{MODULES, Modules};
use runtime::Runtime;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use toolbox::Toolbox;

/// Where Node.js and npm are, in the build folder and below `/app`.
pub const HOME: &str = ".heroku/node";

/// Where yarn or pnpm are, each in a folder of its name.
pub const MANAGER_HOME: &str = ".heroku";

/// Folder of this buildpack inside the cache folder.
const CACHE: &str = "ferroku-node";

/// What dynos source at their start.
const PROFILE: &str = include_str!("profile.sh");

/// Default values of variables, as on Heroku.
const DEFAULTS: [(&str, &str); 4] = [
    ("NPM_CONFIG_LOGLEVEL", "error"),
    ("NODE_VERBOSE", "false"),
    ("NODE_ENV", "production"),
    ("NODE_MODULES_CACHE", "true"),
];

/// Variables that are shown, if they are set; others may hold secrets.
const SHOWN: [&str; 9] = [
    "NPM_CONFIG_LOGLEVEL",
    "NPM_CONFIG_PRODUCTION",
    "YARN_PRODUCTION",
    "YARN2_SKIP_PRUNING",
    "PNPM_SKIP_PRUNING",
    "NODE_VERBOSE",
    "NODE_ENV",
    "NODE_BUILD_FLAGS",
    "NODE_MODULES_CACHE",
];

/// Largest heap of a process of the build, in MB, where the memory of the build dyno is not known: Heroku's number.
const DEFAULT_HEAP_MB: u64 = 2560;

/// The buildpack.
pub struct NodeJs;

impl Buildpack for NodeJs {
    fn detect(&self, context: &BuildContext) -> Result<Detection, BuildError> {
        if context.has_file("package.json") {
            return Ok(Detection::Passed { name: "Node.js".to_owned() });
        }
        let help = "Error: Your app is configured to use the Node.js buildpack,\nbut it has no 'package.json'.\n\nA Node.js app must have a 'package.json' at the root of its\nsource code. Check that the file is there, that its name is\nspelt right, and that neither '.gitignore' nor '.slugignore'\nnames it.";
        Ok(Detection::Failed { help: help.lines().map(str::to_owned).collect() })
    }

    fn compile(&self, context: &mut BuildContext) -> Result<(), BuildError> {
        let manifest = Manifest::read(context)?;
        let manager = manifest.manager(context)?;
        let cache = context.plan.cache_dir.join(CACHE);
        let uses_cache = !["false", "0"].contains(&setting(context, "NODE_MODULES_CACHE", "true")?.as_str());
        if !uses_cache {
            delete(&cache)?;
        }
        create_folder(&cache)?;
        show_environment(context)?;
        if Path::new(STACK_CERTIFICATES).is_file() {
            context
                .environment
                .entry("NODE_EXTRA_CA_CERTS".into())
                .or_insert_with(|| STACK_CERTIFICATES.into());
        }
        context.output.step("Installing binaries");
        let runtime = context.timed("node.runtime", |context| {
            let mut toolbox = Toolbox::new(context, &cache)?;
            let runtime = Runtime::choose(context, &manifest, manager, &mut toolbox)?;
            runtime.install(context, manager)?;
            toolbox.forget_others()?;
            Ok::<_, BuildError>(runtime)
        })?;
        export(context, manager);
        let signature = runtime.signature(&context.plan.stack);
        let environment = environment(context, manager, &cache)?;
        let mut build = Build { context, manifest, manager, environment, cache };
        build.run(signature, uses_cache)?;
        build.context.write_profile("nodejs", PROFILE)
    }

    fn release(&self, context: &BuildContext) -> Result<ReleaseInfo, BuildError> {
        let mut info = ReleaseInfo::default();
        if has_start(context, &Manifest::read(context)?) {
            info.default_process_types.insert("web".to_owned(), "npm start".to_owned());
        }
        Ok(info)
    }
}

/// The steps that run programs of the app.
struct Build<'a> {
    context: &'a mut BuildContext,
    manifest: Manifest,
    manager: Manager,
    environment: Environment,
    cache: PathBuf,
}

impl Build<'_> {
    fn run(&mut self, signature: String, uses_cache: bool) -> Result<(), BuildError> {
        self.script_step("Prebuild", "heroku-prebuild")?;
        let skipped = self.why_not_prune();
        let mut modules = match uses_cache {
            true => Modules::new(self.context, &self.manifest, self.manager, signature, skipped.is_none())?,
            false => Modules::always_new(self.context),
        };
        let started = std::time::Instant::now();
        self.install(&mut modules)?;
        self.note("node.dependencies", started);
        let started = std::time::Instant::now();
        self.build()?;
        self.note("node.build", started);
        self.save_directories()?;
        let started = std::time::Instant::now();
        self.prune(&mut modules, skipped)?;
        self.script_step("Cleanup", "heroku-cleanup")?;
        modules.finish(self.context.buildpacks_to_come > 0)?;
        self.note("node.prune", started);
        self.context.output.step("Build succeeded!");
        let procfile = fs::read_to_string(self.context.file("Procfile")).unwrap_or_default();
        if !procfile.lines().any(|line| line.starts_with("web:")) && !has_start(self.context, &self.manifest)
        {
            self.context.output.error("This app may not specify any way to start a node process.\nAdd a script named start to package.json, or a Procfile with a line such as\n\n    web: node index.js");
        }
        Ok(())
    }

    fn note(&mut self, name: &str, started: std::time::Instant) {
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        *self.context.timings_ms.entry(name.to_owned()).or_default() += elapsed_ms;
    }

    fn install(&mut self, modules: &mut Modules) -> Result<(), BuildError> {
        let restored = modules.restore(self.context)?;
        let names = self.manifest.cache_directories();
        if !names.is_empty() {
            self.context.output.step("Restoring cache directories");
            directories::restore(self.context, &names, &self.cache.join("directories"))?;
        }
        let output = self.context.output.clone();
        output.step("Installing dependencies");
        let lock_file = self.manager.lock_file(self.context);
        if restored {
            let lock_file = lock_file.unwrap_or_default();
            output
                .detail(&format!("{lock_file} has not changed: all packages are taken from the last build."));
            return Ok(());
        }
        let is_checked_in = self.manager == Manager::Npm && self.context.file(MODULES).is_dir();
        match (self.manager, lock_file) {
            (Manager::Npm, _) if is_checked_in => {
                output.detail("node_modules is checked into git. See https://devcenter.heroku.com/articles/node-best-practices");
                output.detail("Rebuilding any native modules");
                self.step("npm rebuild", &["rebuild"])?;
                output.detail("Installing any new modules");
            }
            (Manager::Npm, Some(_)) => output.detail("Installing node modules"),
            (Manager::Npm, None) => output.detail("Installing node modules (package.json)"),
            (Manager::Yarn, _) => output.detail("Installing node modules (yarn.lock)"),
            (Manager::Berry, _) => output.detail("Running 'yarn install' with yarn.lock"),
            (Manager::Pnpm, _) => output.detail("Running 'pnpm install' with pnpm-lock.yaml"),
        }
        let production = ["NPM_CONFIG_PRODUCTION", "YARN_PRODUCTION"].iter().any(|name| {
            let is_npms = name.starts_with("NPM");
            (is_npms == (self.manager == Manager::Npm))
                && self.variable(name).is_some_and(|value| value == "true")
        });
        let words = self.manager.install(lock_file.is_some() && !is_checked_in, production);
        let mut install = command(self.manager.name(), &self.environment, self.context.build_dir());
        install.args(words);
        let (status, tail) = command::run_and_remember(install, &output, DETAIL)
            .map_err(|source| NodeError::Start { step: self.manager.name().to_owned(), source })?;
        if !status.success() {
            let manager = self.manager;
            return Err(match lock_file {
                Some(lock_file) if manager.says_outdated_lock(&tail) => {
                    NodeError::OutdatedLock { lock_file, command: manager.lock_command() }
                }
                _ => NodeError::Install { manager: manager.name(), status: command::describe(status) },
            }
            .into());
        }
        modules.installed()
    }

    fn build(&mut self) -> Result<(), BuildError> {
        let output = self.context.output.clone();
        output.step("Build");
        let has = |name| self.manifest.script(name).is_some_and(|script| !script.is_empty());
        match (has("heroku-postbuild"), has("build")) {
            (true, both) => {
                if both {
                    output.detail("Detected both \"build\" and \"heroku-postbuild\" scripts");
                }
                self.script("heroku-postbuild", None)
            }
            (false, true) => {
                let flags = self.variable("NODE_BUILD_FLAGS").map(OsStr::to_owned);
                self.script("build", flags.filter(|flags| !flags.is_empty()))
            }
            (false, false) => Ok(()),
        }
    }

    fn save_directories(&self) -> Result<(), BuildError> {
        let names = self.manifest.cache_directories();
        if !names.is_empty() {
            self.context.output.step("Caching build");
            directories::save(self.context, &names, &self.cache.join("directories"))?;
        }
        Ok(())
    }

    fn prune(&mut self, modules: &mut Modules, skipped: Option<String>) -> Result<(), BuildError> {
        let output = self.context.output.clone();
        output.step("Pruning devDependencies");
        let swapped = modules.swap()?;
        if let Some(reason) = skipped {
            output.detail(&format!("Skipping because {reason}"));
            return Ok(());
        }
        if swapped {
            output.detail("Taken out as by the last build.");
            return Ok(());
        }
        let name = match self.manager {
            Manager::Npm => "npm prune",
            Manager::Yarn => "yarn install --production",
            Manager::Berry => "yarn workspaces focus --production",
            Manager::Pnpm => "pnpm prune",
        };
        self.step(name, self.manager.prune())?;
        modules.pruned()
    }

    /// Heroku's reasons for leaving devDependencies in the slug, and that there are none.
    fn why_not_prune(&self) -> Option<String> {
        let value = |name: &str| self.variable(name).map(|value| value.to_string_lossy().into_owned());
        let is = |name: &str, wanted: &str| value(name).filter(|value| value == wanted);
        let because = |name: &str, value: String| format!("{name} is '{value}'");
        match value("NODE_ENV") {
            Some(environment) if environment == "test" => return Some("NODE_ENV is 'test'".to_owned()),
            Some(environment) if environment != "production" => {
                return Some("NODE_ENV is not 'production'".to_owned());
            }
            _ => {}
        }
        if !self.manifest.has_any("devDependencies") && !self.manifest.has_any("workspaces") {
            return Some("there are none".to_owned());
        }
        match self.manager {
            Manager::Npm => {
                value("NPM_CONFIG_PRODUCTION").map(|value| because("NPM_CONFIG_PRODUCTION", value))
            }
            Manager::Yarn => value("YARN_PRODUCTION").map(|value| because("YARN_PRODUCTION", value)),
            Manager::Berry => {
                value("YARN_PRODUCTION").map(|value| because("YARN_PRODUCTION", value)).or_else(|| {
                    is("YARN2_SKIP_PRUNING", "true").map(|value| because("YARN2_SKIP_PRUNING", value))
                })
            }
            Manager::Pnpm if self.context.has_file("pnpm-workspace.yaml") => {
                Some("pnpm cannot do it in a workspace".to_owned())
            }
            Manager::Pnpm => is("PNPM_SKIP_PRUNING", "true").map(|value| because("PNPM_SKIP_PRUNING", value)),
        }
    }

    fn script_step(&mut self, title: &str, name: &str) -> Result<(), BuildError> {
        if self.manifest.script(name).is_none_or(str::is_empty) {
            return Ok(());
        }
        self.context.output.step(title);
        self.script(name, None)
    }

    fn script(&self, name: &str, flags: Option<OsString>) -> Result<(), BuildError> {
        let output = &self.context.output;
        let is_yarn = matches!(self.manager, Manager::Yarn | Manager::Berry);
        output.detail(&format!("Running {name}{}", if is_yarn { " (yarn)" } else { "" }));
        let program = self.manager.name();
        let mut run = command(program, &self.environment, self.context.build_dir());
        run.args(self.manager.run(name, flags));
        let status = command::run(run, output, DETAIL)
            .map_err(|source| NodeError::Start { step: format!("{program} run {name}"), source })?;
        match status.success() {
            true => Ok(()),
            false => Err(NodeError::Script {
                script: name.to_owned(),
                status: command::describe(status),
                command: format!("{program} run {name}"),
            }
            .into()),
        }
    }

    fn step(&self, name: &'static str, words: &[&str]) -> Result<(), BuildError> {
        let mut step = command(self.manager.name(), &self.environment, self.context.build_dir());
        step.args(words);
        let status = command::run(step, &self.context.output, DETAIL)
            .map_err(|source| NodeError::Start { step: name.to_owned(), source })?;
        match status.success() {
            true => Ok(()),
            false => Err(NodeError::Step { step: name, status: command::describe(status) }.into()),
        }
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.get(OsStr::new(name)).map(OsString::as_os_str)
    }
}

/// A config var, or its default.
fn setting(context: &BuildContext, name: &str, default: &str) -> Result<String, BuildError> {
    let value = context.config_var(name)?.map(|value| value.to_string_lossy().into_owned());
    Ok(value.filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned()))
}

fn show_environment(context: &BuildContext) -> Result<(), BuildError> {
    context.output.step("Creating runtime environment");
    context.output.line("");
    for name in SHOWN {
        let default = DEFAULTS.iter().find(|(named, _)| *named == name).map_or("", |(_, value)| value);
        let value = setting(context, name, default)?;
        if !value.is_empty() {
            context.output.detail(&format!("{name}={value}"));
        }
    }
    context.output.line("");
    Ok(())
}

/// The environment of the app's own programs: its config vars, Heroku's defaults, and where caches are.
fn environment(context: &BuildContext, manager: Manager, cache: &Path) -> Result<Environment, BuildError> {
    let mut environment = context.app_environment()?;
    for (name, value) in DEFAULTS {
        environment.entry(name.into()).or_insert_with(|| value.into());
    }
    manager::name_registry(&mut environment);
    manager::settle(&mut environment, cache, manager, manager::uses_node_modules(manager, context));
    Ok(environment)
}

/// What following buildpacks find: the programs, and the app's own commands after all others.
fn export(context: &mut BuildContext, manager: Manager) {
    let (home, modules) = (context.file(HOME), context.file(MODULES).join(".bin"));
    let manager = context.file(MANAGER_HOME).join(manager.name()).join("bin");
    let (has_manager, bin) = (manager.is_dir(), home.join("bin"));
    if has_manager {
        context.prepend_path(&manager);
    }
    context.prepend_path(&bin);
    let mut path = context.environment.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    path.push(":");
    path.push(&modules);
    context.environment.insert("PATH".into(), path);
    context.environment.insert("NODE_HOME".into(), home.into());
    let heap_mb = context.plan.memory_bytes.map_or(DEFAULT_HEAP_MB, |bytes| bytes / (1024 * 1024));
    let options = format!("--max_old_space_size={heap_mb}");
    context.environment.entry("NODE_OPTIONS".into()).or_insert_with(|| options.into());
}

fn has_start(context: &BuildContext, manifest: &Manifest) -> bool {
    manifest.script("start").is_some_and(|script| !script.is_empty()) || context.has_file("server.js")
}
