//! One channel of an SSH client that has shown its key: a command inside the dyno, its files, or a connection from there.
//!
//! In: what the client asks for (RFC 4254, section 6). Out: the streams of a command inside the dyno. Files are the business
//! of the stack's own `sftp-server`, connections of a program that dyno-init has: both run inside, as the app.

use super::keys::Registered;
use crate::api::dynos::MAX_COMMAND_BYTES;
use crate::dynos::{InsideError, InsideRequest};
use crate::node::Node;
use bytes::Bytes;
use ferroku_runtime::{Command, Exec, ExecEvent, ExecInput, ExecOutput, LogStream, RELAY, TerminalSize};
use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelMsg, ChannelOpenFailure, ChannelReadHalf, ChannelWriteHalf, Sig};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// Where Debian's `openssh-sftp-server`, which the stack has, puts its program.
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
/// What runs when no command is given.
const SHELL: &str = "bash";
/// A client that opens a channel asks for something at once.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// To reach a port inside the dyno or beyond.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Variables that clients may send along, each of at most so many bytes. Source: `AcceptEnv` of Debian's sshd_config.
const MAX_VARIABLES: usize = 32;
const MAX_VARIABLE_BYTES: usize = 1024;
/// A command that takes no byte of its input for so long holds up the whole connection, and loses it.
const WRITE_LIMIT: Duration = crate::rendezvous::WRITE_LIMIT;
/// `SSH_EXTENDED_DATA_STDERR` (RFC 4254, section 5.2).
const STDERR: u32 = 1;
/// As shells have it: the command could not be run.
const CANNOT_RUN: u32 = 126;

/// What a client wants of a session channel.
struct Wish {
    command: Command,
    shown: String,
    environment: BTreeMap<String, String>,
    terminal: Option<TerminalSize>,
}

/// The subsystem for files.
pub const FILES: &str = "sftp";

/// Serves a session channel to its end.
pub async fn serve(node: &Node, registered: &Arc<Registered>, channel: Channel<Msg>) {
    let (mut read, write) = channel.split();
    let asked = timeout(REQUEST_LIMIT, wish(&mut read)).await;
    if let Ok(Some(wish)) = asked {
        let Wish { command, shown, environment, terminal } = wish;
        match run(node, registered, command, Some(shown), environment, terminal).await {
            Ok(Exec { input, mut output }) => {
                // When either ends, dropping the rest hangs up.
                tokio::select! {
                    () = pass_input(&mut read, &input) => {}
                    status = pass_output(&mut output, &write, true) => end(&write, status).await,
                }
            }
            Err(error) => {
                let _ = write.extended_data_bytes(STDERR, format!("{error}\r\n").into_bytes()).await;
                end(&write, CANNOT_RUN).await;
            }
        }
    }
    let _ = write.close().await;
}

async fn end(write: &ChannelWriteHalf<Msg>, status: u32) {
    // A client that is gone wants to know nothing.
    let _ = write.exit_status(status).await;
    let _ = write.eof().await;
}

async fn run(
    node: &Node,
    registered: &Registered,
    command: Command,
    shown: Option<String>,
    environment: BTreeMap<String, String>,
    terminal: Option<TerminalSize>,
) -> Result<Exec, InsideError> {
    let actor = registered.actor.clone();
    let dyno_id = registered.dyno_id;
    node.dynos.run_inside(InsideRequest { dyno_id, command, shown, environment, terminal, actor }).await
}

/// Hears what is asked for until it is something to be run. `None`: nothing is.
async fn wish(read: &mut ChannelReadHalf) -> Option<Wish> {
    let mut environment = BTreeMap::new();
    let mut terminal = None;
    let mut set = |name: String, value: String| {
        if environment.len() < MAX_VARIABLES {
            environment.insert(name, value);
        }
    };
    let (command, shown) = loop {
        match read.wait().await? {
            ChannelMsg::RequestPty { term, col_width, row_height, .. } => {
                terminal = Some(size(row_height, col_width));
                if is_plain("TERM", &term) {
                    set("TERM".into(), term);
                }
            }
            ChannelMsg::SetEnv { variable_name, variable_value, .. }
                if takes_variable(&variable_name, &variable_value) =>
            {
                set(variable_name, variable_value);
            }
            ChannelMsg::WindowChange { col_width, row_height, .. } => {
                terminal = terminal.map(|_| size(row_height, col_width));
            }
            ChannelMsg::RequestShell { .. } => break (Command::Shell(SHELL.into()), SHELL.to_owned()),
            ChannelMsg::Exec { command, .. } => {
                if let Some(line) = command_line(&command) {
                    break (Command::Shell(line.clone()), line);
                }
            }
            ChannelMsg::RequestSubsystem { name, .. } if name == FILES => {
                terminal = None;
                break (Command::Exec(vec![SFTP_SERVER.into()]), "sftp-server".to_owned());
            }
            ChannelMsg::Close => return None,
            _ => {}
        }
    };
    Some(Wish { command, shown, environment, terminal })
}

/// Whether a client may set this variable.
pub fn takes_variable(name: &str, value: &str) -> bool {
    (name == "LANG" || name.starts_with("LC_")) && is_plain(name, value)
}

fn is_plain(name: &str, value: &str) -> bool {
    name.len() + value.len() <= MAX_VARIABLE_BYTES && !name.contains(['=', '\0']) && !value.contains('\0')
}

/// The command that a client asks for, if it can be one.
pub fn command_line(bytes: &[u8]) -> Option<String> {
    let line = String::from_utf8(bytes.to_vec()).ok()?;
    (line.len() <= MAX_COMMAND_BYTES && !line.contains('\0')).then_some(line)
}

fn size(rows: u32, columns: u32) -> TerminalSize {
    let number = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    TerminalSize { rows: number(rows), columns: number(columns) }
}

/// Passes on what the client sends until its channel is closed.
async fn pass_input(read: &mut ChannelReadHalf, input: &ExecInput) {
    while let Some(message) = read.wait().await {
        // A command that has ended takes nothing; its end closes the channel.
        let _ = match message {
            ChannelMsg::Data { data } => match timeout(WRITE_LIMIT, input.write(&data)).await {
                Ok(written) => written,
                // The connection's other channels wait, too.
                Err(_) => return,
            },
            ChannelMsg::Eof => input.close().await,
            ChannelMsg::WindowChange { col_width, row_height, .. } => {
                let size = size(row_height, col_width);
                input.resize(size.rows, size.columns).await
            }
            ChannelMsg::Signal { signal } => match number(&signal) {
                Some(signal) => input.signal(signal).await,
                None => Ok(()),
            },
            ChannelMsg::Close => return,
            _ => Ok(()),
        };
    }
}

/// Passes on what the command says, with or without its errors; its exit status.
async fn pass_output(output: &mut ExecOutput, write: &ChannelWriteHalf<Msg>, errors: bool) -> u32 {
    while let Some(event) = output.next().await {
        let sent = match event {
            ExecEvent::Output { stream: LogStream::Stdout, bytes } => write.data_bytes(bytes).await,
            ExecEvent::Output { stream: LogStream::Stderr, .. } if !errors => Ok(()),
            ExecEvent::Output { stream: LogStream::Stderr, bytes } => {
                write.extended_data_bytes(STDERR, bytes).await
            }
            ExecEvent::Ended { status } => return status.unsigned_abs(),
            ExecEvent::Failed { message } => {
                let text = format!("The command could not be run: {message}\r\n");
                let _ = write.extended_data_bytes(STDERR, text.into_bytes()).await;
                return CANNOT_RUN;
            }
        };
        if sent.is_err() {
            break;
        }
    }
    // The dyno is gone.
    CANNOT_RUN
}

/// The signals that RFC 4254, section 6.9, has names for; the numbers are Linux's.
fn number(signal: &Sig) -> Option<i32> {
    Some(match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(_) => return None,
    })
}

/// Serves a connection from inside the dyno to `host` and `port`, to its end. `ps:forward` asks for 0.0.0.0, the dyno itself.
pub async fn forward(
    node: &Node,
    registered: &Arc<Registered>,
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
    host: &str,
    port: u32,
) {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | ':' | '_');
    let Some(port) = u16::try_from(port).ok().filter(|port| *port > 0 && host.chars().all(plain)) else {
        return reply.reject(ChannelOpenFailure::ConnectFailed).await;
    };
    let first = !registered.forward_told.swap(true, Ordering::Relaxed);
    let shown = first.then(|| format!("forward {host}:{port}"));
    let program = [RELAY[0], RELAY[1], host, &port.to_string()].map(str::to_owned).to_vec();
    let exec = run(node, registered, Command::Exec(program), shown, BTreeMap::new(), None).await;
    let Ok(Exec { input, mut output }) = exec else {
        return reply.reject(ChannelOpenFailure::ConnectFailed).await;
    };
    // The relay's first byte says that it is connected; what belongs to the connection may follow at once.
    let connected = timeout(CONNECT_LIMIT, output.next()).await;
    let Ok(Some(ExecEvent::Output { stream: LogStream::Stdout, bytes })) = connected else {
        return reply.reject(ChannelOpenFailure::ConnectFailed).await;
    };
    reply.accept().await;
    let (mut read, write) = channel.split();
    let come = Bytes::from(bytes).split_off(1);
    let to_client = async {
        if write.data_bytes(come).await.is_ok() {
            pass_output(&mut output, &write, false).await;
        }
        let _ = write.eof().await;
    };
    tokio::select! {
        () = pass_input(&mut read, &input) => {}
        () = to_client => {}
    }
    let _ = write.close().await;
}
