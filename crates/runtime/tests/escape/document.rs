//! `docs/sandbox.md` says what the code does: its tables are written from the code's own lists.

use crate::cases::CASES;
use crate::protections::{PROTECTIONS, names};
use ferroku_runtime::dyno_init::seccomp;
use std::fs;
use std::path::Path;

/// Set to anything: write the tables instead of comparing them.
const UPDATE: &str = "FERROKU_UPDATE_DOCS";

/// Every protection has a case, every case's protections exist, and the document shows both.
pub fn check() {
    let names = names();
    for case in CASES {
        for protection in case.stopped_by {
            assert!(
                names.iter().any(|name| name == protection),
                "{}: no protection {protection:?}",
                case.attempt
            );
        }
    }
    for name in &names {
        assert!(!cases_of(name).is_empty(), "the protection {name:?} has no case that it stops");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sandbox.md");
    let text = fs::read_to_string(&path).expect("docs/sandbox.md is there");
    let mut wanted = text.clone();
    for (mark, table) in [("protections", protections()), ("seccomp", system_calls())] {
        let (begin, end) = (format!("<!-- {mark}: begin -->\n"), format!("<!-- {mark}: end -->"));
        let (before, rest) =
            wanted.split_once(&begin).expect("the document has the mark of the table's begin");
        let (_, after) = rest.split_once(&end).expect("the document has the mark of the table's end");
        wanted = format!("{before}{begin}{table}{end}{after}");
    }
    if wanted == text {
        return;
    }
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, wanted).expect("docs/sandbox.md can be written");
    } else {
        panic!(
            "docs/sandbox.md does not show what the code has; run this test with {UPDATE}=1 and look at the change"
        );
    }
}

fn cases_of(protection: &str) -> Vec<&'static str> {
    CASES.iter().filter(|case| case.stopped_by.contains(&protection)).map(|case| case.attempt).collect()
}

fn protections() -> String {
    let mut table = "| protection | what it is | attempts that it stops |\n|---|---|---|\n".to_owned();
    for protection in PROTECTIONS {
        let cases = cases_of(protection.name).join(", ");
        table.push_str(&format!("| {} | {} | {cases} |\n", protection.name, protection.what));
    }
    table
}

fn system_calls() -> String {
    let mut table = "| group | system calls | denied | why | attempts |\n|---|---|---|---|---|\n".to_owned();
    for group in seccomp::GROUPS {
        let calls = group.calls.join(", ");
        let only = match group.only {
            seccomp::Only::Always => "always",
            seccomp::Only::NamespaceFlags => "with a flag of a new namespace",
            seccomp::Only::OddFamilies => "but for unix, IPv4, IPv6, netlink",
            seccomp::Only::TerminalInput => "with TIOCSTI",
        };
        let cases = cases_of(&format!("seccomp {}", group.name)).join(", ");
        table.push_str(&format!("| {} | {calls} | {only} | {} | {cases} |\n", group.name, group.reason));
    }
    table
}
