//! Why a Node.js app cannot be built: texts that say what happened and what to do.

use thiserror::Error;

/// Why a Node.js app cannot be built. `Display` is the whole text for the user.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(
        "Error: Unable to parse package.json.\n\n{reason}\n\nCorrect package.json (npm pkg get scripts, run in the app's folder, shows\nwhether npm can read it), commit and push again."
    )]
    PackageJson { reason: String },
    #[error(
        "Error: The value of {field} in package.json is no version range: '{found}'.\n\nWrite a range as npm reads it, for example \"20.x\" or \">=20 <23\", commit and push again."
    )]
    BadRange { field: &'static str, found: String },
    #[error(
        "Error: The value of packageManager in package.json is '{found}'.\n\nWrite one of npm, yarn and pnpm, an @ and its exact version, for example \"pnpm@10.4.1\",\ncommit and push again."
    )]
    BadPackageManager { found: String },
    #[error("{0}")]
    TwoLockfiles(String),
    #[error(
        "Error: {program} {wanted}, which {origin} asks for, is not available.\n\n{reason}\n\nAvailable here: {available}.\n\n{advice}"
    )]
    Unavailable {
        program: &'static str,
        wanted: String,
        origin: String,
        reason: String,
        available: String,
        advice: String,
    },
    #[error(
        "Error: This node's stack has no npm, and none can be fetched.\n\n{reason}\n\nIts admin can install Node.js and npm (apt-get install nodejs npm), or give builds a way to\nPython's package index (https://pypi.org, or the one in the node's pip.conf)."
    )]
    NoNpm { reason: String },
    #[error(
        "Error: {lock_file} is out of date.\n\nIt was made for other dependencies than package.json names. This happens when a package\nis added, changed or removed and the lock file is not written anew or not committed.\n\nRun this in the app's folder, and push again:\n\n    {command}\n    git add package.json {lock_file} && git commit -m \"Update {lock_file}\""
    )]
    OutdatedLock { lock_file: &'static str, command: &'static str },
    #[error(
        "Error: Unable to install dependencies using {manager} ({status}).\n\nSee the log output above for the reason: often a package or version that does not\nexist, a registry that wants a token (set it as a config var), or a package that needs\nanother Node.js version."
    )]
    Install { manager: &'static str, status: String },
    #[error(
        "Error: The script '{script}' of package.json failed ({status}).\n\nSee the log output above for the reason. The same happens on your own machine with\n\n    {command}\n\nin a fresh copy of the app."
    )]
    Script { script: String, status: String, command: String },
    #[error("Error: {step} failed ({status}).\n\nSee the log output above for the reason.")]
    Step { step: &'static str, status: String },
    #[error("Error: {step} cannot be started: {source}")]
    Start { step: String, source: std::io::Error },
}

/// The text about two lock files, as Heroku's buildpack has it.
#[must_use]
pub fn two_lock_files(found: &[(&'static str, &'static str)]) -> NodeError {
    use std::fmt::Write;
    let and = |names: Vec<&str>| names.join(" and ");
    let mut text = format!(
        "Two different lockfiles found: {}\n\nBoth {} have created lockfiles for this application,\nbut only one can be used to install dependencies. Installing\ndependencies using the wrong package manager can result in missing\npackages or subtle bugs in production.",
        and(found.iter().map(|(file, _)| *file).collect()),
        and(found.iter().map(|(_, manager)| *manager).collect()),
    );
    for (kept, manager) in found {
        let others: Vec<&str> = found.iter().map(|(file, _)| *file).filter(|file| file != kept).collect();
        let _ = write!(
            text,
            "\n\n- To use {manager} to install your application's dependencies please delete\n  the following lockfiles:\n\n    $ git rm {}",
            others.join(" ")
        );
    }
    NodeError::TwoLockfiles(text)
}
