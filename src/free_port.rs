//! Free TCP ports for what orch starts: none that the kernel may give to somebody else before the service listens, and
//! never one to two living orch of a user.
//!
//! Between the choice of a port and its service's `bind` lies the start of a program. In that time any connection of
//! any program may take a port of the kernel's own range (`ip_local_port_range`), so ports are chosen outside of it; and
//! a second orch might choose the same, so each is reserved by a locked file, which is free when its process has ended.
//! The files are in the user's private directory: a port that strangers could read would be one that they can take first.
//! [`Hold`] keeps them from a port while its service is away.
//! Not here: ports that the user has chosen.

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

use crate::private_directory;

const KERNELS_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Below lie the ports of well-known servers.
const LOWEST: u16 = 20_000;
/// A smaller range than this would be used up by a few instances.
const SMALLEST_RANGE: u16 = 1_000;
const TRIES: u32 = 200;

/// What this process has reserved, until its end: a port is asked for again after each restart of its service.
static RESERVED: Mutex<BTreeMap<u16, Option<File>>> = Mutex::new(BTreeMap::new());

/// A port of `host` on which nobody listens, reserved for this process; never the same one twice.
///
/// # Errors
/// No port can be bound there, such as when `host` is no address of this machine.
pub fn reserve(host: &str) -> io::Result<u16> {
    let Some((lowest, highest)) = outside_of(kernels_range()) else {
        return of_the_kernel(host);
    };
    for _ in 0..TRIES {
        let random = Uuid::new_v4().as_u128() % (u128::from(highest - lowest) + 1);
        let port = lowest + u16::try_from(random).unwrap_or(0);
        if take(host, port) == Taken::Now {
            return Ok(port);
        }
    }
    of_the_kernel(host)
}

/// Reserves this very port of `host` for this process; whether it is ours and nobody listens on it.
pub fn claim(host: &str, port: u16) -> bool {
    take(host, port) != Taken::No
}

/// Whether a port could be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// Somebody listens on it, or has reserved it.
    No,
    /// It was reserved by this process already.
    Before,
    Now,
}

fn take(host: &str, port: u16) -> Taken {
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    if TcpListener::bind((host, port)).is_err() {
        return Taken::No;
    }
    if reserved.contains_key(&port) {
        return Taken::Before;
    }
    match reservation(port) {
        Ok(reservation) => {
            reserved.insert(port, reservation);
            Taken::Now
        }
        Err(HeldByAnother) => Taken::No,
    }
}

/// A living orch of this user has reserved the port.
struct HeldByAnother;

/// The locked file of a port; none where no private directory can be had: then two orch may choose the same port, and the
/// later one is told that it is taken.
fn reservation(port: u16) -> Result<Option<File>, HeldByAnother> {
    let Some(directory) = private_directory::path() else {
        return Ok(None);
    };
    let path = directory.join(file_name(port));
    match private_directory::try_lock(&path, true) {
        Ok(Some(file)) => Ok(Some(file)),
        Ok(None) => Err(HeldByAnother),
        Err(error) => {
            tracing::debug!(%error, path = %path.display(), "a port is not reserved");
            Ok(None)
        }
    }
}

fn file_name(port: u16) -> String {
    format!("port-{}-{port}", network_namespace())
}

/// Each network namespace has ports of its own.
fn network_namespace() -> String {
    let link = fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let digits = |character: &char| character.is_ascii_digit();
    link.to_string_lossy().chars().filter(digits).collect()
}

/// A port that is bound and not listened on, so that nobody else can while its service is away.
///
/// The kernel lets sockets with `SO_REUSEADDR` share a port until one of them listens. The service sets it, and so does
/// this while the service starts; afterwards it is taken back, and the next `bind` of anybody fails.
#[derive(Debug)]
pub struct Hold {
    socket: OwnedFd,
}

impl Hold {
    /// Takes the port, open to a service that starts now.
    ///
    /// # Errors
    /// Somebody listens on it or holds it, or `host` is no address of this machine.
    pub fn take(host: &str, port: u16) -> io::Result<Self> {
        let address = (host, port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "it has no address"))?;
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

    /// Lets the service bind it, and as long as it has not, everybody else.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open(&self) -> io::Result<()> {
        Ok(setsockopt(&self.socket, ReuseAddr, &true)?)
    }

    /// Lets nobody bind it any more.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn close(&self) -> io::Result<()> {
        Ok(setsockopt(&self.socket, ReuseAddr, &false)?)
    }
}

/// Where the kernel's range leaves no room.
fn of_the_kernel(host: &str) -> io::Result<u16> {
    let mut held = Vec::new();
    loop {
        let listener = TcpListener::bind((host, 0))?;
        let port = listener.local_addr()?.port();
        let reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = reserved.contains_key(&port);
        drop(reserved);
        // Held until one is found, or the kernel might offer the same one again.
        held.push(listener);
        if !is_ours {
            drop(held);
            // That it was taken in this instant is as likely as in the next.
            claim(host, port);
            return Ok(port);
        }
    }
}

/// First and last port that the kernel gives to whoever asks for any; its default where that cannot be read.
fn kernels_range() -> (u16, u16) {
    let text = fs::read_to_string(KERNELS_RANGE).unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => (first, last),
        _ => (32_768, 60_999),
    }
}

/// The larger of the ranges below and above, if there is one worth its name.
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

    /// A program that another test starts just now has our descriptors until its exec, and so what we have closed is
    /// open for a moment longer.
    fn in_the_end(what: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !what() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        true
    }

    fn can_be_bound(port: u16) -> bool {
        in_the_end(|| TcpListener::bind((HERE, port)).is_ok())
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
        let one = of_the_kernel(HERE).unwrap();
        assert_ne!(of_the_kernel(HERE).unwrap(), one);
    }

    #[test]
    fn what_somebody_listens_on_or_has_reserved_is_not_to_be_had() {
        let port = reserve(HERE).unwrap();
        assert!(in_the_end(|| claim(HERE, port)), "ours stays ours");
        assert!(in_the_end(|| take(HERE, port) == Taken::Before));
        let listener = loop {
            assert!(can_be_bound(port));
            if let Ok(listener) = TcpListener::bind((HERE, port)) {
                break listener;
            }
        };
        assert!(!claim(HERE, port));
        drop(listener);
        assert!(can_be_bound(port));
        // As another process would see it.
        let reservation = RESERVED.lock().unwrap().remove(&port).unwrap();
        assert!(!claim(HERE, port));
        drop(reservation);
        assert!(in_the_end(|| claim(HERE, port)));
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
    fn a_held_port_is_open_to_its_service_and_closed_to_everybody_while_it_is_away() {
        let port = reserve(HERE).unwrap();
        let hold = loop {
            assert!(can_be_bound(port));
            if let Ok(hold) = Hold::take(HERE, port) {
                break hold;
            }
        };
        // As a service does it, and whoever wants to be one.
        let listen = || TcpListener::bind((HERE, port));
        let service = listen().unwrap();
        hold.close().unwrap();
        assert!(listen().is_err() && Hold::take(HERE, port).is_err());
        drop(service);
        for _ in 0..100 {
            assert!(listen().is_err(), "its service is away");
            assert!(Hold::take(HERE, port).is_err());
        }
        hold.open().unwrap();
        assert!(in_the_end(|| listen().is_ok()));
        hold.close().unwrap();
        drop(hold);
        assert!(can_be_bound(port));
        assert!(Hold::take("192.0.2.1", port).is_err());
    }

    #[test]
    fn a_host_that_is_not_here_is_an_error() {
        assert!(reserve("192.0.2.1").is_err());
    }
}
