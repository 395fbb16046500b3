//! Go apps, built for real and then run.

mod common;

use common::{App, Built, shared_cache};
use ferroku_core::protocol::build::BuildOutcome;
use std::fs;
use std::process::Command;

/// Prints with the runtime only: compiling net/http takes half a minute of two processors.
const MAIN: &str = "package main\n\nfunc main() { println(\"hello\", version) }\n\nvar version = \"none\"\n";

fn app(go_mod: &str) -> App {
    App::new(&[("go.mod", go_mod), ("main.go", MAIN)])
}

fn run(app: &App, program: &str) -> String {
    let output = Command::new(app.build_dir().join(program)).env_clear().output().expect("start");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Without versions, and without the names of packages of Go's own library.
fn masked(built: &Built) -> String {
    let lines = built
        .text
        .lines()
        .filter(|line| !line.starts_with("       internal/") && !line.starts_with("       runtime"));
    let lines = lines.filter(|line| !line.contains("This stack has no Go") && *line != "       unsafe");
    lines
        .map(|line| if line.starts_with("-----> Using go") { "-----> Using GO" } else { line })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn programs_are_installed_and_a_procfile_is_made() {
    let (_guard, cache) = shared_cache("go-cache");
    let mut app = app("module example.com/hello\n\ngo 1.21\n");
    app.write("cmd/tick/main.go", "package main\n\nfunc main() { println(\"tick\") }\n");
    app.write("lib/lib.go", "package lib\n");
    app.cache_dir = cache;
    app.set_config_var("GO_LINKER_SYMBOL", "main.version");
    app.set_config_var("GO_LINKER_VALUE", "58d1fdd");
    app.set_config_var("NAME", "Ann");
    app.write("bin/go-post-compile", "echo \"post $NAME $(hello 2>&1 || true)\"\n");
    let built = app.build().succeeded();
    assert_eq!(
        masked(&built).lines().filter(|line| !line.starts_with("       example.com/")).collect::<Vec<_>>().join("\n"),
        "-----> Building on the Heroku-24 stack
-----> Determining which buildpack to use for this app
-----> Go app detected
-----> Using GO
-----> Determining packages to install
       Detected the following main packages to install:
       \t\texample.com/hello
       \t\texample.com/hello/cmd/tick
-----> Running: go install -v -trimpath -tags heroku -ldflags -X main.version=58d1fdd example.com/hello example.com/hello/cmd/tick
-----> Installed the following binaries:
       \t\t./bin/hello
       \t\t./bin/tick
-----> Created a Procfile with the following entries:
       \t\tweb: bin/hello
       \t\ttick: bin/tick
-----> Running bin/go-post-compile hook
       post Ann hello 58d1fdd
-----> Discovering process types
       Procfile declares types -> tick, web"
    );
    assert_eq!(
        (run(&app, "bin/hello"), run(&app, "bin/tick")),
        ("hello 58d1fdd\n".to_owned(), "tick\n".to_owned())
    );
    app.write("lib/lib.go", "package lib // changed\n");
    let again = app.build().succeeded();
    assert!(
        !again.text.contains("       internal/"),
        "what has not changed is not compiled again:\n{}",
        again.text
    );
}

#[test]
fn a_vendor_folder_is_used_without_asking_a_proxy() {
    let (_guard, cache) = shared_cache("go-cache");
    let mut app =
        app("module hello\n\ngo 1.21\n\nrequire example.com/dep v1.0.0\n\n// +heroku install ./cmd/only\n");
    app.write(
        "cmd/only/main.go",
        "package main\n\nimport \"example.com/dep\"\n\nfunc main() { println(dep.Name) }\n",
    );
    app.write("vendor/modules.txt", "# example.com/dep v1.0.0\n## explicit; go 1.21\nexample.com/dep\n");
    app.write("vendor/example.com/dep/dep.go", "package dep\n\nconst Name = \"vendored\"\n");
    app.write("Procfile", "web: only\n");
    app.cache_dir = cache;
    app.set_config_var("GOPROXY", "off");
    let built = app.build().succeeded();
    assert!(
        !built.text.contains("Determining packages") && !built.text.contains("Created a Procfile"),
        "{}",
        built.text
    );
    assert_eq!(run(&app, "bin/only"), "vendored\n");
    assert!(!app.build_dir().join("bin/hello").exists());

    app.write("vendor/modules.txt", "");
    let failed = app.build();
    assert_eq!(failed.result.outcome, BuildOutcome::CompileFailed);
    assert!(
        failed.text.contains(" !     Write the vendor folder anew with 'go mod vendor'"),
        "{}",
        failed.text
    );
}

#[test]
fn another_version_than_the_stacks_is_fetched_by_the_go_command() {
    let (_guard, cache) = shared_cache("go-cache");
    let mut app = app("module hello\n\ngo 1.21\n\n// +heroku goVersion go1.23\n");
    app.cache_dir = cache;
    let built = app.build().succeeded();
    let expected = "-----> Using go1.23.";
    assert!(
        built.text.contains(expected) && built.text.contains(" for go1.23 of the goVersion comment"),
        "{}",
        built.text
    );
    let version = fs::read(app.build_dir().join("bin/hello")).expect("built");
    assert!(version.windows(7).any(|part| part == b"go1.23."), "the program says what it was built with");
}

#[test]
fn what_cannot_be_built_is_explained() {
    let (_guard, cache) = shared_cache("go-cache");
    let check = |mut app: App, expected: &[&str]| {
        app.cache_dir.clone_from(&cache);
        let failed = app.build();
        assert_eq!(failed.result.outcome, BuildOutcome::CompileFailed, "{}", failed.text);
        for expected in expected {
            assert!(failed.text.contains(expected), "no {expected:?} in\n{}", failed.text);
        }
        assert!(
            failed.text.ends_with("\n !     Push rejected, failed to compile Go app.\n\n"),
            "{}",
            failed.text
        );
    };
    check(app("module hello\n\ngo one\n"), &[" !     Error: go in go.mod is no version of Go: 'one'.\n"]);
    check(
        app("module hello\n\n// +heroku goVersion go1.99\n"),
        &[
            " !     Error: go1.99, which the goVersion comment in go.mod asks for, is not available.\n",
            " !     Available here: go1.",
        ],
    );
    check(
        App::new(&[("go.mod", "module hello\n\ngo 1.21\n"), ("lib.go", "package lib\n")]),
        &[" !     Error: The app has no package to install.\n"],
    );
    let broken = app("module hello\n\ngo 1.21\n");
    broken.write("main.go", "package main\n\nfunc main() { missing() }\n");
    check(
        broken,
        &[
            "       ./main.go:3:15: undefined: missing\n",
            " !     Error: go install failed (exit status 1).\n",
        ],
    );
    let unknown = app("module hello\n\ngo 1.21\n");
    unknown.write("more.go", "package main\n\nimport _ \"example.com/nowhere\"\n");
    check(unknown, &[" !     Add the module with 'go mod tidy'"]);
    let file = app("module hello\n\ngo 1.21\n");
    file.write("bin", "");
    check(file, &[" !     Error: The app has a file named bin.\n"]);
}
