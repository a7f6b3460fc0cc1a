//! The start of a program in a control group.
#![expect(unsafe_code, reason = "system calls that the libraries offer no safe form of")]

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::libc;

/// The arguments of clone3, as of Linux 5.7.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Starts a program in a control group and in a new session, without variables and with these standard streams; returns
/// the pid.
///
/// # Errors
/// The kernel cannot (before 5.7) or may not start a process in the group, or cannot execute the program.
pub fn spawn_into(group: BorrowedFd<'_>, words: &[&str], streams: [BorrowedFd<'_>; 3]) -> io::Result<i32> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let words: Vec<CString> = words.iter().map(|word| CString::new(*word)).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let streams = streams.map(|stream| stream.as_raw_fd());
    let (mut errno_reader, errno_writer) = io::pipe()?;
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: u64::try_from(libc::SIGCHLD).unwrap_or_default(),
        cgroup: u64::try_from(group.as_raw_fd()).unwrap_or_default(),
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM the call is a fork: the child continues here with a copy of all memory, and uses only
    // the values that were prepared above. `arguments` is as large as the size argument says, and outlives the call.
    let child = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            std::mem::size_of::<CloneArguments>(),
        )
    };
    if child == 0 {
        // SAFETY: the child has no other threads, and their locks may be held for ever. So the child makes only
        // async-signal-safe calls, on memory that was prepared before; then it becomes another program or ends.
        unsafe {
            execute(&pointers, streams);
            let errno = *libc::__errno_location();
            libc::write(
                errno_writer.as_raw_fd(),
                (&raw const errno).cast(),
                std::mem::size_of_val(&errno),
            );
            libc::_exit(127);
        }
    }
    if child == -1 {
        return Err(io::Error::last_os_error());
    }
    let child = i32::try_from(child).map_err(io::Error::other)?;
    drop(errno_writer);
    let mut errno = [0; size_of::<libc::c_int>()];
    // The exec closes the pipe, and nothing has been written then.
    match errno_reader.read_exact(&mut errno) {
        Err(_closed) => Ok(child),
        Ok(()) => {
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).ok();
            Err(io::Error::from_raw_os_error(libc::c_int::from_ne_bytes(errno)))
        }
    }
}

/// Executes the program. Returns only if that fails; errno then holds the reason.
///
/// # Safety
///
/// `words` are pointers to C strings, the last one is null.
unsafe fn execute(words: &[*const libc::c_char], streams: [RawFd; 3]) {
    let no_variables: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: all calls are async-signal-safe; the memory they read or write belongs to the caller and to this
    // function.
    unsafe {
        // The standard streams of this process are open (Rust's runtime ensures that), so no stream is overwritten
        // before the copy.
        for (target, stream) in (0..).zip(streams) {
            if libc::dup2(stream, target) == -1 {
                return;
            }
        }
        if libc::setsid() == -1 || libc::chdir(c"/".as_ptr()) == -1 {
            return;
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        if let Some(program) = words.first() {
            libc::execve(*program, words.as_ptr(), no_variables.as_ptr());
        }
    }
}
