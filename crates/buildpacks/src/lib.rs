//! Buildpacks: from the source of an app to a folder that can run.
//!
//! In: a [`BuildPlan`](ferroku_core::protocol::build::BuildPlan), a tar archive of the source, a cache folder, config
//! vars as files. Out: the finished folder, text on stdout in Heroku's form, and a
//! [`BuildResult`](ferroku_core::protocol::build::BuildResult). The binary `slug-compiler` runs [`compiler::run`] inside
//! a build dyno; it uses only the standard library and child processes, no async runtime, and links statically.
//!
//! Two kinds of [`Buildpack`]: built in ([`nodejs`], [`golang`], [`python`], [`static_site`], [`procfile_only`]) and third-party ones that follow Heroku's
//! classic contract ([`classic`]: bin/detect, bin/compile, bin/release).
//!
//! Invariants: nothing here trusts the source tree more than the build dyno does that it runs in; [`spare`] and
//! [`remove`] are what the node itself calls, outside of any dyno, on trees that apps have written; they follow no link.
//! Source: devcenter "Buildpack API", "Slug Compiler", "Procfile".

pub mod classic;
pub mod command;
pub mod compiler;
pub mod context;
pub mod error;
mod files;
pub mod golang;
pub mod nodejs;
pub mod output;
pub mod procfile_only;
pub mod python;
pub mod registry;
pub mod remove;
pub mod slugignore;
pub mod source;
pub mod spare;
pub mod static_site;

use crate::context::BuildContext;
use crate::error::BuildError;
use ferroku_core::config_var::ConfigVars;
use ferroku_core::slug::ProcessTypes;

/// The answer of a detect step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detection {
    /// This is such an app; its name as in `-----> NAME app detected`.
    Passed { name: String },
    /// It is not; what to tell a user who set this buildpack nevertheless, line by line.
    Failed { help: Vec<String> },
}

/// What a release step says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseInfo {
    pub default_process_types: ProcessTypes,
    pub config_vars: ConfigVars,
}

/// One buildpack, built in or third-party.
pub trait Buildpack {
    /// Looks at the source without changing it.
    ///
    /// # Errors
    /// The look itself failed; "not mine" is [`Detection::Failed`].
    fn detect(&self, context: &BuildContext) -> Result<Detection, BuildError>;

    /// Turns the source in `context.build_dir()` into something that runs at `/app`. What following buildpacks
    /// should have in their environment goes into `context.environment`.
    ///
    /// # Errors
    /// The build cannot go on.
    fn compile(&self, context: &mut BuildContext) -> Result<(), BuildError>;

    /// Process types and config vars that this kind of app has by default.
    ///
    /// # Errors
    /// The release step failed or said something that cannot be read.
    fn release(&self, context: &BuildContext) -> Result<ReleaseInfo, BuildError>;
}
