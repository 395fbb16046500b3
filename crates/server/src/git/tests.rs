//! The real git client against the real `git http-backend`, with this test binary as the hook.

use super::push::{Hook, PushSession, serve_hooks};
use super::*;
use ferroku_core::protocol::push::{PushPlan, Verdict, plan_push};
use ferroku_core::{AccountId, AppId};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longest time anything here waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test of its own: what git runs as the hook.
#[test]
#[allow(clippy::disallowed_methods, reason = "the hook is a process of its own, inside the test binary")]
fn hook_entry() {
    if std::env::var(TOKEN_VARIABLE).is_ok() {
        std::process::exit(i32::from(!pre_receive::decide()));
    }
}

/// Writes what git is to run as its hooks: `program`, a copy of this test binary, as the first of them.
pub(crate) fn write_hook(script: &Path, program: &Path) {
    let text = format!(
        "#!/bin/sh\n[ \"${{0##*/}}\" = pre-receive ] || exit 0\nexec {} --exact git::tests::hook_entry --nocapture\n",
        program.display()
    );
    std::fs::write(script, text).expect("written");
    std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)).expect("ours");
}

fn app(id: u128) -> App {
    App {
        id: AppId(Uuid::from_u128(id)),
        name: format!("app{id}"),
        owner_id: AccountId(Uuid::from_u128(1)),
        team_id: None,
        locked: false,
        stack: "heroku-24".to_owned(),
        build_stack: "heroku-24".to_owned(),
        region: "local".to_owned(),
        maintenance: false,
        acm: false,
        eco: false,
        uid_base: 1_048_576,
        buildpack_provided_description: None,
        repo_size_bytes: 0,
        slug_size_bytes: 0,
        restart_generation: 0,
        released_at: None,
        created_at: 0,
        updated_at: 0,
    }
}

/// What the sessions' handler does with each push to a deploying branch.
#[derive(Clone, Copy, PartialEq)]
enum Build {
    Succeeds,
    Fails,
    WaitsUntilGone,
    /// Ends once another push was refused.
    OutlastsAnother,
}

struct Host {
    _folder: tempfile::TempDir,
    folder: PathBuf,
    service: GitService,
    address: SocketAddr,
    notes: mpsc::UnboundedReceiver<String>,
}

async fn host(build: Build) -> Host {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path().to_owned();
    let passable = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(&folder, passable.clone()).expect("ours");
    let data = folder.join("data");
    for name in ["data", "data/run", "program"] {
        std::fs::create_dir(folder.join(name)).expect("new");
        std::fs::set_permissions(folder.join(name), passable.clone()).expect("ours");
    }
    let program = folder.join("program/tests");
    std::fs::copy(std::env::current_exe().expect("linux"), &program).expect("copied");
    let script = folder.join("program/hook");
    write_hook(&script, &program);

    let service = GitService::new(&data);
    service.repositories.prepare(&script).expect("prepared");
    let socket = service.repositories.hook_socket();
    let listener = push::bind(&socket).expect("bound");
    let (note, notes) = mpsc::unbounded_channel();
    let archives = data.clone();
    let refused = CancellationToken::new();
    let handler = move |hook| {
        let Hook::Push(session) = hook else { unreachable!("nothing is followed") };
        decide(session, build, archives.join("source.tar"), note.clone(), refused.clone())
    };
    tokio::spawn(serve_hooks(listener, service.pushes.clone(), handler));

    let router = {
        let service = service.clone();
        axum::Router::new().fallback(move |request: Request| answer(service.clone(), request))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    Host { _folder: temporary, folder, service, address, notes }
}

async fn answer(service: GitService, request: Request) -> Response {
    if request.headers().get(header::AUTHORIZATION).is_none() {
        return refuse(StatusCode::UNAUTHORIZED, "Who are you?");
    }
    let path = request.uri().path().to_owned();
    let found = path[1..].split_once(".git/").and_then(|(name, rest)| {
        let id: u128 = name.strip_prefix("app")?.parse().ok()?;
        Some((app(id), Endpoint::find(request.method(), rest)?))
    });
    let Some((app, endpoint)) = found else { return refuse(StatusCode::NOT_FOUND, "No such app.") };
    let actor = Actor {
        account_id: app.owner_id,
        email: "me@example.com".to_owned(),
        remote_address: None,
        request_id: None,
    };
    service.serve(endpoint, Caller { app, actor }, request, || ()).await
}

async fn decide(
    mut session: PushSession,
    build: Build,
    archive: PathBuf,
    note: mpsc::UnboundedSender<String>,
    refused: CancellationToken,
) {
    let plan = plan_push(&session.hello.updates);
    let head = match &plan {
        PushPlan::Deploy { branch, .. } => Some(branch.clone()),
        _ => None,
    };
    let accept = match plan {
        _ if !session.has_slot => {
            session.text("busy\n").await;
            refused.cancel();
            false
        }
        PushPlan::Refuse(text) => {
            session.text(format!("{text}\n")).await;
            false
        }
        PushPlan::Store => {
            session.text("stored\n").await;
            true
        }
        PushPlan::Deploy { object, .. } => {
            let commit = session.hello.commit.clone().expect("the hook describes it");
            assert_eq!(commit.id, object);
            session.text(format!("building {} paths: {}\n", commit.paths, commit.subject)).await;
            session.archive(&object, &archive).await.expect("an archive");
            match build {
                Build::Succeeds => {}
                Build::Fails => session.text("no language\n").await,
                Build::WaitsUntilGone => {
                    let _ = note.send("waiting".to_owned());
                    session.gone.cancelled().await;
                    let _ = note.send("gone".to_owned());
                }
                Build::OutlastsAnother => drop(tokio::time::timeout(PATIENCE, refused.cancelled()).await),
            }
            build != Build::Fails
        }
    };
    session.finish(Verdict { accept, head }).await;
}

impl Host {
    fn url(&self, app: u32) -> String {
        format!("http://any:token@{}/app{app}.git", self.address)
    }

    /// A working copy with one commit on `main`.
    fn working_copy(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::create_dir(&path).expect("new");
        std::fs::write(path.join("Procfile"), "web: true\n").expect("written");
        std::fs::write(path.join("secret"), "kept out by attributes\n").expect("written");
        std::fs::write(path.join(".gitattributes"), "secret export-ignore\n").expect("written");
        for arguments in [&["init", "-q", "-b", "main"][..], &["add", "."], &["commit", "-qm", "First"]] {
            assert!(git(&path, arguments).0, "{arguments:?}");
        }
        path
    }

    async fn push(&self, from: &Path, arguments: &[&str]) -> (bool, String) {
        let (from, url) = (from.to_owned(), self.url(1));
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        tokio::task::spawn_blocking(move || {
            let mut all = vec!["push", url.as_str()];
            all.extend(arguments.iter().map(String::as_str));
            git(&from, &all)
        })
        .await
        .expect("no panic")
    }
}

fn git(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output: Output = Command::new("git")
        .args(["-c", "user.name=A", "-c", "user.email=a@example.com"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git is installed");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_shows_the_builds_text_and_moves_the_branch() {
    let host = host(Build::Succeeds).await;
    let copy = host.working_copy("copy");
    let (ok, text) = host.push(&copy, &["main"]).await;
    assert!(ok, "{text}");
    assert!(text.contains("remote: building 3 paths: First"), "{text}");
    assert!(text.contains("* [new branch]      main -> main"), "{text}");
    let tar = std::fs::read(host.folder.join("data/source.tar")).expect("written");
    let mut archive = tar::Archive::new(&tar[..]);
    let names: Vec<String> = archive
        .entries()
        .expect("a tar")
        .map(|entry| entry.expect("whole").path().expect("a name").display().to_string())
        .collect();
    assert!(names.contains(&"secret".to_owned()), "the whole tree, as a checkout has it: {names:?}");

    let (ok, text) = host.push(&copy, &["main"]).await;
    assert!(ok && text.contains("Everything up-to-date"), "{text}");
    let (ok, text) = host.push(&copy, &["main:refs/heads/feature"]).await;
    assert!(ok && text.contains("remote: stored"), "{text}");
    let (ok, text) = host.push(&copy, &[":main"]).await;
    assert!(!ok && text.contains("cannot be deleted"), "{text}");

    assert!(git(&copy, &["commit", "-q", "--amend", "-m", "Other"]).0);
    let (ok, text) = host.push(&copy, &["-f", "main"]).await;
    assert!(ok && text.contains("(forced update)"), "{text}");
    assert!(host.service.repositories.size_bytes(app(1).id) > 0);
    let (ok, text) = git(&host.folder, &["clone", "-q", &host.url(1), "clone"]);
    assert!(ok && host.folder.join("clone/Procfile").exists(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_only_has_master_can_be_cloned() {
    let host = host(Build::Succeeds).await;
    let copy = host.working_copy("copy");
    let (ok, text) = host.push(&copy, &["main:master"]).await;
    assert!(ok, "{text}");
    let (ok, text) = git(&host.folder, &["clone", "-q", &host.url(1), "clone"]);
    assert!(ok && host.folder.join("clone/Procfile").exists(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_declines_the_push() {
    let host = host(Build::Fails).await;
    let copy = host.working_copy("copy");
    let (ok, text) = host.push(&copy, &["main"]).await;
    assert!(!ok && text.contains("remote: no language"), "{text}");
    assert!(text.contains("! [remote rejected] main -> main (pre-receive hook declined)"), "{text}");
    let (_, refs) = git(&copy, &["ls-remote", &host.url(1)]);
    assert_eq!(refs, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_pushes_is_refused_and_the_next_goes_through() {
    let host = host(Build::OutlastsAnother).await;
    let (one, two) = (host.working_copy("one"), host.working_copy("two"));
    let (first, second) = tokio::join!(host.push(&one, &["-f", "main"]), host.push(&two, &["-f", "main"]));
    let [won, lost] = if first.0 { [first, second] } else { [second, first] };
    assert!(won.0 && !lost.0, "{won:?} {lost:?}");
    assert!(lost.1.contains("remote: busy"), "{}", lost.1);
    let third = git(&two, &["commit", "-q", "--allow-empty", "-m", "More"]);
    assert!(third.0);
    let (ok, text) = host.push(&two, &["-f", "main"]).await;
    assert!(ok, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_the_push() {
    let mut host = host(Build::WaitsUntilGone).await;
    let copy = host.working_copy("copy");
    let mut client = Command::new("git")
        .args(["push", &host.url(1), "main"])
        .current_dir(&copy)
        .stderr(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .expect("git is installed");
    assert_eq!(host.notes.recv().await.as_deref(), Some("waiting"));
    // git's transport is a process of its own, below it; the connection is that one's.
    let group = rustix::process::Pid::from_child(&client);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("running");
    client.wait().expect("ended");
    let gone = tokio::time::timeout(PATIENCE, host.notes.recv()).await;
    assert_eq!(gone.expect("in time").as_deref(), Some("gone"));
    let (_, refs) = git(&copy, &["ls-remote", &host.url(1)]);
    assert_eq!(refs, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_unknown_apps_are_turned_away() {
    let host = host(Build::Succeeds).await;
    let url = format!("http://{}/app1.git", host.address);
    let (ok, text) = git(&host.folder, &["ls-remote", &url]);
    assert!(!ok && text.contains("could not read Username"), "a 401 with a Basic challenge: {text}");
    let (ok, text) = git(&host.folder, &["ls-remote", &format!("http://a:b@{}/none.git", host.address)]);
    assert!(!ok && text.contains("not found"), "{text}");
    let dumb = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-u", ":x", &format!("{url}/info/refs")])
        .output()
        .expect("curl is installed");
    assert_eq!(String::from_utf8_lossy(&dumb.stdout), "403");
}
