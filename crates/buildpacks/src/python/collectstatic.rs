//! Django's `collectstatic`, as Heroku's Python buildpack runs it.

use super::error::PythonError;
use crate::command::{self, command};
use crate::context::BuildContext;
use crate::error::BuildError;
use crate::output::DETAIL;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// How deep `manage.py` is looked for, in folders below the root: Heroku's number.
const MAX_DEPTH: usize = 3;

/// Runs it if the app is a Django app and has not switched it off.
///
/// # Errors
/// It failed.
pub fn run(context: &BuildContext, site_packages: &Path) -> Result<(), BuildError> {
    if !site_packages.join("django").is_dir() {
        return Ok(());
    }
    let disabled = context.config_var("DISABLE_COLLECTSTATIC")?;
    if disabled.is_some_and(|value| !value.is_empty() && value != "0") {
        context.output.step("Skipping Django collectstatic since the env var DISABLE_COLLECTSTATIC is set.");
        return Ok(());
    }
    let Some(manage_py) = find_manage_py(context.build_dir()) else {
        context.output.step("Skipping Django collectstatic since no manage.py file found.");
        return Ok(());
    };
    let shown = manage_py.display().to_string();
    context.output.step(&format!("$ python {shown} collectstatic --noinput"));
    let mut environment = context.app_environment()?;
    environment.insert("PYTHONUNBUFFERED".into(), "1".into());
    let mut collect = command("python", &environment, context.build_dir());
    collect.arg(&manage_py).args(["collectstatic", "--noinput", "--traceback"]);
    let (status, tail) = command::run_and_remember(collect, &context.output, DETAIL)
        .map_err(|source| PythonError::Start { step: "python", source })?;
    if status.success() {
        return Ok(());
    }
    if tail.contains("Unknown command: 'collectstatic'") {
        context
            .output
            .detail("The app does not use django.contrib.staticfiles: there is nothing to collect.");
        return Ok(());
    }
    Err(PythonError::Collectstatic { manage_py: shown, status: command::describe(status) }.into())
}

/// The `manage.py` nearest to the root, relative to it.
fn find_manage_py(build_dir: &Path) -> Option<PathBuf> {
    let is_foreign =
        |name: &std::ffi::OsStr| name == "node_modules" || name.to_string_lossy().starts_with('.');
    let mut found: Vec<(usize, PathBuf)> = WalkDir::new(build_dir)
        .min_depth(1)
        .max_depth(MAX_DEPTH)
        .into_iter()
        .filter_entry(|entry| !(entry.file_type().is_dir() && is_foreign(entry.file_name())))
        .flatten()
        .filter(|entry| entry.file_type().is_file() && entry.file_name() == "manage.py")
        .filter_map(|entry| Some((entry.depth(), entry.path().strip_prefix(build_dir).ok()?.to_owned())))
        .collect();
    found.sort();
    found.into_iter().next().map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_manage_py_is_taken_and_foreign_folders_are_not_searched() {
        let folder = tempfile::tempdir().expect("tempdir");
        let add = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            std::fs::write(path, "").expect("write");
        };
        for name in [".venv/manage.py", "node_modules/x/manage.py", "a/b/c/manage.py"] {
            add(name);
        }
        assert_eq!(find_manage_py(folder.path()), None);
        add("z/b/manage.py");
        add("zz/manage.py");
        assert_eq!(find_manage_py(folder.path()), Some(PathBuf::from("zz/manage.py")));
    }
}
