//! One of the two processes that the supervisor keeps alive: started, adopted, watched, stopped.

use super::error::SupervisorError;
use super::pid_file;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A process that lived this long was healthy: its end does not count towards the back-off.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// Waits before the next start after 1, 2, 3 ... ends in a row; the first start is at once, because the usual end is a
/// single kill. The last value repeats: a process that cannot live costs one start in five seconds.
const RESTART_DELAYS_MS: [u64; 6] = [0, 100, 500, 1_000, 2_000, 5_000];

/// How often a process that is to be replaced is looked at.
const RELEASE_PAUSE: Duration = Duration::from_millis(5);

/// A process to keep alive.
#[derive(Debug)]
pub struct Process {
    pub name: &'static str,
    pid_file: PathBuf,
    running: Option<Running>,
    ends_in_a_row: usize,
    start_at: Option<Instant>,
    /// Whether it ever served under this supervisor, or one before it.
    pub was_ready: bool,
}

#[derive(Debug)]
struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    since: Instant,
    ready: bool,
}

impl Process {
    /// A process that does not run yet and is due at once.
    pub fn new(name: &'static str, pid_file: PathBuf) -> Self {
        Self {
            name,
            pid_file,
            running: None,
            ends_in_a_row: 0,
            start_at: Some(Instant::now()),
            was_ready: false,
        }
    }

    /// Takes over the one that an earlier supervisor started, if it lives.
    pub fn adopt(&mut self) -> bool {
        let Some(found) = pid_file::find(&self.pid_file) else { return false };
        self.running =
            Some(Running { pid: found.pid, pidfd: found.pidfd, since: Instant::now(), ready: false });
        self.start_at = None;
        true
    }

    /// Starts it now. It gets its own process group, so that Ctrl-C reaches the supervisor alone.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn start(&mut self, command: &mut Command) -> Result<(), SupervisorError> {
        let failed = |source| SupervisorError::Spawn { name: self.name, source };
        // What an earlier process said of itself must not be taken for this one's word.
        std::fs::write(&self.pid_file, "").map_err(failed)?;
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn().map_err(failed)?;
        let raw = i32::try_from(child.id()).map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
        let pid = Pid::from_raw(raw).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        // Not reaped yet, so the pid is still its own even if it died already.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
        self.running = Some(Running { pid, pidfd, since: Instant::now(), ready: false });
        self.start_at = None;
        Ok(())
    }

    /// When it should be started, if it does not run.
    pub fn start_at(&self) -> Option<Instant> {
        self.start_at
    }

    /// Becomes readable when it ends.
    pub fn pidfd(&self) -> Option<&OwnedFd> {
        self.running.as_ref().map(|running| &running.pidfd)
    }

    pub fn pid(&self) -> Option<Pid> {
        self.running.as_ref().map(|running| running.pid)
    }

    /// Whether it serves; looks at its pid file until it does.
    pub fn is_ready(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        if !running.ready {
            running.ready = pid_file::is_ready(&self.pid_file, running.pid);
            self.was_ready |= running.ready;
        }
        running.ready
    }

    /// Whether `pid`, one of these that ended, had said that it was done.
    pub fn is_done(&self, pid: Pid) -> bool {
        pid_file::is_done(&self.pid_file, pid)
    }

    /// Whether it runs but did not say yet that it serves.
    pub fn is_starting(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.ready)
    }

    /// Notes its end if it ended; returns whether it did. Plans the next start.
    pub fn note_end(&mut self) -> bool {
        let Some(running) = &self.running else { return false };
        if !has_ended(&running.pidfd, Duration::ZERO) {
            return false;
        }
        self.ends_in_a_row = if running.since.elapsed() > HEALTHY_AFTER { 1 } else { self.ends_in_a_row + 1 };
        let delay_ms = RESTART_DELAYS_MS[(self.ends_in_a_row - 1).min(RESTART_DELAYS_MS.len() - 1)];
        self.start_at = Some(Instant::now() + Duration::from_millis(delay_ms));
        self.running = None;
        true
    }

    /// Sends it a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(running) = &self.running {
            // ESRCH: it ended already, which is what every signal here is for.
            let _ = pidfd_send_signal(&running.pidfd, signal);
        }
    }

    /// Waits until its successor may start: until it let go of its pid file, though it may still be draining, or ended.
    /// After `limit` it is killed. Plans no next start.
    pub fn wait_released(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while let Some(running) = &self.running {
            if has_ended(&running.pidfd, RELEASE_PAUSE) || pid_file::find(&self.pid_file).is_none() {
                self.running = None;
            } else if Instant::now() >= deadline {
                self.wait_end(Duration::ZERO);
            }
        }
        self.start_at = None;
    }

    /// Waits until it ended, and kills it when it did not in time. Plans no next start.
    pub fn wait_end(&mut self, limit: Duration) {
        self.start_at = None;
        let Some(running) = self.running.take() else { return };
        if !has_ended(&running.pidfd, limit) {
            let _ = pidfd_send_signal(&running.pidfd, Signal::KILL);
            has_ended(&running.pidfd, Duration::from_secs(5));
        }
    }
}

fn has_ended(pidfd: &OwnedFd, wait: Duration) -> bool {
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut descriptors = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(count) if count > 0 => return true,
            // A signal came in between; the deadline still stands.
            Err(rustix::io::Errno::INTR) => {}
            _ => return false,
        }
    }
}
