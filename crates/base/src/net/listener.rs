//! Owners of listening sockets of this machine: a report about a reused server or a refused port names the process that
//! listens there. The source is `/proc`; processes that cannot be seen there (another user's process, another network
//! namespace) are not reported.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use nix::unistd::{Uid, User};

use super::socket_owner;
use super::socket_owner::SocketOwner;

/// The owner of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerOwner {
    pub uid: u32,
    /// Pid and program name; only root and the owner of the process can see them.
    pub process: Option<(i32, String)>,
}

impl ListenerOwner {
    /// Returns the owner of a socket, with the process if that is visible.
    pub fn of(owner: SocketOwner) -> Self {
        Self {
            uid: owner.uid,
            process: process(owner.inode),
        }
    }

    /// Returns true if the socket belongs to this user or to root.
    pub fn is_trusted(&self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }
}

impl fmt::Display for ListenerOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = User::from_uid(Uid::from_raw(self.uid)).ok().flatten();
        let user = user.map_or_else(
            || self.uid.to_string(),
            |user| format!("{} (uid {})", user.name, self.uid),
        );
        match &self.process {
            Some((pid, program)) => write!(formatter, "{program}, pid {pid} of user {user}"),
            None => write!(formatter, "a process of user {user}"),
        }
    }
}

/// Returns the listener of a port of this machine; `None` for another machine, or if the listener is not visible.
pub fn listener(host: &str, port: u16) -> Option<ListenerOwner> {
    let address: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.parse().ok()?,
    };
    socket_owner::listener(address, port).map(ListenerOwner::of)
}

fn process(inode: u64) -> Option<(i32, String)> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find_map(|pid| {
        let mut descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let has_it =
            descriptors.any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == &*wanted));
        if !has_it {
            return None;
        }
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((pid, name.trim().to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_own_socket_has_this_process_as_its_owner() {
        for host in ["127.0.0.1", "0.0.0.0"] {
            let socket = TcpListener::bind((host, 0)).unwrap();
            let found = listener("127.0.0.1", socket.local_addr().unwrap().port()).unwrap();
            assert_eq!(found.uid, Uid::effective().as_raw());
            assert_eq!(found.process.as_ref().unwrap().0, std::process::id().cast_signed());
            let text = found.to_string();
            assert!(text.contains(&format!("pid {} of user ", std::process::id())), "{text}");
        }
    }

    #[test]
    fn another_machine_and_a_closed_port_have_no_listener() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(listener("127.0.0.1", port), None, "closed again");
        assert_eq!(listener("192.0.2.1", 6379), None);
        assert_eq!(listener("redis.example", 6379), None);
    }
}
