//! Free TCP ports for the services that orch starts: ports that the kernel does not assign to other programs before the
//! service listens, and that no two living orch of one user choose.
//!
//! Between the choice of a port and the `bind` of a service a program has to start. During this time a connection of
//! any program may take a port of the kernel's own range (`ip_local_port_range`), so ports are chosen outside of that
//! range. A second orch could choose the same port, so each port is reserved by a locked file; the lock is free when
//! the process has ended. The files are in the user's private directory: a port that other users could read is a port
//! that they could take first. [`PortHold`] keeps other programs from a port while the service is down.
//!
//! Ports that the user configured are not handled here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt::ReuseAddr,
};
use uuid::Uuid;

use crate::files::private_directory;

const KERNELS_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Ports below are those of well-known servers.
const LOWEST: u16 = 20_000;
/// A smaller range than this is used up by a few instances.
const SMALLEST_RANGE: u16 = 1_000;
const TRIES: u32 = 200;

/// Ports that this process has reserved for as long as it lives: a service asks for the port again after each restart.
static RESERVED: Mutex<BTreeMap<u16, Option<File>>> = Mutex::new(BTreeMap::new());

/// Reserves a port of `host` on which nobody listens; never returns the same port twice.
///
/// # Errors
/// No port can be bound, for example because `host` is not an address of this machine.
pub fn reserve(host: &str) -> io::Result<u16> {
    let Some((lowest, highest)) = outside_of(kernels_range()) else {
        return reserve_kernel_port(host);
    };
    for _ in 0..TRIES {
        let random = Uuid::new_v4().as_u128() % (u128::from(highest - lowest) + 1);
        let port = lowest + u16::try_from(random).unwrap_or(0);
        if try_reserve(host, port) == ReservationResult::Reserved {
            return Ok(port);
        }
    }
    reserve_kernel_port(host)
}

/// Reserves this port of `host`; returns true if this process has the port and nobody listens there.
pub fn claim(host: &str, port: u16) -> bool {
    try_reserve(host, port) != ReservationResult::InUse
}

/// The result of a try to reserve a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReservationResult {
    /// Another process listens on the port or has a reservation.
    InUse,
    /// This process had reserved the port before.
    AlreadyReserved,
    Reserved,
}

fn try_reserve(host: &str, port: u16) -> ReservationResult {
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    if TcpListener::bind((host, port)).is_err() {
        return ReservationResult::InUse;
    }
    if reserved.contains_key(&port) {
        return ReservationResult::AlreadyReserved;
    }
    match reservation(port) {
        Ok(reservation) => {
            reserved.insert(port, reservation);
            ReservationResult::Reserved
        }
        Err(HeldByAnother) => ReservationResult::InUse,
    }
}

/// Another living orch of this user has reserved the port.
struct HeldByAnother;

/// Locks the file of a port. Returns `None` without a private directory: then two orch may choose the same port, and
/// the later one gets the error that the port is taken.
fn reservation(port: u16) -> Result<Option<File>, HeldByAnother> {
    let Some(directory) = private_directory::path() else {
        return Ok(None);
    };
    let path = directory.join(file_name(port));
    match private_directory::try_lock(&path, true) {
        Ok(Some(file)) => Ok(Some(file)),
        Ok(None) => Err(HeldByAnother),
        Err(error) => {
            tracing::debug!(%error, path = %path.display(), "could not reserve the port");
            Ok(None)
        }
    }
}

fn file_name(port: u16) -> String {
    format!("port-{}-{port}", network_namespace())
}

/// Returns the id of the network namespace, since each namespace has separate ports.
fn network_namespace() -> String {
    let link = fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let digits = |character: &char| character.is_ascii_digit();
    link.to_string_lossy().chars().filter(digits).collect()
}

/// A port that is bound and not listened on, so that no other program can take the port while the service is down.
///
/// The kernel lets sockets with `SO_REUSEADDR` share a port until one of them listens. The service sets the option, and
/// the hold has it set while the service starts. Afterwards the hold clears the option, and every later `bind` fails.
#[derive(Debug)]
pub struct PortHold {
    socket: OwnedFd,
}

impl PortHold {
    /// Binds the port, open to a service that starts now.
    ///
    /// # Errors
    /// Another socket listens on the port or holds the port, or `host` is not an address of this machine.
    pub fn take(host: &str, port: u16) -> io::Result<Self> {
        let address = (host, port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address"))?;
        let new = |family| {
            let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, ReuseAddr, &true)?;
            Ok::<_, io::Error>(socket)
        };
        let socket = match address {
            SocketAddr::V4(address) => {
                let socket = new(AddressFamily::Inet)?;
                bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
                socket
            }
            SocketAddr::V6(address) => {
                let socket = new(AddressFamily::Inet6)?;
                bind(socket.as_raw_fd(), &SockaddrIn6::from(address))?;
                socket
            }
        };
        Ok(Self { socket })
    }

    /// Lets the service bind the port; until the service has, any other program can bind the port as well.
    ///
    /// # Errors
    /// The kernel refuses the socket option.
    pub fn open(&self) -> io::Result<()> {
        Ok(setsockopt(&self.socket, ReuseAddr, &true)?)
    }

    /// Keeps all programs from binding the port.
    ///
    /// # Errors
    /// The kernel refuses the socket option.
    pub fn close(&self) -> io::Result<()> {
        Ok(setsockopt(&self.socket, ReuseAddr, &false)?)
    }
}

/// Reserves a port that the kernel chooses, when there is no room outside of the kernel's range.
fn reserve_kernel_port(host: &str) -> io::Result<u16> {
    let mut held = Vec::new();
    loop {
        let listener = TcpListener::bind((host, 0))?;
        let port = listener.local_addr()?.port();
        let reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = reserved.contains_key(&port);
        drop(reserved);
        // All found ports stay bound until one is usable; otherwise the kernel might offer the same one again.
        held.push(listener);
        if !is_ours {
            drop(held);
            // The result is ignored: another program takes the port now with the same small chance as later.
            claim(host, port);
            return Ok(port);
        }
    }
}

/// Returns first and last port of the range from which the kernel assigns ports; the default range if the file cannot
/// be read.
fn kernels_range() -> (u16, u16) {
    let text = fs::read_to_string(KERNELS_RANGE).unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => (first, last),
        _ => (32_768, 60_999),
    }
}

/// Returns the larger one of the ranges below and above; `None` if both are too small.
fn outside_of((first, last): (u16, u16)) -> Option<(u16, u16)> {
    let below = (LOWEST, first.saturating_sub(1));
    let above = (last.saturating_add(1).max(LOWEST), u16::MAX);
    let size = |(lowest, highest): (u16, u16)| highest.saturating_sub(lowest);
    Some([below, above].into_iter().max_by_key(|range| size(*range))?).filter(|range| size(*range) >= SMALLEST_RANGE)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const HERE: &str = "127.0.0.1";

    /// Waits until the check holds. A program that another test starts at this moment inherits the descriptors of this
    /// process until the exec, so a closed socket can stay open a little longer.
    fn eventually(check: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !check() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        true
    }

    fn can_be_bound(port: u16) -> bool {
        eventually(|| TcpListener::bind((HERE, port)).is_ok())
    }

    #[test]
    fn ports_lie_outside_of_the_kernels_range() {
        for (kernels, expected) in [
            ((32_768, 60_999), Some((20_000, 32_767))),
            ((15_000, 60_999), Some((61_000, 65_535))),
            ((1_024, 65_535), None),
            ((1_024, 65_000), None),
            ((0, 0), Some((20_000, 65_535))),
            ((20_500, 65_535), None),
        ] {
            assert_eq!(outside_of(kernels), expected, "{kernels:?}");
        }
    }

    #[test]
    fn no_port_is_given_twice_and_each_can_be_bound() {
        let ports: Vec<u16> = (0..50).map(|_| reserve(HERE).unwrap()).collect();
        let mut distinct = ports.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), ports.len());
        for port in ports {
            assert!(can_be_bound(port));
        }
        let one = reserve_kernel_port(HERE).unwrap();
        assert_ne!(reserve_kernel_port(HERE).unwrap(), one);
    }

    #[test]
    fn a_port_that_is_in_use_or_reserved_cannot_be_claimed() {
        let port = reserve(HERE).unwrap();
        assert!(eventually(|| claim(HERE, port)), "the own reservation stays valid");
        assert!(eventually(
            || try_reserve(HERE, port) == ReservationResult::AlreadyReserved
        ));
        let listener = loop {
            assert!(can_be_bound(port));
            if let Ok(listener) = TcpListener::bind((HERE, port)) {
                break listener;
            }
        };
        assert!(!claim(HERE, port));
        drop(listener);
        assert!(can_be_bound(port));
        // As seen by another process.
        let reservation = RESERVED.lock().unwrap().remove(&port).unwrap();
        assert!(!claim(HERE, port));
        drop(reservation);
        assert!(eventually(|| claim(HERE, port)));
    }

    #[test]
    fn reservations_are_seen_by_nobody_else() {
        let port = reserve(HERE).unwrap();
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        assert!(!sockets.contains(&port.to_string()), "a socket names the port {port}");
        let directory = private_directory::path().expect("a private directory");
        assert!(directory.join(file_name(port)).exists());
    }

    #[test]
    fn a_held_port_is_open_to_its_service_and_closed_to_all_while_the_service_is_down() {
        let port = reserve(HERE).unwrap();
        let hold = loop {
            assert!(can_be_bound(port));
            if let Ok(hold) = PortHold::take(HERE, port) {
                break hold;
            }
        };
        // As a service binds the port, and as another program that wants the port does.
        let listen = || TcpListener::bind((HERE, port));
        let service = listen().unwrap();
        hold.close().unwrap();
        assert!(listen().is_err() && PortHold::take(HERE, port).is_err());
        drop(service);
        for _ in 0..100 {
            assert!(listen().is_err(), "the service is down");
            assert!(PortHold::take(HERE, port).is_err());
        }
        hold.open().unwrap();
        assert!(eventually(|| listen().is_ok()));
        hold.close().unwrap();
        drop(hold);
        assert!(can_be_bound(port));
        assert!(PortHold::take("192.0.2.1", port).is_err());
    }

    #[test]
    fn a_host_that_is_not_here_is_an_error() {
        assert!(reserve("192.0.2.1").is_err());
    }
}
