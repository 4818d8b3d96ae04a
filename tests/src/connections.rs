//! A loopback listener that gives each connection a thread, and ends them all when dropped.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle of each connection that is open.
#[derive(Clone, Default)]
struct Open(Arc<Mutex<HashMap<usize, TcpStream>>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server on a port that the system chose.
pub struct Connections {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
    open: Open,
}

impl Connections {
    /// Serves each connection with `serve`; an error ends that connection only.
    ///
    /// # Panics
    /// When the loopback interface gives no port.
    pub fn serve(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::serve_at("127.0.0.1", serve)
    }

    /// The same at another address of loopback.
    ///
    /// # Panics
    /// When the address gives no port.
    pub fn serve_at(host: &str, serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((host, 0)).expect("a port of loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (closed, open) = (Arc::new(AtomicBool::new(false)), Open::default());
        let (serve, is_closed, opened) = (Arc::new(serve), closed.clone(), open.clone());
        std::thread::spawn(move || {
            for (number, connection) in listener.incoming().enumerate() {
                if is_closed.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(connection) = connection else { continue };
                let Ok(handle) = connection.try_clone() else { continue };
                opened.lock().insert(number, handle);
                let (serve, opened) = (serve.clone(), opened.clone());
                std::thread::spawn(move || {
                    // How a connection ends is the business of its two sides.
                    let _ended = serve(connection);
                    // The last handle: only now is the connection closed, by a reset where one was asked for.
                    opened.lock().remove(&number);
                });
            }
        });
        Self { address, closed, open }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _woken = TcpStream::connect(self.address);
        for (_, connection) in self.open.lock().drain() {
            let _gone_already = connection.shutdown(Shutdown::Both);
        }
    }
}
