//! How long a dyno takes to start, for `make bench GROUP=dynos`: the driver itself, without control, and what a
//! container of the same namespaces takes at least. One program in several parts, chosen by its first argument:
//!
//! ```text
//! clock                prints the monotonic clock in microseconds and ends: the command whose start is timed
//! serve                answers every request on $PORT: the tiny server
//! fetch ADDRESS        asks until there is an answer; prints when its first byte came
//! one COUNT            COUNT dynos, one after the other: a line of microseconds from start to command, to first byte
//! many COUNT           COUNT dynos of one release at once: a line of seconds, PSS and all-in memory for each dyno
//! bare BUNDLE ID       runs an OCI bundle by libcontainer and nothing else
//! ```
//!
//! The clock is that of the machine, so times of different processes can be compared.

mod bare;
mod driver;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between two attempts to connect. A pause would be part of what is measured; none would take the dyno's core.
const RETRY_PAUSE: Duration = Duration::from_micros(300);
/// Who has no answer by then has failed.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["clock"] => say(now_us()),
        ["serve"] => serve(),
        ["fetch", address] => fetch(address),
        ["one", count] => driver::one(number(count)),
        ["many", count] => driver::many(number(count)),
        ["bare", bundle, id] => bare::run(bundle.as_ref(), id),
        _ => Err("arguments: clock | serve | fetch ADDRESS | one COUNT | many COUNT | bare BUNDLE ID".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "start_times {}: {error}", arguments.join(" "));
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn number(word: &str) -> usize {
    word.parse().unwrap_or(1)
}

/// Microseconds on the machine's monotonic clock.
fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanoseconds) = (now.tv_sec as u64, now.tv_nsec as u64);
    seconds * 1_000_000 + nanoseconds / 1_000
}

fn say(value: impl std::fmt::Display) -> Outcome {
    Ok(writeln!(io::stdout(), "{value}")?)
}

fn serve() -> Outcome {
    let port: u16 = std::env::var("PORT")?.parse()?;
    for stream in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let mut stream = stream?;
        let mut head = [0; 1024];
        if stream.read(&mut head)? > 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")?;
        }
    }
    Ok(())
}

fn fetch(address: &str) -> Outcome {
    let address: SocketAddr = address.parse()?;
    let deadline = Instant::now() + FETCH_LIMIT;
    loop {
        match ask(address) {
            Ok(at_us) => return say(at_us),
            Err(error) if Instant::now() > deadline => return Err(format!("no answer: {error}").into()),
            Err(_) => std::thread::sleep(RETRY_PAUSE),
        }
    }
}

fn ask(address: SocketAddr) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    stream.read_exact(&mut [0; 1])?;
    Ok(now_us())
}
