//! Every raw system call of the guard, behind safe functions. All of the crate's `unsafe` is here.
#![expect(unsafe_code, reason = "system calls that the libraries offer no safe form of")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
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

/// A service's process, made ready before the fork: after it nothing is allocated.
pub struct Prepared {
    /// Paths to try in this order: one, or the program in each directory of PATH.
    programs: Vec<CString>,
    words: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
    label: Vec<u8>,
}

/// At which step a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its session, its signals, its streams.
    SetUp,
    /// Its record.
    Record,
    /// The change into its directory.
    Directory,
    /// The execution.
    Execute,
}

/// Why a process has not become the program.
#[derive(Debug)]
pub struct NotExecuted {
    pub step: Step,
    pub error: io::Error,
}

/// What is written to the pipe of a start that failed: a step and an error number.
const REFUSAL_LENGTH: usize = 1 + size_of::<libc::c_int>();

impl Prepared {
    /// # Errors
    /// There is a NUL byte in one of them.
    pub fn new(
        programs: &[PathBuf],
        words: &[String],
        environment: &BTreeMap<&str, &str>,
        directory: &Path,
        label: &str,
    ) -> io::Result<Self> {
        let path = |path: &Path| CString::new(path.as_os_str().as_bytes());
        Ok(Self {
            programs: programs.iter().map(|program| path(program)).collect::<Result<_, _>>()?,
            words: words
                .iter()
                .map(|word| CString::new(word.as_bytes()))
                .collect::<Result<_, _>>()?,
            environment: environment
                .iter()
                .map(|(name, value)| CString::new(format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
            directory: path(directory)?,
            label: record_label(label),
        })
    }

    /// Starts it: a session of its own, death with the guard, its own record, this log as its output. Does not wait for the
    /// execution, which a file system that does not answer can hold up for ever.
    ///
    /// The pipe is closed by the execution; before that [`read_refusal`] reads from it why there is none.
    ///
    /// # Errors
    /// No process or no descriptor is to be had.
    pub fn start(&self, record: BorrowedFd<'_>, log: BorrowedFd<'_>) -> io::Result<(i32, PipeReader)> {
        let null = std::ptr::null::<libc::c_char>();
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings
                .iter()
                .map(|text| text.as_ptr())
                .chain(std::iter::once(null))
                .collect()
        };
        let programs = pointers(&self.programs);
        // `/bin/sh script arguments...` where the words are `program arguments...`.
        let mut shell: Vec<*const libc::c_char> = vec![c"/bin/sh".as_ptr()];
        shell.extend(pointers(&self.words));
        let mut child = Child {
            programs: &programs,
            shell: &mut shell,
            environment: &pointers(&self.environment),
            directory: &self.directory,
            record: record.as_raw_fd(),
            log: log.as_raw_fd(),
            label: &self.label,
            // SAFETY: getpid cannot fail and touches no memory.
            guard: unsafe { libc::getpid() },
            last_signal: libc::SIGRTMAX(),
        };
        let (told, tell) = io::pipe()?;
        nix::fcntl::fcntl(&told, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        // SAFETY: the guard has one thread, and the child makes async-signal-safe calls only, on memory that is ready.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => child.become_program(tell.as_raw_fd()),
            pid => Ok((pid, told)),
        }
    }
}

/// What the pipe of a start says: nothing yet, that the program was executed (or its process has died), or why not.
pub fn read_refusal(pipe: &mut PipeReader) -> Option<Result<(), NotExecuted>> {
    let mut refusal = [0; REFUSAL_LENGTH];
    match pipe.read(&mut refusal) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        Ok(REFUSAL_LENGTH) => {
            let [step, number @ ..] = refusal;
            let step = match step {
                1 => Step::Record,
                2 => Step::Directory,
                3 => Step::Execute,
                _ => Step::SetUp,
            };
            Some(Err(NotExecuted {
                step,
                error: io::Error::from_raw_os_error(libc::c_int::from_ne_bytes(number)),
            }))
        }
        // So little is written as one; a part of it would be a process that died at that.
        Ok(_) | Err(_) => Some(Ok(())),
    }
}

/// The child between fork and exec.
struct Child<'a> {
    /// Ends with null, as those below.
    programs: &'a [*const libc::c_char],
    shell: &'a mut [*const libc::c_char],
    environment: &'a [*const libc::c_char],
    directory: &'a CString,
    record: RawFd,
    log: RawFd,
    label: &'a [u8],
    guard: i32,
    last_signal: libc::c_int,
}

impl Child<'_> {
    /// Becomes the program, or tells why not and ends.
    fn become_program(&mut self, tell: RawFd) -> ! {
        let mut refusal = [0; REFUSAL_LENGTH];
        let (step, error) = match self.set_up() {
            Err(error) => (0, error),
            Ok(()) => match write_record(self.record, self.label) {
                Err(error) => (1, error),
                Ok(()) => match self.enter_directory(tell) {
                    Err(error) => (2, error),
                    Ok(()) => (3, self.execute()),
                },
            },
        };
        let [first, number @ ..] = &mut refusal;
        *first = step;
        *number = error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes();
        // SAFETY: `refusal` is readable for its length; _exit runs nothing of the guard's.
        unsafe {
            libc::write(tell, refusal.as_ptr().cast(), refusal.len());
            libc::_exit(127);
        }
    }

    fn set_up(&self) -> io::Result<()> {
        // SAFETY: all of these are async-signal-safe; the only memory they touch is `none`, for which all zeroes is valid.
        unsafe {
            check(libc::setsid())?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            // The signal is for a death to come; a guard that died before is seen by the new parent.
            if libc::getppid() != self.guard {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            // What a caller ignores (a shell does so with SIGINT for its background jobs) would stay ignored over exec,
            // and a service's stop signal might be that one. SIGKILL and SIGSTOP refuse, as they should.
            for signal in 1..=self.last_signal {
                libc::signal(signal, libc::SIG_DFL);
            }
            // The guard blocks signals, and a mask survives exec: a service would never hear SIGTERM.
            let mut none: libc::sigset_t = std::mem::zeroed();
            check(libc::sigemptyset(&raw mut none))?;
            check(libc::sigprocmask(
                libc::SIG_SETMASK,
                &raw const none,
                std::ptr::null_mut(),
            ))?;
            // Its standard input is the guard's: /dev/null.
            check(libc::dup2(self.log, libc::STDOUT_FILENO))?;
            check(libc::dup2(self.log, libc::STDERR_FILENO))
        }
    }

    /// Closes what is the guard's. The execution would do so, but it may be held up for ever, and the guard's end is seen by
    /// its socket, and its locks are free, only when every copy is closed.
    fn let_go_of_the_guard(tell: RawFd) {
        let tell = tell.cast_unsigned();
        for (first, last) in [(3, tell - 1), (tell + 1, libc::c_uint::MAX)] {
            if first <= last {
                // SAFETY: what is closed here is used no more. A kernel that does not know the call (before 5.9) refuses, which
                // changes nothing for a start that is not held up.
                unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            }
        }
    }

    fn enter_directory(&self, tell: RawFd) -> io::Result<()> {
        Self::let_go_of_the_guard(tell);
        // SAFETY: a C string that outlives the call.
        check(unsafe { libc::chdir(self.directory.as_ptr()) })
    }

    /// Returns only if no program can be executed. Which error decides is as in execvp(3), but for directories of PATH that may
    /// not be searched: a program that nobody has seen in them is not there, as for a shell.
    fn execute(&mut self) -> io::Error {
        let (mut denied, mut hidden) = (false, false);
        let mut last = libc::ENOENT;
        for program in self.programs.iter().filter(|program| !program.is_null()) {
            let words = self.shell.get(1..).unwrap_or_default();
            // SAFETY: C strings, in arrays that end with null; all outlive the call.
            unsafe { libc::execve(*program, words.as_ptr(), self.environment.as_ptr()) };
            // SAFETY: the error number of this thread.
            last = unsafe { *libc::__errno_location() };
            match last {
                libc::ENOEXEC => {
                    // A script without a first line that names its interpreter.
                    if let Some(place) = self.shell.get_mut(1) {
                        *place = *program;
                    }
                    if let Some(shell) = self.shell.first() {
                        // SAFETY: as above.
                        unsafe { libc::execve(*shell, self.shell.as_ptr(), self.environment.as_ptr()) };
                    }
                    break;
                }
                // SAFETY: a C string that outlives the call.
                libc::EACCES if unsafe { libc::access(*program, libc::F_OK) } != 0 => {
                    hidden = true;
                    last = libc::ENOENT;
                }
                libc::EACCES => denied = true,
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                _ => break,
            }
        }
        let missing = matches!(last, libc::ENOENT | libc::ENOTDIR);
        // Where there is one place alone, it is no search.
        let is_alone = self.programs.iter().filter(|program| !program.is_null()).count() == 1;
        let refused = denied || hidden && is_alone;
        io::Error::from_raw_os_error(if refused && missing { libc::EACCES } else { last })
    }
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
