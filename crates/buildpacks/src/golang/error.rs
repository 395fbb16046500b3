//! Why a Go app cannot be built: texts that say what happened and what to do.

use thiserror::Error;

/// Why a Go app cannot be built. `Display` is the whole text for the user.
#[derive(Debug, Error)]
pub enum GoError {
    #[error(
        "Error: {origin} is no version of Go: '{found}'.\n\nWrite one such as 1.26 or 1.26.3 (go1.26.3 in GOVERSION and comments), commit and push again."
    )]
    BadVersion { origin: &'static str, found: String },
    #[error(
        "Error: {wanted}, which {origin} asks for, is not available.\n\n{reason}\n\nAvailable here: {available}.\n\nChange {origin} and push again."
    )]
    Unavailable { wanted: String, origin: &'static str, reason: String, available: String },
    #[error(
        "Error: This node's stack has no Go, and none can be fetched.\n\n{reason}\n\nIts admin can install Go 1.21 or newer (/usr/local/go is looked at), or give builds a way to\nPython's package index (https://pypi.org, or the one in the node's pip.conf)."
    )]
    NoGo { reason: String },
    #[error(
        "Error: The app has no package to install.\n\nNone of its packages is a program: a file that begins with 'package main' and has a func main.\nAdd one, or name those to install in go.mod:\n\n    // +heroku install ./cmd/..."
    )]
    NoMain,
    #[error(
        "Error: The app has a file named bin.\n\nPrograms are installed into a folder of that name. Rename the file, commit and push again."
    )]
    BinIsAFile,
    #[error(
        "Error: {step} failed ({status}).\n\nSee the log output above for the reason. The same happens on your own machine with\n\n    {command}\n\n{hint}"
    )]
    Step { step: &'static str, status: String, command: String, hint: &'static str },
    #[error("Error: {step} cannot be started: {source}")]
    Start { step: &'static str, source: std::io::Error },
}

/// What to do about a message of the go command.
#[must_use]
pub fn hint(tail: &str) -> &'static str {
    let hints = [
        (
            "inconsistent vendoring",
            "Write the vendor folder anew with 'go mod vendor', commit it and push again.",
        ),
        ("missing go.sum entry", "Write go.sum anew with 'go mod tidy', commit it and push again."),
        ("updates to go.mod needed", "Write go.mod anew with 'go mod tidy', commit it and push again."),
        (
            "no required module provides",
            "Add the module with 'go mod tidy', commit go.mod and go.sum, and push again.",
        ),
    ];
    hints
        .iter()
        .find(|(sign, _)| tail.contains(sign))
        .map_or("Correct it, commit and push again.", |(_, hint)| hint)
}
