//! Log lines as they come in and as they go out; no I/O.
//!
//! In: a [`LogLine`], its message any bytes. Out: [`Line`]s with a cursor, shown
//! in Heroku's form:
//!
//! ```text
//! 2026-01-01T12:00:00.123456+00:00 app[web.1]: Listening on port 5000
//! ```
//!
//! What happens to a message: bytes that are not UTF-8 become U+FFFD; one line
//! end at its end is cut off; a line end inside starts a new line; a line of more
//! than [`MAX_LINE_BYTES`] is split, each part a line of its own with the same
//! time. Other control characters (colours, tabs, a carriage return inside a
//! progress bar) are kept as they are.
//!
//! Source: reference of Heroku's Logplex, format and history; devcenter "Logging".

use ferroku_core::DynoId;
use std::borrow::Cow;
use std::fmt;

/// Longest line that is shown, in bytes; longer ones are split, as Heroku does.
pub const MAX_LINE_BYTES: usize = 10_000;

/// Longest message that is taken in, in bytes: over it the rest is cut off. The
/// frames that bring log lines are limited to 16 MiB, so that only a caller
/// inside the control process could reach it.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// Longest source or process name, in bytes; the record format has one byte for its length.
pub const MAX_NAME_BYTES: usize = 255;

/// A log line on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was printed: microseconds since the Unix epoch.
    pub at_us: i64,
    /// `app` or `heroku`.
    pub source: String,
    /// `web.1`, `router`, `api` ...
    pub process: String,
    /// The text, without a line end.
    pub message: Vec<u8>,
}

impl LogLine {
    /// A line from its parts.
    pub fn new(
        at_us: i64,
        source: impl Into<String>,
        process: impl Into<String>,
        message: impl Into<Vec<u8>>,
    ) -> Self {
        Self { at_us, source: source.into(), process: process.into(), message: message.into() }
    }
}

/// What a sequence number counts within, so that a line that is sent twice is kept once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The lines of one dyno.
    pub fn dyno(dyno_id: DynoId) -> Self {
        let mut bytes = Vec::with_capacity(17);
        bytes.push(b'd');
        bytes.extend_from_slice(dyno_id.0.as_bytes());
        Self(bytes.into())
    }

    /// The lines of a named feed such as `event` or `router`; names over 254 bytes are cut.
    pub fn named(name: &str) -> Self {
        let mut bytes = vec![b'n'];
        bytes.extend_from_slice(&name.as_bytes()[..name.len().min(MAX_NAME_BYTES - 1)]);
        Self(bytes.into())
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is a dyno's: those come and go, so that the oldest may be forgotten.
    pub(crate) fn is_dyno(&self) -> bool {
        self.0.first() == Some(&b'd')
    }
}

/// A log line on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Grows with every line of the app; what `Last-Event-ID` carries.
    pub cursor: u64,
    pub at_us: i64,
    pub source: String,
    pub process: String,
    pub message: String,
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}[{}]: {}", timestamp(self.at_us), self.source, self.process, self.message)
    }
}

/// `2026-01-01T12:00:00.123456+00:00` for microseconds since the Unix epoch.
pub fn timestamp(at_us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(at_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

/// Which lines a reader wants; the default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Exactly this source: `app` or `heroku`.
    pub source: Option<String>,
    /// `web.1` for exactly that dyno, `web` for all of that type, `router` for the router.
    pub process: Option<String>,
}

impl Filter {
    /// Whether it lets every line through.
    pub fn is_empty(&self) -> bool {
        self.source.is_none() && self.process.is_none()
    }

    /// Whether a line of this source and process passes.
    pub fn matches(&self, source: &str, process: &str) -> bool {
        let source_matches = self.source.as_deref().is_none_or(|wanted| wanted == source);
        let process_matches = self.process.as_deref().is_none_or(|wanted| {
            process.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        source_matches && process_matches
    }
}

/// A message as it is kept: valid UTF-8, without a line end at its end, within the limit.
pub(crate) fn normalise(message: &[u8]) -> Cow<'_, str> {
    let message = &message[..message.len().min(MAX_MESSAGE_BYTES)];
    let message = message.strip_suffix(b"\n").unwrap_or(message);
    let message = message.strip_suffix(b"\r").unwrap_or(message);
    String::from_utf8_lossy(message)
}

/// The lines that a kept message is shown as; at least one.
pub(crate) fn split(message: &str) -> impl Iterator<Item = &str> {
    message.split('\n').flat_map(|part| Parts { rest: Some(part.strip_suffix('\r').unwrap_or(part)) })
}

/// Cuts a line into parts of at most [`MAX_LINE_BYTES`], never within a character.
struct Parts<'a> {
    rest: Option<&'a str>,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.take()?;
        if rest.len() <= MAX_LINE_BYTES {
            return Some(rest);
        }
        let (part, rest) = rest.split_at(rest.floor_char_boundary(MAX_LINE_BYTES));
        self.rest = Some(rest);
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(message: &[u8]) -> Vec<String> {
        split(&normalise(message)).map(str::to_owned).collect()
    }

    #[test]
    fn a_line_is_shown_in_herokus_form() {
        let line = Line {
            cursor: 1,
            at_us: 1_767_268_800_123_456,
            source: "app".into(),
            process: "web.1".into(),
            message: "text".into(),
        };
        assert_eq!(line.to_string(), "2026-01-01T12:00:00.123456+00:00 app[web.1]: text");
        assert_eq!(timestamp(1_767_268_800_000_000), "2026-01-01T12:00:00.000000+00:00");
    }

    #[test]
    fn a_process_type_matches_its_dynos_and_a_dyno_itself_only() {
        let web = Filter { process: Some("web".into()), ..Filter::default() };
        assert!(web.matches("app", "web.1") && web.matches("app", "web.12") && web.matches("app", "web"));
        assert!(!web.matches("app", "webhook.1") && !web.matches("app", "worker.1"));
        let first = Filter { process: Some("web.1".into()), source: Some("app".into()) };
        assert!(first.matches("app", "web.1"));
        assert!(!first.matches("app", "web.12") && !first.matches("heroku", "web.1"));
        let router = Filter { process: Some("router".into()), source: None };
        assert!(router.matches("heroku", "router") && !router.matches("heroku", "web.1"));
    }

    #[test]
    fn long_lines_are_split_within_the_limit_and_never_inside_a_character() {
        let long = "é".repeat(12_000);
        let parts = shown(long.as_bytes());
        assert_eq!(parts.iter().map(String::len).collect::<Vec<_>>(), [10_000, 10_000, 4_000]);
        assert_eq!(parts.concat(), long);
        let odd = format!("a{}", "é".repeat(5_000));
        assert_eq!(shown(odd.as_bytes()).iter().map(String::len).collect::<Vec<_>>(), [9_999, 2]);
        assert_eq!(shown(&[b'x'; 10_000]).len(), 1);
    }

    #[test]
    fn broken_utf8_line_ends_and_control_characters() {
        assert_eq!(shown(b"a\xffb"), ["a\u{fffd}b"]);
        assert_eq!(shown(b"end\r\n"), ["end"]);
        assert_eq!(shown(b"one\ntwo\r\nthree"), ["one", "two", "three"]);
        assert_eq!(shown(b""), [""]);
        assert_eq!(shown(b"\x1b[31mred\x1b[0m\t10%\r20%"), ["\u{1b}[31mred\u{1b}[0m\t10%\r20%"]);
    }
}
