//! The proxies that are measured: our router, and Debian's nginx, HAProxy and Caddy, each with a worker a core, kept
//! connections to the dynos, the headers that Ferroku adds, its access log, and a port for TLS.

use super::machine::{Core, group};
use super::tls::Certificate;
use ferroku_core::uids::ROUTER_UID;
use ferroku_testkit::TestNode;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A peer that does not listen by then has failed.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Something to be measured.
pub struct Proxy {
    pub name: &'static str,
    pub url: String,
    /// Where it speaks TLS.
    pub tls: SocketAddr,
    /// Leader of a group of processes, or one process.
    leader: i32,
    is_group: bool,
    /// Processes that do its log's work elsewhere.
    pub log_pids: Vec<i32>,
}

impl Proxy {
    /// The node's own router.
    pub fn ferroku(node: &TestNode) -> Self {
        Self {
            name: "Ferroku",
            url: format!("http://{}", node.router),
            tls: node.router,
            leader: node.pid_of("router").expect("it runs"),
            is_group: false,
            log_pids: vec![node.pid_of("control").expect("it runs")],
        }
    }

    pub fn pids(&self) -> Vec<i32> {
        if self.is_group { group(self.leader) } else { vec![self.leader] }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Haproxy,
    Caddy,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Caddy];

    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    /// Ours divided by theirs: requests at least, p99 at most, CPU at most. Caddy is only looked at.
    pub fn targets(self) -> (Option<f64>, Option<f64>, Option<f64>) {
        match self {
            Self::Nginx => (Some(1.0), Some(1.0), None),
            Self::Haproxy => (Some(0.8), None, Some(1.4)),
            Self::Caddy => (None, None, None),
        }
    }

    fn configuration(self, folder: &Path, (port, tls_port): (u16, u16), setup: &Setup<'_>) -> String {
        let folder = folder.display();
        let Setup { dynos, workers, certificate } = *setup;
        let (chain, key, both) =
            (certificate.chain.display(), certificate.key.display(), certificate.both.display());
        match self {
            Self::Nginx => {
                let servers: String = dynos.iter().map(|dyno| format!("    server {dyno};\n")).collect();
                format!(
                    "worker_processes {workers};\ndaemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n\
                     worker_rlimit_nofile 16384;\nevents {{ worker_connections 4096; }}\nhttp {{\n  \
                     access_log {folder}/access.log combined;\n  client_body_temp_path {folder}/body;\n  \
                     proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path {folder}/fastcgi;\n  \
                     uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n  \
                     keepalive_requests 1000000000;\n  client_body_buffer_size 128k;\n  proxy_buffers 16 16k;\n  \
                     upstream dynos {{\n{servers}    keepalive 512;\n    keepalive_requests 1000000000;\n  }}\n  \
                     server {{\n    listen 127.0.0.1:{port} backlog=4096;\n    \
                     listen 127.0.0.1:{tls_port} ssl backlog=4096;\n    ssl_certificate {chain};\n    \
                     ssl_certificate_key {key};\n    ssl_protocols TLSv1.2 TLSv1.3;\n    location / {{\n      \
                     proxy_pass http://dynos;\n      proxy_http_version 1.1;\n      \
                     proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n      \
                     proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n      \
                     proxy_set_header X-Forwarded-Proto $scheme;\n      \
                     proxy_set_header X-Forwarded-Port $server_port;\n      \
                     proxy_set_header X-Request-Id $request_id;\n    }}\n  }}\n}}\n"
                )
            }
            Self::Haproxy => {
                let servers: String = dynos
                    .iter()
                    .enumerate()
                    .map(|(number, dyno)| format!("  server dyno{number} {dyno} pool-max-conn -1\n"))
                    .collect();
                format!(
                    "global\n  nbthread {workers}\n  maxconn 4096\n  log stdout format raw local0\ndefaults\n  mode http\n  \
                     log global\n  option httplog\n  option http-keep-alive\n  option forwardfor\n  http-reuse always\n  \
                     timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
                     unique-id-format %[uuid()]\n  unique-id-header X-Request-Id\nfrontend clients\n  \
                     bind 127.0.0.1:{port} backlog 4096\n  bind 127.0.0.1:{tls_port} ssl crt {both} backlog 4096\n  \
                     http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}\n  \
                     http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n  \
                     http-request set-header X-Forwarded-Port %[dst_port]\n  default_backend dynos\nbackend dynos\n{servers}"
                )
            }
            Self::Caddy => {
                let dynos: Vec<String> = dynos.iter().map(SocketAddr::to_string).collect();
                let site = format!(
                    "bind 127.0.0.1\n  \
                     log {{\n    output file {folder}/access.log\n  }}\n  reverse_proxy {} {{\n    \
                     header_up X-Request-Id {{http.request.uuid}}\n    transport http {{\n      \
                     keepalive_idle_conns_per_host 512\n    }}\n  }}\n}}\n",
                    dynos.join(" ")
                );
                format!(
                    "{{\n  admin off\n  auto_https off\n}}\nhttp://:{port} {{\n  {site}\
                     https://:{tls_port} {{\n  tls {chain} {key}\n  {site}"
                )
            }
        }
    }

    fn command(self, file: &Path) -> Command {
        let mut command = match self {
            Self::Nginx => Command::new("/usr/sbin/nginx"),
            Self::Haproxy => Command::new("/usr/sbin/haproxy"),
            Self::Caddy => Command::new("/usr/bin/caddy"),
        };
        match self {
            Self::Nginx => command.arg("-p").arg(file.with_file_name("")).arg("-c").arg(file),
            Self::Haproxy => command.arg("-db").arg("-f").arg(file),
            Self::Caddy => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file),
        };
        command
    }
}

/// What the peers of one group of rows have in common.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    pub dynos: &'a [SocketAddr],
    /// Threads or processes that serve: one a core.
    pub workers: usize,
    pub certificate: &'a Certificate,
}

/// A running peer.
pub struct Peer {
    pub kind: Kind,
    pub proxy: Proxy,
    log: PathBuf,
    child: Child,
}

impl Peer {
    /// Starts it on free ports, on these cores.
    pub fn start(kind: Kind, folder: &Path, setup: &Setup<'_>, cores: &Core) -> Self {
        let folder = folder.join(format!("{}-{}", kind.name(), setup.workers));
        fs::create_dir(&folder).expect("our own folder");
        let [plain, tls] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [port, tls_port] = [&plain, &tls].map(|one| one.local_addr().expect("it is bound").port());
        drop((plain, tls));
        let file = folder.join("configuration");
        let configuration = kind.configuration(&folder, (port, tls_port), setup);
        fs::write(&file, configuration).expect("our own folder");
        let log = folder.join("access.log");
        let output = fs::File::create(&log).expect("our own folder");
        for path in [&folder, &log] {
            std::os::unix::fs::chown(path, Some(ROUTER_UID), Some(ROUTER_UID)).expect("this runs as root");
        }
        let mut command = kind.command(&file);
        command.uid(ROUTER_UID).gid(ROUTER_UID).process_group(0).current_dir(&folder);
        command.env("HOME", &folder).env("GOMAXPROCS", setup.workers.to_string()).stdin(Stdio::null());
        // HAProxy logs to its output; the others say there only what went wrong.
        let errors = fs::File::create(folder.join("errors")).expect("our own folder");
        if kind == Kind::Haproxy {
            command.stdout(output)
        } else {
            command.stdout(Stdio::null())
        };
        let child = command.stderr(errors).spawn().expect("the peer is installed by scripts/setup.sh bench");
        let leader = i32::try_from(child.id()).expect("a pid");
        let proxy = Proxy {
            name: kind.name(),
            url: format!("http://127.0.0.1:{port}"),
            tls: SocketAddr::from(([127, 0, 0, 1], tls_port)),
            leader,
            is_group: true,
            log_pids: Vec::new(),
        };
        let deadline = Instant::now() + START_LIMIT;
        while [port, tls_port].iter().any(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()) {
            let said = fs::read_to_string(folder.join("errors")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{} does not listen: {said}", kind.name());
            std::thread::sleep(Duration::from_millis(20));
        }
        proxy.pids().into_iter().for_each(|pid| cores.give(pid));
        Self { kind, proxy, log, child }
    }

    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Whether it has written its access log, without which it is no peer.
    pub fn writes_log(&self) -> bool {
        fs::metadata(&self.log).is_ok_and(|file| file.len() > 0)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx's workers end with their master when it is told to; the others are one process.
        let pid = rustix::process::Pid::from_raw(self.proxy.leader).expect("a pid is not 0");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
