//! A proxy in front of a real HTTP server that does to it, by a seeded plan, what networks and busy stores do.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;

use crate::connections::Connections;
use crate::http::{Message, read_message};

const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n";

/// What can happen to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with 503 and never reaches the server.
    Unavailable,
    /// The connection is reset before the server sees it.
    ResetBefore,
    /// The server has answered; the connection is reset in the middle of the body, or in front of an empty one.
    ResetWithin,
    /// The connection is closed in good order in the middle of the body.
    Truncated,
    /// Nothing comes after the middle of the body, for [`Plan::stall`].
    Stalled,
}

/// All faults, in the order of [`FaultProxy::counts`].
pub const FAULTS: [Fault; 5] =
    [Fault::Unavailable, Fault::ResetBefore, Fault::ResetWithin, Fault::Truncated, Fault::Stalled];

/// Which requests fail, and how.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Decides which requests fail: the n-th request's fate depends on this and n alone.
    pub seed: u64,
    /// Added to each request.
    pub latency: Duration,
    /// Share of requests per fault.
    pub shares: Vec<(Fault, f64)>,
    /// How long a stalled connection stays open.
    pub stall: Duration,
}

impl Plan {
    /// What happens to request number `number`.
    pub fn fate(&self, number: u64) -> Option<Fault> {
        let mut left = unit(self.seed, number);
        self.shares.iter().find_map(|(fault, share)| {
            left -= share;
            (left < 0.0).then_some(*fault)
        })
    }
}

/// A number of [0, 1) that belongs to `seed` and `number`: the finaliser of SplitMix64.
fn unit(seed: u64, number: u64) -> f64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

struct State {
    server: SocketAddr,
    plan: Plan,
    requests: AtomicU64,
    counts: [AtomicU64; FAULTS.len()],
}

/// The proxy; it ends when dropped.
pub struct FaultProxy {
    connections: Connections,
    state: Arc<State>,
}

impl FaultProxy {
    /// A proxy on 127.0.0.1 in front of `server`.
    pub fn start(server: SocketAddr, plan: Plan) -> Self {
        let state = Arc::new(State { server, plan, requests: AtomicU64::new(0), counts: Default::default() });
        let shared = state.clone();
        Self { connections: Connections::serve(move |client| shared.serve(client)), state }
    }

    /// Where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.connections.address()
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How often each fault of [`FAULTS`] has happened.
    pub fn counts(&self) -> [u64; FAULTS.len()] {
        std::array::from_fn(|fault| self.state.counts[fault].load(Ordering::SeqCst))
    }
}

impl State {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut to_client = client.try_clone()?;
        let mut from_client = BufReader::new(client);
        let mut server = None;
        while let Some(request) = read_message(&mut from_client, None)? {
            std::thread::sleep(self.plan.latency);
            let fault = self.plan.fate(self.requests.fetch_add(1, Ordering::SeqCst));
            if let Some(fault) = fault {
                self.counts[fault as usize].fetch_add(1, Ordering::SeqCst);
            }
            match fault {
                Some(Fault::Unavailable) => {
                    to_client.write_all(UNAVAILABLE)?;
                    continue;
                }
                Some(Fault::ResetBefore) => return reset(&to_client),
                _ => {}
            }
            let response = ask(self.server, &mut server, &request)?;
            if let Some(fault) = fault {
                return self.spoil(fault, &response, &mut to_client);
            }
            to_client.write_all(&[&response.head[..], &response.body].concat())?;
            if response.closes() {
                return to_client.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    /// Sends the first half of the response, then what the fault says.
    fn spoil(&self, fault: Fault, response: &Message, client: &mut TcpStream) -> io::Result<()> {
        if !response.body.is_empty() {
            client.write_all(&response.head)?;
            client.write_all(&response.body[..response.body.len() / 2])?;
        }
        match fault {
            Fault::Truncated => client.shutdown(Shutdown::Both),
            Fault::Stalled => {
                std::thread::sleep(self.plan.stall);
                client.shutdown(Shutdown::Both)
            }
            _ => reset(client),
        }
    }
}

/// Makes the closing of a connection, which follows, a reset instead of an end in good order.
fn reset(connection: &TcpStream) -> io::Result<()> {
    SockRef::from(connection).set_linger(Some(Duration::ZERO))
}

/// Asks the server over the connection that is open, or a new one when that has ended meanwhile.
pub(crate) fn ask(
    address: SocketAddr,
    open: &mut Option<BufReader<TcpStream>>,
    request: &Message,
) -> io::Result<Message> {
    let (method, _) = request.target();
    let reused = open.is_some();
    let mut server = match open.take() {
        Some(server) => server,
        None => {
            let server = TcpStream::connect(address)?;
            server.set_nodelay(true)?;
            BufReader::new(server)
        }
    };
    let sent = server.get_mut().write_all(&[&request.head[..], &request.body].concat());
    match sent.and_then(|()| read_message(&mut server, Some(method))) {
        Ok(Some(response)) => {
            if !response.closes() {
                *open = Some(server);
            }
            Ok(response)
        }
        // A server may end a connection that has been idle.
        Ok(None) | Err(_) if reused => ask(address, open, request),
        Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error),
    }
}
