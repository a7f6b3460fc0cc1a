//! Whose a listening socket of this machine is: so that who reuses a server, or is refused its port, is told by whom it
//! was started. From `/proc`; what may not be seen (another user's process, another network namespace) is not told.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::unistd::{Uid, User};

/// `st` of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Who listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub uid: u32,
    /// Pid and name of the program; only root and the user itself may see it.
    pub process: Option<(i32, String)>,
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = User::from_uid(Uid::from_raw(self.uid)).ok().flatten();
        let user = user.map_or_else(|| self.uid.to_string(), |user| user.name);
        match &self.process {
            Some((pid, program)) => write!(formatter, "{program}, pid {pid} of user {user}"),
            None => write!(formatter, "a process of user {user}"),
        }
    }
}

/// Who listens on a port of this machine; `None` for another machine's, and where it cannot be seen.
pub fn listener(host: &str, port: u16) -> Option<Listener> {
    let wanted: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.parse().ok()?,
    };
    if !wanted.is_loopback() {
        return None;
    }
    let (uid, inode) = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| find(&table, wanted, port))?;
    Some(Listener {
        uid,
        process: owner(inode),
    })
}

/// Owner and inode of the socket that listens there, by a table of the kernel.
fn find(table: &str, wanted: IpAddr, port: u16) -> Option<(u32, u64)> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, listening_port) = fields.get(1)?.split_once(':')?;
        let address = parse(address)?;
        let there = address == wanted || address.is_unspecified();
        let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(listening_port, 16).ok()? == port;
        if !(there && listens) {
            return None;
        }
        Some((fields.get(7)?.parse().ok()?, fields.get(9)?.parse().ok()?))
    })
}

/// The kernel writes each 32 bits of an address as a number of the machine's own byte order.
fn parse(address: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..address.len())
        .step_by(8)
        .map(|at| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<_>>()?;
    let bytes = words.concat();
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => Some(Ipv4Addr::from(four).into()),
        // An IPv4 address in IPv6's clothes is that address.
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_canonical()),
    }
}

fn owner(inode: u64) -> Option<(i32, String)> {
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

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let of = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        assert_eq!(parse(&of([127, 0, 0, 1])), Some(Ipv4Addr::LOCALHOST.into()));
        let loopback = [of([0; 4]), of([0; 4]), of([0; 4]), of([0, 0, 0, 1])].concat();
        assert_eq!(parse(&loopback), Some(Ipv6Addr::LOCALHOST.into()));
        for broken in ["", "7F", "0100007F0", "zzzzzzzz"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
