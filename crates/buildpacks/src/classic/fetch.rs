//! Fetches a third-party buildpack: from a git repository, a tarball, or a folder of the node.

use crate::command::{self, command};
use crate::context::Environment;
use crate::source;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use walkdir::WalkDir;

/// Where a buildpack is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `reference`: branch, tag or commit; none is the default branch.
    Git {
        url: String,
        reference: Option<String>,
    },
    Tarball {
        url: String,
    },
    /// A folder (with `bin/compile`, or a git repository) or a tarball on the node itself.
    Path(PathBuf),
}

/// Downloads by the stack's python3 where there is no curl. Arguments: address, file.
const PYTHON_DOWNLOAD: &str = "import shutil,sys,urllib.request as r\n\
try:\n with r.urlopen(sys.argv[1],timeout=60) as i, open(sys.argv[2],'wb') as o: shutil.copyfileobj(i,o)\n\
except Exception as e: sys.exit(str(e))";

impl Address {
    /// Reads an address; `None` if `text` is a plain name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (base, reference) = match text.split_once('#') {
            Some((base, reference)) if !reference.is_empty() => (base, Some(reference.to_owned())),
            Some((base, _)) => (base, None),
            None => (text, None),
        };
        if let Some(path) = base.strip_prefix("file://").or_else(|| base.starts_with('/').then_some(base)) {
            return Some(match reference {
                Some(_) => Self::Git { url: path.to_owned(), reference },
                None => Self::Path(PathBuf::from(path)),
            });
        }
        let scheme = base.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let path = base.split('?').next().unwrap_or(base);
        match scheme.as_deref() {
            Some("http" | "https") if is_tarball(path) => Some(Self::Tarball { url: base.to_owned() }),
            Some("http" | "https" | "git" | "ssh") => Some(Self::Git { url: base.to_owned(), reference }),
            // git@host:path
            None if base.split_once('@').is_some_and(|(_, rest)| rest.contains(':')) => {
                Some(Self::Git { url: base.to_owned(), reference })
            }
            _ => None,
        }
    }
}

/// Puts the buildpack into `directory`, which is made.
///
/// # Errors
/// A text for the user: what was tried and what came of it.
pub fn fetch(address: &Address, environment: &Environment, directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory)
        .map_err(|error| format!("Cannot create {}: {error}", directory.display()))?;
    match address {
        Address::Git { url, reference } => fetch_git(url, reference.as_deref(), environment, directory),
        Address::Tarball { url } => {
            let file = directory.with_extension("tgz");
            download(url, environment, &file)?;
            unpack(&file, directory)
        }
        Address::Path(path) if path.is_file() && is_tarball(&path.to_string_lossy()) => {
            unpack(path, directory)
        }
        Address::Path(path) if path.join("bin/compile").exists() => copy_folder(path, directory),
        Address::Path(path) if path.join(".git").exists() || path.join("HEAD").is_file() => {
            fetch_git(&path.to_string_lossy(), None, environment, directory)
        }
        Address::Path(path) if path.is_dir() => {
            Err(format!("{} has no bin/compile and is no git repository.", path.display()))
        }
        Address::Path(path) => Err(format!(
            "There is no {} in the build dyno. Buildpacks of the node itself belong into the folder buildpacks/ of its data folder.",
            path.display()
        )),
    }
}

fn is_tarball(path: &str) -> bool {
    [".tgz", ".tar.gz", ".tar"].iter().any(|ending| path.ends_with(ending))
}

/// `fetch` instead of `clone`: takes a branch, a tag and a commit alike, and only that one commit.
fn fetch_git(
    url: &str,
    reference: Option<&str>,
    environment: &Environment,
    directory: &Path,
) -> Result<(), String> {
    let reference = reference.unwrap_or("HEAD");
    if url.starts_with('-') || reference.starts_with('-') {
        return Err("An address must not begin with \"-\".".to_owned());
    }
    let mut environment = environment.clone();
    // A private repository must fail at once, not ask for a password that nobody can type.
    environment.insert("GIT_TERMINAL_PROMPT".into(), "0".into());
    environment.insert("GIT_SSH_COMMAND".into(), "ssh -o BatchMode=yes".into());
    environment.remove(&OsString::from("GIT_DIR"));
    if url.starts_with('/') {
        // git refuses repositories of another owner, as the node's own are; only a file can tell it not to.
        let settings = directory.with_extension("gitconfig");
        fs::write(&settings, "[safe]\n\tdirectory = *\n")
            .map_err(|error| format!("Cannot write {}: {error}", settings.display()))?;
        environment.insert("GIT_CONFIG_GLOBAL".into(), settings.into());
    }
    let git = |arguments: &[&str]| {
        let mut git = command("git", &environment, directory);
        git.args(["-c", "init.defaultBranch=main", "-c", "advice.detachedHead=false"]).args(arguments);
        run_quietly(git, "git")
    };
    git(&["init", "--quiet"])?;
    git(&["fetch", "--quiet", "--depth", "1", "--no-tags", url, reference])?;
    git(&["checkout", "--quiet", "FETCH_HEAD"])?;
    if directory.join(".gitmodules").is_file() {
        git(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1"])?;
    }
    fs::remove_dir_all(directory.join(".git")).map_err(|error| format!("Cannot remove .git: {error}"))
}

fn download(url: &str, environment: &Environment, file: &Path) -> Result<(), String> {
    if command::find_program("curl", environment).is_some() {
        let mut curl = command("curl", environment, Path::new("/"));
        curl.args([
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--retry",
            "2",
            "--connect-timeout",
            "20",
        ]);
        curl.arg("-o").arg(file).arg("--").arg(url);
        return run_quietly(curl, "curl");
    }
    let mut python = command("python3", environment, Path::new("/"));
    python.args(["-c", PYTHON_DOWNLOAD, url]).arg(file);
    run_quietly(python, "the download")
}

fn run_quietly(command: Command, name: &str) -> Result<(), String> {
    let captured = command::capture(command).map_err(|error| format!("{name} cannot be started: {error}"))?;
    match captured.status.success() {
        true => Ok(()),
        false if captured.stderr.trim().is_empty() => {
            Err(format!("{name}: {}", command::describe(captured.status)))
        }
        false => Err(captured.stderr.trim().to_owned()),
    }
}

/// Unpacks a tarball; one of GitHub has everything in one folder.
fn unpack(file: &Path, directory: &Path) -> Result<(), String> {
    source::unpack(file, directory, false).map_err(|error| error.to_string())?;
    match directory.join("bin/compile").exists() {
        true => Ok(()),
        false => source::strip_folder(directory).map_err(|error| error.to_string()),
    }
}

/// Copies: a buildpack may write into its own folder (`export`), and the node's is read-only or shared.
fn copy_folder(from: &Path, to: &Path) -> Result<(), String> {
    let fail =
        |path: &Path, error: &dyn std::fmt::Display| format!("Cannot copy {}: {error}", path.display());
    for entry in WalkDir::new(from).min_depth(1).follow_links(false) {
        let entry = entry.map_err(|error| fail(from, &error))?;
        let path = entry.path();
        let target = to.join(path.strip_prefix(from).unwrap_or(path));
        let kind = entry.file_type();
        let copied = if kind.is_dir() {
            fs::create_dir(&target)
        } else if kind.is_symlink() {
            fs::read_link(path).and_then(|link| std::os::unix::fs::symlink(link, &target))
        } else if kind.is_file() {
            fs::copy(path, &target).map(|_| ())
        } else {
            Ok(())
        };
        copied.map_err(|error| fail(path, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Address>) {
        assert_eq!(Address::parse(text), expected, "{text}");
    }

    fn git(url: &str, reference: Option<&str>) -> Option<Address> {
        Some(Address::Git { url: url.to_owned(), reference: reference.map(str::to_owned) })
    }

    #[test]
    fn addresses_are_told_from_names() {
        check("heroku/python", None);
        check("python", None);
        check("heroku-community/apt", None);
        check("https://github.com/o/r.git", git("https://github.com/o/r.git", None));
        check("https://github.com/o/r", git("https://github.com/o/r", None));
        check("https://github.com/o/r#v1.2", git("https://github.com/o/r", Some("v1.2")));
        check("https://github.com/o/r.git#", git("https://github.com/o/r.git", None));
        check("git://host/r", git("git://host/r", None));
        check("git@github.com:o/r.git#main", git("git@github.com:o/r.git", Some("main")));
        check("https://host/x.tgz", Some(Address::Tarball { url: "https://host/x.tgz".to_owned() }));
        check(
            "https://host/x.tar.gz?a=b",
            Some(Address::Tarball { url: "https://host/x.tar.gz?a=b".to_owned() }),
        );
        check("file:///usr/local/bp", Some(Address::Path("/usr/local/bp".into())));
        check("/usr/local/bp", Some(Address::Path("/usr/local/bp".into())));
        check("file:///usr/local/bp#v1", git("/usr/local/bp", Some("v1")));
        check("ftp://host/x", None);
    }
}
