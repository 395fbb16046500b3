//! `docs/compatibility.md` is made from what is tested: which commands of the CLI the end-to-end tables run, why the others
//! are not among them, and which links of the Platform API's schema the router knows. With `FERROKU_BLESS=1` it is
//! written anew.

use crate::api;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const COMMANDS: &str = include_str!("../../../tests/compatibility/cli_commands.txt");
const REST: &str = include_str!("../../../tests/compatibility/cli_rest.txt");
const LINKS: &str = include_str!("../../../tests/compatibility/platform_api_links.txt");

const HEAD: &str = "\
<!-- Made by `FERROKU_BLESS=1 cargo test --release --workspace --lib compatibility`. Do not edit: see crates/server/tests/compatibility. -->

# Compatibility

What of Heroku is here, taken from what is tested: the tables in `crates/server/tests/tables`, each a list of command lines with their whole output, which
`make test` runs with the official CLI against a node; and the router's own list of routes.
";

struct Reason {
    pattern: &'static str,
    why: &'static str,
    /// It does not work, even where a table runs it.
    refuses: bool,
}

impl Reason {
    fn fits(&self, command: &str) -> bool {
        match self.pattern.strip_suffix('*') {
            Some(beginning) => command.starts_with(beginning),
            None => command == self.pattern,
        }
    }
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn reasons() -> Vec<Reason> {
    let reason = |line: &'static str| {
        let (head, why) = line.split_once(" | ").unwrap_or_else(|| panic!("no reason: {line}"));
        let (mark, pattern) = head.split_once(' ').unwrap_or_else(|| panic!("no mark: {line}"));
        assert!(["!", "?"].contains(&mark), "{line}");
        Reason { pattern, why, refuses: mark == "!" }
    };
    lines(REST).map(reason).collect()
}

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The tables that run each command. A line counts for each `heroku COMMAND` in it.
fn runs() -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut names = BTreeMap::new();
    for line in lines(COMMANDS) {
        let command = line.split(' ').next().unwrap_or(line);
        names.extend(line.split(' ').map(|name| (name, command)));
    }
    let mut runs: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for file in fs::read_dir(folder("tests/tables")).expect("the tables") {
        let path = file.expect("readable").path();
        let table = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("readable");
        for line in text.lines().filter(|line| line.starts_with("$ ")) {
            let words: Vec<&str> =
                line.split_whitespace().map(|word| word.trim_matches(['"', '\'', '$', '('])).collect();
            for pair in words.windows(2).filter(|pair| pair[0] == "heroku") {
                let name = pair[1].trim_end_matches([';', ')', '"', '\'']);
                if let Some(command) = names.get(name) {
                    runs.entry(command).or_default().insert(table.clone());
                }
            }
        }
    }
    runs
}

fn commands(page: &mut String) {
    let (reasons, runs) = (reasons(), runs());
    let all: Vec<&str> = lines(COMMANDS).map(|line| line.split(' ').next().unwrap_or(line)).collect();
    let mut working = String::new();
    let mut rest: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let mut count = 0;
    for command in &all {
        let reason = reasons.iter().position(|reason| reason.fits(command));
        match (runs.get(command), reason) {
            (Some(tables), reason) if !reason.is_some_and(|at| reasons[at].refuses) => {
                count += 1;
                let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
                let _ = writeln!(working, "| `{command}` | {} |", tables.join(", "));
            }
            (_, Some(at)) => rest.entry(at).or_default().push(command),
            _ => {
                panic!("{command} is run by no table, and tests/compatibility/cli_rest.txt does not say why")
            }
        }
    }
    for reason in &reasons {
        assert!(all.iter().any(|command| reason.fits(command)), "there is no command {}", reason.pattern);
    }
    let total = all.len();
    let _ = write!(
        page,
        "\n## The Heroku CLI\n\nOf the {total} commands of the CLI 11.10.0 the tables run {count}:\n\n"
    );
    page.push_str("| command | tables |\n|---|---|\n");
    page.push_str(&working);
    for (refuses, title) in [(false, "No table runs these"), (true, "These do not work")] {
        let _ = write!(page, "\n{title}:\n\n| commands | why |\n|---|---|\n");
        for (at, commands) in rest.iter().filter(|(at, _)| reasons[**at].refuses == refuses) {
            let shown = match commands.len() {
                1 => format!("`{}`", commands[0]),
                many => format!("`{}` ({many})", reasons[*at].pattern),
            };
            let _ = writeln!(page, "| {shown} | {} |", reasons[*at].why);
        }
    }
}

/// `GET /apps/{}`: parameters by no name.
fn nameless(method: &str, path: &str) -> String {
    let segment = |segment: &str| if segment.starts_with('{') { "{}" } else { segment }.to_owned();
    let path: Vec<String> = path.split('/').map(segment).collect();
    format!("{method} {}", path.join("/"))
}

fn links(page: &mut String) {
    let table = |routes: api::routes::Routes| -> BTreeSet<String> {
        routes.table().iter().map(|(method, path)| nameless(method.as_str(), path)).collect()
    };
    let (known, empty) = (table(api::routes()), table(api::absent::routes()));
    let links: Vec<&str> = lines(LINKS).collect();
    let served: Vec<&str> = links.iter().copied().filter(|link| known.contains(*link)).collect();
    let nothing = served.iter().filter(|link| empty.contains(**link)).count();
    let _ = write!(
        page,
        "\n## The Platform API\n\nThe router knows {} of the {} links of the Platform API's schema. {nothing} of them answer as for an \
         account or app that has none: an empty list, or 404. What all answers have in common: [api-conventions.md](api-conventions.md).\n\n",
        served.len(),
        links.len()
    );
    let mut methods: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for link in served {
        let (method, path) = link.split_once(' ').expect("a method and a path");
        let mark = if empty.contains(link) { " (none)" } else { "" };
        methods.entry(path).or_default().insert(format!("{method}{mark}"));
    }
    page.push_str("| path | methods |\n|---|---|\n");
    for (path, methods) in methods {
        let methods: Vec<String> = methods.into_iter().collect();
        let _ = writeln!(page, "| `{path}` | {} |", methods.join(", "));
    }
}

#[test]
fn the_page_of_what_is_compatible_tells_what_is_tested() {
    let mut page = HEAD.to_owned();
    commands(&mut page);
    links(&mut page);
    let path = folder("../../docs/compatibility.md");
    if std::env::var_os("FERROKU_BLESS").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let have = fs::read_to_string(&path).unwrap_or_default();
    assert!(have == page, "docs/compatibility.md is stale: run this test with FERROKU_BLESS=1");
}
