//! A static site, built and then called.

mod common;

use common::{App, Web};
use ferroku_core::protocol::build::BuildOutcome;

#[test]
fn the_static_example_is_served_by_its_rules_and_by_nothing_else() {
    let mut app = App::example("static");
    std::os::unix::fs::symlink("../static.json", app.source().join("public/out.json")).expect("link");
    let built = app.build().succeeded();
    assert_eq!(
        built.text,
        "-----> Building on the Heroku-24 stack
-----> Determining which buildpack to use for this app
-----> Static HTML app detected
       The files of public are served as they are, by static.json.
-----> Discovering process types
       Procfile declares types     -> (none)
       Default types for buildpack -> web
"
    );
    // A site needs no profile script; the loop that sources them wants one.
    std::fs::create_dir(app.build_dir().join(".profile.d")).expect("mkdir");
    std::fs::write(app.build_dir().join(".profile.d/x.sh"), "").expect("write");
    let web = Web::start(&app.build_dir(), &built.result.process_types["web"]);
    let check = |path: &str, expected: &[&str]| {
        let answer = web.get(path);
        for expected in expected {
            assert!(answer.contains(expected), "no {expected:?} from {path}:\n{answer}");
        }
    };
    let not_found: &[&str] = &["HTTP/1.1 404 Not Found\r\n", "<h1>There is no such page</h1>"];
    check(
        "/",
        &["HTTP/1.1 200 OK\r\n", "Content-Type: text/html; charset=utf-8\r\n", "<h1>Nothing to build</h1>"],
    );
    check("/news?x=1", &["HTTP/1.1 200 OK\r\n", "<h1>News</h1>"]);
    check("/about?x=1", &["HTTP/1.1 301 ", "Location: /about/?x=1\r\n"]);
    check("/app/any/thing", &["HTTP/1.1 200 OK\r\n", "One page for all"]);
    check("/old", &["HTTP/1.1 302 ", "Location: /news\r\n"]);
    check(
        "/assets/site.css",
        &["Content-Type: text/css", "Cache-Control: public, max-age=31536000\r\n", "ETag: \"v3-"],
    );
    for path in ["/nope", "/out.json", "/../static.json", "/%2e%2e/static.json", "//localhost/about", "/%00"]
    {
        check(path, not_found);
    }
    drop(web);

    app.write("static.json", r#"{"root": "public", "https_only": true}"#);
    app.build().succeeded();
    std::fs::create_dir(app.build_dir().join(".profile.d")).expect("mkdir");
    std::fs::write(app.build_dir().join(".profile.d/x.sh"), "").expect("write");
    let web = Web::start(&app.build_dir(), "python3 .heroku/static/server.py");
    assert!(web.get("/news?x").contains("Location: https://demo.localhost/news?x\r\n"));
}

#[test]
fn a_site_that_would_be_served_otherwise_than_it_says_is_refused() {
    let check = |settings: &str, expected: &str| {
        let failed = App::new(&[("static.json", settings), ("public_html/index.html", "")]).build();
        assert_eq!(failed.result.outcome, BuildOutcome::CompileFailed, "{}", failed.text);
        assert!(failed.text.contains(expected), "{}", failed.text);
    };
    check(r#"{"basic_auth": true}"#, " !     Error: 'basic_auth' in static.json is not supported here.\n");
    check(r#"{"root": "dist"}"#, " !     Error: The folder 'dist', which is to be served, is not there.\n");
    check("{", " !     Error: static.json cannot be read.\n");
}
