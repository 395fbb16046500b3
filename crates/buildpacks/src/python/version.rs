//! Which Python an app asks for.
//!
//! `runtime.txt` (`python-3.12`, `python-3.12.1`) goes before `.python-version` (`3.12`, `3.12.1`, `#` comments); an app
//! with neither gets the stack's own. A version of two parts means any patch release of it.

use super::error::PythonError;
use std::fmt;

/// Oldest 3.x that can be had anywhere; asking for less is answered without trying.
pub const OLDEST_MINOR: u32 = 8;

/// A full version: 3.11.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PythonVersion {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

/// A version that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub major: u32,
    pub minor: u32,
    pub patch: Option<u32>,
}

/// The file a request stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    RuntimeTxt,
    PythonVersionFile,
}

impl Origin {
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::RuntimeTxt => "runtime.txt",
            Self::PythonVersionFile => ".python-version",
        }
    }

    /// How `version` is written in this file.
    #[must_use]
    pub fn spell(self, version: &str) -> String {
        match self {
            Self::RuntimeTxt => format!("python-{version}"),
            Self::PythonVersionFile => version.to_owned(),
        }
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl PythonVersion {
    /// `3.11`
    #[must_use]
    pub fn series(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// Reads `3.11.2`, also with a suffix such as `3.15.0rc1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let digits: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { major, minor, patch: digits.parse().ok()? })
    }
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)?;
        self.patch.map_or(Ok(()), |patch| write!(formatter, ".{patch}"))
    }
}

impl Request {
    #[must_use]
    pub fn is_met_by(&self, version: PythonVersion) -> bool {
        (self.major, self.minor) == (version.major, version.minor)
            && self.patch.is_none_or(|patch| patch == version.patch)
    }

    /// Reads one of the two files. `available` says what can be had, for error texts; `default` is the stack's version.
    ///
    /// # Errors
    /// The file asks for Python 2 or is not of its form.
    pub fn parse(
        origin: Origin,
        bytes: &[u8],
        default: PythonVersion,
        available: &str,
    ) -> Result<Self, PythonError> {
        let file = origin.file();
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<&str> = match origin {
            Origin::RuntimeTxt => vec![text.trim()],
            Origin::PythonVersionFile => text
                .trim_start_matches('\u{feff}')
                .lines()
                .map(|line| line.split('#').next().unwrap_or_default().trim())
                .filter(|line| !line.is_empty())
                .collect(),
        };
        let found = lines.join(", ");
        let number = lines.first().copied().unwrap_or_default();
        let number = match origin {
            Origin::RuntimeTxt => number.strip_prefix("python-"),
            Origin::PythonVersionFile => Some(number),
        };
        let suggestion = origin.spell(&default.series());
        let request = number.filter(|_| lines.len() == 1).and_then(parse_number);
        match request {
            Some(request) if request.major == 2 => Err(PythonError::Python2 {
                file,
                found: quote(&found),
                available: available.to_owned(),
                suggestion,
                delete_hint: match origin {
                    Origin::RuntimeTxt => {
                        " (or delete it, and write the\nversion alone into a file named .python-version)"
                    }
                    Origin::PythonVersionFile => "",
                },
            }),
            Some(request) => Ok(request),
            None => Err(PythonError::InvalidVersion {
                file,
                found: quote(&found),
                expected: format!(
                    "Write one version of the form '{suggestion}' (any patch release) or\n'{}' into it.",
                    origin.spell(&default.to_string())
                ),
                available: available.to_owned(),
            }),
        }
    }
}

fn parse_number(text: &str) -> Option<Request> {
    let parts: Vec<u32> = text
        .split('.')
        .map(|part| match part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => None,
            false => part.parse().ok(),
        })
        .collect::<Option<_>>()?;
    match parts[..] {
        [major, minor] => Some(Request { major, minor, patch: None }),
        [major, minor, patch] => Some(Request { major, minor, patch: Some(patch) }),
        _ => None,
    }
}

fn quote(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: PythonVersion = PythonVersion { major: 3, minor: 11, patch: 2 };

    fn check(origin: Origin, text: &str, expected: &str) {
        let request = Request::parse(origin, text.as_bytes(), STACK, "Python 3.11.2")
            .map(|request| request.to_string());
        let shown = request.unwrap_or_else(|error| {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        });
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn reads_runtime_txt() {
        let check = |text, expected| check(Origin::RuntimeTxt, text, expected);
        check("python-3.12.1\n", "3.12.1");
        check("  python-3.12\r\n", "3.12");
        check("python-2.7.11", "Error: Python 2 cannot be used: runtime.txt asks for 'python-2.7.11'.");
        for wrong in [
            "",
            "3.12",
            "python 3.12",
            "python-3",
            "python-3.12.1.1",
            "python-3.x",
            "pypy-3.9",
            "python-3..1",
        ] {
            check(wrong, "Error: Invalid Python version in runtime.txt.");
        }
    }

    #[test]
    fn reads_python_version() {
        let check = |text, expected| check(Origin::PythonVersionFile, text, expected);
        check("3.11\n", "3.11");
        check("# comment\n\n3.11.2 # why\r\n", "3.11.2");
        check("2.7", "Error: Python 2 cannot be used: .python-version asks for '2.7'.");
        for wrong in
            ["", "# only\n", "3.11\n3.12\n", "python-3.11", "3.12-dev", "latest", "3", "99999999999.1"]
        {
            check(wrong, "Error: Invalid Python version in .python-version.");
        }
    }

    #[test]
    fn the_text_for_python_2_says_what_to_write_instead() {
        let error = Request::parse(Origin::RuntimeTxt, b"python-2.7.11", STACK, "Python 3.11.2")
            .expect_err("refused");
        let text = error.to_string();
        assert!(
            text.contains("Available here: Python 3.11.2.")
                && text.contains("Write 'python-3.11' into runtime.txt"),
            "{text}"
        );
    }

    #[test]
    fn a_request_of_two_parts_takes_any_patch() {
        let request = |patch| Request { major: 3, minor: 11, patch };
        assert!(request(None).is_met_by(STACK) && request(Some(2)).is_met_by(STACK));
        assert!(!request(Some(3)).is_met_by(STACK));
        assert!(!Request { major: 3, minor: 1, patch: None }.is_met_by(STACK));
    }

    #[test]
    fn full_versions_are_read_from_what_python_prints() {
        assert_eq!(PythonVersion::parse("3.11.2\n"), Some(STACK));
        assert_eq!(
            PythonVersion::parse("3.15.0rc1").map(|version| version.to_string()),
            Some("3.15.0".to_owned())
        );
        assert_eq!(PythonVersion::parse("3.11"), None);
    }
}
