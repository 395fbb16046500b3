//! What control and dyno-init say to each other, version 1.
//!
//! Control connects to `DIR/run/dynos/<id>/sock`; both sides open with a hello. dyno-init then tells
//! the state it is in (`Started`, `Bound`), resends every log line after the last acknowledged
//! one, goes on with what happens, and ends with `Exited` or `StartFailed`; it stays until `Release`.
//! It serves one connection; a newer one replaces it.
//!
//! Frame types below 64 go to dyno-init, the others come from it. A frame type never changes its meaning or
//! payload; JSON payloads may gain fields. `Log` is binary, all little-endian:
//!
//! ```text
//! u64 sequence | i64 microseconds since 1970 | u8 stream (1 stdout, 2 stderr) | the line, without its newline
//! ```

use super::frame::{Frame, FrameError, encode_into};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// The version both sides of this release speak.
pub const PROTOCOL_VERSION: u32 = 1;

/// How many bytes of standard input may be under way before dyno-init has passed them on: as much as
/// a pipe or terminal takes in a few turns, and little enough to keep in memory for each dyno.
pub const STDIN_WINDOW_BYTES: usize = 256 * 1024;

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    /// SHA-256 of the sender's program, in hex; empty when it does not know.
    pub digest: String,
    pub dyno_id: String,
    /// Drawn for each start of a dyno: tells two of the same id apart.
    pub nonce: String,
    /// dyno-init's process id as it sees it itself; 0 from control.
    #[serde(default)]
    pub pid: u32,
}

/// From control to dyno-init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToDynoInit {
    Hello(Hello),
    /// The environment; the dyno starts once it is here. Ignored when it has one already.
    Environment(BTreeMap<String, String>),
    /// Log lines up to this sequence are safe.
    Acknowledge(u64),
    Signal(i32),
    Stop {
        grace_ms: u64,
    },
    Kill,
    /// At most [`STDIN_WINDOW_BYTES`] beyond what `StdinConsumed` gave back.
    Stdin(Vec<u8>),
    CloseStdin,
    Resize {
        rows: u16,
        columns: u16,
    },
    /// Everything is safe: kill what lives, and end.
    Release,
}

/// From dyno-init to control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromDynoInit {
    Hello(Hello),
    Started,
    Bound,
    BoundLoopbackOnly,
    BootTimeout,
    Log { sequence: u64, at_us: i64, stream: u8, line: Vec<u8> },
    LogDropped { count: u64 },
    Output(Vec<u8>),
    StopTimeout,
    StartFailed { message: String },
    Exited { status: i32, at_us: i64, oom_killed: bool },
    StdinConsumed { bytes: u64 },
}

/// Why a frame is not understood.
#[derive(Debug, Error)]
pub enum DynoProtocolError {
    #[error("the payload of frame type {frame_type} is not what that type has")]
    Payload { frame_type: u8 },
    #[error(transparent)]
    Frame(#[from] FrameError),
}

#[derive(Serialize, Deserialize)]
struct Sequence {
    sequence: u64,
}
#[derive(Serialize, Deserialize)]
struct Count {
    count: u64,
}
#[derive(Serialize, Deserialize)]
struct Bytes {
    bytes: u64,
}
#[derive(Serialize, Deserialize)]
struct SignalNumber {
    signal: i32,
}
#[derive(Serialize, Deserialize)]
struct Grace {
    grace_ms: u64,
}
#[derive(Serialize, Deserialize)]
struct Size {
    rows: u16,
    columns: u16,
}
#[derive(Serialize, Deserialize)]
struct Message {
    message: String,
}
#[derive(Serialize, Deserialize)]
struct Exit {
    status: i32,
    at_us: i64,
    oom_killed: bool,
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have string keys and no failing serialiser")
}

fn parse<T: DeserializeOwned>(frame: &Frame) -> Result<T, DynoProtocolError> {
    serde_json::from_slice(&frame.payload)
        .map_err(|_| DynoProtocolError::Payload { frame_type: frame.frame_type })
}

// === impl ToDynoInit ===

impl ToDynoInit {
    /// Appends the encoded frame to `out`.
    ///
    /// # Errors
    /// The payload is over the limit of a frame.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let (frame_type, payload) = match self {
            Self::Hello(hello) => (1, json(hello)),
            Self::Environment(variables) => (2, json(variables)),
            Self::Acknowledge(sequence) => (3, json(&Sequence { sequence: *sequence })),
            Self::Signal(signal) => (4, json(&SignalNumber { signal: *signal })),
            Self::Stop { grace_ms } => (5, json(&Grace { grace_ms: *grace_ms })),
            Self::Kill => (6, Vec::new()),
            Self::Stdin(bytes) => return encode_into(out, 7, bytes),
            Self::CloseStdin => (8, Vec::new()),
            Self::Resize { rows, columns } => (9, json(&Size { rows: *rows, columns: *columns })),
            Self::Release => (10, Vec::new()),
        };
        encode_into(out, frame_type, &payload)
    }

    /// What a frame says; `None` for a type this release does not know.
    ///
    /// # Errors
    /// The payload is not what that type has.
    pub fn decode(frame: Frame) -> Result<Option<Self>, DynoProtocolError> {
        Ok(Some(match frame.frame_type {
            1 => Self::Hello(parse(&frame)?),
            2 => Self::Environment(parse(&frame)?),
            3 => Self::Acknowledge(parse::<Sequence>(&frame)?.sequence),
            4 => Self::Signal(parse::<SignalNumber>(&frame)?.signal),
            5 => Self::Stop { grace_ms: parse::<Grace>(&frame)?.grace_ms },
            6 => Self::Kill,
            7 => Self::Stdin(frame.payload),
            8 => Self::CloseStdin,
            9 => {
                let size: Size = parse(&frame)?;
                Self::Resize { rows: size.rows, columns: size.columns }
            }
            10 => Self::Release,
            _ => return Ok(None),
        }))
    }
}

// === impl FromDynoInit ===

impl FromDynoInit {
    /// Appends the encoded frame to `out`.
    ///
    /// # Errors
    /// The payload is over the limit of a frame.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let (frame_type, payload) = match self {
            Self::Hello(hello) => (64, json(hello)),
            Self::Started => (65, Vec::new()),
            Self::Bound => (66, Vec::new()),
            Self::BoundLoopbackOnly => (67, Vec::new()),
            Self::BootTimeout => (68, Vec::new()),
            Self::Log { sequence, at_us, stream, line } => {
                let mut payload = Vec::with_capacity(LOG_HEAD_BYTES + line.len());
                payload.extend_from_slice(&sequence.to_le_bytes());
                payload.extend_from_slice(&at_us.to_le_bytes());
                payload.push(*stream);
                payload.extend_from_slice(line);
                (LOG_FRAME_TYPE, payload)
            }
            Self::LogDropped { count } => (70, json(&Count { count: *count })),
            Self::Output(bytes) => return encode_into(out, 71, bytes),
            Self::StopTimeout => (72, Vec::new()),
            Self::StartFailed { message } => (73, json(&Message { message: message.clone() })),
            Self::Exited { status, at_us, oom_killed } => {
                (74, json(&Exit { status: *status, at_us: *at_us, oom_killed: *oom_killed }))
            }
            Self::StdinConsumed { bytes } => (75, json(&Bytes { bytes: *bytes })),
        };
        encode_into(out, frame_type, &payload)
    }

    /// What a frame says; `None` for a type this release does not know.
    ///
    /// # Errors
    /// The payload is not what that type has.
    pub fn decode(frame: Frame) -> Result<Option<Self>, DynoProtocolError> {
        Ok(Some(match frame.frame_type {
            64 => Self::Hello(parse(&frame)?),
            65 => Self::Started,
            66 => Self::Bound,
            67 => Self::BoundLoopbackOnly,
            68 => Self::BootTimeout,
            LOG_FRAME_TYPE => {
                return decode_log(&frame.payload)
                    .map(Some)
                    .ok_or(DynoProtocolError::Payload { frame_type: LOG_FRAME_TYPE });
            }
            70 => Self::LogDropped { count: parse::<Count>(&frame)?.count },
            71 => Self::Output(frame.payload),
            72 => Self::StopTimeout,
            73 => Self::StartFailed { message: parse::<Message>(&frame)?.message },
            74 => {
                let exit: Exit = parse(&frame)?;
                Self::Exited { status: exit.status, at_us: exit.at_us, oom_killed: exit.oom_killed }
            }
            75 => Self::StdinConsumed { bytes: parse::<Bytes>(&frame)?.bytes },
            _ => return Ok(None),
        }))
    }
}

/// The frame type of a log line.
pub const LOG_FRAME_TYPE: u8 = 69;
/// Bytes before the line in the payload of a log line.
pub const LOG_HEAD_BYTES: usize = 17;

/// The payload of a log frame, which is also how a record stands in the ring file.
pub fn decode_log(payload: &[u8]) -> Option<FromDynoInit> {
    let (sequence, rest) = payload.split_first_chunk::<8>()?;
    let (at_us, rest) = rest.split_first_chunk::<8>()?;
    let (stream, line) = rest.split_first()?;
    Some(FromDynoInit::Log {
        sequence: u64::from_le_bytes(*sequence),
        at_us: i64::from_le_bytes(*at_us),
        stream: *stream,
        line: line.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::frame::Decoder;
    use super::*;

    fn frame_of(bytes: &[u8]) -> Frame {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        decoder.next_frame().expect("valid").expect("whole")
    }

    fn hello() -> Hello {
        Hello { version: 1, digest: "ab".into(), dyno_id: "d".into(), nonce: "n".into(), pid: 7 }
    }

    /// A dyno-init of an older release lives on after an upgrade: these bytes may never change.
    #[test]
    fn version_1_to_dyno_init_is_these_bytes() {
        let cases: Vec<(ToDynoInit, &[u8])> = vec![
            (
                ToDynoInit::Hello(hello()),
                b"\x3e\0\0\0\x01{\"version\":1,\"digest\":\"ab\",\"dyno_id\":\"d\",\"nonce\":\"n\",\"pid\":7}",
            ),
            (ToDynoInit::Environment([("A".into(), "b".into())].into()), b"\x0a\0\0\0\x02{\"A\":\"b\"}"),
            (ToDynoInit::Acknowledge(9), b"\x0f\0\0\0\x03{\"sequence\":9}"),
            (ToDynoInit::Signal(15), b"\x0e\0\0\0\x04{\"signal\":15}"),
            (ToDynoInit::Stop { grace_ms: 30 }, b"\x10\0\0\0\x05{\"grace_ms\":30}"),
            (ToDynoInit::Kill, b"\x01\0\0\0\x06"),
            (ToDynoInit::Stdin(b"x\n".to_vec()), b"\x03\0\0\0\x07x\n"),
            (ToDynoInit::CloseStdin, b"\x01\0\0\0\x08"),
            (ToDynoInit::Resize { rows: 2, columns: 3 }, b"\x17\0\0\0\x09{\"rows\":2,\"columns\":3}"),
            (ToDynoInit::Release, b"\x01\0\0\0\x0a"),
        ];
        for (message, bytes) in cases {
            let mut encoded = Vec::new();
            message.encode(&mut encoded).expect("small");
            assert_eq!(encoded.escape_ascii().to_string(), bytes.escape_ascii().to_string());
            assert_eq!(ToDynoInit::decode(frame_of(bytes)).expect("decodes"), Some(message));
        }
    }

    #[test]
    fn version_1_from_dyno_init_is_these_bytes() {
        let cases: Vec<(FromDynoInit, &[u8])> = vec![
            (
                FromDynoInit::Hello(hello()),
                b"\x3e\0\0\0\x40{\"version\":1,\"digest\":\"ab\",\"dyno_id\":\"d\",\"nonce\":\"n\",\"pid\":7}",
            ),
            (FromDynoInit::Started, b"\x01\0\0\0\x41"),
            (FromDynoInit::Bound, b"\x01\0\0\0\x42"),
            (FromDynoInit::BoundLoopbackOnly, b"\x01\0\0\0\x43"),
            (FromDynoInit::BootTimeout, b"\x01\0\0\0\x44"),
            (
                FromDynoInit::Log { sequence: 1, at_us: 2, stream: 1, line: b"hi".to_vec() },
                b"\x14\0\0\0\x45\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01hi",
            ),
            (FromDynoInit::LogDropped { count: 4 }, b"\x0c\0\0\0\x46{\"count\":4}"),
            (FromDynoInit::Output(b"o".to_vec()), b"\x02\0\0\0\x47o"),
            (FromDynoInit::StopTimeout, b"\x01\0\0\0\x48"),
            (FromDynoInit::StartFailed { message: "m".into() }, b"\x10\0\0\0\x49{\"message\":\"m\"}"),
            (
                FromDynoInit::Exited { status: 143, at_us: 5, oom_killed: false },
                b"\x2c\0\0\0\x4a{\"status\":143,\"at_us\":5,\"oom_killed\":false}",
            ),
            (FromDynoInit::StdinConsumed { bytes: 6 }, b"\x0c\0\0\0\x4b{\"bytes\":6}"),
        ];
        for (message, bytes) in cases {
            let mut encoded = Vec::new();
            message.encode(&mut encoded).expect("small");
            assert_eq!(encoded.escape_ascii().to_string(), bytes.escape_ascii().to_string());
            assert_eq!(FromDynoInit::decode(frame_of(bytes)).expect("decodes"), Some(message));
        }
    }

    #[test]
    fn newer_peers_are_understood_and_broken_ones_are_not() {
        let newer = Frame { frame_type: 4, payload: b"{\"signal\":2,\"reason\":\"new field\"}".to_vec() };
        assert_eq!(ToDynoInit::decode(newer).expect("decodes"), Some(ToDynoInit::Signal(2)));
        let unknown = Frame { frame_type: 60, payload: b"?".to_vec() };
        assert_eq!(ToDynoInit::decode(unknown).expect("ignored"), None);
        let short = Frame { frame_type: LOG_FRAME_TYPE, payload: vec![0; LOG_HEAD_BYTES - 1] };
        assert!(FromDynoInit::decode(short).is_err());
        assert!(ToDynoInit::decode(Frame { frame_type: 3, payload: b"9".to_vec() }).is_err());
    }
}
