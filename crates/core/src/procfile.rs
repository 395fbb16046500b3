//! The Procfile: which process types an app has and what each runs.
//!
//! In: the bytes of the file `Procfile` in the app's root folder. Out: [`ProcessTypes`].
//!
//! Grammar, line by line (Heroku's, `^([A-Za-z0-9_-]+):\s*(.+)$`): `<type>: <command>`; blank lines and lines that
//! start with `#` are skipped; a type that occurs twice has its last command; LF and CRLF both end a line.
//! Where Heroku skips a line it cannot read, we refuse the file and name the line: a typing error must not
//! make a process type vanish. Source: devcenter "The Procfile"; type names: Platform API schema, formation `type`.

use crate::slug::ProcessTypes;
use thiserror::Error;

/// Largest Procfile, in bytes: larger ones are a mistake, and every release stores what it says.
pub const MAX_PROCFILE_BYTES: usize = 64 * 1024;

/// Longest process type name, in characters: the API schema's pattern `^[-\w]{1,128}$`.
pub const MAX_PROCESS_TYPE_CHARACTERS: usize = 128;

/// How much of a wrong line an error quotes, in characters: enough to find it, short enough for one terminal line.
const QUOTED_CHARACTERS: usize = 60;

/// Why a Procfile was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProcfileError {
    #[error(
        "Procfile line {line} is not a process type: it reads {found:?}. Write \"<type>: <command>\", such as \"web: gunicorn app:app\"."
    )]
    Malformed { line: usize, found: String },
    #[error(
        "Procfile line {line}: {name:?} is no process type name. Use only letters, digits, \"-\" and \"_\", with no space before the colon, such as \"web: gunicorn app:app\"."
    )]
    BadType { line: usize, name: String },
    #[error(
        "Procfile line {line}: the process type name is longer than {MAX_PROCESS_TYPE_CHARACTERS} characters. Shorten it."
    )]
    TypeTooLong { line: usize },
    #[error(
        "Procfile line {line}: the type {name:?} has no command. Write it after the colon, or remove the line."
    )]
    NoCommand { line: usize, name: String },
    #[error("Procfile line {line} is not UTF-8 text. Save the file as UTF-8.")]
    NotUtf8 { line: usize },
    #[error("Procfile line {line} has a NUL or other control character in it. Remove it.")]
    ControlCharacter { line: usize },
    #[error(
        "The Procfile has {0} bytes, more than the limit of {MAX_PROCFILE_BYTES}. Move long commands into scripts."
    )]
    TooLarge(usize),
}

/// Reads a Procfile.
///
/// # Errors
/// The first line that is wrong, by its number from 1; or the file as a whole is too large.
pub fn parse(bytes: &[u8]) -> Result<ProcessTypes, ProcfileError> {
    if bytes.len() > MAX_PROCFILE_BYTES {
        return Err(ProcfileError::TooLarge(bytes.len()));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut types = ProcessTypes::new();
    for (index, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        let text = std::str::from_utf8(raw).map_err(|_| ProcfileError::NotUtf8 { line })?.trim_end();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if text.chars().any(|character| character.is_control() && character != '\t') {
            return Err(ProcfileError::ControlCharacter { line });
        }
        let (name, command) = parse_line(line, text)?;
        types.insert(name.to_owned(), command.to_owned());
    }
    Ok(types)
}

/// Whether `name` may name a process type: 1 to 128 letters, digits, `-`, `_` (ASCII).
#[must_use]
pub fn is_process_type(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_PROCESS_TYPE_CHARACTERS
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Why process types that a client gives cannot be a slug's; `None`: they can. The rules are those of a Procfile.
#[must_use]
pub fn refuse_process_types(types: &ProcessTypes) -> Option<String> {
    let bytes: usize = types.iter().map(|(name, command)| name.len() + command.len()).sum();
    if bytes > MAX_PROCFILE_BYTES {
        return Some(format!("they have {bytes} bytes in all, more than {MAX_PROCFILE_BYTES}"));
    }
    types.iter().find_map(|(name, command)| match () {
        () if !is_process_type(name) => Some(format!(
            "{:?} is no name of a process type: use at most {MAX_PROCESS_TYPE_CHARACTERS} letters, digits, \"-\" and \"_\"",
            quote(name)
        )),
        () if command.trim().is_empty() => Some(format!("{name} has no command")),
        () if command.chars().any(|character| character.is_control() && character != '\t') => {
            Some(format!("the command of {name} has a control character in it: write it in one line"))
        }
        () => None,
    })
}

fn parse_line(line: usize, text: &str) -> Result<(&str, &str), ProcfileError> {
    let Some((name, command)) = text.split_once(':') else {
        return Err(ProcfileError::Malformed { line, found: quote(text) });
    };
    let command = command.trim();
    if !is_process_type(name) {
        let characters_fit =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        return Err(match name.is_empty() {
            true => ProcfileError::Malformed { line, found: quote(text) },
            false if characters_fit => ProcfileError::TypeTooLong { line },
            false => ProcfileError::BadType { line, name: quote(name) },
        });
    }
    if command.is_empty() {
        return Err(ProcfileError::NoCommand { line, name: name.to_owned() });
    }
    Ok((name, command))
}

fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(input: &str, expected: &[(&str, &str)]) {
        let parsed = parse(input.as_bytes()).unwrap_or_else(|error| panic!("{input:?}: {error}"));
        let expected: ProcessTypes =
            expected.iter().map(|(name, command)| ((*name).to_owned(), (*command).to_owned())).collect();
        assert_eq!(parsed, expected, "{input:?}");
    }

    fn check_error(input: &[u8], expected: &str) {
        let error = parse(input).expect_err("must be refused").to_string();
        assert!(error.starts_with(expected), "{input:?}: {error:?} does not start with {expected:?}");
    }

    #[test]
    fn process_types_of_clients_keep_the_rules_of_a_procfile() {
        let refused = |name: &str, command: &str| {
            refuse_process_types(&ProcessTypes::from([(name.to_owned(), command.to_owned())]))
        };
        assert_eq!(refused("web", "serve -p $PORT"), None);
        assert_eq!(refuse_process_types(&ProcessTypes::new()), None, "none at all is no mistake");
        let long = "x".repeat(MAX_PROCFILE_BYTES);
        for (name, command, why) in [
            ("", "x", "is no name"),
            ("a b", "x", "is no name"),
            ("../x", "x", "is no name"),
            ("web", " ", "web has no command"),
            ("web", "a\nb", "in one line"),
            ("web", "a\0b", "in one line"),
            ("web", &long, "65539 bytes in all"),
        ] {
            let text = refused(name, command).expect("refused");
            assert!(text.contains(why), "{name:?}: {text}");
        }
    }

    #[test]
    fn reads_what_heroku_reads() {
        check("", &[]);
        check("web: gunicorn mysite.wsgi\n", &[("web", "gunicorn mysite.wsgi")]);
        check("web: a\nworker: b", &[("web", "a"), ("worker", "b")]);
        check("web: a\r\nworker: b\r\n", &[("web", "a"), ("worker", "b")]);
        check("# comment\n\n   \t\nweb:a", &[("web", "a")]);
        check("web: first\nweb: last", &[("web", "last")]);
        check("web:\t  a: b # c   ", &[("web", "a: b # c")]);
        check(
            "release: ./manage.py migrate\nmy-worker_2: x",
            &[("my-worker_2", "x"), ("release", "./manage.py migrate")],
        );
        check("\u{feff}web: a", &[("web", "a")]);
        check("web: échoué $PORT \"x y\"", &[("web", "échoué $PORT \"x y\"")]);
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        check_error(
            b"web: a\nworker python x.py\n",
            "Procfile line 2 is not a process type: it reads \"worker python",
        );
        check_error(b"# c\r\n\r\nweb : a", "Procfile line 3: \"web \" is no process type name.");
        check_error(b" web: a", "Procfile line 1: \" web\" is no process type name.");
        check_error(b": a", "Procfile line 1 is not a process type");
        check_error(b"web:\nx: y", "Procfile line 1: the type \"web\" has no command.");
        check_error(b"web:   \r\n", "Procfile line 1: the type \"web\" has no command.");
        check_error(b"a: b\nweb: \xff", "Procfile line 2 is not UTF-8 text.");
        check_error(b"web: a\0b", "Procfile line 1 has a NUL");
        check_error(
            format!("{}: x", "w".repeat(129)).as_bytes(),
            "Procfile line 1: the process type name is longer",
        );
        check_error(&vec![b'#'; MAX_PROCFILE_BYTES + 1], "The Procfile has 65537 bytes");
        let long = format!("{}é", "x".repeat(200));
        assert!(parse(long.as_bytes()).expect_err("no colon").to_string().len() < 220);
    }

    proptest! {
        #[test]
        fn never_panics_and_only_gives_names_and_commands_that_are_valid(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(types) = parse(&bytes) {
                for (name, command) in types {
                    prop_assert!(is_process_type(&name));
                    prop_assert!(!command.is_empty() && command.trim() == command && !command.contains('\n'));
                }
            }
        }

        #[test]
        fn what_is_written_by_the_grammar_is_read_back(
            types in proptest::collection::btree_map("[A-Za-z0-9_-]{1,20}", "[!-~]([ -~]{0,40}[!-~])?", 0..8),
            crlf in any::<bool>(),
        ) {
            let end = if crlf { "\r\n" } else { "\n" };
            let text: String = types.iter().map(|(name, command)| format!("{name}: {command}{end}")).collect();
            prop_assert_eq!(parse(text.as_bytes()), Ok(types));
        }

        #[test]
        fn a_wrong_line_is_named_wherever_it_stands(before in 0_usize..50, after in 0_usize..50) {
            let text = format!("{}no colon here\n{}", "web: a\n".repeat(before), "web: a\n".repeat(after));
            let expected = ProcfileError::Malformed { line: before + 1, found: "no colon here".to_owned() };
            prop_assert_eq!(parse(text.as_bytes()), Err(expected));
        }
    }
}
