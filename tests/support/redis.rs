//! A real Redis on a free port of loopback, with its data in a directory of its own; which, `server` says.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::server;

/// Beside its data; short, since the kernel allows a path of 107 bytes only.
const SOCKET: &str = "redis.sock";
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Another process may take the chosen port before the server binds it.
const PORT_ATTEMPTS: usize = 10;

pub struct RedisServer {
    pub port: u16,
    pub password: Option<String>,
    process: Process,
    directory: TempDir,
}

impl RedisServer {
    /// Starts a server without password, with an append-only file.
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

    /// The same server by its Unix socket.
    pub fn socket_url(&self, database: u32) -> String {
        format!(
            "redis+socket://{}?virtual_host={database}",
            self.directory.path().join(SOCKET).display()
        )
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A plain connection, for looking at keys.
    pub fn connection(&self, database: u32) -> redis::Connection {
        let client = redis::Client::open(self.url(database)).expect("our own URL");
        client.get_connection().expect("the server answers")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts again on the same port with the data it had.
    pub fn start_again(&mut self) {
        assert!(self.process.ended().is_some(), "Redis still runs");
        // The port was ours a moment ago; another process can only have it by chance, then the test fails plainly.
        let process = launch(self.directory.path(), self.port, self.password.as_deref());
        self.process = process.expect("the port is free again");
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("a bound socket").port()
}

/// `None` when the port is taken.
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
    process.wait_until("answered", READY_LIMIT, |process| {
        taken = process.log()[started..].contains("Address already in use");
        taken || answers(&client, pid, password)
    });
    (!taken).then_some(process)
}

/// Whether it is this process that answers there, and not another that got the port first.
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
