//! Bytes of a stream into lines.

/// Longer lines are cut into pieces of this many bytes: Heroku's limit ("Log Message Length", Logplex).
pub const MAX_LINE_BYTES: usize = 10_000;

/// Collects one stream.
#[derive(Debug, Default)]
pub struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes bytes in and gives every whole line, without its newline, to `emit`.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(&bytes[..end], &mut emit);
            emit(&self.partial);
            self.partial.clear();
            bytes = &bytes[end + 1..];
        }
        self.take(bytes, &mut emit);
    }

    /// What is left when the stream has ended.
    pub fn finish(&mut self, mut emit: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            emit(&self.partial);
        }
        self.partial = Vec::new();
    }

    /// Adds to the partial line; a piece goes out as soon as more follows a full one.
    fn take(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(&[u8])) {
        while self.partial.len() + bytes.len() > MAX_LINE_BYTES {
            let (now, later) = bytes.split_at(MAX_LINE_BYTES - self.partial.len());
            self.partial.extend_from_slice(now);
            emit(&self.partial);
            self.partial.clear();
            bytes = later;
        }
        self.partial.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for part in parts {
            splitter.push(part, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_are_the_same_wherever_the_stream_is_cut() {
        let text = b"one\n\ntwo\r\nthree";
        let whole = split(&[text]);
        assert_eq!(whole, [&b"one"[..], b"", b"two\r", b"three"]);
        for cut in 0..text.len() {
            assert_eq!(split(&[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_an_exact_one_whole() {
        let mut exact = vec![b'x'; MAX_LINE_BYTES];
        exact.push(b'\n');
        assert_eq!(split(&[&exact]).iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINE_BYTES]);
        let mut long = vec![b'x'; 2 * MAX_LINE_BYTES + 5];
        long.push(b'\n');
        for cut in [1, MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1] {
            let lengths: Vec<_> = split(&[&long[..cut], &long[cut..]]).iter().map(Vec::len).collect();
            assert_eq!(lengths, [MAX_LINE_BYTES, MAX_LINE_BYTES, 5], "cut at {cut}");
        }
    }
}
