//! A certificate authority of a test's own: Pebble, which speaks ACME, and its DNS server, where every name leads to
//! 127.0.0.1 until a test says otherwise.
//!
//! Made in two steps, because node and authority must know of each other: [`TestAuthority::prepare`] chooses ports and
//! makes the authority's own certificate; [`TestAuthority::serve`] starts it once the router's port is known.

use crate::ports;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Both programs are up within a second; a machine that builds meanwhile is given two.
const START_LIMIT: Duration = Duration::from_secs(120);

/// An authority on free ports of 127.0.0.1; gone with this value.
#[derive(Debug)]
pub struct TestAuthority {
    folder: TempDir,
    port: u16,
    management_port: u16,
    dns_port: u16,
    dns_management_port: u16,
    children: Vec<Child>,
}

impl TestAuthority {
    /// Chooses ports and makes what it needs on disk. `lifetime_seconds`: how long its certificates are good for.
    ///
    /// # Panics
    /// When openssl is not there.
    pub fn prepare(lifetime_seconds: u32) -> Self {
        let folder =
            tempfile::Builder::new().prefix("ferroku-pebble-").tempdir().expect("a temporary folder");
        let script = r#"
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=Test \
                -addext basicConstraints=critical,CA:TRUE -keyout root.key -out root.pem &&
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout own.key -out own.csr &&
            echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' >own.ext &&
            openssl x509 -req -in own.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile own.ext -out own.pem
        "#;
        let output =
            Command::new("bash").args(["-c", script]).current_dir(folder.path()).output().expect("bash runs");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        let [port, management_port, dns_port, dns_management_port] = ports::free();
        let authority =
            Self { folder, port, management_port, dns_port, dns_management_port, children: Vec::new() };
        let path = |name: &str| authority.folder.path().join(name).display().to_string();
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management_port}"),
            "certificate": path("own.pem"),
            "privateKey": path("own.key"),
            "httpPort": 0,
            "tlsPort": 0,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": lifetime_seconds,
        }});
        fs::write(authority.folder.path().join("config.json"), config.to_string()).expect("our own folder");
        authority
    }

    /// For `--acme-directory`.
    pub fn directory_url(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// For `--acme-root`.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// Starts it; it looks for challenges' answers on this port of the addresses that its DNS server tells.
    ///
    /// # Panics
    /// When Pebble is not installed (`scripts/setup.sh test` does it) or does not start.
    pub fn serve(&mut self, http_port: u16) {
        let path = self.folder.path().join("config.json");
        let config = fs::read_to_string(&path).expect("prepared");
        let config = config.replace(r#""httpPort":0"#, &format!(r#""httpPort":{http_port}"#));
        fs::write(&path, config).expect("our own folder");
        let dns = format!("127.0.0.1:{}", self.dns_port);
        let mut server = Command::new("pebble-challtestsrv");
        server.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", &dns]);
        server.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        server.args(["-management", &format!("127.0.0.1:{}", self.dns_management_port)]);
        self.spawn(server, "dns.log");
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(&path).args(["-dnsserver", &dns]);
        // It answers at once, and with as few good nonces as its authors think a client must bear.
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        self.spawn(pebble, "pebble.log");
        let deadline = Instant::now() + START_LIMIT;
        while self.curl(&[&self.directory_url()]).is_none() || self.curl(&[&self.dns_url("")]).is_none() {
            assert!(Instant::now() < deadline, "Pebble does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lets a name lead elsewhere.
    ///
    /// # Panics
    /// When the DNS server does not answer.
    pub fn lead(&self, host: &str, address: &str) {
        let body = serde_json::json!({"host": format!("{host}."), "addresses": [address]}).to_string();
        // Adding alone would leave the address before in front.
        for step in ["clear-a", "add-a"] {
            self.curl(&["-d", &body, &self.dns_url(step)]).expect("the DNS server answers");
        }
    }

    /// A file with the root of the certificates that it issues: another than that of its own one.
    ///
    /// # Panics
    /// When Pebble does not answer.
    pub fn issuing_root(&self) -> PathBuf {
        let url = format!("https://localhost:{}/roots/0", self.management_port);
        let pem = self.curl(&[&url]).expect("Pebble answers");
        let path = self.folder.path().join("issuing.pem");
        fs::write(&path, pem).expect("our own folder");
        path
    }

    /// What Pebble said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("pebble.log")).unwrap_or_default()
    }

    fn dns_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.dns_management_port)
    }

    fn curl(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("curl");
        command.args(["-s", "--noproxy", "*", "--cacert"]).arg(self.root()).args(arguments);
        let output = command.output().expect("curl runs");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn spawn(&mut self, mut command: Command, log: &str) {
        let file = fs::File::create(self.folder.path().join(log)).expect("our own folder");
        let other = file.try_clone().expect("a file can be shared");
        command.stdin(Stdio::null()).stdout(file).stderr(other);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{:?}: {error}; scripts/setup.sh test installs it", command.get_program())
        });
        self.children.push(child);
    }
}

impl Drop for TestAuthority {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
