//! A PING on a bare socket: the answer shows whether the server is Redis, accepts the credentials, and has loaded its
//! data.
//!
//! The client library is not used, since any program may answer: a web server, a TLS port, or a silent program.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::connection::{RedisConnection, client};
use orch_base::net::listener::ListenerOwner;
use orch_base::net::socket_owner;
use orch_base::net::socket_owner::ConnectionPeer;
use orch_celery::{Error, ServerAccess};

/// Longest time for one PING.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a Redis that reports the loading of data: gigabytes of append-only file take minutes.
pub(crate) const LOADING_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest interval between two PINGs of a server that is not ready.
pub(crate) const MAX_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The kind of server at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisProbeResult {
    /// No socket listens.
    NotListening,
    /// The server answered PING or RESET.
    Redis,
    /// Redis reads the data from disk.
    Loading,
    /// Redis does not accept the credentials (or their absence). The text is Redis' message.
    AccessDenied(String),
    /// The server does not speak Redis' protocol. The text is the answer, shortened.
    NotRedis(String),
    /// The server belongs to another user of this machine, and received one PING or RESET and nothing else. The text
    /// names the owner.
    OtherUser(String),
    /// The server accepted the connection and sent no answer in time.
    NoAnswer,
    /// The connection failed for another reason.
    Unreachable(String),
}

/// Sends `AUTH` (with a password) and `PING`, and reads the answer, all within `limit`.
pub async fn probe(connection: &RedisConnection, limit: Duration) -> RedisProbeResult {
    if connection.urls.is_some() {
        return by_urls(connection, limit).await;
    }
    match timeout(limit, connect(connection, limit / 2)).await {
        Ok(found) => found,
        Err(_elapsed) => RedisProbeResult::NoAnswer,
    }
}

/// Probes addresses that are URLs, through the client, which supports TLS, lists and Sentinels.
async fn by_urls(connection: &RedisConnection, limit: Duration) -> RedisProbeResult {
    let client = match client(connection) {
        Ok(client) => client.with_deadline(limit),
        Err(failure) => return RedisProbeResult::Unreachable(failure.to_string()),
    };
    match client.ping_servers().await {
        Ok(()) => RedisProbeResult::Redis,
        Err(Error::Loading { .. }) => RedisProbeResult::Loading,
        Err(Error::DeadlineExceeded { .. }) => RedisProbeResult::NoAnswer,
        Err(error @ (Error::CredentialsRefused { .. } | Error::NotAllowed { .. } | Error::Refused { .. })) => {
            RedisProbeResult::AccessDenied(error.to_string())
        }
        Err(error @ Error::NotRedis { .. }) => RedisProbeResult::NotRedis(error.to_string()),
        Err(error) => RedisProbeResult::Unreachable(error.to_string()),
    }
}

/// Connects and probes; `limit` bounds the first answer of a server that has to be identified.
async fn connect(connection: &RedisConnection, limit: Duration) -> RedisProbeResult {
    let access = connection.access();
    let mut check = (access == ServerAccess::TrustedOwner).then_some("PING");
    if let ServerAccess::UnixSocket(path) = &access {
        match UnixStream::connect(path).await {
            Ok(stream) => return log_in(stream, connection).await,
            // A server that has ended left the socket.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return RedisProbeResult::NotListening,
            // The socket does not exist yet, or was removed with the directory of a living server. Redis does not
            // refuse RESET to a client without a password; a refusal would be counted, and reported as that of an
            // unrelated client.
            Err(error) if error.kind() == ErrorKind::NotFound => check = Some("RESET"),
            Err(error) => return RedisProbeResult::Unreachable(error.to_string()),
        }
    }
    let mut stream = match TcpStream::connect((connection.host.as_str(), connection.port)).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return RedisProbeResult::NotListening,
        Err(error) => return RedisProbeResult::Unreachable(error.to_string()),
    };
    if let Some(command) = check {
        // The answer proves that the connection was accepted; until then the kernel reports root as the peer's owner.
        let answer = timeout(limit, converse(&mut stream, &[&[command]])).await;
        let found = answer.unwrap_or(RedisProbeResult::NoAnswer);
        let answers = matches!(
            found,
            RedisProbeResult::Redis | RedisProbeResult::Loading | RedisProbeResult::AccessDenied(_)
        );
        match owner(&stream) {
            ServerOwner::Trusted => {}
            ServerOwner::Other(owner) => return RedisProbeResult::OtherUser(owner),
            // A server that is not Redis may have closed the connection.
            ServerOwner::Unknown if !answers => {}
            ServerOwner::Unknown => {
                return RedisProbeResult::OtherUser("the kernel does not report its owner".to_owned());
            }
        }
        if !answers || connection.credentials().1.is_none() {
            return found;
        }
    }
    log_in(stream, connection).await
}

/// The owner of a server.
enum ServerOwner {
    /// This user, root, or another machine.
    Trusted,
    /// Another user.
    Other(String),
    Unknown,
}

fn owner(stream: &TcpStream) -> ServerOwner {
    let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else {
        return ServerOwner::Unknown;
    };
    match socket_owner::peer(local, remote) {
        ConnectionPeer::Remote => ServerOwner::Trusted,
        ConnectionPeer::Local(owner) if owner.is_trusted() => ServerOwner::Trusted,
        ConnectionPeer::Local(owner) => ServerOwner::Other(ListenerOwner::of(owner).to_string()),
        ConnectionPeer::NotAccepted | ConnectionPeer::Unknown => ServerOwner::Unknown,
    }
}

async fn log_in(mut stream: impl AsyncRead + AsyncWrite + Unpin, connection: &RedisConnection) -> RedisProbeResult {
    match connection.credentials() {
        (Some(username), Some(password)) => {
            converse(&mut stream, &[&["AUTH", username, password.expose()], &["PING"]]).await
        }
        (None, Some(password)) => converse(&mut stream, &[&["AUTH", password.expose()], &["PING"]]).await,
        (_, None) => converse(&mut stream, &[&["PING"]]).await,
    }
}

async fn converse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), commands: &[&[&str]]) -> RedisProbeResult {
    let mut request = Vec::new();
    for words in commands {
        encode(&mut request, words);
    }
    if let Err(error) = stream.write_all(&request).await {
        return RedisProbeResult::Unreachable(error.to_string());
    }
    let answers = commands.len();
    let mut received = Vec::new();
    let mut buffer = [0_u8; 512];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return judge(&received, answers).unwrap_or(RedisProbeResult::NotRedis(shorten(&received))),
            Ok(length) => received.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(error) => return RedisProbeResult::Unreachable(error.to_string()),
        }
        if let Some(found) = judge(&received, answers) {
            return found;
        }
        if received.len() > 4096 {
            return RedisProbeResult::NotRedis(shorten(&received));
        }
    }
}

/// Returns the result as soon as the received bytes suffice.
fn judge(received: &[u8], answers: usize) -> Option<RedisProbeResult> {
    if received.first().is_some_and(|first| !matches!(first, b'+' | b'-')) {
        return Some(RedisProbeResult::NotRedis(shorten(received)));
    }
    let text = String::from_utf8_lossy(received);
    let complete = text.split_inclusive("\r\n").filter(|line| line.ends_with("\r\n"));
    let lines: Vec<&str> = complete.map(str::trim_end).collect();
    for line in &lines {
        if let Some(error) = line.strip_prefix('-') {
            let code = error.split(' ').next().unwrap_or_default();
            return Some(match code {
                "LOADING" | "BUSY" | "MASTERDOWN" => RedisProbeResult::Loading,
                // The server has no password and refuses `AUTH`, but accepts all clients, and the answer to PING
                // follows.
                "ERR" if error.contains("without any password") && lines.len() < answers => return None,
                "ERR" if error.contains("without any password") => continue,
                "NOAUTH" | "WRONGPASS" | "DENIED" | "NOPERM" | "ERR" => {
                    RedisProbeResult::AccessDenied(shorten(error.as_bytes()))
                }
                _ => RedisProbeResult::NotRedis(shorten(error.as_bytes())),
            });
        }
        if matches!(*line, "+PONG" | "+RESET") {
            return Some(RedisProbeResult::Redis);
        }
        if *line != "+OK" {
            return Some(RedisProbeResult::NotRedis(shorten(line.as_bytes())));
        }
    }
    // `+OK` answers `AUTH`, and no other command that was sent.
    (lines.len() >= answers).then(|| RedisProbeResult::NotRedis(shorten(received)))
}

fn encode(request: &mut Vec<u8>, words: &[&str]) {
    request.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        request.extend_from_slice(word.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
}

/// Returns the first line of the received bytes, for an error message.
fn shorten(received: &[u8]) -> String {
    let text = String::from_utf8_lossy(received);
    let line = text.lines().next().unwrap_or_default();
    line.chars()
        .take(80)
        .map(|character| if character.is_control() { '\u{fffd}' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classified() {
        let table: &[(&str, usize, Option<RedisProbeResult>)] = &[
            ("+PONG\r\n", 1, Some(RedisProbeResult::Redis)),
            ("+PO", 1, None),
            ("+RESET\r\n", 1, Some(RedisProbeResult::Redis)),
            ("+OK\r\n", 2, None),
            ("+OK\r\n", 1, Some(RedisProbeResult::NotRedis("+OK".into()))),
            ("+OK\r\n+OK\r\n", 2, Some(RedisProbeResult::NotRedis("+OK".into()))),
            ("+OK\r\n+PONG\r\n", 2, Some(RedisProbeResult::Redis)),
            (
                "-LOADING Redis is loading the dataset in memory\r\n",
                1,
                Some(RedisProbeResult::Loading),
            ),
            (
                "-NOAUTH Authentication required.\r\n",
                1,
                Some(RedisProbeResult::AccessDenied("NOAUTH Authentication required.".into())),
            ),
            (
                "HTTP/1.1 400 Bad Request\r\n",
                1,
                Some(RedisProbeResult::NotRedis("HTTP/1.1 400 Bad Request".into())),
            ),
            ("+OK ready\r\n", 1, Some(RedisProbeResult::NotRedis("+OK ready".into()))),
            ("", 1, None),
            (
                "-ERR AUTH <password> called without any password configured for the default user.\r\n+PONG\r\n",
                2,
                Some(RedisProbeResult::Redis),
            ),
        ];
        for (received, answers, expected) in table {
            assert_eq!(judge(received.as_bytes(), *answers), *expected, "{received:?}");
        }
    }
}
