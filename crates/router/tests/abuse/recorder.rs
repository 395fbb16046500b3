//! A dyno that keeps what it gets and reads it as strictly as RFC 9112 can be read.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use crate::common::Dyno;

/// One request that reached the dyno.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Method and target.
    pub line: String,
    /// The length of its body; `None` when the connection ended before its end.
    pub body: Option<usize>,
    pub head: String,
}

impl Seen {
    pub fn whole(line: &str, body: usize) -> Self {
        Self { line: line.into(), body: Some(body), head: String::new() }
    }
}

/// The dyno and its memory.
pub struct Recorder {
    pub dyno: Dyno,
    seen: Arc<Mutex<Vec<Seen>>>,
    broken: Arc<Mutex<Vec<String>>>,
    /// Those that may come cut off, of all cases until now.
    pub cut: Mutex<Vec<String>>,
}

impl Recorder {
    pub fn start() -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let broken: Arc<Mutex<Vec<String>>> = Arc::default();
        let (sees, breaks) = (seen.clone(), broken.clone());
        let dyno = Dyno::raw(move |stream| {
            if let Err(what) = serve(stream, &sees) {
                breaks.lock().unwrap().push(what);
            }
        });
        Self { dyno, seen, broken, cut: Mutex::default() }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What was seen since the last time.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// Bytes that are no request.
    pub fn broken(&self) -> Vec<String> {
        std::mem::take(&mut self.broken.lock().unwrap())
    }
}

/// Answers requests until the connection ends.
fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Seen>>) -> Result<(), String> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes)? {
            Parsed::Whole { seen: request, length } => {
                bytes.drain(..length);
                let answer =
                    format!("HTTP/1.1 200 OK\r\nSeen: {}\r\nContent-Length: 0\r\n\r\n", request.line);
                seen.lock().unwrap().push(request);
                if stream.write_all(answer.as_bytes()).is_err() {
                    return Ok(());
                }
            }
            Parsed::Cut(request) => {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer) {
                    Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
                    _ => {
                        seen.lock().unwrap().extend(request);
                        return Ok(());
                    }
                }
            }
        }
    }
}

enum Parsed {
    Whole { seen: Seen, length: usize },
    Cut(Option<Seen>),
}

fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let wrong = |what: &str| Err(format!("{what}: {:?}", String::from_utf8_lossy(bytes)));
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        // Half a head is not a request; but it must not be followed by anything, which the end will show.
        return Ok(Parsed::Cut((!bytes.is_empty()).then(|| half(bytes))));
    };
    let head: String = bytes[..end + 2].iter().map(|byte| char::from(*byte)).collect();
    let mut lines = head.split_terminator("\r\n");
    let start = lines.next().unwrap_or_default();
    let [method, target, "HTTP/1.1"] = *start.split(' ').collect::<Vec<_>>() else {
        return wrong("not a request line");
    };
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return wrong("a line without a colon") };
        let value = value.trim_matches(' ');
        // RFC 9110, section 5.6.2.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return wrong("not a name");
        }
        if value.chars().any(|character| character.is_ascii_control() && character != '\t') {
            return wrong("a control character");
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" if length.is_none() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                length = value.parse::<usize>().ok();
            }
            "transfer-encoding" if !chunked && value == "chunked" => chunked = true,
            "content-length" | "transfer-encoding" => return wrong("framing in doubt"),
            _ => {}
        }
    }
    if hosts != 1 || (chunked && length.is_some()) {
        return wrong("two framings, or not one Host");
    }
    let line = format!("{method} {target}");
    let body = &bytes[end + 4..];
    let (body_length, taken) = if chunked {
        match chunks(body) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Parsed::Cut(Some(Seen { line, body: None, head }))),
            Err(what) => return wrong(what),
        }
    } else {
        let length = length.unwrap_or(0);
        if body.len() < length {
            return Ok(Parsed::Cut(Some(Seen { line, body: None, head })));
        }
        (length, length)
    };
    Ok(Parsed::Whole { seen: Seen { line, body: Some(body_length), head }, length: end + 4 + taken })
}

fn half(bytes: &[u8]) -> Seen {
    Seen {
        line: format!("half a head {:?}", String::from_utf8_lossy(bytes)),
        body: None,
        head: String::new(),
    }
}

/// The length of a chunked body and how many bytes it took; `None` when more must come. No extensions, no
/// trailers: the router passes none on.
fn chunks(mut body: &[u8]) -> Result<Option<(usize, usize)>, &'static str> {
    let (all, mut length) = (body.len(), 0);
    loop {
        let Some(end) = body.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&body[..end]).map_err(|_| "not a chunk size")?;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("not a chunk size");
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| "a chunk size that is too large")?;
        if body.len() < end + 2 + size + 2 {
            return Ok(None);
        }
        if &body[end + 2 + size..end + 4 + size] != b"\r\n" {
            return Err("a chunk that does not end, or trailers");
        }
        body = &body[end + 4 + size..];
        length += size;
        if size == 0 {
            return Ok(Some((length, all - body.len())));
        }
    }
}
