//! uv, which resolves and installs packages: fetched by the stack's pip, kept in the cache.

use super::error::PythonError;
use super::index;
use super::pip;
use super::runtime::Runtime;
use crate::context::{BuildContext, Environment};
use crate::error::BuildError;
use std::fs;
use std::path::{Path, PathBuf};

/// The release that this buildpack was tried with.
pub const UV_VERSION: &str = "0.13.9";

/// Folder of the Python buildpack inside the cache folder.
const CACHE: &str = "ferroku-python";

/// A uv that is there.
pub struct Uv {
    program: PathBuf,
}

impl Uv {
    /// Takes it from the cache or installs it there.
    ///
    /// # Errors
    /// pip cannot install it.
    pub fn obtain(context: &BuildContext, stack: &Runtime) -> Result<Self, BuildError> {
        let cache = cache_dir(context);
        let directory = cache.join(format!("uv-{UV_VERSION}"));
        let program = directory.join("bin/uv");
        if program.is_file() {
            return Ok(Self { program });
        }
        context.output.step(&format!("Installing uv {UV_VERSION}"));
        pip::install(context, stack, &format!("uv=={UV_VERSION}"), &directory)
            .map_err(|reason| PythonError::Uv { reason })?;
        remove_other_versions(&cache, &directory);
        Ok(Self { program })
    }

    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The environment to run it with.
    ///
    /// # Errors
    /// A config var cannot be read.
    pub fn environment(&self, context: &BuildContext) -> Result<Environment, BuildError> {
        let mut environment = index::environment(context)?;
        let cache = cache_dir(context);
        let mut set = |name: &str, value: &std::ffi::OsStr| environment.insert(name.into(), value.to_owned());
        set("UV_CACHE_DIR", cache.join("uv-cache").as_os_str());
        set("UV_PYTHON_INSTALL_DIR", cache.join("versions").as_os_str());
        set("UV_NO_PROGRESS", "1".as_ref());
        set("NO_COLOR", "1".as_ref());
        // A slug must share no inode with the cache, which later builds write to.
        set("UV_LINK_MODE", "copy".as_ref());
        // Byte code stays valid whatever becomes of file times between build and dyno.
        set("PYC_INVALIDATION_MODE", "UNCHECKED_HASH".as_ref());
        environment.entry("UV_HTTP_RETRIES".into()).or_insert_with(|| "2".into());
        Ok(environment)
    }
}

fn cache_dir(context: &BuildContext) -> PathBuf {
    context.plan.cache_dir.join(CACHE)
}

fn remove_other_versions(cache: &Path, keep: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("uv-0") && entry.path() != keep {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
