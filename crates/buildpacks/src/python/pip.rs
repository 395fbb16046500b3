//! The stack's pip, which fetches programs that are packaged for Python into the cache.

use super::runtime::Runtime;
use crate::command::{self, command};
use crate::context::BuildContext;
use std::fs;
use std::path::Path;

/// Installs `requirement` into the folder `target`, whole or not at all.
///
/// # Errors
/// It cannot be had; the reason in pip's words.
pub fn install(
    context: &BuildContext,
    stack: &Runtime,
    requirement: &str,
    target: &Path,
) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("Cannot write {}: {error}", target.display());
    // Under another name first, so that a build that was cut off leaves no half of it.
    let partial = target.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).map_err(fail)?;
    let mut pip = command(&stack.executable, &context.environment, Path::new("/"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-cache-dir",
    ]);
    pip.args(["--no-compile", "--no-warn-script-location", "--only-binary", ":all:", "--target"]);
    pip.arg(&partial).arg(requirement).env("PIP_ROOT_USER_ACTION", "ignore");
    let captured = command::capture(pip).map_err(|error| format!("pip cannot be started: {error}"))?;
    if !captured.status.success() {
        return Err(captured.stderr.trim().to_owned());
    }
    fs::rename(&partial, target).map_err(fail)
}
