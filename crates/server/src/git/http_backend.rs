//! One request to `git http-backend`, streamed both ways.
//!
//! In: the HTTP request of a git client that may do what it asks for. Out: the CGI program's answer, byte for byte as
//! it comes, so that the client sees the build's text while it is written.
//!
//! Invariants:
//! - The program and all it started are one process group, which is killed when the request is dropped (the client
//!   went away), when a limit is reached, and when the time is up.
//! - The response ends only after the program has ended and what the request held (the app's push slot) is released:
//!   a client that pushes again at once is never told that its own last push is still under way.
//!
//! Source: git-http-backend(1); RFC 3875 (CGI); gitprotocol-http(5).

use super::repository::{GitError, MAX_PACK_BYTES, Repositories};
use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use ferroku_core::AppId;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::Stdio;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Largest request body, in bytes: the largest pack and its framing.
const MAX_BODY_BYTES: u64 = MAX_PACK_BYTES + 16 * 1024 * 1024;
/// Largest head of the program's answer, in bytes; it is a few hundred.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Time for a whole request that sends: the largest pack, to a slow client.
const TIME_LIMIT: Duration = Duration::from_secs(20 * 60);
/// Time for a whole push: five minutes to send the largest pack, the 15 of a build, and the hour of a release command.
const PUSH_TIME_LIMIT: Duration = Duration::from_secs(80 * 60);
/// A request's body may stand still for so long: git compresses what it sends before it sends it, a large repository for
/// minutes.
const STALL_LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long a program that has closed its output may take to end.
const EXIT_GRACE: Duration = Duration::from_secs(10);
/// Standard error that is kept for the log, in bytes.
const MAX_ERROR_BYTES: u64 = 8 * 1024;
/// Read at once from the program, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// A request could not be served.
#[derive(Debug, Error)]
pub enum BackendError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error("git http-backend ended without an answer: {0}")]
    NoAnswer(String),
    #[error("the answer of git http-backend cannot be read: {0}")]
    BadAnswer(String),
}

/// What of a request the program is told.
pub struct BackendRequest {
    pub app_id: AppId,
    pub method: Method,
    /// `info/refs`, `git-upload-pack` or `git-receive-pack`.
    pub endpoint: &'static str,
    pub query: &'static str,
    pub headers: HeaderMap,
    /// The account's e-mail address.
    pub user: String,
    pub remote_address: Option<String>,
    /// More environment: the hook's token and socket.
    pub environment: Vec<(&'static str, String)>,
    pub body: Body,
}

/// Runs the program on the app's repository, which must exist, and gives its answer. `held` is dropped when the
/// program has ended, before the response ends.
///
/// # Errors
/// The program cannot be started, or ends before it has answered.
pub async fn serve<H: Send + 'static>(
    repositories: &Repositories,
    request: BackendRequest,
    held: H,
) -> Result<Response, BackendError> {
    let mut command = repositories.command(&["http-backend"]);
    set_environment(&mut command, repositories, &request);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| GitError::Spawn { program: "setpriv", package: "util-linux", source })?;
    let stdin = child.stdin.take().expect("its standard input is piped");
    let mut stdout = child.stdout.take().expect("its standard output is piped");
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let (ended_sender, ended) = oneshot::channel();
    let limit = if request.endpoint == "git-receive-pack" { PUSH_TIME_LIMIT } else { TIME_LIMIT };
    tokio::spawn(supervise(child, limit, request.body, stdin, stop, held, ended_sender));

    let (head, rest) = match read_head(&mut stdout).await? {
        Some(parts) => parts,
        None => {
            let detail = ended.await.unwrap_or_default();
            return Err(BackendError::NoAnswer(detail));
        }
    };
    let mut response = parse_head(&head)?;
    let body = async_body(rest, stdout, guard, ended);
    *response.body_mut() = Body::from_stream(body);
    Ok(response)
}

fn set_environment(
    command: &mut tokio::process::Command,
    repositories: &Repositories,
    request: &BackendRequest,
) {
    command
        .env("GATEWAY_INTERFACE", "CGI/1.1")
        .env("SERVER_PROTOCOL", "HTTP/1.1")
        .env("GIT_PROJECT_ROOT", repositories.folder())
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_HTTP_MAX_REQUEST_BUFFER", "10M")
        .env("PATH_INFO", format!("/{}/{}", Repositories::name(request.app_id), request.endpoint))
        .env("QUERY_STRING", request.query)
        .env("REQUEST_METHOD", request.method.as_str())
        .env("REMOTE_USER", &request.user)
        .env("REMOTE_ADDR", request.remote_address.as_deref().unwrap_or("unknown"));
    let from_headers = [
        ("content-type", "CONTENT_TYPE"),
        ("content-length", "CONTENT_LENGTH"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
        ("git-protocol", "HTTP_GIT_PROTOCOL"),
    ];
    for (header, variable) in from_headers {
        if let Some(value) = request.headers.get(header).and_then(|value| value.to_str().ok()) {
            command.env(variable, value);
        }
    }
    for (variable, value) in &request.environment {
        command.env(variable, value);
    }
}

/// Owns the program: feeds it, kills its group when it must end, reaps it, lets go of `held`, and says what it wrote
/// to its standard error.
async fn supervise<H>(
    mut child: Child,
    limit: Duration,
    body: Body,
    stdin: ChildStdin,
    stop: CancellationToken,
    held: H,
    ended: oneshot::Sender<String>,
) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let stderr = child.stderr.take().expect("its standard error is piped");
    let errors = tokio::spawn(async move {
        let mut text = Vec::new();
        let mut limited = stderr.take(MAX_ERROR_BYTES);
        // What could be read before an error is what there is to say.
        let _ = limited.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    let feeder = tokio::spawn(feed(body, stdin, STALL_LIMIT));
    let feeder_abort = feeder.abort_handle();
    let why = tokio::select! {
        _ = child.wait() => None,
        () = stop.cancelled() => Some("the client went away"),
        () = feeding_failed(feeder) => Some("the request's body ended early, stood still, or is over the limit"),
        () = tokio::time::sleep(limit) => Some("its time limit was reached"),
    };
    // Also after an orderly end: nothing that the program started may outlive it.
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    if let Some(why) = why {
        tracing::info!("git request ended: {why}");
        let _ = child.wait().await;
    }
    feeder_abort.abort();
    let text = errors.await.unwrap_or_default();
    if !text.is_empty() {
        tracing::debug!("git http-backend: {text}");
    }
    drop(held);
    let _ = ended.send(text);
}

/// Completes only when feeding has failed.
async fn feeding_failed(feeder: tokio::task::JoinHandle<bool>) {
    if feeder.await.unwrap_or(true) {
        std::future::pending::<()>().await;
    }
}

/// Passes the body on; true when all of it was, or when the program wants no more of it.
async fn feed(body: Body, mut stdin: ChildStdin, stall_limit: Duration) -> bool {
    let mut body = body.into_data_stream();
    let mut total_bytes: u64 = 0;
    loop {
        let piece = match timeout(stall_limit, body.next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(None) => return stdin.shutdown().await.is_ok(),
            Ok(Some(Err(_))) | Err(_) => return false,
        };
        total_bytes += piece.len() as u64;
        if total_bytes > MAX_BODY_BYTES {
            return false;
        }
        if stdin.write_all(&piece).await.is_err() {
            return true;
        }
    }
}

/// Reads up to the empty line; None when the output ends before it.
async fn read_head(stdout: &mut ChildStdout) -> Result<Option<(Bytes, Bytes)>, BackendError> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        if let Some((head_end, body_start)) = find_head_end(&buffer) {
            let bytes = buffer.freeze();
            return Ok(Some((bytes.slice(..head_end), bytes.slice(body_start..))));
        }
        if buffer.len() > MAX_HEAD_BYTES {
            return Err(BackendError::BadAnswer(format!("its head is longer than {MAX_HEAD_BYTES} bytes")));
        }
        match stdout.read_buf(&mut buffer).await {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(BackendError::BadAnswer(error.to_string())),
        }
    }
}

fn find_head_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let crlf = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| (at, at + 4));
    let lf = bytes.windows(2).position(|window| window == b"\n\n").map(|at| (at, at + 2));
    match (crlf, lf) {
        (Some(crlf), Some(lf)) => Some(if crlf.0 < lf.0 { crlf } else { lf }),
        (crlf, lf) => crlf.or(lf),
    }
}

/// The response that a CGI head describes, with an empty body.
fn parse_head(head: &[u8]) -> Result<Response, BackendError> {
    let bad = |line: &str| BackendError::BadAnswer(format!("the header line {line:?} makes no sense"));
    let mut response = Response::new(Body::empty());
    for line in String::from_utf8_lossy(head).lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| bad(line))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or_default();
            *response.status_mut() = StatusCode::from_bytes(code.as_bytes()).map_err(|_| bad(line))?;
            continue;
        }
        let name = http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(line))?;
        response.headers_mut().append(name, HeaderValue::from_str(value).map_err(|_| bad(line))?);
    }
    Ok(response)
}

/// The rest of the program's output, then its end.
fn async_body(
    first: Bytes,
    stdout: ChildStdout,
    guard: tokio_util::sync::DropGuard,
    ended: oneshot::Receiver<String>,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
    struct State {
        first: Option<Bytes>,
        stdout: ChildStdout,
        guard: Option<tokio_util::sync::DropGuard>,
        ended: Option<oneshot::Receiver<String>>,
    }
    let first = Some(first).filter(|bytes| !bytes.is_empty());
    let state = State { first, stdout, guard: Some(guard), ended: Some(ended) };
    futures::stream::unfold(state, |mut state| async move {
        if let Some(first) = state.first.take() {
            return Some((Ok(first), state));
        }
        let ended = state.ended.take()?;
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        match state.stdout.read_buf(&mut buffer).await {
            Ok(0) => {
                // The guard is kept until then: a program that closed its output but does not end is killed with it.
                let _ = timeout(EXIT_GRACE, ended).await;
                drop(state.guard.take());
                None
            }
            Ok(_) => {
                state.ended = Some(ended);
                Some((Ok(buffer.freeze()), state))
            }
            Err(error) => Some((Err(error), state)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_stands_still_is_given_up_and_a_whole_one_is_passed_on() {
        for (is_whole, body) in [
            (true, Body::from("pack")),
            (false, Body::from_stream(futures::stream::pending::<std::io::Result<Bytes>>())),
        ] {
            let mut command = tokio::process::Command::new("cat");
            let mut cat =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("cat");
            let limit = if is_whole { STALL_LIMIT } else { Duration::from_millis(20) };
            let fed = feed(body, cat.stdin.take().expect("piped"), limit).await;
            let passed_on = cat.wait_with_output().await.expect("ended").stdout;
            assert_eq!((fed, &passed_on[..]), (is_whole, if is_whole { &b"pack"[..] } else { b"" }));
        }
    }

    #[test]
    fn a_cgi_head_becomes_status_and_headers() {
        let bytes = b"Status: 403 Forbidden\r\nContent-Type: text/plain\r\n\r\nno\n\n";
        let (end, start) = find_head_end(bytes).expect("a head");
        assert_eq!(&bytes[start..], b"no\n\n");
        let response = parse_head(&bytes[..end]).expect("valid");
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()["content-type"], "text/plain");
        assert!(parse_head(b"nonsense").is_err());
        assert!(parse_head(b"Status: 99x").is_err());
    }
}
