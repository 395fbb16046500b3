//! What outlives its request ends with the access that it was begun with: attached commands, SSH, streams of output.

use super::Api;
use crate::access::Access;
use crate::api::streams::{BUILDS, RELEASES};
use crate::auth::token_hash;
use crate::listener::{self, Endpoint, Limits};
use crate::rendezvous::{self, AttachedStreams, Session};
use crate::ssh;
use crate::tls::{Identity, ServerNames};
use bytes::Bytes;
use ferroku_api::Client;
use ferroku_core::account::Role;
use ferroku_core::app_feature::EXEC;
use ferroku_core::authorize::Verb;
use ferroku_core::build::{Build, BuildStatus};
use ferroku_core::event::Actor;
use ferroku_core::oauth_authorization::Scopes;
use ferroku_core::{AccountId, AppId, AuthorizationId, BuildId, DynoId};
use ferroku_store::{StoreError, accounts, builds, releases, write};
use futures::StreamExt;
use reqwest::Method;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// For a machine that is slow.
const SOON: Duration = Duration::from_secs(60);
const BOB: &str = "bob@example.com";

/// An app of alice's, and bob, who works on it.
struct World {
    api: Api,
    alice: Client,
    bob: Client,
    bob_id: AccountId,
    app_id: AppId,
    authorization_id: AuthorizationId,
}

async fn send(client: &Client, method: Method, path: &str, body: Value) -> u16 {
    let answer = client.request(method, path).body(body.to_string()).send().await.expect("answered");
    answer.status().as_u16()
}

impl World {
    async fn new() -> Self {
        let api = Api::start().await;
        api.node.spawn_tasks();
        let alice = api.member("alice@example.com").await;
        let bob_id = api.account(BOB, Role::Member).await;
        let token = api.token(bob_id, &Scopes::global()).await;
        let bob = Client::new(&api.url, &token);
        let app_id = AppId(alice.create_app(Some("hers")).await.expect("created").id);
        assert_eq!(send(&alice, Method::POST, "/apps/hers/collaborators", json!({"user": BOB})).await, 201);
        let hash = token_hash(&token.into());
        let found = accounts::by_token_hash(&api.node.store, &hash, 1);
        let authorization_id = found.await.expect("read").expect("made").1.id;
        Self { api, alice, bob, bob_id, app_id, authorization_id }
    }

    fn may(&self, verb: Verb) -> Access {
        Access::new(self.authorization_id, self.app_id, verb)
    }

    async fn end(&self, end: End) {
        let (client, method, path, body) = match end {
            End::Removed => {
                (&self.alice, Method::DELETE, format!("/apps/hers/collaborators/{BOB}"), json!({}))
            }
            End::Revoked => {
                let path = format!("/oauth/authorizations/{}", self.authorization_id);
                (&self.bob, Method::DELETE, path, json!({}))
            }
            End::Suspended => {
                let path = format!("/admin/accounts/{BOB}");
                (&self.api.client, Method::PATCH, path, json!({"suspended": true}))
            }
            End::Deleted => (&self.api.client, Method::DELETE, format!("/admin/accounts/{BOB}"), json!({})),
            End::SwitchedOff => {
                let path = format!("/apps/hers/features/{EXEC}");
                (&self.alice, Method::PATCH, path, json!({"enabled": false}))
            }
        };
        assert_eq!(send(client, method, &path, body).await, 200, "{end:?}");
    }
}

/// What takes bob's access away.
#[derive(Debug, Clone, Copy)]
enum End {
    Removed,
    Revoked,
    Suspended,
    Deleted,
    SwitchedOff,
}

/// A client that is attached to a program, and the program's input.
async fn attached(world: &World, address: SocketAddr) -> (TcpStream, String) {
    let session = Session::OneOff(DynoId(Uuid::new_v4()));
    let secret = world.api.node.rendezvous.issue(session, world.may(Verb::Run));
    let mut client = TcpStream::connect(address).await.expect("connects");
    client.write_all(secret.as_bytes()).await.expect("sent");
    let mut read = [0; 64];
    let length = timeout(SOON, client.read(&mut read)).await.expect("in time").expect("readable");
    (client, String::from_utf8_lossy(&read[..length]).into_owned())
}

/// Serves rendezvous whose programs are the other ends of these channels.
async fn serve(world: &World) -> (SocketAddr, mpsc::UnboundedReceiver<mpsc::Receiver<Bytes>>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let node = world.api.node.clone();
    let names = ServerNames::of_node("example.test", node.config.listen);
    let identity =
        Identity::open(&node.config.data, names, None, crate::node::now_ms()).expect("a certificate");
    let (begun, programs) = mpsc::unbounded_channel();
    let endpoint = Endpoint {
        app: axum::Router::new(),
        tls: identity.server_config(),
        rendezvous: node.rendezvous.clone(),
        attach: Arc::new(move |issued| {
            let begun = begun.clone();
            Box::pin(rendezvous::attach(node.clone(), issued, async move |_| {
                let (input, program) = mpsc::channel(1);
                let (out, output) = mpsc::channel(1);
                begun.send(program).expect("listened to");
                // The program never ends by itself.
                tokio::spawn(async move { out.closed().await });
                Ok(AttachedStreams { input, output })
            }))
        }),
        limits: Limits::default(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(listener::serve(listener, endpoint, CancellationToken::new()));
    (address, programs)
}

#[tokio::test]
async fn an_attached_command_and_a_secret_not_used_yet_end_with_the_access() {
    for end in [End::Removed, End::Revoked, End::Suspended, End::Deleted] {
        let world = World::new().await;
        let (address, mut programs) = serve(&world).await;
        let (mut client, greeting) = attached(&world, address).await;
        assert_eq!(greeting, "rendezvous\r\n");
        let mut program = timeout(SOON, programs.recv()).await.expect("in time").expect("attached");
        client.write_all(b"ls\r").await.expect("sent");
        assert_eq!(timeout(SOON, program.recv()).await.expect("in time"), Some("ls\r".into()));

        world.end(end).await;
        let mut rest = String::new();
        timeout(SOON, client.read_to_string(&mut rest)).await.expect("goes on without access").expect("text");
        assert_eq!(rest, "\r\nYour access to this app has ended.\r\n", "{end:?}");
        assert_eq!(timeout(SOON, program.recv()).await.expect("is hung up on"), None);

        let (mut client, _) = attached(&world, address).await;
        let mut rest = String::new();
        timeout(SOON, client.read_to_string(&mut rest)).await.expect("in time").expect("text");
        assert!(rest.contains("Cannot attach to the dyno"), "{end:?}: {rest}");
        assert!(programs.try_recv().is_err(), "{end:?}: nothing was begun");
    }
}

/// Takes any host key.
struct Ssh;

impl russh::client::Handler for Ssh {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// An SSH client that has come in; None when it was not let in.
async fn ssh(world: &World, user: &str, key: &PrivateKey) -> Option<russh::client::Handle<Ssh>> {
    let path = world.api.node.config.data.join("ssh.sock");
    let mut stream = UnixStream::connect(path).await.expect("listens");
    stream.write_all(b"127.0.0.1:9\n").await.expect("sent");
    let mut client = russh::client::connect_stream(Arc::default(), stream, Ssh).await.expect("greeted");
    let key = PrivateKeyWithHashAlg::new(Arc::new(key.clone()), None);
    let entered = client.authenticate_publickey(user, key).await.expect("answered");
    entered.success().then_some(client)
}

#[tokio::test]
async fn an_ssh_connection_ends_with_the_access_and_with_the_feature() {
    for end in [End::Removed, End::Revoked, End::Suspended, End::SwitchedOff] {
        let world = World::new().await;
        let feature = format!("/apps/hers/features/{EXEC}");
        assert_eq!(send(&world.alice, Method::PATCH, &feature, json!({"enabled": true})).await, 200);
        let node = world.api.node.clone();
        let listener = UnixListener::bind(node.config.data.join("ssh.sock")).expect("bound");
        let listener = listener.into_std().expect("a socket");
        tokio::spawn(ssh::serve(node.clone(), listener, CancellationToken::new()));
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&[7; 32]));
        let key = PrivateKey::new(pair, "test").expect("a key");
        let access = Access::by_ssh(world.authorization_id, world.app_id);
        let actor =
            Actor { account_id: world.bob_id, email: BOB.into(), remote_address: None, request_id: None };
        let user = node.ssh.keys.register(key.public_key().clone(), DynoId(Uuid::nil()), access, actor);

        let client = ssh(&world, &user, &key).await.expect("let in");
        world.end(end).await;
        let _ = timeout(SOON, client).await.unwrap_or_else(|_| panic!("{end:?}: it goes on without access"));
        assert!(ssh(&world, &user, &key).await.is_none(), "{end:?}: and nobody comes in again");
    }
}

#[tokio::test]
async fn output_is_read_by_an_address_that_ends_with_the_access_and_by_no_id() {
    let world = World::new().await;
    let (node, app_id) = (&world.api.node, world.app_id);
    let build = Build {
        id: BuildId(Uuid::new_v4()),
        app_id,
        account_id: world.bob_id,
        status: BuildStatus::Failed,
        stack: "heroku-24".into(),
        buildpacks: Vec::new(),
        source: None,
        source_version: None,
        slug_id: None,
        release_id: None,
        created_at: 1,
        updated_at: 1,
    };
    let made: Result<(), StoreError> =
        async { write!(&node.store, tx => { builds::create(&mut tx, &build).await }) }.await;
    made.expect("a build");
    let path = node.builds.output_path(build.id);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(&path, "-----> DATABASE_URL=...\n").expect("written");

    let shown: Value = world.bob.get(&format!("/apps/hers/builds/{}", build.id)).await.expect("shown");
    let address = shown["output_stream_url"].as_str().expect("an address").to_owned();
    let get = async |address: &str| {
        let answer = reqwest::get(address).await.expect("answered");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    assert_eq!(get(&address).await, (200, "-----> DATABASE_URL=...\n".to_owned()));
    let release = releases::current(&node.store, app_id).await.expect("read").expect("made");
    for (noun, id) in [(BUILDS, build.id.0), (RELEASES, release.id.0)] {
        assert_eq!(get(&format!("{}/streams/{noun}/{id}", world.api.url)).await.0, 404, "{noun}: by its id");
    }
    let token = address.rsplit('/').next().expect("a token");
    let release = format!("{}/streams/{RELEASES}/{token}", world.api.url);
    assert_eq!(get(&release).await.0, 404, "a build's token opens no release");
    world.end(End::Removed).await;
    assert_eq!(get(&address).await.0, 403);
}

/// The address of a new log session.
async fn tail_of(client: &Client) -> String {
    let body = json!({"tail": true}).to_string();
    let request = client.request(Method::POST, "/apps/hers/log-sessions").body(body);
    let session: Value = request.send().await.expect("answered").json().await.expect("JSON");
    session["logplex_url"].as_str().expect("a session").to_owned()
}

#[tokio::test]
async fn who_reads_many_streams_takes_none_of_anothers_and_pays_for_them() {
    let world = World::new().await;
    let (bobs, alices) = (tail_of(&world.bob).await, tail_of(&world.alice).await);
    let (begun, mut open) = (std::time::Instant::now(), Vec::new());
    let refused = loop {
        let answer = reqwest::get(&bobs).await.expect("answered");
        if answer.status() != 200 {
            break answer;
        }
        open.push(answer);
        assert!(open.len() < 1_000, "all tails of the node are one account's");
    };
    assert_eq!((refused.status().as_u16(), open.len()), (429, 50));
    let remaining = |answer: &reqwest::Response| {
        let header = answer.headers()["ratelimit-remaining"].to_str().expect("text").to_owned();
        header.parse::<i64>().expect("a number")
    };
    // 4,500 come back in an hour.
    let come_back = begun.elapsed().as_secs() as i64 * 4_500 / 3_600 + 2;
    let spent = remaining(&open[0]) - remaining(&open[49]);
    assert!(spent + come_back >= 49, "each is a request of the account's: {spent}, {come_back}");
    assert_eq!(reqwest::get(&alices).await.expect("answered").status(), 200);
    drop(open.remove(0));
    let deadline = tokio::time::Instant::now() + SOON;
    while reqwest::get(&bobs).await.expect("answered").status() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "a stream that was left keeps its place");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_build_that_is_under_way_is_shown_no_further_once_the_access_has_ended() {
    let world = World::new().await;
    let node = world.api.node.clone();
    let body = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"one\n"))])
        .chain(futures::stream::pending());
    let held = world.may(Verb::View).hold(&node).await.map_err(|error| error.message).expect("there");
    let mut shown = held.limit(node, axum::body::Body::from_stream(body)).into_data_stream();
    assert!(timeout(SOON, shown.next()).await.expect("in time").is_some());
    world.end(End::Removed).await;
    assert!(timeout(SOON, shown.next()).await.expect("goes on without access").is_none());
}
