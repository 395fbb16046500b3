//! What differs between two runs of the same command, replaced by names.

use regex::Regex;
use std::sync::LazyLock;

/// Patterns, in the order in which they are replaced.
static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let patterns: &[(&str, &str)] = &[
        // What a prompt or a progress line wrote over, then colours and cursor moves.
        (r"\x1b\[2K\x1b\[G|\x1b\[G\x1b\[1A\x1b\[J", "\r"),
        (r"\r+\n", "\n"),
        (r"[^\n]*\r", ""),
        (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[UUID]"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "[TIME]"),
        (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d [+-]\d{4}", "[TIME]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "[TIME]"),
        (r"\b[a-z]+-[a-z]+-[a-z0-9]{24}\.localhost", "[DNS TARGET]"),
        (r"\b[a-z]+-\d{5}\b", "[CERTIFICATE]"),
        (r"\(?~? ?\d+[smh] ago\)?", "[AGO]"),
        (r"\b[0-9a-f]{40}\b", "[COMMIT]"),
        (r"\b[0-9a-f]{7,8}\.\.[0-9a-f]{7,8}\b", "[COMMIT]..[COMMIT]"),
        (r"\b[0-9a-f]{7,8}\.\.\.[0-9a-f]{7,8}\b", "[COMMIT]...[COMMIT]"),
        (r"\b(Deploy|paths? from) [0-9a-f]{7,8}\b", "$1 [COMMIT]"),
        (r"/tmp/build_[0-9a-f]{8}\b", "/tmp/build_[ID]"),
        (r"\b(run|scheduler|release)\.\d{4}\b", "$1.[N]"),
        (r"\b\d+(\.\d+)? ?(ms|s)\b", "[DURATION]"),
        (r"\b\d+(\.\d+)? ?([KMG]i?B?|kB|bytes)\b", "[SIZE]"),
        // How often the CLI saw a dyno before it was up.
        (r"Running [^\n]*?\.\.\. (starting|connecting), [a-z]+\.(\[N\]|\d+)\n?", ""),
        // A table's rule is as wide as the widest time said in words.
        (r"─{10,}", "──────────"),
        (r"[ \t]+\n", "\n"),
    ];
    patterns.iter().map(|(pattern, name)| (Regex::new(pattern).expect("a valid pattern"), *name)).collect()
});

/// Replaces `literals` (such as a port and its name) first, then what the patterns know.
pub fn mask(text: &str, literals: &[(String, String)]) -> String {
    let mut masked = text.to_owned();
    for (literal, name) in literals {
        masked = masked.replace(literal.as_str(), name);
    }
    for (pattern, name) in PATTERNS.iter() {
        masked = pattern.replace_all(&masked, *name).into_owned();
    }
    masked
}

/// The first line with a word that only a missing field prints.
pub fn nonsense(text: &str) -> Option<&str> {
    static NONSENSE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b(undefined|NaN|null)\b|\[object Object\]").expect("a valid pattern"));
    text.lines().find(|line| NONSENSE.is_match(line) && !line.contains("/dev/null"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_look_alike() {
        let literals = [("127.0.0.1:4711".to_owned(), "[API]".to_owned())];
        let text = "\x1b[1mv3\x1b[0m Deploy 1a2b3c4d 2026/11/22 02:03:04 +0000 (~ 5s ago) http://127.0.0.1:4711/ run.1234 12.3M";
        assert_eq!(mask(text, &literals), "v3 Deploy [COMMIT] [TIME] [AGO] http://[API]/ run.[N] [SIZE]");
    }

    #[test]
    fn a_progress_line_is_what_it_was_in_the_end() {
        let prompt =
            "\x1b[34m?\x1b[39m Email o\x1b[10G\x1b[2K\x1b[G\x1b[32m!\x1b[39m Email owner\x1b[24G\r\nnext";
        assert_eq!(mask(prompt, &[]), "! Email owner\nnext");
        let run = "Running ls on a... starting, run.8726\nRunning ls on a... connecting, run.8726Running ls on a... up, run.8726\nx";
        assert_eq!(mask(run, &[]), "Running ls on a... up, run.[N]\nx");
    }

    #[test]
    fn words_of_missing_fields_are_found() {
        assert_eq!(nonsense("a\nsize: undefined\n"), Some("size: undefined"));
        assert_eq!(nonsense("nullable, NaNo >/dev/null"), None);
    }
}
