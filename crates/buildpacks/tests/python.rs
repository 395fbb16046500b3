//! Python apps, built for real from the package index and then run.

mod common;

use common::{App, Built, Web, shared_cache};
use ferroku_buildpacks::spare;
use ferroku_core::protocol::build::BuildOutcome;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn masked(built: &Built, app: &App) -> String {
    let text = built.text.replace(&app.build_dir().display().to_string(), "BUILD_DIR");
    let number = |word: &str| word.chars().next().is_some_and(|first| first.is_ascii_digit());
    text.lines()
        // uv's progress: counts and times of this moment.
        .filter(|line| {
            ![
                "Resolved ",
                "Prepared ",
                "Installed ",
                "Downloading ",
                "Downloaded ",
                "Bytecode ",
                "Using Python ",
            ]
            .iter()
            .any(|start| line.trim_start().starts_with(start))
        })
        .map(|line| match line.contains("static files copied") {
            true => line
                .split(' ')
                .map(|word| if number(word) { "N" } else { word })
                .collect::<Vec<_>>()
                .join(" "),
            false => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_django_example_builds_runs_and_builds_again_from_its_spare_tree() {
    let mut app = App::example("django");
    let first = app.build().succeeded();
    let packages: Vec<&str> = first.text.lines().filter(|line| line.starts_with("        + ")).collect();
    assert_eq!(packages.len(), 5, "{}", first.text);
    let text = masked(&first, &app);
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("        + ")).collect();
    assert_eq!(
        text.join("\n"),
        "-----> Building on the Heroku-24 stack
-----> Determining which buildpack to use for this app
-----> Python app detected
-----> Using Python 3.11 specified in .python-version
-----> Installing uv 0.13.9
-----> Installing dependencies using 'uv pip install -r requirements.txt'
-----> $ python manage.py collectstatic --noinput

       N static files copied to 'BUILD_DIR/staticfiles', N post-processed.
-----> Discovering process types
       Procfile declares types -> web, worker"
    );
    assert_eq!((first.result.description.as_deref(), first.result.detected), (Some("Python"), true));

    // The build folder becomes the slug, under another path.
    let slug = app.folder.path().join("slug");
    fs::rename(app.build_dir(), &slug).expect("rename");
    let web = Web::start(&slug, &first.result.process_types["web"]);
    let page = web.get("/");
    assert!(
        page.starts_with("HTTP/1.1 200 OK\r\n")
            && page.contains("<h1>Ahoy</h1>")
            && page.contains("<dd>v3</dd>"),
        "{page}"
    );
    let css = page.split("href=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a stylesheet");
    assert!(
        css.starts_with("/static/site.") && css != "/static/site.css",
        "{css} should have a digest in its name"
    );
    assert!(web.get(css).starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(web.stop().contains("INFO mysite.views: visit 1 from 127.0.0.1\n"));

    // What the node does between two pushes.
    assert!(spare::keep(&slug, &app.spare_dir()).expect("keep"));
    assert!(spare::place(&app.spare_dir(), &app.next_build_dir()).expect("place"));
    app.write(
        "mysite/views.py",
        &fs::read_to_string(app.source().join("mysite/views.py")).expect("read").replace("Hello", "Hi"),
    );
    let second = app.build().succeeded();
    assert_eq!(
        masked(&second, &app),
        "-----> Building on the Heroku-24 stack
-----> Determining which buildpack to use for this app
-----> Python app detected
-----> Using Python 3.11 specified in .python-version
-----> Restoring cache
-----> Installing dependencies using 'uv pip install -r requirements.txt'
       requirements.txt has not changed: all packages are taken from the last build.
-----> $ python manage.py collectstatic --noinput

       N static files copied to 'BUILD_DIR/staticfiles', N post-processed.
-----> Discovering process types
       Procfile declares types -> web, worker"
    );
    assert!(!app.build_dir().join(spare::PLACED).join(spare::PYTHON).exists());
    // A rename, whatever the number of files; a copy of them takes a second and more.
    assert!(second.result.timings_ms["python.dependencies"] < 200, "{:?}", second.result.timings_ms);
    assert!(
        Web::start(&app.build_dir(), &second.result.process_types["web"]).get("/").contains("<h1>Ahoy</h1>")
    );
}

#[test]
fn changed_requirements_discard_the_spare_tree() {
    let (_guard, cache) = shared_cache("python-cache");
    let mut app = App::new(&[("requirements.txt", "sqlparse==0.5.3\n"), ("Procfile", "web: x\n")]);
    app.cache_dir = cache;
    app.build().succeeded();
    assert!(spare::keep(&app.build_dir(), &app.spare_dir()).expect("keep"));
    assert!(spare::place(&app.spare_dir(), &app.next_build_dir()).expect("place"));
    app.write("requirements.txt", "asgiref==3.8.1\n");
    let built = app.build().succeeded();
    let expected = "-----> Discarding cache since:\n       - The contents of requirements.txt changed\n";
    assert!(built.text.contains(expected) && built.text.contains(" + asgiref==3.8.1\n"), "{}", built.text);
    let packages = app.build_dir().join(".heroku/python/lib");
    let names: Vec<_> = walk(&packages);
    assert!(names.iter().any(|name| name == "asgiref") && !names.iter().any(|name| name == "sqlparse"));
    spare::take_back(&app.spare_dir(), &app.build_dir()).expect("take back");
    assert!(!app.build_dir().join(spare::PLACED).exists());
}

#[test]
fn hooks_run_with_config_vars_and_what_they_change_is_not_used_again() {
    let (_guard, cache) = shared_cache("python-cache");
    let mut app = App::new(&[
        ("requirements.txt", ""),
        ("bin/pre_compile", "#!/bin/sh\necho \"pre $NAME\"\n"),
        ("bin/post_compile", "#!/bin/bash\necho \"post $(python -c 'import sys; print(sys.prefix)')\" >&2\n"),
    ]);
    app.cache_dir = cache;
    app.set_config_var("NAME", "Ann");
    app.set_config_var("PATH", "/nowhere");
    let built = app.build().succeeded();
    let expected = format!(
        "-----> Running bin/post_compile hook\n       post {}/.heroku/python\n-----> Discovering process types\n       Procfile declares types -> (none)\n",
        app.build_dir().display()
    );
    assert!(built.text.contains("-----> Running bin/pre_compile hook\n       pre Ann\n"), "{}", built.text);
    assert!(built.text.ends_with(&expected), "{}", built.text);
    assert!(!spare::keep(&app.build_dir(), &app.spare_dir()).expect("keep"));
    app.write("bin/post_compile", "#!/bin/sh\nexit 5\n");
    let failed = app.build();
    assert_eq!(failed.result.outcome, BuildOutcome::CompileFailed);
    assert!(
        failed.text.contains(" !     Error: The hook bin/post_compile failed (exit status 5).\n"),
        "{}",
        failed.text
    );
}

#[test]
fn collectstatic_that_fails_rejects_the_push_unless_it_is_switched_off() {
    let (_guard, cache) = shared_cache("python-cache");
    let mut app = App::example("django");
    app.cache_dir = cache;
    app.write("mysite/settings.py", "raise RuntimeError('no such setting')\n");
    let failed = app.build();
    assert_eq!(failed.result.outcome, BuildOutcome::CompileFailed);
    for expected in [
        "       RuntimeError: no such setting\n",
        "\n !     Error: Unable to generate Django static files.\n",
        "\n !        $ heroku config:set DISABLE_COLLECTSTATIC=1\n\n !     Push rejected, failed to compile Python app.\n\n",
    ] {
        assert!(failed.text.contains(expected), "no {expected:?} in\n{}", failed.text);
    }
    app.set_config_var("DISABLE_COLLECTSTATIC", "1");
    let built = app.build().succeeded();
    let expected = "-----> Skipping Django collectstatic since the env var DISABLE_COLLECTSTATIC is set.\n";
    assert!(built.text.contains(expected), "{}", built.text);
}

#[test]
fn an_editable_package_of_the_source_runs_from_the_slug() {
    let (_guard, cache) = shared_cache("python-cache");
    let mut app = App::new(&[
        ("requirements.txt", "-e ./lib\n"),
        (
            "lib/pyproject.toml",
            "[project]\nname = \"own\"\nversion = \"1\"\n[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n",
        ),
        ("lib/own/__init__.py", ""),
    ]);
    app.cache_dir = cache;
    app.build().succeeded();
    let site_packages = app.build_dir().join(".heroku/python/lib");
    let texts: String = walk_paths(&site_packages)
        .into_iter()
        .filter(|path| {
            path.extension().is_some_and(|end| end == "pth")
                || path.to_string_lossy().contains("__editable__")
        })
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    assert!(texts.contains("/app/lib") && !texts.contains("build_0"), "{texts}");
}

#[test]
fn the_procfile_only_example_is_taken_as_it_is() {
    let mut app = App::example("procfile-only");
    app.write(".slugignore", "*.md\n");
    let built = app.build().succeeded();
    assert_eq!(
        built.text,
        "-----> Building on the Heroku-24 stack
-----> Deleting 1 files matching .slugignore patterns.
-----> Determining which buildpack to use for this app
-----> Procfile app detected
       The app's files are taken as they are; nothing is installed.
-----> Discovering process types
       Procfile declares types -> clock, web
"
    );
    assert!(!built.result.detected, "a language that is added later should be found");
    assert!(!app.build_dir().join("README.md").exists());
    let web = Web::start(&app.build_dir(), &built.result.process_types["web"]);
    assert!(web.get("/").contains("<h1>No build needed</h1>"));
}

#[test]
fn the_profile_counts_processes_by_memory() {
    let check = |memory: &str, set: &str, expected: &str| {
        let script = "f=profile; . \"$1\"; echo \"${WEB_CONCURRENCY:-none} ${GUNICORN_CMD_ARGS}\"";
        let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/src/python/profile.sh");
        let mut bash = Command::new("bash");
        bash.args(["-euc", script, "bash", profile])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", "/app");
        bash.env("FERROKU_MEMORY_BYTES", memory).envs((!set.is_empty()).then_some(("WEB_CONCURRENCY", set)));
        let output = bash.output().expect("bash");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{memory} {set}");
    };
    check("536870912", "", "2 --access-logfile -");
    check("134217728", "", "1 --access-logfile -");
    check("536870912", "7", "7 --access-logfile -");
    check("max", "", "none --access-logfile -");
    check("9223372036854771712", "", "none --access-logfile -");
}

fn walk(root: &Path) -> Vec<String> {
    walk_paths(root)
        .into_iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect()
}

fn walk_paths(root: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(root).into_iter().flatten().map(|entry| entry.into_path()).collect()
}
