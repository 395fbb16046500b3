//! Installs the app's packages into `.heroku/python`, a virtual environment that works in the build folder and at `/app`.
//!
//! What was installed from unchanged requirements is used again when the node has put a spare tree (see
//! [`crate::spare`]) into the build folder.

use super::error::PythonError;
use super::runtime::Runtime;
use super::uv::Uv;
use super::{ENVIRONMENT, requirements};
use crate::command::{self, command};
use crate::context::{APP_DIR, BuildContext};
use crate::error::BuildError;
use crate::files::{self, copy_tree, delete};
use crate::spare;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Raised when the layout of the tree changes: older spare trees are then not used.
const LAYOUT: u32 = 1;

/// Folder of a downloaded Python inside the environment.
const RUNTIME: &str = "runtime";

/// What a tree was made from; stands in its marker file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Installed {
    layout: u32,
    stack: String,
    python: String,
    /// Fingerprint of the requirements.
    requirements: String,
}

/// Makes `.heroku/python`.
///
/// # Errors
/// The packages cannot be installed.
pub fn install(context: &BuildContext, stack: &Runtime, runtime: &Runtime) -> Result<(), BuildError> {
    let environment = context.file(ENVIRONMENT);
    delete(&environment)?;
    let wanted = requirements::fingerprint(context.build_dir()).map(|requirements| Installed {
        layout: LAYOUT,
        stack: context.plan.stack.clone(),
        python: runtime.version.to_string(),
        requirements,
    });
    let restored = restore(context, wanted.as_ref(), &environment)?;
    if restored {
        if runtime.copy_from.is_some() {
            set_home(&environment, &environment.join(RUNTIME).join("bin"))?;
        }
        context.output.step("Installing dependencies using 'uv pip install -r requirements.txt'");
        context
            .output
            .detail("requirements.txt has not changed: all packages are taken from the last build.");
        return Ok(());
    }
    let uv = Uv::obtain(context, stack)?;
    create(context, &uv, runtime, &environment)?;
    install_packages(context, &uv, runtime, &environment)?;
    mark(&environment, wanted.as_ref())
}

/// Makes what was built good for `/app`, and forgets the marker where later steps may have changed the tree.
///
/// # Errors
/// A file cannot be written.
pub fn finish(context: &BuildContext, runtime: &Runtime, changed_later: bool) -> Result<(), BuildError> {
    let environment = context.file(ENVIRONMENT);
    // uv's own lock, writable by everybody.
    delete(&environment.join(".lock"))?;
    if changed_later {
        delete(&environment.join(spare::MARKER))?;
    }
    if runtime.copy_from.is_some() {
        set_home(&environment, &Path::new(APP_DIR).join(ENVIRONMENT).join(RUNTIME).join("bin"))?;
    }
    move_editable_packages(context, &site_packages(context, runtime))
}

/// Where packages are below the build folder.
#[must_use]
pub fn site_packages(context: &BuildContext, runtime: &Runtime) -> PathBuf {
    context.file(ENVIRONMENT).join(format!("lib/python{}/site-packages", runtime.version.series()))
}

fn restore(
    context: &BuildContext,
    wanted: Option<&Installed>,
    environment: &Path,
) -> Result<bool, BuildError> {
    let placed = context.file(spare::PLACED).join(spare::PYTHON);
    let Ok(text) = fs::read(placed.join(spare::MARKER)) else { return Ok(false) };
    let found: Option<Installed> = serde_json::from_slice(&text).ok();
    if let (Some(wanted), Some(found)) = (wanted, &found)
        && wanted == found
    {
        context.output.step("Restoring cache");
        let parent = environment.parent().unwrap_or(environment);
        fs::create_dir_all(parent).map_err(|error| BuildError::io("create", parent, error))?;
        fs::rename(&placed, environment)
            .map_err(|error| BuildError::io("restore the packages to", environment, error))?;
        return Ok(true);
    }
    context.output.step("Discarding cache since:");
    let reason = match (wanted, found) {
        (Some(wanted), Some(found)) if wanted.stack != found.stack => {
            format!("The stack has changed from {} to {}", found.stack, wanted.stack)
        }
        (Some(wanted), Some(found)) if wanted.python != found.python => {
            format!("The Python version has changed from {} to {}", found.python, wanted.python)
        }
        (Some(wanted), Some(found)) if wanted.requirements != found.requirements => {
            "The contents of requirements.txt changed".to_owned()
        }
        (None, _) => "requirements.txt names packages of the app's own source".to_owned(),
        _ => "The buildpack has changed".to_owned(),
    };
    context.output.detail(&format!("- {reason}"));
    Ok(false)
}

fn create(context: &BuildContext, uv: &Uv, runtime: &Runtime, environment: &Path) -> Result<(), BuildError> {
    // --relocatable: scripts find their Python beside them, in the build folder and at /app.
    let mut venv = command(uv.program(), &uv.environment(context)?, context.build_dir());
    venv.args(["venv", "--quiet", "--relocatable", "--no-project", "--python"])
        .arg(&runtime.executable)
        .arg(environment);
    let (status, _) = command::run_and_remember(venv, &context.output, crate::output::DETAIL)
        .map_err(|source| PythonError::Start { step: "uv venv", source })?;
    if !status.success() {
        return Err(
            PythonError::Install { python: runtime.version, status: command::describe(status) }.into()
        );
    }
    let Some(source) = &runtime.copy_from else { return Ok(()) };
    context.output.step(&format!("Installing Python {}", runtime.version));
    let target = environment.join(RUNTIME);
    // Without its own tests, a quarter of it.
    copy_tree(source, &target, |entry| !(entry.file_name() == "test" && entry.depth() == 3))?;
    let link = environment.join("bin/python");
    let relative =
        Path::new("..").join(RUNTIME).join("bin").join(format!("python{}", runtime.version.series()));
    files::link(&relative, &link)?;
    set_home(environment, &target.join("bin"))
}

fn install_packages(
    context: &BuildContext,
    uv: &Uv,
    runtime: &Runtime,
    environment: &Path,
) -> Result<(), BuildError> {
    context.output.step("Installing dependencies using 'uv pip install -r requirements.txt'");
    let mut install = command(uv.program(), &uv.environment(context)?, context.build_dir());
    install.args(["pip", "install", "--compile-bytecode", "--no-python-downloads", "--python"]);
    install.arg(environment.join("bin/python")).args(["-r", "requirements.txt"]);
    let status = command::run(install, &context.output, crate::output::DETAIL)
        .map_err(|source| PythonError::Start { step: "uv pip install", source })?;
    match status.success() {
        true => Ok(()),
        false => {
            Err(PythonError::Install { python: runtime.version, status: command::describe(status) }.into())
        }
    }
}

fn mark(environment: &Path, installed: Option<&Installed>) -> Result<(), BuildError> {
    let Some(installed) = installed else { return Ok(()) };
    let path = environment.join(spare::MARKER);
    let json = serde_json::to_vec(installed)
        .map_err(|error| BuildError::io("write", &path, io::Error::other(error)))?;
    fs::write(&path, json).map_err(|error| BuildError::io("write", &path, error))
}

/// Says in pyvenv.cfg where the Python of the environment is: that must be an absolute path.
fn set_home(environment: &Path, home: &Path) -> Result<(), BuildError> {
    let path = environment.join("pyvenv.cfg");
    let text = fs::read_to_string(&path).map_err(|error| BuildError::io("read", &path, error))?;
    let lines = text.lines().map(|line| match line.starts_with("home =") {
        true => format!("home = {}\n", home.display()),
        false => format!("{line}\n"),
    });
    fs::write(&path, lines.collect::<String>()).map_err(|error| BuildError::io("write", &path, error))
}

/// Packages installed with `-e` are named by their path in the build folder; at run time that is `/app`.
fn move_editable_packages(context: &BuildContext, site_packages: &Path) -> Result<(), BuildError> {
    let from = context.build_dir().to_string_lossy().into_owned();
    for entry in fs::read_dir(site_packages).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !(name.ends_with(".pth") || name.starts_with("__editable__")) || !entry.path().is_file() {
            continue;
        }
        let path = entry.path();
        let text = fs::read_to_string(&path).map_err(|error| BuildError::io("read", &path, error))?;
        if text.contains(&from) {
            fs::write(&path, text.replace(&from, APP_DIR))
                .map_err(|error| BuildError::io("write", &path, error))?;
        }
    }
    Ok(())
}
