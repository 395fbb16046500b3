//! Secrets that are marked, a day's work done with them, and a look for them wherever they should not be: every file of the
//! data folder, the node's messages, logs, events and answers, and the process list outside the dynos.

use ferroku_testkit::TestNode;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A secret by what it is.
type Canaries = BTreeMap<&'static str, String>;

/// Where a secret may be: the start of a path in the data folder, the secret ("" for all), and why.
const ALLOWED: [(&str, &str, &str); 6] = [
    ("owner.json", "owner's password", "how the owner gets in; mode 0600"),
    ("owner.json", "owner's API key", "as the password"),
    ("master.key", "master key", "it is the file; mode 0600"),
    ("tls/", "CA's key", "it is the file; mode 0600 in a folder of mode 0700"),
    ("run/dynos/", "config var", "a tmpfs: the environment that a dyno is started with"),
    ("run/dynos/", "one-off's variable", "as the config var"),
];
/// The disks of dynos, which are what apps write.
const DISK: &str = "upper.img";
/// Copies of our own programs, which are there before any secret is.
const PROGRAMS: &str = "bin";
/// How often the process list is looked at while work is done.
const LOOK: Duration = Duration::from_millis(100);

/// Every file below `data` with one of the canaries, as "path: canary".
fn in_files(data: &Path, canaries: &Canaries) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if entry.file_name() == DISK || path == data.join(PROGRAMS) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                // One that is gone meanwhile holds nothing any more.
                let bytes = fs::read(&path).unwrap_or_default();
                let name = path.strip_prefix(data).expect("below it").display().to_string();
                found.extend(named(&name, &String::from_utf8_lossy(&bytes), canaries));
            }
        }
    }
    found
}

/// "where: canary" for each that is in the text.
fn named<'a>(place: &'a str, text: &'a str, canaries: &'a Canaries) -> impl Iterator<Item = String> + 'a {
    let there = canaries.iter().filter(move |(_, value)| text.contains(value.as_str()));
    there.map(move |(name, _)| format!("{place}: {name}"))
}

/// What is in a file of the data folder that may not be there.
fn out_of_place(data: &Path, canaries: &Canaries) -> Vec<String> {
    let may = |found: &&String| {
        let (path, canary) = found.rsplit_once(": ").expect("made so");
        ALLOWED.iter().any(|(start, name, _)| path.starts_with(start) && *name == canary)
    };
    let found = in_files(data, canaries);
    found.iter().filter(|found| !may(found)).cloned().collect()
}

/// A process and all below it.
fn family(first: u32) -> Vec<u32> {
    let mut all = vec![first];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    all
}

/// Command lines and environments of the supervisor and all below it: of those outside the dynos, or of all.
fn in_processes(supervisor: u32, canaries: &Canaries, with_dynos: bool) -> BTreeSet<String> {
    let own_namespace = fs::read_link("/proc/self/ns/pid").expect("linux");
    let mut found = BTreeSet::new();
    for pid in family(supervisor) {
        let process = Path::new("/proc").join(pid.to_string());
        // The first process of a dyno, and what it starts: the dyno's own environment.
        if !with_dynos && fs::read_link(process.join("ns/pid")).ok() != Some(own_namespace.clone()) {
            continue;
        }
        let program = fs::read_to_string(process.join("comm")).unwrap_or_default();
        for part in ["cmdline", "environ"] {
            let text = fs::read(process.join(part)).unwrap_or_default();
            let place = format!("{part} of {}", program.trim());
            found.extend(named(&place, &String::from_utf8_lossy(&text), canaries));
        }
    }
    found
}

/// Looks at the process list until it is dropped, because most of what a node starts lives for milliseconds.
struct Watch {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<BTreeSet<String>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn start(supervisor: u32, canaries: Canaries) -> Self {
        let (stop, found) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
        let (stopped, seen) = (stop.clone(), found.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                seen.lock().expect("no panic").extend(in_processes(supervisor, &canaries, false));
                std::thread::sleep(LOOK);
            }
        });
        Self { stop, found, thread: Some(thread) }
    }

    fn end(mut self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("once").join().expect("it does not panic");
        std::mem::take(&mut self.found.lock().expect("no panic"))
    }
}

/// The secrets that the node makes itself, and those that are about to be given to it.
fn plant(node: &TestNode) -> Canaries {
    let read = |name: &str| fs::read_to_string(node.data.join(name)).expect("the node has it");
    let line = |pem: &str| pem.lines().nth(1).expect("a line of base64").to_owned();
    let (_, made) = node.call("POST", "/oauth/authorizations", "{}");
    let key = node.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=www.example.com \
                        -keyout server.key -out server.crt 2>/dev/null && cat server.key",
    );
    BTreeMap::from([
        ("owner's password", node.owner.password.clone()),
        ("owner's API key", node.owner.api_key.clone()),
        ("access token", made["access_token"]["token"].as_str().expect("a token").to_owned()),
        ("master key", read("master.key").trim().to_owned()),
        ("CA's key", line(&read("tls/ca.key"))),
        ("certificate's key", line(&key.succeeded().text)),
        ("config var", "canary-config-7f3a9c51".to_owned()),
        ("one-off's variable", "canary-variable-2b8e6d04".to_owned()),
        ("wrong password", "canary-password-c4410e9b".to_owned()),
        ("wrong token", "canary-token-91d7f2aa".to_owned()),
        ("refused value", "canary-refused-5e02b7c3".to_owned()),
    ])
}

/// A push that runs, one that fails, a crash, one-offs, a certificate, logins, and requests that are refused. Gives what
/// was answered to those.
fn work(node: &TestNode, canaries: &Canaries) -> String {
    node.run("heroku create canary --no-remote").succeeded();
    node.run(&format!("heroku config:set SECRET={} -a canary", canaries["config var"])).succeeded();
    node.run(
        "cp -r \"$EXAMPLES/procfile-only\" canary && cd canary && git init -q -b main && \
         echo 'worker: exit 7' >>Procfile && git add . && git commit -qm first && heroku git:remote -a canary && \
         git push heroku main",
    )
    .succeeded();
    node.wait_until_up("canary");
    node.call("PATCH", "/apps/canary/formation/worker", r#"{"quantity": 1}"#);
    let one_off =
        format!(r#"{{"command": "sleep 1", "env": {{"GIVEN": "{}"}}}}"#, canaries["one-off's variable"]);
    assert_eq!(node.call("POST", "/apps/canary/dynos", &one_off).0, 201);
    let read = |name: &str| fs::read_to_string(node.work.join(name)).expect("openssl made it");
    let certificate =
        serde_json::json!({"certificate_chain": read("server.crt"), "private_key": read("server.key")});
    assert_eq!(node.call("POST", "/apps/canary/sni-endpoints", &certificate.to_string()).0, 201);
    let failed = node.run_unchecked(
        "cd canary && echo flask >requirements.txt && echo 9.9 >.python-version && git add . && git commit -qm broken && \
         git push heroku main 2>&1",
    );
    assert!(failed.text.contains("Push rejected"), "{}", failed.text);
    let refused = format!(
        "{{ for body in '{{\"A-B\": \"{value}\"}}' '{{\"A\": [\"{value}\"]}}' '{{\"A\": \"{value}' '[\"{value}\"]'; do \
           curl -sS -X PATCH -H \"Authorization: Bearer {token}\" -d \"$body\" \"$HEROKU_HOST/apps/canary/config-vars\"; done; \
         curl -sS -u 'owner@example.com:{password}' -X POST -d '{{}}' \"$HEROKU_HOST/oauth/authorizations\"; \
         curl -sS -H 'Authorization: Bearer {wrong}' \"$HEROKU_HOST/apps\"; \
         curl -sS -H 'Authorization: Bearer {wrong}' \"$HEROKU_HOST/nowhere/{wrong}x\" >/dev/null; \
         git ls-remote \"http://x:{wrong}@${{HEROKU_HOST#http://}}/canary.git\"; }} 2>&1",
        value = canaries["refused value"],
        token = canaries["access token"],
        password = canaries["wrong password"],
        wrong = canaries["wrong token"],
    );
    let refused = node.run_unchecked(&refused).text;
    let session = format!(
        "curl -sS -u \"owner@example.com:$PASSWORD\" -X POST -d '{{}}' \"$HEROKU_HOST/oauth/authorizations\" >/dev/null; \
         git -C canary ls-remote http://x:{}@${{HEROKU_HOST#http://}}/canary.git",
        canaries["access token"]
    );
    node.run_unchecked(&session).succeeded();
    refused
}

#[test]
fn no_secret_is_anywhere_but_where_it_belongs() {
    let mut node = TestNode::start();
    let canaries = plant(&node);
    let watch = Watch::start(node.supervisor_pid(), canaries.clone());
    let refused = work(&node, &canaries);
    node.kill_process("control");
    let logs = node.run_unchecked("heroku logs -n 1500 -a canary").text;
    let events = node.get("/ferroku/events?max=1000").to_string();
    let seen = watch.end();
    assert_eq!(seen, BTreeSet::new(), "in the process list outside the dynos");

    let told = [
        ("refusals", refused),
        ("the app's log", logs),
        ("events", events.clone()),
        ("the node's messages", node.log()),
    ];
    for (place, text) in &told {
        assert!(!text.is_empty() || *place == "the node's messages", "{place}: there is nothing to look at");
        assert_eq!(named(place, text, &canaries).collect::<Vec<_>>(), Vec::<String>::new(), "{text}");
    }
    for kind in ["build.create", "build.fail", "dyno.create", "release.create", "sni_endpoint.create"] {
        assert!(events.contains(&format!("\"{kind}\"")), "no event {kind} was left");
    }
    assert_eq!(out_of_place(&node.data, &canaries), Vec::<String>::new(), "in files while the node runs");

    // The look is one that finds: where secrets are known to be, it sees them.
    let everywhere = in_files(&node.data, &canaries);
    for known in ["owner.json: owner's password", "owner.json: owner's API key", "master.key: master key"] {
        assert!(everywhere.contains(known), "{known} is not found: {everywhere:?}");
    }
    let inside = in_processes(node.supervisor_pid(), &canaries, true);
    assert!(inside.iter().any(|found| found.ends_with(": config var")), "dynos have it: {inside:?}");
    fs::write(node.data.join("leak"), format!("x{}x", canaries["config var"])).expect("our own folder");
    assert_eq!(out_of_place(&node.data, &canaries), ["leak: config var"]);
    fs::remove_file(node.data.join("leak")).expect("just made");
    for pid in [Some(node.supervisor_pid() as i32), node.pid_of("control"), node.pid_of("router")] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", pid.expect("it runs"))).expect("root may");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("proc(5)");
        assert_eq!(core.split_whitespace().nth(4), Some("1"), "{core}");
    }
    node.stop_supervisor();
    assert_eq!(out_of_place(&node.data, &canaries), Vec::<String>::new(), "in files after the node's end");
}
