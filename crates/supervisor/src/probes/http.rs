//! An HTTP GET request of which only the status line is read: enough to know whether a service answers.
//!
//! Plain `http://` only: a probe of an own service needs no TLS, redirects or body, and so no client library.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Largest number of bytes that are read of a status line.
const STATUS_LINE: u64 = 1024;

/// Gets `url` once; succeeds for a status of 200 to 399. The error describes the answer.
pub async fn probe(url: &str) -> Result<(), String> {
    let (host, port, path) = split(url).ok_or_else(|| format!("`{url}` is not of the form http://host[:port]/path"))?;
    let mut stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| format!("could not connect to {host}:{port}: {error}"))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: orch\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|error| format!("could not send to {host}:{port}: {error}"))?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(STATUS_LINE));
    reader
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| format!("could not read from {host}:{port}: {error}"))?;
    let line = String::from_utf8_lossy(&line);
    match status(&line) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("{url} answered {status}")),
        None => Err(format!("{host}:{port} does not speak HTTP")),
    }
}

/// Returns host and port of a URL that can be probed.
pub fn address(url: &str) -> Option<(String, u16)> {
    split(url).map(|(host, port, _path)| (host, port))
}

fn status(line: &str) -> Option<u16> {
    let mut words = line.split_ascii_whitespace();
    words.next()?.strip_prefix("HTTP/")?;
    words.next()?.parse().ok()
}

fn split(url: &str) -> Option<(String, u16, String)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (authority, 80),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_status_lines() {
        let parts = |url| split(url).map(|(host, port, path)| format!("{host} {port} {path}"));
        assert_eq!(
            parts("http://127.0.0.1:8080/truth.json?x=1").as_deref(),
            Some("127.0.0.1 8080 /truth.json?x=1")
        );
        assert_eq!(parts("http://localhost").as_deref(), Some("localhost 80 /"));
        assert_eq!(parts("http://[::1]:81?q").as_deref(), Some("::1 81 /?q"));
        assert_eq!(parts("https://localhost/"), None);
        assert_eq!(parts("http://:80/"), None);
        assert_eq!(status("HTTP/1.0 204 No Content\r\n"), Some(204));
        assert_eq!(status("SSH-2.0-OpenSSH"), None);
        assert_eq!(status(""), None);
    }
}
