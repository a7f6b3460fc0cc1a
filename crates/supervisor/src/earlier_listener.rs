//! Listeners on a service's port that do not belong to the service: their answers prove nothing about the service. They
//! listened before the service started, or belong to a user that is neither this one nor root and has no process in
//! this run. A later listener of this user or of root may belong to the service: for example a container or a daemon
//! that the service asked for.
//!
//! Not here: the port of an owned Redis, which is held ([`port_guard`](crate::port_guard)).

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use crate::probes::http;
use orch_base::net::listener::ListenerOwner;
use orch_config::Probe;

use orch_base::net::socket_owner;

/// The sockets that listened on this machine just before a start of the service.
#[derive(Debug, Default)]
pub(crate) struct EarlierListeners(Mutex<HashSet<u64>>);

impl EarlierListeners {
    /// Records the current listeners, for a probe that connects to a port.
    pub fn note(&self, probe: &Probe) {
        if address(probe).is_some() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = socket_owner::all_listeners();
        }
    }

    /// Fails if none of the listeners at the probe's address can belong to the service.
    ///
    /// # Errors
    /// The text names the listener.
    pub fn check(&self, probe: &Probe) -> Result<(), String> {
        let Some((host, port)) = address(probe) else {
            return Ok(());
        };
        let addresses: Vec<IpAddr> = match host.as_str() {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            // A name may belong to another machine.
            host => host
                .parse()
                .into_iter()
                .filter(|address| is_of_this_machine(*address))
                .collect(),
        };
        let earlier = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = socket_owner::listeners(&addresses, port);
        let Some(first) = listeners.first() else {
            // The listener is on another machine or in another network namespace.
            return Ok(());
        };
        let later = listeners.iter().find(|listener| !earlier.contains(&listener.inode));
        let (owner, why) = match later {
            Some(later) if later.is_trusted() || has_process_in_this_run(later.uid) => return Ok(()),
            Some(later) => (*later, "which is no process of this run"),
            None => (*first, "which listened there before this start"),
        };
        let listener = ListenerOwner::of(owner);
        if listener.process.as_ref().is_some_and(|(pid, _)| is_of_this_run(*pid)) {
            return Ok(());
        }
        Err(format!("{host}:{port} is held by {listener}, {why}"))
    }
}

/// Returns the host and port that a probe connects to.
fn address(probe: &Probe) -> Option<(String, u16)> {
    match probe {
        Probe::Tcp { host, port } => Some((host.clone(), *port)),
        Probe::Http { url } => http::address(url),
        Probe::Log { .. } | Probe::File { .. } | Probe::Exec { .. } => None,
    }
}

/// Returns true if the address belongs to this machine: the kernel binds sockets to no other address.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Returns true if the process is below this one, and so belongs to a service of the run.
fn is_of_this_run(pid: i32) -> bool {
    let own = std::process::id().cast_signed();
    pid == own
        || orch_base::system::processes::tree(own).is_ok_and(|tree| tree.iter().any(|process| process.pid == pid))
}

/// Returns true if a process below this one runs as the given user, for example after `setpriv` or `sudo`.
fn has_process_in_this_run(uid: u32) -> bool {
    let runs_as = |pid: i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == uid);
    let tree = orch_base::system::processes::tree(std::process::id().cast_signed());
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
    fn a_later_listener_or_one_of_this_run_is_accepted() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("it is bound").port();
        let listeners = EarlierListeners::default();
        assert_eq!(
            listeners.check(&tcp("localhost", port)),
            Ok(()),
            "the listener is a later one"
        );
        listeners.note(&tcp("127.0.0.1", port));
        assert!(!listeners.0.lock().expect("no panic").is_empty());
        for host in ["127.0.0.1", "localhost", "192.0.2.1", "host.example"] {
            assert_eq!(
                listeners.check(&tcp(host, port)),
                Ok(()),
                "{host}: the listener is this process"
            );
        }
    }
}
