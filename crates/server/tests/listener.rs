//! The API port as clients see it: plain and TLS, HTTP and rendezvous, by real sockets and real programs.

use axum::Extension;
use axum::extract::ConnectInfo;
use axum::routing::get;
use bytes::Bytes;
use ferroku_core::authorize::Verb;
use ferroku_core::{AppId, AuthorizationId, DynoId};
use ferroku_server::access::Access;
use ferroku_server::listener::{ClientConnection, Endpoint, Limits, serve};
use ferroku_server::rendezvous::{Attached, AttachedStreams, Rendezvous, Session};
use ferroku_server::tls::{Given, Identity, RENEW_BEFORE_DAYS, ServerNames};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const NOW: i64 = 1_767_268_800_000;
const DAY_MS: i64 = 24 * 3_600 * 1_000;
const SOON: Duration = Duration::from_secs(60);

/// The program's side of an attached dyno.
struct Program {
    input: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<Bytes>,
}

struct Api {
    data: tempfile::TempDir,
    address: SocketAddr,
    rendezvous: Rendezvous,
    programs: mpsc::UnboundedReceiver<(Session, Program)>,
    /// Ends the access of all who are attached.
    endings: CancellationToken,
    /// Somebody asks for `/slow`.
    slow_begins: Arc<Notify>,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

fn names() -> ServerNames {
    ServerNames::of_node("example.test", "127.0.0.1:0".parse().expect("an address"))
}

fn install_provider() {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn app(slow_begins: Arc<Notify>) -> axum::Router {
    let who = async |Extension(client): Extension<ClientConnection>,
                     ConnectInfo(peer): ConnectInfo<SocketAddr>| {
        assert_eq!(client.remote, peer);
        format!("{} from {}", client.scheme(), peer.ip())
    };
    let slow = async move || {
        slow_begins.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
        "slow"
    };
    axum::Router::new().route("/who", get(who)).route("/slow", get(slow))
}

async fn start_with(limits: Limits) -> Api {
    install_provider();
    let data = tempfile::tempdir().expect("folder");
    let now = jiff::Timestamp::now().as_millisecond();
    let tls = Identity::open(data.path(), names(), None, now).expect("certificates").server_config();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (sender, programs) = mpsc::unbounded_channel();
    let rendezvous = Rendezvous::new();
    let endings = CancellationToken::new();
    let slow_begins = Arc::new(Notify::new());
    let ends = endings.clone();
    let endpoint = Endpoint {
        app: app(slow_begins.clone()),
        tls,
        rendezvous: rendezvous.clone(),
        attach: Arc::new(move |issued| {
            let (input, program_input) = mpsc::channel(16);
            let (program_output, output) = mpsc::channel(16);
            let sent =
                sender.send((issued.session, Program { input: program_input, output: program_output }));
            let ended = Box::pin(ends.clone().cancelled_owned());
            Box::pin(async move {
                sent.map_err(|_| anyhow::anyhow!("no test listens"))?;
                Ok(Attached { streams: AttachedStreams { input, output }, ended })
            })
        }),
        limits,
    };
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(listener, endpoint, stop.clone()));
    Api { data, address, rendezvous, programs, endings, slow_begins, stop, served }
}

async fn start() -> Api {
    start_with(Limits::default()).await
}

trait Bidirectional: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bidirectional for T {}

impl Api {
    fn ca(&self) -> std::path::PathBuf {
        self.data.path().join("ca.crt")
    }

    async fn tls_as(&self, name: &str) -> std::io::Result<Box<dyn Bidirectional>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).expect("ca.crt")).expect("a CA");
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
    }

    async fn connect(&self, tls: bool) -> Box<dyn Bidirectional> {
        if tls {
            self.tls_as("localhost").await.expect("a verified connection")
        } else {
            Box::new(TcpStream::connect(self.address).await.expect("connects"))
        }
    }

    fn issue(&self, session: Session) -> String {
        let nobody = Access::new(AuthorizationId(Uuid::nil()), AppId(Uuid::nil()), Verb::Run);
        self.rendezvous.issue(session, nobody)
    }

    async fn curl(&self, arguments: &[&str]) -> String {
        let output = Command::new("curl").args(["-sS", "--max-time", "60"]).args(arguments).output();
        let output = output.await.expect("curl is there");
        assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    async fn program(&mut self) -> (Session, Program) {
        timeout(SOON, self.programs.recv()).await.expect("attached in time").expect("the listener is there")
    }
}

async fn send(stream: &mut Box<dyn Bidirectional>, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("sent");
    stream.flush().await.expect("sent");
}

async fn read_some(stream: &mut Box<dyn Bidirectional>) -> String {
    let mut buffer = vec![0; 65_536];
    let length = timeout(SOON, stream.read(&mut buffer)).await.expect("in time").expect("readable");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// The end of the connection, whether by FIN or by RST.
async fn is_closed(stream: &mut Box<dyn Bidirectional>) -> bool {
    let mut buffer = [0; 64];
    matches!(timeout(SOON, stream.read(&mut buffer)).await.expect("in time"), Ok(0) | Err(_))
}

#[tokio::test]
async fn curl_is_served_plain_and_by_tls_on_the_same_port() {
    let api = start().await;
    let (port, ca) = (api.address.port(), api.ca());
    let ca = ca.to_str().expect("UTF-8");
    assert_eq!(api.curl(&[&format!("http://127.0.0.1:{port}/who")]).await, "http from 127.0.0.1");
    assert_eq!(
        api.curl(&["--cacert", ca, &format!("https://127.0.0.1:{port}/who")]).await,
        "https from 127.0.0.1"
    );
    let to = format!("example.test:{port}:127.0.0.1");
    let url = format!("https://example.test:{port}/who");
    assert_eq!(api.curl(&["--cacert", ca, "--resolve", &to, &url]).await, "https from 127.0.0.1");
    let two = format!("https://localhost:{port}/who");
    assert_eq!(api.curl(&["--cacert", ca, &two, &two]).await, "https from 127.0.0.1https from 127.0.0.1");
}

#[tokio::test]
async fn the_certificate_is_good_for_the_names_of_the_node_and_no_other() {
    let api = start().await;
    for name in ["localhost", "127.0.0.1", "::1", "example.test", "app.example.test"] {
        api.tls_as(name).await.map(drop).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert!(api.tls_as("other.test").await.is_err());
    let check = Command::new("openssl")
        .args(["verify", "-purpose", "sslserver", "-CAfile"])
        .args([api.ca(), api.data.path().join("tls").join("server.pem")])
        .output();
    let check = check.await.expect("openssl is there");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn certificates_stay_until_they_are_due_and_the_authority_stays_longer() {
    install_provider();
    let data = tempfile::tempdir().expect("folder");
    let path = |name: &str| data.path().join(name);
    let read = |name: &str| std::fs::read(path(name)).expect("is there");
    let mode = |name: &str| std::fs::metadata(path(name)).expect("is there").permissions().mode() & 0o777;
    let identity = Identity::open(data.path(), names(), None, NOW).expect("made");
    let modes = ["ca.crt", "tls/ca.key", "tls/server.pem", "tls"].map(mode);
    assert_eq!(modes, [0o644, 0o600, 0o600, 0o700]);
    let (authority, server) = (read("ca.crt"), read("tls/server.pem"));
    assert!(!identity.renew_if_due(NOW + (364 - RENEW_BEFORE_DAYS) * DAY_MS).expect("looks"), "not due yet");
    Identity::open(data.path(), names(), None, NOW).expect("opens again");
    assert_eq!(read("tls/server.pem"), server, "a restart changes nothing");
    assert!(identity.renew_if_due(NOW + (366 - RENEW_BEFORE_DAYS) * DAY_MS).expect("renews"));
    assert_ne!(read("tls/server.pem"), server);
    assert_eq!(read("ca.crt"), authority, "users need not trust a new CA");

    let other = ServerNames::of_node("other.test", "127.0.0.1:0".parse().expect("an address"));
    let server = read("tls/server.pem");
    Identity::open(data.path(), other, None, NOW).expect("made for the other name");
    assert_ne!(read("tls/server.pem"), server);
    assert_eq!(read("ca.crt"), authority);

    Identity::open(data.path(), names(), None, NOW + 3_300 * DAY_MS).expect("years later");
    assert_ne!(read("ca.crt"), authority, "a CA that would end before what it signs is issued anew");
    std::fs::write(path("tls/server.pem"), "torn").expect("writable");
    Identity::open(data.path(), names(), None, NOW).expect("a damaged certificate is made anew");
    std::fs::write(path("tls/ca.key"), "torn").expect("writable");
    let error = Identity::open(data.path(), names(), None, NOW)
        .expect_err("a damaged CA key is not replaced silently");
    assert!(error.to_string().contains("move it away"), "{error}");
}

#[tokio::test]
async fn a_given_certificate_is_shown_for_its_names_and_the_nodes_own_for_all_others() {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    install_provider();
    /// Takes any certificate: what is shown is looked at afterwards.
    #[derive(Debug)]
    struct Any;
    impl ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    let data = tempfile::tempdir().expect("folder");
    let given = Given { certificate: data.path().join("chain.pem"), key: data.path().join("key.pem") };
    let renew = || {
        let made = rcgen::generate_simple_self_signed(vec!["heroku.example.org".to_owned()]).expect("made");
        std::fs::write(&given.certificate, made.cert.pem()).expect("written");
        std::fs::write(&given.key, made.signing_key.serialize_pem()).expect("written");
        made.cert.der().clone()
    };
    let theirs = renew();
    let identity = Identity::open(data.path(), names(), Some(given.clone()), NOW).expect("opened");
    let mut client = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(client));
    let shown = async |identity: &Identity, name: &'static str| {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let acceptor = tokio_rustls::TlsAcceptor::from(identity.server_config());
        let name = ServerName::try_from(name).expect("a name");
        let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        server.expect("a handshake");
        let client = client.expect("a handshake");
        client.get_ref().1.peer_certificates().expect("shown")[0].clone().into_owned()
    };
    assert_eq!(shown(&identity, "heroku.example.org").await, theirs);
    let own = shown(&identity, "localhost").await;
    assert_ne!(own, theirs);
    assert_eq!(shown(&identity, "127.0.0.1").await, own, "an address is no name");
    assert_eq!(shown(&identity, "other.example.org").await, own);
    let renewed = renew();
    identity.renew_if_due(NOW).expect("looked");
    assert_eq!(shown(&identity, "heroku.example.org").await, renewed, "its files are read again");

    std::fs::write(&given.key, "torn").expect("written");
    let error = given.check().expect_err("no key");
    assert!(error.to_string().contains("key.pem"), "{error}");
    identity.renew_if_due(NOW).expect_err("no key");
    assert_eq!(shown(&identity, "heroku.example.org").await, renewed, "the old one stays in use");
    let identity =
        Identity::open(data.path(), names(), Some(given.clone()), NOW).expect("starts all the same");
    assert_eq!(shown(&identity, "heroku.example.org").await, own, "and shows its own");
    let whole = renew();
    identity.renew_if_due(NOW).expect("looked");
    assert_eq!(shown(&identity, "heroku.example.org").await, whole, "until there is one");
}

#[tokio::test]
async fn a_rendezvous_greets_alone_and_then_passes_bytes_both_ways() {
    let mut api = start().await;
    let ways = [(true, "\r\n"), (true, ""), (false, "\r\n"), (false, "")];
    for (number, (tls, line_end)) in (0u128..).zip(ways) {
        let dyno_id = DynoId(Uuid::from_u128(number));
        let secret = api.issue(Session::OneOff(dyno_id));
        let mut client = api.connect(tls).await;
        send(&mut client, format!("{secret}{line_end}").as_bytes()).await;
        let (attached, mut program) = api.program().await;
        assert_eq!(attached, Session::OneOff(dyno_id));
        program.output.send("early output".into()).await.expect("room");
        assert_eq!(
            read_some(&mut client).await,
            "rendezvous\r\n",
            "alone: clients throw the first read away"
        );
        assert_eq!(read_some(&mut client).await, "early output");
        send(&mut client, b"ls\r").await;
        let input = timeout(SOON, program.input.recv()).await.expect("in time");
        assert_eq!(input, Some("ls\r".into()), "the line end behind the secret is no input");
        program.output.send(Bytes::from(vec![b'x'; 1 << 20])).await.expect("room");
        // The program ends, while the user is still typing: that must not cost the output.
        drop(program);
        send(&mut client, b"typed ahead").await;
        let mut rest = Vec::new();
        timeout(SOON, client.read_to_end(&mut rest)).await.expect("in time").expect("closed in order");
        assert_eq!(rest.len(), 1 << 20, "all output comes before the end");
    }
}

#[tokio::test]
async fn a_secret_in_pieces_is_one_and_a_used_or_unknown_one_is_none() {
    let mut api = start().await;
    let secret = api.issue(Session::OneOff(DynoId(Uuid::from_u128(1))));
    let mut client = api.connect(false).await;
    for piece in secret.as_bytes().chunks(9) {
        send(&mut client, piece).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(read_some(&mut client).await, "rendezvous\r\n");
    let _program = api.program().await;
    let revoked = api.issue(Session::OneOff(DynoId(Uuid::from_u128(2))));
    api.rendezvous.revoke(DynoId(Uuid::from_u128(2)));
    for wrong in [secret, revoked, format!("rdv.{}", "0".repeat(64))] {
        let mut client = api.connect(true).await;
        send(&mut client, wrong.as_bytes()).await;
        assert_eq!(read_some(&mut client).await, "rendezvous\r\n");
        let text = read_some(&mut client).await;
        assert!(text.starts_with("Cannot attach to the dyno: this session is unknown"), "{text}");
        assert!(is_closed(&mut client).await);
    }
    assert!(api.programs.try_recv().is_err(), "none of them reached a dyno");
}

/// Attaches, and sends these pieces one after the other.
async fn session(api: &mut Api, pieces: &[&[u8]]) -> (Box<dyn Bidirectional>, Program) {
    let secret = api.issue(Session::OneOff(DynoId(Uuid::from_u128(1))));
    let mut client = api.connect(false).await;
    send(&mut client, secret.as_bytes()).await;
    let (_, program) = api.program().await;
    assert_eq!(read_some(&mut client).await, "rendezvous\r\n");
    for piece in pieces {
        send(&mut client, piece).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (client, program)
}

#[tokio::test]
async fn every_byte_passes_as_it_is_and_a_client_that_goes_ends_the_session() {
    let mut api = start().await;
    let (client, mut program) = session(&mut api, &[b"bin\x04\0", b"\xff\x04ary\r\n", b"\x04"]).await;
    drop(client);
    let mut input = Vec::new();
    while let Some(part) = timeout(SOON, program.input.recv()).await.expect("ended in time") {
        input.extend_from_slice(&part);
    }
    assert_eq!(input, b"bin\x04\0\xff\x04ary\r\n\x04");
    timeout(SOON, program.output.closed()).await.expect("the program is told");
}

#[tokio::test]
async fn whose_access_ends_is_told_and_its_program_is_left() {
    let mut api = start().await;
    let (mut client, mut program) = session(&mut api, &[b"x"]).await;
    assert_eq!(timeout(SOON, program.input.recv()).await.expect("in time"), Some("x".into()));
    api.endings.cancel();
    assert_eq!(read_some(&mut client).await, "\r\nYour access to this app has ended.\r\n");
    assert!(is_closed(&mut client).await);
    assert_eq!(timeout(SOON, program.input.recv()).await.expect("in time"), None);
}

#[tokio::test]
async fn openssl_as_the_client_of_a_rendezvous() {
    let mut api = start().await;
    let secret = api.issue(Session::OneOff(DynoId(Uuid::from_u128(1))));
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost", "-connect"])
        .arg(api.address.to_string())
        .arg("-CAfile")
        .arg(api.ca())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is there");
    let mut stdin = client.stdin.take().expect("piped");
    stdin.write_all(format!("{secret}\r\n").as_bytes()).await.expect("sent");
    let (_, program) = api.program().await;
    program.output.send("hello from the dyno\n".into()).await.expect("room");
    drop(program);
    let mut output = String::new();
    let read = client.stdout.take().expect("piped").read_to_string(&mut output).await;
    read.expect("text");
    assert_eq!(output, "rendezvous\r\nhello from the dyno\n");
}

#[tokio::test]
async fn clients_that_say_nothing_or_too_slowly_are_let_go() {
    let short = Duration::from_millis(200);
    let limits = Limits { first_bytes: short, handshake: short, request_head: short, ..Limits::default() };
    let api = start_with(limits).await;
    for said in [&b""[..], b"\x16\x03\x01", b"rdv.0123", b"GET /who HTTP/1.1\r\nHost: local"] {
        let mut client = api.connect(false).await;
        send(&mut client, said).await;
        let closed = async {
            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest).await;
        };
        timeout(SOON, closed).await.unwrap_or_else(|_| panic!("still open after {said:?}"));
    }
    // A client that does what it should may be too slow as well, on a busy machine.
    let patient = ["--retry", "60", "--retry-delay", "1", "--retry-all-errors"];
    let url = format!("http://{}/who", api.address);
    assert_eq!(api.curl(&[&patient[..], &[&url]].concat()).await, "http from 127.0.0.1");
}

#[tokio::test]
async fn stopping_lets_requests_end_and_takes_no_more() {
    let mut api = start().await;
    let (mut attached, program) = session(&mut api, &[]).await;
    let mut idle = api.connect(true).await;
    send(&mut idle, b"GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(read_some(&mut idle).await.starts_with("HTTP/1.1 200"));
    let mut slow = api.connect(false).await;
    send(&mut slow, b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    timeout(SOON, api.slow_begins.notified()).await.expect("it is asked for");
    api.stop.cancel();
    let mut answer = String::new();
    timeout(SOON, slow.read_to_string(&mut answer)).await.expect("in time").expect("closed in order");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("slow"), "{answer}");
    timeout(SOON, api.served).await.expect("ends in time").expect("without a panic");
    assert!(is_closed(&mut idle).await && is_closed(&mut attached).await);
    assert!(program.output.is_closed(), "rendezvous sessions end with the process");
    assert!(TcpStream::connect(api.address).await.is_err());
}
