//! What `supervise` does to the dyno itself: makes it, hands the environment in, hears of its start, ends it.

use super::{Creating, Supervisor};
use crate::dyno_init::streams::{InnerEnds, Streams};
use crate::dyno_init::sys::{self, Context, Failure};
use crate::dyno_init::{CANNOT_RUN, create, mounts};
use crate::launch::{ExitRecord, file};
use ferroku_core::protocol::dyno::{FromDynoInit, Order};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

impl Supervisor {
    /// Makes the file system, and meanwhile has the program that makes the container prepare it: each of the two spends
    /// most of its time waiting for the kernel, one for a disk, the other for a group of processes.
    pub(super) fn create(&mut self, inner: InnerEnds) -> Result<(), Failure> {
        let base = mounts::leave_host(&self.plan)?;
        let go = self.spawn_creator(inner, &mounts::root(&base))?;
        mounts::make(&self.plan, &base)?;
        // If it has ended, its own words say why.
        let _ = sys::write(go.as_fd(), &[create::GO]);
        Ok(())
    }

    /// Spawns the program that makes the container as soon as it is told that the root folder is there. To close what is
    /// returned without a word tells it to end.
    fn spawn_creator(&mut self, inner: InnerEnds, root: &Path) -> Result<OwnedFd, Failure> {
        let (wait, go) = sys::pipe().context(|| "pipe".into())?;
        let (ours, theirs) = sys::socket_pair().context(|| "socket pair".into())?;
        let (result, report) = sys::pipe().context(|| "pipe".into())?;
        let strings = |texts: &[&[u8]]| -> Vec<CString> {
            texts.iter().filter_map(|text| CString::new(*text).ok()).collect()
        };
        let path = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        let (run_folder, root) = (path(&self.plan.run_folder), path(root));
        let arguments = strings(&[b"dyno-create", &run_folder, &root]);
        let program = CString::new(path(&self.plan.create_program)).context(|| "program's path".into())?;
        let null = File::options().read(true).open("/dev/null").context(|| "open /dev/null".into())?;
        let mut descriptors: [(RawFd, RawFd); 8] = [
            (null.as_raw_fd(), 0),
            (report.as_raw_fd(), 1),
            (report.as_raw_fd(), 2),
            (theirs.as_raw_fd(), create::descriptor::CHANNEL),
            (inner.stdin.as_raw_fd(), create::descriptor::STDIN),
            (inner.stdout.as_raw_fd(), create::descriptor::STDOUT),
            (inner.stderr.as_raw_fd(), create::descriptor::STDERR),
            (wait.as_raw_fd(), create::descriptor::GO),
        ];
        let Some(pid) = sys::fork().context(|| "fork".into())? else {
            sys::reset_signals();
            if sys::spawn_setup(&mut descriptors).is_ok() {
                sys::execute(&program, &arguments, &[]);
            }
            // SAFETY: ends the child without running what the parent registered.
            unsafe { libc::_exit(i32::from(CANNOT_RUN)) }
        };
        sys::set_nonblocking(result.as_fd()).context(|| "pipe".into())?;
        sys::set_nonblocking(ours.as_fd()).context(|| "socket".into())?;
        self.channel = Some(ours);
        self.creating = Some(Creating { pid, result: result.into(), strays: Vec::new() });
        Ok(go)
    }

    pub(super) fn reap(&mut self) {
        sys::drain_signals(self.signals.as_fd());
        while let Some((pid, code)) = sys::reap() {
            if self.creating.as_ref().is_some_and(|creating| creating.pid == pid) {
                self.created(code);
            } else if self.init_pid == Some(pid) {
                self.ended(code);
            } else if let Some(creating) = &mut self.creating {
                creating.strays.push((pid, code));
            }
        }
    }

    /// `create` has ended: its output is the pid of the dyno's first process, or what went wrong.
    fn created(&mut self, code: i32) {
        let Some(mut creating) = self.creating.take() else { return };
        let mut output = Vec::new();
        // The pipe may still be open in a process that failed half-way: what is there is enough.
        let _ = creating.result.read_to_end(&mut output);
        let output = String::from_utf8_lossy(&output);
        let pid = output.lines().last().and_then(|line| line.trim().parse::<i32>().ok());
        match (code, pid) {
            (0, Some(pid)) => {
                self.init_pid = Some(pid);
                if let Some((_, code)) = creating.strays.iter().find(|(stray, _)| *stray == pid) {
                    self.ended(*code);
                } else if self.release {
                    self.kill();
                } else {
                    self.order();
                }
            }
            _ => {
                let _ = self.cgroup.kill();
                let reason = output.trim();
                self.fail(if reason.is_empty() {
                    format!("create ended with {code}")
                } else {
                    reason.into()
                });
            }
        }
    }

    /// Hands the environment in, once both it and the dyno's first process are there.
    pub(super) fn order(&mut self) {
        if self.init_pid.is_none() {
            return;
        }
        let (Some(environment), Some(channel)) = (self.environment.take(), &self.channel) else { return };
        self.environment_sent = true;
        let order = Order {
            environment,
            command: self.plan.spec.command.clone(),
            terminal: self.plan.spec.attach.and_then(|attach| attach.terminal),
        };
        let Ok(bytes) = serde_json::to_vec(&order) else { return };
        // Our own program at the other end reads it at once; if that has died, its exit says so.
        let sent = channel.try_clone().and_then(|channel| {
            // SAFETY: a plain flag call on an open descriptor.
            sys::check(unsafe { libc::fcntl(channel.as_raw_fd(), libc::F_SETFL, 0) })?;
            sys::send_descriptors(channel.as_fd(), &[1], &[self.guests.open()?.as_fd()])?;
            let mut channel = File::from(channel);
            channel.write_all(&(bytes.len() as u32).to_le_bytes())?;
            channel.write_all(&bytes)
        });
        let _ = sys::set_nonblocking(channel.as_fd());
        let mut bytes = bytes;
        bytes.fill(0);
        if sent.is_err() {
            self.kill();
        }
    }

    /// The dyno's first process sends the terminal's master; the end of the channel means that the command runs.
    pub(super) fn hear_channel(&mut self) {
        let Some(channel) = &self.channel else { return };
        let mut buffer = [0; 16];
        match sys::receive_with_descriptor(channel.as_fd(), &mut buffer) {
            Ok((0, _)) => {
                self.channel = None;
                if self.environment_sent && self.end.is_none() {
                    self.started_at_ms = Some(sys::monotonic_ms());
                    self.tell(&FromDynoInit::Started);
                    if self.stop_at_ms.is_some() {
                        // It came before there was anybody to hear it.
                        self.signal(libc::SIGTERM);
                    }
                }
            }
            Ok((_, Some(master))) => {
                if let Streams::Attached(attached) = &mut self.streams
                    && attached.set_terminal(master).is_err()
                {
                    self.kill();
                }
            }
            Ok((_, None)) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.channel = None,
        }
    }

    /// To every process of the app. Before its command runs, all there is are our own programs that make the dyno.
    pub(super) fn signal(&mut self, signal: i32) {
        self.let_run();
        if self.started_at_ms.is_some() {
            self.cgroup.signal(signal);
        }
    }

    /// All of the dyno: the end of its first process is the end of its pid namespace.
    pub(super) fn kill(&mut self) {
        if let Some(pid) = self.init_pid {
            sys::kill(pid, libc::SIGKILL);
            // What is frozen by version 1 dies only when it is thawed; the signal comes first.
            self.let_run();
        } else if let Some(creating) = &self.creating {
            sys::kill(creating.pid, libc::SIGKILL);
        }
    }

    fn ended(&mut self, status: i32) {
        self.hear_channel();
        self.init_pid = None;
        self.channel = None;
        self.stop_at_ms = None;
        self.sleep.frozen = None;
        self.streams.work(&mut self.ring, true);
        self.ring.finish();
        self.guests.dyno_ended();
        const KILLED: i32 = 128 + libc::SIGKILL;
        let oom_killed = status == KILLED && self.cgroup.oom_kills() > 0;
        let record = ExitRecord { status, at_us: sys::now_us(), oom_killed };
        if let Err(error) = write_record(&self.plan.state_folder, &record) {
            // Control still gets it from us; only our own death before that would lose it.
            let _ = writeln!(std::io::stderr(), "write the exit record: {error}");
        }
        let ExitRecord { status, at_us, oom_killed } = record;
        self.end = Some(FromDynoInit::Exited { status, at_us, oom_killed });
    }

    pub(super) fn fail(&mut self, message: String) {
        self.kill();
        if self.end.is_none() {
            self.end = Some(FromDynoInit::StartFailed { message });
        }
    }
}

/// Whole or not at all, and safe from a power cut.
fn write_record(folder: &Path, record: &ExitRecord) -> std::io::Result<()> {
    let temporary = folder.join("exit.json.new");
    let mut file = File::create(&temporary)?;
    serde_json::to_writer(&mut file, record)?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(file::EXIT))?;
    File::open(folder)?.sync_all()
}
