//! Real pushes and archives of small apps, built in real build dynos, to a node without router.
//!
//! Needs `slug-compiler` and `dyno-init` where `cargo build` puts them.

mod archives;
mod garbage;
mod uploaded_slugs;

use super::*;
use crate::node::Node;
use ferroku_core::build::BuildStatus;
use ferroku_core::uids::SLUG_UID;
use ferroku_runtime::{Driver, SandboxConfig};
use ferroku_store::apps::{self, NewApp};
use ferroku_store::{accounts, buildpack_installations, formations, releases, slugs};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use uuid::Uuid;

struct Host {
    temporary: tempfile::TempDir,
    node: Arc<Node>,
    app_id: AppId,
    url: String,
    client: ferroku_api::Client,
}

fn passable(path: &Path) {
    std::fs::create_dir_all(path).expect("a folder");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o711)).expect("ours");
}

async fn host() -> Host {
    host_with(Retention::default()).await
}

async fn host_with(retention: Retention) -> Host {
    let temporary = tempfile::tempdir().expect("a folder");
    let data = temporary.path().join("data");
    for folder in ["", "data", "data/run", "data/bin", "data/buildpacks", "program"] {
        passable(&temporary.path().join(folder));
    }
    let this = std::env::current_exe().expect("linux");
    let built = this.ancestors().nth(2).expect("target/release/deps").to_owned();
    let program = temporary.path().join("program/tests");
    std::fs::copy(&this, &program).expect("copied");
    let hook = temporary.path().join("program/hook");
    crate::git::tests::write_hook(&hook, &program);

    let config = SandboxConfig { programs: built.clone(), ..SandboxConfig::new(&data) };
    let driver = Arc::new(SandboxDriver::open(config).await.expect("this machine can run dynos"));
    // A part of the program that `ferrokud` itself does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut node = Arc::into_inner(Node::for_tests(&data).await).expect("nobody else has it");
    // Stands for the internet.
    node.config.fetch.allowed = vec!["127.0.0.2/32".parse().expect("a network")];
    node.driver = Some(driver);
    node.config.retention = retention;
    node.builds = Builds::new(&data);
    let node = Arc::new(node);
    let parts = Builds::parts_of(&node, hook, built.join("slug-compiler"));
    node.builds.start_with(parts).await.expect("started");

    let owner = accounts::find_by_email(&node.store, "owner@example.com").await.expect("read").expect("made");
    let actor = ferroku_core::event::Actor {
        account_id: owner.id,
        email: owner.email,
        remote_address: None,
        request_id: None,
    };
    let app_id = AppId(Uuid::new_v4());
    let new = NewApp { id: app_id, name: "shop", stack: "heroku-24", region: "local" };
    apps::create(&node.store, &new, &actor, now_ms()).await.expect("an app");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let service = crate::api::app(node.clone()).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    let owner = std::fs::read_to_string(data.join("owner.json")).expect("written");
    let owner: serde_json::Value = serde_json::from_str(&owner).expect("JSON");
    let key = owner["api_key"].as_str().expect("a key");
    let url = format!("http://x:{key}@{address}/shop.git");
    let client = ferroku_api::Client::new(&format!("http://{address}"), key);
    Host { temporary, node, app_id, url, client }
}

fn git(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=A", "-c", "user.email=a@example.com"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    command
}

fn run(mut command: Command) -> (bool, String) {
    let output = command.output().expect("git is installed");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

impl Host {
    fn data(&self) -> PathBuf {
        self.temporary.path().join("data")
    }

    /// Writes files, commits, and gives the working copy.
    fn commit(&self, files: &[(&str, &str)]) -> PathBuf {
        let copy = self.temporary.path().join("copy");
        if !copy.exists() {
            std::fs::create_dir(&copy).expect("new");
            assert!(run(git(&copy, &["init", "-q", "-b", "main"])).0);
        }
        for (name, content) in files {
            std::fs::write(copy.join(name), content).expect("written");
        }
        assert!(run(git(&copy, &["add", "-A"])).0);
        assert!(run(git(&copy, &["commit", "-qm", "Change the shop"])).0);
        copy
    }

    async fn push(&self, copy: &Path) -> (bool, String) {
        let command = git(copy, &["push", &self.url, "main"]);
        tokio::task::spawn_blocking(move || run(command)).await.expect("no panic")
    }

    async fn builds(&self) -> Vec<BuildStatus> {
        let rows = builds::list(&self.node.store, self.app_id).await.expect("read");
        rows.into_iter().map(|build| build.status).collect()
    }

    async fn wait_until_clean(&self) {
        for _ in 0..1_200 {
            if std::fs::read_dir(self.data().join("builds")).expect("there").count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("build folders are left");
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let answer = self.client.request(method, path).body(body.to_owned()).send().await.expect("answered");
        let status = answer.status().as_u16();
        (status, answer.text().await.expect("text"))
    }

    /// Writes a buildpack of the node's that says `waiting` and goes on for five minutes; gives its address.
    fn slow_buildpack(&self) -> String {
        let folder = self.data().join("buildpacks/slow");
        std::fs::create_dir_all(folder.join("bin")).expect("new");
        for (name, script) in
            [("detect", "echo Slow"), ("compile", "echo waiting; sleep 300"), ("release", "echo --- {}")]
        {
            let file = folder.join("bin").join(name);
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("ours");
        }
        format!("file://{}", folder.display())
    }

    /// Waits until the text of the app's newest build has `words`; gives all of it.
    async fn wait_for_text(&self, words: &str) -> String {
        let mut text = String::new();
        for _ in 0..600 {
            let rows = builds::list(&self.node.store, self.app_id).await.expect("read");
            if let Some(build) = rows.last() {
                text = std::fs::read_to_string(self.node.builds.output_path(build.id)).unwrap_or_default();
            }
            if text.contains(words) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no {words:?} in:\n{text}");
    }

    async fn close(self) {
        self.node.driver().shutdown().await;
        for _ in 0..1_200 {
            if ferroku_runtime::leaks(&self.data()).is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("left behind: {:?}", ferroku_runtime::leaks(&self.data()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_become_slugs_and_releases_or_nothing() {
    let host = host().await;
    let copy = host.commit(&[("Procfile", "web: sleep 1\nworker: sleep 2\n"), ("a.txt", "1")]);
    let (ok, text) = host.push(&copy).await;
    assert!(ok, "{text}");
    for line in [
        "remote: Updated 2 paths from ",
        "remote: -----> Launching...",
        "remote:        Released v3",
        "Verifying deploy... done.",
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    let release = releases::current(&host.node.store, host.app_id).await.expect("read").expect("made");
    assert!(release.version == 3 && release.description.starts_with("Deploy "), "{release:?}");
    let slug =
        slugs::find(&host.node.store, release.slug_id.expect("code")).await.expect("read").expect("made");
    assert_eq!(slug.commit_description.as_deref(), Some("Change the shop"));
    let file = host.data().join("slugs").join(&slug.digest).join("a.txt");
    let metadata = std::fs::metadata(&file).expect("promoted");
    assert_eq!((metadata.uid(), std::fs::read_to_string(&file).expect("text").as_str()), (SLUG_UID, "1"));
    let formation = formations::list(&host.node.store, host.app_id).await.expect("read");
    let quantities: Vec<_> = formation.iter().map(|one| (one.process_type.as_str(), one.quantity)).collect();
    assert_eq!(quantities, [("web", 1), ("worker", 0)]);

    std::fs::remove_file(copy.join("Procfile")).expect("there");
    let copy = host.commit(&[("a.txt", "2")]);
    let (ok, text) = host.push(&copy).await;
    assert!(!ok && text.contains("Push rejected to shop."), "{text}");
    assert!(text.contains("! [remote rejected] main -> main (pre-receive hook declined)"), "{text}");
    let after = releases::current(&host.node.store, host.app_id).await.expect("read").expect("made");
    assert_eq!(after, release, "a failed build leaves the release alone");
    assert_eq!(host.builds().await, [BuildStatus::Succeeded, BuildStatus::Failed]);
    let rows = builds::list(&host.node.store, host.app_id).await.expect("read");
    let kept = std::fs::read_to_string(host.node.builds.output_path(rows[0].id)).expect("kept");
    assert!(kept.contains("Building source:") && kept.contains("Released v3"), "{kept}");
    let (status, text) = host.send("GET", &format!("/apps/shop/builds/{}", rows[0].id), "").await;
    assert!(status == 200 && text.contains(r#""status":"succeeded""#), "{text}");
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let address = shown["output_stream_url"].as_str().expect("an address");
    let path = &address[address.find("/streams/").expect("of a stream")..];
    assert_eq!(host.send("GET", path, "").await, (200, kept));
    let (status, text) = host.send("GET", &format!("/apps/shop/slugs/{}", slug.id), "").await;
    assert!(status == 200 && text.contains(&slug.digest), "{text}");
    host.wait_until_clean().await;
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_stops_the_build() {
    let host = host().await;
    let address = host.slow_buildpack();
    let (store, app_id) = (&host.node.store, host.app_id);
    let set: Result<(), ferroku_store::StoreError> = async {
        ferroku_store::write!(store, tx => {
            buildpack_installations::replace(&mut tx, app_id, std::slice::from_ref(&address), false).await
        })
    }
    .await;
    set.expect("set");
    let copy = host.commit(&[("Procfile", "web: sleep 1\n")]);
    let mut client = git(&copy, &["push", &host.url, "main"]);
    let mut client = client.process_group(0).stderr(Stdio::null()).spawn().expect("git is installed");
    host.wait_for_text("waiting").await;
    let group = rustix::process::Pid::from_child(&client);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("running");
    client.wait().expect("ended");
    for _ in 0..200 {
        if host.builds().await == [BuildStatus::Failed] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(host.builds().await, [BuildStatus::Failed]);
    let release = releases::current(store, app_id).await.expect("read").expect("made");
    assert_eq!(release.slug_id, None);
    host.wait_until_clean().await;
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buildpacks_are_set_or_refused_with_a_reason() {
    let host = host().await;
    let put = async |buildpack: &str| {
        let body = serde_json::json!({"updates": [{"buildpack": buildpack}]}).to_string();
        host.send("PUT", "/apps/shop/buildpack-installations", &body).await
    };
    let (status, text) = host.send("GET", "/buildpacks/heroku%2Fpython", "").await;
    assert_eq!((status, text.as_str()), (200, r#"{"blob_url":"urn:buildpack:heroku/python"}"#));
    let (status, text) = put("urn:buildpack:heroku/python").await;
    assert!(status == 200 && text.contains(r#""name":"heroku/python""#), "{text}");
    let cases = [
        ("heroku/cobol", "heroku/cobol is not a buildpack of this node: it has heroku/nodejs, heroku/python"),
        ("file:///etc", "must be in "),
        ("nonsense", "a buildpack must be a name such as heroku/python, or a URL"),
    ];
    for (buildpack, why) in cases {
        let (status, text) = put(buildpack).await;
        assert!(status == 422 && text.contains(why), "{buildpack}: {text}");
    }
    let missing = format!("file://{}/data/buildpacks/none", host.temporary.path().display());
    let (status, text) = put(&missing).await;
    assert!(status == 422 && text.contains("There is no buildpack at"), "{text}");
    let (_, text) = host.send("GET", "/apps/shop/buildpack-installations", "").await;
    assert!(text.contains("heroku/python"), "a refused change changes nothing: {text}");
    assert_eq!(host.send("PUT", "/apps/shop/buildpack-installations", r#"{"updates":[]}"#).await.1, "[]");

    let unknown = Uuid::new_v4();
    for (method, path, status) in [
        ("GET", "/apps/shop/builds".to_owned(), 200),
        ("GET", format!("/apps/shop/builds/{unknown}"), 404),
        ("DELETE", format!("/apps/shop/builds/{unknown}"), 404),
        ("GET", "/apps/shop/builds/x".to_owned(), 404),
        ("GET", format!("/apps/shop/slugs/{unknown}"), 404),
        ("GET", format!("/streams/builds/{unknown}"), 404),
        ("DELETE", "/apps/shop/build-cache".to_owned(), 200),
    ] {
        let (seen, text) = host.send(method, &path, "").await;
        assert_eq!(seen, status, "{method} {path}: {text}");
    }
    host.close().await;
}
