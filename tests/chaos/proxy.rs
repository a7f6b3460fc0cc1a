//! TCP proxy in front of a server on loopback; the driver lets it cut, hold or truncate the traffic.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Both ends of every open connection.
    open: Mutex<Vec<TcpStream>>,
    /// Nothing passes while this is true.
    held: Mutex<bool>,
    released: Condvar,
    /// Half of the next piece of data passes, then its connection is cut.
    truncate: AtomicBool,
}

impl Proxy {
    /// Listens on a free port for connections to `target`, until the process ends.
    pub fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("a bound socket").port();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Without a server the connection ends at once, as without a proxy.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    serving.join(client, server);
                }
            }
        });
        Self { port, shared }
    }

    /// Ends every open connection and accepts new ones; returns the number of ended connections.
    pub fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.shared.open.lock().unwrap());
        for stream in &open {
            stream.shutdown(Shutdown::Both).ok();
        }
        open.len() / 2
    }

    /// Holds all traffic until [`Proxy::release`].
    pub fn hold(&self) {
        *self.shared.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.shared.held.lock().unwrap() = false;
        self.shared.released.notify_all();
    }

    /// Passes half of the next piece of data of either side, then ends its connection.
    pub fn truncate_next(&self) {
        self.shared.truncate.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
        {
            let mut open = self.open.lock().unwrap();
            // Ended connections are removed here, so that the list does not grow.
            open.retain(|stream| stream.peer_addr().is_ok());
            open.extend([copy(&client), copy(&server)]);
        }
        for (from, to) in [(copy(&client), copy(&server)), (server, client)] {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.pass(from, to));
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        to.set_nodelay(true).ok();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let held = self.held.lock().unwrap();
            // A hold without a release would be an error of the driver; it must not hang the process.
            let waited = self
                .released
                .wait_timeout_while(held, Duration::from_secs(30), |held| *held)
                .unwrap();
            drop(waited);
            let truncated = self.truncate.swap(false, Ordering::SeqCst);
            let passed = if truncated { read.div_ceil(2) } else { read };
            if to.write_all(&buffer[..passed]).is_err() || truncated {
                break;
            }
        }
        from.shutdown(Shutdown::Both).ok();
        to.shutdown(Shutdown::Both).ok();
    }
}
