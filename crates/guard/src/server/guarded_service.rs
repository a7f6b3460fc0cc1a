//! One service of the guard: the main process, its start and its stop.

use std::io::PipeReader;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::spawn::explain;
use crate::log::log;
use crate::protocol::{GuardReport, SpawnOrder};
use crate::records::RunRecords;
use orch_base::system::processes;
use orch_base::text::duration_text::shown;
use orch_base::text::signal_name::signal_name;
use orch_linux::exit::ProcessExit;
use orch_linux::prepared_process::read_refusal;
use orch_linux::sys;

/// Longest time for an exec; only an unresponsive file system needs longer.
const EXECUTE_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay after which killed processes that are still there are killed again (a fork may have escaped the first
/// listing).
pub const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Time from the first SIGKILL to a process tree until the stop goes on without the end of the tree. A process that
/// waits for a disk, or belongs to another user, may live for ever.
const KILL_TIMEOUT: Duration = Duration::from_millis(500);

/// A service of which something may be alive.
pub struct GuardedService {
    pub order: SpawnOrder,
    /// The service's log in the form of the kernel, without symbolic links.
    pub log: PathBuf,
    pub pid: i32,
    /// The main process has not ended.
    pub alive: bool,
    /// The start under way: the process has not executed the program yet.
    launch: Option<LaunchState>,
    stop: Option<StopProgress>,
    /// Time of the first SIGKILL to the process tree.
    killed_at: Option<Instant>,
}

/// A start under way.
enum LaunchState {
    /// The program has to be executed before `until`; the pipe reports the result.
    Pending { pipe: PipeReader, until: Instant },
    /// The program was not executed and the process is about to end. An unreported error is reported at that end.
    Failed { unreported: Option<String> },
}

/// A stop under way: the current step and the end of that step. After the last step the process tree is killed, again
/// and again.
struct StopProgress {
    step: usize,
    until: Instant,
}

/// The end of a main process, with the reports for orch.
pub enum MainEnd {
    /// The program was executed: other processes of the service may be alive.
    Exited(GuardReport),
    /// The program was not executed: there is no other process of the service.
    NeverExecuted(Vec<GuardReport>),
}

impl GuardedService {
    /// Returns the service of a process that was just forked; the pipe reports the result of the exec.
    pub fn launched(order: SpawnOrder, pid: i32, pipe: PipeReader) -> Self {
        let log = order.log.canonicalize().unwrap_or_else(|_| order.log.clone());
        let until = Instant::now() + EXECUTE_TIMEOUT;
        Self {
            order,
            log,
            pid,
            alive: true,
            launch: Some(LaunchState::Pending { pipe, until }),
            stop: None,
            killed_at: None,
        }
    }

    /// Returns the pipe and the deadline of the start under way.
    pub fn pending_launch(&self) -> Option<(&PipeReader, Instant)> {
        match &self.launch {
            Some(LaunchState::Pending { pipe, until }) => Some((pipe, *until)),
            Some(LaunchState::Failed { .. }) | None => None,
        }
    }

    /// Returns the end of the current step of the stop.
    pub fn stop_deadline(&self) -> Option<Instant> {
        self.stop.as_ref().map(|stop| stop.until)
    }

    /// Checks a start through the pipe, and returns the report about the result. A failed start is reported when the
    /// process is reaped: only then is the service's name free.
    pub fn check_launch(&mut self, records: &RunRecords) -> Option<GuardReport> {
        let Some(LaunchState::Pending { pipe, until }) = &mut self.launch else {
            return None;
        };
        let program = self.order.argv.first().map_or("", String::as_str);
        let error = match read_refusal(pipe) {
            Some(Ok(())) if has_executed(self.pid) => {
                self.launch = None;
                return Some(GuardReport::Spawned {
                    service: self.order.service.clone(),
                    pid: self.pid,
                });
            }
            Some(Ok(())) => format!("its process ended before it executed `{program}`"),
            Some(Err(refusal)) => explain(&refusal, &self.order, records),
            None if Instant::now() < *until => return None,
            None => {
                let error = format!(
                    "`{program}` has not been executed within {}: the file system that it is on, or that of \
                     {}, does not answer",
                    shown(EXECUTE_TIMEOUT),
                    self.order.directory.display()
                );
                // The end of the process may take just as long, so the report does not wait for that.
                send(self.pid, Signal::SIGKILL as i32);
                self.launch = Some(LaunchState::Failed { unreported: None });
                return Some(GuardReport::SpawnFailed {
                    service: self.order.service.clone(),
                    error,
                });
            }
        };
        self.launch = Some(LaunchState::Failed {
            unreported: Some(error),
        });
        None
    }

    /// Notes the end of the main process, whose start is checked.
    pub fn note_main_end(&mut self, ended: ProcessExit) -> MainEnd {
        let service = || self.order.service.clone();
        if let Some(LaunchState::Failed { unreported }) = self.launch.take() {
            let failed = unreported.map(|error| GuardReport::SpawnFailed {
                service: service(),
                error,
            });
            let gone = self.stop.as_ref().map(|_| GuardReport::Gone { service: service() });
            return MainEnd::NeverExecuted(failed.into_iter().chain(gone).collect());
        }
        self.alive = false;
        MainEnd::Exited(GuardReport::Exited {
            service: service(),
            pid: self.pid,
            ended,
        })
    }

    /// Sends a signal to the main process, unless that has ended.
    pub fn signal(&self, signal: i32) {
        if self.alive {
            send(self.pid, signal);
        }
    }

    /// Begins the first step of the stop plan, unless a stop is under way; in a hurry all steps are skipped.
    pub fn begin_stop(&mut self, hurry: bool) {
        if self.stop.is_some() {
            return;
        }
        // A process that has not executed the program yet has nothing to clean up.
        let is_up = self.alive && self.launch.is_none();
        let first = self.order.stop.steps.first().filter(|_| is_up && !hurry);
        let until = match first {
            Some(step) => {
                send(self.pid, step.signal);
                Instant::now() + step.grace
            }
            None => Instant::now(),
        };
        let step = if first.is_some() {
            0
        } else {
            self.order.stop.steps.len()
        };
        self.stop = Some(StopProgress { step, until });
    }

    /// Returns true if SIGKILL has not ended the process tree in time.
    pub fn resists_kill(&self, now: Instant) -> bool {
        self.killed_at.is_some_and(|killed_at| now >= killed_at + KILL_TIMEOUT)
    }

    /// Advances the stop to this time; returns true if the process tree is to be killed.
    pub fn advance_stop(&mut self, now: Instant, hurry: bool) -> bool {
        let kills = self.reaches_kill(now, hurry);
        if kills {
            self.killed_at.get_or_insert(now);
        }
        kills
    }

    fn reaches_kill(&mut self, now: Instant, hurry: bool) -> bool {
        let steps = &self.order.stop.steps;
        let Some(stop) = &mut self.stop else {
            return !self.alive;
        };
        if hurry {
            stop.step = steps.len();
            stop.until = stop.until.min(now);
        }
        while stop.until <= now && stop.step < steps.len() {
            stop.step += 1;
            stop.until = match steps.get(stop.step) {
                Some(step) if self.alive => {
                    send(self.pid, step.signal);
                    now + step.grace
                }
                _ => now,
            };
        }
        let is_over = stop.step >= steps.len();
        if is_over {
            stop.until = now + RETRY_INTERVAL;
        }
        is_over || !self.alive
    }
}

/// Returns true if a child of this process has executed a program; also for a child that cannot be looked up.
fn has_executed(pid: i32) -> bool {
    processes::look_up(pid)
        .ok()
        .flatten()
        .is_none_or(|process| process.has_executed)
}

/// Signals a child; SIGCONT follows, since a stopped process would not react otherwise.
fn send(pid: i32, signal: i32) {
    if let Err(error) = sys::signal_process(pid, signal)
        && error.raw_os_error() != Some(Errno::ESRCH as i32)
    {
        log(&format!(
            "could not send {pid} the signal {}: {error}",
            signal_name(signal)
        ));
    }
    if signal != Signal::SIGKILL as i32 {
        kill(Pid::from_raw(pid), Signal::SIGCONT).ok();
    }
}
