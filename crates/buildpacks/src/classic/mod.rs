//! Third-party buildpacks by Heroku's classic contract.
//!
//! `bin/detect BUILD_DIR`, `bin/compile BUILD_DIR CACHE_DIR ENV_DIR`, `bin/release BUILD_DIR` (YAML, optional), and the
//! file `export` beside `bin`, which bash sources for the buildpacks that follow. Config vars are files in ENV_DIR and
//! not in the environment. Source: devcenter "Buildpack API".

pub mod fetch;
pub mod release_yaml;

use crate::command::{self, Captured, command};
use crate::context::{BuildContext, Environment};
use crate::error::BuildError;
use crate::{Buildpack, Detection, ReleaseInfo};
use fetch::Address;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Variables that bash makes for itself: no buildpack means to export these.
const OF_BASH: [&str; 4] = ["_", "OLDPWD", "PWD", "SHLVL"];

/// A fetched buildpack.
pub struct ClassicBuildpack {
    url: String,
    /// Our own copy, writable.
    directory: PathBuf,
}

impl ClassicBuildpack {
    /// Fetches the buildpack at `address` into `directory`.
    ///
    /// # Errors
    /// It cannot be fetched, or what came is no buildpack.
    pub fn fetch(
        url: &str,
        address: &Address,
        context: &BuildContext,
        directory: &Path,
    ) -> Result<Self, BuildError> {
        fetch::fetch(address, &context.environment, directory)
            .map_err(|reason| BuildError::FetchBuildpack { url: url.to_owned(), reason })?;
        for name in ["bin/detect", "bin/compile"] {
            let path = directory.join(name);
            if !path.is_file() {
                let reason = format!("What is there is no buildpack: it has no {name}.");
                return Err(BuildError::FetchBuildpack { url: url.to_owned(), reason });
            }
            make_executable(&path)?;
        }
        let release = directory.join("bin/release");
        if release.is_file() {
            make_executable(&release)?;
        }
        Ok(Self { url: url.to_owned(), directory: directory.to_owned() })
    }

    fn step(&self, context: &BuildContext, name: &str) -> Command {
        let mut step = command(self.directory.join(name), &context.environment, context.build_dir());
        step.arg(context.build_dir());
        step
    }

    fn capture(&self, step: &'static str, command: Command) -> Result<Captured, BuildError> {
        command::capture(command).map_err(|error| self.failed(step, start_reason(&error)))
    }

    fn failed(&self, step: &'static str, reason: String) -> BuildError {
        BuildError::Classic { url: self.url.clone(), step, reason }
    }

    /// Takes over what the buildpack's `export` file sets.
    fn source_export(&self, context: &mut BuildContext) -> Result<(), BuildError> {
        let export = self.directory.join("export");
        if context.buildpacks_to_come == 0 || !export.is_file() {
            return Ok(());
        }
        let mut bash = command("bash", &context.environment, context.build_dir());
        // The script's own output goes elsewhere: stdout is for the variables.
        bash.args(["-c", "source \"$1\" >&2 && exec env -0", "bash"]).arg(&export);
        let output = bash.output().map_err(|error| self.failed("export", start_reason(&error)))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(self.failed("export", format!("{}\n{errors}", command::describe(output.status))));
        }
        context.environment = parse_environment(&output.stdout);
        Ok(())
    }
}

impl Buildpack for ClassicBuildpack {
    fn detect(&self, context: &BuildContext) -> Result<Detection, BuildError> {
        let captured = self.capture("bin/detect", self.step(context, "bin/detect"))?;
        if captured.status.success() {
            let name = captured.stdout.lines().next().unwrap_or_default().trim();
            return Ok(Detection::Passed { name: if name.is_empty() { &self.url } else { name }.to_owned() });
        }
        let mut help: Vec<String> = captured.stderr.trim_end().lines().map(str::to_owned).collect();
        if help.is_empty() {
            help.push(format!("Its bin/detect ended with {}.", command::describe(captured.status)));
        }
        Ok(Detection::Failed { help })
    }

    fn compile(&self, context: &mut BuildContext) -> Result<(), BuildError> {
        let mut step = self.step(context, "bin/compile");
        step.arg(&context.plan.cache_dir).arg(&context.plan.env_dir);
        let status = command::run(step, &context.output, "")
            .map_err(|error| self.failed("bin/compile", start_reason(&error)))?;
        if !status.success() {
            return Err(self.failed("bin/compile", command::describe(status)));
        }
        self.source_export(context)
    }

    fn release(&self, context: &BuildContext) -> Result<ReleaseInfo, BuildError> {
        if !self.directory.join("bin/release").is_file() {
            return Ok(ReleaseInfo::default());
        }
        let captured = self.capture("bin/release", self.step(context, "bin/release"))?;
        if !captured.status.success() {
            let reason = format!("{}\n{}", command::describe(captured.status), captured.stderr.trim());
            return Err(self.failed("bin/release", reason));
        }
        release_yaml::parse(&captured.stdout).map_err(|error| self.failed("bin/release", error.to_string()))
    }
}

fn make_executable(path: &Path) -> Result<(), BuildError> {
    let fail = |error| BuildError::io("make executable", path, error);
    let mode = fs::metadata(path).map_err(fail)?.permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o755)).map_err(fail)
}

fn start_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "it cannot be started: the program named in its first line (#!) is not on this stack".to_owned()
        }
        _ => format!("it cannot be started: {error}"),
    }
}

fn parse_environment(zero_separated: &[u8]) -> Environment {
    zero_separated
        .split(|byte| *byte == 0)
        .filter_map(|pair| {
            let position = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (pair[..position].to_vec(), pair[position + 1..].to_vec());
            Some((OsString::from_vec(name), OsString::from_vec(value)))
        })
        .filter(|(name, _)| !OF_BASH.iter().any(|own| name == own))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_newlines_and_equal_signs_survive() {
        let environment = parse_environment(b"A=1=2\0B=x\ny\0SHLVL=1\0_=/usr/bin/env\0C=\0");
        let expected = [("A", "1=2"), ("B", "x\ny"), ("C", "")];
        assert_eq!(environment, expected.map(|(name, value)| (name.into(), value.into())).into());
    }
}
