//! The text of a build, in Heroku's form, line by line as it happens.
//!
//! Forms: `-----> step`, seven spaces and a detail, ` !     ` and an error. Every line is written in one piece and
//! flushed, so that whoever pushes sees it at once.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// What stands before a detail.
pub const DETAIL: &str = "       ";

/// What stands before a line of an error.
pub const ERROR: &str = " !     ";

/// Where the text goes. Clones write to the same place.
#[derive(Clone)]
pub struct Output(Arc<Mutex<Box<dyn Write + Send>>>);

impl Output {
    /// Writes to `sink`. What cannot be written is dropped: the build's result does not depend on who reads along.
    #[must_use]
    pub fn new(sink: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Mutex::new(sink)))
    }

    /// `-----> text`
    pub fn step(&self, text: &str) {
        self.line(&format!("-----> {text}"));
    }

    /// `       text`
    pub fn detail(&self, text: &str) {
        self.line(&format!("{DETAIL}{text}"));
    }

    /// ` !     text`, for each line; empty ones become ` !`.
    pub fn error(&self, text: &str) {
        for line in text.lines() {
            self.line(format!("{ERROR}{line}").trim_end());
        }
    }

    /// One line as it is.
    pub fn line(&self, text: &str) {
        self.bytes("", text.as_bytes());
    }

    /// One line of bytes as they are (a program's output need not be UTF-8); a newline is added.
    pub fn bytes(&self, prefix: &str, line: &[u8]) {
        let mut whole = Vec::with_capacity(prefix.len() + line.len() + 1);
        whole.extend_from_slice(prefix.as_bytes());
        whole.extend_from_slice(line);
        whole.push(b'\n');
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = sink.write_all(&whole).and_then(|()| sink.flush());
    }
}
