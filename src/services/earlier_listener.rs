//! Listeners on a service's port that are not the service's: what they answer says nothing about the service. They listened
//! there before the service started, or belong to a user who is neither this one nor root and has no process in this run.
//! What came later and is this user's or root's may be the service's: a container or a daemon that it has asked for.
//!
//! Not here: the port of an owned Redis, which is held (`port_guard`).

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use super::http_probe;
use super::listener::Listener;
use crate::config::Probe;
use crate::guard;
use crate::socket_owner;

/// The sockets that listened on this machine just before a start of the service.
#[derive(Debug, Default)]
pub(super) struct EarlierListeners(Mutex<HashSet<u64>>);

impl EarlierListeners {
    /// Notes who listens now, for a probe that connects to a port.
    pub fn note(&self, probe: &Probe) {
        if address(probe).is_some() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = socket_owner::all_listeners();
        }
    }

    /// Fails when none of those who listen where the probe connects to may be the service's.
    ///
    /// # Errors
    /// The text says who listens there.
    pub fn check(&self, probe: &Probe) -> Result<(), String> {
        let Some((host, port)) = address(probe) else {
            return Ok(());
        };
        let addresses: Vec<IpAddr> = match host.as_str() {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            // A name may be another machine's.
            host => host
                .parse()
                .into_iter()
                .filter(|address| is_of_this_machine(*address))
                .collect(),
        };
        let earlier = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = socket_owner::listeners(&addresses, port);
        let Some(first) = listeners.first() else {
            // Another machine's, or in another network namespace.
            return Ok(());
        };
        let later = listeners.iter().find(|listener| !earlier.contains(&listener.inode));
        let (owner, why) = match later {
            Some(later) if later.is_trusted() || has_process_in_this_run(later.uid) => return Ok(()),
            Some(later) => (*later, "which is no process of this run"),
            None => (*first, "which listened there before this start"),
        };
        let listener = Listener::of(owner);
        if listener.process.as_ref().is_some_and(|(pid, _)| is_of_this_run(*pid)) {
            return Ok(());
        }
        Err(format!("{host}:{port} is held by {listener}, {why}"))
    }
}

/// Where a probe connects to.
fn address(probe: &Probe) -> Option<(String, u16)> {
    match probe {
        Probe::Tcp { host, port } => Some((host.clone(), *port)),
        Probe::Http { url } => http_probe::address(url),
        Probe::Log { .. } | Probe::File { .. } | Probe::Exec { .. } => None,
    }
}

/// The kernel lets a socket be bound to addresses of this machine alone.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Decides whether a process is below this one: another service of the run.
fn is_of_this_run(pid: i32) -> bool {
    let own = std::process::id().cast_signed();
    pid == own || guard::process_tree(own).is_ok_and(|tree| tree.iter().any(|process| process.pid == pid))
}

/// Decides whether a process below this one runs as this user, as after `setpriv` or `sudo`.
fn has_process_in_this_run(uid: u32) -> bool {
    let runs_as = |pid: i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == uid);
    let tree = guard::process_tree(std::process::id().cast_signed());
    tree.is_ok_and(|tree| tree.iter().any(|process| runs_as(process.pid)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn tcp(host: &str, port: u16) -> Probe {
        Probe::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn who_came_later_or_belongs_to_this_run_is_no_stranger() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("it is bound").port();
        let listeners = EarlierListeners::default();
        assert_eq!(listeners.check(&tcp("localhost", port)), Ok(()), "it came later");
        listeners.note(&tcp("127.0.0.1", port));
        assert!(!listeners.0.lock().expect("no panic").is_empty());
        for host in ["127.0.0.1", "localhost", "192.0.2.1", "host.example"] {
            assert_eq!(listeners.check(&tcp(host, port)), Ok(()), "{host}: this very process");
        }
    }
}
