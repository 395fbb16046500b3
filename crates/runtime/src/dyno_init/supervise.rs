//! The long-lived role: one dyno from its first mount to its acknowledged exit.
//!
//! A single-threaded poll loop over: control's connection, the listening socket, SIGCHLD, the dyno's
//! streams, the channel to its first process. Nothing in it waits for control: what control does not
//! take stays in the ring. It never starts anything again; that is control's to decide.

mod guests;
mod life;
mod sleep;

use super::bound::{self, Listening};
use super::outlet::Outlet;
use super::ring::Ring;
use super::streams::Streams;
use super::sys::{self, Context, Failure};
use super::wake_door::WakeDoor;
use crate::cgroup::{self, Cgroup, Hierarchies};
use crate::launch::{LaunchPlan, descriptor, file};
use ferroku_core::protocol::dyno::{FromDynoInit, Hello, PROTOCOL_VERSION, ToDynoInit};
use ferroku_core::uids::DYNO_UID;
use guests::Guests;
use sleep::Sleep;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Starting a container takes some 20 ms, some seconds on a machine in trouble; more is a hang.
const CREATE_MS: u64 = 60_000;
/// Control connects and sends the environment at once, or it has died in between.
const ENVIRONMENT_MS: u64 = 30_000;
/// How often to look for the listener: often while most programs start, then less.
const LOOK_EARLY_MS: u64 = 50;
const LOOK_LATER_MS: u64 = 250;
const EARLY_MS: u64 = 10_000;
/// A dyno that has been silent for so long is idle: what of this program is in memory is given back. The kernel brings
/// it back within microseconds when the dyno speaks again.
const IDLE_MS: i32 = 5_000;

struct Supervisor {
    plan: LaunchPlan,
    cgroup: Cgroup,
    listener: UnixListener,
    signals: OwnedFd,
    outlet: Option<Outlet>,
    ring: Ring,
    streams: Streams,
    guests: Guests,
    guests_first: bool,
    /// To the dyno's first process; its end means that the command runs.
    channel: Option<OwnedFd>,
    creating: Option<Creating>,
    environment: Option<BTreeMap<String, String>>,
    environment_sent: bool,
    init_pid: Option<i32>,
    started_at_ms: Option<u64>,
    bound: bool,
    loopback_told: bool,
    boot_timeout: bool,
    stop_at_ms: Option<u64>,
    stop_timeout: bool,
    sleep: Sleep,
    end: Option<FromDynoInit>,
    release: bool,
    began_at_ms: u64,
}

struct Creating {
    pid: i32,
    result: File,
    /// Children that ended before it was known which of them is the dyno.
    strays: Vec<(i32, i32)>,
}

/// Supervises the dyno whose `launch.json` is in `run_folder`.
pub fn run(run_folder: Option<OsString>) -> Result<u8, Failure> {
    let run_folder = PathBuf::from(run_folder.ok_or_else(|| Failure::new("supervise needs a run folder"))?);
    let plan = LaunchPlan::read(&run_folder).context(|| "read launch.json".into())?;
    let (listener, door, signals) = become_supervisor()?;
    let (streams, inner) = Streams::make(plan.spec.attach, plan.spec.uid_base + DYNO_UID)
        .context(|| "make the standard streams".into())?;
    let hierarchies =
        Hierarchies::detect(Path::new(cgroup::ROOT)).context(|| "look at the cgroups".into())?;
    let mut supervisor = Supervisor {
        cgroup: hierarchies.group(&plan.cgroup),
        ring: Ring::create(&plan.state_folder.join(file::RING)).context(|| "make the log ring".into())?,
        plan,
        listener,
        signals,
        outlet: None,
        streams,
        guests: Guests::default(),
        guests_first: false,
        channel: None,
        creating: None,
        environment: None,
        environment_sent: false,
        init_pid: None,
        started_at_ms: None,
        bound: false,
        loopback_told: false,
        boot_timeout: false,
        stop_at_ms: None,
        stop_timeout: false,
        sleep: Sleep::new(WakeDoor::new(door).context(|| "waking socket".into())?),
        end: None,
        release: false,
        began_at_ms: sys::monotonic_ms(),
    };
    if let Err(failure) = supervisor.create(inner) {
        supervisor.fail(failure.to_string());
    }
    while !supervisor.is_over() {
        supervisor.turn()?;
    }
    Ok(0)
}

/// A session, the dyno's network namespace, the subreaper's role; gives the inherited sockets and SIGCHLD.
fn become_supervisor() -> Result<(UnixListener, UnixListener, OwnedFd), Failure> {
    // SAFETY: the driver started us with these four open and nothing else owns them; the rest are calls without memory.
    unsafe {
        libc::setsid();
        for number in [descriptor::NETWORK, descriptor::LOCK, descriptor::LISTENER, descriptor::WAKE] {
            libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        let network = OwnedFd::from_raw_fd(descriptor::NETWORK);
        sys::check(libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET))
            .context(|| "enter the network namespace".into())?;
        sys::check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)).context(|| "become subreaper".into())?;
        // A stop of the whole node signals everybody; dynos are stopped by control's order only.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGPIPE, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_IGN);
        }
        let signals = sys::child_signals().context(|| "signalfd".into())?;
        let listener = UnixListener::from_raw_fd(descriptor::LISTENER);
        listener.set_nonblocking(true).context(|| "listening socket".into())?;
        let door = UnixListener::from_raw_fd(descriptor::WAKE);
        Ok((listener, door, signals))
    }
}

// === impl Supervisor: one turn of the loop ===

impl Supervisor {
    fn is_over(&self) -> bool {
        self.release && self.init_pid.is_none() && self.creating.is_none()
    }

    fn turn(&mut self) -> Result<(), Failure> {
        self.poll()?;
        self.accept();
        self.receive();
        self.answer_door();
        self.reap();
        self.hear_channel();
        let taken = self.streams.work(&mut self.ring, false);
        if taken > 0 {
            self.tell(&FromDynoInit::StdinConsumed { bytes: taken as u64 });
        }
        self.guests.work();
        self.watch_clock();
        self.pump();
        Ok(())
    }

    fn poll(&self) -> Result<(), Failure> {
        let mut waits: Vec<(BorrowedFd<'_>, i16)> = self.streams.interests();
        waits.push((self.listener.as_fd(), libc::POLLIN));
        waits.push((self.signals.as_fd(), libc::POLLIN));
        waits.extend(self.sleep.door.interests().map(|fd| (fd, libc::POLLIN)));
        if let Some(channel) = &self.channel {
            waits.push((channel.as_fd(), libc::POLLIN));
        }
        if let Some(outlet) = &self.outlet {
            // What found no room before the last flush must not wait for something else to happen.
            let unsent = !self.ring.is_read() || self.streams.has_waiting_output();
            let more = outlet.has_output()
                || outlet.greeted && (self.may_tell() && unsent || self.guests.has_something_to_tell());
            waits.push((outlet.as_fd(), if more { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN }));
        }
        self.guests.interests(&mut waits);
        let wait = |ms| sys::poll(&waits, ms).map_err(|error| Failure::new(format!("poll: {error}")));
        let timeout_ms = self.timeout_ms();
        match timeout_ms {
            0..=IDLE_MS => wait(timeout_ms)?,
            _ => match wait(IDLE_MS)? {
                0 => {
                    // Right before the wait: the loop's next turn brings back what it uses.
                    sys::give_memory_back();
                    wait(if timeout_ms < 0 { timeout_ms } else { timeout_ms - IDLE_MS })?
                }
                ready => ready,
            },
        };
        Ok(())
    }

    /// Until the next thing that only the clock brings.
    fn timeout_ms(&self) -> i32 {
        let now = sys::monotonic_ms();
        let due = self.guests.due_at_ms().into_iter().chain(self.sleep.release_at_ms);
        let mut until: Vec<u64> = self.stop_at_ms.into_iter().chain(due).collect();
        if self.creating.is_some() {
            until.push(self.began_at_ms + CREATE_MS);
        } else if self.environment.is_none() && !self.environment_sent && self.end.is_none() {
            until.push(self.began_at_ms + ENVIRONMENT_MS);
        }
        if let Some(started) = self.watches_port() {
            let pause = if now < started + EARLY_MS { LOOK_EARLY_MS } else { LOOK_LATER_MS };
            until.push(now + pause);
        }
        until.into_iter().min().map_or(-1, |at| i32::try_from(at.saturating_sub(now)).unwrap_or(i32::MAX))
    }

    fn watches_port(&self) -> Option<u64> {
        let wanted = self.plan.spec.boot_timeout_ms.is_some() && !self.bound && self.init_pid.is_some();
        self.started_at_ms.filter(|_| wanted)
    }

    fn accept(&mut self) {
        let Ok((socket, _)) = self.listener.accept() else { return };
        // A newer connection is a newer control: the old one is gone, or will notice.
        self.outlet = Outlet::new(socket.into()).ok();
        self.guests.hang_up_all();
    }

    fn receive(&mut self) {
        let Some(outlet) = &mut self.outlet else { return };
        let Some(messages) = outlet.receive() else {
            self.outlet = None;
            self.guests.hang_up_all();
            if self.environment.is_none() && !self.environment_sent && self.end.is_none() {
                self.fail("control went away before it had given the environment".into());
            }
            return;
        };
        for message in messages {
            self.obey(message);
        }
    }

    fn obey(&mut self, message: ToDynoInit) {
        match message {
            ToDynoInit::Hello(_) => self.greet(),
            ToDynoInit::Environment(environment) => {
                if !self.environment_sent && self.environment.is_none() {
                    self.environment = Some(environment);
                    self.order();
                }
            }
            ToDynoInit::Acknowledge(sequence) => self.ring.acknowledge(sequence),
            ToDynoInit::Signal(signal) => self.signal(signal),
            ToDynoInit::Stop { grace_ms } => {
                self.signal(libc::SIGTERM);
                let at = sys::monotonic_ms() + grace_ms;
                self.stop_at_ms = Some(self.stop_at_ms.map_or(at, |earlier| earlier.min(at)));
            }
            ToDynoInit::Kill => self.kill(),
            ToDynoInit::Stdin(bytes) => {
                if let Streams::Attached(attached) = &mut self.streams {
                    attached.push_input(&bytes);
                }
            }
            ToDynoInit::CloseStdin => {
                if let Streams::Attached(attached) = &mut self.streams {
                    attached.close_input();
                }
            }
            ToDynoInit::Resize { rows, columns } => {
                if let Streams::Attached(attached) = &mut self.streams {
                    attached.resize(rows, columns);
                }
            }
            ToDynoInit::Freeze { sleep_id } => self.freeze(sleep_id),
            ToDynoInit::Thaw { sleep_id } => self.thaw(sleep_id),
            ToDynoInit::Release => {
                self.release = true;
                self.kill();
            }
            ToDynoInit::Exec { id, order } => {
                self.thaw_for_guest();
                let runs = self.started_at_ms.is_some() && self.end.is_none();
                self.guests.start(id, &order, runs, self.plan.spec.uid_base + DYNO_UID);
            }
            ToDynoInit::ExecInput { id, bytes } => self.guests.input(id, &bytes),
            ToDynoInit::ExecCloseInput { id } => self.guests.close_input(id),
            ToDynoInit::ExecResize { id, rows, columns } => self.guests.resize(id, rows, columns),
            ToDynoInit::ExecSignal { id, signal } => self.guests.signal(id, signal),
            ToDynoInit::ExecHangup { id } => self.guests.hang_up(id),
            ToDynoInit::ExecOutputTaken { id, bytes } => self.guests.output_taken(id, bytes),
        }
    }

    /// Tells a new control all that it may have missed.
    fn greet(&mut self) {
        let hello = FromDynoInit::Hello(Hello {
            version: PROTOCOL_VERSION,
            digest: self.plan.digest.clone(),
            dyno_id: self.plan.spec.dyno_id.to_string(),
            nonce: self.plan.nonce.clone(),
            pid: std::process::id(),
        });
        let state = [
            (self.started_at_ms.is_some(), FromDynoInit::Started),
            (self.bound, FromDynoInit::Bound),
            (self.boot_timeout, FromDynoInit::BootTimeout),
            (self.stop_timeout, FromDynoInit::StopTimeout),
        ];
        let sleep = self.sleep.state();
        let Some(outlet) = &mut self.outlet else { return };
        outlet.greeted = true;
        outlet.tell(&hello);
        for (holds, message) in state {
            if holds {
                outlet.tell(&message);
            }
        }
        if let Some(sleep) = sleep {
            outlet.tell(&sleep);
        }
        self.ring.rewind();
    }

    /// Without a control, the state itself remembers: see [`Supervisor::greet`].
    fn tell(&mut self, message: &FromDynoInit) {
        if let Some(outlet) = self.outlet.as_mut().filter(|outlet| outlet.greeted) {
            outlet.tell(message);
        }
    }

    /// The first words of a command can be here before the news that it runs.
    fn may_tell(&self) -> bool {
        self.started_at_ms.is_some() || self.end.is_some()
    }

    /// Everything that is ready goes to control; its end comes last.
    fn pump(&mut self) {
        let may_tell = self.may_tell();
        let Some(outlet) = self.outlet.as_mut().filter(|outlet| outlet.greeted) else { return };
        // Whoever comes first may fill all the room: the dyno's lines and further commands take turns.
        self.guests_first = !self.guests_first;
        if self.guests_first {
            self.guests.tell(outlet);
        }
        if may_tell {
            outlet.take_lines(&mut self.ring);
        }
        let mut all_told = self.ring.is_read();
        if let Streams::Attached(attached) = &mut self.streams {
            if may_tell && outlet.has_room() && !attached.waiting_output.is_empty() {
                outlet.tell(&FromDynoInit::Output(std::mem::take(&mut attached.waiting_output)));
            }
            all_told &= attached.waiting_output.is_empty();
        }
        if let (true, false, Some(end)) = (all_told, outlet.end_told, &self.end) {
            outlet.tell(end);
            outlet.end_told = true;
        }
        self.guests.tell(outlet);
        if !outlet.flush() {
            self.outlet = None;
            self.guests.hang_up_all();
        }
    }

    fn watch_clock(&mut self) {
        let now = sys::monotonic_ms();
        self.release_masters(now);
        if self.stop_at_ms.is_some_and(|at| now >= at) {
            self.stop_at_ms = None;
            if self.init_pid.is_some() {
                self.stop_timeout = true;
                self.tell(&FromDynoInit::StopTimeout);
                self.kill();
            }
        }
        if self.creating.is_some() && now > self.began_at_ms + CREATE_MS {
            self.kill();
        }
        let waits = self.environment.is_none() && !self.environment_sent && self.end.is_none();
        if waits && now > self.began_at_ms + ENVIRONMENT_MS {
            self.fail("no environment came from control".into());
        }
        self.look_at_port(now);
    }

    fn look_at_port(&mut self, now: u64) {
        let (Some(started), Some(network), Some(port), Some(timeout_ms)) =
            (self.watches_port(), self.plan.network, self.plan.spec.port, self.plan.spec.boot_timeout_ms)
        else {
            return;
        };
        match bound::look(network.address, port) {
            Listening::Reachable => {
                self.bound = true;
                self.tell(&FromDynoInit::Bound);
                return;
            }
            Listening::LoopbackOnly if !self.loopback_told => {
                self.loopback_told = true;
                self.tell(&FromDynoInit::BoundLoopbackOnly);
            }
            _ => {}
        }
        if !self.boot_timeout && now >= started + timeout_ms {
            self.boot_timeout = true;
            self.tell(&FromDynoInit::BootTimeout);
        }
    }
}
