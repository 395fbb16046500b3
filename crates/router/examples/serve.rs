//! A router without the rest of a node, for measurements: `serve LISTEN HOST DYNO...`, such as
//! `serve 127.0.0.1:9000 shop.localhost 127.0.0.1:9001 127.0.0.1:9002`. Ends when stdin ends. Records are
//! collected up to their limit and dropped, as in a router whose control is away.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};

use ferroku_core::protocol::router::{RouteApp, RouteTable, Target, TargetState};
use ferroku_core::{AppId, DynoId};
use ferroku_router::limits::Timeouts;
use ferroku_router::{Router, RouterConfig, socket};
use uuid::Uuid;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, host, dynos @ ..] = arguments.as_slice() else {
        return Err("usage: serve LISTEN HOST DYNO...".into());
    };
    let folder = std::env::temp_dir().join(format!("ferroku-serve-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let table = RouteTable { version: 1, apps: vec![app(host, dynos)?] };
    std::fs::write(folder.join("table.json"), serde_json::to_vec(&table)?)?;
    let router = Router::start(RouterConfig {
        listener: TcpListener::bind(listen)?,
        api_listener: None,
        control: socket::bind(&folder.join("router.sock"))?,
        state_folder: folder.clone(),
        binary_digest: String::new(),
        public_port: None,
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        trusted_uid: 0,
        timeouts: Timeouts::default(),
    })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    router.leave();
    router.wait();
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn app(host: &str, dynos: &[String]) -> Result<RouteApp, std::net::AddrParseError> {
    let addresses = dynos.iter().map(|dyno| dyno.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let target = |(number, address): (usize, SocketAddr)| Target {
        dyno_id: DynoId(Uuid::from_u128(number as u128)),
        name: format!("web.{}", number + 1),
        address,
        state: TargetState::Healthy,
    };
    Ok(RouteApp {
        app_id: AppId(Uuid::nil()),
        name: "measured".into(),
        hosts: vec![host.to_owned()],
        maintenance: false,
        blank: false,
        web_quantity: 1,
        crashed: false,
        booting: false,
        error_page_url: None,
        maintenance_page_url: None,
        targets: addresses.into_iter().enumerate().map(target).collect(),
    })
}
