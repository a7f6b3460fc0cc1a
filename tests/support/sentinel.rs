//! A real master with a replica and three Sentinels, on free ports of loopback.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::redis::free_port;
use super::server::program;

/// Name under which the Sentinels monitor the master.
pub const MASTER: &str = "main";
const READY_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Sentinels {
    /// Master and replica, in the roles that they have at the start.
    servers: Vec<(u16, Process)>,
    sentinels: Vec<(u16, Process)>,
    password: Option<String>,
    sentinel_password: Option<String>,
    _directory: TempDir,
}

impl Sentinels {
    /// Starts all servers and returns when all of them know each other. The passwords are those of the servers and of
    /// the Sentinels. On a busy machine a master may be silent for a second or two; the Sentinels wait longer before
    /// they replace it.
    pub fn start(password: Option<&str>, sentinel_password: Option<&str>) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("orch-sentinel-")
            .tempdir()
            .expect("a temporary directory");
        let ports: Vec<u16> = (0..5).map(|_| free_port()).collect();
        let (master, replica) = (ports[0], ports[1]);
        let place = |port: u16| {
            let place = directory.path().join(port.to_string());
            fs::create_dir_all(&place).expect("a directory of ours");
            place
        };
        let start = |port: u16, name: &str, arguments: &[&str]| {
            let mut command = Command::new(program());
            command.current_dir(place(port)).args(arguments);
            Process::start(name, &mut command, &place(port).join("log"))
        };
        let server = |port: u16, of: Option<u16>| {
            let mut text = format!("bind 127.0.0.1\nport {port}\nsave \"\"\nrepl-diskless-sync-delay 0\n");
            if let Some(of) = of {
                text.push_str(&format!("replicaof 127.0.0.1 {of}\n"));
            }
            if let Some(password) = password {
                text.push_str(&format!("requirepass {password}\nmasterauth {password}\n"));
            }
            fs::write(place(port).join("redis.conf"), text).expect("a file of ours");
            (port, start(port, "redis-server", &["redis.conf"]))
        };
        let sentinel = |port: u16| {
            let mut text = format!(
                "bind 127.0.0.1\nport {port}\nsentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds {MASTER} 3000\nsentinel failover-timeout {MASTER} 6000\n"
            );
            if let Some(password) = password {
                text.push_str(&format!("sentinel auth-pass {MASTER} {password}\n"));
            }
            if let Some(password) = sentinel_password {
                text.push_str(&format!("requirepass {password}\nsentinel sentinel-pass {password}\n"));
            }
            fs::write(place(port).join("sentinel.conf"), text).expect("a file of ours");
            (port, start(port, "sentinel", &["sentinel.conf", "--sentinel"]))
        };
        let servers = vec![server(master, None), server(replica, Some(master))];
        let sentinels: Vec<(u16, Process)> = ports[2..].iter().map(|port| sentinel(*port)).collect();
        let mut found = Self {
            servers,
            sentinels,
            password: password.map(str::to_owned),
            sentinel_password: sentinel_password.map(str::to_owned),
            _directory: directory,
        };
        found.wait_until_all_know_each_other();
        found
    }

    fn wait_until_all_know_each_other(&mut self) {
        for index in 0..self.sentinels.len() {
            let port = self.sentinels[index].0;
            let password = self.sentinel_password.clone();
            self.sentinels[index].1.wait_until("knows all", READY_TIMEOUT, |_| {
                let Some(mut sentinel) = connect(port, password.as_deref()) else {
                    return false;
                };
                let known: Vec<String> = redis::cmd("SENTINEL")
                    .arg("MASTER")
                    .arg(MASTER)
                    .query(&mut sentinel)
                    .unwrap_or_default();
                let says = |name: &str, value: &str| known.chunks(2).any(|pair| pair == [name, value]);
                says("num-other-sentinels", "2") && says("num-slaves", "1") && says("flags", "master")
            });
        }
        // Sentinels do not promote a replica that has not synchronised yet.
        let master = self.master().expect("the Sentinels know it");
        let password = self.password.clone();
        self.servers[0].1.wait_until("has its replica", READY_TIMEOUT, |_| {
            let Some(mut master) = connect(master, password.as_deref()) else {
                return false;
            };
            let info: String = redis::cmd("INFO")
                .arg("replication")
                .query(&mut master)
                .unwrap_or_default();
            info.contains("state=online")
        });
    }

    /// Returns the URL as Celery writes it, with all Sentinels in one list.
    pub fn url(&self, database: u32) -> String {
        let credentials = self
            .password
            .as_ref()
            .map_or_else(String::new, |password| format!(":{password}@"));
        let urls: Vec<String> = self
            .sentinels
            .iter()
            .map(|(port, _)| format!("sentinel://{credentials}127.0.0.1:{port}/{database}"))
            .collect();
        urls.join(";")
    }

    /// Returns the port of the master that the Sentinels report.
    pub fn master(&self) -> Option<u16> {
        self.sentinels.iter().find_map(|(port, _)| {
            let mut sentinel = connect(*port, self.sentinel_password.as_deref())?;
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("get-master-addr-by-name").arg(MASTER);
            let (_, port): (String, u16) = ask.query(&mut sentinel).ok()?;
            Some(port)
        })
    }

    /// Starts a planned failover.
    pub fn fail_over(&self) {
        let (port, _) = &self.sentinels[0];
        let mut sentinel = connect(*port, self.sentinel_password.as_deref()).expect("a Sentinel answers");
        let _: () = redis::cmd("SENTINEL")
            .arg("FAILOVER")
            .arg(MASTER)
            .query(&mut sentinel)
            .expect("it begins");
    }

    /// Sends SIGKILL to the first master.
    pub fn kill_master(&mut self) {
        self.servers[0].1.kill();
    }
}

fn connect(port: u16, password: Option<&str>) -> Option<redis::Connection> {
    let credentials = password.map_or_else(String::new, |password| format!(":{password}@"));
    let client = redis::Client::open(format!("redis://{credentials}127.0.0.1:{port}/")).ok()?;
    client.get_connection_with_timeout(Duration::from_secs(1)).ok()
}
