//! Framing: bytes to frames and back. No I/O: feed it what was read.

use thiserror::Error;

/// Largest frame that is accepted, in bytes: a route table of 10,000 apps fits; a peer gone mad does not.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub frame_type: u8,
    pub payload: Vec<u8>,
}

/// Why bytes are no frame.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("a frame of {0} bytes is larger than the limit of {MAX_FRAME_BYTES} bytes")]
    TooLarge(usize),
    #[error("a frame of length 0 has no type")]
    Empty,
}

/// Appends one encoded frame to `out`.
///
/// # Errors
/// [`FrameError::TooLarge`] when the payload is over the limit; `out` is then unchanged.
pub fn encode_into(out: &mut Vec<u8>, frame_type: u8, payload: &[u8]) -> Result<(), FrameError> {
    let length = payload.len() + 1;
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge(length));
    }
    let prefix = u32::try_from(length).map_err(|_| FrameError::TooLarge(length))?;
    out.extend_from_slice(&prefix.to_le_bytes());
    out.push(frame_type);
    out.extend_from_slice(payload);
    Ok(())
}

/// Collects bytes and gives back whole frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    consumed: usize,
}

impl Decoder {
    /// Takes in bytes as they were read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// The peer broke the protocol; close the connection.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.consumed..];
        let Some((prefix, body)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge(length));
        }
        let Some(body) = body.get(..length) else { return Ok(None) };
        let frame = Frame { frame_type: body[0], payload: body[1..].to_vec() };
        self.consumed += 4 + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split_of_the_byte_stream() {
        let mut bytes = Vec::new();
        encode_into(&mut bytes, 7, b"hello").expect("small");
        encode_into(&mut bytes, 8, b"").expect("small");
        assert_eq!(&bytes[..10], b"\x06\0\0\0\x07hello");
        for split in 0..bytes.len() {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for part in [&bytes[..split], &bytes[split..]] {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().expect("valid") {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 2, "split at {split}");
            assert_eq!(frames[0], Frame { frame_type: 7, payload: b"hello".to_vec() });
            assert_eq!(frames[1], Frame { frame_type: 8, payload: Vec::new() });
        }
    }

    #[test]
    fn a_frame_over_the_limit_or_without_a_type_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLarge(u32::MAX as usize)));
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 0]);
        assert_eq!(decoder.next_frame(), Err(FrameError::Empty));
    }
}
