//! Node.js apps, built for real from the npm registry and then run.

mod common;

use common::{App, Built, Web, shared_cache};
use ferroku_buildpacks::spare;
use ferroku_core::protocol::build::BuildOutcome;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The text without what is of this moment and this machine: versions, and npm's own report.
fn masked(built: &Built) -> String {
    let is_version =
        |word: &str| word.split('.').count() == 3 && word.starts_with(|first: char| first.is_ascii_digit());
    built
        .text
        .lines()
        .filter(|line| {
            !["npm warn", "added ", "removed ", "up to date", "⚡"]
                .iter()
                .any(|start| line.trim_start().starts_with(start))
        })
        .map(|line| {
            line.split(' ')
                .map(|word| if is_version(word) { "N" } else { word })
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|line| {
            !line.trim().is_empty() && !line.contains("public/main.js") && !line.starts_with("       > ")
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// What the node does between two pushes.
fn between_pushes(app: &App) -> bool {
    spare::take_back(&app.spare_dir(), &app.build_dir()).expect("take back");
    let kept = spare::keep(&app.build_dir(), &app.spare_dir()).expect("keep");
    spare::place(&app.spare_dir(), &app.next_build_dir()).expect("place");
    kept
}

fn program(app: &App, line: &str) -> String {
    let script = format!("for f in \"$HOME\"/.profile.d/*.sh; do . \"$f\"; done; {line}");
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(app.build_dir()).env_clear().env("HOME", app.build_dir());
    let output = bash.env("PATH", "/usr/local/bin:/usr/bin:/bin").output().expect("bash");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

const RESTORED: &str = "all packages are taken from the last build.";

#[test]
fn the_node_example_builds_runs_and_builds_again_without_installing() {
    let (_guard, cache) = shared_cache("node-cache");
    let mut app = App::example("node");
    app.cache_dir = cache;
    app.set_config_var("NODE_MODULES_REUSE", "true");
    let first = app.build().succeeded();
    assert_eq!(
        masked(&first),
        "-----> Building on the Heroku-24 stack
-----> Determining which buildpack to use for this app
-----> Node.js app detected
-----> Creating runtime environment
       NPM_CONFIG_LOGLEVEL=error
       NODE_VERBOSE=false
       NODE_ENV=production
       NODE_MODULES_CACHE=true
-----> Installing binaries
       engines.node (package.json):   >=18
       engines.npm (package.json):    unspecified (use default)
       Using this stack's node N
       Using default npm version: N
-----> Installing dependencies
       Installing node modules
-----> Build
       Running build
-----> Pruning devDependencies
-----> Build succeeded!
-----> Discovering process types
       Procfile declares types     -> (none)
       Default types for buildpack -> web"
    );
    assert_eq!((first.result.description.as_deref(), first.result.detected), (Some("Node.js"), true));
    let modules = |name: &str| app_file(&app, &format!("node_modules/{name}"));
    assert!(modules("express") && !modules("esbuild"), "only what the app needs at run time");

    let slug = app.folder.path().join("slug");
    fs::rename(app.build_dir(), &slug).expect("rename");
    let web = Web::start(&slug, &first.result.process_types["web"]);
    let answer = web.get("/visits");
    for expected in [
        "HTTP/1.1 200 OK",
        "\"greeting\":\"Ahoy\"",
        "\"environment\":\"production\"",
        "\"concurrency\":\"1\"",
    ] {
        assert!(answer.contains(expected), "{answer}");
    }
    assert!(web.get("/main.js").contains("visits"), "the build step's bundle is served");
    drop(web);
    fs::rename(&slug, app.build_dir()).expect("back");

    for _ in 0..2 {
        assert!(between_pushes(&app));
        app.write("client/main.ts", "document.title = 'changed';\n");
        let next = app.build().succeeded();
        let text = masked(&next);
        for expected in [
            "\n-----> Restoring cache\n       - node_modules\n",
            RESTORED,
            "\n-----> Pruning devDependencies\n       Taken out as by the last build.\n",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
        let bundle = fs::read_to_string(app.build_dir().join("public/main.js")).expect("built");
        assert!(bundle.contains("changed"), "{bundle}");
        assert!(app_file(&app, "node_modules/express") && !app_file(&app, "node_modules/esbuild"));
    }
    assert!(Web::start(&app.build_dir(), "npm start").get("/visits").contains("\"visits\":1"));
}

fn app_file(app: &App, name: &str) -> bool {
    app.build_dir().join(name).exists()
}

const YARN_LOCK: &str = r#"# yarn lockfile v1


ms@2.1.3:
  version "2.1.3"
  resolved "https://registry.yarnpkg.com/ms/-/ms-2.1.3.tgz#574c8138ce1d2b5861f0b44579dbadd60c6615b2"
  integrity sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA==

picocolors@1.1.1:
  version "1.1.1"
  resolved "https://registry.yarnpkg.com/picocolors/-/picocolors-1.1.1.tgz#3d321af3eab939b083c8f929a1d12cda81c26b6b"
  integrity sha512-xceH2snhtb5M9liqDsmEw56le376mTZkEX/jEb/RxNFyegNul7eNslCXP9FDj/Lcu0X8KEyMceP2ntpaHrDEVA==
"#;

const BERRY_LOCK: &str = r#"# This file is generated by running "yarn install" inside your project.
# Manual changes might be lost - proceed with caution!

__metadata:
  version: 8
  cacheKey: 10c0

"demo@workspace:.":
  version: 0.0.0-use.local
  resolution: "demo@workspace:."
  dependencies:
    ms: "npm:2.1.3"
    picocolors: "npm:1.1.1"
  languageName: unknown
  linkType: soft

"ms@npm:2.1.3":
  version: 2.1.3
  resolution: "ms@npm:2.1.3"
  checksum: 10c0/d924b57e7312b3b63ad21fc5b3dc0af5e78d61a1fc7cfb5457edaf26326bf62be5307cc87ffb6862ef1c2b33b0233cdb5d4f01c4c958cc0d660948b65a287a48
  languageName: node
  linkType: hard

"picocolors@npm:1.1.1":
  version: 1.1.1
  resolution: "picocolors@npm:1.1.1"
  checksum: 10c0/e2e3e8170ab9d7c7421969adaa7e1b31434f789afb9b3f115f6b96d91945041ac3ceb02e9ec6fe6510ff036bcc0bf91e69a1772edc0b707e12b19c0f2d6bcf58
  languageName: node
  linkType: hard
"#;

const PNPM_LOCK: &str = r"lockfileVersion: '9.0'

settings:
  autoInstallPeers: true
  excludeLinksFromLockfile: false

importers:

  .:
    dependencies:
      ms:
        specifier: 2.1.3
        version: 2.1.3
    devDependencies:
      picocolors:
        specifier: 1.1.1
        version: 1.1.1

packages:

  ms@2.1.3:
    resolution: {integrity: sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA==}

  picocolors@1.1.1:
    resolution: {integrity: sha512-xceH2snhtb5M9liqDsmEw56le376mTZkEX/jEb/RxNFyegNul7eNslCXP9FDj/Lcu0X8KEyMceP2ntpaHrDEVA==}

snapshots:

  ms@2.1.3: {}

  picocolors@1.1.1: {}
";

/// One dependency, one devDependency that the build script needs.
fn small_app(more: &str, lock_file: &str, lock: &str) -> App {
    let manifest = format!(
        r#"{{"name": "demo", "version": "1.0.0", {more}
            "scripts": {{"start": "node index.js", "build": "node -p \"'built ' + (require('picocolors') ? 1 : 0)\""}},
            "dependencies": {{"ms": "2.1.3"}}, "devDependencies": {{"picocolors": "1.1.1"}}}}"#
    );
    let app = App::new(&[
        ("package.json", manifest.as_str()),
        ("index.js", "console.log(require('ms')(60000));\n"),
    ]);
    app.write(lock_file, lock);
    app
}

#[test]
fn yarn_old_and_new_and_pnpm_install_what_their_lock_files_say() {
    let (_guard, cache) = shared_cache("node-cache");
    let check = |mut app: App, expected: &str, start: &str, restores: bool| {
        app.cache_dir.clone_from(&cache);
        app.set_config_var("NODE_MODULES_REUSE", "true");
        let built = app.build().succeeded();
        assert!(built.text.contains(expected) && built.text.contains("       built 1\n"), "{}", built.text);
        let modules = app.build_dir().join("node_modules");
        assert!(modules.join("ms").exists() && !modules.join("picocolors").exists(), "{}", built.text);
        assert!(program(&app, start).ends_with("1m"), "{}", program(&app, start));
        assert_eq!(between_pushes(&app), restores);
        let again = app.build().succeeded();
        assert_eq!(again.text.contains(RESTORED), restores, "{}", again.text);
        let modules = app.build_dir().join("node_modules");
        assert!(modules.join("ms").exists() && !modules.join("picocolors").exists(), "{}", again.text);
    };
    let yarn = small_app(r#""engines": {"yarn": "1.22.22"},"#, "yarn.lock", YARN_LOCK);
    check(yarn, "       Using yarn 1.22.22\n", "yarn -s start", true);
    let berry = small_app(r#""packageManager": "yarn@4.9.1","#, "yarn.lock", BERRY_LOCK);
    berry.write(".yarnrc.yml", "nodeLinker: node-modules\n");
    check(berry, "       Using yarn 4.9.1\n", "yarn start", false);
    let pnpm = small_app(r#""packageManager": "pnpm@10.18.0","#, "pnpm-lock.yaml", PNPM_LOCK);
    check(pnpm, "       Using pnpm 10.18.0\n", "pnpm -s start", true);
}

#[test]
fn another_node_and_npm_than_the_stacks_are_fetched_and_run_from_the_slug() {
    let (_guard, cache) = shared_cache("node-cache");
    let mut app = small_app(r#""engines": {"node": "22.12.0", "npm": "10.9.1"},"#, "yarn.lock", "");
    fs::remove_file(app.source().join("yarn.lock")).expect("there");
    app.cache_dir = cache;
    let built = app.build().succeeded();
    for expected in [
        "       Resolving node version 22.12.0...\n       Downloading and installing node 22.12.0...\n",
        "       Bootstrapping npm 10.9.1 (10.9.1)...\n",
        "       Installing node modules (package.json)\n",
    ] {
        assert!(built.text.contains(expected), "no {expected:?} in\n{}", built.text);
    }
    assert_eq!(
        program(&app, "node --version; npm --version; echo $NODE_HOME | sed \"s|$HOME|~|\""),
        "v22.12.0\n10.9.1\n~/.heroku/node"
    );
}

#[test]
fn a_stack_without_node_gets_one_from_pythons_index() {
    // Nothing of an earlier run of this test may be in its cache.
    let mut app = small_app("", "pnpm-lock.yaml", PNPM_LOCK);
    // Everything of /usr/bin but Node.js.
    let bin = app.folder.path().join("bin");
    fs::create_dir(&bin).expect("mkdir");
    for entry in fs::read_dir("/usr/bin").expect("list").flatten() {
        if !["node", "nodejs", "npm", "npx", "corepack"].iter().any(|name| entry.file_name() == *name) {
            std::os::unix::fs::symlink(entry.path(), bin.join(entry.file_name())).expect("link");
        }
    }
    app.wrapper = vec!["/usr/bin/env".to_owned(), format!("PATH={}", bin.display())];
    let built = app.build().succeeded();
    assert!(built.text.contains("This stack has no npm: fetching"), "{}", built.text);
    assert!(built.text.contains("       Using this stack's node 22.20.0\n"), "{}", built.text);
    assert_eq!(program(&app, "node --version; npm start --silent"), "v22.20.0\n1m");
    assert!(
        !fs::symlink_metadata(app.build_dir().join(".heroku/node/bin/node")).expect("there").is_symlink()
    );
}

#[test]
fn scripts_run_in_herokus_order_and_packages_that_they_changed_are_installed_again() {
    let (_guard, cache) = shared_cache("node-cache");
    let scripts = r#"{"name": "demo", "version": "1.0.0", "cacheDirectories": ["kept"], "dependencies": {"ms": "2.1.3"},
        "scripts": {"heroku-prebuild": "echo 1-$NAME-$NODE_ENV", "build": "echo never", "heroku-postbuild": "sh build.sh",
                    "heroku-cleanup": "echo 3"}}"#;
    let lock = r#"{"name": "demo", "version": "1.0.0", "lockfileVersion": 3, "packages": {
        "": {"name": "demo", "version": "1.0.0", "dependencies": {"ms": "2.1.3"}},
        "node_modules/ms": {"version": "2.1.3", "integrity": "sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA=="}}}"#;
    let build = "echo 2; mkdir -p kept node_modules/.cache; echo x >>kept/x; wc -l <kept/x; touch node_modules/.cache/y\n";
    let mut app = App::new(&[("package.json", scripts), ("package-lock.json", lock), ("build.sh", build)]);
    app.cache_dir = cache;
    app.set_config_var("NAME", "Ann");
    app.set_config_var("NODE_MODULES_REUSE", "true");
    app.set_config_var("PATH", "/nowhere");
    let words = |built: &Built| {
        let lines = built.text.lines().map(str::trim).filter(|line| line.starts_with(['1', '2', '3']));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = app.build().succeeded();
    assert_eq!(words(&first)[..2], ["1-Ann-production", "2"]);
    assert_eq!(words(&first).last().map(String::as_str), Some("3"));
    assert!(
        first.text.contains("Detected both \"build\" and \"heroku-postbuild\" scripts"),
        "{}",
        first.text
    );
    assert!(
        first.text.contains(" !     This app may not specify any way to start a node process.\n"),
        "{}",
        first.text
    );
    assert!(between_pushes(&app));

    app.write("build.sh", &build.replace("echo 2", "echo changed >node_modules/ms/own.js; echo 2"));
    let second = app.build().succeeded();
    assert!(second.text.contains(RESTORED), "{}", second.text);
    assert!(!between_pushes(&app), "what the script wrote must not come back");
    let third = app.build().succeeded();
    assert!(!third.text.contains(RESTORED), "{}", third.text);
    let lines = words(&third)[2].parse::<u32>().expect("a number");
    assert!(
        lines > words(&first)[2].parse::<u32>().expect("a number"),
        "cacheDirectories come back:\n{}",
        third.text
    );

    app.set_config_var("NODE_MODULES_CACHE", "false");
    app.write("build.sh", build);
    let fourth = app.build().succeeded();
    assert_eq!(words(&fourth)[2], "1", "nothing comes back:\n{}", fourth.text);
    assert!(!between_pushes(&app));
}

#[test]
fn python_after_node_has_both_and_the_last_one_decides_about_process_types() {
    let (_guard, cache) = shared_cache("node-cache");
    let mut app = App::new(&[
        ("package.json", r#"{"scripts": {"start": "node x.js", "build": "echo first"}}"#),
        ("requirements.txt", ""),
        (
            "bin/post_compile",
            "#!/bin/sh\necho \"second $(node -p 2+2) $(python -c 'print(3+3)') ${NODE_HOME##*build_}\"\n",
        ),
    ])
    .with_buildpacks(&["heroku/nodejs", "heroku/python"]);
    app.cache_dir = cache;
    let built = app.build().succeeded();
    for expected in [
        "-----> Using buildpacks:\n       1. heroku/nodejs\n       2. heroku/python\n-----> Node.js app detected\n",
        "       first\n",
        "-----> Build succeeded!\n-----> Python app detected\n",
        "       second 4 6 00000001/.heroku/node\n",
        "       Procfile declares types -> (none)\n",
    ] {
        assert!(built.text.contains(expected), "no {expected:?} in\n{}", built.text);
    }
    assert_eq!(program(&app, "node -p 1+1; python -c 'print(2+2)'"), "2\n4");
}

#[test]
fn what_cannot_be_built_is_explained() {
    let (_guard, cache) = shared_cache("node-cache");
    let check = |mut app: App, expected: &[&str]| {
        app.cache_dir.clone_from(&cache);
        let failed = app.build();
        assert_eq!(failed.result.outcome, BuildOutcome::CompileFailed, "{}", failed.text);
        for expected in expected {
            assert!(failed.text.contains(expected), "no {expected:?} in\n{}", failed.text);
        }
        assert!(
            failed.text.ends_with("\n !     Push rejected, failed to compile Node.js app.\n\n"),
            "{}",
            failed.text
        );
    };
    check(
        App::new(&[("package.json", "{\"scripts\": {},}")]),
        &[" !     Error: Unable to parse package.json.\n !\n !     trailing comma at line 1 column 16\n"],
    );
    check(
        App::new(&[("package.json", "{}"), ("package-lock.json", "{}"), ("yarn.lock", "")]),
        &[
            " !     Two different lockfiles found: package-lock.json and yarn.lock\n",
            " !     - To use npm to install your application's dependencies please delete\n !       the following lockfiles:\n !\n !         $ git rm yarn.lock\n",
        ],
    );
    check(
        App::new(&[("package.json", r#"{"engines": {"node": ">=99"}}"#)]),
        &[
            " !     Error: Node.js >=99, which engines.node in package.json asks for, is not available.\n",
            " !     The npm registry has no version in this range.\n !\n !     Available here: ",
            "(this stack's own), and the versions of the registry's package node-linux-",
        ],
    );
    check(
        App::new(&[("package.json", r#"{"scripts": {"build": "exit 3"}}"#)]),
        &[
            " !     Error: The script 'build' of package.json failed (exit status 3).\n",
            " !         npm run build\n",
        ],
    );
    let app = small_app("", "yarn.lock", "# yarn lockfile v1\n");
    check(app, &[" !     Error: yarn.lock is out of date.\n", " !         yarn install\n"]);
    let app =
        small_app("", "package-lock.json", r#"{"name": "demo", "lockfileVersion": 3, "packages": {"": {}}}"#);
    check(app, &[" !     Error: package-lock.json is out of date.\n", " !         npm install\n"]);
    let app = small_app("", "pnpm-lock.yaml", &PNPM_LOCK.replace("specifier: 2.1.3", "specifier: 2.1.2"));
    check(app, &[" !     Error: pnpm-lock.yaml is out of date.\n", " !         pnpm install\n"]);
}

#[test]
fn the_profile_counts_processes_by_memory() {
    let check = |memory: &str, set: &str, expected: &str| {
        let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/src/nodejs/profile.sh");
        let mut bash = Command::new("bash");
        bash.args([
            "-euc",
            ". \"$1\"; echo \"$MEMORY_AVAILABLE $WEB_MEMORY $WEB_CONCURRENCY\"",
            "bash",
            profile,
        ]);
        bash.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/app").env("FERROKU_MEMORY_BYTES", memory);
        let output = bash.envs((!set.is_empty()).then_some(("WEB_CONCURRENCY", set))).output().expect("bash");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{memory} {set}");
    };
    check("536870912", "", "512 512 1");
    check("1073741824", "", "1024 512 2");
    check("1073741824", "9", "1024 512 9");
    check("66571993088", "", "63488 2048 31");
    check("max", "", "512 512 1");
}

#[test]
fn the_example_names_no_registry() {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/node/package-lock.json");
    assert!(
        !fs::read_to_string(lock).expect("read").contains("\"resolved\""),
        "it must install from any registry"
    );
}
