//! Whose a listening socket of this machine is: so that who reuses a server, or is refused its port, is told by whom it
//! was started. From `/proc`; what may not be seen (another user's process, another network namespace) is not told.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use nix::unistd::{Uid, User};

use crate::socket_owner::{self, SocketOwner};

/// Who listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub uid: u32,
    /// Pid and name of the program; only root and the user itself may see it.
    pub process: Option<(i32, String)>,
}

impl Listener {
    /// The owner of a socket, with its process where that can be seen.
    pub(crate) fn of(owner: SocketOwner) -> Self {
        Self {
            uid: owner.uid,
            process: process(owner.inode),
        }
    }
}

impl Listener {
    /// Whether it is this user's or root's.
    pub(crate) fn is_trusted(&self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }
}

impl fmt::Display for Listener {
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

/// Who listens on a port of this machine; `None` for another machine's, and where it cannot be seen.
pub fn listener(host: &str, port: u16) -> Option<Listener> {
    let address: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.parse().ok()?,
    };
    socket_owner::listener(address, port).map(Listener::of)
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
    fn our_own_socket_is_ours() {
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
    fn what_listens_elsewhere_or_not_at_all_is_not_told() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(listener("127.0.0.1", port), None, "closed again");
        assert_eq!(listener("192.0.2.1", 6379), None);
        assert_eq!(listener("redis.example", 6379), None);
    }
}
