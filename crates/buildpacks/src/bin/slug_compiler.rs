//! `slug-compiler [PLAN]`: builds an app inside a build dyno. See the library's documentation.
//!
//! Reads the plan (`/build/plan.json` unless another path is given), prints the build's text on stdout, writes
//! `result.json` into the plan's output folder; its exit status is that of the outcome.

use ferroku_buildpacks::compiler;
use ferroku_buildpacks::error::BuildError;
use ferroku_buildpacks::output::Output;
use ferroku_core::protocol::build::{BuildOutcome, BuildPlan, BuildResult, PLAN_PATH};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let output = Output::new(Box::new(io::stdout()));
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(PLAN_PATH), PathBuf::from);
    match start(&path, &output) {
        Ok(outcome) => ExitCode::from(outcome.exit_status()),
        Err(error) => {
            output.error(&format!("Error: {error}"));
            ExitCode::from(error.outcome().exit_status())
        }
    }
}

fn start(path: &Path, output: &Output) -> Result<BuildOutcome, BuildError> {
    let text = fs::read(path).map_err(|error| BuildError::io("read the build plan", path, error))?;
    let plan: BuildPlan =
        serde_json::from_slice(&text).map_err(|source| BuildError::Plan { path: path.to_owned(), source })?;
    let work_dir = std::env::temp_dir().join(format!("buildpacks_{}", std::process::id()));
    fs::create_dir_all(&work_dir).map_err(|error| BuildError::io("create", &work_dir, error))?;
    let output_dir = plan.output_dir.clone();
    let result = compiler::run(plan, output, std::env::vars_os().collect(), &work_dir);
    let _ = fs::remove_dir_all(&work_dir);
    write_result(&output_dir, &result)?;
    Ok(result.outcome)
}

/// Under another name first: a reader sees a whole result or none.
fn write_result(directory: &Path, result: &BuildResult) -> Result<(), BuildError> {
    let path = directory.join("result.json");
    let partial = directory.join("result.json.partial");
    let fail = |error| BuildError::io("write the build's result to", &path, error);
    let json = serde_json::to_vec(result).map_err(|error| fail(io::Error::other(error)))?;
    fs::write(&partial, json).map_err(fail)?;
    fs::rename(&partial, &path).map_err(fail)
}
