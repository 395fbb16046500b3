//! How a process says that it lives, and is found again: a locked file with its pid in it.
//!
//! The process itself holds a lock on the file for as long as it lives, so the file of a dead process
//! is told from that of a live one whatever pids were reused since. The second line says `ready` once
//! the process serves, the last one `done` once it has done all that its end asks of it.
//!
//! Invariant: a pid read here is only used through a pidfd that was opened while the lock was held.

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// A look at the file locks it for microseconds, and the process that is replaced may be about to end: half a second of
/// tries tells both from a holder that stays.
const HOLD_TRIES: u32 = 50;
const HOLD_PAUSE: Duration = Duration::from_millis(10);

/// Kept by a process for its whole life.
#[derive(Debug)]
pub struct PidFile {
    file: File,
}

impl PidFile {
    /// Claims the file for this process.
    ///
    /// # Errors
    /// Another live process holds it (`WouldBlock`), or it cannot be written.
    pub fn hold(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut tries = 0;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            tries += 1;
            if tries == HOLD_TRIES {
                return Err(error.into());
            }
            std::thread::sleep(HOLD_PAUSE);
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { file })
    }

    /// Says that this process serves now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn ready(&mut self) -> io::Result<()> {
        self.file.write_all(b"ready\n")
    }

    /// Says that this process has left nothing undone and ends now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn done(&mut self) -> io::Result<()> {
        self.file.write_all(b"done\n")
    }
}

/// What a pid file says.
#[derive(Debug)]
pub struct Found {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// The live process that holds the file at `path`, if there is one.
pub fn find(path: &Path) -> Option<Found> {
    let mut file = File::open(path).ok()?;
    if !is_held(&file) {
        return None;
    }
    let pid = read(&mut file).ok()?.pid?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Held still: the pid cannot have passed to another process in between.
    is_held(&file).then_some(Found { pid, pidfd })
}

/// Whether the live process `pid` said in the file at `path` that it serves.
pub fn is_ready(path: &Path, pid: Pid) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    read(&mut file).is_ok_and(|content| content.ready && content.pid == Some(pid))
}

/// Whether the process `pid`, which has ended, said in the file at `path` that it had done all.
pub fn is_done(path: &Path, pid: Pid) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    read(&mut file).is_ok_and(|content| content.done && content.pid == Some(pid))
}

struct Content {
    pid: Option<Pid>,
    ready: bool,
    done: bool,
}

fn read(file: &mut File) -> io::Result<Content> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
    Ok(Content { pid, ready: lines.next() == Some("ready"), done: text.ends_with("done\n") })
}

fn is_held(file: &File) -> bool {
    match flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            // A process that is just claiming the file must not find it locked by this look.
            let _ = flock(file, FlockOperation::Unlock);
            false
        }
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_holder_is_found_and_a_dead_one_is_not() {
        let folder = tempfile::tempdir().expect("temp folder");
        let path = folder.path().join("control.pid");
        assert!(find(&path).is_none(), "no file");
        let mut held = PidFile::hold(&path).expect("free");
        let found = find(&path).expect("this process holds it");
        assert_eq!(found.pid, rustix::process::getpid());
        assert!(!is_ready(&path, found.pid));
        held.ready().expect("writable");
        assert!(is_ready(&path, found.pid));
        assert_eq!(PidFile::hold(&path).expect_err("held").kind(), io::ErrorKind::WouldBlock);
        drop(held);
        assert!(find(&path).is_none(), "the file is left but nobody holds it");
    }
}
