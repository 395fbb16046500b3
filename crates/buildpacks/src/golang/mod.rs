//! The built-in buildpack `heroku/go`.
//!
//! In: an app with a `go.mod`, with or without a `vendor` folder. Out: its programs in `bin`, a Procfile if it has none,
//! `.profile.d/go.sh`. Messages, settings and hooks follow Heroku's heroku-buildpack-go.
//!
//! What was compiled stays in Go's own build cache, in the app's build cache; with `-trimpath` it does not depend on the
//! name of the build folder, so that a push compiles what has changed and links.

pub mod error;
pub mod toolchain;
pub mod version;

use crate::command::{self, command};
use crate::context::{BuildContext, Environment};
use crate::error::BuildError;
use crate::files::create_folder;
use crate::output::DETAIL;
use crate::{Buildpack, Detection, ReleaseInfo};
use error::GoError;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use toolchain::Toolchain;
use version::GoMod;

/// Folder of this buildpack inside the cache folder.
const CACHE: &str = "ferroku-go";

/// What dynos source at their start.
const PROFILE: &str = "export PATH=\"${HOME}/bin:${PATH}\"\n";

/// Config vars that the go command sees, as on Heroku; the rest of the app's is for its hooks and its dynos.
const PASSED: [&str; 12] = [
    "CGO_CFLAGS",
    "CGO_ENABLED",
    "CGO_LDFLAGS",
    "GOAMD64",
    "GOEXPERIMENT",
    "GOFLAGS",
    "GOINSECURE",
    "GONOPROXY",
    "GONOSUMDB",
    "GOPRIVATE",
    "GOPROXY",
    "GOSUMDB",
];

/// Prints the import path of a package that is a program.
const MAIN_PACKAGES: &str = "{{ if eq .Name \"main\" }}{{ .ImportPath }}{{ end }}";

/// The buildpack.
pub struct Go;

impl Buildpack for Go {
    fn detect(&self, context: &BuildContext) -> Result<Detection, BuildError> {
        if context.has_file("go.mod") {
            return Ok(Detection::Passed { name: "Go".to_owned() });
        }
        let help = "Error: Your app is configured to use the Go buildpack,\nbut it has no 'go.mod'.\n\nMake it a module, commit and push again:\n\n    go mod init example.com/NAME && go mod tidy";
        Ok(Detection::Failed { help: help.lines().map(str::to_owned).collect() })
    }

    fn compile(&self, context: &mut BuildContext) -> Result<(), BuildError> {
        let cache = context.plan.cache_dir.join(CACHE);
        create_folder(&cache)?;
        let go_mod = read_go_mod(context)?;
        let mut environment = environment(context, &cache)?;
        let toolchain = context.timed("go.toolchain", |context| {
            toolchain::choose(context, &environment, go_mod.wanted.as_ref(), &cache)
        })?;
        let shown = toolchain.version.to_string();
        context.output.step(&match &go_mod.wanted {
            Some(wanted) => format!("Using {shown} for {} of {}", wanted.version, wanted.origin),
            None => format!("Using {shown}"),
        });
        environment.insert("GOTOOLCHAIN".into(), toolchain.switch.clone().into());
        run_hook(context, "bin/go-pre-compile")?;
        let (programs, packages) = context.timed("go.packages", |context| {
            let programs = main_packages(context, &toolchain, &environment)?;
            Ok::<_, BuildError>((programs.clone(), packages_to_install(context, &go_mod, programs)?))
        })?;
        context.timed("go.install", |context| install(context, &toolchain, &environment, &packages))?;
        write_procfile(context, &go_mod, &programs)?;
        context.prepend_path(&context.file("bin"));
        run_hook(context, "bin/go-post-compile")?;
        context.write_profile("go", PROFILE)
    }

    fn release(&self, _context: &BuildContext) -> Result<ReleaseInfo, BuildError> {
        Ok(ReleaseInfo::default())
    }
}

fn read_go_mod(context: &BuildContext) -> Result<GoMod, BuildError> {
    let path = context.file("go.mod");
    let text = fs::read_to_string(&path).map_err(|error| BuildError::io("read", &path, error))?;
    let set = context.config_var("GOVERSION")?.map(|value| value.to_string_lossy().into_owned());
    let mut go_mod = version::read(&text, set.as_deref());
    match go_mod.bad_version.take() {
        Some((origin, found)) => Err(GoError::BadVersion { origin, found }.into()),
        None => Ok(go_mod),
    }
}

fn environment(context: &BuildContext, cache: &Path) -> Result<Environment, BuildError> {
    let mut environment = context.environment.clone();
    for name in PASSED {
        if let Some(value) = context.config_var(name)? {
            environment.insert(name.into(), value);
        }
    }
    for (name, place) in [("GOPATH", "path"), ("GOMODCACHE", "modules"), ("GOCACHE", "build")] {
        environment.insert(name.into(), cache.join(place).into());
    }
    environment.insert("GOBIN".into(), context.file("bin").into());
    environment.insert("GOENV".into(), "off".into());
    // So that the cache can be deleted, and without a repository to ask for the version.
    let flags = environment.entry("GOFLAGS".into()).or_default();
    flags.push(" -modcacherw -buildvcs=false");
    Ok(environment)
}

/// Import paths of the app's programs.
fn main_packages(
    context: &BuildContext,
    toolchain: &Toolchain,
    environment: &Environment,
) -> Result<Vec<String>, BuildError> {
    let mut list = command(&toolchain.program, environment, context.build_dir());
    list.args(["list", "-find", "-tags", "heroku", "-f", MAIN_PACKAGES, "./..."]);
    let answer = command::capture(list).map_err(|source| GoError::Start { step: "go list", source })?;
    if !answer.status.success() {
        answer.stderr.lines().for_each(|line| context.output.detail(line));
        return Err(GoError::Step {
            step: "go list",
            status: command::describe(answer.status),
            command: "go list ./...".to_owned(),
            hint: error::hint(&answer.stderr),
        }
        .into());
    }
    Ok(answer.stdout.lines().map(str::to_owned).collect())
}

/// What the app names, else all its programs.
fn packages_to_install(
    context: &BuildContext,
    go_mod: &GoMod,
    programs: Vec<String>,
) -> Result<Vec<String>, BuildError> {
    let output = &context.output;
    if let Some(named) = context.config_var("GO_INSTALL_PACKAGE_SPEC")?.filter(|value| !value.is_empty()) {
        let named: Vec<String> = named.to_string_lossy().split_whitespace().map(str::to_owned).collect();
        output.step(&format!("Using GO_INSTALL_PACKAGE_SPEC: {}", named.join(" ")));
        return Ok(named);
    }
    if !go_mod.install.is_empty() {
        return Ok(go_mod.install.clone());
    }
    output.step("Determining packages to install");
    if programs.is_empty() {
        return Err(GoError::NoMain.into());
    }
    output.detail("Detected the following main packages to install:");
    programs.iter().for_each(|name| output.detail(&format!("\t\t{name}")));
    Ok(programs)
}

fn install(
    context: &BuildContext,
    toolchain: &Toolchain,
    environment: &Environment,
    packages: &[String],
) -> Result<(), BuildError> {
    let bin = context.file("bin");
    if bin.exists() && !bin.is_dir() {
        return Err(GoError::BinIsAFile.into());
    }
    let mut words: Vec<OsString> =
        ["install", "-v", "-trimpath", "-tags", "heroku"].map(OsString::from).to_vec();
    if let (Some(symbol), Some(value)) =
        (context.config_var("GO_LINKER_SYMBOL")?, context.config_var("GO_LINKER_VALUE")?)
    {
        let mut flag = OsString::from("-X ");
        flag.push(&symbol);
        flag.push("=");
        flag.push(&value);
        words.extend(["-ldflags".into(), flag]);
    }
    words.extend(packages.iter().map(OsString::from));
    let shown = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    context.output.step(&format!("Running: go {shown}"));
    let before = names(&bin);
    let mut go = command(&toolchain.program, environment, context.build_dir());
    go.args(&words);
    let (status, tail) = command::run_and_remember(go, &context.output, DETAIL)
        .map_err(|source| GoError::Start { step: "go install", source })?;
    if !status.success() {
        return Err(GoError::Step {
            step: "go install",
            status: command::describe(status),
            command: format!("go {shown}"),
            hint: error::hint(&tail),
        }
        .into());
    }
    context.output.step("Installed the following binaries:");
    let installed = names(&bin);
    installed
        .iter()
        .filter(|name| !before.contains(name))
        .for_each(|name| context.output.detail(&format!("\t\t./bin/{name}")));
    Ok(())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// One line a program; a single one, or the one with the module's name, is `web`.
fn write_procfile(context: &BuildContext, go_mod: &GoMod, programs: &[String]) -> Result<(), BuildError> {
    let path = context.file("Procfile");
    if path.exists() {
        return Ok(());
    }
    let lines = procfile(&go_mod.module, programs, |name| context.file("bin").join(name).is_file());
    if lines.is_empty() {
        return Ok(());
    }
    context.output.step("Created a Procfile with the following entries:");
    lines.iter().for_each(|line| context.output.detail(&format!("\t\t{line}")));
    fs::write(&path, lines.join("\n") + "\n").map_err(|error| BuildError::io("write", &path, error))
}

fn procfile(module: &str, programs: &[String], is_installed: impl Fn(&str) -> bool) -> Vec<String> {
    let names: Vec<&str> =
        programs.iter().map(|path| program_name(path)).filter(|name| is_installed(name)).collect();
    let is_web = |name: &str| names.len() == 1 || (name == program_name(module) && !names.contains(&"web"));
    names.iter().map(|name| format!("{}: bin/{name}", if is_web(name) { "web" } else { name })).collect()
}

/// What the go command calls the program of a package: the last part of its path that is no major version.
fn program_name(import_path: &str) -> &str {
    let is_version = |part: &str| {
        part.strip_prefix('v')
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut parts = import_path.rsplit('/');
    match (parts.next(), parts.next()) {
        (Some(last), Some(before)) if is_version(last) => before,
        (last, _) => last.unwrap_or(import_path),
    }
}

fn run_hook(context: &BuildContext, hook: &'static str) -> Result<(), BuildError> {
    if !context.has_file(hook) {
        return Ok(());
    }
    context.output.step(&format!("Running {hook} hook"));
    let mut bash = command("bash", &context.app_environment()?, context.build_dir());
    bash.arg(context.file(hook));
    let status = command::run(bash, &context.output, DETAIL)
        .map_err(|source| GoError::Start { step: "bash", source })?;
    match status.success() {
        true => Ok(()),
        false => Err(GoError::Step {
            step: hook,
            status: command::describe(status),
            command: hook.to_owned(),
            hint: "Correct it, commit and push again.",
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_types_are_named_after_programs() {
        let of = |module: &str, programs: &[&str]| {
            let programs: Vec<String> = programs.iter().map(|name| (*name).to_owned()).collect();
            procfile(module, &programs, |name| name != "absent").join("; ")
        };
        assert_eq!(of("example.com/hello", &["example.com/hello"]), "web: bin/hello");
        assert_eq!(of("example.com/hello/v2", &["example.com/hello/v2"]), "web: bin/hello");
        assert_eq!(of("hello", &["hello/cmd/server"]), "web: bin/server");
        assert_eq!(
            of("x/hello", &["x/hello", "x/hello/cmd/tick", "x/absent"]),
            "web: bin/hello; tick: bin/tick"
        );
        assert_eq!(of("x/hello", &["x/hello/web", "x/hello/tick"]), "web: bin/web; tick: bin/tick");
        assert_eq!(of("x", &[]), "");
    }
}
