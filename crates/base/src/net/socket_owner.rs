//! Owners of TCP sockets of this machine, from the kernel's tables (`/proc/net/tcp`, `/proc/net/tcp6`).
//!
//! orch sends a password only to a server with a known owner. The listener of a port may change between a look at the
//! table and a connect; the socket at the other end of an established connection does not change. Therefore orch checks
//! the peer of the connection, not the listener of the port.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// State `st` of a listening socket.
const LISTEN: &str = "0A";

/// The owner of one socket, as reported by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    pub uid: u32,
    pub inode: u64,
}

impl SocketOwner {
    /// Returns true if the owner is this user or root, since root can read all data of this user anyway.
    pub fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }
}

/// The process at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionPeer {
    /// A process of another machine; the kernel of this machine knows nothing about that process.
    Remote,
    /// A process of this machine that has accepted the connection.
    Local(SocketOwner),
    /// A process of this machine that has not accepted the connection yet. The kernel reports uid 0 for such a socket,
    /// whoever the listener is.
    NotAccepted,
    /// A process of this machine that is not in the tables: in another network namespace or behind an address
    /// translation.
    Unknown,
}

/// Returns the process at the other end of the connection from `local` to `remote`.
pub fn peer(local: SocketAddr, remote: SocketAddr) -> ConnectionPeer {
    let (local, remote) = (canonical(local), canonical(remote));
    // A connection to an address of this machine has that address at both ends.
    if local.0 != remote.0 && !remote.0.is_loopback() {
        return ConnectionPeer::Remote;
    }
    let found = rows(|row| (row.local == remote && row.remote == local).then_some(row.owner));
    match found {
        Some(SocketOwner { inode: 0, .. }) => ConnectionPeer::NotAccepted,
        Some(owner) => ConnectionPeer::Local(owner),
        None => ConnectionPeer::Unknown,
    }
}

/// Returns the owner of the socket that listens on this port of this address, or on this port of all addresses.
pub(crate) fn listener(address: IpAddr, port: u16) -> Option<SocketOwner> {
    let address = address.to_canonical();
    rows(|row| {
        let there = row.local.0 == address || row.local.0.is_unspecified();
        (there && row.listens && row.local.1 == port).then_some(row.owner)
    })
}

/// Lists the owners of all sockets that listen on this port, on one of these addresses or on all addresses.
pub fn listeners(addresses: &[IpAddr], port: u16) -> Vec<SocketOwner> {
    let mut found = Vec::new();
    let _none: Option<()> = rows(|row| {
        let there = addresses.contains(&row.local.0) || (row.local.0.is_unspecified() && !addresses.is_empty());
        if there && row.listens && row.local.1 == port {
            found.push(row.owner);
        }
        None
    });
    found
}

/// Lists the inodes of all listening sockets.
pub fn all_listeners() -> HashSet<u64> {
    let mut found = HashSet::new();
    let _none: Option<()> = rows(|row| {
        if row.listens {
            found.insert(row.owner.inode);
        }
        None
    });
    found
}

/// Returns the ports of all listening sockets by the inodes of the sockets.
pub fn listening_ports() -> HashMap<u64, u16> {
    let mut found = HashMap::new();
    let _none: Option<()> = rows(|row| {
        if row.listens {
            found.insert(row.owner.inode, row.local.1);
        }
        None
    });
    found
}

fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

struct SocketRow {
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    listens: bool,
    owner: SocketOwner,
}

/// Returns the first value that `wanted` yields for a row.
fn rows<T>(mut wanted: impl FnMut(&SocketRow) -> Option<T>) -> Option<T> {
    TABLES
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| table.lines().skip(1).filter_map(parse_row).find_map(|row| wanted(&row)))
}

fn parse_row(line: &str) -> Option<SocketRow> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (parse_end(fields.next()?)?, parse_end(fields.next()?)?);
    let listens = fields.next()? == LISTEN;
    // The skipped fields are queues, timer and retransmits; uid, timeout and inode follow.
    let mut fields = fields.skip(3);
    let uid = fields.next()?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(SocketRow {
        local,
        remote,
        listens,
        owner: SocketOwner { uid, inode },
    })
}

fn parse_end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    Some((parse_address(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// Parses an address; the kernel prints each 32 bits as a number in the byte order of the machine.
fn parse_address(text: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..text.len())
        .step_by(8)
        .map(|at| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<_>>()?;
    let bytes = words.concat();
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => Some(Ipv4Addr::from(four).into()),
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_canonical()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let of = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        assert_eq!(parse_address(&of([127, 0, 0, 1])), Some(Ipv4Addr::LOCALHOST.into()));
        let loopback = [of([0; 4]), of([0; 4]), of([0; 4]), of([0, 0, 0, 1])].concat();
        assert_eq!(parse_address(&loopback), Some(Ipv6Addr::LOCALHOST.into()));
        let mapped = [of([0; 4]), of([0; 4]), of([0, 0, 255, 255]), of([127, 0, 0, 1])].concat();
        assert_eq!(parse_address(&mapped), Some(Ipv4Addr::LOCALHOST.into()));
        for broken in ["", "7F", "0100007F0", "zzzzzzzz"] {
            assert_eq!(parse_address(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_peer_has_an_owner_once_it_is_accepted() {
        // IPv4, IPv6, and IPv4 at a socket of IPv6.
        for (bind, connect) in [
            ("127.0.0.1:0", Ipv4Addr::LOCALHOST.into()),
            ("0.0.0.0:0", Ipv4Addr::LOCALHOST.into()),
            ("[::1]:0", IpAddr::from(Ipv6Addr::LOCALHOST)),
            ("[::]:0", Ipv4Addr::LOCALHOST.into()),
        ] {
            let Ok(socket) = TcpListener::bind(bind) else {
                crate::skip::skip(format_args!("this machine has no {bind}"));
                continue;
            };
            let port = socket.local_addr().unwrap().port();
            let Ok(stream) = TcpStream::connect((connect, port)) else {
                crate::skip::skip(format_args!("{bind} takes no connection to {connect}"));
                continue;
            };
            let ends = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            assert_eq!(peer(ends.0, ends.1), ConnectionPeer::NotAccepted, "{bind}");
            let accepted = socket.accept().unwrap();
            let ConnectionPeer::Local(owner) = peer(ends.0, ends.1) else {
                panic!("{bind}: {:?}", peer(ends.0, ends.1));
            };
            assert_eq!(owner.uid, nix::unistd::geteuid().as_raw(), "{bind}");
            assert!(owner.is_trusted());
            drop((accepted, socket));
        }
    }

    #[test]
    fn another_machine_is_remote_and_a_missing_socket_is_unknown() {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(
            peer(end("192.0.2.1:40000"), end("192.0.2.2:6379")),
            ConnectionPeer::Remote
        );
        assert_eq!(peer(end("127.0.0.1:1"), end("127.0.0.1:2")), ConnectionPeer::Unknown);
        assert_eq!(
            peer(end("192.0.2.1:1"), end("192.0.2.1:2")),
            ConnectionPeer::Unknown,
            "both ends have one address, so it is of this machine"
        );
        assert!(
            !SocketOwner {
                uid: 4_000_000,
                inode: 1
            }
            .is_trusted()
        );
        assert!(SocketOwner { uid: 0, inode: 1 }.is_trusted());
    }
}
