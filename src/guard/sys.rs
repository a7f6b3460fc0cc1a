//! Every raw system call of the guard, behind safe functions. All of the crate's `unsafe` is here.
#![expect(unsafe_code, reason = "system calls that the libraries offer no safe form of")]

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

use super::protocol::Ended;

/// Of a record's line of 512 bytes the rest is for two numbers.
const LONGEST_LABEL: usize = 400;

/// Makes this process the one that orphans of its descendants are re-parented to.
///
/// # Errors
/// The kernel does not know the option (before 3.4).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes one integer and touches no memory of ours.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
}

/// Takes a descriptor that the kernel has just given us with a message.
pub fn adopt(received: RawFd) -> OwnedFd {
    // SAFETY: the kernel opened it for this process in recvmsg, and the caller passes each on exactly once.
    unsafe { OwnedFd::from_raw_fd(received) }
}

/// Undoes what the caller ignores: with an ignored SIGCHLD the kernel would reap our children, and no end be seen.
pub fn reset_signals() {
    // SIGPIPE stays ignored, as Rust's start has it: a closed socket is an error to be seen, not a death.
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: SIG_DFL runs no code of ours; SIGKILL and SIGSTOP refuse, as they should.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // A limit of the size of files is an error of the write, too. Each service gets the default back.
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Sends a signal, real-time ones included, which the library's typed form does not know.
///
/// # Errors
/// There is no such process, it may not be signalled, or there is no such signal.
pub fn signal_process(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        // Those are groups, or everybody.
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: kill takes two integers and touches no memory of ours.
    check(unsafe { libc::kill(pid, signal) })
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub pid: i32,
    pub ended: Ended,
}

/// Looks at one child that has ended, without reaping it.
///
/// # Errors
/// There is no child (ECHILD), or the call was interrupted.
pub fn look_at_death() -> io::Result<Option<Death>> {
    any_death(libc::WNOWAIT)
}

/// Reaps one child that has ended.
///
/// # Errors
/// As [`look_at_death`].
pub fn reap_one() -> io::Result<Option<Death>> {
    any_death(0)
}

/// One child that has ended. Ends by real-time signals count too, which the library's typed form cannot tell.
fn any_death(options: libc::c_int) -> io::Result<Option<Death>> {
    // SAFETY: siginfo_t is plain data, for which all zeroes is a valid value; waitid writes to it alone, and the fields
    // read below are those that it fills in for a child's end.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check(libc::waitid(
            libc::P_ALL,
            0,
            &raw mut info,
            libc::WEXITED | libc::WNOHANG | options,
        ))?;
        let (pid, status) = (info.si_pid(), info.si_status());
        if pid == 0 {
            return Ok(None);
        }
        let ended = match info.si_code {
            libc::CLD_EXITED => Ended::Code(status),
            code => Ended::Signal {
                signal: status,
                core_dumped: code == libc::CLD_DUMPED,
            },
        };
        Ok(Some(Death { pid, ended }))
    }
}

/// Whether this process has any child, zombies included: the kernel's own word.
pub fn has_children() -> bool {
    !matches!(look_at_death(), Err(error) if error.raw_os_error() == Some(libc::ECHILD))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Starts the guard in a session of its own, so that a Ctrl+C of the terminal never reaches it.
pub fn in_own_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe { command.pre_exec(|| check(libc::setsid())) };
}

/// What clone3 takes, as of Linux 5.7.
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

/// Starts a program in a control group and a session of its own, with no variables and these standard streams; its pid.
///
/// # Errors
/// The kernel cannot (before 5.7) or may not put it there, or execute the program.
pub fn spawn_into(group: BorrowedFd<'_>, words: &[&str], streams: [BorrowedFd<'_>; 3]) -> io::Result<i32> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let words: Vec<CString> = words.iter().map(|word| CString::new(*word)).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let streams = streams.map(|stream| stream.as_raw_fd());
    let (mut told, tell) = io::pipe()?;
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: u64::try_from(libc::SIGCHLD).unwrap_or_default(),
        cgroup: u64::try_from(group.as_raw_fd()).unwrap_or_default(),
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM this is a fork: the child goes on here with a copy of all memory, of which it uses only what
    // was made ready above. `arguments` is as large as is said, and outlives the call.
    let child = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            std::mem::size_of::<CloneArguments>(),
        )
    };
    if child == 0 {
        // SAFETY: other threads do not exist here, whatever they held: only async-signal-safe calls are made, on memory
        // that was ready before; then it is another program or no process at all.
        unsafe {
            execute(&pointers, streams);
            let errno = *libc::__errno_location();
            libc::write(
                tell.as_raw_fd(),
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
    drop(tell);
    let mut errno = [0; size_of::<libc::c_int>()];
    // Closed by the execution, at which nothing has been written.
    match told.read_exact(&mut errno) {
        Err(_closed) => Ok(child),
        Ok(()) => {
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).ok();
            Err(io::Error::from_raw_os_error(libc::c_int::from_ne_bytes(errno)))
        }
    }
}

/// Becomes the program; returns only if that fails, and tells why by errno.
///
/// # Safety
/// `words` are pointers to C strings, the last is null.
unsafe fn execute(words: &[*const libc::c_char], streams: [RawFd; 3]) {
    let no_variables: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: all of these are async-signal-safe; the memory they read or write is the caller's and this function's own.
    unsafe {
        // Standard streams of this process are open (the runtime sees to that): none is overwritten before it is copied.
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

/// Prepares a service's process between fork and exec: a session of its own, death with the guard, its own record.
///
/// `guard` is the pid of the caller; `record` stays open until the command has been spawned; `label` is written behind
/// pid and start time.
pub fn as_service(command: &mut Command, guard: i32, record: BorrowedFd<'_>, label: &str) {
    let record: RawFd = record.as_raw_fd();
    let label = record_label(label);
    let last_signal = libc::SIGRTMAX();
    let prepare = move || {
        // SAFETY: setsid, sigprocmask, signal, prctl and getppid are async-signal-safe; the only memory they touch is `none`, for
        // which all zeroes is a valid value.
        unsafe {
            check(libc::setsid())?;
            // The guard blocks signals, and a mask survives exec: a service would never hear SIGTERM.
            let mut none: libc::sigset_t = std::mem::zeroed();
            check(libc::sigemptyset(&raw mut none))?;
            check(libc::sigprocmask(
                libc::SIG_SETMASK,
                &raw const none,
                std::ptr::null_mut(),
            ))?;
            // What a caller ignores (a shell does so with SIGINT for its background jobs) would stay ignored over exec,
            // and a service's stop signal might be that one. SIGKILL and SIGSTOP refuse, as they should.
            for signal in 1..=last_signal {
                libc::signal(signal, libc::SIG_DFL);
            }
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            // The signal is for a death to come; a guard that died before is seen by the new parent.
            if libc::getppid() != guard {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        write_record(record, &label)
    };
    // SAFETY: `prepare` allocates nothing and takes no lock: it makes system calls on memory that was ready before
    // the fork. `io::Error::from_raw_os_error` and `last_os_error` do not allocate either.
    unsafe { command.pre_exec(prepare) };
}

/// The label as the end of a record's line: whatever it holds, the line stays one line and fits.
fn record_label(label: &str) -> Vec<u8> {
    let mut text = format!(" {}", label.replace(char::is_control, "?"));
    let mut length = text.len().min(LONGEST_LABEL);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    text.truncate(length);
    text.push('\n');
    text.into_bytes()
}

/// `<pid> <start time> <label>` on a line of its own, by the process itself: nobody else can know it before it may have
/// daemonised.
fn write_record(record: RawFd, label: &[u8]) -> io::Result<()> {
    let mut stat = [0_u8; 1024];
    // SAFETY: the path is a C string, `stat` is writable for its length, and the descriptor is closed below.
    let length = unsafe {
        let file = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file == -1 {
            // A hidden /proc: without a start time the record would endanger strangers, so there is none.
            return Ok(());
        }
        let length = libc::read(file, stat.as_mut_ptr().cast(), stat.len());
        libc::close(file);
        length
    };
    let stat = stat.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
    let Some(start_time) = super::process_table::start_time_field(stat) else {
        return Ok(());
    };
    let mut line = [0_u8; 512];
    let mut used = 0;
    // SAFETY: getpid cannot fail and touches no memory.
    let pid = unsafe { libc::getpid() };
    let mut digits = [0_u8; 20];
    let pid = decimal(u64::try_from(pid).unwrap_or(0), &mut digits);
    // A line that a full disk has torn must not become a part of this one.
    for part in [b"\n", pid, b" ", start_time, label] {
        if let Some(place) = line.get_mut(used..used + part.len()) {
            place.copy_from_slice(part);
            used += part.len();
        }
    }
    // SAFETY: `line` is readable for `used` bytes; the descriptor is open until the spawn is over.
    let written = unsafe { libc::write(record, line.as_ptr().cast(), used) };
    match usize::try_from(written) {
        Ok(written) if written == used => Ok(()),
        // The disk had room for a part only.
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Decimal digits without allocation.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        // A digit fits a byte.
        if let Some(place) = digits.get_mut(at) {
            *place = b'0' + (number % 10) as u8;
        }
        number /= 10;
        if number == 0 || at == 0 {
            return digits.get(at..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_one_line_that_fits() {
        assert_eq!(record_label("web"), b" web\n");
        assert_eq!(record_label("a\nb"), b" a?b\n");
        let long = record_label(&"é".repeat(600));
        assert!(long.len() <= LONGEST_LABEL + 1 && long.ends_with("é\n".as_bytes()));
    }

    #[test]
    fn digits() {
        for number in [0, 7, 10, 4_194_304, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
