//! The driver's own times: a node without control, whose dynos run this program.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ferroku_core::uids::{FIRST_APP_UID, ROUTER_UID, SLUG_UID};
use ferroku_core::{AppId, DynoId};
use ferroku_runtime::{
    Command, Driver, DynoEvent, DynoHandle, DynoSpec, Environment, Limits, NetworkPolicy, SandboxConfig,
    SandboxDriver,
};
use uuid::Uuid;

use crate::{Outcome, now_us, say};

/// Where dynos find this program.
const PROGRAM: &str = "/app/start_times";
const PORT: u16 = 5006;
/// dyno-init gives its memory back once its dyno has said nothing for five seconds.
const SETTLED: Duration = Duration::from_secs(7);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Dynos one after the other.
pub fn one(count: usize) -> Outcome {
    with_node(|node| async move {
        for _ in 0..count {
            let began = now_us();
            let mut handle = node.start("clock").await?;
            let exec_us = clock_of(&mut handle).await?.saturating_sub(began);
            node.driver.remove(handle.dyno_id).await?;
            let began = now_us();
            let handle = node.start("serve").await?;
            let fetch = node.fetch(handle.address.ok_or("the dyno has no address")?)?;
            let first_byte_us = answer_of(fetch)?.saturating_sub(began);
            node.driver.remove(handle.dyno_id).await?;
            say(format!("{exec_us} {first_byte_us}"))?;
        }
        Ok(node)
    })
}

/// Dynos of one release, as many as the machine starts at once.
pub fn many(count: usize) -> Outcome {
    with_node(|node| async move {
        let before = available_bytes()?;
        let began = Instant::now();
        let starts = (0..count).map(|_| node.start("serve"));
        let handles = futures::future::try_join_all(starts).await?;
        let fetches = handles.iter().map(|handle| node.fetch(handle.address.ok_or("no address")?));
        for fetch in fetches.collect::<Result<Vec<Child>>>()? {
            answer_of(fetch)?;
        }
        let seconds = began.elapsed().as_secs_f64();
        tokio::time::sleep(SETTLED).await;
        let init_pss: u64 = processes(&node.init)?.iter().map(|pid| pss_bytes(*pid)).sum();
        let app_pss: u64 = processes(&node.app)?.iter().map(|pid| pss_bytes(*pid)).sum();
        let all_in = before.saturating_sub(available_bytes()?);
        let each = |bytes: u64| bytes as f64 / count as f64 / (1 << 20) as f64;
        say(format!("{seconds} {} {}", each(init_pss), each(all_in.saturating_sub(app_pss))))?;
        let removals = handles.iter().map(|handle| node.driver.remove(handle.dyno_id));
        futures::future::try_join_all(removals).await?;
        Ok(node)
    })
}

struct Node {
    driver: SandboxDriver,
    slug: String,
    /// This program, outside.
    program: PathBuf,
    /// The same as dynos run it, in their slug.
    app: PathBuf,
    /// dyno-init as this node's dynos have it.
    init: PathBuf,
}

fn with_node<F: Future<Output = Result<Node>>>(measure: impl FnOnce(Node) -> F) -> Outcome {
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let node = Node::open(folder.path()).await?;
        let node = measure(node).await?;
        node.driver.shutdown().await;
        Ok(())
    })
}

impl Node {
    async fn open(data: &Path) -> Result<Self> {
        let program = std::env::current_exe()?;
        let programs = program.ancestors().nth(2).ok_or("target/release/examples/start_times")?.to_path_buf();
        let slug = Uuid::new_v4().simple().to_string();
        let root = data.join("slugs").join(&slug);
        fs::create_dir_all(&root)?;
        let inside = root.join("start_times");
        fs::copy(&program, &inside)?;
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o755))?;
        for path in [&root, &inside] {
            chown(path, Some(SLUG_UID), Some(SLUG_UID))?;
        }
        let config =
            SandboxConfig { data: data.to_path_buf(), programs, allowed_networks: vec![], oci_runtime: None };
        let driver = SandboxDriver::open(config).await?;
        // The stock of network namespaces is a part of how dynos start, and it is filled while a node starts.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let init = fs::read_dir(data.join("bin"))?.flatten().map(|entry| entry.path());
        let init = init.into_iter().find(|path| path.to_string_lossy().contains("dyno-init"));
        Ok(Self { driver, slug, program, app: inside, init: init.ok_or("the node has no dyno-init")? })
    }

    async fn start(&self, part: &str) -> ferroku_runtime::Result<DynoHandle> {
        let variables = [("HOME", "/app".to_owned()), ("PORT", PORT.to_string())];
        let variables: BTreeMap<String, String> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let spec = DynoSpec {
            dyno_id: DynoId(Uuid::new_v4()),
            app_id: AppId(Uuid::nil()),
            name: "web.1".into(),
            uid_base: FIRST_APP_UID,
            slug_digest: Some(self.slug.clone()),
            command: Command::Exec(vec![PROGRAM.into(), part.into()]),
            port: Some(PORT),
            limits: Limits { memory_bytes: 256 << 20, cpu_shares: 256, pids: 128, disk_bytes: 256 << 20 },
            attach: None,
            boot_timeout_ms: None,
            network: NetworkPolicy::Internet,
            volumes: vec![],
            host_name: "web-1".into(),
        };
        self.driver.start(spec, Environment::from(variables)).await
    }

    /// Asks the dyno, as the router's user: no one else may.
    fn fetch(&self, address: SocketAddr) -> Result<Child> {
        let mut command = std::process::Command::new(&self.program);
        command.args(["fetch", &address.to_string()]).uid(ROUTER_UID).gid(ROUTER_UID);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
    }
}

fn answer_of(fetch: Child) -> Result<u64> {
    let output = fetch.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// What the command's clock said.
async fn clock_of(handle: &mut DynoHandle) -> Result<u64> {
    loop {
        match handle.next_event().await {
            Some(DynoEvent::Log { line, .. }) => return Ok(String::from_utf8_lossy(&line).trim().parse()?),
            Some(DynoEvent::StartFailed { message }) => return Err(message.into()),
            Some(_) => {}
            None => return Err("the dyno ended without a word".into()),
        }
    }
}

/// Processes that run this file, inside a dyno and outside.
fn processes(program: &Path) -> Result<Vec<u32>> {
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let wanted = file(program)?;
    let entries = fs::read_dir("/proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids
        .filter(|pid: &u32| file(Path::new(&format!("/proc/{pid}/exe"))).is_ok_and(|it| it == wanted))
        .collect())
}

fn pss_bytes(pid: u32) -> u64 {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:").unwrap_or(0)
}

fn available_bytes() -> Result<u64> {
    Ok(kilobytes("/proc/meminfo", "MemAvailable:").ok_or("/proc/meminfo does not tell what is available")?)
}

fn kilobytes(path: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}
