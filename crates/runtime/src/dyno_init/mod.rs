//! The two programs beside every dyno:
//!
//! | program and role | lives | does |
//! |---|---|---|
//! | `dyno-init supervise` | as long as the dyno, and until control has taken its exit | mounts, log ring, signals, exit record; a single-threaded poll loop |
//! | `dyno-create` | some 20 ms | calls libcontainer, which forks without exec and allocates much |
//! | `dyno-init inside` | as long as the dyno | pid 1 of the dyno: takes the environment, runs the command, reaps; forks further commands |
//! | `dyno-init relay` | as long as a client's forwarded connection | an ordinary process of the dyno between its standard streams and a port |
//!
//! `supervise` spawns `dyno-create`; as child subreaper it becomes the parent of the dyno's pid 1 when that ends.
//! The dyno's pid 1 asks to be killed when its parent dies, and its death ends its pid namespace: so a
//! dyno never outlives its dyno-init.
//!
//! No role but `relay` starts a thread: libcontainer's raw `clone` hangs in a process with threads.

mod bound;
mod create;
mod etc;
mod external;
mod family;
mod idmap;
mod inside;
mod lines;
mod loop_device;
mod mounts;
mod outlet;
mod relay;
pub(crate) mod ring;
pub mod seccomp;
mod streams;
mod supervise;
pub(crate) mod sys;
mod wake_door;

/// Where this program lies in every dyno.
pub(crate) const PROGRAM_INSIDE: &str = "/.ferroku/init";

use inside::FirstProcess;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// The program `dyno-init`: runs the role that the arguments name.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let role = arguments.next().unwrap_or_default();
    exit_code(match role.to_str() {
        Some("supervise") => supervise::run(arguments.next()),
        Some("inside") => inside::run(FirstProcess::Hidden),
        Some("relay") => relay::run(arguments.next(), arguments.next()),
        _ => Err(sys::Failure::new("dyno-init is started by ferrokud; it does nothing by itself")),
    })
}

/// The program `dyno-create`.
pub fn create_main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    exit_code(create::run(arguments.next(), arguments.next(), |_, _| {}))
}

/// A `dyno-create` that changes a dyno's OCI spec before the container is made; gets the dyno's run folder along.
///
/// For tests that show what a protection is good for by taking it away. The choice between this and [`create_main`]
/// is made by the program that is compiled, not by anything that a running one reads: no argument, variable, file, field
/// of a dyno's spec or setting of a node leads here. The programs of a node are `dyno-init` and `dyno-create`, which
/// have no such branch; `tests/escape` is a program of its own that calls this, and only a driver that was given
/// another folder of programs ([`crate::SandboxConfig::programs`], which the server always fills with its own) would
/// start it. Whoever can replace a node's programs is root there already.
pub fn create_altered(alter: impl FnOnce(&Path, &mut serde_json::Value)) -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    exit_code(create::run(arguments.next(), arguments.next(), alter))
}

/// The role `inside` with a first process that the command may look into; for tests, as [`create_altered`] is.
pub fn inside_open() -> ExitCode {
    exit_code(inside::run(FirstProcess::Open))
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
