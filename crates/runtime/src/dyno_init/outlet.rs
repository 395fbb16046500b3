//! The connection to control: frames in, frames out, never waiting.

use super::ring::{Read, Ring};
use super::sys;
use ferroku_core::protocol::dyno::{FromDynoInit, LOG_FRAME_TYPE, ToDynoInit};
use ferroku_core::protocol::frame::{Decoder, encode_into};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Above this much unsent, nothing more is taken from the ring or from an attached dyno.
const OUT_BYTES: usize = 64 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Outlet {
    socket: OwnedFd,
    decoder: Decoder,
    out: Vec<u8>,
    /// Control has said hello and was told the state; before, nothing is sent.
    pub greeted: bool,
    pub end_told: bool,
}

impl Outlet {
    pub fn new(socket: OwnedFd) -> std::io::Result<Self> {
        sys::set_nonblocking(socket.as_fd())?;
        Ok(Self { socket, decoder: Decoder::default(), out: Vec::new(), greeted: false, end_told: false })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Queues a frame.
    pub fn tell(&mut self, message: &FromDynoInit) {
        // Nothing that dyno-init sends comes near the limit of a frame.
        let _ = message.encode(&mut self.out);
    }

    pub fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES
    }

    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes lines from the ring as long as there is room.
    pub fn take_lines(&mut self, ring: &mut Ring) {
        const LENGTH_BYTES: usize = 4;
        while self.has_room() {
            match ring.read(OUT_BYTES / 4) {
                Read::End => return,
                Read::Dropped(count) => self.tell(&FromDynoInit::LogDropped { count }),
                Read::Records(records) => {
                    let mut rest = &records[..];
                    while let Some((length, tail)) = rest.split_first_chunk::<LENGTH_BYTES>() {
                        let (record, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
                        let _ = encode_into(&mut self.out, LOG_FRAME_TYPE, record);
                        rest = tail;
                    }
                }
            }
        }
    }

    /// Sends what the socket takes. `false`: control is gone.
    pub fn flush(&mut self) -> bool {
        let mut sent = 0;
        let alive = loop {
            if sent == self.out.len() {
                break true;
            }
            match sys::write(self.socket.as_fd(), &self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break false,
            }
        };
        self.out.drain(..sent);
        if self.out.is_empty() && self.out.capacity() > OUT_BYTES {
            self.out = Vec::new();
        }
        alive
    }

    /// Reads what has come. `None`: control is gone, or speaks nonsense.
    pub fn receive(&mut self) -> Option<Vec<ToDynoInit>> {
        let mut buffer = [0; 8 * 1024];
        let mut messages = Vec::new();
        match sys::read(self.socket.as_fd(), &mut buffer) {
            Ok(0) => return None,
            Ok(count) => self.decoder.push(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return None,
        }
        while let Some(frame) = self.decoder.next_frame().ok()? {
            messages.extend(ToDynoInit::decode(frame).ok()?);
        }
        Some(messages)
    }
}
