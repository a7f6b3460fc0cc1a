//! The start of a service's process: prepared before the fork, so that the child only makes calls that are safe there.
#![expect(unsafe_code, reason = "system calls that the libraries offer no safe form of")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::process_record::{record_label, write_record};
use crate::sys::check;

/// A service's process, prepared before the fork; after the fork nothing is allocated.
pub struct PreparedProcess {
    /// Paths to try in this order: one path, or the program in each directory of PATH.
    programs: Vec<CString>,
    words: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
    label: Vec<u8>,
}

/// The step at which a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartStep {
    /// Session, signals and streams.
    SetUp,
    /// The record of the process.
    Record,
    /// The change to the working directory.
    Directory,
    /// The execution of the program.
    Execute,
}

/// The reason why a process did not execute the program.
#[derive(Debug)]
pub struct NotExecuted {
    pub step: StartStep,
    pub error: io::Error,
}

/// Length of the message in the pipe of a failed start: a step and an error number.
const REFUSAL_LENGTH: usize = 1 + size_of::<libc::c_int>();

impl PreparedProcess {
    /// Converts the values to C strings.
    ///
    /// # Errors
    /// One of the values contains a NUL byte.
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

    /// Starts the process: in a new session, killed when the guard dies, with a record and with this log as output.
    /// Does not wait for the exec, which an unresponsive file system can delay for ever.
    ///
    /// The exec closes the pipe. If the exec fails, [`read_refusal`] reads the reason from the pipe.
    ///
    /// # Errors
    /// No process can be created, or no descriptor is left.
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
        let mut child = ForkedChild {
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
        let (refusal_reader, refusal_writer) = io::pipe()?;
        nix::fcntl::fcntl(
            &refusal_reader,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        // SAFETY: the guard has one thread, and the child makes only async-signal-safe calls, on memory that is
        // prepared.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => child.become_program(refusal_writer.as_raw_fd()),
            pid => Ok((pid, refusal_reader)),
        }
    }
}

/// Reads the pipe of a start: `None` means that nothing is known yet, `Ok` that the pipe is closed (the program was
/// executed, or the process died), `Err` that the program was not executed.
pub fn read_refusal(pipe: &mut PipeReader) -> Option<Result<(), NotExecuted>> {
    let mut refusal = [0; REFUSAL_LENGTH];
    match pipe.read(&mut refusal) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        Ok(REFUSAL_LENGTH) => {
            let [step, number @ ..] = refusal;
            let step = match step {
                1 => StartStep::Record,
                2 => StartStep::Directory,
                3 => StartStep::Execute,
                _ => StartStep::SetUp,
            };
            Some(Err(NotExecuted {
                step,
                error: io::Error::from_raw_os_error(libc::c_int::from_ne_bytes(number)),
            }))
        }
        // The kernel writes such a short message whole; a shorter one means that the process died during the write.
        Ok(_) | Err(_) => Some(Ok(())),
    }
}

/// The child between fork and exec.
struct ForkedChild<'a> {
    /// Pointers that end with null, as do the next two lists.
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

impl ForkedChild<'_> {
    /// Executes the program; if that fails, writes the reason to the pipe and ends.
    fn become_program(&mut self, refusal_writer: RawFd) -> ! {
        let mut refusal = [0; REFUSAL_LENGTH];
        let (step, error) = match self.set_up() {
            Err(error) => (0, error),
            Ok(()) => match write_record(self.record, self.label) {
                Err(error) => (1, error),
                Ok(()) => match self.enter_directory(refusal_writer) {
                    Err(error) => (2, error),
                    Ok(()) => (3, self.execute()),
                },
            },
        };
        let [first, number @ ..] = &mut refusal;
        *first = step;
        *number = error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes();
        // SAFETY: `refusal` is readable for its length; _exit runs no code of the guard.
        unsafe {
            libc::write(refusal_writer, refusal.as_ptr().cast(), refusal.len());
            libc::_exit(127);
        }
    }

    fn set_up(&self) -> io::Result<()> {
        // SAFETY: all calls are async-signal-safe; they touch only `none`, for which all zeroes is a valid value.
        unsafe {
            check(libc::setsid())?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            // The signal covers only a later death of the guard; after an earlier death this process has a new parent.
            if libc::getppid() != self.guard {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            // A signal that the caller ignores (a shell does so with SIGINT for background jobs) would stay ignored
            // over the exec, and might be the service's stop signal. The calls for SIGKILL and SIGSTOP fail, as they
            // should.
            for signal in 1..=self.last_signal {
                libc::signal(signal, libc::SIG_DFL);
            }
            // Until the record is written, a file that exceeds the size limit makes the write fail instead of killing
            // the process.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            // The guard blocks signals, and the mask survives the exec: a service would never receive SIGTERM.
            let mut none: libc::sigset_t = std::mem::zeroed();
            check(libc::sigemptyset(&raw mut none))?;
            check(libc::sigprocmask(
                libc::SIG_SETMASK,
                &raw const none,
                std::ptr::null_mut(),
            ))?;
            // The standard input is that of the guard: /dev/null.
            check(libc::dup2(self.log, libc::STDOUT_FILENO))?;
            check(libc::dup2(self.log, libc::STDERR_FILENO))
        }
    }

    /// Closes the descriptors of the guard. The exec would close them too, but may be delayed for ever. The end of the
    /// guard is visible through the socket, and the locks are free, only when every copy is closed.
    fn close_guard_descriptors(refusal_writer: RawFd) {
        let refusal_writer = refusal_writer.cast_unsigned();
        for (first, last) in [(3, refusal_writer - 1), (refusal_writer + 1, libc::c_uint::MAX)] {
            if first <= last {
                // SAFETY: the closed descriptors are not used again. A kernel that does not know the call (before 5.9)
                // returns an error, which changes nothing for a start that is not delayed.
                unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            }
        }
    }

    fn enter_directory(&self, refusal_writer: RawFd) -> io::Result<()> {
        Self::close_guard_descriptors(refusal_writer);
        // SAFETY: SIG_DFL runs no code of this process.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
        // SAFETY: a C string that outlives the call.
        check(unsafe { libc::chdir(self.directory.as_ptr()) })
    }

    /// Executes the first program that can be executed; returns the error if there is none. The error is chosen as in
    /// execvp(3), except for directories of PATH that may not be searched: a program in them counts as missing, as for
    /// a shell.
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
                    // A script without a first line that names the interpreter.
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
        // With a single path there is no search.
        let is_only_path = self.programs.iter().filter(|program| !program.is_null()).count() == 1;
        let refused = denied || hidden && is_only_path;
        io::Error::from_raw_os_error(if refused && missing { libc::EACCES } else { last })
    }
}
