//! What the buildpacks of one build share.

use crate::error::BuildError;
use crate::files::create_folder;
use crate::output::Output;
use ferroku_core::protocol::build::BuildPlan;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where a slug is in every dyno.
pub const APP_DIR: &str = "/app";

/// Environment of a child process, by name.
pub type Environment = BTreeMap<OsString, OsString>;

/// Config vars that a build must not take from the app: they would break the build tools themselves.
/// From the official buildpacks' own list.
const NOT_EXPORTED: [&str; 14] = [
    "BUILD_DIR",
    "CACHE_DIR",
    "CPATH",
    "CPPATH",
    "ENV_DIR",
    "GIT_DIR",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LIBRARY_PATH",
    "PATH",
    "PYTHONHOME",
    "PYTHONPATH",
];

/// One build.
pub struct BuildContext {
    pub plan: BuildPlan,
    pub output: Output,
    /// What child processes get; a buildpack's `export` changes it for those that follow.
    pub environment: Environment,
    pub timings_ms: BTreeMap<String, u64>,
    /// Buildpacks that come after the one that is running.
    pub buildpacks_to_come: usize,
}

impl BuildContext {
    /// Starts from `inherited`, the environment of the build dyno, and adds what the buildpack API promises.
    #[must_use]
    pub fn new(plan: BuildPlan, output: Output, mut inherited: Environment) -> Self {
        let mut set = |name: &str, value: &str| inherited.insert(name.into(), value.into());
        set("STACK", &plan.stack);
        if let Some(version) = &plan.source_version {
            set("SOURCE_VERSION", version);
        }
        if let Some(id) = &plan.request_id {
            set("REQUEST_ID", id);
        }
        if let Some(bytes) = plan.memory_bytes {
            set("DYNO_RAM", &(bytes / (1024 * 1024)).to_string());
        }
        inherited.entry("HOME".into()).or_insert_with(|| APP_DIR.into());
        inherited.entry("PATH".into()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".into());
        Self { plan, output, environment: inherited, timings_ms: BTreeMap::new(), buildpacks_to_come: 0 }
    }

    #[must_use]
    pub fn build_dir(&self) -> &Path {
        &self.plan.build_dir
    }

    /// A path of the app's source.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.plan.build_dir.join(name)
    }

    /// Whether the source has the regular file `name` (a link to one counts).
    #[must_use]
    pub fn has_file(&self, name: &str) -> bool {
        self.file(name).is_file()
    }

    /// The config var `name` as the app has it set, if it has.
    ///
    /// # Errors
    /// There is one, and it cannot be read.
    pub fn config_var(&self, name: &str) -> Result<Option<OsString>, BuildError> {
        let path = self.plan.env_dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(OsString::from_vec(bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BuildError::io("read the config var", &path, error)),
        }
    }

    /// The environment for steps that run code of the app (collectstatic, hooks): its config vars over the build's.
    ///
    /// # Errors
    /// A config var cannot be read.
    pub fn app_environment(&self) -> Result<Environment, BuildError> {
        let mut environment = self.environment.clone();
        let directory = &self.plan.env_dir;
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(environment),
            Err(error) => return Err(BuildError::io("list the config vars in", directory, error)),
        };
        for entry in entries {
            let name = entry
                .map_err(|error| BuildError::io("list the config vars in", directory, error))?
                .file_name();
            if NOT_EXPORTED.iter().any(|forbidden| name == *forbidden) {
                continue;
            }
            let path = directory.join(&name);
            let value =
                fs::read(&path).map_err(|error| BuildError::io("read the config var", &path, error))?;
            environment.insert(name, OsString::from_vec(value));
        }
        Ok(environment)
    }

    /// Puts `directory` before everything else on the `PATH` of what follows.
    pub fn prepend_path(&mut self, directory: &Path) {
        let mut value = directory.as_os_str().to_owned();
        if let Some(rest) = self.environment.get(std::ffi::OsStr::new("PATH")) {
            value.push(":");
            value.push(rest);
        }
        self.environment.insert("PATH".into(), value);
    }

    /// Writes `.profile.d/NAME.sh`, which dynos source at their start.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_profile(&self, name: &str, text: &str) -> Result<(), BuildError> {
        let directory = self.file(".profile.d");
        create_folder(&directory)?;
        let path = directory.join(format!("{name}.sh"));
        fs::write(&path, text).map_err(|error| BuildError::io("write", &path, error))
    }

    /// Runs `work` and notes how long it took under `name`; two parts of one name add up.
    pub fn timed<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let start = Instant::now();
        let value = work(self);
        let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        *self.timings_ms.entry(name.to_owned()).or_default() += elapsed_ms;
        value
    }
}
