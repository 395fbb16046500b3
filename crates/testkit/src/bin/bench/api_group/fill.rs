//! A node that has been in use for long, made by SQL: 10,000 apps of 20 releases would take an hour by the API.
//!
//! Accounts and apps take their numbers into their ids. All releases have the config vars of one app that was made by
//! the API, because only the node can seal them.

use ferroku_core::uids::{APP_UIDS, FIRST_APP_UID};
use ferroku_testkit::TestNode;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

pub const APPS: usize = 10_000;
pub const RELEASES: usize = 20;
/// Apps of the first account, whose list is asked for.
pub const APPS_OF_LISTER: usize = 1_000;
/// Accounts: as many as it takes that none reaches its limit of requests.
const ACCOUNTS: usize = 400;
/// Apps that are asked for in turn.
const ASKED: usize = 990;

/// Runs SQL in the store of a node that does not run.
pub type Fill = Box<dyn Fn(&str)>;

/// What scripts are made of.
pub struct Filled {
    /// Ids of authorizations, and their tokens.
    tokens: Vec<(String, String)>,
}

impl Filled {
    /// What the node itself must do: an app with config vars, and tokens.
    pub fn prepare(node: &TestNode) -> Self {
        let (status, answer) = node.call("POST", "/apps", r#"{"name": "template"}"#);
        assert_eq!(status, 201, "{answer}");
        let (status, answer) =
            node.call("PATCH", "/apps/template/config-vars", r#"{"GREETING": "Good morning"}"#);
        assert_eq!(status, 200, "{answer}");
        let tokens = (0..ACCOUNTS).map(|_| {
            let (status, answer) = node.call("POST", "/oauth/authorizations", "{}");
            assert_eq!(status, 201, "{answer}");
            let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
            (text(&answer["id"]), text(&answer["access_token"]["token"]))
        });
        Self { tokens: tokens.collect() }
    }

    /// Writes the rows.
    pub fn write(&self, fill: &Fill) {
        let mut sql = rows();
        for (account, (authorization, _)) in self.tokens.iter().enumerate() {
            let statement = include_str!("give_token.sql");
            let account = format!("{account:012}");
            sql.push_str(&statement.replace(":ACCOUNT:", &account).replace(":AUTHORIZATION:", authorization));
        }
        fill(&sql);
    }

    /// A script of `wrk` that asks for one app after the other.
    pub fn gets(&self) -> String {
        self.script(1, "GET", "nil")
    }

    /// One that asks for the lister's apps.
    pub fn lists(&self) -> String {
        let headers = format!(
            "{{Authorization = 'Bearer {}', Range = 'name ..; max={APPS_OF_LISTER}'}}",
            self.tokens[0].1
        );
        format!("local one = wrk.format('GET', '/apps', {headers})\nfunction request() return one end\n")
    }

    /// One that changes the config vars of one app after the other, always anew.
    pub fn patches(&self, seed: usize) -> String {
        self.script(seed, "PATCH", "'{\"COUNT\": \"' .. salt .. '-' .. n .. '\"}'")
    }

    fn script(&self, seed: usize, method: &str, body: &str) -> String {
        let targets: Vec<String> = (APPS_OF_LISTER..APPS_OF_LISTER + ASKED)
            .map(|app| format!("{{'app-{app}', '{}'}}", self.tokens[owner_of(app)].1))
            .collect();
        let path = if method == "GET" { "''" } else { "'/config-vars'" };
        format!(
            "local targets = {{{}}}\nlocal n = {seed}\nlocal salt = os.time() .. os.clock()\n\
             function request()\n  n = n + 1\n  local one = targets[n % #targets + 1]\n  return wrk.format('{method}', \
             '/apps/' .. one[1] .. {path}, {{Authorization = 'Bearer ' .. one[2]}}, {body})\nend\n",
            targets.join(",")
        )
    }
}

/// SQL for a SQLite file, by Python's own SQLite.
pub fn sqlite(path: &Path) -> Fill {
    let path = path.to_owned();
    Box::new(move |sql| {
        let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.stdin.read()); c.close()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(&path);
        feed(command, &format!("BEGIN;\n{sql}COMMIT;\n"));
    })
}

/// SQL for a PostgreSQL database.
pub fn postgres(url: &str) -> Fill {
    let url = url.to_owned();
    Box::new(move |sql| {
        let mut command = Command::new("psql");
        command.args(["-q", "-1", "-v", "ON_ERROR_STOP=1", &url]);
        feed(command, &format!("{sql}ANALYZE;\n"));
    })
}

fn feed(mut command: Command, text: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the database's client is installed");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    assert!(child.wait().expect("our own child").success(), "the rows cannot be written");
}

/// The first thousand apps are the lister's, the others the other accounts' in turn.
fn owner_of(app: usize) -> usize {
    if app < APPS_OF_LISTER { 0 } else { 1 + app % (ACCOUNTS - 1) }
}

/// `fill.sql` with its numbers.
fn rows() -> String {
    let numbers: [(&str, u64); 7] = [
        ("LAST_ACCOUNT", ACCOUNTS as u64 - 1),
        ("OTHER_ACCOUNTS", ACCOUNTS as u64 - 1),
        ("LISTED_APPS", APPS_OF_LISTER as u64),
        ("LAST_APP", APPS as u64 - 1),
        ("LAST_RELEASE", RELEASES as u64 - 1),
        ("FIRST_UID", u64::from(FIRST_APP_UID) + u64::from(APP_UIDS) * 10),
        ("APP_UIDS", u64::from(APP_UIDS)),
    ];
    let replace =
        |text: String, (name, number): (&str, u64)| text.replace(&format!(":{name}:"), &number.to_string());
    numbers.into_iter().fold(include_str!("fill.sql").to_owned(), replace)
}
