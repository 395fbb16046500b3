//! The two programs beside every dyno:
//!
//! | program and role | lives | does |
//! |---|---|---|
//! | `dyno-init supervise` | as long as the dyno, and until control has taken its exit | mounts, log ring, signals, exit record; a single-threaded poll loop |
//! | `dyno-create` | some 20 ms | calls libcontainer, which forks without exec and allocates much |
//! | `dyno-init inside` | as long as the dyno | pid 1 of the dyno: takes the environment, runs the command, reaps |
//!
//! `supervise` spawns `dyno-create`; as child subreaper it becomes the parent of the dyno's pid 1 when that ends.
//! The dyno's pid 1 asks to be killed when its parent dies, and its death ends its pid namespace: so a
//! dyno never outlives its dyno-init.
//!
//! No role starts a thread: libcontainer's raw `clone` hangs in a process with threads.

mod bound;
mod create;
mod etc;
mod idmap;
mod inside;
mod lines;
mod loop_device;
mod mounts;
mod outlet;
pub(crate) mod ring;
mod seccomp;
mod streams;
mod supervise;
pub(crate) mod sys;

use std::io::Write;
use std::process::ExitCode;

/// The program `dyno-init`: runs the role that the arguments name.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let role = arguments.next().unwrap_or_default();
    exit_code(match role.to_str() {
        Some("supervise") => supervise::run(arguments.next()),
        Some("inside") => inside::run(),
        _ => Err(sys::Failure::new("dyno-init is started by ferrokud; it does nothing by itself")),
    })
}

/// The program `dyno-create`.
pub fn create_main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    exit_code(create::run(arguments.next(), arguments.next()))
}

fn exit_code(result: Result<u8, sys::Failure>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(CANNOT_RUN)
        }
    }
}

/// Exit status for "could not even begin", as shells use it.
const CANNOT_RUN: u8 = 126;
