//! A proxy in front of a real object store that shuts in the middle of an object, and counts the parts that arrive.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::connections::Connections;
use crate::fault_proxy::ask;
use crate::http::read_message;

struct State {
    server: SocketAddr,
    shut: AtomicBool,
    shut_after: u64,
    parts: AtomicU64,
    uploads: AtomicU64,
    refused: AtomicU64,
}

/// The proxy; it ends when dropped.
pub struct Gate {
    connections: Connections,
    state: Arc<State>,
}

impl Gate {
    /// A proxy that shuts, until it is opened, when the server has taken `shut_after` parts of objects.
    pub fn start(server: SocketAddr, shut_after: u64) -> Self {
        let state = Arc::new(State {
            server,
            shut: AtomicBool::new(false),
            shut_after,
            parts: AtomicU64::new(0),
            uploads: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let shared = state.clone();
        Self { connections: Connections::serve(move |client| shared.serve(client)), state }
    }

    /// Where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.connections.address()
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.state.shut.store(false, Ordering::SeqCst);
    }

    /// Parts that the server has taken.
    pub fn parts(&self) -> u64 {
        self.state.parts.load(Ordering::SeqCst)
    }

    /// Uploads in parts that were begun, on servers that have a request for that.
    pub fn uploads(&self) -> u64 {
        self.state.uploads.load(Ordering::SeqCst)
    }

    /// Requests that were not let through.
    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::SeqCst)
    }
}

impl State {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut to_client = client.try_clone()?;
        let mut from_client = BufReader::new(client);
        let mut server = None;
        while let Some(request) = read_message(&mut from_client, None)? {
            let is_part = request.start.contains("partNumber=") || request.start.contains("comp=block&");
            if self.shut.load(Ordering::SeqCst) {
                self.refused.fetch_add(1, Ordering::SeqCst);
                return to_client.shutdown(Shutdown::Both);
            }
            let response = ask(self.server, &mut server, &request)?;
            let taken = response.start.contains(" 20");
            if is_part && taken && self.parts.fetch_add(1, Ordering::SeqCst) + 1 == self.shut_after {
                self.shut.store(true, Ordering::SeqCst);
            }
            if request.start.starts_with("POST") && request.start.contains("?uploads") {
                self.uploads.fetch_add(1, Ordering::SeqCst);
            }
            to_client.write_all(&[&response.head[..], &response.body].concat())?;
            if response.closes() {
                return to_client.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }
}
