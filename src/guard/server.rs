//! The guard itself: one thread, one loop over the socket, SIGCHLD and the next deadline.
//!
//! It is the subreaper of all services: whatever they fork, double-fork or `setsid` is re-parented to it, so that it can
//! end every descendant. It reaps in one place only, never while it decides whom to kill: a zombie keeps its pid.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::cgroup::RunGroup;
use super::launch::{explain, launch};
use super::process_table;
use super::protocol::{Ended, Order, Report, SpawnOrder};
use super::records::Records;
use super::sweep::{Left, Tree, Trees, end_below, end_children};
use super::{Hello, sys};
use crate::duration_text::shown;
use crate::memory::program_pages;
use crate::printable::one_line;
use crate::signal_name::signal_name;

/// What was killed and is still there is killed again after this long (a fork may have escaped the first look).
const REARM: Duration = Duration::from_millis(100);
/// How long the ended are reaped before it is the rest's turn: what forks without end leaves more than there is time for.
const REAPING: Duration = Duration::from_millis(50);
/// How long orch is given to order the stop that a signal has asked for.
const STOP_ORDER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an execution may take; only a file system that does not answer needs longer.
const EXECUTE_TIMEOUT: Duration = Duration::from_secs(10);
/// A longer line from orch is a broken one.
const LONGEST_ORDER: usize = 8 << 20;

struct Service {
    order: SpawnOrder,
    /// Its log as the kernel names it, without symbolic links.
    log: PathBuf,
    pid: i32,
    /// The main process has not ended.
    alive: bool,
    /// It has not executed its program.
    launch: Option<Launch>,
    stop: Option<Stop>,
}

/// A start under way.
enum Launch {
    /// The program is to be executed until then; the pipe tells what became of it.
    Pending { pipe: PipeReader, until: Instant },
    /// It was not executed; the process is about to end. Reported then, if it is not yet.
    Failed { unreported: Option<String> },
}

/// What is known of a start.
enum Launched {
    NotYet,
    Executed,
    Failed(String),
}

/// A stop under way: which step, until when. Past the last step everything is killed, again and again.
struct Stop {
    step: usize,
    until: Instant,
}

struct Guard {
    socket: Option<UnixStream>,
    heard: Vec<u8>,
    /// Reports that the socket has not taken yet.
    unsent: Vec<u8>,
    run_id: String,
    records: Records,
    /// All that was started is in it, and so is this process.
    group: Option<RunGroup>,
    /// The kernel has been told to end all of it.
    group_ended: bool,
    services: BTreeMap<String, Service>,
    /// Everything is to end.
    ending: bool,
    /// A signal has asked for an end; orch may order it until then.
    end_at: Option<Instant>,
    /// Signals that were reported already.
    signalled: BTreeSet<i32>,
    /// No more grace.
    hurry: bool,
    /// orch has said that it wants no more.
    goodbye: bool,
    all_gone_reported: bool,
    /// When what is killed is looked at again.
    sweep_at: Option<Instant>,
    /// There may be more to reap: the next turn is now.
    unreaped: bool,
    /// When no further start is expected.
    settled_at: Option<Instant>,
    /// Processes that may not be ended and are recorded: pid and start time.
    refused: BTreeSet<(i32, u64)>,
    /// What was logged last about a stop that does not get on.
    complaint: Option<String>,
}

/// Runs the guard to its end: when orch has said goodbye or gone away, and no descendant is left.
///
/// # Errors
/// The kernel refuses what a guard needs, or the disk; orch has been told.
pub fn run(socket: UnixStream, hello: &Hello) -> io::Result<()> {
    let (signal_fd, records) = match set_up(&socket, hello) {
        Ok(ready) => ready,
        Err(error) => {
            refuse(&socket, &error);
            return Err(error);
        }
    };
    let mut guard = Guard {
        socket: Some(socket),
        heard: Vec::new(),
        unsent: Vec::new(),
        run_id: hello.run_id.clone(),
        records,
        group: hello
            .group
            .as_deref()
            .and_then(|path| RunGroup::of_run(&hello.run_id, path)),
        group_ended: false,
        services: BTreeMap::new(),
        ending: false,
        end_at: None,
        signalled: BTreeSet::new(),
        hurry: false,
        goodbye: false,
        all_gone_reported: false,
        sweep_at: None,
        unreaped: false,
        settled_at: None,
        refused: BTreeSet::new(),
        complaint: None,
    };
    guard.report(&Report::Started {
        pid: std::process::id().cast_signed(),
    });
    loop {
        guard.wait(&signal_fd);
        while let Ok(Some(signal)) = signal_fd.read_signal() {
            guard.hear_signal(signal.ssi_signo.cast_signed(), signal.ssi_pid);
        }
        guard.flush();
        guard.look_at_launches();
        guard.reap();
        guard.take_orders();
        guard.end_in_time();
        guard.settle();
        if guard.advance() && (guard.goodbye || guard.socket.is_none()) {
            guard.close();
            return Ok(());
        }
    }
}

/// Tells orch why there will be no guard, before the socket's close tells that there is none.
pub fn refuse(mut socket: &UnixStream, error: &io::Error) {
    let report = Report::Refused {
        order: "start".to_owned(),
        error: error.to_string(),
    };
    if let Ok(line) = serde_json::to_string(&report) {
        writeln!(socket, "{line}").ok();
    }
}

/// What can fail, before anything is started.
fn set_up(socket: &UnixStream, hello: &Hello) -> io::Result<(SignalFd, Records)> {
    process_table::check()?;
    sys::become_subreaper()?;
    // Blocked, never ignored: what is ignored would stay so in every service. All but those of faults of its own: nobody else
    // has a say in the end of what owns all services, but for SIGKILL.
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
    // Exactly these: what the caller has blocked besides would stay so.
    signals.thread_set_mask()?;
    let signal_fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let records = Records::create(&hello.state_dir, &hello.run_id, hello.group.as_deref())?;
    socket.set_nonblocking(true)?;
    Ok((signal_fd, records))
}

impl Guard {
    /// Gives back what only a start needs, some time after the last one.
    fn settle(&mut self) {
        if self.settled_at.is_some_and(|at| Instant::now() >= at) {
            self.settled_at = None;
            program_pages::give_back();
        }
    }

    /// Takes a signal that was sent to the guard itself, by a service to its parent or by an administrator.
    fn hear_signal(&mut self, signal: i32, sender: u32) {
        match Signal::try_from(signal) {
            // A death, an error of a write, and what does nothing by default either.
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
                if self.ending {
                    return;
                }
                if self.socket.is_none() {
                    self.ending = true;
                    return;
                }
                self.end_at.get_or_insert(Instant::now() + STOP_ORDER_TIMEOUT);
                self.report(&Report::Signalled {
                    signal,
                    sender,
                    asks_to_end: true,
                });
            }
            Ok(_) | Err(_) => {
                // Once each: it may be sent again and again.
                if self.signalled.insert(signal) {
                    log(&format!(
                        "took no notice of {}, from process {sender}",
                        signal_name(signal)
                    ));
                    self.report(&Report::Signalled {
                        signal,
                        sender,
                        asks_to_end: false,
                    });
                }
            }
        }
    }

    /// Stops everything where orch has not ordered what a signal has asked for.
    fn end_in_time(&mut self) {
        if self.end_at.is_some_and(|at| Instant::now() >= at) {
            self.end_at = None;
            if !self.ending {
                log("orch has not ordered the stop that a signal asked for: ordered stop");
                self.ending = true;
            }
        }
    }

    /// Sleeps until something happens or a deadline is over.
    fn wait(&self, signals: &SignalFd) {
        let now = Instant::now();
        let deadlines = self
            .services
            .values()
            .filter_map(|service| service.stop.as_ref())
            .map(|stop| stop.until);
        let launches = self.services.values().filter_map(|service| match &service.launch {
            Some(Launch::Pending { pipe, until }) => Some((pipe, *until)),
            Some(Launch::Failed { .. }) | None => None,
        });
        let others = self
            .sweep_at
            .into_iter()
            .chain(self.settled_at)
            .chain(self.end_at)
            .chain(launches.clone().map(|(_, until)| until));
        let timeout = match deadlines.chain(others).min() {
            _ if self.unreaped => PollTimeout::ZERO,
            Some(deadline) => {
                // Rounded up, or the loop would spin through the last millisecond.
                let left = deadline.saturating_duration_since(now).as_millis().saturating_add(1);
                PollTimeout::try_from(left.min(60_000)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut watched = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(socket) = &self.socket {
            let unsent = if self.unsent.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::POLLOUT
            };
            watched.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN | unsent));
        }
        watched.extend(launches.map(|(pipe, _)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // No memory for a moment. Whatever it is, what is owned must still be ended.
            Err(error) => {
                log(&format!("poll: {error}"));
                std::thread::park_timeout(REARM);
            }
        }
    }

    /// Queues a report and sends what can be sent now: an orch that is stopped must not stop the guard.
    fn report(&mut self, report: &Report) {
        if self.socket.is_none() {
            return;
        }
        let Ok(line) = serde_json::to_vec(report) else { return };
        // Bounded by what happens to processes; an orch that never reads again is gone in the end, and this with it.
        self.unsent.extend_from_slice(&line);
        self.unsent.push(b'\n');
        self.flush();
    }

    fn flush(&mut self) {
        while let (Some(socket), false) = (&mut self.socket, self.unsent.is_empty()) {
            match socket.write(&self.unsent) {
                Ok(sent) => {
                    self.unsent.drain(..sent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // That orch is gone is seen when its orders are read.
                Err(_closed) => self.unsent.clear(),
            }
        }
    }

    /// Reads all orders that are there; a closed socket is the order to end everything.
    fn take_orders(&mut self) {
        let mut chunk = [0_u8; 16 * 1024];
        while let Some(socket) = &mut self.socket {
            match socket.read(&mut chunk) {
                Ok(0) => {
                    self.socket = None;
                    if !self.goodbye {
                        log("orch is gone: ordered stop");
                        self.ending = true;
                    }
                }
                Ok(length) => self.heard.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log(&format!("read orders: {error}"));
                    self.socket = None;
                    self.ending = true;
                }
            }
            while let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(order) => self.obey(order),
                    Err(error) => log(&format!("an order that cannot be read: {error}")),
                }
            }
            if self.heard.len() > LONGEST_ORDER {
                log("an order without end: ordered stop");
                self.socket = None;
                self.ending = true;
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Spawn(order) => self.spawn(*order),
            Order::Signal { service, signal } => {
                if let Some(found) = self.services.get(&service).filter(|found| found.alive) {
                    send(found.pid, signal);
                }
            }
            Order::Stop { service } => match self.services.contains_key(&service) {
                true => self.begin_stop(&service),
                false => self.report(&Report::Gone { service }),
            },
            Order::StopAll => {
                self.ending = true;
                self.all_gone_reported = false;
            }
            Order::Hurry => self.hurry = true,
            Order::Goodbye => {
                self.goodbye = true;
                self.ending = true;
            }
        }
    }

    fn spawn(&mut self, order: SpawnOrder) {
        let service = order.service.clone();
        let refusal = if self.ending {
            Some("everything is being stopped".to_owned())
        } else if self.services.contains_key(&service) {
            Some("the last one of this name is not gone yet".to_owned())
        } else {
            None
        };
        let result = match refusal {
            Some(refusal) => Err(refusal),
            None => launch(&order, &self.run_id, &self.records),
        };
        match result {
            Ok((pid, pipe)) => {
                let log = order.log.canonicalize().unwrap_or_else(|_| order.log.clone());
                let until = Instant::now() + EXECUTE_TIMEOUT;
                let starting = Service {
                    order,
                    log,
                    pid,
                    alive: true,
                    launch: Some(Launch::Pending { pipe, until }),
                    stop: None,
                };
                self.services.insert(service, starting);
                self.settled_at = Some(Instant::now() + program_pages::SETTLED_AFTER);
            }
            Err(error) => self.report(&Report::SpawnFailed { service, error }),
        }
    }

    /// Reports the starts that have come to an end.
    fn look_at_launches(&mut self) {
        let pending = |service: &Service| matches!(service.launch, Some(Launch::Pending { .. }));
        let names = self.services.iter().filter(|(_, service)| pending(service));
        for name in names.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.look_at_launch(&name);
        }
    }

    /// Reads what the pipe of a start says. One that failed is reported when its process is reaped: only then is its name
    /// free.
    fn look_at_launch(&mut self, name: &str) {
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        let Some(Launch::Pending { pipe, until }) = &mut service.launch else {
            return;
        };
        let launched = match sys::read_refusal(pipe) {
            Some(Ok(())) => Launched::Executed,
            Some(Err(refusal)) => Launched::Failed(explain(&refusal, &service.order, &self.records)),
            None if Instant::now() < *until => Launched::NotYet,
            None => {
                let program = service.order.argv.first().map_or("", String::as_str);
                let error = format!(
                    "`{program}` has not been executed within {}: the file system that it is on, or that of \
                     {}, does not answer",
                    shown(EXECUTE_TIMEOUT),
                    service.order.directory.display()
                );
                // That may take as long, so the report does not wait for it.
                send(service.pid, Signal::SIGKILL as i32);
                service.launch = Some(Launch::Failed { unreported: None });
                let service = name.to_owned();
                self.report(&Report::SpawnFailed { service, error });
                return;
            }
        };
        match launched {
            Launched::NotYet => {}
            Launched::Executed => {
                service.launch = None;
                let (service, pid) = (name.to_owned(), service.pid);
                self.report(&Report::Spawned { service, pid });
            }
            Launched::Failed(error) => {
                service.launch = Some(Launch::Failed {
                    unreported: Some(error),
                });
            }
        }
    }

    /// Reports the death of a main process.
    fn take_death(&mut self, name: &str, ended: Ended) {
        // Its last words may not have been read.
        self.look_at_launch(name);
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        if let Some(Launch::Failed { unreported }) = service.launch.take() {
            let is_awaited = service.stop.is_some();
            self.services.remove(name);
            if let Some(error) = unreported {
                let service = name.to_owned();
                self.report(&Report::SpawnFailed { service, error });
            }
            if is_awaited {
                let service = name.to_owned();
                self.report(&Report::Gone { service });
            }
            return;
        }
        service.alive = false;
        let (service, pid) = (name.to_owned(), service.pid);
        self.report(&Report::Exited { service, pid, ended });
    }

    /// Reaps whoever has ended, as many as one turn may; reports the ends of main processes.
    fn reap(&mut self) {
        let over = Instant::now() + REAPING;
        self.unreaped = false;
        loop {
            let death = match sys::reap_one() {
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
            let sys::Death { pid, ended } = death;
            let main = self
                .services
                .iter()
                .find(|(_, service)| service.alive && service.pid == pid)
                .map(|(name, _)| name.clone());
            if let Some(name) = main {
                self.take_death(&name, ended);
            }
            if Instant::now() >= over {
                self.unreaped = true;
                return;
            }
        }
    }

    fn begin_stop(&mut self, name: &str) {
        let hurry = self.hurry;
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        if service.stop.is_some() {
            return;
        }
        // What has not become its program has nothing to put in order.
        let is_up = service.alive && service.launch.is_none();
        let first = service.order.stop.steps.first().filter(|_| is_up && !hurry);
        let until = match first {
            Some(step) => {
                send(service.pid, step.signal);
                Instant::now() + step.grace
            }
            None => Instant::now(),
        };
        let step = if first.is_some() {
            0
        } else {
            service.order.stop.steps.len()
        };
        service.stop = Some(Stop { step, until });
    }

    /// Moves everything on that can move; true when everything was to end and nothing is left.
    fn advance(&mut self) -> bool {
        loop {
            let before = self.services.len();
            if self.advance_once() {
                return true;
            }
            // Who is gone may be what the next rank waited for.
            if self.services.len() == before {
                return false;
            }
        }
    }

    fn advance_once(&mut self) -> bool {
        if self.ending {
            // Rank by rank: who depends on others is gone before those are asked.
            let highest = self.services.values().map(|service| service.order.stop.rank).max();
            let due: Vec<String> = self
                .services
                .iter()
                .filter(|(_, service)| Some(service.order.stop.rank) == highest)
                .map(|(name, _)| name.clone())
                .collect();
            for name in due {
                self.begin_stop(&name);
            }
        }
        let now = Instant::now();
        let mut doomed = Vec::new();
        for (name, service) in &mut self.services {
            if let Some(stop) = &mut service.stop {
                if self.hurry {
                    stop.step = service.order.stop.steps.len();
                    stop.until = stop.until.min(now);
                }
                while stop.until <= now && stop.step < service.order.stop.steps.len() {
                    stop.step += 1;
                    stop.until = match service.order.stop.steps.get(stop.step) {
                        Some(step) if service.alive => {
                            send(service.pid, step.signal);
                            now + step.grace
                        }
                        _ => now,
                    };
                }
                if stop.step >= service.order.stop.steps.len() {
                    doomed.push(name.clone());
                    stop.until = now + REARM;
                }
            }
            if !service.alive && !doomed.contains(name) {
                doomed.push(name.clone());
            }
        }
        self.sweep_at = None;
        if doomed.is_empty() && !(self.ending && self.services.is_empty()) {
            return false;
        }
        self.sweep(&doomed)
    }

    /// Kills what is left of the doomed services (or, when there is none any more, all there is), and reports those of whom
    /// nothing is. True when nothing at all is left.
    fn sweep(&mut self, doomed: &[String]) -> bool {
        let trees: Vec<Tree<'_>> = self
            .services
            .iter()
            .map(|(name, service)| Tree {
                service: name,
                log: &service.log,
                main: service.pid,
                alive: service.alive,
                doomed: doomed.contains(name),
            })
            .collect();
        // Nobody is left whose end would be reported, or who may go on for a while.
        let all = self.ending && trees.iter().all(|tree| tree.doomed && !tree.alive);
        let looked = if all {
            self.end_all()
        } else {
            Trees(&trees).end_doomed()
        };
        let left = match looked {
            Ok(left) => left,
            Err(error) => {
                // Who cannot look does not know that nothing is left.
                self.sweep_at = Some(Instant::now() + REARM);
                self.complain(format!("cannot see what is left, trying again: {error}"));
                return false;
            }
        };
        if !left.refused.is_empty() {
            self.record(&left.refused, doomed);
            let pids: Vec<String> = left.refused.iter().map(ToString::to_string).collect();
            let pids = pids.join(", ");
            self.complain(format!(
                "may not end what another user runs, and wait for its end: {pids}"
            ));
        }
        for name in doomed {
            let alive = self.services.get(name).is_some_and(|service| service.alive);
            if alive || left.services.contains(name) || (all && left.any) {
                self.sweep_at = Some(Instant::now() + REARM);
            } else {
                self.services.remove(name);
                self.report(&Report::Gone { service: name.clone() });
            }
        }
        if !self.services.is_empty() || !self.ending {
            return false;
        }
        // The listing may miss a process that is just being forked; the kernel's word does not.
        if left.any || sys::has_children() {
            // Deaths wake the loop; this is for those that forked meanwhile. Also comes here to reap what is left.
            self.sweep_at = Some(Instant::now() + if all { REARM } else { Duration::ZERO });
            return false;
        }
        if !self.all_gone_reported {
            self.all_gone_reported = true;
            self.report(&Report::AllGone);
        }
        true
    }

    /// Records who cannot be ended, once each: after a stop that was too slow `orch clean` must not take it for ended.
    fn record(&mut self, refused: &BTreeSet<i32>, doomed: &[String]) {
        for pid in refused {
            let Ok(Some(process)) = process_table::look_up(*pid) else {
                continue;
            };
            if !self.refused.insert((*pid, process.start_time)) {
                continue;
            }
            let service = match doomed {
                [one] => one.clone(),
                _ => "a service".to_owned(),
            };
            if let Err(error) = self.records.note(*pid, process.start_time, &service) {
                log(&format!("record process {pid}, which cannot be ended: {error}"));
            }
        }
    }

    /// Kills all there is, and tells what of it was seen.
    fn end_all(&mut self) -> io::Result<Left> {
        if end_children() {
            return Ok(Left::default());
        }
        if self.end_group() {
            return Ok(Left {
                any: true,
                ..Left::default()
            });
        }
        end_below()
    }

    /// Has the kernel end all there is at once, once; whether it does.
    fn end_group(&mut self) -> bool {
        let Some(group) = self.group.as_ref().filter(|_| !self.group_ended) else {
            return false;
        };
        self.group_ended = true;
        // Without this process, which has no further need to be in it.
        let ended = group.leave().and_then(|()| group.kill());
        if let Err(error) = &ended {
            log(&format!("end {}: {error}", group.path().display()));
        }
        ended.is_ok()
    }

    /// Nothing is left: neither are the traces of it. An orch that has said goodbye removes the group that this process dies
    /// in, once it has waited for that death: to leave the group takes the kernel many milliseconds, the removal does not.
    fn close(&mut self) {
        self.records.remove();
        if !self.goodbye
            && let Some(group) = &self.group
            && group.leave().is_ok()
        {
            group.remove();
        }
    }

    /// Logs what holds up an end, once for each reason.
    fn complain(&mut self, text: String) {
        if self.complaint.as_ref() != Some(&text) {
            log(&text);
            self.complaint = Some(text);
        }
    }
}

/// Signals one of our children; SIGCONT follows what a stopped process would not hear.
fn send(pid: i32, signal: i32) {
    if let Err(error) = sys::signal_process(pid, signal)
        && error.raw_os_error() != Some(Errno::ESRCH as i32)
    {
        log(&format!("signal {pid} with {}: {error}", signal_name(signal)));
    }
    if signal != Signal::SIGKILL as i32 {
        kill(Pid::from_raw(pid), Signal::SIGCONT).ok();
    }
}

/// A line in the guard's own log, its standard error.
pub fn log(text: &str) {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let text = one_line(text);
    writeln!(io::stderr(), "{}.{:03} {text}", since.as_secs(), since.subsec_millis()).ok();
}
