//! Builds of source archives: uploaded to the node, and fetched from a server.

use super::*;
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

/// A gzipped tar archive of these files, all of them in one folder, as GitHub makes them.
fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("shop-1/{name}"), content.as_bytes()).expect("in memory");
    }
    tar.into_inner().and_then(GzEncoder::finish).expect("in memory")
}

pub(super) fn checksum(bytes: &[u8]) -> String {
    format!("SHA256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A server at an address that is fetched from; `/source.tgz` is `archive`. Gives its URL.
async fn serve(archive: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.expect("an address of ours");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let app = axum::Router::new().route("/source.tgz", get(async move || archive));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

impl Host {
    pub(super) async fn json(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = self.send(method, path, &body.to_string()).await;
        (status, serde_json::from_str(&text).expect("JSON"))
    }

    /// Uploads an archive; gives the URL to build it from.
    async fn upload(&self, archive: &[u8]) -> String {
        let (status, source) = self.json("POST", "/apps/shop/sources", json!({})).await;
        assert_eq!(status, 201, "{source}");
        let url = |name: &str| source["source_blob"][name].as_str().expect("a URL").to_owned();
        let put = reqwest::Client::new().put(url("put_url")).body(archive.to_vec()).send().await;
        assert_eq!(put.expect("answered").status(), 200);
        url("get_url")
    }

    /// Builds the archive at the URL; gives the build at its end, and its text.
    async fn build(&self, source: Value) -> (Value, String) {
        let (status, build) = self.json("POST", "/apps/shop/builds", json!({"source_blob": source})).await;
        assert_eq!((status, &build["status"]), (201, &json!("pending")), "{build}");
        let stream = build["output_stream_url"].as_str().expect("a URL");
        let text = reqwest::get(stream).await.expect("answered").text().await.expect("to its end");
        let path = format!("/apps/shop/builds/{}", build["id"].as_str().expect("an id"));
        // The slot is free only when all of it is over.
        for _ in 0..600 {
            if self.node.builds.git().pushes.hold(self.app_id).is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (self.json("GET", &path, json!({})).await.1, text)
    }

    async fn releases(&self) -> Vec<String> {
        let all = releases::list(&self.node.store, self.app_id).await.expect("read");
        all.into_iter().map(|release| release.description).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_uploaded_or_fetched_and_becomes_a_release() {
    let host = host().await;
    let archive = tarball(&[("Procfile", "web: sleep 1\n"), ("a.txt", "1")]);
    let url = host.upload(&archive).await;
    let kept = reqwest::get(&url).await.expect("answered").bytes().await.expect("whole");
    assert_eq!(kept, archive, "what was uploaded is given back");
    let sum = checksum(&archive);
    let source = json!({"url": url, "checksum": sum, "version": "v1.2", "version_description": "Ours"});
    let (build, text) = host.build(source).await;
    assert!(text.contains("-----> Discovering process types"), "{text}");
    assert!(
        text.ends_with("       Released v3\n       http://shop.localhost:8080/ deployed to Ferroku\n\n"),
        "{text}"
    );
    let blob = &build["source_blob"];
    assert_eq!(
        (&build["status"], &blob["checksum"], &blob["version"], &blob["version_description"]),
        (&json!("succeeded"), &json!(sum), &json!("v1.2"), &json!("Ours"))
    );
    assert!(!blob["url"].as_str().expect("text").contains("token"), "{blob}");
    let slug = format!("/apps/shop/slugs/{}", build["slug"]["id"].as_str().expect("an id"));
    let slug = host.json("GET", &slug, json!({})).await.1;
    assert_eq!((&slug["commit"], &slug["process_types"]["web"]), (&json!("v1.2"), &json!("sleep 1")));

    let server = serve(tarball(&[("Procfile", "web: sleep 2\n")])).await;
    let (build, text) = host.build(json!({"url": format!("{server}/source.tgz?secret")})).await;
    assert_eq!(
        (&build["status"], &build["source_blob"]["checksum"]),
        (&json!("succeeded"), &json!(null)),
        "{text}"
    );
    assert_eq!(build["source_blob"]["url"], format!("{server}/source.tgz"));
    let releases = host.releases().await;
    assert_eq!(releases[2], "Deploy v1.2");
    assert!(releases[3].starts_with("Deploy ") && releases.len() == 4, "{releases:?}");
    host.wait_until_clean().await;
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_cannot_be_built_says_why_and_leaves_nothing() {
    let host = host().await;
    let good = tarball(&[("Procfile", "web: sleep 1\n")]);
    let before = host.releases().await;
    let server = serve(good.clone()).await;
    let node = host.url.split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("an authority");
    let zip = [b"PK\x03\x04".as_slice(), &[0; 100]].concat();
    let (zip, cut) = (host.upload(&zip).await, host.upload(&good[..good.len() - 4]).await);
    let good = host.upload(&good).await;
    for (source, why) in [
        (json!({"url": zip}), "The source archive cannot be unpacked: it is a zip archive"),
        (json!({"url": cut}), "it ends too early"),
        (json!({"url": good, "checksum": checksum(b"other")}), "is not the one that was meant"),
        (json!({"url": format!("{server}/none")}), "answered 404 Not Found"),
        (json!({"url": format!("http://{node}/account")}), "127.0.0.1 is the node itself"),
        (json!({"url": "http://localhost/x"}), "localhost is the node itself"),
        (json!({"url": "http://[::1]/x"}), "is the node itself"),
        (json!({"url": "http://169.254.169.254/latest"}), "is a link-local address"),
        (json!({"url": "http://10.0.0.1/x.tgz"}), "is a private address"),
        (json!({"url": format!("{server}/source.tgz"), "checksum": checksum(b"")}), "is not the one"),
    ] {
        let (build, text) = host.build(source.clone()).await;
        assert!(build["status"] == "failed" && text.contains(why), "{source}: {text}");
        assert!(text.ends_with(" !     Push failed\n"), "{text}");
    }
    let (_, empty) = host.json("POST", "/sources", json!({})).await;
    let empty = empty["source_blob"]["get_url"].as_str().expect("a URL");
    let version = "x".repeat(257);
    for (body, why) in [
        (json!({}), "missing field `source_blob`"),
        (json!({"source_blob": {}}), "missing field `url`"),
        (json!({"source_blob": {"url": "ftp://example.com/x"}}), "source_blob.url"),
        (json!({"source_blob": {"url": "x"}}), "source_blob.url"),
        (json!({"source_blob": {"url": empty}}), "Nothing was uploaded"),
        (json!({"source_blob": {"url": good, "checksum": "MD5:00"}}), "Invalid value for checksum"),
        (json!({"source_blob": {"url": good, "version": version}}), "Invalid value for version"),
        (json!({"source_blob": {"url": good}, "buildpacks": [{"url": "nonsense"}]}), "a buildpack must be"),
    ] {
        let (status, answer) = host.json("POST", "/apps/shop/builds", body.clone()).await;
        assert!(status == 422 && answer["message"].as_str().expect("text").contains(why), "{body}: {answer}");
    }
    assert_eq!(host.releases().await, before, "a failed build releases nothing");
    host.wait_until_clean().await;
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_build_of_an_app_runs_at_a_time_and_is_cancelled() {
    let host = host().await;
    let url = host.upload(&tarball(&[("Procfile", "web: sleep 1\n")])).await;
    let body = json!({"source_blob": {"url": url}, "buildpacks": [{"url": host.slow_buildpack()}]});
    let (status, build) = host.json("POST", "/apps/shop/builds", body.clone()).await;
    assert_eq!(status, 201, "{build}");
    host.wait_for_text("waiting").await;
    let (status, refused) = host.json("POST", "/apps/shop/builds", body).await;
    assert!(
        status == 422 && refused["message"].as_str().expect("text").contains("is being built"),
        "{refused}"
    );
    let copy = host.commit(&[("Procfile", "web: sleep 1\n")]);
    let (pushed, text) = host.push(&copy).await;
    assert!(!pushed && text.contains("Another push to this app"), "{text}");

    let path = format!("/apps/shop/builds/{}", build["id"].as_str().expect("an id"));
    assert_eq!(host.json("DELETE", &path, json!({})).await.0, 200);
    for _ in 0..600 {
        if host.builds().await == [BuildStatus::Failed] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(host.builds().await, [BuildStatus::Failed]);
    assert_eq!(host.send("DELETE", &path, "").await.0, 422, "it is over");
    assert_eq!(
        host.send("GET", "/apps/shop/buildpack-installations", "").await.1,
        "[]",
        "for one build only"
    );
    host.wait_until_clean().await;
    host.close().await;
}
