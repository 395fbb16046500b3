//! One request from arrival to its log line.
//!
//! Invariant: every [`Exchange`] makes exactly one record, in [`Exchange::finish`] or when it is dropped
//! unfinished, which means that the client went away (H27) or that the router was told to stop (H24).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ferroku_core::{AppId, DynoId};
use http::{HeaderValue, Method, Uri, Version};

use crate::app_state::OpenRequest;
use crate::body::Upload;
use crate::failure::Failure;
use crate::headers::Identity;
use crate::metrics::Sample;
use crate::shared::{Client, Open, Shared};
use crate::table::{App, InFlight, strip_port};

/// A record that has no sequence yet.
#[derive(Debug)]
pub struct PendingRecord {
    pub app_id: AppId,
    pub at_us: i64,
    pub line: String,
    pub sample: Sample,
}

/// What a client asks for.
#[derive(Debug)]
pub struct About {
    pub method: Method,
    pub uri: Uri,
    pub host: HeaderValue,
    pub version: Version,
}

/// One request of one app.
#[derive(Debug)]
pub struct Exchange {
    pub shared: Arc<Shared>,
    pub client: Arc<Client>,
    pub app: Arc<App>,
    pub method: Method,
    pub uri: Uri,
    pub host: HeaderValue,
    pub version: Version,
    pub identity: Identity,
    pub arrived: Instant,
    /// When the request went to a dyno.
    pub dispatched: Option<Instant>,
    pub connect_ms: Option<u64>,
    pub in_flight: Option<InFlight>,
    /// Of the answer that the client gets or got.
    pub status: Option<u16>,
    /// Of the answer's body; `None` when no dyno was asked.
    pub bytes: Option<u64>,
    /// The label of the dyno, kept for the log line.
    pub dyno: Option<Arc<crate::table::Target>>,
    /// The dyno that the client's cookie names, if the app wants that.
    pub wanted: Option<DynoId>,
    /// Of the request's body, if it has one.
    pub upload: Option<Arc<Upload>>,
    open: Option<(Open, OpenRequest)>,
    finished: bool,
}

impl Exchange {
    /// The request has arrived.
    pub fn new(
        shared: Arc<Shared>,
        client: Arc<Client>,
        app: Arc<App>,
        about: About,
        identity: Identity,
        open: Open,
    ) -> Box<Self> {
        let open_request = app.state.enter();
        let About { method, uri, host, version } = about;
        Box::new(Self {
            shared,
            client,
            app,
            method,
            uri,
            host,
            version,
            identity,
            arrived: Instant::now(),
            dispatched: None,
            connect_ms: None,
            in_flight: None,
            status: None,
            bytes: None,
            dyno: None,
            wanted: None,
            upload: None,
            open: Some((open, open_request)),
            finished: false,
        })
    }

    /// Writes the record and lets go of the dyno. Does nothing the second time.
    pub fn finish(&mut self, failure: Option<Failure>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let status = self.logged_status(failure);
        let record = PendingRecord {
            app_id: self.app.id(),
            at_us: i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX),
            line: self.line(failure, status),
            sample: Sample {
                status: status.unwrap_or(0),
                code: failure.map_or("", |failure| failure.words().code),
                took_ms: u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX),
                bytes_in: self.upload.as_ref().map_or(0, |upload| upload.bytes()),
                bytes_out: self.bytes.unwrap_or(0),
            },
        };
        self.shared.record(self.client.worker, record);
        self.in_flight = None;
        self.open = None;
    }

    fn logged_status(&self, failure: Option<Failure>) -> Option<u16> {
        match failure {
            None => self.status,
            // A forced close has no status at all; an answer that has begun keeps its own.
            Some(Failure::ForcedClose) => None,
            Some(failure @ (Failure::ServerInterrupted | Failure::IdleConnection)) => {
                self.status.or(Some(failure.words().status))
            }
            Some(failure) => Some(failure.words().status),
        }
    }

    fn line(&self, failure: Option<Failure>, status: Option<u16>) -> String {
        let mut line = String::with_capacity(256);
        match failure {
            None => line.push_str("at=info"),
            Some(failure) => {
                let words = failure.words();
                let _ = write!(
                    line,
                    "{}at={} code={} desc=\"{}\"",
                    words.socket, words.level, words.code, words.description
                );
                if !words.cause.is_empty() {
                    let _ = write!(line, " cause=\"{}\"", words.cause);
                }
            }
        }
        line.push_str(" method=");
        line.push_str(self.method.as_str());
        line.push_str(" path=\"");
        push_quoted(&mut line, self.uri.path().as_bytes());
        if let Some(query) = self.uri.query() {
            line.push('?');
            push_quoted(&mut line, query.as_bytes());
        }
        line.push_str("\" host=");
        let host = strip_port(self.host.to_str().unwrap_or_default());
        line.extend(host.chars().map(|character| character.to_ascii_lowercase()));
        line.push_str(" request_id=");
        push_quoted(&mut line, self.identity.request_id.as_bytes());
        line.push_str(" fwd=\"");
        push_quoted(&mut line, self.identity.forwarded_for.as_bytes());
        line.push_str("\" dyno=");
        if let Some(dyno) = &self.dyno {
            line.push_str(&dyno.name);
        }
        line.push_str(" connect=");
        if let Some(connect_ms) = self.connect_ms {
            let _ = write!(line, "{connect_ms}ms");
        }
        line.push_str(" service=");
        if let Some(dispatched) = self.dispatched {
            let _ = write!(line, "{}ms", dispatched.elapsed().as_millis());
        }
        line.push_str(" status=");
        if let Some(status) = status {
            let _ = write!(line, "{status}");
        }
        line.push_str(" bytes=");
        if let Some(bytes) = self.bytes {
            let _ = write!(line, "{bytes}");
        }
        line.push_str(match self.version {
            Version::HTTP_2 => " protocol=http2.0",
            Version::HTTP_10 => " protocol=http1.0",
            _ => " protocol=http1.1",
        });
        match &self.client.tls {
            None => line.push_str(" tls=false"),
            Some(tls) => {
                line.push_str(" tls=true tls_version=");
                line.push_str(tls.version);
            }
        }
        line
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.finished {
            let failure = if self.shared.forced.load(Ordering::Relaxed) {
                Failure::ForcedClose
            } else if self.client.stalled.load(Ordering::Relaxed) {
                Failure::ClientIdle
            } else {
                Failure::ClientInterrupted
            };
            if self.dispatched.is_some() && self.bytes.is_none() {
                self.bytes = Some(0);
            }
            self.finish(Some(failure));
        }
    }
}

/// Appends what a client sent so that it stays inside the quotes and on the line: no blanks, quotes or
/// bytes outside visible ASCII.
fn push_quoted(line: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b' ' | b'\t' => {}
            b'"' => line.push_str("%22"),
            0x21..=0x7e => line.push(char::from(byte)),
            _ => {
                let _ = write!(line, "%{byte:02X}");
            }
        }
    }
}
