//! Where ranks report, and how they are told to leave or to end: a TCP port of this host, for one launch.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::said::Said;

/// A new connection has to say who it is within this time.
const HELLO: Duration = Duration::from_secs(10);
/// A rank that takes nothing for so long is not told more.
const WRITE: Duration = Duration::from_millis(500);
/// The longest line that is read; a rank's log lines travel in chunks below it.
const LINE_BYTES: u64 = 1 << 20;

/// What came over a connection.
#[derive(Debug)]
pub enum Told {
    /// A rank reported.
    Said(usize, Said),
    /// A rank's connection has closed.
    Closed(usize),
}

/// What ranks are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The launcher is still there.
    Ping,
    /// Write a checkpoint and leave.
    Leave,
    /// End at once.
    End,
    /// Say what the threads are doing.
    Threads,
}

impl Order {
    fn line(self) -> &'static [u8] {
        match self {
            Self::Ping => b"{\"do\":\"ping\"}\n",
            Self::Leave => b"{\"do\":\"leave\"}\n",
            Self::End => b"{\"do\":\"end\"}\n",
            Self::Threads => b"{\"do\":\"threads\"}\n",
        }
    }
}

type Connections = Arc<Mutex<BTreeMap<usize, TcpStream>>>;

/// The port and the connections; ranks whose connection closes end their job.
pub struct Control {
    address: SocketAddr,
    token: String,
    connections: Connections,
    stop: Arc<AtomicBool>,
}

impl Control {
    /// Listens on a free port of an address of this host. What ranks report goes to `tell`, which answers whether anybody
    /// still listens.
    ///
    /// # Errors
    /// When the address is not this host's, or no port is free.
    pub fn listen(host: IpAddr, tell: impl Fn(Told) -> bool + Clone + Send + 'static) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((host, 0)).with_context(|| {
            format!("cannot listen for ranks on {host}; expected an address of this host with a free port")
        })?;
        let address = listener.local_addr()?;
        let token = token().context("cannot read random bytes from /dev/urandom")?;
        let (connections, stop) = (Connections::default(), Arc::new(AtomicBool::new(false)));
        let (shared, stopped, secret) = (Arc::clone(&connections), Arc::clone(&stop), token.clone());
        let accept = move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, secret, tell) = (Arc::clone(&shared), secret.clone(), tell.clone());
                // A system without threads for a rank notices so by its silence.
                let _no_thread = std::thread::Builder::new()
                    .name("rank reports".into())
                    .spawn(move || serve(stream, &secret, &shared, &tell));
            }
        };
        std::thread::Builder::new().name("ranks".into()).spawn(accept).context("cannot start a thread")?;
        Ok(Self { address, token, connections, stop })
    }

    /// The variables that lead ranks here.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![("BLIP2_CONTROL", self.address.to_string()), ("BLIP2_CONTROL_TOKEN", self.token.clone())]
    }

    /// Tells every rank that is connected.
    pub fn tell_all(&self, order: Order) {
        lock(&self.connections).values_mut().for_each(|stream| tell(stream, order));
    }

    /// Tells one rank.
    pub fn tell(&self, rank: usize, order: Order) {
        if let Some(stream) = lock(&self.connections).get_mut(&rank) {
            tell(stream, order);
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _woken = TcpStream::connect_timeout(&self.address, HELLO);
        for stream in lock(&self.connections).values() {
            let _closed = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn lock(connections: &Connections) -> MutexGuard<'_, BTreeMap<usize, TcpStream>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(stream: &mut TcpStream, order: Order) {
    // A rank that cannot be told is noticed by its silence or its end.
    let _gone = stream.write_all(order.line());
}

fn serve(stream: TcpStream, token: &str, connections: &Connections, tell: &impl Fn(Told) -> bool) -> Option<()> {
    stream.set_read_timeout(Some(HELLO)).ok()?;
    stream.set_write_timeout(Some(WRITE)).ok()?;
    stream.set_nodelay(true).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    // Whoever does not know the token is no rank of this launch.
    let Some(Said::Hello(hello)) = next(&mut lines).filter(|said| matches!(said, Said::Hello(h) if h.token == token))
    else {
        return None;
    };
    stream.set_read_timeout(None).ok()?;
    let rank = hello.rank;
    lock(connections).insert(rank, stream);
    let mut listened = tell(Told::Said(rank, Said::Hello(hello)));
    while listened && let Some(said) = next(&mut lines) {
        listened = tell(Told::Said(rank, said));
    }
    lock(connections).remove(&rank);
    tell(Told::Closed(rank));
    Some(())
}

/// The next report that can be read; `None` at the end.
fn next(lines: &mut BufReader<TcpStream>) -> Option<Said> {
    loop {
        let mut line = Vec::new();
        let read = lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line).ok()?;
        if read == 0 {
            return None;
        }
        if let Some(said) = Said::read(&String::from_utf8_lossy(&line)) {
            return Some(said);
        }
    }
}

fn token() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc::channel;

    use super::*;

    fn hello(token: &str) -> String {
        format!("{{\"say\":\"hello\",\"token\":\"{token}\",\"rank\":3,\"host\":\"n2\",\"pid\":1,\"start_ticks\":2}}\n")
    }

    #[test]
    fn a_rank_reports_and_is_told() {
        let (sender, told) = channel();
        let control = Control::listen(Ipv4Addr::LOCALHOST.into(), move |what| sender.send(what).is_ok()).unwrap();
        let mut stranger = TcpStream::connect(control.address).unwrap();
        stranger.write_all(hello("wrong").as_bytes()).unwrap();
        assert_eq!(stranger.read(&mut [0]).unwrap(), 0, "a stranger is not served");
        let mut rank = TcpStream::connect(control.address).unwrap();
        rank.write_all(hello(&control.token).as_bytes()).unwrap();
        rank.write_all(b"noise\n{\"say\":\"bye\",\"code\":75}\n").unwrap();
        let wait = || told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(wait(), Told::Said(3, Said::Hello(hello)) if hello.host == "n2"));
        assert!(matches!(wait(), Told::Said(3, Said::Bye { code: 75 })));
        control.tell(3, Order::Leave);
        let mut line = String::new();
        BufReader::new(rank.try_clone().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "{\"do\":\"leave\"}\n");
        drop(control);
        assert!(matches!(wait(), Told::Closed(3)));
        assert_eq!(rank.read(&mut [0]).unwrap(), 0, "the end of the launcher is the end of the connection");
    }
}
