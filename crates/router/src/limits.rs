//! Every limit of the router, with its unit and where it comes from.

use std::time::Duration;

/// Longest request target (path and query), in bytes (Heroku's HTTP limits: 8,192; longer is answered 414).
pub const REQUEST_TARGET_LIMIT_BYTES: usize = 8192;
/// Longest header line, name and value, in bytes (Heroku's HTTP limits).
pub const HEADER_LINE_LIMIT_BYTES: usize = 8192;
/// Largest `Set-Cookie` of a response, in bytes (Heroku's HTTP limits; larger is H25).
pub const COOKIE_LIMIT_BYTES: usize = 8192;
/// All of a request's head, in bytes: a thousand header lines fit at ordinary length. Eight megabytes, which is what
/// Heroku's two limits allow together, would be a weapon.
pub const REQUEST_HEAD_LIMIT_BYTES: usize = 256 * 1024;
/// All of a response's head, in bytes (Heroku's HTTP limits: 512 KB a header line).
pub const RESPONSE_HEAD_LIMIT_BYTES: usize = 512 * 1024;
/// For a TLS handshake, once its first byte has come: several round trips of a slow phone.
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(15);
/// Requests at once on one HTTP/2 connection (RFC 9113 section 6.5.2: no smaller than 100).
pub const HTTP2_STREAMS: u32 = 100;
/// Streams that a client may reset before they were looked at; more end the connection (rapid reset,
/// CVE-2023-44487; h2's own default).
pub const HTTP2_PENDING_RESETS: usize = 20;
/// Streams that the router may have to reset for a client's mistakes; more end the connection (h2's default).
pub const HTTP2_ERROR_RESETS: usize = 1024;
/// All header fields of one HTTP/2 request, decoded, in bytes: as in HTTP/1. h2 derives from it how many
/// CONTINUATION frames a head may have (CVE-2024-27316).
pub const HTTP2_HEADER_LIST_BYTES: u32 = 256 * 1024;
/// How much of one request's body a client may send before the dyno takes it, in bytes.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// The same for all requests of one connection, in bytes: what a connection can cost the router.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
/// The same for all responses on one connection to a dyno, in bytes: many clients share it, and a slow one must
/// not hold up the others.
pub const HTTP2_DYNO_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// All header fields of one HTTP/2 response, decoded, in bytes: as in HTTP/1.
pub const HTTP2_RESPONSE_HEADER_LIST_BYTES: u32 = 512 * 1024;
/// How much of one response waits for the client to take it, in bytes.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Requests at once to one app, for each of its healthy dynos (Heroku: 200; more are H11).
pub const REQUESTS_PER_DYNO: usize = 200;
/// Dynos tried for one request before H19 or H21 (Heroku: 10).
pub const CONNECT_ATTEMPTS: usize = 10;
/// Idle connections kept to one dyno by one worker: what a burst needs; more only hold the dyno's threads.
pub const IDLE_CONNECTIONS_PER_DYNO: usize = 128;
/// Client connections at once in one router; beyond it (and one a worker) new ones wait in the listen backlog.
/// Each needs two file descriptors and about 20 KB.
pub const CLIENT_CONNECTIONS: usize = 20_000;
/// Client connections at once from one address (IPv6: one /64, which is what one customer gets); beyond it new ones are
/// closed at once. Enough for an office or a content network behind one address, and a fifth of all.
pub const CLIENT_CONNECTIONS_PER_ADDRESS: usize = 4_000;
/// An idle connection to a dyno older than this is not used for a request that must not be sent twice:
/// servers close idle connections after as little as 2 s (gunicorn), and the race would be an H13.
pub const REUSE_UNSAFE_WITHIN: Duration = Duration::from_secs(1);
/// Request records that wait for control, in bytes of memory: about 25,000 requests, so that a router stays
/// below 20 MB. The oldest are dropped and counted.
pub const REQUEST_RECORDS_LIMIT_BYTES: usize = 8 * 1024 * 1024;
/// Request records in one frame.
pub const REQUEST_RECORDS_PER_FRAME: usize = 512;
/// How long records collect before they are sent together.
pub const REQUEST_RECORDS_PAUSE: Duration = Duration::from_millis(10);
/// How long a leaving router waits for control to acknowledge the last records before it leaves them on disk.
pub const ACKNOWLEDGE_WAIT: Duration = Duration::from_secs(2);
/// Between two probes of a dyno that is being added: what a deploy may wait longer than it must.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// For one probe, connection and answer.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two reports of what was counted.
pub const METRICS_INTERVAL: Duration = Duration::from_secs(5);
/// Control is told again that requests wait for a sleeping app after this, in case the first word was lost.
pub const WAKE_INTERVAL: Duration = Duration::from_secs(5);
/// Longest request method, in bytes (Heroku's HTTP limits: 127 characters).
pub const METHOD_LIMIT_BYTES: usize = 127;
/// Longest header name, in bytes (Heroku's HTTP limits).
pub const HEADER_NAME_LIMIT_BYTES: usize = 1000;
/// Headers of one request (Heroku's HTTP limits).
pub const HEADERS_LIMIT: usize = 1000;
/// Headers of one response. Heroku names no limit; room for each is prepared for every response, which is why it is
/// not larger.
pub const RESPONSE_HEADERS_LIMIT: usize = 256;
/// Between two rounds of closing what has been idle for too long and of looking for records left on disk.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a new peer on the router's socket may take to say hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For the connection to control that an SSH client is handed over by: its socket is on this machine.
pub const SSH_CONNECT: Duration = Duration::from_secs(5);
/// Bytes copied at once in each direction of an upgraded connection.
pub const TUNNEL_BUFFER_BYTES: usize = 8 * 1024;

/// The times that Heroku's router keeps. Tests shorten them.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For one connection attempt to a dyno (Heroku: 5 s).
    pub connect: Duration,
    /// A dyno that could not be reached gets no request for this long (Heroku: 5 s).
    pub quarantine: Duration,
    /// For all attempts of one request (Heroku: 75 s, then H99).
    pub connect_budget: Duration,
    /// From dispatch to the first byte of the response (Heroku: 30 s, then H12).
    pub first_byte: Duration,
    /// Without a byte either way after that (Heroku: 55 s, then H15 or H28).
    pub idle: Duration,
    /// A request waits this long for a booting app (Heroku: 75 s, then H20).
    pub boot: Duration,
    /// Idle connections to dynos are closed after this (Heroku: 90 s).
    pub dyno_keep_alive: Duration,
    /// A client's connection without a whole request head is closed after this (Heroku: about 60 s).
    pub client_keep_alive: Duration,
    /// A leaving router closes idle client connections after this, so that a client in the middle of sending
    /// its next request still gets an answer.
    pub leave_idle: Duration,
    /// A leaving router closes everything after this (30 s, as dynos have).
    pub drain: Duration,
}

/// How many connections clients may have. Tests lower them.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// See [`CLIENT_CONNECTIONS`].
    pub in_all: usize,
    /// See [`CLIENT_CONNECTIONS_PER_ADDRESS`].
    pub per_address: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { in_all: CLIENT_CONNECTIONS, per_address: CLIENT_CONNECTIONS_PER_ADDRESS }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            quarantine: Duration::from_secs(5),
            connect_budget: Duration::from_secs(75),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(55),
            boot: Duration::from_secs(75),
            dyno_keep_alive: Duration::from_secs(90),
            client_keep_alive: Duration::from_secs(60),
            leave_idle: Duration::from_secs(1),
            drain: Duration::from_secs(30),
        }
    }
}
