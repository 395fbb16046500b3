//! A router without the rest of a node, for measurements: `serve LISTEN HOST DYNO...`, such as
//! `serve 127.0.0.1:9000 shop.localhost 127.0.0.1:9001 127.0.0.1:9002`. Ends when stdin ends. A thread stands in
//! for control: it takes the request records and acknowledges them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;

use ferroku_core::protocol::frame::Decoder;
use ferroku_core::protocol::router::{
    Acknowledge, FromRouter, Hello, PROTOCOL_VERSION, Role, RouteApp, RouteTable, Target, TargetState,
    ToRouter,
};
use ferroku_core::{AppId, DynoId};
use ferroku_router::limits::{ConnectionLimits, Timeouts};
use ferroku_router::{Listener, Router, RouterConfig, socket};
use uuid::Uuid;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, host, dynos @ ..] = arguments.as_slice() else {
        return Err("usage: serve LISTEN HOST DYNO...".into());
    };
    let folder = std::env::temp_dir().join(format!("ferroku-serve-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let table = RouteTable { version: 1, apps: vec![app(host, dynos)?], ..RouteTable::default() };
    std::fs::write(folder.join("table.json"), serde_json::to_vec(&table)?)?;
    let router = Router::start(RouterConfig {
        listeners: vec![Listener { listener: TcpListener::bind(listen)?, public_port: None }],
        api_listener: None,
        control: socket::bind(&folder.join("router.sock"))?,
        state_folder: folder.clone(),
        binary_digest: String::new(),
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        trusted_uid: 0,
        timeouts: Timeouts::default(),
        connection_limits: ConnectionLimits::default(),
        ssh_socket: None,
    })?;
    let control = socket::connect(&folder.join("router.sock"))?;
    std::thread::spawn(move || acknowledge(control));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    router.leave();
    router.wait();
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Acknowledges every batch of records.
fn acknowledge(mut control: UnixStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        binary_digest: String::new(),
        instance: 0,
        role: Role::Control,
    };
    control.write_all(&ToRouter::Hello(hello).encode()?)?;
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while let Some(frame) = decoder.next_frame()? {
            if let Some(FromRouter::RequestLog(log)) = FromRouter::decode(&frame)?
                && let Some(last) = log.records.last()
            {
                let acknowledge = Acknowledge { instance: log.instance, sequence: last.sequence };
                control.write_all(&ToRouter::Acknowledge(acknowledge).encode()?)?;
            }
        }
        match control.read(&mut buffer)? {
            0 => return Ok(()),
            count => decoder.push(&buffer[..count]),
        }
    }
}

fn app(host: &str, dynos: &[String]) -> Result<RouteApp, std::net::AddrParseError> {
    let addresses = dynos.iter().map(|dyno| dyno.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let target = |(number, address): (usize, SocketAddr)| Target {
        dyno_id: DynoId(Uuid::from_u128(number as u128)),
        name: format!("web.{}", number + 1),
        address,
        state: TargetState::Healthy,
        asleep: None,
    };
    Ok(RouteApp {
        web_quantity: 1,
        targets: addresses.into_iter().enumerate().map(target).collect(),
        ..RouteApp::new(AppId(Uuid::nil()), "measured", vec![host.to_owned()])
    })
}
