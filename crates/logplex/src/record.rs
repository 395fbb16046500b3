//! The bytes of a log segment; no I/O.
//!
//! A segment is a row of records, all integers little-endian:
//!
//! ```text
//! u32 length of the payload | u32 CRC-32 of the payload | payload
//! ```
//!
//! The first record is a header, all others are messages. Payloads:
//!
//! ```text
//! header : 'H' | u16 format version | u64 lines before this segment | u64 cursor of the last of them
//!          | u32 number of keys | { u8 length | key | u64 last sequence | u64 cursor of that line }
//! message: 'M' | u64 cursor | i64 microseconds since 1970 | u8 length | key | u64 sequence
//!          | u8 length | source | u8 length | process | text to the end of the payload
//! ```
//!
//! A message without a key has a key of length 0 and sequence 0. One record is
//! one message, whatever number of lines it is shown as: a crash keeps all of
//! them or none, so that sending it again is right.
//!
//! Invariant: a record that does not check out ends the segment. What is behind
//! it was never acknowledged, because files are only ever appended to.

use crate::line::{Key, MAX_MESSAGE_BYTES};

/// Version of the format, in every header.
pub const FORMAT_VERSION: u16 = 1;

/// Largest payload that is believed, in bytes: the largest message (three times as
/// long when every byte of it became U+FFFD) or header with its names. A longer length is a torn write.
pub const MAX_PAYLOAD_BYTES: usize = 3 * MAX_MESSAGE_BYTES + 1024 * 1024;

const PREFIX_BYTES: usize = 8;

/// The last sequence of a key, and the cursor of the line that brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub sequence: u64,
    pub cursor: u64,
}

/// What a segment starts from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Lines that the app ever had before this segment.
    pub lines_before: u64,
    /// Cursor of the last of them, 0 when there is none.
    pub last_cursor: u64,
    pub keys: Vec<(Key, Seen)>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Cursor of the first line that it is shown as.
    pub cursor: u64,
    pub at_us: i64,
    pub key: Option<(&'a [u8], u64)>,
    pub source: &'a str,
    pub process: &'a str,
    pub text: &'a str,
}

/// A record, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    Header(Header),
    Message(Message<'a>),
}

/// Appends a header record to `out`.
pub fn encode_header(out: &mut Vec<u8>, header: &Header) {
    framed(out, |out| {
        out.push(b'H');
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&header.lines_before.to_le_bytes());
        out.extend_from_slice(&header.last_cursor.to_le_bytes());
        let count = u32::try_from(header.keys.len()).expect("keys are limited to far fewer");
        out.extend_from_slice(&count.to_le_bytes());
        for (key, seen) in &header.keys {
            short(out, key.as_bytes());
            out.extend_from_slice(&seen.sequence.to_le_bytes());
            out.extend_from_slice(&seen.cursor.to_le_bytes());
        }
    });
}

/// Appends a message record to `out`.
pub fn encode_message(out: &mut Vec<u8>, message: &Message<'_>) {
    framed(out, |out| {
        out.push(b'M');
        out.extend_from_slice(&message.cursor.to_le_bytes());
        out.extend_from_slice(&message.at_us.to_le_bytes());
        let (key, sequence) = message.key.unwrap_or((&[], 0));
        short(out, key);
        out.extend_from_slice(&sequence.to_le_bytes());
        short(out, message.source.as_bytes());
        short(out, message.process.as_bytes());
        out.extend_from_slice(message.text.as_bytes());
    });
}

/// The record at the start of `bytes` and its whole length, or `None` when there is none that checks out.
pub fn decode(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let mut prefix = Cursor(bytes);
    let length = prefix.u32()? as usize;
    let checksum = prefix.u32()?;
    if length > MAX_PAYLOAD_BYTES {
        return None;
    }
    let payload = prefix.take(length)?;
    if crc32fast::hash(payload) != checksum {
        return None;
    }
    Some((decode_payload(payload)?, PREFIX_BYTES + length))
}

fn decode_payload(payload: &[u8]) -> Option<Record<'_>> {
    let mut cursor = Cursor(payload);
    match cursor.u8()? {
        b'H' => {
            if cursor.u16()? != FORMAT_VERSION {
                return None;
            }
            let (lines_before, last_cursor, count) = (cursor.u64()?, cursor.u64()?, cursor.u32()?);
            let mut keys = Vec::new();
            for _ in 0..count {
                let key = Key::from_bytes(cursor.short()?);
                keys.push((key, Seen { sequence: cursor.u64()?, cursor: cursor.u64()? }));
            }
            Some(Record::Header(Header { lines_before, last_cursor, keys }))
        }
        b'M' => {
            let (at, at_us, key) = (cursor.u64()?, cursor.u64()?.cast_signed(), cursor.short()?);
            let sequence = cursor.u64()?;
            Some(Record::Message(Message {
                cursor: at,
                at_us,
                key: (!key.is_empty()).then_some((key, sequence)),
                source: std::str::from_utf8(cursor.short()?).ok()?,
                process: std::str::from_utf8(cursor.short()?).ok()?,
                text: std::str::from_utf8(cursor.0).ok()?,
            }))
        }
        _ => None,
    }
}

fn framed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    write(out);
    let payload = &out[start + PREFIX_BYTES..];
    let length = u32::try_from(payload.len()).expect("messages are limited to far less than 4 GiB");
    let checksum = crc32fast::hash(payload);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

fn short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(u8::try_from(bytes.len()).expect("names are cut to 255 bytes where they come in"));
    out.extend_from_slice(bytes);
}

/// Reads integers off the front of a slice.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.u8()?);
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_decode_to_what_was_encoded_and_no_cut_or_altered_byte_passes() {
        let key = Key::named("router");
        let header = Header {
            lines_before: 7,
            last_cursor: 9,
            keys: vec![(key.clone(), Seen { sequence: 3, cursor: 8 })],
        };
        let message = Message {
            cursor: 9,
            at_us: -5,
            key: Some((key.as_bytes(), 4)),
            source: "heroku",
            process: "router",
            text: "at=info",
        };
        let mut bytes = Vec::new();
        encode_header(&mut bytes, &header);
        let first = bytes.len();
        encode_message(&mut bytes, &message);
        assert_eq!(decode(&bytes), Some((Record::Header(header), first)));
        assert_eq!(decode(&bytes[first..]), Some((Record::Message(message), bytes.len() - first)));
        for end in first..bytes.len() {
            assert_eq!(decode(&bytes[first..end]), None, "cut at {end}");
        }
        for at in first..bytes.len() {
            let mut altered = bytes[first..].to_vec();
            altered[at - first] ^= 0x40;
            assert_eq!(decode(&altered), None, "altered at {at}");
        }
    }

    #[test]
    fn the_bytes_of_version_1_do_not_change() {
        let mut bytes = Vec::new();
        encode_message(
            &mut bytes,
            &Message { cursor: 1, at_us: 2, key: Some((b"nx", 3)), source: "app", process: "w", text: "hi" },
        );
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&hex[..8], "24000000");
        assert_eq!(&hex[16..], "4d01000000000000000200000000000000026e7803000000000000000361707001776869");
    }
}
