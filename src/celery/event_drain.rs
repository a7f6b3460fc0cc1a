//! A thread that empties the subscription's socket as fast as Redis fills it, whatever the rest of the program does.
//!
//! Redis cuts a subscriber off whose unread messages exceed its output limit (32 MB by default; Celery wire, observed),
//! and a burst of events fills that in half a second. So the thread only moves bytes, into an [`Inbox`]; they are cut
//! into messages and decoded by the reader. The library's subscription makes several allocations and two hops between
//! tasks of each message; it is used for TLS only.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::candidate::PlainSocket;
use super::connection::Connector;
use super::event_inbox::Inbox;
use super::push::{self, Broken};
use super::subscription::Subscription;
use super::{Endpoint, Error, Result};

const ACTION: &str = "subscribe to events";
/// For connecting, for the answers to our commands, for the answer to a ping.
const LIMIT: Duration = Duration::from_secs(5);
/// Without a message for so long, the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);
/// Read at once, in bytes.
const BUFFER: usize = 256 * 1024;
/// Between two reads while events come one after the other: a storm of them must not wake two threads with each message.
/// What comes meanwhile waits in the socket, and Redis allows for megabytes.
const GATHERING: Duration = Duration::from_millis(8);

/// A subscription whose messages go into an inbox. Dropping it ends the thread and the connection.
pub(super) struct Drain {
    inbox: Arc<Inbox>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

/// How the thread is told to end.
enum Stop {
    Socket(Socket),
    /// Ended by being dropped.
    Signal(Option<oneshot::Sender<()>>),
}

impl Drain {
    /// Subscribes and waits until the server confirmed it: what is published from now on arrives.
    pub(super) async fn open(connector: &Connector, pattern: &str, memory_limit: usize) -> Result<Self> {
        let inbox = Arc::new(Inbox::new(memory_limit));
        let (confirm, confirmed) = oneshot::channel();
        let (connector_of_thread, pattern) = (connector.clone(), pattern.to_owned());
        let ending = Ending(inbox.clone());
        let (stop, thread) = match connect(connector).await? {
            (server, Some(socket)) => {
                let stop = Stop::Socket(socket.try_clone().map_err(|error| lost(connector, error))?);
                let thread = start(move || {
                    let mut socket = socket;
                    match subscribe(&mut socket, &connector_of_thread, &server, &pattern) {
                        Ok(first) => {
                            ending.0.put(&first);
                            if confirm.send(Ok(())).is_ok() {
                                drain(&mut socket, &ending.0).ok();
                            }
                        }
                        // The receiver is gone when the caller is.
                        Err(error) => drop(confirm.send(Err(error))),
                    }
                });
                (stop, thread)
            }
            (_, None) => {
                let (stop, stopped) = oneshot::channel();
                let thread = start(move || {
                    let reading = drain_tls(&connector_of_thread, &pattern, &ending.0, confirm);
                    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                        return;
                    };
                    runtime.block_on(async {
                        tokio::select! {
                            () = reading => {}
                            _ = stopped => {}
                        }
                    });
                    // A name that is being looked up is not waited for.
                    runtime.shutdown_background();
                });
                (Stop::Signal(Some(stop)), thread)
            }
        };
        let thread = Some(thread.map_err(|error| lost(connector, error))?);
        let drain = Self { inbox, stop, thread };
        match timeout(2 * LIMIT, confirmed).await {
            Ok(Ok(outcome)) => outcome.map(|()| drain),
            Ok(Err(_)) => Err(lost(connector, ErrorKind::ConnectionAborted.into())),
            Err(_) => Err(connector.deadline_error(ACTION, 2 * LIMIT)),
        }
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        match &mut self.stop {
            // Fails where the server has closed it before; the thread has seen that too.
            Stop::Socket(socket) => drop(socket.shutdown()),
            Stop::Signal(stop) => drop(stop.take()),
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// However the thread ends, the reader is told.
struct Ending(Arc<Inbox>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn start(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("events".to_owned()).spawn(work)
}

fn lost(connector: &Connector, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => connector.deadline_error(ACTION, LIMIT),
        _ => connector.error(&redis::RedisError::from(error), ACTION),
    }
}

/// The server with our credentials there, and a connected socket to it; no socket where the connection takes TLS.
async fn connect(connector: &Connector) -> Result<(Endpoint, Option<Socket>)> {
    let failed = |error: io::Error| lost(connector, error);
    let connecting = async {
        let (server, socket) = connector.open_socket(ACTION).await?;
        let socket = match socket {
            None => None,
            Some(PlainSocket::Tcp(socket)) => Some(Socket::Tcp(socket.into_std().map_err(failed)?)),
            Some(PlainSocket::Unix(socket)) => Some(Socket::Unix(socket.into_std().map_err(failed)?)),
        };
        Ok((server.endpoint().clone(), socket))
    };
    let (server, socket) = timeout(LIMIT, connecting)
        .await
        .map_err(|_| connector.deadline_error(ACTION, LIMIT))??;
    if let Some(socket) = &socket {
        socket.set_blocking().map_err(failed)?;
        socket.set_patience(LIMIT).map_err(failed)?;
    }
    Ok((server, socket))
}

/// Says who we are and what we want; gives what came after the confirmation.
fn subscribe(socket: &mut Socket, connector: &Connector, server: &Endpoint, pattern: &str) -> Result<Vec<u8>> {
    let commands = commands(server, pattern);
    let packed: Vec<u8> = commands.iter().flat_map(redis::Cmd::get_packed_command).collect();
    socket.write_all(&packed).map_err(|error| lost(connector, error))?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    for _ in &commands {
        let length = loop {
            match push::frame(&bytes) {
                Ok(Some(frame)) => break frame.length,
                Ok(None) => {}
                Err(Broken) => return Err(not_redis(connector, &bytes)),
            }
            match socket.read(&mut buffer) {
                Ok(0) => return Err(lost(connector, ErrorKind::UnexpectedEof.into())),
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(connector, error)),
            }
        };
        // The library knows the kinds of errors.
        redis::parse_redis_value(&bytes[..length])
            .and_then(redis::Value::extract_error)
            .map_err(|error| connector.error(&error, ACTION))?;
        bytes.drain(..length);
    }
    socket.set_patience(SILENCE).map_err(|error| lost(connector, error))?;
    Ok(bytes)
}

/// Each is answered once.
fn commands(endpoint: &Endpoint, pattern: &str) -> Vec<redis::Cmd> {
    let mut commands = Vec::new();
    if let Some(password) = &endpoint.password {
        let mut auth = redis::cmd("AUTH");
        if let Some(username) = &endpoint.username {
            auth.arg(username);
        }
        auth.arg(password.expose());
        commands.push(auth);
    }
    if endpoint.database != 0 {
        commands.push(redis::cmd("SELECT").arg(endpoint.database).to_owned());
    }
    commands.push(redis::cmd("PSUBSCRIBE").arg(pattern).to_owned());
    commands
}

fn not_redis(connector: &Connector, bytes: &[u8]) -> Error {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    Error::NotRedis {
        action: ACTION.to_owned(),
        endpoint: connector.endpoint().to_string(),
        reason: format!("it says {start:?}"),
    }
}

/// Moves bytes until the connection is lost or the inbox takes no more.
fn drain(socket: &mut Socket, inbox: &Inbox) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut asked = false;
    let mut last_read: Option<Instant> = None;
    loop {
        if let Some(last_read) = last_read.take() {
            std::thread::sleep(GATHERING.saturating_sub(last_read.elapsed()));
        }
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                // Where more waits than fits, there is no time to lose.
                last_read = (read < BUFFER).then(Instant::now);
                if !inbox.put(&buffer[..read]) {
                    return Ok(());
                }
                if asked {
                    asked = false;
                    socket.set_patience(SILENCE)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && !asked => {
                asked = true;
                socket.set_patience(LIMIT)?;
                socket.write_all(b"*1\r\n$4\r\nPING\r\n")?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The same over the library's connection.
async fn drain_tls(connector: &Connector, pattern: &str, inbox: &Inbox, confirm: oneshot::Sender<Result<()>>) {
    let subscribing = async {
        let mut subscription = Subscription::open(connector).await?;
        subscription.subscribe_pattern(pattern).await?;
        Ok(subscription)
    };
    let mut subscription = match subscribing.await {
        Ok(subscription) => subscription,
        Err(error) => return drop(confirm.send(Err(error))),
    };
    if confirm.send(Ok(())).is_err() {
        return;
    }
    while let Some(message) = subscription.next().await {
        let payload = message.get_payload_bytes();
        let mut bytes = format!("*4\r\n$8\r\npmessage\r\n$0\r\n\r\n$0\r\n\r\n${}\r\n", payload.len()).into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        if !inbox.put(&bytes) {
            return;
        }
    }
}

/// A blocking socket.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn set_blocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(false),
            Self::Unix(socket) => socket.set_nonblocking(false),
        }
    }

    /// How long a read or a write may take.
    fn set_patience(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                socket.set_read_timeout(Some(limit))?;
                socket.set_write_timeout(Some(limit))
            }
            Self::Unix(socket) => {
                socket.set_read_timeout(Some(limit))?;
                socket.set_write_timeout(Some(limit))
            }
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Self::Unix(socket) => socket.shutdown(Shutdown::Both),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.flush(),
            Self::Unix(socket) => socket.flush(),
        }
    }
}
