//! Third-party buildpacks, by folder, git repository and tarball, alone and several in order.

mod common;

use common::{App, fixture};
use ferroku_core::protocol::build::BuildOutcome;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

fn git(directory: &Path, arguments: &[&str]) {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]);
    let output = git.args(arguments).current_dir(directory).output().expect("git");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A copy of the greeter as a git repository with a branch `old`.
fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    let copied =
        Command::new("cp").arg("-a").arg(fixture("greeter/.")).arg(folder.path()).status().expect("cp");
    assert!(copied.success());
    git(folder.path(), &["init", "--quiet"]);
    git(folder.path(), &["add", "-A"]);
    git(folder.path(), &["commit", "--quiet", "-m", "one"]);
    git(folder.path(), &["checkout", "--quiet", "-b", "old"]);
    let detect = folder.path().join("bin/detect");
    std::fs::write(&detect, "#!/bin/sh\necho Old Greeter\n").expect("write");
    git(folder.path(), &["commit", "--quiet", "-am", "two"]);
    git(folder.path(), &["checkout", "--quiet", "main"]);
    folder
}

/// Serves one file to every request, on a port of its own, for as long as the test runs.
fn serve(body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            let mut request = [0; 4096];
            let length = stream.read(&mut request).expect("read");
            let found = request[..length].starts_with(b"GET /greeter.tgz ");
            let head = if found { "HTTP/1.1 200 OK" } else { "HTTP/1.1 404 Not Found" };
            let body: &[u8] = if found { &body } else { b"" };
            write!(stream, "{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
                .expect("write");
            stream.write_all(body).expect("write");
        }
    });
    format!("http://{address}")
}

#[test]
fn a_folder_is_detected_compiled_and_released_and_keeps_its_cache() {
    let buildpack = format!("file://{}", fixture("greeter"));
    let mut app = App::new(&[("greeting.txt", "")]).with_buildpacks(&[&buildpack]);
    app.set_config_var("NAME", "Ann");
    let built = app.build().succeeded();
    assert_eq!(
        built.text,
        format!(
            "-----> Building on the Heroku-24 stack
-----> Using buildpack: {buildpack}
-----> Greeter app detected
-----> Greeting, build number 1 on heroku-24 of 58d1fdd
       to stderr
       NAME is 'Ann', and in the environment ''
-----> Discovering process types
       Procfile declares types     -> (none)
       Default types for buildpack -> web
"
        )
    );
    assert_eq!(built.result.process_types, [("web".to_owned(), "greet".to_owned())].into());
    assert_eq!(built.result.config_vars, [("GREETING".to_owned(), "hello".to_owned())].into());
    assert_eq!((built.result.description.as_deref(), built.result.detected), (Some("Greeter"), false));
    assert!(app.build().succeeded().text.contains("build number 2"));
    assert!(!Path::new(&fixture("greeter/export")).exists(), "the node's own folder must stay as it is");
}

#[test]
fn several_run_in_order_and_hand_on_their_exports() {
    let (greeter, runner) = (fixture("greeter"), fixture("runner"));
    let mut app =
        App::new(&[("greeting.txt", ""), ("Procfile", "web: mine")]).with_buildpacks(&[&greeter, &runner]);
    let built = app.build().succeeded();
    assert_eq!(
        built.text,
        format!(
            "-----> Building on the Heroku-24 stack
-----> Using buildpacks:
       1. {greeter}
       2. {runner}
-----> Greeter app detected
-----> Greeting, build number 1 on heroku-24 of 58d1fdd
       to stderr
-----> Runner app detected
       greet says: hello from greet
       GREETER is 'with a
newline'
-----> Discovering process types
       Procfile declares types     -> web
       Default types for buildpack -> console
"
        )
    );
    let types =
        [("console", "bash"), ("web", "mine")].map(|(name, command)| (name.to_owned(), command.to_owned()));
    assert_eq!(built.result.process_types, types.into());
    assert_eq!(built.result.buildpacks.len(), 2);
}

#[test]
fn a_git_repository_with_and_without_a_branch() {
    let repository = repository();
    // As in a build dyno, where the node's folders belong to nobody.
    let chown = Command::new("chown").args(["-R", "12345"]).arg(repository.path()).status().expect("chown");
    assert!(chown.success());
    let plain = format!("file://{}/.git", repository.path().display());
    let built = App::new(&[("greeting.txt", "")]).with_buildpacks(&[&plain]).build().succeeded();
    assert_eq!(built.result.description.as_deref(), Some("Greeter"));
    let old = format!("file://{}#old", repository.path().display());
    let built = App::new(&[("greeting.txt", "")]).with_buildpacks(&[&old]).build().succeeded();
    assert_eq!(built.result.description.as_deref(), Some("Old Greeter"));
    assert_eq!(built.result.buildpacks[0].url, old);
    let missing = format!("file://{}#no-such-branch", repository.path().display());
    let built = App::new(&[]).with_buildpacks(&[&missing]).build();
    assert_eq!(built.result.outcome, BuildOutcome::BuildpackUnavailable);
    assert!(built.text.contains("couldn't find remote ref no-such-branch"), "{}", built.text);
}

#[test]
fn a_tarball_over_http() {
    let file = tempfile::NamedTempFile::with_suffix(".tgz").expect("tempfile");
    let fixtures = fixture("");
    let tar = Command::new("tar")
        .arg("czf")
        .arg(file.path())
        .args(["-C", &fixtures, "greeter"])
        .status()
        .expect("tar");
    assert!(tar.success());
    let server = serve(std::fs::read(file.path()).expect("read"));
    let url = format!("{server}/greeter.tgz");
    let built = App::new(&[("greeting.txt", "")]).with_buildpacks(&[&url]).build().succeeded();
    assert_eq!(built.result.description.as_deref(), Some("Greeter"));
    let built = App::new(&[]).with_buildpacks(&[&format!("{server}/other.tgz")]).build();
    assert_eq!(built.result.outcome, BuildOutcome::BuildpackUnavailable);
    assert!(
        built.text.contains("other.tgz could not be fetched.\n") && built.text.contains("404"),
        "{}",
        built.text
    );
    let path = file.path().display().to_string();
    App::new(&[("greeting.txt", "")]).with_buildpacks(&[&path]).build().succeeded();
}

#[test]
fn a_failed_detect_shows_what_the_buildpack_says() {
    let greeter = fixture("greeter");
    App::new(&[("x", "")]).with_buildpacks(&[&greeter]).build().failed(
        BuildOutcome::DetectFailed,
        &format!(
            "-----> Using buildpack: {greeter}
-----> App not compatible with buildpack: {greeter}
       This buildpack needs a file greeting.txt.
       See its README.

"
        ),
    );
}

#[test]
fn a_failed_compile_rejects_the_push() {
    let runner = fixture("runner");
    let built = App::new(&[("runner-status", "4")]).with_buildpacks(&[&runner]).build();
    assert_eq!((built.result.outcome, built.status), (BuildOutcome::CompileFailed, Some(1)));
    assert!(
        built.text.ends_with("GREETER is ''\n\n !     Push rejected, failed to compile Runner app.\n\n"),
        "{}",
        built.text
    );
}

#[test]
fn the_buildpack_url_config_var_is_honoured() {
    let mut app = App::new(&[("greeting.txt", "")]);
    app.set_config_var("BUILDPACK_URL", &fixture("greeter"));
    let built = app.build().succeeded();
    assert_eq!((built.result.description.as_deref(), built.result.detected), (Some("Greeter"), false));
}

#[test]
fn a_folder_that_is_no_buildpack_is_refused() {
    let folder = tempfile::tempdir().expect("tempdir");
    let check = |address: &str, expected: &str| {
        let built = App::new(&[]).with_buildpacks(&[address]).build();
        assert_eq!(built.result.outcome, BuildOutcome::BuildpackUnavailable, "{}", built.text);
        assert!(built.text.contains(expected), "no {expected:?} in\n{}", built.text);
    };
    check(&folder.path().display().to_string(), " has no bin/compile and is no git repository.\n");
    check("file:///no/such/folder", " !     There is no /no/such/folder in the build dyno.");
    std::fs::create_dir(folder.path().join("bin")).expect("mkdir");
    std::fs::write(folder.path().join("bin/compile"), "#!/bin/sh\n").expect("write");
    check(
        &folder.path().display().to_string(),
        " !     What is there is no buildpack: it has no bin/detect.\n",
    );
}

#[test]
fn a_daemon_left_behind_does_not_hold_up_the_build() {
    let compile = "#!/bin/sh\nsleep 300 &\necho started\n";
    let buildpack = App::new(&[("bin/compile", compile), ("bin/detect", "#!/bin/sh\necho Daemon\n")]);
    let mut app = App::new(&[("Procfile", "web: x")]);
    app.buildpacks = vec![buildpack.source().display().to_string()];
    let start = std::time::Instant::now();
    let built = app.build().succeeded();
    assert!(start.elapsed().as_secs() < 120, "waited for the daemon");
    assert!(built.text.contains("started\n"), "{}", built.text);
}
