//! Folders of the app's own choice (`cacheDirectories` of package.json), kept in the cache between builds.

use crate::context::BuildContext;
use crate::error::BuildError;
use crate::files::{copy_tree, create_folder, delete};
use std::path::{Component, Path};

/// Copies those that are in the cache to where the app wants them.
///
/// # Errors
/// One cannot be copied.
pub fn restore(context: &BuildContext, names: &[&str], cache: &Path) -> Result<(), BuildError> {
    for name in names.iter().filter(|name| is_inside(name)) {
        let (from, to) = (cache.join(name), context.file(name));
        let said = match (to.exists(), from.is_dir()) {
            (true, _) => " (exists - skipping)",
            (false, false) => " (not cached - skipping)",
            (false, true) => {
                create_folder(to.parent().unwrap_or(&to))?;
                copy_tree(&from, &to, |_| true)?;
                ""
            }
        };
        context.output.detail(&format!("- {name}{said}"));
    }
    Ok(())
}

/// Copies them to the cache, in place of what was there.
///
/// # Errors
/// One cannot be copied.
pub fn save(context: &BuildContext, names: &[&str], cache: &Path) -> Result<(), BuildError> {
    delete(cache)?;
    for name in names.iter().filter(|name| is_inside(name)) {
        let from = context.file(name);
        let said = if from.is_dir() {
            let to = cache.join(name);
            create_folder(to.parent().unwrap_or(&to))?;
            copy_tree(&from, &to, |_| true)?;
            ""
        } else {
            " (nothing to cache)"
        };
        context.output.detail(&format!("- {name}{said}"));
    }
    Ok(())
}

fn is_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}
