//! What a user reads when something is wrong: whole texts, as they follow `remote: `.

mod common;

use common::App;
use ferroku_core::protocol::build::BuildOutcome;

#[test]
fn no_language_is_detected() {
    App::new(&[("index.html", "x")]).build().failed(
        BuildOutcome::NoLanguageDetected,
        "-----> Determining which buildpack to use for this app
 !     No default language could be detected for this app.
\t\t\tHINT: This occurs when Ferroku cannot detect the buildpack to use for this application automatically.
\t\t\tAdd the file that its language is known by (requirements.txt, package.json ...), or a Procfile for an app that needs no build,
\t\t\tor set a buildpack: heroku buildpacks:set https://github.com/OWNER/REPOSITORY.git

",
    );
}

#[test]
fn a_language_without_a_built_in_buildpack_is_named_even_with_a_procfile() {
    let built = App::new(&[("mix.exs", ""), ("Procfile", "web: mix run")]).build();
    assert_eq!(built.result.outcome, BuildOutcome::NoLanguageDetected);
    assert!(
        built.text.contains("\t\t\tmix.exs looks like Elixir, which has no built-in buildpack here."),
        "{}",
        built.text
    );
}

#[test]
fn python_2_says_what_is_available_and_what_to_write() {
    let stack = stack_python();
    let series = stack.rsplit_once('.').expect("three parts").0;
    App::new(&[("requirements.txt", ""), ("runtime.txt", "python-2.7.11\n")]).build().failed(
        BuildOutcome::CompileFailed,
        &format!(
            "-----> Determining which buildpack to use for this app
-----> Python app detected
 !     Error: Python 2 cannot be used: runtime.txt asks for 'python-2.7.11'.
 !
 !     Python 2 reached its end of life on 1 January 2020 and no stack has it.
 !
 !     Available here: Python {stack} (this stack's own).
 !
 !     Write 'python-{series}' into runtime.txt (or delete it, and write the
 !     version alone into a file named .python-version), make sure that the
 !     code runs on Python 3, commit and push again.

 !     Push rejected, failed to compile Python app.

"
        ),
    );
}

#[test]
fn a_python_that_cannot_be_downloaded_is_answered_with_what_there_is() {
    let mut app = App::new(&[("requirements.txt", ""), (".python-version", "3.9.1\n")]);
    app.variables.push(("UV_PYTHON_INSTALL_MIRROR".to_owned(), "http://127.0.0.1:1".to_owned()));
    app.variables.push(("UV_HTTP_RETRIES".to_owned(), "0".to_owned()));
    let built = app.build();
    assert_eq!(built.result.outcome, BuildOutcome::CompileFailed, "{}", built.text);
    for expected in [
        "-----> Using Python 3.9.1 specified in .python-version\n",
        "-----> Downloading Python 3.9.1\n",
        " !     Error: Python 3.9.1, which .python-version asks for, is not available.\n",
        "The stack does not have it, and it cannot be downloaded:\n",
        &format!(" !     Available here: Python {} (this stack's own).\n", stack_python()),
        "' into .python-version, commit and push again.\n\n !     Push rejected, failed to compile Python app.\n\n",
    ] {
        assert!(built.text.contains(expected), "no {expected:?} in\n{}", built.text);
    }
}

#[test]
fn a_python_that_nobody_has_is_not_even_tried() {
    let built = App::new(&[("requirements.txt", ""), (".python-version", "3.4\n")]).build();
    assert!(built.text.contains(" !     No Python older than 3.8 can be had any more.\n"), "{}", built.text);
    assert!(!built.text.contains("Installing uv"), "{}", built.text);
}

#[test]
fn requirements_that_cannot_be_resolved() {
    let built = App::new(&[("requirements.txt", "django==5.2.1\ndjango==5.2.2\n")]).build();
    assert_eq!((built.result.outcome, built.status), (BuildOutcome::CompileFailed, Some(1)));
    for expected in [
        "No solution found when resolving dependencies",
        "\n !     Error: Unable to install dependencies using uv.\n",
        "\n !     Correct requirements.txt, commit and push again.\n\n !     Push rejected, failed to compile Python app.\n\n",
    ] {
        assert!(built.text.contains(expected), "no {expected:?} in\n{}", built.text);
    }
    assert_eq!(built.result.error.as_deref(), Some("Error: Unable to install dependencies using uv."));
}

#[test]
fn python_apps_without_a_usable_package_file() {
    let check = |files: &[(&str, &str)], expected: &str| {
        let built = App::new(files).build();
        assert_eq!(built.result.outcome, BuildOutcome::CompileFailed, "{}", built.text);
        assert!(built.text.contains(expected), "no {expected:?} in\n{}", built.text);
    };
    check(&[("app.py", "")], " !     Error: Couldn't find any supported Python package manager files.\n");
    check(
        &[("Pipfile", "")],
        " !     Error: Dependencies are read from 'requirements.txt' only, and this app has a 'Pipfile' instead.",
    );
    check(&[("uv.lock", "")], " !         uv export --no-dev --no-emit-project -o requirements.txt\n");
    check(
        &[("poetry.lock", ""), ("requirements.txt", "")],
        " !     Error: Multiple Python package manager files were found.\n",
    );
}

#[test]
fn a_malformed_procfile_line_is_named_before_anything_is_built() {
    App::new(&[("requirements.txt", "django"), ("Procfile", "# types\nweb: x\nworker python worker.py\n")])
        .build()
        .failed(
            BuildOutcome::ProcfileInvalid,
            " !     Procfile line 3 is not a process type: it reads \"worker python worker.py\". Write \"<type>: <command>\", such as \"web: gunicorn app:app\".

",
        );
}

#[test]
fn a_procfile_that_leads_out_of_the_app_is_not_read() {
    let mut app = App::new(&[("requirements.txt", "")]);
    std::os::unix::fs::symlink("/etc/passwd", app.source().join("Procfile")).expect("link");
    let built = app.build();
    assert_eq!(built.result.outcome, BuildOutcome::SourceInvalid, "{}", built.text);
    assert!(!built.text.contains("root"), "{}", built.text);
}

#[test]
fn an_unknown_buildpack() {
    App::new(&[]).with_buildpacks(&["heroku/cobol"]).build().failed(
        BuildOutcome::BuildpackUnavailable,
        "-----> Using buildpack: heroku/cobol
 !     Error: There is no buildpack named 'heroku/cobol' on this node.
 !
 !     Built in: heroku/nodejs, heroku/python, heroku/go, heroku/static, heroku/procfile.
 !     Any other buildpack is set by its address, such as
 !
 !         heroku buildpacks:set https://github.com/OWNER/REPOSITORY.git

",
    );
}

#[test]
fn a_set_buildpack_that_does_not_fit_says_why() {
    App::new(&[("index.html", "")]).with_buildpacks(&["heroku/python"]).build().failed(
        BuildOutcome::DetectFailed,
        "-----> Using buildpack: heroku/python
-----> App not compatible with buildpack: heroku/python
       Error: Your app is configured to use the Python buildpack,
       but we couldn't find any supported Python project files.
       
       A Python app must have a 'requirements.txt' file in the
       root directory of its source code. If the app has no
       dependencies, create an empty one.

",
    );
}

#[test]
fn a_full_disk_is_called_a_full_disk() {
    let mut app = App::new(&[("Procfile", "web: x"), ("big", &"x".repeat(4 * 1024 * 1024))]);
    let build_dir = app.next_build_dir();
    // The mount lives and dies with the wrapper's own mount namespace.
    let script = format!("mount -t tmpfs -o size=1m none {} && exec \"$@\"", build_dir.display());
    app.wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    let built = app.build();
    assert_eq!((built.result.outcome, built.status), (BuildOutcome::DiskFull, Some(15)), "{}", built.text);
    assert!(built.text.contains(" !     The disk is full: cannot unpack the source into "), "{}", built.text);
}

#[test]
fn a_buildpack_that_fills_the_disk_is_found_out() {
    let script = "#!/bin/sh\nhead -c 3000000 /dev/zero > \"$1/big\" 2>/dev/null || exit 3\n";
    let bp = App::new(&[("bin/compile", script), ("bin/detect", "#!/bin/sh\necho Filler\n")]);
    let mut app = App::new(&[("Procfile", "web: x")]);
    app.buildpacks = vec![bp.source().display().to_string()];
    let build_dir = app.next_build_dir();
    let script = format!("mount -t tmpfs -o size=1m none {} && exec \"$@\"", build_dir.display());
    app.wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    let built = app.build();
    assert_eq!(built.result.outcome, BuildOutcome::DiskFull, "{}", built.text);
    assert!(built.text.contains(" !     The disk is full: no room is left at "), "{}", built.text);
}

fn stack_python() -> String {
    let output = std::process::Command::new("python3")
        .args(["-c", "import platform; print(platform.python_version())"])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .output()
        .expect("python3");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}
