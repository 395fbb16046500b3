//! Child processes whose output becomes text of the build.

use crate::context::Environment;
use crate::output::Output;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longest line that is passed on in one piece, in bytes: a program that never ends a line must not fill the memory.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// How long output may still come after the process itself has ended, in milliseconds: long enough for what is in the
/// pipe, while a daemon that it left behind and that holds the pipe open does not hold up the build.
const DRAIN_TIMEOUT_MS: u64 = 1_000;

/// How much of a program's output [`run_and_remember`] gives back, in bytes: the last words of a failed program.
const MAX_TAIL_BYTES: usize = 16 * 1024;

/// How many bytes of output [`capture`] keeps of each stream: enough for any error text or release file.
const MAX_CAPTURED_BYTES: u64 = 1024 * 1024;

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Captured {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A command with exactly this environment, working folder and no standard input.
#[must_use]
pub fn command(program: impl AsRef<OsStr>, environment: &Environment, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(environment).current_dir(directory).stdin(Stdio::null());
    command
}

/// Runs `command` and shows each line it prints on stdout or stderr, in the order written, behind `prefix`.
///
/// # Errors
/// It could not be started or waited for.
pub fn run(command: Command, output: &Output, prefix: &'static str) -> io::Result<ExitStatus> {
    Ok(run_and_remember(command, output, prefix)?.0)
}

/// Like [`run`]; gives back the last lines as well, at most 16 KB of them.
///
/// # Errors
/// It could not be started or waited for.
pub fn run_and_remember(
    mut command: Command,
    output: &Output,
    prefix: &'static str,
) -> io::Result<(ExitStatus, String)> {
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command holds the write ends: without dropping it the reader would never see the end.
    drop(command);
    let (done, finished) = mpsc::channel();
    let sink = output.clone();
    // Not joined: it may wait for a daemon that outlives the build.
    std::thread::spawn(move || done.send(copy_lines(reader, &sink, prefix)));
    let status = child.wait()?;
    let tail = finished.recv_timeout(Duration::from_millis(DRAIN_TIMEOUT_MS)).unwrap_or_default();
    Ok((status, String::from_utf8_lossy(&tail).into_owned()))
}

/// Runs `command` and gives back what it printed, at most 1 MB of each stream.
///
/// # Errors
/// It could not be started or waited for.
pub fn capture(mut command: Command) -> io::Result<Captured> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().expect("stderr was set to a pipe above");
    let stdout = child.stdout.take().expect("stdout was set to a pipe above");
    let errors = std::thread::spawn(move || read_some(stderr));
    let stdout = read_some(stdout);
    let stderr = errors.join().unwrap_or_default();
    Ok(Captured { status: child.wait()?, stdout, stderr })
}

/// Where on the `PATH` of `environment` the program `name` is.
#[must_use]
pub fn find_program(name: &str, environment: &Environment) -> Option<PathBuf> {
    let path = environment.get(OsStr::new("PATH"))?;
    std::env::split_paths(path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// How a process ended, for an error text: `exit status 1`, `killed by signal 9`.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "killed (signal 9): out of memory, or stopped from outside".to_owned(),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "no exit status".to_owned(),
    }
}

/// Gives the last lines back.
fn copy_lines(reader: PipeReader, sink: &Output, prefix: &str) -> Vec<u8> {
    let mut reader = BufReader::new(reader);
    let (mut line, mut tail) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return tail,
            Ok(_) => {
                sink.bytes(if line == b"\n" { "" } else { prefix }, line.strip_suffix(b"\n").unwrap_or(&line))
            }
        }
        tail.extend_from_slice(&line);
        if tail.len() > MAX_TAIL_BYTES {
            tail.drain(..tail.len() - MAX_TAIL_BYTES);
        }
    }
}

fn read_some(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = stream.by_ref().take(MAX_CAPTURED_BYTES).read_to_end(&mut bytes);
    // The rest is read and dropped, so that the program does not die of a closed pipe.
    let _ = io::copy(&mut stream, &mut io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}
