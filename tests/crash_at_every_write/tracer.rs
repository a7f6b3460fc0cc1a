//! Runs one orch call by call, as a debugger does: before each system call by which orch, its guard, or a service's
//! process before its program may change something below a directory, a function decides the fault of the call.
//!
//! Services are released when they execute their programs: their later writes are not those of orch.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::call::{Actor, Call, decode, may_change};

/// Time that a life may take on a busy machine.
const LIFE_TIMEOUT: Duration = Duration::from_secs(60);

/// Fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The victims are killed, and the call is not made.
    Kill(Victims),
    /// Half of the bytes are written, then the victims are killed.
    KillHalfway(Victims),
    /// The call fails.
    Fail(Errno),
    /// Half of the bytes are written, which is no failure yet.
    Halve,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    Orch,
    Guard,
    Both,
}

/// End of orch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(Signal),
}

/// Work to be done when the call of a thread returns.
#[derive(Clone, Debug)]
struct Inside {
    call: Call,
    fault: Option<Fault>,
    /// Original length, if the length was changed.
    length: Option<u64>,
}

struct Tracee {
    actor: Actor,
    inside: Option<Inside>,
}

/// All traced processes, by thread; the pids of orch and the guard for the kills.
pub struct Tracer<'a> {
    below: &'a Path,
    judge: &'a mut dyn FnMut(&Call) -> Option<Fault>,
    /// File whose replacement shows that orch is up; orch is then asked to end. Without such a file orch ends by
    /// itself.
    up: Option<&'a Path>,
    orch: Pid,
    guard: Option<Pid>,
    tracees: HashMap<Pid, Tracee>,
    /// Threads whose first stop came before the event of their parent.
    early: Vec<Pid>,
    end: Option<End>,
}

/// Reason why no process can be traced here.
#[derive(Debug)]
pub struct Forbidden(pub Errno);

/// Runs `orch` to its end, and its guard to the guard's end.
///
/// # Errors
/// Tracing is forbidden here.
pub fn watch(
    orch: &mut Command,
    below: &Path,
    up: Option<&Path>,
    judge: &mut dyn FnMut(&Call) -> Option<Fault>,
) -> Result<End, Forbidden> {
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    #[expect(clippy::zombie_processes, reason = "the tracer waits for all of them, by waitpid")]
    let root = orch.spawn().expect("could not start a shell that becomes orch");
    let orch = Pid::from_raw(i32::try_from(root.id()).expect("a pid"));
    // The shell stops itself, so that no call is missed.
    let stopped = waitpid(orch, Some(WaitPidFlag::WUNTRACED)).expect("our child");
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    if let Err(errno) = ptrace::seize(orch, options) {
        kill(orch, Signal::SIGKILL).ok();
        waitpid(orch, None).ok();
        return Err(Forbidden(errno));
    }
    kill(orch, Signal::SIGCONT).expect("our child");
    let known = Arc::new(Mutex::new(vec![orch]));
    let (over, is_over) = channel::<()>();
    let watchdog = {
        let known = Arc::clone(&known);
        std::thread::spawn(move || {
            let hung = is_over.recv_timeout(LIFE_TIMEOUT) == Err(RecvTimeoutError::Timeout);
            if hung {
                for pid in known.lock().unwrap().iter() {
                    kill(*pid, Signal::SIGKILL).ok();
                }
            }
            hung
        })
    };
    let mut tracer = Tracer {
        below,
        judge,
        up,
        orch,
        guard: None,
        tracees: HashMap::new(),
        early: Vec::new(),
        end: None,
    };
    tracer.tracees.insert(
        orch,
        Tracee {
            actor: Actor::Orch,
            inside: None,
        },
    );
    tracer.run(&known);
    drop(over);
    assert!(!watchdog.join().unwrap(), "not over within {LIFE_TIMEOUT:?}");
    Ok(tracer.end.expect("the end of our child was seen"))
}

impl Tracer<'_> {
    fn run(&mut self, known: &Mutex<Vec<Pid>>) {
        // Waits for processes of this thread alone: other threads trace other lives.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(Pid::from_raw(-1), Some(flags)) {
                Ok(status) => self.take(status, known),
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return,
                Err(errno) => panic!("waitpid: {errno}"),
            }
        }
    }

    fn take(&mut self, status: WaitStatus, known: &Mutex<Vec<Pid>>) {
        match status {
            WaitStatus::Exited(pid, code) => self.gone(pid, End::Code(code)),
            WaitStatus::Signaled(pid, signal, _) => self.gone(pid, End::Signal(signal)),
            WaitStatus::PtraceSyscall(thread) => self.at_call(thread),
            WaitStatus::PtraceEvent(thread, signal, event) => self.at_event(thread, signal, event, known),
            WaitStatus::Stopped(thread, signal) => resume(thread, Some(signal)),
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
    }

    fn gone(&mut self, pid: Pid, end: End) {
        self.tracees.remove(&pid);
        if pid == self.orch {
            self.end = Some(end);
        }
        self.let_orphans_go();
    }

    /// Releases new processes whose parent was killed right after the fork: the event of the parent will not come.
    fn let_orphans_go(&mut self) {
        let tracees = &self.tracees;
        self.early.retain(|child| {
            let awaited = parent(*child).is_some_and(|parent| tracees.contains_key(&parent));
            if !awaited {
                ptrace::detach(*child, None).ok();
            }
            awaited
        });
    }

    fn at_event(&mut self, thread: Pid, signal: Signal, event: libc::c_int, known: &Mutex<Vec<Pid>>) {
        let child = || ptrace::getevent(thread).ok().and_then(|pid| i32::try_from(pid).ok());
        let actor = self.tracees.get(&thread).map(|tracee| tracee.actor);
        match (event, actor) {
            (libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK, Some(parent)) => {
                if let Some(child) = child().map(Pid::from_raw) {
                    // The standard library creates threads by clone and processes by fork or vfork.
                    let actor = match (event, parent) {
                        (libc::PTRACE_EVENT_CLONE, same) => same,
                        (_, Actor::Orch) => Actor::Guard,
                        (_, Actor::Guard | Actor::Service) => Actor::Service,
                    };
                    if actor == Actor::Guard && parent == Actor::Orch {
                        self.guard = Some(child);
                        known.lock().unwrap().push(child);
                    }
                    self.tracees.insert(child, Tracee { actor, inside: None });
                    if let Some(place) = self.early.iter().position(|early| *early == child) {
                        self.early.swap_remove(place);
                        resume(child, None);
                    }
                }
                resume(thread, None);
            }
            (libc::PTRACE_EVENT_EXEC, Some(Actor::Service)) => {
                self.tracees.remove(&thread);
                ptrace::detach(thread, None).ok();
            }
            // The first stop of a new thread or process, before the event of its parent.
            (libc::PTRACE_EVENT_STOP, None) => {
                self.early.push(thread);
                self.let_orphans_go();
            }
            (libc::PTRACE_EVENT_STOP, _) => resume(thread, None),
            _ => resume(thread, (signal != Signal::SIGTRAP).then_some(signal)),
        }
    }

    fn at_call(&mut self, thread: Pid) {
        let tracee = self.tracees.get_mut(&thread);
        // The thread was killed at this instant: its end follows.
        let (Some(tracee), Ok(mut registers)) = (tracee, ptrace::getregs(thread)) else {
            return resume(thread, None);
        };
        if tracee.inside.is_none() && !may_change(registers.orig_rax) {
            return resume(thread, None);
        }
        let Ok(info) = ptrace::syscall_info(thread) else {
            return resume(thread, None);
        };
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
            tracee.inside = None;
            let call = decode(thread, registers.orig_rax, arguments, tracee.actor)
                .filter(|call| call.path.starts_with(self.below));
            if let Some(call) = call {
                let fault = (self.judge)(&call);
                let mut inside = Inside {
                    call,
                    fault,
                    length: None,
                };
                match fault {
                    Some(Fault::Kill(victims)) => {
                        // The call may be one of another process than the victim; that call is not made either.
                        registers.orig_rax = u64::MAX;
                        ptrace::setregs(thread, registers).ok();
                        tracee.inside = Some(inside);
                        self.kill(victims);
                        return resume(thread, None);
                    }
                    Some(Fault::Fail(_)) => {
                        registers.orig_rax = u64::MAX;
                        ptrace::setregs(thread, registers).ok();
                    }
                    Some(Fault::Halve | Fault::KillHalfway(_)) => {
                        inside.length = Some(registers.rdx);
                        registers.rdx /= 2;
                        ptrace::setregs(thread, registers).ok();
                    }
                    None => {}
                }
                tracee.inside = Some(inside);
            }
        } else if let Some(inside) = tracee.inside.take() {
            if let Some(length) = inside.length {
                // The kernel keeps the registers of arguments, and compilers rely on that.
                registers.rdx = length;
                ptrace::setregs(thread, registers).ok();
            }
            match inside.fault {
                Some(Fault::KillHalfway(victims)) => self.kill(victims),
                Some(Fault::Fail(errno)) => {
                    registers.rax = (-i64::from(errno as i32)).cast_unsigned();
                    ptrace::setregs(thread, registers).ok();
                }
                _ => {}
            }
            let succeeded = registers.rax.cast_signed() >= 0;
            if inside.call.name == "rename" && Some(inside.call.path.as_path()) == self.up && succeeded {
                kill(self.orch, Signal::SIGTERM).ok();
            }
        }
        resume(thread, None);
    }

    fn kill(&self, victims: Victims) {
        let orch = matches!(victims, Victims::Orch | Victims::Both).then_some(self.orch);
        let guard = self.guard.filter(|_| matches!(victims, Victims::Guard | Victims::Both));
        for victim in [orch, guard].into_iter().flatten() {
            kill(victim, Signal::SIGKILL).ok();
        }
    }
}

/// Continues to the next call; a thread that was killed in between is gone.
fn resume(thread: Pid, signal: Option<Signal>) {
    ptrace::syscall(thread, signal).ok();
}

/// Returns the process that forked this one, or the process of this thread.
fn parent(thread: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let number = |name: &str| -> Option<i32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    let process = Pid::from_raw(number("Tgid:")?);
    if process == thread {
        number("PPid:").map(Pid::from_raw)
    } else {
        Some(process)
    }
}
