//! What control and the router (and the supervisor and the router) say to each other over `DIR/run/router.sock`.
//!
//! The router listens; control and the supervisor connect. Both sides open with a [`Hello`].
//!
//! ```text
//! control -> router      hello, certificate, table, acknowledge
//! supervisor -> router   hello, take_listeners
//! router -> control      hello, table_applied, drained, request_log, leaving, wake, probed, metrics
//! router -> supervisor   hello, listeners (with two file descriptors: router listener, API listener; and
//!                        a third, the router's second listener, when it has one)
//! ```
//!
//! A table is always whole: what it does not name is gone. A certificate is sent once a connection, before the first
//! table that names it, and counts from that table on. Payloads are JSON; unknown fields and unknown frame types are
//! ignored. Invariant: the golden bytes in the tests below never change for a version.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::frame::{Frame, FrameError, encode_into};
pub use super::router_metrics::{AppMetrics, LATENCY_BOUNDS_MS, MetricsReport};
pub use super::router_table::{
    Asleep, Certificate, CertificateUse, RouteApp, RouteTable, Target, TargetState,
};
use crate::{AppId, DynoId};

/// Raised when a peer of the version before could misread what this one sends.
pub const PROTOCOL_VERSION: u32 = 1;

const HELLO: u8 = 1;
const TABLE: u8 = 2;
const ACKNOWLEDGE: u8 = 3;
const TAKE_LISTENERS: u8 = 4;
const CERTIFICATE: u8 = 5;
const TABLE_APPLIED: u8 = 65;
const DRAINED: u8 = 66;
const REQUEST_LOG: u8 = 67;
const LEAVING: u8 = 68;
const LISTENERS: u8 = 69;
const WAKE: u8 = 70;
const PROBED: u8 = 71;
const METRICS: u8 = 72;

/// The first frame in each direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol_version: u32,
    /// SHA-256 of the sender's executable, hexadecimal; empty when unknown.
    #[serde(default)]
    pub binary_digest: String,
    /// The router's: what tells one run of a router from the next. Zero from control and the supervisor.
    #[serde(default)]
    pub instance: u64,
    #[serde(default)]
    pub role: Role,
}

/// Who says hello.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The newest connection of control replaces the one before it.
    #[default]
    Control,
    Supervisor,
    Router,
}

/// The records of `instance` up to and with `sequence` are on disk; the router may forget them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledge {
    pub instance: u64,
    pub sequence: u64,
}

/// The table of this version serves every request that arrives from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableApplied {
    pub version: u64,
}

/// No request is in flight to this target, and none will be sent: it is draining or no longer in the table.
/// Sent again after a reconnect for targets that the table still names as draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    pub dyno_id: DynoId,
}

/// A request waits for this sleeping app; sent when the first one comes, and again while some wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    pub app_id: AppId,
}

/// How the probe of a target that is [`TargetState::Adding`] ended. A healthy one is reported once, a failure
/// whenever its detail changes; probing goes on until the table says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    pub dyno_id: DynoId,
    pub healthy: bool,
    /// What happened, for people; empty for a healthy one.
    #[serde(default)]
    pub detail: String,
}

/// Request records in rising order of sequence, sent again after a reconnect until acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLog {
    /// The run of a router that made the records. Sequences are unique and rise within it; a router passes on
    /// what one before it left behind, so this need not be the sender's own.
    pub instance: u64,
    pub records: Vec<RequestRecord>,
    /// How many records this instance has dropped in all because nobody acknowledged in time.
    #[serde(default)]
    pub dropped: u64,
}

/// One request that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    pub sequence: u64,
    pub app_id: AppId,
    /// Microseconds since the Unix epoch, when the request ended.
    pub at_us: i64,
    /// The whole text: `at=info method=GET path="/" ...`.
    pub line: String,
}

impl RequestRecord {
    /// Whether a dyno was asked, by the text: no client can write a blank into it.
    pub fn reached_a_dyno(&self) -> bool {
        !self.line.contains(" dyno= ")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Nothing {}

/// Why a frame is no message.
#[derive(Debug, Error)]
pub enum MessageError {
    #[error("the payload of router frame type {frame_type} is not what its type says")]
    Payload { frame_type: u8, source: serde_json::Error },
    #[error("a message does not fit into a frame")]
    Frame(#[source] FrameError),
}

/// What the router is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToRouter {
    Hello(Hello),
    /// New on this connection; shown once a table names it.
    Certificate(Certificate),
    Table(RouteTable),
    Acknowledge(Acknowledge),
    /// Only from root: answer with [`FromRouter::Listeners`] and both listeners as SCM_RIGHTS.
    TakeListeners,
}

/// What the router tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromRouter {
    Hello(Hello),
    TableApplied(TableApplied),
    Drained(Drained),
    RequestLog(RequestLog),
    /// This router accepts no more connections; the next one already listens or soon will. It goes on
    /// sending `drained` and `request_log` on this connection until it exits.
    Leaving,
    Listeners,
    Wake(Wake),
    Probed(Probed),
    Metrics(MetricsReport),
}

impl ToRouter {
    /// The message as one frame.
    ///
    /// # Errors
    /// It is over [`super::frame::MAX_FRAME_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        match self {
            Self::Hello(hello) => encode(HELLO, hello),
            Self::Certificate(certificate) => certificate_frame(certificate),
            Self::Table(table) => table_frame(table),
            Self::Acknowledge(acknowledge) => encode(ACKNOWLEDGE, acknowledge),
            Self::TakeListeners => encode(TAKE_LISTENERS, &Nothing {}),
        }
    }

    /// The message in a frame, `None` when its type is unknown to this version.
    ///
    /// # Errors
    /// The payload does not fit the type.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, MessageError> {
        Ok(Some(match frame.frame_type {
            HELLO => Self::Hello(decode(frame)?),
            CERTIFICATE => Self::Certificate(decode(frame)?),
            TABLE => Self::Table(decode(frame)?),
            ACKNOWLEDGE => Self::Acknowledge(decode(frame)?),
            TAKE_LISTENERS => Self::TakeListeners,
            _ => return Ok(None),
        }))
    }
}

impl FromRouter {
    /// The message as one frame.
    ///
    /// # Errors
    /// It is over [`super::frame::MAX_FRAME_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        match self {
            Self::Hello(hello) => encode(HELLO, hello),
            Self::TableApplied(applied) => encode(TABLE_APPLIED, applied),
            Self::Drained(drained) => encode(DRAINED, drained),
            Self::RequestLog(log) => encode(REQUEST_LOG, log),
            Self::Leaving => encode(LEAVING, &Nothing {}),
            Self::Listeners => encode(LISTENERS, &Nothing {}),
            Self::Wake(wake) => encode(WAKE, wake),
            Self::Probed(probed) => encode(PROBED, probed),
            Self::Metrics(report) => encode(METRICS, report),
        }
    }

    /// The message in a frame, `None` when its type is unknown to this version.
    ///
    /// # Errors
    /// The payload does not fit the type.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, MessageError> {
        Ok(Some(match frame.frame_type {
            HELLO => Self::Hello(decode(frame)?),
            TABLE_APPLIED => Self::TableApplied(decode(frame)?),
            DRAINED => Self::Drained(decode(frame)?),
            REQUEST_LOG => Self::RequestLog(decode(frame)?),
            LEAVING => Self::Leaving,
            LISTENERS => Self::Listeners,
            WAKE => Self::Wake(decode(frame)?),
            PROBED => Self::Probed(decode(frame)?),
            METRICS => Self::Metrics(decode(frame)?),
            _ => return Ok(None),
        }))
    }
}

/// [`ToRouter::Certificate`] as one frame, for a sender that keeps the certificate.
///
/// # Errors
/// It is over [`super::frame::MAX_FRAME_BYTES`].
pub fn certificate_frame(certificate: &Certificate) -> Result<Vec<u8>, MessageError> {
    encode(CERTIFICATE, certificate)
}

/// [`ToRouter::Table`] as one frame, for a sender that keeps the table.
///
/// # Errors
/// It is over [`super::frame::MAX_FRAME_BYTES`].
pub fn table_frame(table: &RouteTable) -> Result<Vec<u8>, MessageError> {
    encode(TABLE, table)
}

fn encode<T: Serialize>(frame_type: u8, payload: &T) -> Result<Vec<u8>, MessageError> {
    let payload =
        serde_json::to_vec(payload).map_err(|source| MessageError::Payload { frame_type, source })?;
    let mut bytes = Vec::with_capacity(payload.len() + 5);
    encode_into(&mut bytes, frame_type, &payload).map_err(MessageError::Frame)?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(frame: &Frame) -> Result<T, MessageError> {
    serde_json::from_slice(&frame.payload)
        .map_err(|source| MessageError::Payload { frame_type: frame.frame_type, source })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::protocol::frame::Decoder;

    fn app_id() -> AppId {
        AppId(Uuid::from_u128(0x11))
    }

    fn dyno_id() -> DynoId {
        DynoId(Uuid::from_u128(0x22))
    }

    /// The frame written by hand: length, type, payload.
    fn golden(frame_type: u8, payload: &str) -> Vec<u8> {
        let mut bytes = (payload.len() as u32 + 1).to_le_bytes().to_vec();
        bytes.push(frame_type);
        bytes.extend_from_slice(payload.as_bytes());
        bytes
    }

    fn frame_of(bytes: &[u8]) -> Frame {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        decoder.next_frame().expect("valid").expect("whole")
    }

    fn table() -> RouteTable {
        RouteTable {
            version: 7,
            apps: vec![RouteApp {
                web_quantity: 1,
                booting: true,
                error_page_url: Some("https://example.com/e".into()),
                targets: vec![Target {
                    dyno_id: dyno_id(),
                    name: "web.1".into(),
                    address: "10.1.0.2:5000".parse().expect("address"),
                    state: TargetState::Draining,
                    asleep: None,
                }],
                ..RouteApp::new(app_id(), "shop", vec!["shop.localhost".into()])
            }],
            ..RouteTable::default()
        }
    }

    #[test]
    fn messages_to_the_router_have_the_bytes_of_version_1() {
        let app = r#"{"app_id":"00000000-0000-0000-0000-000000000011","name":"shop","hosts":["shop.localhost"],"maintenance":false,"blank":false,"web_quantity":1,"crashed":false,"booting":true,"error_page_url":"https://example.com/e","maintenance_page_url":null,"targets":[{"dyno_id":"00000000-0000-0000-0000-000000000022","name":"web.1","address":"10.1.0.2:5000","state":"draining"}]}"#;
        let hello =
            Hello { protocol_version: 1, binary_digest: "ab".into(), instance: 0, role: Role::Supervisor };
        let certificate = Certificate::new("c", "CHAIN\n".into(), "SECRET".into());
        assert!(!format!("{certificate:?}").contains("SECRET"), "a private key is never logged");
        let cases = [
            (
                ToRouter::Hello(hello),
                golden(1, r#"{"protocol_version":1,"binary_digest":"ab","instance":0,"role":"supervisor"}"#),
            ),
            (ToRouter::Table(table()), golden(2, &format!(r#"{{"version":7,"apps":[{app}]}}"#))),
            (
                ToRouter::Acknowledge(Acknowledge { instance: 5, sequence: 9 }),
                golden(3, r#"{"instance":5,"sequence":9}"#),
            ),
            (ToRouter::TakeListeners, golden(4, "{}")),
            (
                ToRouter::Certificate(certificate),
                golden(
                    5,
                    r#"{"id":"c","digest":"c878b087f3fb63305d4baceb0f54030382a4b57cb6c2b3a92b0f4bff9055802c","chain_pem":"CHAIN\n","key_pem":"SECRET"}"#,
                ),
            ),
        ];
        for (message, bytes) in cases {
            assert_eq!(message.encode().expect("small"), bytes);
            assert_eq!(ToRouter::decode(&frame_of(&bytes)).expect("valid"), Some(message));
        }
    }

    #[test]
    fn what_was_added_later_is_sent_only_when_it_is_set() {
        let mut table = table();
        let certificate = Certificate::new("c", "CHAIN".into(), "SECRET".into());
        table.certificates.push(certificate.shown_to(vec!["*.example.com".into()]));
        table.acme_challenges.insert("token".into(), "token.thumb".into());
        let app = &mut table.apps[0];
        (app.https_redirect, app.session_affinity, app.http2) = (true, true, true);
        (app.asleep, app.out_of_hours, app.max_requests) = (true, true, Some(3));
        app.health_check_path = Some("/up".into());
        app.targets[0].state = TargetState::Adding;
        app.targets[0].asleep = Some(Asleep { wake_socket: "/d/wake".into(), sleep_id: 4 });
        let bytes = golden(
            2,
            r#"{"version":7,"apps":[{"app_id":"00000000-0000-0000-0000-000000000011","name":"shop","hosts":["shop.localhost"],"maintenance":false,"blank":false,"web_quantity":1,"crashed":false,"booting":true,"error_page_url":"https://example.com/e","maintenance_page_url":null,"targets":[{"dyno_id":"00000000-0000-0000-0000-000000000022","name":"web.1","address":"10.1.0.2:5000","state":"adding","asleep":{"wake_socket":"/d/wake","sleep_id":4}}],"https_redirect":true,"session_affinity":true,"http2":true,"asleep":true,"out_of_hours":true,"max_requests":3,"health_check_path":"/up"}],"certificates":[{"id":"c","digest":"945c72078d9c878587e1d29181b97a50b88187b7969792478a28ba1f512c5ca3","hosts":["*.example.com"]}],"acme_challenges":{"token":"token.thumb"}}"#,
        );
        let message = ToRouter::Table(table);
        assert_eq!(message.encode().expect("small"), bytes);
        assert_eq!(ToRouter::decode(&frame_of(&bytes)).expect("valid"), Some(message));
    }

    #[test]
    fn messages_from_the_router_have_the_bytes_of_version_1() {
        let record = RequestRecord { sequence: 9, app_id: app_id(), at_us: 3, line: r#"path="/""#.into() };
        let log = RequestLog { instance: 5, records: vec![record], dropped: 2 };
        let report = MetricsReport {
            instance: 5,
            open_connections: 2,
            accepted_connections: 3,
            apps: vec![AppMetrics {
                app_id: app_id(),
                open_requests: 1,
                statuses: [0, 4, 0, 0, 1],
                failures: [("H12".to_owned(), 1)].into(),
                latency_counts: vec![5],
                latency_sum_ms: 9,
                bytes_in: 6,
                bytes_out: 7,
            }],
        };
        let cases = [
            (
                FromRouter::Hello(Hello {
                    protocol_version: 1,
                    binary_digest: String::new(),
                    instance: 5,
                    role: Role::Router,
                }),
                golden(1, r#"{"protocol_version":1,"binary_digest":"","instance":5,"role":"router"}"#),
            ),
            (FromRouter::TableApplied(TableApplied { version: 7 }), golden(65, r#"{"version":7}"#)),
            (
                FromRouter::Drained(Drained { dyno_id: dyno_id() }),
                golden(66, r#"{"dyno_id":"00000000-0000-0000-0000-000000000022"}"#),
            ),
            (
                FromRouter::RequestLog(log),
                golden(
                    67,
                    r#"{"instance":5,"records":[{"sequence":9,"app_id":"00000000-0000-0000-0000-000000000011","at_us":3,"line":"path=\"/\""}],"dropped":2}"#,
                ),
            ),
            (FromRouter::Leaving, golden(68, "{}")),
            (FromRouter::Listeners, golden(69, "{}")),
            (
                FromRouter::Wake(Wake { app_id: app_id() }),
                golden(70, r#"{"app_id":"00000000-0000-0000-0000-000000000011"}"#),
            ),
            (
                FromRouter::Probed(Probed { dyno_id: dyno_id(), healthy: false, detail: "refused".into() }),
                golden(
                    71,
                    r#"{"dyno_id":"00000000-0000-0000-0000-000000000022","healthy":false,"detail":"refused"}"#,
                ),
            ),
            (
                FromRouter::Metrics(report),
                golden(
                    72,
                    r#"{"instance":5,"open_connections":2,"accepted_connections":3,"apps":[{"app_id":"00000000-0000-0000-0000-000000000011","open_requests":1,"statuses":[0,4,0,0,1],"failures":{"H12":1},"latency_counts":[5],"latency_sum_ms":9,"bytes_in":6,"bytes_out":7}]}"#,
                ),
            ),
        ];
        for (message, bytes) in cases {
            assert_eq!(message.encode().expect("small"), bytes);
            assert_eq!(FromRouter::decode(&frame_of(&bytes)).expect("valid"), Some(message));
        }
    }

    #[test]
    fn fields_and_types_of_a_newer_version_are_ignored_and_missing_ones_have_defaults() {
        let newer = golden(
            2,
            r#"{"version":1,"later":true,"apps":[{"app_id":"00000000-0000-0000-0000-000000000011","name":"a","hosts":[],"x":1}]}"#,
        );
        let Some(ToRouter::Table(table)) = ToRouter::decode(&frame_of(&newer)).expect("valid") else {
            panic!("not a table");
        };
        assert_eq!(table.apps[0].name, "a");
        assert!(!table.apps[0].booting);
        assert_eq!(ToRouter::decode(&frame_of(&golden(200, "?"))).expect("valid"), None);
        assert_eq!(FromRouter::decode(&frame_of(&golden(200, "?"))).expect("valid"), None);
        assert!(ToRouter::decode(&frame_of(&golden(2, "[]x"))).is_err());
    }
}
