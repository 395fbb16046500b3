//! Why a Python app cannot be built: texts that say what happened and what to write instead.

use super::version::PythonVersion;
use thiserror::Error;

/// Why a Python app cannot be built. `Display` is the whole text for the user.
#[derive(Debug, Error)]
pub enum PythonError {
    #[error(
        "Error: This node's stack has no python3.\n\nIts admin can install it: apt-get install python3 python3-pip python3-venv\n\n{0}"
    )]
    NoStackPython(String),
    #[error(
        "Error: Couldn't find any supported Python package manager files.\n\nA Python app must have a 'requirements.txt' file in the root directory of its\nsource code.\n\nIf your app already has one, check that it:\n\n1. Is in the top level directory (not a subdirectory).\n2. Has the correct spelling (the filenames are case-sensitive).\n3. Isn't listed in '.gitignore' or '.slugignore'.\n4. Has been added to the Git repository using 'git add --all'\n   and then committed using 'git commit'.\n\nIf your app has no dependencies, then create an empty\n'requirements.txt' file.{hint}"
    )]
    NoPackageManager { hint: String },
    #[error(
        "Error: Dependencies are read from 'requirements.txt' only, and this app has {found} instead.\n\nWrite its dependencies into a 'requirements.txt', for example with:\n\n    {command}\n\nthen commit that file and push again."
    )]
    UnsupportedPackageManager { found: String, command: &'static str },
    #[error(
        "Error: Multiple Python package manager files were found.\n\nExactly one package manager file should be present in your app's source\ncode, however, several were found:\n\n{0}\n\nDecide which package manager you want to use with your app, and\nthen delete the file(s) and any config from the others."
    )]
    SeveralPackageManagers(String),
    #[error(
        "Error: Python 2 cannot be used: {file} asks for '{found}'.\n\nPython 2 reached its end of life on 1 January 2020 and no stack has it.\n\nAvailable here: {available}.\n\nWrite '{suggestion}' into {file}{delete_hint}, make sure that the\ncode runs on Python 3, commit and push again."
    )]
    Python2 {
        file: &'static str,
        found: String,
        available: String,
        suggestion: String,
        delete_hint: &'static str,
    },
    #[error(
        "Error: Invalid Python version in {file}.\n\nThe Python version specified in your {file} file isn't in the\ncorrect format: it reads '{found}'.\n\n{expected}\n\nAvailable here: {available}."
    )]
    InvalidVersion { file: &'static str, found: String, expected: String, available: String },
    #[error(
        "Error: Python {wanted}, which {file} asks for, is not available.\n\n{reason}\n\nAvailable here: {available}.\n\nWrite '{suggestion}' into {file}, commit and push again."
    )]
    Unavailable { file: &'static str, wanted: String, reason: String, available: String, suggestion: String },
    #[error(
        "Error: Unable to install uv, which installs the app's packages.\n\n{reason}\n\nThe build needs Python's package index (https://pypi.org, or the one in the node's pip.conf):\ncheck that the node reaches it, and that python3-pip is installed on it."
    )]
    Uv { reason: String },
    #[error(
        "Error: Unable to install dependencies using uv.\n\nThe packages of requirements.txt could not be resolved or installed with\nPython {python} ({status}). See the log output above for the reason: often a name that is\nmisspelt, a version that does not exist, or one that needs another Python version.\n\nCorrect requirements.txt, commit and push again."
    )]
    Install { python: PythonVersion, status: String },
    #[error(
        "Error: Unable to generate Django static files.\n\nThe 'python {manage_py} collectstatic --noinput' Django\nmanagement command to generate static files failed ({status}).\n\nSee the traceback above for details.\n\nYou may need to update application code to resolve this error.\nOr, you can disable collectstatic for this application:\n\n   $ heroku config:set DISABLE_COLLECTSTATIC=1"
    )]
    Collectstatic { manage_py: String, status: String },
    #[error("Error: The hook {hook} failed ({status}).\n\nSee the log output above for the reason.")]
    Hook { hook: &'static str, status: String },
    #[error("Error: {step} cannot be started: {source}")]
    Start { step: &'static str, source: std::io::Error },
}
