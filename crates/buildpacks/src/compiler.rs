//! One build from plan to result: what `slug-compiler` does.
//!
//! Steps: unpack, `.slugignore`, Procfile check, find or fetch the buildpacks, detect and compile each, release of the
//! last, process types. The text ends after the process types or after the reason of a failure; whoever started the
//! build goes on from there (`-----> Compressing...`, or ` !     Push failed`).

use crate::context::{BuildContext, Environment};
use crate::error::{BuildError, has_no_room};
use crate::output::Output;
use crate::registry::{self, Candidate};
use crate::{Detection, ReleaseInfo, slugignore, source};
use ferroku_core::config_var::ConfigVars;
use ferroku_core::procfile;
use ferroku_core::protocol::build::{BuildOutcome, BuildPlan, BuildResult, UsedBuildpack};
use ferroku_core::slug::ProcessTypes;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Builds, prints, and gives back the result that belongs into `result.json`.
///
/// `inherited` is the environment of the build dyno; `work_dir` is an empty folder for fetched buildpacks.
#[must_use]
pub fn run(plan: BuildPlan, output: &Output, inherited: Environment, work_dir: &Path) -> BuildResult {
    let mut context = BuildContext::new(plan, output.clone(), inherited);
    let mut result = BuildResult::new(BuildOutcome::Internal);
    let built = context.timed("total", |context| build(context, &mut result, work_dir));
    match built {
        Ok(()) => result.outcome = BuildOutcome::Succeeded,
        Err(error) => {
            let error = explain_disk_full(error, &context);
            print_failure(output, &error, result.description.as_deref());
            result.outcome = error.outcome();
            result.error = Some(first_line(&error));
        }
    }
    result.timings_ms = context.timings_ms;
    result
}

fn build(context: &mut BuildContext, result: &mut BuildResult, work_dir: &Path) -> Result<(), BuildError> {
    if context.plan.is_slug {
        let context = &*context;
        source::unpack(&context.plan.source_tar, context.build_dir(), false)?;
        return source::strip_app(context.build_dir());
    }
    context.output.step(&format!("Building on the {} stack", title_case(&context.plan.stack)));
    context.timed("source", |context| {
        source::unpack(&context.plan.source_tar, context.build_dir(), context.plan.strip_leading_folder)?;
        if let Some(deleted) = slugignore::apply(context.build_dir())? {
            context.output.step(&format!("Deleting {deleted} files matching .slugignore patterns."));
        }
        Ok::<(), BuildError>(())
    })?;
    // Before minutes are spent on dependencies; a buildpack may write another one, so it is read again at the end.
    read_procfile(context.build_dir())?;
    fs::create_dir_all(&context.plan.cache_dir)
        .map_err(|error| BuildError::io("create the cache folder", &context.plan.cache_dir, error))?;

    let candidates = choose(context, result, work_dir)?;
    let mut release = ReleaseInfo::default();
    let mut config_vars = ConfigVars::new();
    let count = candidates.len();
    for (index, candidate) in candidates.into_iter().enumerate() {
        context.buildpacks_to_come = count - index - 1;
        release = run_buildpack(context, result, candidate, index)?;
        config_vars.extend(std::mem::take(&mut release.config_vars));
    }
    result.config_vars = config_vars;
    result.default_process_types = release.default_process_types;
    discover_process_types(context, result)
}

/// The buildpacks to run: those that were set, or the one that fits.
fn choose(
    context: &BuildContext,
    result: &mut BuildResult,
    work_dir: &Path,
) -> Result<Vec<Candidate>, BuildError> {
    let mut set = context.plan.buildpacks.clone();
    if let Some(url) = context.config_var("BUILDPACK_URL")?.filter(|value| !value.is_empty()) {
        set = vec![url.to_string_lossy().into_owned()];
    }
    let output = &context.output;
    match set.as_slice() {
        [] => {
            output.step("Determining which buildpack to use for this app");
            let candidate = registry::detect(context)?;
            result.detected = candidate.pin;
            return Ok(vec![candidate]);
        }
        [only] => output.step(&format!("Using buildpack: {}", registry::display_name(only))),
        several => {
            output.step("Using buildpacks:");
            for (index, name) in several.iter().enumerate() {
                output.detail(&format!("{}. {}", index + 1, registry::display_name(name)));
            }
        }
    }
    set.iter()
        .enumerate()
        .map(|(index, name)| registry::resolve(name, context, &work_dir.join(index.to_string())))
        .collect()
}

fn run_buildpack(
    context: &mut BuildContext,
    result: &mut BuildResult,
    candidate: Candidate,
    index: usize,
) -> Result<ReleaseInfo, BuildError> {
    let Candidate { url, buildpack, detected_as, .. } = candidate;
    let name = match detected_as {
        Some(name) => name,
        None => match buildpack.detect(context)? {
            Detection::Passed { name } => name,
            Detection::Failed { help } => return Err(BuildError::Incompatible { url, help }),
        },
    };
    context.output.step(&format!("{name} app detected"));
    result.description = Some(name.clone());
    result.buildpacks.push(UsedBuildpack { url, name });
    context.timed(&format!("buildpack.{index}"), |context| buildpack.compile(context))?;
    buildpack.release(context)
}

fn discover_process_types(context: &BuildContext, result: &mut BuildResult) -> Result<(), BuildError> {
    let declared = read_procfile(context.build_dir())?;
    let defaults = &result.default_process_types;
    context.output.step("Discovering process types");
    let names = |types: &mut dyn Iterator<Item = &String>| {
        let joined = types.map(String::as_str).collect::<Vec<_>>().join(", ");
        if joined.is_empty() { "(none)".to_owned() } else { joined }
    };
    let declared_names = names(&mut declared.keys());
    let added = names(&mut defaults.keys().filter(|name| !declared.contains_key(*name)));
    if added == "(none)" {
        context.output.detail(&format!("Procfile declares types -> {declared_names}"));
    } else {
        context.output.detail(&format!("Procfile declares types     -> {declared_names}"));
        context.output.detail(&format!("Default types for buildpack -> {added}"));
    }
    let mut merged = defaults.clone();
    merged.extend(declared.clone());
    result.process_types = merged;
    result.process_types_from_procfile = declared;
    Ok(())
}

/// The Procfile of `directory`, without following a link out of it; none is an empty one.
fn read_procfile(directory: &Path) -> Result<ProcessTypes, BuildError> {
    let path = directory.join("Procfile");
    let fail = |error| BuildError::io("read", &path, error);
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ProcessTypes::new()),
        Err(error) => return Err(fail(error)),
        Ok(_) => {}
    }
    let inside = fs::canonicalize(&path).map_err(fail)?;
    let root = fs::canonicalize(directory).map_err(|error| BuildError::io("read", directory, error))?;
    if !inside.starts_with(&root) || !inside.is_file() {
        return Err(BuildError::Source("Procfile is not a file of the app".to_owned()));
    }
    let mut bytes = Vec::new();
    let limit = procfile::MAX_PROCFILE_BYTES as u64 + 1;
    File::open(&inside).map_err(fail)?.take(limit).read_to_end(&mut bytes).map_err(fail)?;
    Ok(procfile::parse(&bytes)?)
}

/// A program that failed for want of disk space seldom says so in a way that helps.
fn explain_disk_full(error: BuildError, context: &BuildContext) -> BuildError {
    let failed_step = matches!(
        error,
        BuildError::Go(_)
            | BuildError::Node(_)
            | BuildError::Python(_)
            | BuildError::Classic { .. }
            | BuildError::FetchBuildpack { .. }
    );
    let plan = &context.plan;
    match [plan.build_dir.as_path(), &plan.cache_dir, &std::env::temp_dir()]
        .into_iter()
        .find(|path| has_no_room(path))
    {
        Some(path) if failed_step => BuildError::DiskFull {
            detail: format!(": no room is left at {} of the build dyno", path.display()),
        },
        _ => error,
    }
}

fn print_failure(output: &Output, error: &BuildError, app_kind: Option<&str>) {
    match error {
        BuildError::Incompatible { url, help } => {
            output.step(&format!("App not compatible with buildpack: {url}"));
            for line in help {
                output.detail(line);
            }
        }
        BuildError::NoLanguage { .. } => {
            let text = error.to_string();
            let mut lines = text.lines();
            output.error(lines.next().unwrap_or_default());
            lines.for_each(|line| output.line(line));
        }
        // Its own output said why; "exit status 1" would add nothing.
        BuildError::Classic { step: "bin/compile", reason, .. } if reason.starts_with("exit status") => {}
        _ => output.error(&error.to_string()),
    }
    output.line("");
    if error.outcome() == BuildOutcome::CompileFailed {
        output.error(&format!("Push rejected, failed to compile {} app.", app_kind.unwrap_or("the")));
        output.line("");
    }
}

fn first_line(error: &BuildError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// `heroku-24` as it stands in the text: `Heroku-24`.
fn title_case(stack: &str) -> String {
    let mut characters = stack.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
