//! Running a command line as a person would, with a limit of time.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a command said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// Its exit status; 128 + signal if a signal ended it.
    pub status: i32,
    /// stdout and stderr as they came, in one.
    pub text: String,
}

impl CommandOutput {
    /// This output, of a command that had to succeed.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.status, 0, "the command failed:\n{}", self.text);
        self
    }
}

/// Runs `command` to its end; kills its whole process group after `limit`.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub fn run(command: &mut Command, limit: Duration) -> CommandOutput {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    command.stdin(Stdio::null()).stdout(writer.try_clone().expect("a copy")).stderr(writer).process_group(0);
    let shown = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    // The command keeps its ends of the pipe in this process until they are replaced.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let text = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if Instant::now() > deadline {
            kill_group(child.id());
            let _ = child.wait();
            let text = text.join().unwrap_or_default();
            panic!("no end after {limit:?}: {shown}\n{text}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    use std::os::unix::process::ExitStatusExt;
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    CommandOutput { status, text: text.join().unwrap_or_default() }
}

/// Kills a process group that [`CommandExt::process_group`] made.
pub fn kill_group(leader: u32) {
    if let Some(pid) = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}
