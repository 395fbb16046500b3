//! Names for dynos: passes their DNS questions on to the host's name servers.
//!
//! Dynos may not talk to private addresses, and that is where the host's name servers often are; so
//! dynos ask the bridge. Questions and answers pass unread.

use crate::{Result, RuntimeError};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const PORT: u16 = 53;
/// Largest answer over UDP: EDNS goes up to this in practice.
const DATAGRAM_BYTES: usize = 8 * 1024;
/// The resolver in a dyno asks again after 5 s.
const ANSWER: Duration = Duration::from_secs(4);
/// Questions under way: a node's dynos ask some hundred a second and get answers within milliseconds.
const MAX_QUESTIONS: usize = 1024;
const MAX_CONNECTIONS: usize = 128;
/// Of these, those of one dyno: one that asks without end must leave room for the others.
const MAX_QUESTIONS_EACH: usize = 64;
const MAX_CONNECTIONS_EACH: usize = 8;
/// Length of a DNS message's header, in bytes (RFC 1035, section 4.1.1).
const HEADER_BYTES: usize = 12;
const CONNECTION: Duration = Duration::from_secs(30);
/// A control that is just ending may still have the port.
const BIND_ATTEMPTS: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(100);

/// Ends when dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    _tasks: JoinSet<()>,
}

impl Forwarder {
    /// Answers on `address`, port 53.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn start(address: Ipv4Addr) -> Result<Self> {
        let mut attempt = 0;
        let (udp, tcp) = loop {
            let bound = async {
                let udp = UdpSocket::bind((address, PORT)).await?;
                Ok::<_, std::io::Error>((udp, TcpListener::bind((address, PORT)).await?))
            };
            match bound.await {
                Ok(bound) => break bound,
                Err(_) if attempt < BIND_ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(BIND_PAUSE).await;
                }
                Err(error) => {
                    return Err(RuntimeError::Network {
                        action: "answer DNS for dynos",
                        message: format!(
                            "{address}:{PORT}: {error}; is another name server on this address?"
                        ),
                    });
                }
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp)));
        tasks.spawn(serve_tcp(tcp));
        Ok(Self { _tasks: tasks })
    }
}

/// The host's name servers, read anew for each question: an admin, or DHCP, may change them.
async fn upstreams() -> Vec<SocketAddr> {
    parse_resolver(&tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default())
}

fn parse_resolver(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

/// How much each dyno has under way.
#[derive(Default)]
struct Shares(Mutex<HashMap<IpAddr, usize>>);

impl Shares {
    /// One more for `source`, until what is given is dropped; None when it has `limit` already.
    fn take(self: &Arc<Self>, source: IpAddr, limit: usize) -> Option<Share> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.entry(source).or_default();
        if *share >= limit {
            return None;
        }
        *share += 1;
        Some(Share { shares: Arc::clone(self), source })
    }
}

struct Share {
    shares: Arc<Shares>,
    source: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get_mut(&self.source) {
            *share -= 1;
            if *share == 0 {
                shares.remove(&self.source);
            }
        }
    }
}

/// Whether a datagram is a question: whole header, and not marked as an answer, which no name server answers.
fn is_question(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_BYTES && datagram[2] & 0x80 == 0
}

async fn serve_udp(socket: Arc<UdpSocket>) {
    let room = Arc::new(Semaphore::new(MAX_QUESTIONS));
    let shares = Arc::new(Shares::default());
    let mut questions = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        while questions.try_join_next().is_some() {}
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else { continue };
        if !is_question(&buffer[..count]) {
            continue;
        }
        // Over the limit the question is dropped, as a busy name server would; the dyno asks again.
        let Some(share) = shares.take(from.ip(), MAX_QUESTIONS_EACH) else { continue };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (question, socket) = (buffer[..count].to_vec(), Arc::clone(&socket));
        questions.spawn(async move {
            for upstream in upstreams().await {
                if let Ok(Ok(answer)) = tokio::time::timeout(ANSWER, ask(upstream, &question)).await {
                    let _ = socket.send_to(&answer, from).await;
                    break;
                }
            }
            drop((permit, share));
        });
    }
}

async fn ask(upstream: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr =
        if upstream.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { "[::]:0".parse().expect("valid") };
    // A port of its own, connected: answers from elsewhere do not get through.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM_BYTES];
    let count = socket.recv(&mut answer).await?;
    answer.truncate(count);
    Ok(answer)
}

async fn serve_tcp(listener: TcpListener) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let shares = Arc::new(Shares::default());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((mut inner, from)) = listener.accept().await else {
            tokio::time::sleep(BIND_PAUSE).await;
            continue;
        };
        let Some(share) = shares.take(from.ip(), MAX_CONNECTIONS_EACH) else { continue };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        connections.spawn(async move {
            let exchange = async {
                for upstream in upstreams().await {
                    if let Ok(mut outer) = TcpStream::connect(upstream).await {
                        let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(CONNECTION, exchange).await;
            drop((permit, share));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dyno_cannot_take_the_others_room() {
        let shares = Arc::new(Shares::default());
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held: Vec<_> = std::iter::from_fn(|| shares.take(greedy, 3)).take(10).collect();
        assert_eq!(held.len(), 3);
        assert!(shares.take(other, 3).is_some());
        drop(held);
        assert!(shares.take(greedy, 3).is_some());
        assert!(is_question(&[0; 12]));
        assert!(!is_question(&[0x12, 0x34, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]), "an answer");
        assert!(!is_question(&[0; 11]), "half a header");
    }

    #[test]
    fn name_servers_are_read_from_the_hosts_settings() {
        let text = "# comment\nsearch lan\nnameserver 10.0.0.2\n nameserver fd00::1 \nnameserver nonsense\n";
        let expected: Vec<SocketAddr> =
            vec!["10.0.0.2:53".parse().expect("valid"), "[fd00::1]:53".parse().expect("valid")];
        assert_eq!(parse_resolver(text), expected);
    }
}
