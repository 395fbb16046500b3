//! The supervisor: what `ferrokud server` runs.
//!
//! Single-threaded and tiny: no SQL, no TLS, no asynchronous runtime. It binds the listening sockets once,
//! starts control and the router with them, and replaces either when it ends. It says `ready ...` on stdout
//! once both serve.
//!
//! In: signals (SIGTERM, SIGINT: stop everything; SIGHUP: replace everything but the dynos) and lines on
//! DIR/run/supervisor.sock (`status`, `restart`). Out: SIGINT to control means "stop the dynos, then end",
//! SIGTERM "end, and leave the dynos".
//!
//! Invariants:
//! - Its own death takes nothing along: a new supervisor gets the sockets back from the router and adopts both
//!   processes by their locked pid files.
//! - Nobody else reaps: it is the subreaper of every orphan below it.

pub mod client;
mod data_folder;
mod error;
pub mod pid_file;
mod process;
mod signals;
mod sockets;

pub use error::SupervisorError;

use crate::args::NodeArgs;
use crate::env_command::ENDPOINT_FILE;
use crate::tls::Given;
use data_folder::DataFolder;
use error::system;
use ferroku_router::socket;
use ferroku_runtime::spawn;
use process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, getuid, set_child_subreaper, wait};
use signals::{Signals, Told};
use sockets::Sockets;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Set for a supervisor that re-executed itself: API and router listener and lock are inherited as descriptors 3, 4
/// and 5, the router's second listener as 6 when there is one.
const REEXECUTED: &str = "FERROKU_REEXECUTED";
/// How often a process that is starting is looked at: what a node's start may cost at most beside its own work.
const READY_POLL: Duration = Duration::from_millis(5);
/// Control has 30 s to drain dynos (Heroku's limit), and some to write down what happened.
const CONTROL_STOP_LIMIT: Duration = Duration::from_secs(45);
/// How often a control process that ends before it has stopped the dynos is replaced.
const CONTROL_STOP_TRIES: u32 = 3;
/// The router lets requests in flight end for up to 30 s (Heroku's request timeout).
const ROUTER_STOP_LIMIT: Duration = Duration::from_secs(35);
/// A client of the supervisor's socket says its line at once or not at all.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);

struct Supervisor {
    args: NodeArgs,
    /// The program on disk, remembered at start: after an upgrade, `/proc/self/exe` names the deleted one.
    program: PathBuf,
    folder: DataFolder,
    sockets: Sockets,
    signals: Signals,
    requests: UnixListener,
    control: Process,
    router: Process,
    said_ready: bool,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// It could not start; everything that was started is stopped again.
pub fn run(args: NodeArgs) -> Result<ExitCode, SupervisorError> {
    if !getuid().is_root() {
        return Err(SupervisorError::NotRoot);
    }
    let signals = Signals::listen().map_err(system("listen for signals"))?;
    set_child_subreaper(Some(getpid())).map_err(system("become the reaper of orphans"))?;
    let program = std::env::current_exe().map_err(system("find my own program"))?;
    let (folder, inherited) = if std::env::var_os(REEXECUTED).is_some() {
        let take = |index| spawn::take_inherited(index).map_err(system("take over my own sockets"));
        let (api, router) = (take(0)?.into(), take(1)?.into());
        let folder = DataFolder::with_lock(args.data.data.clone(), take(2)?.into())?;
        let router_tls = args.router_tls.map(|_| take(3).map(Into::into)).transpose()?;
        (folder, Some(Sockets { api, router, router_tls }))
    } else {
        // Said to whoever starts the node; what goes bad later takes nothing down.
        if let Some(given) = Option::<Given>::from(args.certificate.clone()) {
            given.check()?;
        }
        (DataFolder::open(&args.data.data)?, None)
    };
    let mut control = Process::new("control", folder.run().join("control.pid"));
    let mut router = Process::new("router", folder.run().join("router.pid"));
    let sockets = match inherited {
        Some(sockets) => {
            // A program that cannot start must not end the node it was to upgrade: it is tried again.
            (control.was_ready, router.was_ready) = (true, true);
            sockets
        }
        None => {
            adopt_or_bind(&args, &folder, &mut control, &mut router).inspect_err(|_| folder.unmount_run())?
        }
    };
    let mut args = args;
    args.data.data = folder.path.clone();
    args.listen = sockets.api.local_addr().map_err(system("ask for the API's address"))?;
    args.router = sockets.router.local_addr().map_err(system("ask for the router's address"))?;
    if let Some(listener) = &sockets.router_tls {
        args.router_tls = Some(listener.local_addr().map_err(system("ask for the router's https address"))?);
    }
    let requests =
        socket::bind(&folder.path.join(client::SOCKET)).map_err(system("listen for `ferrokud restart`"))?;
    std::fs::write(folder.path.join(ENDPOINT_FILE), args.listen.to_string())
        .map_err(system("write run/endpoint"))?;
    let supervisor =
        Supervisor { args, program, folder, sockets, signals, requests, control, router, said_ready: false };
    supervisor.supervise()
}

/// The sockets of a node whose supervisor died, with its processes; else new ones.
fn adopt_or_bind(
    args: &NodeArgs,
    folder: &DataFolder,
    control: &mut Process,
    router: &mut Process,
) -> Result<Sockets, SupervisorError> {
    let control_lives = control.adopt();
    if router.adopt() {
        if let Some(sockets) =
            sockets::take_back(&folder.run().join("router.sock")).filter(|sockets| sockets.fit(args))
        {
            return Ok(sockets);
        }
        router.signal(Signal::TERM);
        router.wait_end(ROUTER_STOP_LIMIT);
        *router = Process::new("router", folder.run().join("router.pid"));
    }
    if control_lives {
        // It serves on sockets that nobody can hand on any more, or on other addresses than are asked for now.
        control.signal(Signal::TERM);
        control.wait_end(CONTROL_STOP_LIMIT);
        *control = Process::new("control", folder.run().join("control.pid"));
    }
    Sockets::bind(args)
}

enum Next {
    GoOn,
    Stop,
    Restart,
}

impl Supervisor {
    fn supervise(mut self) -> Result<ExitCode, SupervisorError> {
        loop {
            if let Err(error) = self.keep_alive() {
                self.stop_everything();
                return Err(error);
            }
            self.say_ready()?;
            self.wait()?;
            match self.next_step() {
                Next::GoOn => {}
                Next::Stop => {
                    self.stop_everything();
                    return Ok(ExitCode::SUCCESS);
                }
                Next::Restart => return Err(self.reexecute()),
            }
        }
    }

    /// Notes ends and starts what is due.
    fn keep_alive(&mut self) -> Result<(), SupervisorError> {
        let ended = reap();
        for which in [Which::Control, Which::Router] {
            let process = self.process(which);
            let pid = process.pid();
            if process.note_end() {
                let name = process.name;
                // Before it ever served, an orderly failure is an answer: data or machine are not as they must be.
                let failed = |status: &WaitStatus| status.exit_status().is_some_and(|code| code != 0);
                let refused = ended.iter().any(|(ended, status)| Some(*ended) == pid && failed(status));
                if refused && !process.was_ready {
                    return Err(SupervisorError::ChildFailed { name });
                }
                say(&format!("the {name} process ended and is started again"));
            }
            if self.process(which).start_at().is_some_and(|at| at <= Instant::now()) {
                let mut command = self.command(which)?;
                self.process(which).start(&mut command)?;
            }
        }
        Ok(())
    }

    fn process(&mut self, which: Which) -> &mut Process {
        match which {
            Which::Control => &mut self.control,
            Which::Router => &mut self.router,
        }
    }

    fn command(&self, which: Which) -> Result<Command, SupervisorError> {
        let mut command = self.own_command(which.name());
        let inherited = match which {
            Which::Control => spawn::inherit(&mut command, &[&self.sockets.api]),
            Which::Router => {
                let mut descriptors: Vec<&dyn AsFd> = vec![&self.sockets.router, &self.sockets.api];
                descriptors.extend(self.sockets.router_tls.as_ref().map(|listener| listener as &dyn AsFd));
                spawn::inherit(&mut command, &descriptors)
            }
        };
        inherited.map_err(|source| SupervisorError::Spawn { name: which.name(), source })?;
        if let Which::Router = which {
            command.env_remove("FERROKU_DATABASE_URL").env_remove("FERROKU_SMTP_URL");
        }
        Ok(command)
    }

    /// This program again, as `role`. The URLs of database and SMTP server hold passwords, so they pass by the
    /// environment.
    fn own_command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(role);
        command.arg("--data").arg(&self.args.data.data);
        command.arg("--listen").arg(self.args.listen.to_string());
        command.arg("--router").arg(self.args.router.to_string());
        if let Some(address) = self.args.router_tls {
            command.arg("--router-tls").arg(address.to_string());
        }
        command.arg("--domain").arg(&self.args.domain);
        command.arg("--owner").arg(&self.args.owner);
        command.arg("--memory-overcommit").arg(self.args.dynos.memory_overcommit.to_string());
        if let Some(after) = self.args.dynos.cycle_dynos_after {
            command.arg("--cycle-dynos-after").arg(format!("{}s", after.as_secs()));
        }
        if let Some(hours) = self.args.dynos.eco_hours {
            command.arg("--eco-hours").arg(hours.to_string());
        }
        let certificate = &self.args.certificate;
        for (name, path) in
            [("--tls-certificate", &certificate.tls_certificate), ("--tls-key", &certificate.tls_key)]
        {
            if let Some(path) = path {
                command.arg(name).arg(path);
            }
        }
        let acme = &self.args.acme;
        for (name, value) in
            [("--acme-directory", &acme.acme_directory), ("--acme-contact", &acme.acme_contact)]
        {
            if let Some(value) = value {
                command.arg(name).arg(value);
            }
        }
        if let Some(root) = &acme.acme_root {
            command.arg("--acme-root").arg(root);
        }
        command.args(self.args.dynos.sleep.to_arguments());
        command.args(self.args.people.to_arguments());
        command.args(self.args.retention.to_arguments());
        command.args(self.args.fetch.to_arguments());
        command.env_remove(REEXECUTED);
        // Its threads share two of the allocator's heaps: with 10,000 apps that is 25 MB less, and nothing is slower.
        command.env("MALLOC_ARENA_MAX", "2");
        if let Some(url) = &self.args.people.smtp_url {
            command.env("FERROKU_SMTP_URL", url);
        }
        if let Some(url) = &self.args.database_url {
            command.env("FERROKU_DATABASE_URL", url);
        }
        command
    }

    fn say_ready(&mut self) -> Result<(), SupervisorError> {
        let control = self.control.is_ready();
        let router = self.router.is_ready();
        if self.said_ready || !(control && router) {
            return Ok(());
        }
        self.said_ready = true;
        let mut stdout = std::io::stdout();
        let line = format!(
            "ready: API and git on http://{}, apps on http://NAME.{}:{}, data in {}\n",
            self.args.listen,
            self.args.domain,
            self.args.router.port(),
            self.folder.path.display()
        );
        // Whoever started this may have closed the pipe; the node serves all the same.
        let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
        Ok(())
    }

    /// Sleeps until a signal, a request, an end, or the next thing to do.
    fn wait(&self) -> Result<(), SupervisorError> {
        let mut descriptors = vec![PollFd::new(&self.requests, PollFlags::IN)];
        descriptors.extend(self.signals.descriptors().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        for pidfd in [self.control.pidfd(), self.router.pidfd()].into_iter().flatten() {
            descriptors.push(PollFd::new(pidfd, PollFlags::IN));
        }
        let starting = self.control.is_starting() || self.router.is_starting();
        let due = [self.control.start_at(), self.router.start_at()].into_iter().flatten().min();
        let until_due = due.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = [until_due, starting.then_some(READY_POLL)].into_iter().flatten().min();
        let timeout = wait.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(system("wait for my processes")(error)),
        }
    }

    fn next_step(&mut self) -> Next {
        let told = self.signals.take();
        if told.contains(&Told::Stop) {
            return Next::Stop;
        }
        if told.contains(&Told::Restart) || self.answer_request() {
            return Next::Restart;
        }
        Next::GoOn
    }

    /// Answers one waiting client; returns whether it asked for a restart.
    fn answer_request(&mut self) -> bool {
        if !is_readable(&self.requests) {
            return false;
        }
        let Ok((mut stream, _)) = self.requests.accept() else { return false };
        let mut line = String::new();
        let read = stream
            .set_read_timeout(Some(CLIENT_TIMEOUT))
            .and_then(|()| BufReader::new(&stream).read_line(&mut line));
        if read.is_err() {
            return false;
        }
        let restart = line.trim_end() == "restart";
        let answer = match line.trim_end() {
            "restart" => "restarting",
            "status" if self.control.is_ready() && self.router.is_ready() => "ready",
            "status" => "starting",
            _ => "unknown request",
        };
        // The client may be gone; its request stands.
        let _ = writeln!(stream, "{answer}");
        restart
    }

    /// Ends control and the router and becomes the program now on disk. Returns only if that fails.
    fn reexecute(mut self) -> SupervisorError {
        self.control.signal(Signal::TERM);
        self.router.signal(Signal::TERM);
        self.control.wait_end(CONTROL_STOP_LIMIT);
        // It goes on draining, a websocket for as long as 30 s; who connects meanwhile is its successor's.
        self.router.wait_released(ROUTER_STOP_LIMIT);
        reap();
        let mut command = self.own_command("server");
        command.env(REEXECUTED, "1");
        let mut descriptors: Vec<&dyn AsFd> =
            vec![&self.sockets.api, &self.sockets.router, &self.folder.lock];
        descriptors.extend(self.sockets.router_tls.as_ref().map(|listener| listener as &dyn AsFd));
        match spawn::inherit(&mut command, &descriptors) {
            Ok(()) => system("execute myself anew")(command.exec()),
            Err(error) => system("hand my sockets on")(error),
        }
    }

    /// Has control stop the dynos. One that ends before it has said that all is done is replaced, so that nothing of the
    /// node stays behind.
    fn stop_control(&mut self) {
        for _ in 0..CONTROL_STOP_TRIES {
            let pid = self.control.pid();
            self.control.signal(Signal::INT);
            self.control.wait_end(CONTROL_STOP_LIMIT);
            reap();
            let is_done = pid.is_some_and(|pid| self.control.is_done(pid));
            if is_done || !self.control.was_ready {
                return;
            }
            say("the control process ended before it had stopped the dynos; another one goes on");
            if let Err(error) = self.start_control_and_wait() {
                return say(&error.to_string());
            }
        }
        self.control.wait_end(Duration::ZERO);
        say("the dynos could not be stopped; start the server again to see why, and to stop them");
    }

    fn start_control_and_wait(&mut self) -> Result<(), SupervisorError> {
        let mut command = self.command(Which::Control)?;
        self.control.start(&mut command)?;
        let deadline = Instant::now() + CONTROL_STOP_LIMIT;
        while !self.control.is_ready() && !self.control.note_end() && Instant::now() < deadline {
            std::thread::sleep(READY_POLL);
        }
        Ok(())
    }

    fn stop_everything(&mut self) {
        say("stopping; dynos have up to 30 seconds to end");
        // Control first: it stops the dynos, and until they are drained the router must pass requests to them.
        self.stop_control();
        self.router.signal(Signal::TERM);
        self.router.wait_end(ROUTER_STOP_LIMIT);
        reap();
        self.folder.unmount_run();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Control,
    Router,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Router => "router",
        }
    }
}

/// Reaps every child and orphan that ended.
fn reap() -> Vec<(Pid, WaitStatus)> {
    std::iter::from_fn(|| wait(WaitOptions::NOHANG).ok().flatten()).collect()
}

fn is_readable(listener: &UnixListener) -> bool {
    let mut descriptors = [PollFd::new(listener, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut descriptors, Some(&now)).is_ok_and(|count| count > 0)
}

fn say(message: &str) {
    // Losing a message must not stop the node.
    let _ = writeln!(std::io::stderr(), "ferrokud: {message}");
}
