//! The event loop of the guard: one thread, one loop over the socket, SIGCHLD and the next deadline.
//!
//! The guard is the subreaper of all services: processes that they fork, double-fork or `setsid` become children of the
//! guard when they lose their parents, so the guard can end every descendant. The guard reaps in one place only, and
//! never while it decides which processes to kill: a zombie keeps the pid.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::guard_phase::{GuardPhase, PhaseAction, PhaseInput};
use super::guarded_service::{GuardedService, MainEnd, RETRY_INTERVAL};
use super::kill_tree::{ServiceTree, ServiceTrees};
use super::orch_socket::{OrchSocket, SocketInput, report_failed_start};
use super::run_cleanup::RunCleanup;
use super::spawn::launch;
use super::terminal_reset::TerminalReset;
use crate::control_group::RunGroup;
use crate::log::log;
use crate::protocol::{GuardOrder, GuardReport, HelloMessage, SpawnOrder};
use crate::records::RunRecords;
use orch_base::system::processes;
use orch_base::text::signal_name::signal_name;
use orch_linux::exit::ProcessExit;
use orch_linux::sys;

/// Longest time for reaping per turn of the loop: processes that fork endlessly leave more zombies than fit in one
/// turn.
const REAP_TIMEOUT: Duration = Duration::from_millis(50);

struct GuardLoop {
    orch: OrchSocket,
    run_id: String,
    services: BTreeMap<String, GuardedService>,
    phase: GuardPhase,
    /// Grace periods are skipped.
    hurry: bool,
    /// Signals that were reported already.
    signalled: BTreeSet<i32>,
    cleanup: RunCleanup,
    terminal: TerminalReset,
    /// Time of the next look at killed processes.
    sweep_at: Option<Instant>,
    /// There may be more zombies: the loop continues without waiting.
    unreaped: bool,
    /// Nothing is left of the run, and its traces are removed.
    has_ended: bool,
}

/// Runs the guard until orch has said goodbye or is gone, and no descendant is left.
///
/// # Errors
/// The kernel or the disk refuses something that a guard needs; the error was reported to orch.
pub fn run(socket: UnixStream, hello: &HelloMessage) -> io::Result<()> {
    let (signal_fd, records) = match set_up(&socket, hello) {
        Ok(ready) => ready,
        Err(error) => {
            report_failed_start(&socket, &error);
            return Err(error);
        }
    };
    let group = hello.group.as_deref();
    let group = group.and_then(|path| RunGroup::of_run(&hello.run_id, path));
    let mut guard = GuardLoop {
        orch: OrchSocket::new(socket),
        run_id: hello.run_id.clone(),
        services: BTreeMap::new(),
        phase: GuardPhase::Serving,
        hurry: false,
        signalled: BTreeSet::new(),
        cleanup: RunCleanup::new(records, group),
        terminal: TerminalReset::default(),
        sweep_at: None,
        unreaped: false,
        has_ended: false,
    };
    guard.orch.report(&GuardReport::Started {
        pid: std::process::id().cast_signed(),
    });
    loop {
        guard.wait(&signal_fd);
        while let Ok(Some(signal)) = signal_fd.read_signal() {
            guard.handle_signal(signal.ssi_signo.cast_signed(), signal.ssi_pid);
        }
        guard.orch.flush();
        guard.check_launches();
        guard.reap();
        guard.read_orders();
        guard.handle(PhaseInput::TimePassed);
        if guard.advance() {
            guard.handle(PhaseInput::NothingLeft);
        }
        if guard.has_ended {
            return Ok(());
        }
    }
}

/// Makes the steps that can fail, before any service is started.
fn set_up(socket: &UnixStream, hello: &HelloMessage) -> io::Result<(SignalFd, RunRecords)> {
    processes::check_proc()?;
    sys::become_subreaper()?;
    // Signals are blocked, not ignored: services would inherit an ignored signal. Only fault signals stay unblocked. So
    // nothing but SIGKILL and own faults can end the process that owns all services.
    let mut signals = SigSet::all();
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGABRT,
        Signal::SIGSYS,
    ] {
        signals.remove(fault);
    }
    // The mask is replaced, not extended: a fault signal that the caller had blocked would stay blocked.
    signals.thread_set_mask()?;
    let signal_fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let records = RunRecords::create(&hello.state_dir, &hello.run_id, hello.group.as_deref())?;
    socket.set_nonblocking(true)?;
    Ok((signal_fd, records))
}

impl GuardLoop {
    /// Passes an input to the phase, and carries out the actions.
    fn handle(&mut self, input: PhaseInput) {
        let (next, actions) = self.phase.step(input, Instant::now());
        self.phase = next;
        for action in actions {
            match action {
                PhaseAction::Log(text) => log(text),
                PhaseAction::Report(report) => self.orch.report(&report),
                PhaseAction::ResetTerminal => self.terminal.begin(),
                PhaseAction::End { removes_group } => {
                    self.cleanup.close(removes_group);
                    self.terminal.finish();
                    self.has_ended = true;
                }
            }
        }
    }

    /// Handles a signal that a service or an administrator has sent to the guard itself.
    fn handle_signal(&mut self, signal: i32, sender: u32) {
        match Signal::try_from(signal) {
            // The end of a child, a failed write, and signals without a default action.
            Ok(
                Signal::SIGCHLD
                | Signal::SIGPIPE
                | Signal::SIGXFSZ
                | Signal::SIGCONT
                | Signal::SIGWINCH
                | Signal::SIGURG,
            ) => {}
            Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP) => {
                log(&format!(
                    "asked to end by {}, from process {sender}",
                    signal_name(signal)
                ));
                self.handle(PhaseInput::SignalledToEnd { signal, sender });
            }
            Ok(_) | Err(_) => {
                // Once per signal: the signal may be sent again and again.
                if self.signalled.insert(signal) {
                    log(&format!("ignored {}, from process {sender}", signal_name(signal)));
                    self.orch.report(&GuardReport::Signalled {
                        signal,
                        sender,
                        asks_to_end: false,
                    });
                }
            }
        }
    }

    /// Waits for an event or the next deadline.
    fn wait(&self, signals: &SignalFd) {
        let now = Instant::now();
        let stops = self.services.values().filter_map(GuardedService::stop_deadline);
        let launches = self.services.values().filter_map(GuardedService::pending_launch);
        let others = self
            .sweep_at
            .into_iter()
            .chain(self.phase.deadline())
            .chain(launches.clone().map(|(_, until)| until));
        let timeout = match stops.chain(others).min() {
            _ if self.unreaped => PollTimeout::ZERO,
            Some(deadline) => {
                // Rounded up; otherwise the loop would spin through the last millisecond.
                let left = deadline.saturating_duration_since(now).as_millis().saturating_add(1);
                PollTimeout::try_from(left.min(60_000)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut watched = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        watched.extend(self.orch.poll_fd());
        watched.extend(launches.map(|(pipe, _)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // For example, the kernel has no memory for a moment. The services must be ended in any case.
            Err(error) => {
                log(&format!("poll: {error}"));
                std::thread::park_timeout(RETRY_INTERVAL);
            }
        }
    }

    /// Reads all available orders; a closed socket is the order to stop everything.
    fn read_orders(&mut self) {
        while let Some(input) = self.orch.next_input() {
            match input {
                SocketInput::Order(order) => self.execute(order),
                SocketInput::Closed => self.handle(PhaseInput::SocketClosed),
                SocketInput::Failed => self.handle(PhaseInput::SocketFailed),
            }
        }
    }

    fn execute(&mut self, order: GuardOrder) {
        match order {
            GuardOrder::Spawn(order) => self.spawn(*order),
            GuardOrder::Signal { service, signal } => {
                if let Some(found) = self.services.get(&service) {
                    found.signal(signal);
                }
            }
            GuardOrder::Stop { service } => match self.services.get_mut(&service) {
                Some(found) => found.begin_stop(self.hurry),
                None => self.orch.report(&GuardReport::Gone { service }),
            },
            GuardOrder::StopAll => self.handle(PhaseInput::StopOrdered),
            GuardOrder::Hurry => self.hurry = true,
            GuardOrder::ArmTerminalReset { text } => self.terminal.arm(self.orch.take_descriptor(), text),
            GuardOrder::DisarmTerminalReset => self.terminal.disarm(),
            GuardOrder::Goodbye => self.handle(PhaseInput::GoodbyeOrdered),
        }
    }

    fn spawn(&mut self, order: SpawnOrder) {
        let service = order.service.clone();
        let refusal = if self.phase.is_stopping() {
            Some("everything is being stopped".to_owned())
        } else if self.services.contains_key(&service) {
            Some("the previous process of this service is not gone yet".to_owned())
        } else {
            None
        };
        let result = match refusal {
            Some(refusal) => Err(refusal),
            None => launch(&order, &self.run_id, &self.cleanup.records),
        };
        match result {
            Ok((pid, pipe)) => {
                let launched = GuardedService::launched(order, pid, pipe);
                self.services.insert(service, launched);
            }
            Err(error) => self.orch.report(&GuardReport::SpawnFailed { service, error }),
        }
    }

    /// Checks all starts under way.
    fn check_launches(&mut self) {
        for service in self.services.values_mut() {
            if let Some(report) = service.check_launch(&self.cleanup.records) {
                self.orch.report(&report);
            }
        }
    }

    /// Checks the start of the child that is reaped next: `/proc` shows for a zombie whether the program was executed,
    /// and not later.
    fn check_launch_of_zombie(&mut self) {
        let is_pending = |service: &GuardedService| service.pending_launch().is_some();
        if !self.services.values().any(is_pending) {
            return;
        }
        let Ok(Some(death)) = sys::peek_ended_child() else {
            return;
        };
        let is_of_zombie = |service: &&mut GuardedService| service.alive && service.pid == death.pid;
        if let Some(service) = self.services.values_mut().find(is_of_zombie)
            && let Some(report) = service.check_launch(&self.cleanup.records)
        {
            self.orch.report(&report);
        }
    }

    /// Reports the end of a main process.
    fn report_main_end(&mut self, name: &str, ended: ProcessExit) {
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        // The pipe may still contain an unread message.
        if let Some(report) = service.check_launch(&self.cleanup.records) {
            self.orch.report(&report);
        }
        match service.note_main_end(ended) {
            MainEnd::Exited(report) => self.orch.report(&report),
            MainEnd::NeverExecuted(reports) => {
                self.services.remove(name);
                for report in reports {
                    self.orch.report(&report);
                }
            }
        }
    }

    /// Reaps ended children for a limited time; reports the ends of main processes.
    fn reap(&mut self) {
        let over = Instant::now() + REAP_TIMEOUT;
        self.unreaped = false;
        loop {
            self.check_launch_of_zombie();
            let death = match sys::reap_child() {
                Ok(Some(death)) => death,
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    if error.raw_os_error() != Some(nix::libc::ECHILD) {
                        log(&format!("waitid: {error}"));
                    }
                    return;
                }
            };
            let sys::EndedChild { pid, ended } = death;
            let main = self
                .services
                .iter()
                .find(|(_, service)| service.alive && service.pid == pid)
                .map(|(name, _)| name.clone());
            if let Some(name) = main {
                self.report_main_end(&name, ended);
            }
            if Instant::now() >= over {
                self.unreaped = true;
                return;
            }
        }
    }

    /// Advances every stop; returns true when everything was to end and nothing is left.
    fn advance(&mut self) -> bool {
        loop {
            let before = self.services.len();
            if self.advance_once() {
                return true;
            }
            // The end of a service may allow the next rank to stop.
            if self.services.len() == before {
                return false;
            }
        }
    }

    fn advance_once(&mut self) -> bool {
        if self.phase.is_stopping() {
            // Rank by rank: dependent services are gone before their dependencies get a signal, except those that nothing
            // can end now.
            let now = Instant::now();
            let waited_for = self.services.values().filter(|service| !service.resists_kill(now));
            let highest = waited_for.map(|service| service.order.stop.rank).max();
            for service in self.services.values_mut() {
                if Some(service.order.stop.rank) == highest {
                    service.begin_stop(self.hurry);
                }
            }
        }
        let now = Instant::now();
        let mut to_kill = Vec::new();
        for (name, service) in &mut self.services {
            if service.advance_stop(now, self.hurry) {
                to_kill.push(name.clone());
            }
        }
        self.sweep_at = None;
        if to_kill.is_empty() && !(self.phase.is_stopping() && self.services.is_empty()) {
            return false;
        }
        self.kill_rest(&to_kill)
    }

    /// Kills the remaining processes of these services (or everything, if no other service is left), and reports the
    /// services of which nothing is left. Returns true when nothing at all is left.
    fn kill_rest(&mut self, to_kill: &[String]) -> bool {
        let trees: Vec<ServiceTree<'_>> = self
            .services
            .iter()
            .map(|(name, service)| ServiceTree {
                service: name,
                log: &service.log,
                main: service.pid,
                alive: service.alive,
                to_kill: to_kill.contains(name),
            })
            .collect();
        // True if there is no main process with an end to report and no service that may continue.
        let all = self.phase.is_stopping() && trees.iter().all(|tree| tree.to_kill && !tree.alive);
        let looked = if all {
            self.cleanup.kill_all()
        } else {
            ServiceTrees(&trees).kill_selected()
        };
        let left = match looked {
            Ok(left) => left,
            Err(error) => {
                // Without a listing the guard cannot know that nothing is left.
                self.sweep_at = Some(Instant::now() + RETRY_INTERVAL);
                self.cleanup
                    .complain(format!("could not list the remaining processes, trying again: {error}"));
                return false;
            }
        };
        self.cleanup.note_refused(&left.refused, to_kill);
        for name in to_kill {
            let alive = self.services.get(name).is_some_and(|service| service.alive);
            if alive || left.services.contains(name) || (all && left.any) {
                self.sweep_at = Some(Instant::now() + RETRY_INTERVAL);
            } else {
                self.services.remove(name);
                self.orch.report(&GuardReport::Gone { service: name.clone() });
            }
        }
        if !self.services.is_empty() || !self.phase.is_stopping() {
            return false;
        }
        // The listing may miss a process that is being forked; the kernel's answer about children does not.
        if left.any || sys::has_children() {
            // Ends of children wake the loop; the timer is for processes that were forked during the listing, and for
            // reaping.
            self.sweep_at = Some(Instant::now() + if all { RETRY_INTERVAL } else { Duration::ZERO });
            return false;
        }
        true
    }
}
