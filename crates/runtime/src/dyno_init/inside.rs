//! The first process of a dyno: takes command and environment from outside, runs the command, reaps; and runs further
//! commands beside it when `supervise` asks (`guests`).
//!
//! In: through the channel, one byte with the socket for later requests, a little-endian u32 length, and an [`Order`] as
//! JSON. It handles no signal but SIGCHLD: the kernel spares the first process of a pid namespace from those it does not
//! handle, and `supervise` signals every process of the dyno itself. Its end is the end of the dyno.

mod guests;

pub use guests::Said;

use super::sys::{self, Context, Failure};
use ferroku_core::protocol::dyno::{Command, Order, TerminalSize};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// As Heroku starts a command. A profile script may do as it likes with its own `$1`, not with ours.
const SHELL_SCRIPT: &str = r#"
ferroku_profile() {
  local script
  for script in /app/.profile.d/*.sh; do
    if [ -r "$script" ]; then . "$script"; fi
  done
  if [ -r /app/.profile ]; then . /app/.profile; fi
}
ferroku_profile </dev/null
unset -f ferroku_profile
exec /bin/bash -c "$1"
"#;

/// Where a dyno without a `PATH` of its own looks for programs.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// As shells have it: the command cannot be run.
const CANNOT_RUN: i32 = 126;

/// Whether the command may look into the first process, which runs as the same user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstProcess {
    Hidden,
    /// For a program that only tests have.
    Open,
}

/// Runs the order that comes through the channel; the result is the dyno's exit status.
pub fn run(first_process: FirstProcess) -> Result<u8, Failure> {
    // SAFETY: libcontainer preserves this one descriptor, and nothing else here owns it.
    let channel = unsafe { OwnedFd::from_raw_fd(super::create::descriptor::CHANNEL) };
    let mut channel = File::from(channel);
    // It was handed over open across exec; the command must not have it.
    // SAFETY: a plain flag call on an open descriptor.
    sys::check(unsafe { libc::fcntl(channel.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })
        .context(|| "mark the channel".into())?;
    let (order, requests) = receive(&mut channel)?;
    // Only now is `supervise` the parent: `create` had ended before it sent.
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // The command runs as the same user: it must not attach to us and outlive what we reap. Its own exec undoes this.
    let dumpable: libc::c_ulong = if first_process == FirstProcess::Hidden { 0 } else { 1 };
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, dumpable) };
    let terminal = match order.terminal {
        Some(size) => Some(open_terminal(channel.as_fd(), size)?),
        None => None,
    };
    let signals = sys::child_signals().context(|| "signalfd".into())?;
    let null =
        File::options().read(true).write(true).open("/dev/null").context(|| "open /dev/null".into())?;
    let Some(child) = sys::fork().context(|| "fork".into())? else {
        let failure = run_command(&order, terminal);
        let _ = sys::write(std::io::stderr().as_fd(), format!("{failure}\n").as_bytes());
        // SAFETY: ends the child without running what the parent registered.
        unsafe { libc::_exit(CANNOT_RUN) }
    };
    drop((order, terminal));
    // The child's copy goes at exec: that is how `supervise` learns that the command runs.
    drop(channel);
    // Our copies of the standard streams would keep pipes open that the command has closed; and the numbers must not
    // be given to anything that a further command must not have.
    for number in 0..3 {
        // SAFETY: these three are not used by this process any more.
        unsafe { libc::dup2(null.as_raw_fd(), number) };
    }
    drop(null);
    sys::give_memory_back();
    Ok(guests::serve(child, &signals, requests))
}

/// The dyno's own order, and the socket by which further ones come.
fn receive(channel: &mut File) -> Result<(Order, OwnedFd), Failure> {
    let (_, requests) =
        sys::receive_with_descriptor(channel.as_fd(), &mut [0]).context(|| "no order came".into())?;
    let requests = requests.ok_or_else(|| Failure::new("no socket for requests came"))?;
    let mut length = [0; 4];
    channel.read_exact(&mut length).context(|| "no order came".into())?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    channel.read_exact(&mut bytes).context(|| "the order broke off".into())?;
    let order = serde_json::from_slice(&bytes).context(|| "the order is broken".into());
    bytes.fill(0);
    Ok((order?, requests))
}

/// A terminal of the dyno's own: the master goes out through the channel, the slave's descriptor comes back.
fn open_terminal(channel: BorrowedFd<'_>, size: TerminalSize) -> Result<OwnedFd, Failure> {
    let open = |path: &str| File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    let master = open("/dev/ptmx").context(|| "open /dev/ptmx".into())?;
    let unlocked: libc::c_int = 0;
    let mut number: libc::c_int = 0;
    // SAFETY: both requests take a pointer to an int that lives through the call.
    unsafe {
        sys::check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked))
            .context(|| "unlock the terminal".into())?;
        sys::check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number))
            .context(|| "number of the terminal".into())?;
    }
    sys::set_terminal_size(master.as_fd(), size.rows, size.columns).context(|| "size the terminal".into())?;
    let slave = open(&format!("/dev/pts/{number}")).context(|| "open the terminal".into())?;
    sys::send_descriptors(channel, &[1], &[master.as_fd()]).context(|| "hand out the terminal".into())?;
    Ok(slave.into())
}

/// In the child: becomes the command, or says why not.
fn run_command(order: &Order, terminal: Option<OwnedFd>) -> Failure {
    sys::reset_signals();
    // SAFETY: no memory is involved, but for the descriptor that is owned until exec.
    unsafe {
        libc::setsid();
        if let Some(terminal) = terminal {
            libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0);
            for number in 0..3 {
                libc::dup2(terminal.as_raw_fd(), number);
            }
        }
    }
    if let Err(error) = std::env::set_current_dir("/app") {
        return Failure::new(format!("cannot enter /app: {error}"));
    }
    let arguments: Vec<&str> = match &order.command {
        Command::Shell(line) => vec!["/bin/bash", "-c", SHELL_SCRIPT, "bash", line],
        Command::Exec(arguments) => arguments.iter().map(String::as_str).collect(),
    };
    let Some(program) = arguments.first() else { return Failure::new("the command is empty") };
    let has_path = order.environment.contains_key("PATH");
    let environment = order
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .chain((!has_path).then(|| format!("PATH={DEFAULT_PATH}")));
    let strings = |texts: Vec<String>| texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let prepared = strings(arguments.iter().map(ToString::to_string).collect())
        .and_then(|arguments| Ok((arguments, strings(environment.collect())?)));
    let Ok((arguments, environment)) = prepared else {
        return Failure::new("the command or a config var has a NUL character in it");
    };
    let program_name = program.to_string();
    let path: &CStr = &arguments[0];
    let error = sys::execute(path, &arguments, &environment);
    Failure::new(format!("{program_name}: {error}"))
}
