//! Bridge, veth pairs and network namespaces, by netlink, on a thread of their own.
//!
//! Entering a namespace changes the thread that does it, so no other work may ever run on that thread; it
//! also keeps a few namespaces ready, because making one takes up to 150 ms right after another was dropped.

use super::super::node::{Node, PREFIX_LENGTH};
use crate::{Result, RuntimeError};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};
use rtnetlink::{RouteMessageBuilder, new_connection};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::sync::{mpsc, oneshot};

/// Namespaces kept ready: a deploy of some dynos does not wait, and each costs 330 kB of kernel memory.
const READY: usize = 4;

/// A network namespace for one dyno. The slot is free again once no process is in the namespace, this is
/// dropped, and [`Links::release`] was called.
#[derive(Debug)]
pub(crate) struct Lease {
    pub namespace: OwnedFd,
    /// Slot and address; `None`: a namespace without a way out.
    pub slot: Option<(u32, Ipv4Addr)>,
}

/// Where the thread takes its orders.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    orders: mpsc::UnboundedSender<Order>,
}

enum Order {
    Lease { connected: bool, reply: oneshot::Sender<Result<Lease>> },
    Release(u32),
    Occupy(Vec<u32>),
    RemoveBridge(oneshot::Sender<()>),
}

struct Worker {
    node: Node,
    host: File,
    handle: Handle,
    bridge: u32,
    mtu: u32,
    ready: VecDeque<Lease>,
    /// Slots with a dyno, or with a namespace that waits for one.
    used: BTreeSet<u32>,
    next_slot: u32,
}

// === impl Links ===

impl Links {
    /// Starts the thread; `ready` gets the result of making the bridge.
    pub fn start(node: &Node) -> Result<Self> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (made, result) = std::sync::mpsc::channel();
        let node = node.clone();
        std::thread::Builder::new()
            .name("links".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                match runtime {
                    Ok(runtime) => runtime.block_on(work(node, inbox, made)),
                    Err(error) => drop(made.send(Err(failed("start the network thread")(error)))),
                }
            })
            .map_err(failed("start the network thread"))?;
        result.recv().unwrap_or(Err(RuntimeError::ShutDown))?;
        Ok(Self { orders })
    }

    /// A namespace for a dyno.
    pub async fn lease(&self, connected: bool) -> Result<Lease> {
        let (reply, result) = oneshot::channel();
        self.send(Order::Lease { connected, reply })?;
        result.await.unwrap_or(Err(RuntimeError::ShutDown))
    }

    /// A slot is free again.
    pub fn release(&self, slot: u32) {
        let _ = self.send(Order::Release(slot));
    }

    /// Slots of dynos that were there before us.
    pub fn occupy(&self, slots: Vec<u32>) {
        let _ = self.send(Order::Occupy(slots));
    }

    /// Drops the ready namespaces, every veth of ours and the bridge: no dyno runs any more.
    pub async fn remove_bridge(&self) {
        let (reply, done) = oneshot::channel();
        if self.send(Order::RemoveBridge(reply)).is_ok() {
            let _ = done.await;
        }
    }

    fn send(&self, order: Order) -> Result<()> {
        self.orders.send(order).map_err(|_| RuntimeError::ShutDown)
    }
}

/// Names of all network devices of the host.
pub(crate) fn link_names() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

async fn work(
    node: Node,
    mut inbox: mpsc::UnboundedReceiver<Order>,
    made: std::sync::mpsc::Sender<Result<()>>,
) {
    let mut worker = match Worker::new(node).await {
        Ok(worker) => {
            let _ = made.send(Ok(()));
            worker
        }
        Err(error) => {
            let _ = made.send(Err(error));
            return;
        }
    };
    loop {
        // Refill only when nobody waits.
        let order = match inbox.try_recv() {
            Ok(order) => order,
            Err(_) if worker.ready.len() < READY && worker.refill().await => continue,
            Err(_) => match inbox.recv().await {
                Some(order) => order,
                None => return,
            },
        };
        match order {
            Order::Lease { connected, reply } => {
                let lease = match worker.ready.pop_front().filter(|_| connected) {
                    Some(lease) => Ok(lease),
                    None => worker.make(connected).await,
                };
                if let Err(Ok(Lease { slot: Some((slot, _)), .. })) = reply.send(lease) {
                    worker.used.remove(&slot);
                }
            }
            Order::Release(slot) => drop(worker.used.remove(&slot)),
            Order::Occupy(slots) => worker.used.extend(slots),
            Order::RemoveBridge(reply) => {
                worker.remove_all().await;
                let _ = reply.send(());
                return;
            }
        }
    }
}

// === impl Worker ===

impl Worker {
    async fn new(node: Node) -> Result<Self> {
        let host =
            File::open("/proc/thread-self/ns/net").map_err(failed("open the host's network namespace"))?;
        let (connection, handle, _) = new_connection().map_err(failed("connect to netlink"))?;
        tokio::spawn(connection);
        let name = node.bridge();
        if let Err(error) = handle.link().add(LinkBridge::new(&name).up().build()).execute().await
            && !is_there_already(&error)
        {
            return Err(failed("make the bridge")(error));
        }
        let bridge = link_index(&handle, &name).await?;
        let settings = [("ipv6", "disable_ipv6", "1")];
        for (family, setting, value) in settings {
            let path = format!("/proc/sys/net/{family}/conf/{name}/{setting}");
            // Without IPv6 in the kernel there is nothing to turn off.
            let _ = std::fs::write(path, value);
        }
        let address = handle.address().add(bridge, node.gateway().into(), PREFIX_LENGTH).execute().await;
        if let Err(error) = address
            && !is_there_already(&error)
        {
            return Err(failed("give the bridge its address")(error));
        }
        let up = LinkUnspec::new_with_index(bridge).up().build();
        handle.link().set(up).execute().await.map_err(failed("bring the bridge up"))?;
        let mut worker = Self {
            mtu: uplink_mtu(),
            host,
            handle,
            bridge,
            ready: VecDeque::new(),
            used: BTreeSet::new(),
            next_slot: Node::slots().start,
            node,
        };
        worker.used = worker.slots_of_links();
        Ok(worker)
    }

    /// Slots whose veth is still there: dynos of before, or namespaces that are just going.
    fn slots_of_links(&self) -> BTreeSet<u32> {
        let prefix = self.node.veth_prefix();
        link_names().iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect()
    }

    /// The ready namespaces, what is left of others, and the bridge. The kernel takes a namespace and its veth away some
    /// time, seconds under load, after the last process in it: what is taken away here is gone at once.
    async fn remove_all(&mut self) {
        self.ready.clear();
        for slot in self.slots_of_links() {
            let (_, name) = self.node.slot(slot);
            if let Ok(index) = link_index(&self.handle, &name).await {
                // Gone in between is as good.
                let _ = self.handle.link().del(index).execute().await;
            }
        }
        let _ = self.handle.link().del(self.bridge).execute().await;
    }

    /// One more ready namespace; `false` when that failed: the next lease tries again and tells.
    async fn refill(&mut self) -> bool {
        match self.make(true).await {
            Ok(lease) => {
                self.ready.push_back(lease);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "cannot prepare a network namespace");
                false
            }
        }
    }

    async fn make(&mut self, connected: bool) -> Result<Lease> {
        let (namespace, inner) = self.new_namespace()?;
        let up = |index| LinkUnspec::new_with_index(index).up().build();
        const LOOPBACK: u32 = 1;
        inner.link().set(up(LOOPBACK)).execute().await.map_err(failed("bring loopback up"))?;
        if !connected {
            return Ok(Lease { namespace, slot: None });
        }
        let (slot, address, name) = self.make_pair(&namespace).await?;
        let lease = Lease { namespace, slot: Some((slot, address)) };
        match self.connect(&inner, address, &name).await {
            Ok(()) => Ok(lease),
            Err(error) => {
                self.used.remove(&slot);
                Err(error)
            }
        }
    }

    /// Makes a namespace and a netlink connection in it. There must be no await between entering and leaving: another
    /// task of this thread would run in the wrong namespace.
    fn new_namespace(&self) -> Result<(OwnedFd, Handle)> {
        // SAFETY: no memory is involved.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            return Err(failed("make a network namespace")(std::io::Error::last_os_error()));
        }
        let namespace = File::open("/proc/thread-self/ns/net");
        let settings = narrow();
        let connection = new_connection();
        // SAFETY: no memory is involved; the descriptor is open.
        if unsafe { libc::setns(self.host.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
            // This thread is lost in a namespace that nobody wants: nothing it did from here on would be right.
            panic!("cannot return to the host's network namespace: {}", std::io::Error::last_os_error());
        }
        settings?;
        let (connection, handle, _) = connection.map_err(failed("connect to netlink"))?;
        tokio::spawn(connection);
        Ok((namespace.map_err(failed("open the network namespace"))?.into(), handle))
    }

    /// A veth pair: `eth0` in the namespace, its other end here. The name reserves the slot on the host too.
    async fn make_pair(&mut self, namespace: &OwnedFd) -> Result<(u32, Ipv4Addr, String)> {
        let slots = Node::slots();
        let order = (self.next_slot..slots.end).chain(slots.start..self.next_slot);
        for slot in order.filter(|slot| !self.used.contains(slot)).collect::<Vec<_>>() {
            let (address, name) = self.node.slot(slot);
            let peer = LinkMessageBuilder::<LinkUnspec>::default()
                .name("eth0")
                .mtu(self.mtu)
                .setns_by_fd(namespace.as_raw_fd())
                .build();
            let pair = LinkMessageBuilder::<LinkVeth>::new(&name, "eth0")
                .mtu(self.mtu)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .build();
            match self.handle.link().add(pair).execute().await {
                Ok(()) => {
                    self.used.insert(slot);
                    // Addresses are used again late, so that nobody's open connection meets a stranger.
                    self.next_slot = if slot + 1 < slots.end { slot + 1 } else { slots.start };
                    return Ok((slot, address, name));
                }
                Err(error) if is_there_already(&error) => {}
                Err(error) => return Err(failed("make a veth pair")(error)),
            }
        }
        Err(RuntimeError::NoAddress { subnet: format!("{}/{PREFIX_LENGTH}", self.node.subnet) })
    }

    async fn connect(&self, inner: &Handle, address: Ipv4Addr, name: &str) -> Result<()> {
        let outer = link_index(&self.handle, name).await?;
        let attach = LinkUnspec::new_with_index(outer).controller(self.bridge).up().build();
        self.handle.link().set(attach).execute().await.map_err(failed("attach to the bridge"))?;
        let isolate = LinkBridgePort::new(outer).isolated(true).build();
        self.handle.link().set_port(isolate).execute().await.map_err(failed("isolate the bridge port"))?;
        let eth0 = link_index(inner, "eth0").await?;
        // The gateway is its only neighbour: the kernel has one table of neighbours for all namespaces, which a dyno
        // that had a thousand addresses at its link could fill.
        const ALONE: u8 = 32;
        let own = inner.address().add(eth0, address.into(), ALONE).execute().await;
        own.map_err(failed("give the dyno its address"))?;
        let up = LinkUnspec::new_with_index(eth0).up().build();
        inner.link().set(up).execute().await.map_err(failed("bring eth0 up"))?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new();
        let route = route.gateway(self.node.gateway()).output_interface(eth0).onlink().build();
        inner.route().add(route).execute().await.map_err(failed("set the default route"))
    }
}

/// Settings of a dyno's namespace, in which the calling thread is, before it has a link.
fn narrow() -> Result<()> {
    for (setting, value) in [
        // Dynos have no IPv6 beyond loopback. Its link-local addresses would only be 2^64 neighbours to ask for.
        ("ipv6/conf/default/disable_ipv6", "1"),
        // Nobody tells a dyno of other neighbours.
        ("ipv4/conf/all/accept_redirects", "0"),
        ("ipv4/conf/default/accept_redirects", "0"),
    ] {
        let path = format!("/proc/sys/net/{setting}");
        match std::fs::write(&path, value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            done => done.map_err(RuntimeError::file("set", path))?,
        }
    }
    Ok(())
}

async fn link_index(handle: &Handle, name: &str) -> Result<u32> {
    let mut found = std::pin::pin!(handle.link().get().match_name(name).execute());
    let link = found.try_next().await.map_err(failed("look up a link"))?;
    link.map(|link| link.header.index)
        .ok_or_else(|| RuntimeError::Network { action: "look up a link", message: format!("{name} is gone") })
}

/// Larger packets than the way out takes would have to be refused one by one.
fn uplink_mtu() -> u32 {
    const USUAL_MTU: u32 = 1500;
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let uplink = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"00000000")).then(|| fields[0].to_owned())
    });
    uplink
        .and_then(|name| std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok())
        .and_then(|mtu| mtu.trim().parse().ok())
        .unwrap_or(USUAL_MTU)
}

fn is_there_already(error: &rtnetlink::Error) -> bool {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            message.code.is_some_and(|code| code.get().abs() == libc::EEXIST)
        }
        _ => false,
    }
}

fn failed<E: std::fmt::Display>(action: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |error| RuntimeError::Network { action, message: error.to_string() }
}
