//! The official Heroku CLI and git against a whole node: one row a command line, in `tables/`.

use ferroku_testkit::postgres::TestPostgres;
use ferroku_testkit::{NodeOptions, TestNode, transcript};
use std::path::Path;

/// The order matters: each table goes on with the app that the one before left.
const TABLES: [&str; 17] = [
    "01_login",
    "02_apps",
    "03_config",
    "04_push",
    "05_dynos",
    "06_releases_and_logs",
    "07_bad_input",
    "08_heroku3",
    "09_domains_and_certs",
    "10_release_command",
    "11_inside",
    "12_exec",
    "13_access",
    "14_accounts",
    "15_everyday",
    "16_pipelines",
    "17_builds",
];

/// What takes long and has little to do with the store, whose own tests run on both.
const WITHOUT_POSTGRESQL: [&str; 10] = [
    "07_bad_input",
    "08_heroku3",
    "09_domains_and_certs",
    "11_inside",
    "12_exec",
    "13_access",
    "14_accounts",
    "15_everyday",
    "16_pipelines",
    "17_builds",
];

fn run_tables(options: NodeOptions) {
    let postgresql = options.database_url.is_some();
    let node = TestNode::start_with(options);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables");
    let only = std::env::var("FERROKU_TABLES").unwrap_or_default();
    let tables = TABLES.iter().filter(|table| !postgresql || !WITHOUT_POSTGRESQL.contains(table));
    for table in tables.filter(|table| only.is_empty() || only.split(',').any(|name| table.contains(name))) {
        transcript::check(&node, &folder.join(format!("{table}.txt")));
    }
    node.stop();
}

#[test]
fn the_official_cli_drives_a_node_on_sqlite() {
    run_tables(NodeOptions::default());
}

#[test]
fn the_official_cli_drives_a_node_on_postgresql() {
    let Some(postgres) = TestPostgres::start() else {
        panic!("this machine has no PostgreSQL; scripts/setup.sh test installs it");
    };
    run_tables(NodeOptions { database_url: Some(postgres.database("ferroku")), ..NodeOptions::default() });
}
