//! Slugs that clients upload by curl, as the Platform API has it.

use super::archives::checksum;
use super::garbage::of_a_stranger;
use super::*;
use ferroku_core::SlugId;
use ferroku_core::event::Actor;
use ferroku_core::slug::SlugUpload;
use ferroku_store::slug_uploads;
use serde_json::{Value, json};

/// A folder below the host's with these files in its folder `app`, and the archive that `tar` makes of them.
fn archive(host: &Host, name: &str, arguments: &[&str], files: &[(&str, &str)]) -> PathBuf {
    let folder = host.temporary.path().join(name);
    for (file, content) in files {
        let file = folder.join(file);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("new");
        std::fs::write(&file, content).expect("written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("ours");
    }
    let place = folder.with_extension("tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&place).args(arguments).current_dir(&folder);
    let (ok, text) = run(tar);
    assert!(ok, "{text}");
    place
}

/// The status and body that curl gets for a file which it puts.
async fn put(url: &str, file: &Path) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-X", "PUT", "-H", "Content-Type:", "-w", "\n%{http_code}", "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg(url);
    let (ok, text) = tokio::task::spawn_blocking(move || run(curl)).await.expect("no panic");
    assert!(ok, "{text}");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

fn url_of(slug: &Value) -> String {
    slug["blob"]["url"].as_str().expect("a URL").to_owned()
}

fn path_of(slug: &Value) -> String {
    format!("/apps/shop/slugs/{}", slug["id"].as_str().expect("an id"))
}

impl Host {
    async fn announce(&self, body: Value) -> Value {
        let (status, slug) = self.json("POST", "/apps/shop/slugs", body).await;
        assert_eq!((status, &slug["blob"]["method"]), (201, &json!("put")), "{slug}");
        slug
    }

    async fn release(&self, slug: &Value) -> (u16, Value) {
        self.json("POST", "/apps/shop/releases", json!({"slug": slug["id"]})).await
    }

    fn slug_folders(&self) -> usize {
        std::fs::read_dir(self.data().join("slugs")).expect("there").count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_is_uploaded_released_and_given_back() {
    let host = host().await;
    let files = [("app/bin/web", "#!/bin/sh\nexec sleep 9\n"), ("app/.profile.d/a.sh", "export A=1\n")];
    let file = archive(&host, "good", &["-z", "./app"], &files);
    let sum = checksum(&std::fs::read(&file).expect("made"));
    let slug = host
        .announce(json!({
            "process_types": {"web": "bin/web", "worker": "sleep 1"}, "commit": "60883d9e8947a57e04dc9124f25df004866a2051",
            "commit_description": "Ours", "checksum": sum, "stack": "heroku-24", "buildpack_provided_description": "Shell",
        }))
        .await;
    assert_eq!((&slug["size"], &slug["checksum"]), (&Value::Null, &json!(sum)));
    let (status, refused) = host.release(&slug).await;
    let message = refused["message"].as_str().expect("text");
    assert!(status == 422 && message.contains("Nothing was uploaded to slug"), "{refused}");
    let shown = host.json("GET", &path_of(&slug), json!({})).await.1;
    assert_eq!((&shown["blob"]["method"], &shown["process_types"]), (&json!("put"), &slug["process_types"]));

    let url = url_of(&slug);
    assert_eq!(put(&url, &file).await, (200, String::new()));
    assert_eq!(put(&url, &file).await.0, 200, "a client that did not hear the answer asks again");
    let other = archive(&host, "other", &["-z", "./app"], &[("app/bin/web", "other")]);
    let (status, text) = put(&url, &other).await;
    assert!(status == 422 && text.contains("has its archive already"), "{text}");

    let (status, release) = host.release(&slug).await;
    assert_eq!((status, &release["slug"]["id"]), (201, &slug["id"]), "{release}");
    let formation = formations::list(&host.node.store, host.app_id).await.expect("read");
    let types: Vec<_> =
        formation.iter().map(|one| (one.process_type.as_str(), one.command.as_str())).collect();
    assert_eq!(types, [("web", "bin/web"), ("worker", "sleep 1")]);
    let app = host.json("GET", "/apps/shop", json!({})).await.1;
    assert_eq!(app["buildpack_provided_description"], "Shell");

    // As a build's: its tree at its digest, of the owner that slugs have.
    let id: SlugId = slug["id"].as_str().expect("an id").parse().expect("an id");
    let stored = slugs::find(&host.node.store, id).await.expect("read").expect("made");
    let program = host.data().join("slugs").join(&stored.digest).join("bin/web");
    let metadata = std::fs::metadata(&program).expect("promoted");
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (SLUG_UID, 0o755));
    assert_eq!(
        seal::digest_again(&host.data().join("slugs").join(&stored.digest)).expect("read"),
        stored.digest
    );
    assert!(stored.size_bytes > 0);

    let shown = host.json("GET", &path_of(&slug), json!({})).await.1;
    assert_eq!((&shown["blob"]["method"], &shown["checksum"]), (&json!("get"), &json!(sum)));
    let back = reqwest::get(url_of(&shown)).await.expect("answered");
    assert_eq!(back.status(), 200);
    let back_file = host.temporary.path().join("back.tgz");
    std::fs::write(&back_file, back.bytes().await.expect("whole")).expect("written");
    let mut list = Command::new("tar");
    list.arg("-xzOf").arg(&back_file).arg("app/bin/web");
    assert_eq!(run(list), (true, files[0].1.to_owned()));
    // What came out goes in again, and is the same slug.
    let again = host.announce(json!({"process_types": {"web": "bin/web"}})).await;
    assert_eq!(put(&url_of(&again), &back_file).await, (200, String::new()));
    let again: SlugId = again["id"].as_str().expect("an id").parse().expect("an id");
    let again = slugs::find(&host.node.store, again).await.expect("read").expect("made");
    assert_eq!((again.digest, host.slug_folders()), (stored.digest, 1));
    host.wait_until_clean().await;
    let left = std::fs::read_dir(host.data().join("sources")).expect("there").flatten();
    assert_eq!(
        left.filter(|folder| folder.path().read_dir().is_ok_and(|mut all| all.next().is_some())).count(),
        0
    );
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_no_slug_says_why_and_leaves_nothing() {
    let host = host().await;
    let slug = host.announce(json!({"process_types": {"web": "x"}})).await;
    let url = url_of(&slug);
    let bare = archive(&host, "bare", &["."], &[("Procfile", "web: x\n")]);
    let beside = archive(&host, "beside", &["."], &[("app/x", ""), ("Procfile", "")]);
    let out = archive(&host, "out", &["-P", "--transform", "s,^app/x,../x,", "app"], &[("app/x", "x")]);
    let pipe = host.temporary.path().join("pipe/app");
    std::fs::create_dir_all(&pipe).expect("new");
    let mut mkfifo = Command::new("mkfifo");
    mkfifo.arg(pipe.join("fifo"));
    assert!(run(mkfifo).0);
    let pipe = archive(&host, "pipe", &["app"], &[]);
    let bomb = host.temporary.path().join("bomb/app");
    std::fs::create_dir_all(&bomb).expect("new");
    let sparse = std::fs::File::create(bomb.join("zeros")).expect("new");
    sparse.set_len(1_200 * 1024 * 1024).expect("sparse");
    // With the holes as what they stand for: 1.2 GB in a megabyte.
    let bomb = archive(&host, "bomb", &["--use-compress-program", "gzip -1", "app"], &[]);
    let zip = host.temporary.path().join("x.zip");
    std::fs::write(&zip, [b"PK\x03\x04".as_slice(), &[0; 100]].concat()).expect("written");
    let good_plain = archive(&host, "plain", &["app"], &[("app/x", "0123456789")]);
    let cut = host.temporary.path().join("cut.tar");
    std::fs::write(&cut, &std::fs::read(&good_plain).expect("made")[..700]).expect("written");
    let empty = host.temporary.path().join("empty");
    std::fs::write(&empty, "").expect("written");
    for (file, why) in [
        (&bare, "this one has Procfile beside it"),
        (&beside, "this one has Procfile beside it"),
        (&out, "../x is outside of the archive's own folder"),
        (&pipe, "is a device or a pipe"),
        (&bomb, "it is larger than 1 GB when unpacked"),
        (&zip, "it is a zip archive; send a tar archive"),
        (&cut, "it is no whole tar archive"),
        (&empty, "Nothing was uploaded"),
    ] {
        let (status, text) = put(&url, file).await;
        assert!(status == 422 && text.contains(why), "{}: {status} {text}", file.display());
    }
    let meant = host.announce(json!({"process_types": {}, "checksum": checksum(b"other")})).await;
    let (status, text) = put(&url_of(&meant), &beside).await;
    assert!(status == 422 && text.contains("its checksum is SHA256:"), "{text}");
    let (status, text) = put(&url.replace("token=", "token=x"), &beside).await;
    assert!(status == 403 && text.contains("This link is not valid"), "{text}");
    assert_eq!(
        host.send("GET", &url[url.find("/slugs/").expect("a path")..], "").await.0,
        403,
        "a link to put"
    );
    host.wait_until_clean().await;
    assert_eq!(host.slug_folders(), 0);

    // The same link still takes a good one, and nothing else of the app may be built meanwhile.
    let good = archive(&host, "fine", &["app"], &[("app/x", "x")]);
    let slot = host.node.builds.git().pushes.hold(host.app_id).expect("free");
    let (status, text) = put(&url, &good).await;
    assert!(status == 422 && text.contains("The app is being built"), "{text}");
    drop(slot);
    assert_eq!(put(&url, &good).await, (200, String::new()));

    let long = "x".repeat(257);
    for (body, why) in [
        (json!({}), "missing field `process_types`"),
        (json!({"process_types": {"web": ""}}), "Invalid value for process_types: web has no command."),
        (json!({"process_types": {"a b": "x"}}), "is no name of a process type"),
        (json!({"process_types": {"web": 1}}), "process_types.web"),
        (json!({"process_types": {}, "checksum": "MD5:00"}), "Invalid value for checksum"),
        (json!({"process_types": {}, "stack": "heroku-18"}), "Stack heroku-18 is not available"),
        (json!({"process_types": {}, "commit": long}), "Invalid value for commit"),
    ] {
        let (status, answer) = host.json("POST", "/apps/shop/slugs", body.clone()).await;
        assert!(status == 422 && answer["message"].as_str().expect("text").contains(why), "{body}: {answer}");
    }
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_worth_what_its_maker_may_do_and_what_never_came_is_forgotten() {
    let host = host().await;
    let store = &host.node.store;
    let made = host.json("POST", "/oauth/authorizations", json!({"scope": ["read"]})).await.1;
    let token = made["access_token"]["token"].as_str().expect("a token");
    let address = host.url.split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("an authority");
    let reader = ferroku_api::Client::new(&format!("http://{address}"), token);
    let slug = host.announce(json!({"process_types": {"web": "x"}})).await;
    let file = archive(&host, "good", &["app"], &[("app/x", "x")]);
    let theirs = async || {
        let request = reader.request(reqwest::Method::GET, &path_of(&slug));
        url_of(&request.send().await.expect("answered").json::<Value>().await.expect("JSON"))
    };
    let (status, text) = put(&theirs().await, &file).await;
    assert_eq!(status, 403, "who may only read puts nothing: {text}");
    assert_eq!(put(&url_of(&slug), &file).await, (200, String::new()));
    let link = theirs().await;
    assert_eq!(reqwest::get(&link).await.expect("answered").status(), 200);
    let path = format!("/oauth/authorizations/{}", made["id"].as_str().expect("an id"));
    assert_eq!(host.send("DELETE", &path, "").await.0, 200);
    assert_eq!(reqwest::get(&link).await.expect("answered").status(), 403, "the access has ended");

    let old = host.announce(json!({"process_types": {}})).await;
    let id: SlugId = old["id"].as_str().expect("an id").parse().expect("an id");
    let aged = SlugUpload {
        id: SlugId(Uuid::new_v4()),
        created_at: 1,
        ..slug_uploads::find(store, id).await.expect("read").expect("there")
    };
    let owner = accounts::find_by_email(store, "owner@example.com").await.expect("read").expect("made");
    let actor = Actor { account_id: owner.id, email: owner.email, remote_address: None, request_id: None };
    slug_uploads::create(store, &aged, &actor).await.expect("announced");
    collect::collect(&host.node.builds).await.expect("collected");
    assert!(slug_uploads::find(store, aged.id).await.expect("read").is_none(), "a day has passed");
    assert!(slug_uploads::find(store, id).await.expect("read").is_some());
    assert_eq!(host.slug_folders(), 1, "one that is not released yet stays");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_used_up_the_disk_uploads_no_slug_until_there_is_room() {
    let mut host = host().await;
    of_a_stranger(&mut host).await;
    let store = &host.node.store;
    let (status, slug) = host.json("POST", "/apps/busy/slugs", json!({"process_types": {"web": "x"}})).await;
    assert_eq!(status, 201, "{slug}");
    let file = archive(&host, "good", &["app"], &[("app/x", "x")]);
    apps::set_repo_size(store, host.app_id, 5_200 << 20).await.expect("noted");
    let (status, text) = put(&url_of(&slug), &file).await;
    assert!(status == 422 && text.contains("disk space"), "{status} {text}");
    assert_eq!(host.slug_folders(), 0);
    apps::set_repo_size(store, host.app_id, 0).await.expect("noted");
    assert_eq!(put(&url_of(&slug), &file).await, (200, String::new()));
    assert_eq!(host.slug_folders(), 1);
    host.close().await;
}
