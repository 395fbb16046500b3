//! What control and dyno-init say to each other, version 2.
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
//!
//! Since version 2, control may have more commands run in a dyno whose own command runs (`Exec...`): each has a number
//! that control chooses, streams of its own with a window each way, and one `ExecEnded`. They end with the dyno,
//! and when control's connection does. The numbers stand before the bytes in `ExecInput` (u32 little-endian) and
//! `ExecOutput` (u32, then u8 stream).
//!
//! A dyno is put to sleep under a number that control draws anew each time. Whoever wakes it names the number, and what
//! was woken is not frozen under that number any more, however late the order to freeze comes. The router wakes by
//! `DIR/run/dynos/<id>/wake`: it connects, writes the number (u64, little-endian) and reads one byte, which comes once
//! the dyno's processes run.

use super::frame::{Frame, FrameError, encode_into};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// The version both sides of this release speak.
pub const PROTOCOL_VERSION: u32 = 2;

/// The first version whose dyno-init runs further commands in its dyno.
pub const EXEC_VERSION: u32 = 2;

/// How many commands may run in a dyno beside its own: terminals, descriptors and memory of dyno-init are bounded by it.
pub const MAX_EXECS: usize = 16;

/// How many bytes of a further command's input, and of its output, may be under way: a slow client must not hold up
/// the dyno's log lines, which come by the same connection.
pub const EXEC_WINDOW_BYTES: usize = 256 * 1024;

/// How many bytes of standard input may be under way before dyno-init has passed them on: as much as
/// a pipe or terminal takes in a few turns, and little enough to keep in memory for each dyno.
pub const STDIN_WINDOW_BYTES: usize = 256 * 1024;

/// What a dyno runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A line of shell, run by `bash -c` in `/app` after `.profile.d/*.sh` and `.profile`, as Heroku does.
    Shell(String),
    /// A program and its arguments as they are: no shell, no profile. Build dynos.
    Exec(Vec<String>),
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// Something to be run in a dyno: its own command, or a further one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub environment: BTreeMap<String, String>,
    pub command: Command,
    /// Set: on a terminal of this size.
    pub terminal: Option<TerminalSize>,
}

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
    /// Run this beside the dyno's own command.
    Exec {
        id: u32,
        order: Order,
    },
    /// At most [`EXEC_WINDOW_BYTES`] beyond what `ExecInputTaken` gave back.
    ExecInput {
        id: u32,
        bytes: Vec<u8>,
    },
    ExecCloseInput {
        id: u32,
    },
    ExecResize {
        id: u32,
        rows: u16,
        columns: u16,
    },
    /// To the command and what it has started in its session.
    ExecSignal {
        id: u32,
        signal: i32,
    },
    /// Nobody is there for it any more: SIGHUP, and SIGKILL a little later.
    ExecHangup {
        id: u32,
    },
    /// So many bytes of its output have been taken.
    ExecOutputTaken {
        id: u32,
        bytes: u64,
    },
    /// Freeze all its processes, unless `sleep_id` was woken already.
    Freeze {
        sleep_id: u64,
    },
    /// Let them run again, and do not freeze them under `sleep_id`.
    Thaw {
        sleep_id: u64,
    },
}

/// From dyno-init to control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromDynoInit {
    Hello(Hello),
    Started,
    Bound,
    BoundLoopbackOnly,
    BootTimeout,
    Log {
        sequence: u64,
        at_us: i64,
        stream: u8,
        line: Vec<u8>,
    },
    LogDropped {
        count: u64,
    },
    Output(Vec<u8>),
    StopTimeout,
    StartFailed {
        message: String,
    },
    Exited {
        status: i32,
        at_us: i64,
        oom_killed: bool,
    },
    StdinConsumed {
        bytes: u64,
    },
    /// At most [`EXEC_WINDOW_BYTES`] beyond what `ExecOutputTaken` gave back. `stream` is 1 or 2; a terminal has 1 only.
    ExecOutput {
        id: u32,
        stream: u8,
        bytes: Vec<u8>,
    },
    ExecInputTaken {
        id: u32,
        bytes: u64,
    },
    /// It has ended, and all its output was told. `failure`: it could not be run, and why.
    ExecEnded {
        id: u32,
        status: i32,
        failure: Option<String>,
    },
    /// No process of it runs. Told again to a new control while it lasts.
    Frozen {
        sleep_id: u64,
    },
    /// It was woken, by the router or by control, or was not frozen because somebody had woken it before. Told again to a
    /// new control.
    Thawed {
        sleep_id: u64,
    },
    /// The kernel did not get all its processes to stand still; they run.
    FreezeFailed {
        sleep_id: u64,
        reason: String,
    },
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
struct Sleep {
    sleep_id: u64,
}
#[derive(Serialize, Deserialize)]
struct SleepFailure {
    sleep_id: u64,
    reason: String,
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
struct Exec {
    id: u32,
    order: Order,
}
#[derive(Serialize, Deserialize)]
struct ExecId {
    id: u32,
}
#[derive(Serialize, Deserialize)]
struct ExecSize {
    id: u32,
    rows: u16,
    columns: u16,
}
#[derive(Serialize, Deserialize)]
struct ExecSignalNumber {
    id: u32,
    signal: i32,
}
#[derive(Serialize, Deserialize)]
struct ExecBytes {
    id: u32,
    bytes: u64,
}
#[derive(Serialize, Deserialize)]
struct ExecEnd {
    id: u32,
    status: i32,
    #[serde(default)]
    failure: Option<String>,
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

/// The number in front of a further command's bytes.
fn split_id(frame: &Frame) -> Result<(u32, &[u8]), DynoProtocolError> {
    match frame.payload.split_first_chunk::<4>() {
        Some((id, rest)) => Ok((u32::from_le_bytes(*id), rest)),
        None => Err(DynoProtocolError::Payload { frame_type: frame.frame_type }),
    }
}

/// Config vars are secrets: only their names are shown.
impl fmt::Debug for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.environment.keys().collect();
        let mut order = formatter.debug_struct("Order");
        order.field("environment", &names).field("command", &self.command).field("terminal", &self.terminal);
        order.finish()
    }
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
            Self::Exec { id, order } => (20, json(&Exec { id: *id, order: order.clone() })),
            Self::ExecInput { id, bytes } => (21, [&id.to_le_bytes()[..], bytes].concat()),
            Self::ExecCloseInput { id } => (22, json(&ExecId { id: *id })),
            Self::ExecResize { id, rows, columns } => {
                (23, json(&ExecSize { id: *id, rows: *rows, columns: *columns }))
            }
            Self::ExecSignal { id, signal } => (24, json(&ExecSignalNumber { id: *id, signal: *signal })),
            Self::ExecHangup { id } => (25, json(&ExecId { id: *id })),
            Self::ExecOutputTaken { id, bytes } => (26, json(&ExecBytes { id: *id, bytes: *bytes })),
            Self::Freeze { sleep_id } => (40, json(&Sleep { sleep_id: *sleep_id })),
            Self::Thaw { sleep_id } => (41, json(&Sleep { sleep_id: *sleep_id })),
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
            20 => {
                let Exec { id, order } = parse(&frame)?;
                Self::Exec { id, order }
            }
            21 => {
                let (id, bytes) = split_id(&frame)?;
                Self::ExecInput { id, bytes: bytes.to_vec() }
            }
            22 => Self::ExecCloseInput { id: parse::<ExecId>(&frame)?.id },
            23 => {
                let ExecSize { id, rows, columns } = parse(&frame)?;
                Self::ExecResize { id, rows, columns }
            }
            24 => {
                let ExecSignalNumber { id, signal } = parse(&frame)?;
                Self::ExecSignal { id, signal }
            }
            25 => Self::ExecHangup { id: parse::<ExecId>(&frame)?.id },
            26 => {
                let ExecBytes { id, bytes } = parse(&frame)?;
                Self::ExecOutputTaken { id, bytes }
            }
            40 => Self::Freeze { sleep_id: parse::<Sleep>(&frame)?.sleep_id },
            41 => Self::Thaw { sleep_id: parse::<Sleep>(&frame)?.sleep_id },
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
            Self::ExecOutput { id, stream, bytes } => {
                (84, [&id.to_le_bytes()[..], &[*stream], bytes].concat())
            }
            Self::ExecInputTaken { id, bytes } => (85, json(&ExecBytes { id: *id, bytes: *bytes })),
            Self::ExecEnded { id, status, failure } => {
                (86, json(&ExecEnd { id: *id, status: *status, failure: failure.clone() }))
            }
            Self::Frozen { sleep_id } => (90, json(&Sleep { sleep_id: *sleep_id })),
            Self::Thawed { sleep_id } => (91, json(&Sleep { sleep_id: *sleep_id })),
            Self::FreezeFailed { sleep_id, reason } => {
                (92, json(&SleepFailure { sleep_id: *sleep_id, reason: reason.clone() }))
            }
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
            84 => {
                let (id, rest) = split_id(&frame)?;
                let Some((stream, bytes)) = rest.split_first() else {
                    return Err(DynoProtocolError::Payload { frame_type: frame.frame_type });
                };
                Self::ExecOutput { id, stream: *stream, bytes: bytes.to_vec() }
            }
            85 => {
                let ExecBytes { id, bytes } = parse(&frame)?;
                Self::ExecInputTaken { id, bytes }
            }
            86 => {
                let ExecEnd { id, status, failure } = parse(&frame)?;
                Self::ExecEnded { id, status, failure }
            }
            90 => Self::Frozen { sleep_id: parse::<Sleep>(&frame)?.sleep_id },
            91 => Self::Thawed { sleep_id: parse::<Sleep>(&frame)?.sleep_id },
            92 => {
                let failure: SleepFailure = parse(&frame)?;
                Self::FreezeFailed { sleep_id: failure.sleep_id, reason: failure.reason }
            }
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
mod tests;
