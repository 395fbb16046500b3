//! From the bytes of a recorded connection to requests with their answers.
//!
//! Enough of HTTP/1.1 (RFC 9112) to read what our own server says: content-length and chunked bodies. An
//! exchange that was cut off is left out.

use crate::tunnel::Recording;
use flate2::read::GzDecoder;
use std::io::Read;

/// One request and its whole answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Exchange {
    pub method: String,
    /// With the query, if there is one.
    pub path: String,
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// The exchanges of a connection, in order.
pub fn exchanges(recording: &Recording) -> Vec<Exchange> {
    let mut requests = recording.sent.as_slice();
    let mut answers = recording.received.as_slice();
    let mut found = Vec::new();
    while let Some((request, rest)) = message(requests, false) {
        requests = rest;
        let mut words = request.start.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let answer = loop {
            let Some((answer, rest)) = message(answers, method == "HEAD") else { return found };
            answers = rest;
            // 100 Continue and its kind come before the answer itself.
            if !answer.start.contains(" 1") || !answer.start.starts_with("HTTP/1.1 1") {
                break answer;
            }
        };
        let status = answer.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        found.push(Exchange {
            method: method.to_owned(),
            path: path.to_owned(),
            status,
            content_type: answer.header("content-type").unwrap_or_default().to_owned(),
            body: answer.unpacked(),
        });
    }
    found
}

struct Message {
    start: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn unpacked(self) -> Vec<u8> {
        if self.header("content-encoding") != Some("gzip") {
            return self.body;
        }
        let mut unpacked = Vec::new();
        GzDecoder::new(&self.body[..]).read_to_end(&mut unpacked).expect("what the node calls gzip is gzip");
        unpacked
    }
}

fn message(bytes: &[u8], no_body: bool) -> Option<(Message, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let start = lines.next()?.to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let mut message = Message { start, headers, body: Vec::new() };
    let rest = &bytes[end + 4..];
    let empty_status = ["HTTP/1.1 204", "HTTP/1.1 304", "HTTP/1.1 1"];
    if no_body || empty_status.iter().any(|status| message.start.starts_with(status)) {
        return Some((message, rest));
    }
    if message.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        let (body, rest) = chunked(rest)?;
        message.body = body;
        return Some((message, rest));
    }
    let length = message.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    message.body = rest.get(..length)?.to_vec();
    Some((message, &rest[length..]))
}

fn chunked(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        let chunk = bytes.get(end + 2..end + 2 + size)?;
        body.extend_from_slice(chunk);
        bytes = bytes.get(end + 2 + size + 2..)?;
        if size == 0 {
            return Some((body, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelined_exchanges_are_told_apart() {
        let recording = Recording {
            sent: b"GET /apps HTTP/1.1\r\nHost: x\r\n\r\nPATCH /apps/a HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
            received: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nContent-Type: application/json\r\n\r\n\
                2\r\n[]\r\n0\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnull"
                .to_vec(),
        };
        let found = exchanges(&recording);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].path.as_str(), found[0].status, found[0].body.as_slice()),
            ("/apps", 200, &b"[]"[..])
        );
        assert_eq!(found[0].content_type, "application/json");
        assert_eq!(
            (found[1].method.as_str(), found[1].status, found[1].body.as_slice()),
            ("PATCH", 404, &b"null"[..])
        );
    }

    #[test]
    fn an_exchange_that_was_cut_off_is_left_out() {
        let recording = Recording {
            sent: b"GET /a HTTP/1.1\r\n\r\n".to_vec(),
            received: b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345".to_vec(),
        };
        assert_eq!(exchanges(&recording), []);
    }
}
