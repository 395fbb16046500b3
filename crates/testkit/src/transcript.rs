//! Tables of command lines: each with its exit status and its whole output, masked.
//!
//! ```text
//! # Said about the next row.
//! $ heroku apps
//! You have no apps.
//!
//! $ heroku apps:info -a nosuch
//! ?2
//!  ›   Error: Couldn't find that app.
//! ```
//!
//! A row ends before the next line that starts with `$ ` or `# `; trailing blank lines do not count. `?N` is the exit
//! status, 0 if absent. `...` on a line of its own stands for any lines. With `FERROKU_BLESS=1` a table is rewritten
//! with what was seen; read the difference before you keep it.

use crate::{TestNode, mask};
use std::fs;
use std::path::Path;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Row {
    comments: Vec<String>,
    line: String,
    status: i32,
    output: String,
}

/// Runs every row of the table at `path` in order.
///
/// # Panics
/// With every row that came out otherwise, once all are run; when blessing, only with rows that no table may hold.
pub fn check(node: &TestNode, path: &Path) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let bless = std::env::var_os("FERROKU_BLESS").is_some();
    let mut seen = Vec::new();
    let mut differences = String::new();
    for row in parse(&text) {
        let json = row.line.contains("--json") || row.line.contains("curl ");
        let output = node.run_unchecked(&row.line);
        if let Some(nonsense) = mask::nonsense(&output.text).filter(|_| !json) {
            differences.push_str(&format!(
                "$ {}\n--- printed what only a missing field prints: {nonsense}\n",
                row.line
            ));
        }
        let masked = node.mask(&output.text).trim_end().to_owned();
        let fits = output.status == row.status && matches(&row.output, &masked);
        if !fits && !bless {
            differences.push_str(&format!(
                "$ {}\n--- expected ?{}\n{}\n--- seen ?{}\n{masked}\n\n",
                row.line, row.status, row.output, output.status
            ));
        }
        seen.push(if fits { row } else { Row { status: output.status, output: masked, ..row } });
    }
    if bless {
        fs::write(path, render(&seen)).expect("the table can be written");
    }
    assert!(differences.is_empty(), "{}:\n{differences}", path.display());
}

fn parse(text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut comments = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            comments.push(comment.to_owned());
        } else if let Some(command) = line.strip_prefix("$ ") {
            rows.push(Row {
                comments: std::mem::take(&mut comments),
                line: command.to_owned(),
                ..Row::default()
            });
        } else if let Some(row) = rows.last_mut() {
            match line.strip_prefix('?').and_then(|status| status.parse().ok()) {
                Some(status) if row.output.is_empty() => row.status = status,
                _ => {
                    row.output.push_str(line);
                    row.output.push('\n');
                }
            }
        }
    }
    for row in &mut rows {
        row.output.truncate(row.output.trim_end().len());
    }
    rows
}

fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        for comment in &row.comments {
            text.push_str(&format!("# {comment}\n"));
        }
        text.push_str(&format!("$ {}\n", row.line));
        if row.status != 0 {
            text.push_str(&format!("?{}\n", row.status));
        }
        if !row.output.is_empty() {
            text.push_str(&row.output);
            text.push('\n');
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Whether `seen` is `expected`, where a line `...` stands for any number of lines.
fn matches(expected: &str, seen: &str) -> bool {
    let expected: Vec<&str> = expected.lines().collect();
    let seen: Vec<&str> = seen.lines().collect();
    matches_lines(&expected, &seen)
}

fn matches_lines(expected: &[&str], seen: &[&str]) -> bool {
    match expected.split_first() {
        None => seen.is_empty(),
        Some((&"...", rest)) => (0..=seen.len()).any(|skipped| matches_lines(rest, &seen[skipped..])),
        Some((first, rest)) => seen.first() == Some(first) && matches_lines(rest, &seen[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_reading_and_writing() {
        let table = "# why\n$ heroku apps\n?2\none\n\ntwo\n\n$ true\n";
        let rows = parse(table);
        assert_eq!(rows[0].status, 2);
        assert_eq!(rows[0].output, "one\n\ntwo");
        assert_eq!(render(&rows), table);
    }

    #[test]
    fn dots_stand_for_any_lines() {
        assert!(matches("a\n...\nd", "a\nb\nc\nd"));
        assert!(matches("a\n...\nd", "a\nd"));
        assert!(!matches("a\n...\nd", "a\nb"));
        assert!(!matches("a", "a\nb"));
        assert!(matches("", ""));
    }
}
