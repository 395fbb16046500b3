//! What a build dyno is told and what it answers: two JSON files.
//!
//! The control process writes [`BuildPlan`] to `/build/plan.json` (read-only inside the build dyno) beside
//! `/build/source.tar`; `slug-compiler` writes [`BuildResult`] to `/build/out/result.json` before it ends, also when
//! the build failed. Exit status 0 means succeeded; see [`BuildOutcome::exit_status`] for the others.
//! Unknown fields are ignored and absent ones have defaults, so that both sides may be one version apart.
//!
//! Trust: everything in a result was written by code of the app's author. Whoever reads it checks names and
//! sizes again (process types by `procfile::is_process_type`, config vars by their own rules).

use crate::config_var::ConfigVars;
use crate::slug::ProcessTypes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where the plan is inside a build dyno; `slug-compiler` takes another path as its only argument.
pub const PLAN_PATH: &str = "/build/plan.json";

/// Largest result that is worth reading, in bytes: 64 KiB of Procfile, config vars and some room.
pub const MAX_RESULT_BYTES: u64 = 1024 * 1024;

/// What to build, from what, where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildPlan {
    /// Such as `heroku-24`: `STACK` of the buildpacks, and `Heroku-24` in the text.
    pub stack: String,
    pub app_name: String,
    /// Names (`heroku/python`), URLs or folders in order; empty: find the one that fits.
    #[serde(default)]
    pub buildpacks: Vec<String>,
    /// Git commit, or the version that the Build API was given.
    #[serde(default)]
    pub source_version: Option<String>,
    #[serde(default)]
    pub request_id: Option<String>,
    /// Tar archive of the source, plain or gzip.
    #[serde(default = "default_source_tar")]
    pub source_tar: PathBuf,
    /// Drop the one folder that everything in the archive is in, if there is such a one (source archives of GitHub).
    #[serde(default)]
    pub strip_leading_folder: bool,
    /// The archive is a slug already, with all of it below `app`: it is unpacked, and nothing else is done.
    #[serde(default)]
    pub is_slug: bool,
    /// Empty folder that becomes the slug: `/tmp/build_<8 hex digits>`. It is `/app` at run time.
    pub build_dir: PathBuf,
    /// Kept between the builds of an app.
    pub cache_dir: PathBuf,
    /// One file a config var, named by it; the raw value, no newline after it.
    pub env_dir: PathBuf,
    /// Folder for `result.json`.
    #[serde(default = "default_output_dir")]
    pub output_dir: PathBuf,
    /// Memory of the build dyno, told to buildpacks as `DYNO_RAM` (MB).
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

fn default_source_tar() -> PathBuf {
    PathBuf::from("/build/source.tar")
}

fn default_output_dir() -> PathBuf {
    PathBuf::from("/build/out")
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildOutcome {
    Succeeded,
    /// A buildpack's compile step failed, or its release step did.
    CompileFailed,
    NoLanguageDetected,
    /// A named buildpack is not known or could not be fetched.
    BuildpackUnavailable,
    /// An explicitly set buildpack said that this is not its kind of app.
    DetectFailed,
    ProcfileInvalid,
    /// The source archive or `.slugignore` cannot be used.
    SourceInvalid,
    DiskFull,
    /// The plan was wrong or the build dyno is broken: not the app's fault.
    #[serde(other)]
    Internal,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildResult {
    pub outcome: BuildOutcome,
    /// One sentence for the build's record when it failed; the text printed says more.
    #[serde(default)]
    pub error: Option<String>,
    /// In order; pin these on the app when `detected`.
    #[serde(default)]
    pub buildpacks: Vec<UsedBuildpack>,
    /// The plan named no buildpack and one was found.
    #[serde(default)]
    pub detected: bool,
    /// What the last buildpack called the app: `Python`. The slug's `buildpack_provided_description`.
    #[serde(default)]
    pub description: Option<String>,
    /// What the slug runs: the defaults overlaid with the Procfile.
    #[serde(default)]
    pub process_types: ProcessTypes,
    /// The Procfile alone.
    #[serde(default)]
    pub process_types_from_procfile: ProcessTypes,
    /// The last buildpack's defaults alone.
    #[serde(default)]
    pub default_process_types: ProcessTypes,
    /// Config vars that buildpacks ask for; set only those that the app does not have, and only on its first release.
    #[serde(default)]
    pub config_vars: ConfigVars,
    /// Where the time went, in milliseconds: `source`, `python.dependencies`, `python.collectstatic`, `total` ...
    #[serde(default)]
    pub timings_ms: BTreeMap<String, u64>,
}

/// A buildpack that took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedBuildpack {
    /// As it is installed on an app: `heroku/python`, a URL, a folder.
    pub url: String,
    /// What its detect step printed: `Python`.
    #[serde(default)]
    pub name: String,
}

// === impl BuildOutcome ===

impl BuildOutcome {
    /// Exit status of `slug-compiler`; other statuses (137 when killed) mean that there is no result.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::CompileFailed => 1,
            Self::NoLanguageDetected => 10,
            Self::BuildpackUnavailable => 11,
            Self::DetectFailed => 12,
            Self::ProcfileInvalid => 13,
            Self::SourceInvalid => 14,
            Self::DiskFull => 15,
            Self::Internal => 70,
        }
    }
}

// === impl BuildResult ===

impl BuildResult {
    /// A result with nothing but its outcome.
    #[must_use]
    pub fn new(outcome: BuildOutcome) -> Self {
        Self {
            outcome,
            error: None,
            buildpacks: Vec::new(),
            detected: false,
            description: None,
            process_types: ProcessTypes::new(),
            process_types_from_procfile: ProcessTypes::new(),
            default_process_types: ProcessTypes::new(),
            config_vars: ConfigVars::new(),
            timings_ms: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_another_version_is_read() {
        let json = r#"{"stack":"heroku-24","app_name":"a","build_dir":"/tmp/build_1","cache_dir":"/tmp/cache","env_dir":"/tmp/env","since_later":1}"#;
        let plan: BuildPlan = serde_json::from_str(json).expect("valid");
        assert_eq!(plan.source_tar, PathBuf::from("/build/source.tar"));
        assert_eq!(plan.output_dir, PathBuf::from("/build/out"));
        assert_eq!((plan.buildpacks.len(), plan.strip_leading_folder, plan.is_slug), (0, false, false));
    }

    #[test]
    fn a_result_of_another_version_is_read() {
        let result: BuildResult =
            serde_json::from_str(r#"{"outcome":"of_the_future","x":[]}"#).expect("valid");
        assert_eq!(result, BuildResult::new(BuildOutcome::Internal));
        let json = serde_json::to_string(&BuildResult::new(BuildOutcome::DiskFull))
            .expect("no map keys but strings");
        assert!(json.starts_with(r#"{"outcome":"disk_full","error":null"#), "{json}");
    }
}
