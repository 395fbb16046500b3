//! Clients that must not notice anything.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for an answer; longer than the router's own limits, so that these show as what they are.
const PATIENCE: Duration = Duration::from_secs(40);
/// The router keeps an idle connection for 60 s.
const KEPT_AT_LEAST: Duration = Duration::from_secs(55);
/// What the slow client sends, in pieces.
const UPLOAD_BYTES: usize = 1024 * 1024;
const UPLOAD_PIECES: usize = 64;
const UPLOAD_PAUSE: Duration = Duration::from_millis(60);

const GET: &str = "GET / HTTP/1.1\r\nHost: steady.localhost\r\n";

/// Asks over a new connection: the release that answers, and what it says beside.
pub fn ask(router: SocketAddr) -> Result<(u32, String), String> {
    let mut stream = connect(router)?;
    write!(stream, "{GET}Connection: close\r\n\r\n").map_err(text)?;
    let mut reader = BufReader::new(stream);
    let answer = read_answer(&mut reader)?;
    // Nothing may follow, and the end must be clean.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).map_err(text)?;
    if rest.is_empty() { release_of(&answer) } else { Err("more than the answer came".into()) }
}

fn release_of(answer: &str) -> Result<(u32, String), String> {
    let parts = answer.strip_prefix('v').and_then(|rest| rest.split_once(' '));
    let parsed = parts.and_then(|(release, text)| Some((release.parse().ok()?, text.to_owned())));
    parsed.ok_or_else(|| format!("the app said {answer:?}"))
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn connect(router: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(router).map_err(text)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(text)?;
    Ok(stream)
}

/// The body of a 200 answer, whole.
fn read_answer(reader: &mut impl BufRead) -> Result<String, String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).map_err(text)? == 0 {
            return Err(format!("the connection ended in the head: {head:?}"));
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).map_err(|error| format!("a short body: {error}"))?;
    let body = String::from_utf8_lossy(&body).into_owned();
    if head.starts_with("HTTP/1.1 200 ") { Ok(body) } else { Err(format!("{head}{body}")) }
}

/// A thread that goes on until told otherwise.
struct Repeating {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    thread: JoinHandle<Option<String>>,
}

impl Repeating {
    /// Calls `once` again and again, until it fails.
    fn start(mut once: impl FnMut() -> Result<(), String> + Send + 'static) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stops, counts) = (stop.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            while !stops.load(Ordering::SeqCst) {
                if let Err(failure) = once() {
                    return Some(failure);
                }
                counts.fetch_add(1, Ordering::SeqCst);
            }
            None
        });
        Self { stop, done, thread }
    }

    fn finish(self, who: &str) -> Option<String> {
        self.stop.store(true, Ordering::SeqCst);
        let failure = self.thread.join().expect("the client does not panic");
        let done = self.done.load(Ordering::SeqCst);
        match failure {
            Some(failure) => Some(format!("{who}, after {done} requests: {failure}")),
            None if done == 0 => Some(format!("{who} was never answered")),
            None => None,
        }
    }
}

/// Asks over a new connection each time; the release that answers must never go back.
pub struct Asking(Repeating);

impl Asking {
    pub fn start(router: SocketAddr) -> Self {
        let mut newest = 0;
        Self(Repeating::start(move || {
            let (release, _) = ask(router)?;
            if release < newest {
                return Err(format!("v{release} answered after v{newest}"));
            }
            newest = release;
            Ok(())
        }))
    }

    pub fn wait_for_more(&self, count: usize) {
        let goal = self.0.done.load(Ordering::SeqCst) + count;
        let deadline = Instant::now() + PATIENCE;
        while self.0.done.load(Ordering::SeqCst) < goal && !self.0.thread.is_finished() {
            assert!(Instant::now() < deadline, "the load stands still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn finish(self) -> Option<String> {
        self.0.finish("the client with new connections")
    }
}

/// Sends 1 MB slowly, again and again.
pub struct Uploading(Repeating);

impl Uploading {
    pub fn start(router: SocketAddr) -> Self {
        Self(Repeating::start(move || {
            let mut stream = connect(router)?;
            let head = format!(
                "POST / HTTP/1.1\r\nHost: steady.localhost\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).map_err(text)?;
            let piece = vec![b'u'; UPLOAD_BYTES / UPLOAD_PIECES];
            for number in 0..UPLOAD_PIECES {
                stream.write_all(&piece).map_err(|error| format!("piece {number}: {error}"))?;
                std::thread::sleep(UPLOAD_PAUSE);
            }
            let (_, length) = release_of(&read_answer(&mut BufReader::new(stream))?)?;
            if length == UPLOAD_BYTES.to_string() { Ok(()) } else { Err(format!("{length} bytes arrived")) }
        }))
    }

    pub fn finish(self) -> Option<String> {
        self.0.finish("the client with the slow body")
    }
}

/// A kept connection between two requests.
pub struct Idle {
    opened: Instant,
    reader: BufReader<TcpStream>,
    router: SocketAddr,
}

impl Idle {
    pub fn open(router: SocketAddr) -> Self {
        let mut reader = BufReader::new(connect(router).expect("the router accepts"));
        write!(reader.get_mut(), "{GET}\r\n").expect("it is open");
        read_answer(&mut reader).expect("the app answers");
        Self { opened: Instant::now(), reader, router }
    }

    /// The next request. `may_be_closed`: it may have been closed before, which the client sees in time.
    pub fn ask_again(&mut self, may_be_closed: bool) -> Option<String> {
        let stream = self.reader.get_ref();
        stream.set_nonblocking(true).expect("our own socket");
        let closed = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("our own socket");
        let is_open = closed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        // On a machine this slow, the router has closed it as it may.
        let may_be_closed = may_be_closed || self.opened.elapsed() > KEPT_AT_LEAST;
        let result = match closed {
            Ok(0) if may_be_closed => ask(self.router).map(|_| ()),
            _ if is_open => write!(self.reader.get_mut(), "{GET}\r\n")
                .map_err(text)
                .and_then(|()| read_answer(&mut self.reader))
                .map(|_| ()),
            other => Err(format!("it was closed: {other:?}")),
        };
        result.err().map(|failure| format!("the idle connection: {failure}"))
    }
}

/// `wrk` over kept connections.
pub struct Wrk(Child);

impl Wrk {
    pub fn start(router: SocketAddr) -> Self {
        // It ends by a signal, and then reports as it does in time.
        let child = Command::new("wrk")
            .args(["-t", "1", "-c", "8", "-d", "300", "--timeout", "40"])
            .args(["-H", "Host: steady.localhost", &format!("http://{router}/")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("wrk is installed by scripts/setup.sh test");
        Self(child)
    }

    pub fn finish(mut self) -> Option<String> {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::INT).expect("it runs");
        let mut report = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut report).expect("wrk prints text");
        self.0.wait().expect("our own child");
        let requests = report.lines().find_map(|line| line.trim().split_once(" requests in "));
        let served = requests.and_then(|(count, _)| count.parse::<u64>().ok()).unwrap_or(0);
        let failed = report.contains("Socket errors") || report.contains("Non-2xx");
        (failed || served == 0).then(|| format!("wrk:\n{report}"))
    }
}
