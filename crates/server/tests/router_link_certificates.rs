//! Certificates on their way to real routers: each once, in a frame of its own, over restarts of either side.
#![allow(clippy::unwrap_used)]

mod routers;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferroku_core::AppId;
use ferroku_core::protocol::frame::Decoder;
use ferroku_core::protocol::router::{
    Certificate, FromRouter, Hello, PROTOCOL_VERSION, Role, RouteApp, RouteTable, ToRouter,
};
use ferroku_server::router_link::RouterLink;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use routers::{end, start_router};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsConnector;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
const MANY: usize = 2000;
const TABLE_FRAME: u8 = 2;
const CERTIFICATE_FRAME: u8 = 5;

/// Issues certificates, and looks which one a host is shown.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    client: TlsConnector,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { issuer: Issuer::new(params, key), client: TlsConnector::from(Arc::new(config)) }
    }

    fn issue(&self, number: usize) -> Arc<Certificate> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host(number)]).unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Arc::new(Certificate::new(number.to_string(), chain, key.serialize_pem()))
    }

    /// Fails unless the router shows this certificate for its host.
    async fn assert_shown(&self, address: SocketAddr, certificate: &Certificate) {
        let name = host(certificate.id.parse().unwrap());
        let shown = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(name.clone()).unwrap();
            self.client.connect(name, stream).await.unwrap()
        };
        let stream = tokio::time::timeout(PATIENCE, shown).await.expect("the handshake ends");
        let leaf = CertificateDer::from_pem_slice(certificate.chain_pem.as_bytes()).unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], leaf, "{name}");
    }
}

fn host(number: usize) -> String {
    format!("h{number}.example.com")
}

fn publish(link: &RouterLink, certificates: &[Arc<Certificate>]) -> u64 {
    let hosts: Vec<String> = (0..MANY).map(host).collect();
    let shown = certificates.iter().map(|one| one.shown_to(vec![host(one.id.parse().unwrap())]));
    let table = RouteTable {
        apps: vec![RouteApp::new(AppId(Uuid::from_u128(1)), "shop", hosts)],
        certificates: shown.collect(),
        ..RouteTable::default()
    };
    link.publish(table, certificates.to_vec())
}

async fn serve(link: &RouterLink, certificates: &[Arc<Certificate>]) {
    let version = publish(link, certificates);
    tokio::time::timeout(PATIENCE, link.wait_applied(version)).await.unwrap();
}

/// What has gone through a socket between a link and a router.
#[derive(Default)]
struct Counted {
    certificates: AtomicUsize,
    tables: AtomicUsize,
    largest_bytes: AtomicUsize,
}

impl Counted {
    fn certificates(&self) -> usize {
        self.certificates.load(Ordering::SeqCst)
    }

    fn largest_bytes(&self) -> usize {
        self.largest_bytes.load(Ordering::SeqCst)
    }

    /// Listens in `folder` as the router does, and passes on what it counts.
    fn between(folder: &Path) -> Arc<Self> {
        let counted = Arc::new(Self::default());
        let listener = UnixListener::bind(folder.join("counted.sock")).unwrap();
        let (result, router) = (counted.clone(), folder.join("router.sock"));
        tokio::spawn(async move {
            while let Ok((control, _)) = listener.accept().await {
                // While there is no router, control finds its connection closed and tries again.
                let Ok(router) = UnixStream::connect(&router).await else { continue };
                tokio::spawn(counted.clone().pass(control, router));
            }
        });
        result
    }

    async fn pass(self: Arc<Self>, control: UnixStream, router: UnixStream) {
        let (mut from_control, mut to_control) = control.into_split();
        let (mut from_router, mut to_router) = router.into_split();
        let count = async {
            let mut decoder = Decoder::default();
            let mut buffer = vec![0; 65536];
            loop {
                let count = from_control.read(&mut buffer).await.unwrap_or(0);
                if count == 0 {
                    return;
                }
                // Counted first: what the router has applied is counted.
                decoder.push(&buffer[..count]);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    self.largest_bytes.fetch_max(frame.payload.len(), Ordering::SeqCst);
                    match frame.frame_type {
                        CERTIFICATE_FRAME => self.certificates.fetch_add(1, Ordering::SeqCst),
                        TABLE_FRAME => self.tables.fetch_add(1, Ordering::SeqCst),
                        _ => 0,
                    };
                }
                if to_router.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        };
        // Either side's end is the other's.
        tokio::select! {
            () = count => {}
            _ = tokio::io::copy(&mut from_router, &mut to_control) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_certificates_are_sent_once_and_a_new_one_is_one_frame() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Authority::new();
    let mut certificates: Vec<_> = (0..MANY).map(|number| authority.issue(number)).collect();
    let router = start_router(folder.path(), &listener);
    let counted = Counted::between(folder.path());
    let link = RouterLink::connect(folder.path().join("counted.sock"));
    serve(&link, &certificates).await;
    assert_eq!(counted.certificates(), MANY);
    for number in [0, 999, MANY - 1] {
        authority.assert_shown(address, &certificates[number]).await;
    }
    for _ in 0..5 {
        serve(&link, &certificates).await;
    }
    assert_eq!(counted.certificates(), MANY, "a table sends none again");
    certificates[7] = authority.issue(7);
    serve(&link, &certificates).await;
    assert_eq!(counted.certificates(), MANY + 1);
    authority.assert_shown(address, &certificates[7]).await;
    authority.assert_shown(address, &certificates[8]).await;
    // What a table left out is sent again when one names it.
    serve(&link, &certificates[1..]).await;
    serve(&link, &certificates).await;
    assert_eq!(counted.certificates(), MANY + 2);
    authority.assert_shown(address, &certificates[0]).await;
    // A table of 2,000 hosts, each with a certificate: hundreds of bytes each, where a chain and a key have thousands.
    assert!(counted.largest_bytes() < MANY * 300, "{} bytes", counted.largest_bytes());
    end(router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_and_a_control_that_begin_anew_come_to_the_same_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Authority::new();
    let mut certificates: Vec<_> = (0..MANY).map(|number| authority.issue(number)).collect();
    let router = start_router(folder.path(), &listener);
    let counted = Counted::between(folder.path());
    let link = RouterLink::connect(folder.path().join("counted.sock"));
    serve(&link, &certificates).await;
    // A router that has just begun has the table on its disk but no key: a client waits, whichever it asks for.
    end(router).await;
    let router = start_router(folder.path(), &listener);
    authority.assert_shown(address, &certificates[MANY - 1]).await;
    assert_eq!(counted.certificates(), 2 * MANY);
    authority.assert_shown(address, &certificates[0]).await;
    // Without a control the router goes on with what it has.
    drop(link);
    authority.assert_shown(address, &certificates[1]).await;
    let link = RouterLink::connect(folder.path().join("counted.sock"));
    certificates[1] = authority.issue(1);
    let publishing = serve(&link, &certificates);
    let asking = async {
        for number in (2..MANY).step_by(97) {
            authority.assert_shown(address, &certificates[number]).await;
        }
    };
    tokio::join!(publishing, asking);
    assert_eq!(counted.certificates(), 3 * MANY);
    authority.assert_shown(address, &certificates[1]).await;
    // One router replaces another that still has a connection: both are told, and a change reaches both.
    let next = start_router(folder.path(), &listener);
    router.leave();
    certificates[2] = authority.issue(2);
    serve(&link, &certificates).await;
    end(router).await;
    authority.assert_shown(address, &certificates[2]).await;
    authority.assert_shown(address, &certificates[1]).await;
    end(next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_a_slow_router_has_not_read_are_not_kept_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let link = RouterLink::connect(&path);
    let (mut stream, _) = listener.accept().await.unwrap();
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        binary_digest: String::new(),
        instance: 1,
        role: Role::Router,
    };
    stream.write_all(&FromRouter::Hello(hello).encode().unwrap()).await.unwrap();
    // Each is more than the socket holds.
    let table = RouteTable {
        apps: vec![RouteApp::new(AppId(Uuid::from_u128(1)), "shop", (0..40_000).map(host).collect())],
        ..RouteTable::default()
    };
    let mut newest = 0;
    for _ in 0..50 {
        newest = link.publish(table.clone(), Vec::new());
        tokio::task::yield_now().await;
    }
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 65536];
    let mut versions = Vec::new();
    while versions.last() != Some(&newest) {
        let count = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        decoder.push(&buffer[..count]);
        while let Some(frame) = decoder.next_frame().unwrap() {
            if let Some(ToRouter::Table(table)) = ToRouter::decode(&frame).unwrap() {
                versions.push(table.version);
            }
        }
    }
    assert!(versions.len() <= 2, "the one that was being sent, and the newest: {versions:?} of 50");
}
