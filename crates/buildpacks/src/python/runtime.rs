//! The Python that an app is built and run with: the stack's own, or one that uv downloads.
//!
//! The stack's is only linked to. A downloaded one (python-build-standalone) is kept in the cache and copied into the
//! slug, below the app's virtual environment.

use super::error::PythonError;
use super::uv::Uv;
use super::version::{OLDEST_MINOR, Origin, PythonVersion, Request};
use crate::command::{self, command};
use crate::context::{BuildContext, Environment};
use crate::error::BuildError;
use std::fs;
use std::path::{Path, PathBuf};

/// Prints the version and the path of the interpreter that runs it.
const ASK: &str = "import sys; print('%d.%d.%d' % sys.version_info[:3]); print(sys.executable)";

/// A Python that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    pub version: PythonVersion,
    pub executable: PathBuf,
    /// Root folder of a downloaded one, to be copied into the slug.
    pub copy_from: Option<PathBuf>,
}

/// The stack's `python3`.
///
/// # Errors
/// There is none, or it does not run.
pub fn of_stack(environment: &Environment) -> Result<Runtime, PythonError> {
    ask("python3", environment).map_err(PythonError::NoStackPython)
}

/// What the source asks for; `None` if it leaves the choice to the stack.
///
/// # Errors
/// The file that says it is wrong.
pub fn request(
    context: &BuildContext,
    stack: PythonVersion,
) -> Result<Option<(Origin, Request)>, BuildError> {
    for origin in [Origin::RuntimeTxt, Origin::PythonVersionFile] {
        let path = context.file(origin.file());
        if !path.is_file() {
            continue;
        }
        let bytes = fs::read(&path).map_err(|error| BuildError::io("read", &path, error))?;
        let request = Request::parse(origin, &bytes, stack, &available(stack))?;
        return Ok(Some((origin, request)));
    }
    Ok(None)
}

/// Finds a Python that meets the request, on the stack, in the cache, or by download.
///
/// # Errors
/// There is none: the text says what is available and what to write instead.
pub fn find(
    context: &BuildContext,
    stack: Runtime,
    origin: Origin,
    request: Request,
) -> Result<Runtime, BuildError> {
    if request.is_met_by(stack.version) {
        return Ok(stack);
    }
    let named = format!("python{}.{}", request.major, request.minor);
    if let Ok(other) = ask(&named, &context.environment)
        && request.is_met_by(other.version)
    {
        return Ok(other);
    }
    let unavailable = |reason: String| PythonError::Unavailable {
        file: origin.file(),
        wanted: request.to_string(),
        reason,
        available: available(stack.version),
        suggestion: origin.spell(&stack.version.series()),
    };
    if request.major != 3 || request.minor < OLDEST_MINOR {
        return Err(unavailable(format!("No Python older than 3.{OLDEST_MINOR} can be had any more.")).into());
    }
    let uv = Uv::obtain(context, &stack)?;
    let environment = uv.environment(context)?;
    let in_cache = || {
        let mut find = command(uv.program(), &environment, context.build_dir());
        find.args(["python", "find", "--managed-python", "--no-python-downloads", &request.to_string()]);
        let captured = command::capture(find).ok().filter(|captured| captured.status.success())?;
        ask(captured.stdout.trim(), &environment).ok()
    };
    let downloaded = match in_cache() {
        Some(runtime) => Some(runtime),
        None => {
            context.output.step(&format!("Downloading Python {request}"));
            let mut install = command(uv.program(), &environment, context.build_dir());
            install.args(["python", "install", "--no-bin", &request.to_string()]);
            let captured = command::capture(install)
                .map_err(|source| PythonError::Start { step: "uv python install", source })?;
            if !captured.status.success() {
                let reason = format!(
                    "The stack does not have it, and it cannot be downloaded:\n{}",
                    captured.stderr.trim()
                );
                return Err(unavailable(reason).into());
            }
            in_cache()
        }
    };
    let mut runtime =
        downloaded.ok_or_else(|| unavailable("It was downloaded, but does not run on this stack.".into()))?;
    // .../bin/python3.13
    runtime.copy_from = runtime.executable.parent().and_then(Path::parent).map(Path::to_owned);
    Ok(runtime)
}

fn available(stack: PythonVersion) -> String {
    format!("Python {stack} (this stack's own)")
}

fn ask(program: &str, environment: &Environment) -> Result<Runtime, String> {
    let mut question = command(program, environment, Path::new("/"));
    question.args(["-I", "-S", "-c", ASK]);
    let answer = command::capture(question).map_err(|error| format!("{program}: {error}"))?;
    if !answer.status.success() {
        return Err(format!("{program}: {}\n{}", command::describe(answer.status), answer.stderr.trim()));
    }
    let mut lines = answer.stdout.lines();
    let version =
        lines.next().and_then(PythonVersion::parse).ok_or_else(|| format!("{program} names no version"))?;
    let executable = PathBuf::from(lines.next().unwrap_or_default());
    // python3.11 rather than python3: after an upgrade of the stack to 3.12 the one would run with packages of the other.
    let exact = executable.with_file_name(format!("python{}", version.series()));
    let executable = if exact.is_file() { exact } else { executable };
    Ok(Runtime { version, executable, copy_from: None })
}
