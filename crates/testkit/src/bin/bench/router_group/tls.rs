//! What the rows about TLS need beyond `wrk`: a certificate, a client that makes a connection for each request, and
//! idle connections.

use super::load::{GENERATOR_LIMIT, is_mostly, median};
use super::machine::{connect_from, cpu_seconds};
use super::peers::Proxy;
use ferroku_testkit::TestNode;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, Stream};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The app's domain that has a certificate.
pub const HOST: &str = "bench.example.com";
/// How long connections are made.
const TIME: Duration = Duration::from_secs(3);
/// Clients that make them.
const CLIENTS: usize = 4;
/// One that hears nothing has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// An ECDSA certificate (P-256) for [`HOST`], in the files that the proxies want.
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
    /// The key behind the chain.
    pub both: PathBuf,
}

impl Certificate {
    pub fn make(folder: &Path) -> Self {
        let [chain, key, both] = ["chain.pem", "key.pem", "both.pem"].map(|name| folder.join(name));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=bench", "-addext"])
            .arg(format!("subjectAltName=DNS:{HOST}"))
            .arg("-out")
            .arg(&chain)
            .arg("-keyout")
            .arg(&key)
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        let read = |path| fs::read_to_string(path).expect("openssl wrote it");
        fs::write(&both, read(&chain) + &read(&key)).expect("our own folder");
        for path in [&chain, &key, &both] {
            // The peers are another user's.
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("our own file");
        }
        Self { chain, key, both }
    }

    /// Gives it to the app `bench`, with the domain that it is for.
    pub fn add_to(&self, node: &TestNode) {
        let read = |path| fs::read_to_string(path).expect("openssl wrote it");
        let domain = serde_json::json!({ "hostname": HOST, "sni_endpoint": null });
        let endpoint = serde_json::json!({
            "certificate_chain": read(&self.chain), "private_key": read(&self.key)
        });
        for (path, body) in [("domains", domain), ("sni-endpoints", endpoint)] {
            let file = node.work.join("body.json");
            fs::write(&file, body.to_string()).expect("our own folder");
            let line = format!(
                "curl -sS --fail -o /dev/null -H \"Authorization: Bearer $HEROKU_API_KEY\" -H 'Content-Type: application/json' \
                 -d @{} \"$HEROKU_HOST/apps/bench/{path}\"",
                file.display()
            );
            node.run_unchecked(&line).succeeded();
        }
        let client = Client::new();
        node.wait_for("the certificate to be shown", || client.ask(connect_from(0, node.router)).is_ok());
    }
}

/// What came of a connection for each request.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    pub per_second: f64,
    /// The proxy's and its log's.
    pub cpu_ms_each: f64,
    /// The generator was too busy, or a connection failed.
    pub is_void: bool,
}

impl Connections {
    /// Of each figure its median.
    pub fn median(runs: &[Self]) -> Self {
        Self {
            per_second: median(runs, |run| run.per_second),
            cpu_ms_each: median(runs, |run| run.cpu_ms_each),
            is_void: is_mostly(runs, |run| run.is_void),
        }
    }

    /// Full handshakes, each with one request.
    pub fn measure(proxy: &Proxy) -> Self {
        let client = Client::new();
        let of_proxy = || cpu_seconds(&proxy.pids()) + cpu_seconds(&proxy.log_pids);
        let own = || cpu_seconds(&[i32::try_from(std::process::id()).expect("a pid")]);
        let (cpu, busy, began) = (of_proxy(), own(), Instant::now());
        let one = || {
            let (mut made, mut failed) = (0_u32, false);
            while began.elapsed() < TIME {
                failed |= client.ask(TcpStream::connect(proxy.tls)).is_err();
                made += 1;
            }
            (made, failed)
        };
        let made: Vec<(u32, bool)> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
            clients.into_iter().map(|client| client.join().expect("it only counts")).collect()
        });
        let elapsed = began.elapsed().as_secs_f64();
        let count = f64::from(made.iter().map(|(made, _)| made).sum::<u32>()).max(1.0);
        Self {
            per_second: count / elapsed,
            cpu_ms_each: (of_proxy() - cpu) * 1000.0 / count,
            is_void: (own() - busy) / elapsed > GENERATOR_LIMIT || made.iter().any(|(_, failed)| *failed),
        }
    }
}

/// Kept connections, each of which has had one answer. Only their sockets are kept: nothing more is said.
pub fn idle_connections(router: SocketAddr, count: usize) -> Vec<TcpStream> {
    let client = Client::new();
    let open = |number| client.keep(connect_from(number, router)).expect("the router takes it");
    (0..count).map(open).collect()
}

/// Makes full handshakes, and believes whatever certificate it is shown.
struct Client(Arc<ClientConfig>);

impl Client {
    fn new() -> Self {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>);
        let builder = builder.with_safe_default_protocol_versions().expect("the provider has them");
        let verifier = Arc::new(AnyCertificate(algorithms));
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Self(Arc::new(config))
    }

    /// One request over a connection that ends with its answer.
    fn ask(&self, stream: io::Result<TcpStream>) -> io::Result<()> {
        self.request(&mut stream?, "Connection: close\r\n")
    }

    /// One request over a connection that stays.
    fn keep(&self, stream: io::Result<TcpStream>) -> io::Result<TcpStream> {
        let mut stream = stream?;
        self.request(&mut stream, "").map(|()| stream)
    }

    fn request(&self, stream: &mut TcpStream, header: &str) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)?;
        let mut tls = Stream::new(&mut connection, stream);
        write!(tls, "GET /small HTTP/1.1\r\nHost: {HOST}\r\n{header}\r\n")?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        // The body has 1,024 bytes, and is the last thing that comes.
        while !answer.ends_with(b"xxxxxxxx") || answer.len() < 1024 {
            match tls.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => answer.extend_from_slice(&buffer[..count]),
            }
        }
        match answer.starts_with(b"HTTP/1.1 200") {
            true => Ok(()),
            false => Err(io::Error::other("not 200")),
        }
    }
}

#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
