//! The house rules that a program can check.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our crates a crate may use, outside its tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("api", &["core"]),
    ("store", &["core"]),
    ("buildpacks", &["core"]),
    ("logplex", &["core"]),
    ("router", &["core"]),
    ("runtime", &["core"]),
    ("server", &["core", "api", "store", "buildpacks", "logplex", "router", "runtime"]),
    ("testkit", &["core", "api"]),
];

/// Files aim at 500 lines and functions at 70; what is over these limits is split before it lands.
const FILE_LIMIT_LINES: usize = 700;
const FUNCTION_LIMIT_LINES: usize = 100;
const FILE_AIM_LINES: usize = 500;
const FUNCTION_AIM_LINES: usize = 70;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Every file of the repository with one of these endings, with its text.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let output =
        Command::new("git").arg("-C").arg(&root).args(["ls-files", "-co", "--exclude-standard"]).output();
    let listed = String::from_utf8(output.expect("git runs").stdout).expect("names are UTF-8");
    assert!(!listed.is_empty(), "the tests run inside a git repository");
    let wanted = |path: &&str| endings.iter().any(|ending| path.ends_with(ending));
    listed
        .lines()
        .filter(wanted)
        .filter_map(|path| Some((path.to_owned(), fs::read_to_string(root.join(path)).ok()?)))
        .collect()
}

fn sources() -> Vec<(String, String)> {
    files(&[".rs"]).into_iter().filter(|(path, _)| path.starts_with("crates/")).collect()
}

#[test]
fn crates_use_each_other_along_the_arrows_only() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let mut have: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name").trim_start_matches("ferroku-").to_owned();
        let uses = have.entry(name).or_default();
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let ours = dependency["name"].as_str().and_then(|name| name.strip_prefix("ferroku-"));
            if let Some(ours) = ours.filter(|_| dependency["kind"].is_null()) {
                uses.insert(ours.to_owned());
            }
        }
    }
    for (name, uses) in have {
        let allowed = ARROWS.iter().find(|(known, _)| *known == name);
        let (_, allowed) =
            allowed.unwrap_or_else(|| panic!("the crate {name} has no row in the table of arrows"));
        for used in uses {
            assert!(allowed.contains(&used.as_str()), "{name} uses {used}: no arrow leads there");
        }
    }
}

#[test]
fn sql_is_in_the_store_only() {
    let statement =
        regex::Regex::new(r#""\s*(SELECT\s+\S+.*\sFROM\s|INSERT INTO\s|UPDATE\s+\w+\s+SET\s|DELETE FROM\s)"#)
            .expect("a valid pattern");
    for (path, text) in sources() {
        if path.starts_with("crates/store/") {
            continue;
        }
        if let Some(found) = statement.find(&text) {
            panic!("{path} has SQL of its own: {}", found.as_str());
        }
    }
}

#[test]
fn unsafe_code_is_in_the_runtime_only_and_each_says_why() {
    // Split, or this file would find itself.
    let words = [["unsafe", " {"].concat(), ["unsafe", " fn"].concat(), ["unsafe", " impl"].concat()];
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if !words.iter().any(|word| line.contains(word.as_str())) {
                continue;
            }
            assert!(
                path.starts_with("crates/runtime/"),
                "{path}:{}: only the runtime may do this",
                number + 1
            );
            let reason = lines[number.saturating_sub(8)..=number].iter().any(|line| line.contains("SAFETY:"));
            assert!(reason, "{path}:{}: no SAFETY comment says why this is sound", number + 1);
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X"],
        ["place", "holder"],
        ["unimple", "mented!"],
        ["to", "do!("],
    ];
    let words: Vec<String> = words.iter().map(|word| word.concat()).collect();
    for (path, text) in files(&[".rs", ".sh", ".md", ".toml", "Makefile"]) {
        for (number, line) in text.lines().enumerate() {
            let found = words.iter().find(|word| {
                line.match_indices(word.as_str()).any(|(at, _)| {
                    let neighbours = [line[..at].chars().next_back(), line[at + word.len()..].chars().next()];
                    !neighbours.iter().flatten().any(|letter| letter.is_alphanumeric())
                })
            });
            if let Some(word) = found {
                panic!("{path}:{}: {word:?} in {line:?}", number + 1);
            }
        }
    }
}

#[test]
fn files_and_functions_are_short() {
    let mut warnings = String::new();
    let mut failures = String::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        note(&mut warnings, &mut failures, &path, lines, FILE_AIM_LINES, FILE_LIMIT_LINES);
        for (name, lines) in functions(&text) {
            let name = format!("{path}: fn {name}");
            note(&mut warnings, &mut failures, &name, lines, FUNCTION_AIM_LINES, FUNCTION_LIMIT_LINES);
        }
    }
    let _ = std::io::stderr().write_all(warnings.as_bytes());
    assert!(failures.is_empty(), "too long:\n{failures}");
}

fn note(warnings: &mut String, failures: &mut String, name: &str, lines: usize, aim: usize, limit: usize) {
    if lines > limit {
        failures.push_str(&format!("{name}: {lines} lines, more than {limit}\n"));
    } else if lines > aim {
        warnings.push_str(&format!("{name}: {lines} lines, aim at {aim}\n"));
    }
}

/// Names and lengths of the functions in a file that rustfmt laid out.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        let Some(at) = trimmed
            .find("fn ")
            .filter(|at| trimmed[..*at].chars().all(|c| c.is_alphabetic() || " ()".contains(c)))
        else {
            continue;
        };
        let name: String =
            trimmed[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = lines[number..]
            .iter()
            .position(|line| line.len() == indent + 1 && line.ends_with('}') && line.trim_start().len() == 1);
        if let (false, Some(end)) = (name.is_empty() || trimmed.ends_with(';'), end) {
            found.push((name, end + 1));
        }
    }
    found
}
