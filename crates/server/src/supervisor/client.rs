//! Talking to a running supervisor over DIR/run/supervisor.sock: one line there, one line back.

use super::error::{SupervisorError, system};
use ferroku_router::socket;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a restart may take: the router's requests in flight end first (up to 35 s), then both processes start.
const RESTART_TIMEOUT: Duration = Duration::from_secs(90);

/// Where the supervisor listens, below the data folder.
pub const SOCKET: &str = "run/supervisor.sock";

/// `ferrokud restart`: returns when the new processes serve.
///
/// # Errors
/// No server runs on this folder, or it did not come back.
pub fn restart(data: &Path) -> Result<ExitCode, SupervisorError> {
    let path = data.join(SOCKET);
    ask(&path, "restart").map_err(|_| SupervisorError::NoServer { path: path.clone() })?;
    let deadline = Instant::now() + RESTART_TIMEOUT;
    while Instant::now() < deadline {
        if ask(&path, "status").is_ok_and(|answer| answer == "ready") {
            writeln!(std::io::stdout(), "restarted").map_err(system("write to stdout"))?;
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(SupervisorError::RestartTimeout { seconds: RESTART_TIMEOUT.as_secs() })
}

fn ask(path: &Path, question: &str) -> std::io::Result<String> {
    let mut stream = socket::connect(path)?;
    stream.set_read_timeout(Some(RESTART_TIMEOUT))?;
    writeln!(stream, "{question}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match answer.trim_end() {
        "" => Err(std::io::ErrorKind::UnexpectedEof.into()),
        answer => Ok(answer.to_owned()),
    }
}
