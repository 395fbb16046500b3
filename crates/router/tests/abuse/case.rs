//! Reads the table of cases. Its own head says how it is written.

use super::recorder::Seen;

/// One case.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub wire: Vec<u8>,
    /// Of each answer, `|` between those that are allowed.
    pub statuses: Vec<String>,
    pub after: After,
    pub reaches: Vec<Seen>,
    pub headers: Vec<Header>,
}

/// Whether the connection still serves requests.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    Open,
    Closed,
    Any,
}

/// A header that must be there, or must not.
#[derive(Debug)]
pub struct Header {
    /// Method and target of its request.
    pub of: String,
    pub name: String,
    pub value: Option<String>,
}

impl Case {
    pub fn parse(table: &str) -> Vec<Self> {
        let mut cases: Vec<Self> = Vec::new();
        // Lines are bytes on the wire from a name to what is expected.
        let mut on_the_wire = false;
        for line in table.lines() {
            if let Some(name) = line.strip_prefix("## ").filter(|_| !on_the_wire) {
                on_the_wire = true;
                cases.push(Self::new(name));
                continue;
            }
            let Some(case) = cases.last_mut() else { continue };
            if let Some(expected) = line.strip_prefix("=> ") {
                on_the_wire = false;
                case.expect(expected);
            } else if on_the_wire {
                let (text, end) = match line.strip_suffix('\\') {
                    Some(text) if !text.ends_with('\\') => (text, ""),
                    _ => (line, "\r\n"),
                };
                case.wire.extend(bytes(text));
                case.wire.extend(end.as_bytes());
            } else if let Some(request) = line.strip_prefix("-> ") {
                let (line, body) = request.rsplit_once(' ').unwrap();
                let line = String::from_utf8(bytes(line)).unwrap();
                case.reaches.push(Seen { line, body: body.parse().ok(), head: String::new() });
            } else if let Some(header) = line.strip_prefix("-- ") {
                let (name, value) = header.split_once(": ").unwrap();
                case.headers.push(Header {
                    of: case.last_line(),
                    name: name.into(),
                    value: Some(value.into()),
                });
            } else if let Some(name) = line.strip_prefix("-! ") {
                case.headers.push(Header { of: case.last_line(), name: name.into(), value: None });
            } else {
                assert!(line.is_empty() || line.starts_with('#'), "what is {line:?}?");
            }
        }
        cases
    }

    fn last_line(&self) -> String {
        self.reaches.last().map(|seen| seen.line.clone()).unwrap()
    }

    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            wire: Vec::new(),
            statuses: Vec::new(),
            after: After::Any,
            reaches: Vec::new(),
            headers: Vec::new(),
        }
    }

    fn expect(&mut self, expected: &str) {
        let mut words: Vec<String> = expected.split(' ').map(str::to_owned).collect();
        self.after = match words.pop().unwrap().as_str() {
            "open" => After::Open,
            "closed" => After::Closed,
            "any" => After::Any,
            other => panic!("{}: what is {other:?}?", self.name),
        };
        self.statuses = words;
    }
}

/// Undoes the table's escapes.
fn bytes(text: &str) -> Vec<u8> {
    if let Some((before, rest)) = text.split_once('<')
        && let Some((many, after)) = rest.split_once('>')
        && let Some((count, what)) = many.split_once('*')
        && let Ok(count) = count.parse()
    {
        return [bytes(before), bytes(what).repeat(count), bytes(after)].concat();
    }
    let mut found = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            found.push(*byte);
            continue;
        }
        let (escape, after) = rest.split_first().unwrap();
        rest = after;
        match escape {
            b'r' => found.push(b'\r'),
            b'n' => found.push(b'\n'),
            b't' => found.push(b'\t'),
            b'0' => found.push(0),
            b'\\' => found.push(b'\\'),
            b'x' => {
                let (digits, after) = rest.split_at(2);
                rest = after;
                found.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
            }
            other => panic!("what is \\{}?", char::from(*other)),
        }
    }
    found
}
