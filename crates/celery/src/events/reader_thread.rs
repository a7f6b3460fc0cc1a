//! Thread that reads the socket of the subscription as fast as Redis fills it, independent of the load of the program.
//!
//! Redis disconnects a subscriber when the unread messages exceed the output limit (32 MB by default; Celery wire,
//! observed). A burst of events fills this limit in half a second. For this reason the thread only moves bytes into an
//! [`buffer`](super::buffer); the reader splits the bytes into messages and decodes them. The subscription of the `redis` crate makes
//! several allocations and two task switches per message, so it is used for TLS only.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::buffer::EventBuffer;
use super::read_pacer::ReadPacer;
use crate::error::{Error, Result};
use crate::redis::connector::RedisConnector;
use crate::redis::endpoint::Endpoint;
use crate::redis::pubsub_frame;
use crate::redis::pubsub_frame::ProtocolViolation;
use crate::redis::server_candidate::PlainSocket;
use crate::redis::subscription::ChannelSubscription;

const ACTION: &str = "subscribe to events";
/// Timeout for the connection, for the replies to the first commands, and for the reply to a PING.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a message after which the thread sends a PING to the server.
const PING_DELAY: Duration = Duration::from_secs(10);
/// Size of the read buffer in bytes.
const BUFFER_SIZE: usize = 256 * 1024;
/// Subscription that puts its messages into an inbox. Dropping the value ends the thread and the connection.
pub(crate) struct ReaderThread {
    buffer: Arc<EventBuffer>,
    stop: ReaderStop,
    thread: Option<JoinHandle<()>>,
}

/// Handle that stops the thread.
enum ReaderStop {
    Socket(BlockingSocket),
    /// Channel that stops the thread when the sender is dropped.
    Signal(Option<oneshot::Sender<()>>),
}

impl ReaderThread {
    /// Subscribes and waits until the server confirms. All messages published after that arrive.
    pub(crate) async fn open(connector: &RedisConnector, pattern: &str, memory_limit: usize) -> Result<Self> {
        let inbox = Arc::new(EventBuffer::new(memory_limit));
        let (confirm, confirmed) = oneshot::channel();
        let (connector_of_thread, pattern) = (connector.clone(), pattern.to_owned());
        let ending = EndNotifier(inbox.clone());
        let (stop, thread) = match connect(connector).await? {
            (server, Some(socket)) => {
                let stop = ReaderStop::Socket(socket.try_clone().map_err(|error| connection_error(connector, error))?);
                let thread = start(move || {
                    let mut socket = socket;
                    match subscribe(&mut socket, &connector_of_thread, &server, &pattern) {
                        Ok(first) => {
                            ending.0.put(&first);
                            if confirm.send(Ok(())).is_ok() {
                                drain(&mut socket, &ending.0).ok();
                            }
                        }
                        // The receiver is gone when the caller was cancelled.
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
                    // Do not wait for a pending name lookup.
                    runtime.shutdown_background();
                });
                (ReaderStop::Signal(Some(stop)), thread)
            }
        };
        let thread = Some(thread.map_err(|error| connection_error(connector, error))?);
        let drain = Self {
            buffer: inbox,
            stop,
            thread,
        };
        match timeout(2 * ANSWER_TIMEOUT, confirmed).await {
            Ok(Ok(outcome)) => outcome.map(|()| drain),
            Ok(Err(_)) => Err(connection_error(connector, ErrorKind::ConnectionAborted.into())),
            Err(_) => Err(connector.deadline_error(ACTION, 2 * ANSWER_TIMEOUT)),
        }
    }

    pub(crate) fn buffer(&self) -> &EventBuffer {
        &self.buffer
    }
}

impl Drop for ReaderThread {
    fn drop(&mut self) {
        match &mut self.stop {
            // This call fails when the server has closed the connection; the thread has noticed that too.
            ReaderStop::Socket(socket) => drop(socket.shutdown()),
            ReaderStop::Signal(stop) => drop(stop.take()),
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Guard that marks the end of the inbox when the thread ends for any reason.
struct EndNotifier(Arc<EventBuffer>);

impl Drop for EndNotifier {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn start(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("events".to_owned()).spawn(work)
}

fn connection_error(connector: &RedisConnector, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => connector.deadline_error(ACTION, ANSWER_TIMEOUT),
        _ => connector.error(&redis::RedisError::from(error), ACTION),
    }
}

/// Connects to the server. Returns the endpoint with the credentials for this server, and a connected socket, or no
/// socket when the connection uses TLS.
async fn connect(connector: &RedisConnector) -> Result<(Endpoint, Option<BlockingSocket>)> {
    let failed = |error: io::Error| connection_error(connector, error);
    let connecting = async {
        let (server, socket) = connector.open_socket(ACTION).await?;
        let socket = match socket {
            None => None,
            Some(PlainSocket::Tcp(socket)) => Some(BlockingSocket::Tcp(socket.into_std().map_err(failed)?)),
            Some(PlainSocket::Unix(socket)) => Some(BlockingSocket::Unix(socket.into_std().map_err(failed)?)),
        };
        Ok((server.endpoint().clone(), socket))
    };
    let (server, socket) = timeout(ANSWER_TIMEOUT, connecting)
        .await
        .map_err(|_| connector.deadline_error(ACTION, ANSWER_TIMEOUT))??;
    if let Some(socket) = &socket {
        socket.set_blocking().map_err(failed)?;
        socket.set_timeout(ANSWER_TIMEOUT).map_err(failed)?;
    }
    Ok((server, socket))
}

/// Authenticates and subscribes. Returns the bytes that arrived after the confirmation.
fn subscribe(
    socket: &mut BlockingSocket,
    connector: &RedisConnector,
    server: &Endpoint,
    pattern: &str,
) -> Result<Vec<u8>> {
    let commands = commands(server, pattern);
    let packed: Vec<u8> = commands.iter().flat_map(redis::Cmd::get_packed_command).collect();
    socket
        .write_all(&packed)
        .map_err(|error| connection_error(connector, error))?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    for _ in &commands {
        let length = loop {
            match pubsub_frame::parse_frame(&bytes) {
                Ok(Some(frame)) => break frame.length,
                Ok(None) => {}
                Err(ProtocolViolation) => return Err(not_redis(connector, &bytes)),
            }
            match socket.read(&mut buffer) {
                Ok(0) => return Err(connection_error(connector, ErrorKind::UnexpectedEof.into())),
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(connection_error(connector, error)),
            }
        };
        // The `redis` crate classifies the errors.
        redis::parse_redis_value(&bytes[..length])
            .and_then(redis::Value::extract_error)
            .map_err(|error| connector.error(&error, ACTION))?;
        bytes.drain(..length);
    }
    socket
        .set_timeout(PING_DELAY)
        .map_err(|error| connection_error(connector, error))?;
    Ok(bytes)
}

/// Returns the commands that start the subscription. The server sends one reply to each.
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

fn not_redis(connector: &RedisConnector, bytes: &[u8]) -> Error {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    Error::NotRedis {
        action: ACTION.to_owned(),
        endpoint: connector.endpoint().to_string(),
        reason: format!("the reply begins with {start:?}"),
    }
}

/// Moves bytes until the connection is lost or the inbox accepts no more.
fn drain(socket: &mut BlockingSocket, inbox: &EventBuffer) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut is_ping_sent = false;
    let mut pacer = ReadPacer::new(BUFFER_SIZE, Instant::now());
    let mut next_read: Option<Instant> = None;
    loop {
        if let Some(next_read) = next_read.take() {
            std::thread::sleep(next_read.saturating_duration_since(Instant::now()));
        }
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                next_read = pacer.next_read(read, Instant::now());
                if !inbox.put(&buffer[..read]) {
                    return Ok(());
                }
                if is_ping_sent {
                    is_ping_sent = false;
                    socket.set_timeout(PING_DELAY)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && !is_ping_sent => {
                is_ping_sent = true;
                socket.set_timeout(ANSWER_TIMEOUT)?;
                socket.write_all(b"*1\r\n$4\r\nPING\r\n")?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Moves messages over a connection of the `redis` crate, which supports TLS.
async fn drain_tls(
    connector: &RedisConnector,
    pattern: &str,
    inbox: &EventBuffer,
    confirm: oneshot::Sender<Result<()>>,
) {
    let subscribing = async {
        let mut subscription = ChannelSubscription::open(connector).await?;
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

/// Socket in blocking mode.
enum BlockingSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl BlockingSocket {
    fn set_blocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(false),
            Self::Unix(socket) => socket.set_nonblocking(false),
        }
    }

    /// Limits the time of each read and write.
    fn set_timeout(&self, limit: Duration) -> io::Result<()> {
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

impl Read for BlockingSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for BlockingSocket {
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
