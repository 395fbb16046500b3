//! A connection from inside a dyno for a client outside: standard input and output to and from a TCP port.
//!
//! Runs as one of the dyno's own processes, so it reaches what the dyno reaches. Its first byte of output says that it is
//! connected. A small program of ours, because no program that every stack has passes on the end of one direction alone.

use super::sys::{Context, Failure};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// For one address of a host.
const CONNECT: Duration = Duration::from_secs(10);
/// Addresses of a host that are tried.
const ADDRESSES: usize = 4;
/// Copied at once, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// Connects, says so, and passes bytes both ways until both have ended.
pub fn run(host: Option<OsString>, port: Option<OsString>) -> Result<u8, Failure> {
    let text = |argument: Option<OsString>| argument.and_then(|argument| argument.into_string().ok());
    let (Some(host), Some(port)) = (text(host), text(port).and_then(|port| port.parse::<u16>().ok())) else {
        return Err(Failure::new("relay needs a host and a port"));
    };
    let mut stream = connect(&host, port)?;
    let _ = stream.set_nodelay(true);
    let mut output = std::io::stdout();
    output.write_all(&[1]).and_then(|()| output.flush()).context(|| "say that it is connected".into())?;
    let mut to_peer = stream.try_clone().context(|| "share the connection".into())?;
    std::thread::spawn(move || {
        let _ = copy(&mut std::io::stdin(), &mut to_peer);
        // The end of one direction alone.
        let _ = to_peer.shutdown(Shutdown::Write);
    });
    copy(&mut stream, &mut output).context(|| "pass on".into())?;
    Ok(0)
}

/// Each piece at once: somebody waits for it.
fn copy(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count]).and_then(|()| to.flush())?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn connect(host: &str, port: u16) -> Result<TcpStream, Failure> {
    let mut last = Failure::new(format!("{host} has no address"));
    for address in addresses(host).into_iter().take(ADDRESSES) {
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Failure::new(format!("connect to {address}:{port}: {error}")),
        }
    }
    Err(last)
}

/// Names are asked of the stack's `getent`: this program is static, and has no resolver of its own.
fn addresses(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return vec![if address.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address }];
    }
    let answer = Command::new("/usr/bin/getent").args(["ahosts", host]).output();
    let lines = answer.map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default();
    let mut found: Vec<IpAddr> =
        lines.lines().filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok()).collect();
    found.dedup();
    found
}
