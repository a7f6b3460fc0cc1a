//! The owner's side of the guard: start, orders and stop.
//!
//! Not here: the reports ([`super::report_reader`]), and the end of what a dead guard has left ([`super::lost`]).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::channel::{GuardChannel, GuardState, lock, send};
use super::error::Error;
use super::lost::KILL_GRACE;
use super::options::{GuardFiles, GuardOptions};
use super::report_reader::{GuardEvent, ReportReader};
use super::start::{GuardProcess, greet};
use super::terminal_switch::TerminalSwitch;
use crate::control_group::HeldGroup;
use crate::inherited_children::InheritedChildren;
use crate::init::INITIALISED;
use crate::protocol::{GuardOrder, SpawnOrder};
use orch_base::text::duration_text::shown;
use orch_linux::sys;

/// Longest wait for the guard's `Started`, which normally comes a few milliseconds after the exec.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the end of a guard that was killed or got a goodbye, and for the end of the remaining processes.
const GUARD_END_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for reports that the guard has sent already to be read.
const LAST_REPORTS_TIMEOUT: Duration = Duration::from_millis(300);
/// Longest wait of the switch for another order to be written; a longer write is stuck.
const HURRY_TIMEOUT: Duration = Duration::from_millis(200);

/// The result of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSummary {
    pub elapsed: Duration,
}

/// The owner of the guard; a drop stops everything.
pub struct Guard {
    handle: GuardHandle,
    pid: i32,
    run_id: String,
    reader: Option<JoinHandle<()>>,
    child: Arc<Mutex<GuardProcess>>,
    stopped: Mutex<bool>,
}

/// A handle for orders; cheap to clone.
#[derive(Clone)]
pub struct GuardHandle(Arc<GuardChannel>);

/// A switch that skips all grace periods. The switch has a separate descriptor, so it works while everything else is
/// blocked.
pub struct HurrySwitch {
    socket: UnixStream,
    shared: Arc<GuardChannel>,
}

impl Guard {
    /// Starts the process of the guard: this program again, in a new session. The guard loads while the files are
    /// prepared, and does nothing before [`WaitingGuard::begin`].
    ///
    /// # Errors
    /// [`crate::init::init`] has not run, or the kernel refuses to start a process.
    pub fn start(options: GuardOptions) -> Result<WaitingGuard, Error> {
        if !INITIALISED.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::NotInitialised);
        }
        // If the guard is killed, this process adopts the guard's processes.
        sys::become_subreaper().map_err(Error::Start)?;
        let (ours, theirs) = UnixStream::pair().map_err(Error::Start)?;
        ours.set_write_timeout(Some(Duration::from_secs(10)))
            .map_err(Error::Start)?;
        let mut inherited = InheritedChildren::note(options.owns_all_children);
        let mut group = HeldGroup::create(&options.run_id);
        let child = GuardProcess::start(theirs, &mut group).map_err(Error::Start)?;
        inherited.guard_started(child.pid());
        Ok(WaitingGuard {
            run_id: options.run_id,
            socket: ours,
            inherited,
            process: UnusedProcess(Some((child, group))),
        })
    }

    /// Returns the pid of the guard.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns a handle for orders.
    pub fn handle(&self) -> GuardHandle {
        self.handle.clone()
    }

    /// Stops everything in order and waits for the end of the stop. Idempotent, synchronous, bounded.
    ///
    /// # Errors
    /// The guard was lost, or something did not end within the bound and was killed.
    pub fn stop_all(&self) -> Result<StopSummary, Error> {
        let mut stopped = lock(&self.stopped);
        let began = Instant::now();
        if *stopped {
            return Ok(StopSummary {
                elapsed: Duration::ZERO,
            });
        }
        *stopped = true;
        let bound = self.handle.stop_bound() + KILL_GRACE;
        let shared = &self.handle.0;
        let sent = shared.send(&GuardOrder::StopAll);
        let is_over = |known: &GuardState| known.all_gone || known.closed;
        if !shared.wait_until(bound, is_over) {
            // An orch that was stopped (SIGSTOP) continues after the deadline, with unread reports of the guard.
            shared.wait_until(LAST_REPORTS_TIMEOUT, is_over);
        }
        let (all_gone, closed) = {
            let known = lock(&shared.known);
            (known.all_gone, known.closed)
        };
        let result = if all_gone {
            shared.send(&GuardOrder::Goodbye).ok();
            Ok(StopSummary {
                elapsed: began.elapsed(),
            })
        } else if closed || sent.is_err() {
            match shared.wait_until(GUARD_END_TIMEOUT, |known| known.closed) {
                true => Err(Error::Gone),
                false => Err(Error::Uncertain("the guard does not end".to_owned())),
            }
        } else {
            // The guard is stopped or blocked. The death of the guard makes the descendants children of orch, and the
            // reader ends them.
            lock(&shared.known).is_given_up = true;
            lock(&self.child).kill();
            match shared.wait_until(GUARD_END_TIMEOUT, |known| known.closed) {
                true => Err(Error::StopTooSlow { bound }),
                false => Err(Error::Uncertain(
                    "the guard does not end, although it was killed".to_owned(),
                )),
            }
        };
        lock(&shared.socket).shutdown(std::net::Shutdown::Write).ok();
        match (lock(&shared.known).unsure.clone(), &result) {
            (Some(left), Err(Error::StopTooSlow { bound })) => Err(Error::NotEnded { bound: *bound, left }),
            (Some(why), _) => Err(Error::Uncertain(why)),
            (None, _) => result,
        }
    }
}

/// A guard whose process has started. If this value is dropped before the run has begun, the process ends.
pub struct WaitingGuard {
    run_id: String,
    socket: UnixStream,
    inherited: InheritedChildren,
    process: UnusedProcess,
}

/// The process of a guard that has started nothing, and the control group of the run.
struct UnusedProcess(Option<(GuardProcess, Option<HeldGroup>)>);

impl Drop for UnusedProcess {
    fn drop(&mut self) {
        if let Some((mut child, group)) = self.0.take() {
            child.kill();
            child.wait();
            group.map(HeldGroup::remove);
        }
    }
}

impl WaitingGuard {
    /// Hands the files to the guard. `on_event` runs on a separate thread.
    ///
    /// # Errors
    /// The log cannot be opened, or the guard cannot begin.
    pub fn begin(mut self, files: &GuardFiles, on_event: impl Fn(GuardEvent) + Send + 'static) -> Result<Guard, Error> {
        let group = self.process.0.as_ref().and_then(|(_, group)| group.as_ref());
        greet(&self.socket, &self.run_id, files, group).map_err(Error::Start)?;
        let reading = self.socket.try_clone().map_err(Error::Start)?;
        let Some((child, group)) = self.process.0.take() else {
            return Err(Error::Gone);
        };
        let pid = child.pid();
        let child = Arc::new(Mutex::new(child));

        let (started, begun) = channel();
        let shared = Arc::new(GuardChannel::new(self.socket));
        let reader = ReportReader {
            shared: Arc::clone(&shared),
            started,
            run_id: self.run_id.clone(),
            inherited: self.inherited,
            group,
            child: Arc::clone(&child),
        };
        let thread = std::thread::Builder::new()
            .name("guard reports".to_owned())
            .spawn(move || reader.run(reading, on_event))
            .map_err(Error::Start)?;
        let guard = Guard {
            handle: GuardHandle(shared),
            pid,
            run_id: self.run_id,
            reader: Some(thread),
            child,
            stopped: Mutex::new(false),
        };
        match begun.recv_timeout(START_TIMEOUT) {
            Ok(Ok(())) => Ok(guard),
            Ok(Err(why)) => Err(Error::Start(io::Error::other(why))),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Start(io::Error::other("it ended at once"))),
            Err(RecvTimeoutError::Timeout) => Err(Error::Start(io::Error::other(format!(
                "it did not begin within {}",
                shown(START_TIMEOUT)
            )))),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A failure here is in the guard's log, and the guard's reader ends the remaining processes.
        self.stop_all().ok();
        if let Some(reader) = self.reader.take() {
            // The reader waits for the guard's end, which may never come (a disk that does not respond).
            if self.handle.0.wait_until(GUARD_END_TIMEOUT, |known| known.closed) {
                reader.join().ok();
            } else {
                tracing::warn!(pid = self.pid, "the guard does not end; no longer waiting for it");
            }
        }
        tracing::debug!(run_id = self.run_id, "the guard is gone");
    }
}

impl GuardHandle {
    /// Orders the start of a service; the event `Spawned` or `SpawnFailed` follows, the latter with the reason as text.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn spawn(&self, order: SpawnOrder) -> Result<(), Error> {
        let (service, plan) = (order.service.clone(), order.stop.clone());
        lock(&self.0.known).starting.insert(service.clone(), plan);
        self.0.send(&GuardOrder::Spawn(Box::new(order))).inspect_err(|_| {
            lock(&self.0.known).starting.remove(&service);
        })
    }

    /// Sends a signal to a service's main process.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn signal(&self, service: &str, signal: i32) -> Result<(), Error> {
        self.0.send(&GuardOrder::Signal {
            service: service.to_owned(),
            signal,
        })
    }

    /// Orders one service's stop plan; the event `Gone` follows.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn stop(&self, service: &str) -> Result<(), Error> {
        self.0.send(&GuardOrder::Stop {
            service: service.to_owned(),
        })
    }

    /// Returns the longest time that a stop of the living services takes before SIGKILL: the sum over ranks.
    pub fn stop_bound(&self) -> Duration {
        let mut ranks: BTreeMap<u32, Duration> = BTreeMap::new();
        let known = lock(&self.0.known);
        for plan in known.plans.values().chain(known.starting.values()) {
            let rank = ranks.entry(plan.rank).or_default();
            *rank = (*rank).max(plan.bound());
        }
        ranks.values().sum()
    }

    /// Returns a switch for the guard's reset of a terminal, which is off.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn terminal_switch(&self, terminal: impl AsFd) -> io::Result<TerminalSwitch> {
        TerminalSwitch::new(terminal.as_fd().try_clone_to_owned()?, Arc::clone(&self.0))
    }

    /// Returns a switch for a thread that handles signals.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn hurry_switch(&self) -> Result<HurrySwitch, Error> {
        let socket = lock(&self.0.socket).try_clone().map_err(Error::Start)?;
        Ok(HurrySwitch {
            socket,
            shared: Arc::clone(&self.0),
        })
    }
}

impl HurrySwitch {
    /// Skips all grace periods from now on.
    pub fn hurry(&self) {
        // The order is not written into the middle of another one, unless the writer of that one is stuck.
        let turn = self.shared.turn_within(HURRY_TIMEOUT);
        send(&self.socket, &GuardOrder::Hurry).ok();
        drop(turn);
    }
}
