//! The program `ferrokud`: picks what to be from its arguments, before any runtime exists.

use clap::Parser;
use ferroku_server::args::{Cli, Command};
use ferroku_server::{admin_command, control, env_command, git, process_secrets, router_main, supervisor};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    process_secrets::guard();
    let name = std::env::args_os().next().unwrap_or_default();
    let outcome = if name.as_encoded_bytes().ends_with(b"/pre-receive") {
        Ok(git::pre_receive::main())
    } else if name.as_encoded_bytes().ends_with(b"/post-receive") {
        Ok(git::post_receive::main())
    } else {
        match Cli::parse().command {
            Command::Server(args) => supervisor::run(args).map_err(Into::into),
            Command::Restart(args) => supervisor::client::restart(&args.data).map_err(Into::into),
            Command::Env(args) => env_command::run(&args.data),
            Command::Invite { email, data } => admin_command::invite(&data.data, &email),
            Command::Accounts(args) => admin_command::list(&args.data),
            Command::Account { change, email, data } => admin_command::change(&data.data, change, &email),
            Command::Gc { dry_run, data } => admin_command::gc(&data.data, dry_run),
            Command::Control(args) => control::run(args.into()),
            Command::Router(args) => router_main::run(args.into()),
            Command::PreReceive => Ok(git::pre_receive::main()),
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to tell it to when stderr is gone too.
            let _ = writeln!(std::io::stderr(), "ferrokud: {error:#}");
            ExitCode::FAILURE
        }
    }
}
