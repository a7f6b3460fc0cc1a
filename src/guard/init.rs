//! The first line of `main`: become the guard when started as one.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::{Deserialize, Serialize};

use super::{server, sys};

/// The hidden subcommand.
pub const GUARD_ARGUMENT: &str = "guard";
/// In the environment of every descendant: which run it belongs to.
pub const RUN_ID_VARIABLE: &str = "ORCH_RUN_ID";
/// In the environment of every descendant: which service it belongs to.
pub const SERVICE_VARIABLE: &str = "ORCH_SERVICE";

/// Whether [`init`] has run in this process.
pub static INITIALISED: AtomicBool = AtomicBool::new(false);

/// A longer first line is not orch's.
const LONGEST_HELLO: usize = 64 * 1024;

/// What the guard is told first; the lock's descriptors come with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    pub run_id: String,
    pub state_dir: PathBuf,
    /// The control group that the guard was born in, if it was.
    pub group: Option<PathBuf>,
}

/// Becomes the guard if this process was started as one, and then never returns; otherwise remembers that it may be.
///
/// The guard is the running program, started again: without this as the first line of `main` there is none.
pub fn init() {
    INITIALISED.store(true, Ordering::SeqCst);
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next().is_some_and(|first| first == GUARD_ARGUMENT) && arguments.next().is_none();
    if asked {
        leave(i32::from(serve().is_err()));
    }
}

#[expect(clippy::exit, reason = "the guard has no caller to return to")]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}

fn serve() -> io::Result<()> {
    let result = begin();
    if let Err(error) = &result {
        server::log(&format!("the guard cannot go on: {error}"));
    }
    result
}

fn begin() -> io::Result<()> {
    close_inherited();
    sys::reset_signals();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.peer_addr().map_err(|error| {
        let why = "it is started by orch itself, with a socket as its standard input";
        io::Error::new(error.kind(), format!("{error} ({why})"))
    })?;
    // From here on the socket has no other descriptor: when this one is closed, orch knows.
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    let (hello, locks) = greeting(&socket).inspect_err(|error| server::refuse(&socket, error))?;
    server::run(socket, &hello)?;
    // Held until nothing is left.
    drop(locks);
    Ok(())
}

/// Closes what orch's caller has left open and every service would inherit: pipes that would then never be seen
/// closed, locks that would never be free.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The listing's own descriptor is closed by now: that error is expected.
        nix::unistd::close(descriptor).ok();
    }
}

/// Reads the first line and what comes with it.
fn greeting(socket: &UnixStream) -> io::Result<(Hello, Vec<OwnedFd>)> {
    let (mut line, mut locks) = (Vec::new(), Vec::new());
    while !line.ends_with(b"\n") {
        let mut chunk = [0_u8; 4096];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let mut vectors = [IoSliceMut::new(&mut chunk)];
        let descriptor = socket.as_raw_fd();
        let message = recvmsg::<()>(descriptor, &mut vectors, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = control {
                locks.extend(received.into_iter().map(sys::adopt));
            }
        }
        let length = message.bytes;
        if length == 0 || line.len() > LONGEST_HELLO {
            return Err(io::Error::other("orch has not said what run this is"));
        }
        line.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    Ok((serde_json::from_slice(&line)?, locks))
}
