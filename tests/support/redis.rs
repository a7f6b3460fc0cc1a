//! A real Redis on a free port of loopback, with its data in a directory of its own. The choice of the server is in
//! [`super::server`].

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::server;

/// Name of the socket, in the directory of the data; short, since the kernel limits a path to 107 bytes.
const SOCKET: &str = "redis.sock";
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Number of ports that are tried: another process may take the chosen port before the server does.
const PORT_ATTEMPTS: usize = 10;

pub struct RedisServer {
    pub port: u16,
    pub password: Option<String>,
    process: Process,
    directory: TempDir,
}

impl RedisServer {
    /// Starts a server without a password, with an append-only file.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    pub fn start_with(password: Option<&str>) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("orch-redis-")
            .tempdir()
            .expect("a temporary directory");
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port();
            if let Some(process) = launch(directory.path(), port, password) {
                return Self {
                    port,
                    password: password.map(str::to_owned),
                    process,
                    directory,
                };
            }
        }
        panic!("no free port found for Redis in {PORT_ATTEMPTS} attempts");
    }

    pub fn url(&self, database: u32) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}/{database}", self.port),
            None => format!("redis://127.0.0.1:{}/{database}", self.port),
        }
    }

    /// Returns the URL of the same server by its Unix socket.
    pub fn socket_url(&self, database: u32) -> String {
        format!(
            "redis+socket://{}?virtual_host={database}",
            self.directory.path().join(SOCKET).display()
        )
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Opens a plain connection, for the keys that a test reads or writes.
    pub fn connection(&self, database: u32) -> redis::Connection {
        let client = redis::Client::open(self.url(database)).expect("our own URL");
        client.get_connection().expect("the server answers")
    }

    /// Sends SIGKILL to the server.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the server again on the same port with the same data.
    pub fn start_again(&mut self) {
        assert!(self.process.ended().is_some(), "Redis still runs");
        // If another process has taken the port by chance, the test fails with a clear message.
        let process = launch(self.directory.path(), self.port, self.password.as_deref());
        self.process = process.expect("the port is free again");
    }
}

/// Returns a port on which no process listens now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("a bound socket").port()
}

/// Starts a server; returns `None` when the port is taken.
fn launch(directory: &Path, port: u16, password: Option<&str>) -> Option<Process> {
    let log = directory.join("redis.log");
    let mut command = Command::new(server::program());
    command
        .current_dir(directory)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--unixsocket", SOCKET]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    if let Some(password) = password {
        command.args(["--requirepass", password]);
    }
    let mut process = Process::start("redis-server", &mut command, &log);
    let mut taken = false;
    let started = process.log().len();
    let client = redis::Client::open(("127.0.0.1", port)).expect("an address");
    let pid = process.pid();
    process.wait_until("answered", READY_TIMEOUT, |process| {
        taken = process.log()[started..].contains("Address already in use");
        taken || answers(&client, pid, password)
    });
    (!taken).then_some(process)
}

/// Returns whether this process answers, and not another that took the port first.
fn answers(client: &redis::Client, pid: u32, password: Option<&str>) -> bool {
    let Ok(mut connection) = client.get_connection() else {
        return false;
    };
    if let Some(password) = password
        && redis::cmd("AUTH").arg(password).query::<()>(&mut connection).is_err()
    {
        return false;
    }
    let info: redis::RedisResult<String> = redis::cmd("INFO").query(&mut connection);
    info.is_ok_and(|info| info.contains(&format!("process_id:{pid}\r\n")) && info.contains("\r\nloading:0\r\n"))
}
