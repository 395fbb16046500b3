//! The built-in buildpack `heroku/python`.
//!
//! In: an app with a `requirements.txt`. Out: `.heroku/python`, a virtual environment with the app's packages,
//! `.profile.d/python.sh` that puts it on the dyno's `PATH`, and for Django the collected static files.
//! Messages, order of steps and what the environment holds follow Heroku's heroku-buildpack-python.

pub mod collectstatic;
pub mod error;
pub mod index;
pub mod install;
pub mod pip;
pub mod requirements;
pub mod runtime;
pub mod uv;
pub mod version;

use crate::command::{self, command};
use crate::context::BuildContext;
use crate::error::BuildError;
use crate::output::DETAIL;
use crate::{Buildpack, Detection, ReleaseInfo};
use error::PythonError;
use runtime::Runtime;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use version::Origin;

/// Where the app's Python environment is, in the build folder and below `/app`.
pub const ENVIRONMENT: &str = ".heroku/python";

/// What dynos source at their start.
const PROFILE: &str = include_str!("profile.sh");

/// Any of these makes an app a Python app: Heroku's list.
const DETECTED_BY: [&str; 20] = [
    ".python-version",
    "requirements.txt",
    "Pipfile",
    "Pipfile.lock",
    "poetry.lock",
    "uv.lock",
    "pdm.lock",
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "runtime.txt",
    "manage.py",
    "app.py",
    "main.py",
    "server.py",
    "__init__.py",
    "requirement.txt",
    "Requirements.txt",
    "requirements.text",
    "requirements.txt.txt",
];

/// Files that say what to install, each with the command that makes a requirements.txt of it.
const PACKAGE_MANAGERS: [(&str, &str); 4] = [
    ("requirements.txt", ""),
    ("Pipfile.lock", "pipenv requirements > requirements.txt"),
    ("poetry.lock", "poetry export -f requirements.txt -o requirements.txt"),
    ("uv.lock", "uv export --no-dev --no-emit-project -o requirements.txt"),
];

/// The buildpack.
pub struct Python;

/// Whether the app has a file that says which packages to install.
#[must_use]
pub fn has_package_manager_file(context: &BuildContext) -> bool {
    PACKAGE_MANAGERS.iter().any(|(file, _)| context.has_file(file))
}

impl Buildpack for Python {
    fn detect(&self, context: &BuildContext) -> Result<Detection, BuildError> {
        if DETECTED_BY.iter().any(|file| context.has_file(file)) {
            return Ok(Detection::Passed { name: "Python".to_owned() });
        }
        let help = "Error: Your app is configured to use the Python buildpack,\nbut we couldn't find any supported Python project files.\n\nA Python app must have a 'requirements.txt' file in the\nroot directory of its source code. If the app has no\ndependencies, create an empty one.";
        Ok(Detection::Failed { help: help.lines().map(str::to_owned).collect() })
    }

    fn compile(&self, context: &mut BuildContext) -> Result<(), BuildError> {
        let has_hooks = run_hook(context, "bin/pre_compile")? | context.has_file("bin/post_compile");
        check_package_manager(context)?;
        let (stack, runtime) = context.timed("python.runtime", |context| choose_runtime(context))?;
        context.timed("python.dependencies", |context| install::install(context, &stack, &runtime))?;
        let bin = context.file(ENVIRONMENT).join("bin");
        context.prepend_path(&bin);
        context.write_profile("python", PROFILE)?;
        let site_packages = install::site_packages(context, &runtime);
        context.timed("python.collectstatic", |context| collectstatic::run(context, &site_packages))?;
        run_hook(context, "bin/post_compile")?;
        install::finish(context, &runtime, has_hooks || context.buildpacks_to_come > 0)
    }

    fn release(&self, _context: &BuildContext) -> Result<ReleaseInfo, BuildError> {
        Ok(ReleaseInfo::default())
    }
}

/// The stack's Python, and the one that the app is to have.
fn choose_runtime(context: &BuildContext) -> Result<(Runtime, Runtime), BuildError> {
    let stack = runtime::of_stack(&context.environment)?;
    let output = &context.output;
    let Some((origin, request)) = runtime::request(context, stack.version)? else {
        let version = stack.version;
        output.step(&format!("No Python version was specified. Using the stack's default: Python {version}"));
        return Ok((stack.clone(), stack));
    };
    output.step(&format!("Using Python {request} specified in {}", origin.file()));
    if origin == Origin::RuntimeTxt {
        output.error(&format!(
            "Warning: The runtime.txt file is deprecated. Delete it, and write '{request}' into a\nfile named .python-version instead."
        ));
    }
    let runtime = runtime::find(context, stack.clone(), origin, request)?;
    Ok((stack, runtime))
}

/// Exactly one kind of file may say what to install, and it must be requirements.txt.
fn check_package_manager(context: &BuildContext) -> Result<(), PythonError> {
    let found: Vec<_> = PACKAGE_MANAGERS.iter().filter(|(file, _)| context.has_file(file)).collect();
    match found.as_slice() {
        [("requirements.txt", _)] => Ok(()),
        [(file, command)] => {
            Err(PythonError::UnsupportedPackageManager { found: format!("'{file}'"), command })
        }
        [] if context.has_file("Pipfile") => Err(PythonError::UnsupportedPackageManager {
            found: "a 'Pipfile'".to_owned(),
            command: "pipenv lock && pipenv requirements > requirements.txt",
        }),
        [] => {
            let other = ["pyproject.toml", "setup.py"].into_iter().find(|file| context.has_file(file));
            let hint = other.map_or_else(String::new, |file| {
                format!("\n\nIf your app's dependencies stand in its '{file}', a\n'requirements.txt' with the one line '.' installs them.")
            });
            Err(PythonError::NoPackageManager { hint })
        }
        several => {
            let names: Vec<_> = several.iter().map(|(file, _)| *file).collect();
            Err(PythonError::SeveralPackageManagers(names.join("\n")))
        }
    }
}

/// Runs a script of the app's own if it has it, with its config vars. Gives whether it has.
fn run_hook(context: &BuildContext, hook: &'static str) -> Result<bool, BuildError> {
    let path = context.file(hook);
    if !path.is_file() {
        return Ok(false);
    }
    context.output.step(&format!("Running {hook} hook"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .map_err(|error| BuildError::io("make executable", &path, error))?;
    let status = command::run(
        command(&path, &context.app_environment()?, context.build_dir()),
        &context.output,
        DETAIL,
    )
    .map_err(|source| PythonError::Start { step: hook, source })?;
    match status.success() {
        true => Ok(true),
        false => Err(PythonError::Hook { hook, status: command::describe(status) }.into()),
    }
}
