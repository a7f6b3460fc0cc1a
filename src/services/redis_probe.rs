//! One PING on a bare socket: is it Redis, does it let us in, is it still loading?
//!
//! By hand and not by the client library, because what answers may be anything: a web server, a TLS port, silence.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::connection::{RedisConnection, client};
use super::listener::Listener;
use crate::celery::{Access, Error};
use crate::socket_owner::{self, Peer};

/// What stands behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing listens.
    Nothing,
    /// It answered PING, or RESET.
    Redis,
    /// Redis, reading its data from disk.
    Loading,
    /// Redis, and the credentials (or their absence) do not do. Its words.
    Locked(String),
    /// Something that does not speak Redis' protocol. What it said, shortened.
    Foreign(String),
    /// It belongs to another user of this machine, who was sent one PING or RESET and nothing else. Whose it is.
    Strangers(String),
    /// It accepted the connection and said nothing in time.
    Silent,
    /// The connection could not be made for another reason.
    Unreachable(String),
}

/// Sends `AUTH` (with a password) and `PING`, and reads the answer, all within `patience`.
pub async fn probe(connection: &RedisConnection, patience: Duration) -> Found {
    if connection.urls.is_some() {
        return by_urls(connection, patience).await;
    }
    match timeout(patience, connect(connection, patience / 2)).await {
        Ok(found) => found,
        Err(_elapsed) => Found::Silent,
    }
}

/// The same of addresses that are URLs: the client knows TLS, lists and Sentinels.
async fn by_urls(connection: &RedisConnection, patience: Duration) -> Found {
    let client = match client(connection) {
        Ok(client) => client.with_deadline(patience),
        Err(failure) => return Found::Unreachable(failure.to_string()),
    };
    match client.ping_servers().await {
        Ok(()) => Found::Redis,
        Err(Error::Loading { .. }) => Found::Loading,
        Err(Error::Deadline { .. }) => Found::Silent,
        Err(error @ (Error::Credentials { .. } | Error::NotAllowed { .. } | Error::Refused { .. })) => {
            Found::Locked(error.to_string())
        }
        Err(error @ Error::NotRedis { .. }) => Found::Foreign(error.to_string()),
        Err(error) => Found::Unreachable(error.to_string()),
    }
}

/// `patience` is for the first answer of a server whose owner is to be found.
async fn connect(connection: &RedisConnection, patience: Duration) -> Found {
    let access = connection.access();
    let mut check = (access == Access::OwnOrRoot).then_some("PING");
    if let Access::Socket(path) = &access {
        match UnixStream::connect(path).await {
            Ok(stream) => return log_in(stream, connection).await,
            // Left by a server that has ended.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Found::Nothing,
            // Not made yet, or removed with the directory of a server that lives. Redis does not refuse RESET to a client
            // without a password: it counts refusals, and those that it counts are shown as a stranger's.
            Err(error) if error.kind() == ErrorKind::NotFound => check = Some("RESET"),
            Err(error) => return Found::Unreachable(error.to_string()),
        }
    }
    let mut stream = match TcpStream::connect((connection.host.as_str(), connection.port)).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Found::Nothing,
        Err(error) => return Found::Unreachable(error.to_string()),
    };
    if let Some(command) = check {
        // Its answer proves that the connection was accepted: until then the kernel shows root as the peer's owner.
        let answer = timeout(patience, converse(&mut stream, &[&[command]])).await;
        let found = answer.unwrap_or(Found::Silent);
        let answers = matches!(found, Found::Redis | Found::Loading | Found::Locked(_));
        match owner(&stream) {
            Owner::Trusted => {}
            Owner::Other(whose) => return Found::Strangers(whose),
            // What is no Redis may have closed the connection.
            Owner::Unknown if !answers => {}
            Owner::Unknown => return Found::Strangers("the kernel does not show whose it is".to_owned()),
        }
        if !answers || connection.credentials().1.is_none() {
            return found;
        }
    }
    log_in(stream, connection).await
}

/// Whose a server is.
enum Owner {
    /// This user's, root's, or another machine's.
    Trusted,
    /// Another user's.
    Other(String),
    Unknown,
}

fn owner(stream: &TcpStream) -> Owner {
    let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else {
        return Owner::Unknown;
    };
    match socket_owner::peer(local, remote) {
        Peer::Remote => Owner::Trusted,
        Peer::Local(owner) if owner.is_trusted() => Owner::Trusted,
        Peer::Local(owner) => Owner::Other(Listener::of(owner).to_string()),
        Peer::NotAccepted | Peer::Unknown => Owner::Unknown,
    }
}

async fn log_in(mut stream: impl AsyncRead + AsyncWrite + Unpin, connection: &RedisConnection) -> Found {
    match connection.credentials() {
        (Some(username), Some(password)) => {
            converse(&mut stream, &[&["AUTH", username, password.expose()], &["PING"]]).await
        }
        (None, Some(password)) => converse(&mut stream, &[&["AUTH", password.expose()], &["PING"]]).await,
        (_, None) => converse(&mut stream, &[&["PING"]]).await,
    }
}

async fn converse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), commands: &[&[&str]]) -> Found {
    let mut request = Vec::new();
    for words in commands {
        encode(&mut request, words);
    }
    if let Err(error) = stream.write_all(&request).await {
        return Found::Unreachable(error.to_string());
    }
    let answers = commands.len();
    let mut heard = Vec::new();
    let mut buffer = [0_u8; 512];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return judge(&heard, answers).unwrap_or(Found::Foreign(shorten(&heard))),
            Ok(length) => heard.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(error) => return Found::Unreachable(error.to_string()),
        }
        if let Some(found) = judge(&heard, answers) {
            return found;
        }
        if heard.len() > 4096 {
            return Found::Foreign(shorten(&heard));
        }
    }
}

/// A verdict, once enough was heard for one.
fn judge(heard: &[u8], answers: usize) -> Option<Found> {
    if heard.first().is_some_and(|first| !matches!(first, b'+' | b'-')) {
        return Some(Found::Foreign(shorten(heard)));
    }
    let text = String::from_utf8_lossy(heard);
    let complete = text.split_inclusive("\r\n").filter(|line| line.ends_with("\r\n"));
    let lines: Vec<&str> = complete.map(str::trim_end).collect();
    for line in &lines {
        if let Some(error) = line.strip_prefix('-') {
            let code = error.split(' ').next().unwrap_or_default();
            return Some(match code {
                "LOADING" | "BUSY" | "MASTERDOWN" => Found::Loading,
                // `AUTH` without a password configured on the server: it lets everybody in, PING follows.
                "ERR" if error.contains("without any password") && lines.len() < answers => return None,
                "ERR" if error.contains("without any password") => continue,
                "NOAUTH" | "WRONGPASS" | "DENIED" | "NOPERM" | "ERR" => Found::Locked(shorten(error.as_bytes())),
                _ => Found::Foreign(shorten(error.as_bytes())),
            });
        }
        if matches!(*line, "+PONG" | "+RESET") {
            return Some(Found::Redis);
        }
        if *line != "+OK" {
            return Some(Found::Foreign(shorten(line.as_bytes())));
        }
    }
    None
}

fn encode(request: &mut Vec<u8>, words: &[&str]) {
    request.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        request.extend_from_slice(word.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
}

/// The first line of what was said, fit for an error text.
fn shorten(heard: &[u8]) -> String {
    let text = String::from_utf8_lossy(heard);
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
    fn answers_are_told_apart() {
        let table: &[(&str, usize, Option<Found>)] = &[
            ("+PONG\r\n", 1, Some(Found::Redis)),
            ("+PO", 1, None),
            ("+RESET\r\n", 1, Some(Found::Redis)),
            ("+OK\r\n", 2, None),
            ("+OK\r\n+PONG\r\n", 2, Some(Found::Redis)),
            (
                "-LOADING Redis is loading the dataset in memory\r\n",
                1,
                Some(Found::Loading),
            ),
            (
                "-NOAUTH Authentication required.\r\n",
                1,
                Some(Found::Locked("NOAUTH Authentication required.".into())),
            ),
            (
                "HTTP/1.1 400 Bad Request\r\n",
                1,
                Some(Found::Foreign("HTTP/1.1 400 Bad Request".into())),
            ),
            ("+OK ready\r\n", 1, Some(Found::Foreign("+OK ready".into()))),
            ("", 1, None),
            (
                "-ERR AUTH <password> called without any password configured for the default user.\r\n+PONG\r\n",
                2,
                Some(Found::Redis),
            ),
        ];
        for (heard, answers, expected) in table {
            assert_eq!(judge(heard.as_bytes(), *answers), *expected, "{heard:?}");
        }
    }
}
