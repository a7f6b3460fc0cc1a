//! The first line of `main`: a process that was started as the guard becomes the guard.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::log::log;
use crate::protocol::{GUARD_ARGUMENT, HelloMessage};
use crate::server::event_loop;
use crate::server::orch_socket::{receive, report_failed_start};
use orch_linux::sys;

/// Set once [`init`] has run in this process.
pub static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Limit in bytes; a longer first line does not come from orch.
const LONGEST_HELLO: usize = 64 * 1024;

/// Becomes the guard and never returns, if this process was started as the guard. Otherwise records that a guard can be
/// started.
///
/// The guard is the running program, started again: a program without this call in the first line of `main` has no
/// guard.
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
        log(&format!("the guard ends because of an error: {error}"));
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
    // From here on the socket has only this descriptor: orch notices when this one is closed.
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    let (hello, mut locks) = greeting(&socket).inspect_err(|error| report_failed_start(&socket, error))?;
    if hello.has_log && !locks.is_empty() {
        nix::unistd::dup2_stderr(locks.remove(0))?;
    }
    event_loop::run(socket, &hello)?;
    // The locks are held until no process is left.
    drop(locks);
    Ok(())
}

/// Closes the descriptors that orch's caller has left open. Every service would inherit them: the other ends of pipes
/// would never see an end, and locks would never be free.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The listing's own descriptor is closed by now; that error is expected.
        nix::unistd::close(descriptor).ok();
    }
}

/// Reads the first line and the descriptors sent with it.
fn greeting(socket: &UnixStream) -> io::Result<(HelloMessage, Vec<OwnedFd>)> {
    let (mut line, mut locks) = (Vec::new(), Vec::new());
    while !line.ends_with(b"\n") {
        let mut chunk = [0_u8; 4096];
        let length = receive(socket, &mut chunk, &mut locks)?;
        if length == 0 || line.len() > LONGEST_HELLO {
            return Err(io::Error::other("orch has sent no valid first line"));
        }
        line.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    Ok((serde_json::from_slice(&line)?, locks))
}
