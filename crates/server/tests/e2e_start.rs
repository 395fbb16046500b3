//! How a node starts when something is in its way: a clear error, and nothing lost.

use ferroku_testkit::TestNode;
use ferroku_testkit::command::{self, CommandOutput};
use ferroku_testkit::node::NodeOptions;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A start that fails does so at once; a machine that builds meanwhile is given time.
const LIMIT: Duration = Duration::from_secs(60);

fn start(data: &Path, listen: &str) -> CommandOutput {
    let mut command = Command::new(ferroku_testkit::node::program());
    command.arg("server").arg("--data").arg(data).args(["--listen", listen, "--router", "127.0.0.1:0"]);
    command::run(&mut command, LIMIT)
}

#[track_caller]
fn assert_refused(output: &CommandOutput, reason: &str, advice: &str) {
    assert_eq!(output.status, 1, "{}", output.text);
    assert!(output.text.contains(reason) && output.text.contains(advice), "{}", output.text);
    assert!(!output.text.contains("panicked"), "{}", output.text);
}

#[test]
fn a_second_server_on_a_data_folder_is_refused_and_the_first_goes_on() {
    let node = TestNode::start();
    assert_refused(&start(&node.data, "127.0.0.1:0"), "is in use by another server", "--data DIR");
    node.run("heroku apps").succeeded();
    node.stop();
}

#[test]
fn a_port_that_is_taken_is_named_with_the_option_that_chooses_another() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = start(folder.path(), &address);
    assert_refused(&output, &format!("cannot listen on {address}"), "--listen ADDR:PORT");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    assert!(
        !mounts.contains(&folder.path().display().to_string()),
        "a failed start leaves no mount:\n{mounts}"
    );
}

#[test]
fn a_data_folder_that_cannot_be_written_is_named() {
    assert_refused(
        &start(Path::new("/proc/ferroku"), "127.0.0.1:0"),
        "cannot use /proc/ferroku",
        "--data DIR",
    );
}

#[test]
fn a_schema_newer_than_the_program_is_refused() {
    let mut node = TestNode::start();
    node.stop_supervisor();
    let script = "import sqlite3, sys; database = sqlite3.connect(sys.argv[1]); \
        database.execute(\"insert into _sqlx_migrations select 9999, 'of a later release', installed_on, success, checksum, \
        execution_time from _sqlx_migrations limit 1\"); database.commit()";
    let database = node.data.join("ferroku.sqlite");
    let status = Command::new("python3").args(["-c", script]).arg(&database).status().expect("python3 runs");
    assert!(status.success(), "the test's own preparation failed");
    let output = start(&node.data, "127.0.0.1:0");
    assert_refused(&output, "newer", "ferrokud");
}

#[test]
fn a_kernel_feature_that_is_missing_is_named_with_its_remedy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = ferroku_testkit::node::program();
    let server = format!(
        "exec {} server --data {} --listen 127.0.0.1:0 --router 127.0.0.1:0",
        program.display(),
        folder.path().display()
    );
    for (hide, reason, remedy) in [
        ("mount -t tmpfs none /sys/fs/cgroup", "memory cgroup controller", "cgroup_enable=memory"),
        (
            "echo 0 >$DIR/none && mount --bind $DIR/none /proc/sys/user/max_user_namespaces",
            "user namespaces",
            "sysctl",
        ),
        (
            "echo nodev proc >$DIR/none && mount --bind $DIR/none /proc/filesystems && export PATH=/nonexistent:$PATH && \
          printf '#!/bin/sh\nexit 1' >$DIR/modprobe && chmod 755 $DIR/modprobe && PATH=$DIR:$PATH",
            "overlay",
            "CONFIG_OVERLAY_FS",
        ),
    ] {
        // In a mount namespace of its own: the machine keeps the feature.
        let script = format!("DIR={}; {hide} && {server}", folder.path().display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        assert_refused(&command::run(&mut command, LIMIT), reason, remedy);
    }
}

#[test]
fn env_without_a_node_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(ferroku_testkit::node::program());
    command.arg("env").arg("--data").arg(folder.path());
    assert_refused(&command::run(&mut command, LIMIT), "no node runs on", "ferrokud server");
}

#[test]
fn the_routers_second_address_serves_over_a_kill_and_a_restart() {
    // Bound and let go of: free for the node.
    let second = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let arguments = vec!["--router-tls".to_owned(), second.to_string()];
    let mut node = TestNode::start_with(NodeOptions { arguments, ..NodeOptions::default() });
    let status = |node: &TestNode, address: std::net::SocketAddr| {
        let line =
            format!("curl -s -o /dev/null -w '%{{http_code}}' -H 'Host: nobody.localhost' http://{address}/");
        node.run_unchecked(&line).succeeded().text
    };
    let both = |node: &TestNode, when: &str| {
        for address in [node.router, second] {
            assert_eq!(status(node, address), "404", "{when}: {address}");
        }
    };
    both(&node, "at the start");
    node.kill_process("router");
    both(&node, "after the router was killed");
    let router = node.pid_of("router");
    node.kill_supervisor();
    node.start_again();
    assert_eq!(node.pid_of("router"), router, "its listeners were taken back, all of them");
    both(&node, "after the supervisor was killed");
    let restart =
        format!("{} restart --data {}", ferroku_testkit::node::program().display(), node.data.display());
    node.run(&restart).succeeded();
    assert_ne!(node.pid_of("router"), router);
    both(&node, "after a restart");
    node.stop();
}
