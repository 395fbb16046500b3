//! The pre-receive hook: `ferrokud` started by git inside a push, as the git user, in the repository's quarantine.
//!
//! In: the reference updates on standard input, the one-time token and control's socket in the environment. Out: the
//! build's text on standard output (git sends it to the client as `remote:` lines), and an exit status that decides
//! whether the references move. It decides nothing itself; see [`ferroku_core::protocol::push`] for the conversation.
//!
//! Invariants:
//! - Without a verdict from control the push is declined: a control that dies mid-way never leaves a branch on a
//!   commit that was not released.
//! - No async runtime and no threads but the one that sends the archive: it starts in about a millisecond.

use ferroku_core::protocol::frame::{Decoder, Frame, FrameError, encode_into};
use ferroku_core::protocol::push::{
    ARCHIVE_PIECE_BYTES, ArchiveEnd, Commit, Hello, RefUpdate, SOCKET_VARIABLE, SendArchive, TOKEN_VARIABLE,
    VERSION, Verdict, frame_type,
};
use std::io::{BufRead, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use thiserror::Error;

/// Reference updates of one push; more is a mirror of a whole server, which no app needs.
const MAX_UPDATES: usize = 10_000;
/// Submodules that are named in the warning.
const MAX_SUBMODULES: usize = 20;
/// Longest first line of a commit message that is kept, in characters.
const MAX_SUBJECT_CHARACTERS: usize = 200;

#[derive(Debug, Error)]
pub(super) enum HookError {
    #[error("this repository accepts pushes only through its node")]
    NotOurs,
    #[error("the node's build service cannot be reached; try again in a moment")]
    Connect(#[source] std::io::Error),
    #[error("git gave the hook a line it does not understand: {0}")]
    Line(String),
    #[error("a push of more than {MAX_UPDATES} references is refused: push the branches that you need")]
    TooManyUpdates,
    #[error("cannot read from git")]
    Input(#[source] std::io::Error),
    #[error(
        "the connection to the node's build service was lost; see `heroku releases` for whether the release was made, and push again if not"
    )]
    Lost,
    #[error("the node's build service answered something that this hook does not understand")]
    Protocol,
    #[error("the client is gone")]
    Output(#[source] std::io::Error),
}

/// Runs the hook; the exit status is git's answer.
pub fn main() -> ExitCode {
    if decide() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the hook; whether the push is accepted.
pub fn decide() -> bool {
    run().unwrap_or_else(|error| {
        // Nobody is left to tell when this fails too.
        let _ = writeln!(std::io::stderr(), " !     {error}.");
        false
    })
}

fn run() -> Result<bool, HookError> {
    let (socket, token) = connect()?;
    let updates = read_updates(std::io::stdin().lock())?;
    let commit = updates
        .iter()
        .find(|update| update.is_deploy_branch() && !update.is_deletion())
        .map(|update| describe(&update.new));
    send_json(&socket, frame_type::HELLO, &Hello { version: VERSION, token, updates, commit })?;
    converse(&socket)
}

/// Control's socket, and the push's token.
pub(super) fn connect() -> Result<(UnixStream, String), HookError> {
    let token = std::env::var(TOKEN_VARIABLE).map_err(|_| HookError::NotOurs)?;
    let socket_path = std::env::var(SOCKET_VARIABLE).map_err(|_| HookError::NotOurs)?;
    Ok((UnixStream::connect(&socket_path).map_err(HookError::Connect)?, token))
}

/// Relays text and sends the archive until the verdict comes.
pub(super) fn converse(socket: &UnixStream) -> Result<bool, HookError> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        while let Some(frame) = next(&mut decoder)? {
            match frame.frame_type {
                frame_type::TEXT => {
                    let mut output = std::io::stdout().lock();
                    output
                        .write_all(&frame.payload)
                        .and_then(|()| output.flush())
                        .map_err(HookError::Output)?;
                }
                frame_type::SEND_ARCHIVE => {
                    let request: SendArchive =
                        serde_json::from_slice(&frame.payload).map_err(|_| HookError::Protocol)?;
                    let sender = socket.try_clone().map_err(HookError::Connect)?;
                    // Detached on purpose: the verdict may come before the archive is whole (a refusal).
                    std::thread::spawn(move || send_archive(&sender, &request.commit));
                }
                frame_type::VERDICT => {
                    let verdict: Verdict =
                        serde_json::from_slice(&frame.payload).map_err(|_| HookError::Protocol)?;
                    if let (true, Some(branch)) = (verdict.accept, verdict.head.as_deref()) {
                        set_head(branch);
                    }
                    return Ok(verdict.accept);
                }
                _ => {}
            }
        }
        let mut reader = socket;
        match reader.read(&mut buffer) {
            Ok(0) => return Err(HookError::Lost),
            Ok(count) => decoder.push(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(HookError::Lost),
        }
    }
}

fn next(decoder: &mut Decoder) -> Result<Option<Frame>, HookError> {
    decoder.next_frame().map_err(|_: FrameError| HookError::Protocol)
}

pub(super) fn send_json<T: serde::Serialize>(
    socket: &UnixStream,
    kind: u8,
    value: &T,
) -> Result<(), HookError> {
    let payload = serde_json::to_vec(value).expect("no map keys but strings");
    send(socket, kind, &payload).map_err(|_| HookError::Lost)
}

fn send(mut socket: &UnixStream, kind: u8, payload: &[u8]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(payload.len() + 5);
    encode_into(&mut bytes, kind, payload).map_err(std::io::Error::other)?;
    socket.write_all(&bytes)
}

/// Standard input: `<old> <new> <reference>` a line.
fn read_updates(input: impl BufRead) -> Result<Vec<RefUpdate>, HookError> {
    let mut updates = Vec::new();
    for line in input.lines() {
        let line = line.map_err(HookError::Input)?;
        let mut parts = line.splitn(3, ' ');
        let (Some(old), Some(new), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(HookError::Line(line));
        };
        if updates.len() == MAX_UPDATES {
            return Err(HookError::TooManyUpdates);
        }
        let mut update =
            RefUpdate { old: old.to_owned(), new: new.to_owned(), name: name.to_owned(), stale: false };
        update.stale = update.is_deploy_branch() && is_stale(&update);
        updates.push(update);
    }
    Ok(updates)
}

/// Whether the reference has moved since git told the client where it is. git checks this too, but only after the
/// hook, when the release would already be written.
fn is_stale(update: &RefUpdate) -> bool {
    let now = git_text(&["rev-parse", "--verify", "--quiet", &update.name]).unwrap_or_default();
    let now = now.trim();
    if now.is_empty() { !update.old.bytes().all(|byte| byte == b'0') } else { now != update.old }
}

/// Output of a git command in the repository, or None when it failed.
fn git_text(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn describe(commit: &str) -> Commit {
    let subject = git_text(&["log", "-1", "--no-show-signature", "--format=%s", commit]).unwrap_or_default();
    let mut described = Commit {
        id: commit.to_owned(),
        subject: subject.trim().chars().take(MAX_SUBJECT_CHARACTERS).collect(),
        ..Commit::default()
    };
    let listing = Command::new("git")
        .args(["ls-tree", "-r", "-l", "-z", commit])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut listing) = listing else { return described };
    if let Some(output) = listing.stdout.take() {
        for entry in std::io::BufReader::new(output).split(0) {
            let Ok(entry) = entry else { break };
            count_entry(&mut described, &entry);
            // Few objects can make a tree without end (folders that hold the same folder many times); what is over a
            // limit is refused anyway, so that counting on only costs time.
            if described.paths > MAX_PATHS || described.size_bytes > MAX_COUNTED_BYTES {
                described.size_bytes = u64::MAX;
                let _ = listing.kill();
                break;
            }
        }
    }
    // Its status adds nothing: an unreadable commit fails in `git archive`, with git's own words.
    let _ = listing.wait();
    described
}

/// Files that a commit may have; a slug may have no more.
const MAX_PATHS: u64 = 1_000_000;
/// Where counting a commit's bytes ends: over the largest checkout that is accepted.
const MAX_COUNTED_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// One entry of `git ls-tree -r -l`: `<mode> <type> <object> <size>\t<path>`.
fn count_entry(commit: &mut Commit, entry: &[u8]) {
    let entry = String::from_utf8_lossy(entry);
    let Some((meta, path)) = entry.split_once('\t') else { return };
    let mut fields = meta.split_ascii_whitespace();
    let kind = fields.nth(1).unwrap_or_default();
    if kind == "commit" {
        if commit.submodules.len() < MAX_SUBMODULES {
            commit.submodules.push(path.to_owned());
        }
        return;
    }
    commit.paths += 1;
    commit.size_bytes += fields.nth(1).and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
}

/// Streams `git archive` of `commit`. A lost connection ends it silently: nobody is left to tell.
fn send_archive(socket: &UnixStream, commit: &str) {
    let error = match pipe_archive(socket, commit) {
        Ok(error) => error,
        Err(error) => Some(format!("git archive: {error}")),
    };
    let _ = send_json(socket, frame_type::ARCHIVE_END, &ArchiveEnd { error });
}

fn pipe_archive(socket: &UnixStream, commit: &str) -> std::io::Result<Option<String>> {
    let mut child = Command::new("git")
        .args(["-c", "tar.umask=0022", "archive", "--format=tar", commit])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = child.stdout.take().expect("its standard output is piped");
    let mut piece = vec![0u8; ARCHIVE_PIECE_BYTES];
    loop {
        let count = output.read(&mut piece)?;
        if count == 0 {
            break;
        }
        if let Err(error) = send(socket, frame_type::ARCHIVE, &piece[..count]) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    }
    let status = child.wait()?;
    Ok((!status.success()).then(|| format!("git archive ended with {status}")))
}

/// Points HEAD at `branch` when it names a branch that does not exist, so that a clone of a repository that was only
/// ever pushed `master` checks something out. git forbids `symbolic-ref` inside a hook's quarantine, hence the file.
fn set_head(branch: &str) {
    let head = std::fs::read_to_string("HEAD").unwrap_or_default();
    let Some(reference) = head.trim().strip_prefix("ref: ") else { return };
    if reference == format!("refs/heads/{branch}")
        || git_text(&["rev-parse", "--verify", "--quiet", reference]).is_some()
    {
        return;
    }
    let next = format!("HEAD.{}", std::process::id());
    // A HEAD that stays as it was is a nuisance for `git clone`, no reason to decline a push that was released.
    if std::fs::write(&next, format!("ref: refs/heads/{branch}\n")).is_ok()
        && std::fs::rename(&next, "HEAD").is_err()
    {
        let _ = std::fs::remove_file(&next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_listing_is_counted() {
        let mut commit = Commit::default();
        count_entry(&mut commit, b"100644 blob 8ab686eafeb1f44702738c8b0f24f2567c36da6d      14\tREADME");
        count_entry(&mut commit, b"120000 blob 8ab686eafeb1f44702738c8b0f24f2567c36da6d       6\ta\tb");
        count_entry(
            &mut commit,
            b"160000 commit 8ab686eafeb1f44702738c8b0f24f2567c36da6d       -\tvendor/lib",
        );
        assert_eq!((commit.paths, commit.size_bytes), (2, 20));
        assert_eq!(commit.submodules, ["vendor/lib"]);
    }

    #[test]
    fn lines_that_are_no_updates_are_refused() {
        assert!(matches!(read_updates(&b"abc\n"[..]), Err(HookError::Line(_))));
        let line = format!("{0} {0} refs/heads/with-dash\n", "a".repeat(40));
        let updates = read_updates(line.as_bytes()).expect("an update");
        assert_eq!(updates[0].name, "refs/heads/with-dash");
    }
}
