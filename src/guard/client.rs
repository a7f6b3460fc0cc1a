//! orch's side: starts the guard, sends orders, hears reports, and does the guard's last work if that is killed.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::birth::{GuardProcess, greet};
use super::cgroup::HeldGroup;
use super::inherited_children::{InheritedChildren, Unmarked};
use super::protocol::{Order, Report, SpawnOrder, StopPlan};
use super::strangers::REAPING;
use super::sweep::{end_below, end_children};
use super::{INITIALISED, RUN_ID_VARIABLE, leftovers, process_table, sys};
use crate::duration_text::shown;

/// The guard says `Started` a few milliseconds after its exec.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Beyond the plans' own bound, for SIGKILL to take effect.
const STOP_SLACK: Duration = Duration::from_secs(2);
/// For a guard that was killed or has said goodbye to be gone, and for what it left to be ended.
const LOST_PATIENCE: Duration = Duration::from_secs(5);
/// For what the guard has said already to be read.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long the switch waits for another order to be written; who writes for longer is wedged.
const HURRY_PATIENCE: Duration = Duration::from_millis(200);

/// So many looks that find nothing left are believed.
const EMPTY_LOOKS: u32 = 3;

/// What the guard is started with.
pub struct GuardOptions {
    /// `ORCH_RUN_ID` of every descendant.
    pub run_id: String,
    pub state_dir: PathBuf,
    /// The guard's own log.
    pub log: PathBuf,
    /// Lock descriptors that it holds until its end; services do not get them.
    pub lock: Vec<OwnedFd>,
    /// This program starts nothing but the guard: whatever is below it when the guard has died was the guard's, and is
    /// ended whether it bears the run's tag or not. False for a program with children of its own.
    pub sole_spawner: bool,
}

/// What orch hears.
#[derive(Debug)]
pub enum GuardEvent {
    Report(Report),
    /// The guard died; what it owned has been ended by us, unless there is a reason why that is not certain.
    Lost {
        unsure: Option<String>,
    },
}

/// Why the guard cannot do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`orch::guard::init()` has not run: it must be the first line of `main`, since the guard is this program started again"
    )]
    NotInitialised,
    #[error("start the guard")]
    Start(#[source] io::Error),
    #[error("{0}")]
    Spawn(String),
    #[error("the guard is gone")]
    Gone,
    #[error("the stop has not ended within {}; the guard and what was left were killed", shown(*.bound))]
    StopTooSlow { bound: Duration },
    #[error("the guard is gone, and something of what it had started may live: {0}")]
    Unsure(String),
}

/// How a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSummary {
    pub elapsed: Duration,
}

#[derive(Default)]
struct Known {
    /// Stop plans of living services.
    plans: BTreeMap<String, StopPlan>,
    /// Stop plans of services that are being started: a stop that begins now must wait long enough for them.
    starting: BTreeMap<String, StopPlan>,
    /// Main processes of services of which something may live, by service: the sessions of what they leave.
    mains: BTreeMap<String, i32>,
    all_gone: bool,
    /// The socket is closed.
    closed: bool,
    /// Why something may be left although the guard is gone.
    unsure: Option<String>,
}

struct Shared {
    socket: Mutex<UnixStream>,
    known: Mutex<Known>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn send(&self, order: &Order) -> Result<(), Error> {
        send(&lock(&self.socket), order)
    }

    /// Waits for what the reader learns; whether it has come.
    fn wait_until(&self, patience: Duration, done: impl Fn(&Known) -> bool) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.known), patience, |known| !done(known));
        done(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

fn send(mut socket: &UnixStream, order: &Order) -> Result<(), Error> {
    let mut line = serde_json::to_vec(order).map_err(|error| Error::Spawn(error.to_string()))?;
    line.push(b'\n');
    socket.write_all(&line).map_err(|_| Error::Gone)
}

/// The owner of the guard; dropping it stops everything.
pub struct Guard {
    handle: GuardHandle,
    pid: i32,
    run_id: String,
    reader: Option<JoinHandle<()>>,
    child: Arc<Mutex<GuardProcess>>,
    stopped: Mutex<bool>,
}

/// A handle for orders; many may exist.
#[derive(Clone)]
pub struct GuardHandle(Arc<Shared>);

/// Skips all grace periods, by a descriptor of its own: usable while everything else is wedged.
pub struct HurrySwitch {
    socket: UnixStream,
    shared: Arc<Shared>,
}

impl Guard {
    /// Starts the guard: this program again, in a session of its own. `on_event` runs on a thread of its own.
    ///
    /// # Errors
    /// [`super::init`] has not run, or the kernel refuses.
    pub fn start(options: GuardOptions, on_event: impl Fn(GuardEvent) + Send + 'static) -> Result<Self, Error> {
        if !INITIALISED.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::NotInitialised);
        }
        // If the guard is killed, what it owned is re-parented to us.
        sys::become_subreaper().map_err(Error::Start)?;
        let (ours, theirs) = UnixStream::pair().map_err(Error::Start)?;
        ours.set_write_timeout(Some(Duration::from_secs(10)))
            .map_err(Error::Start)?;
        let mut inherited = InheritedChildren::note(options.sole_spawner);
        let mut group = HeldGroup::create(&options.run_id);
        let child = GuardProcess::start(&options, theirs, &mut group).map_err(Error::Start)?;
        let pid = child.pid();
        inherited.guard_started(pid);
        let child = Arc::new(Mutex::new(child));
        greet(&ours, &options, group.as_ref()).map_err(Error::Start)?;

        let (started, begun) = channel();
        let reading = ours.try_clone().map_err(Error::Start)?;
        let shared = Arc::new(Shared {
            socket: Mutex::new(ours),
            known: Mutex::default(),
            changed: Condvar::new(),
        });
        let reader = Reader {
            shared: Arc::clone(&shared),
            started,
            run_id: options.run_id.clone(),
            inherited,
            group,
            child: Arc::clone(&child),
        };
        let thread = std::thread::Builder::new()
            .name("guard reports".to_owned())
            .spawn(move || reader.run(reading, on_event))
            .map_err(Error::Start)?;
        let guard = Self {
            handle: GuardHandle(shared),
            pid,
            run_id: options.run_id,
            reader: Some(thread),
            child,
            stopped: Mutex::new(false),
        };
        match begun.recv_timeout(START_PATIENCE) {
            Ok(Ok(())) => Ok(guard),
            Ok(Err(why)) => Err(Error::Start(io::Error::other(why))),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Start(io::Error::other("it ended at once"))),
            Err(RecvTimeoutError::Timeout) => Err(Error::Start(io::Error::other(format!(
                "it did not begin within {}",
                shown(START_PATIENCE)
            )))),
        }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// For orders.
    pub fn handle(&self) -> GuardHandle {
        self.handle.clone()
    }

    /// Stops everything in order and waits for the end of it. Idempotent, synchronous, bounded.
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
        let bound = self.handle.stop_bound() + STOP_SLACK;
        let shared = &self.handle.0;
        let sent = shared.send(&Order::StopAll);
        let over = |known: &Known| known.all_gone || known.closed;
        if !shared.wait_until(bound, over) {
            // An orch that was stopped wakes up with its deadline over and the guard's words unread.
            shared.wait_until(LAST_WORDS, over);
        }
        let (all_gone, closed) = {
            let known = lock(&shared.known);
            (known.all_gone, known.closed)
        };
        let result = if all_gone {
            shared.send(&Order::Goodbye).ok();
            Ok(StopSummary {
                elapsed: began.elapsed(),
            })
        } else if closed || sent.is_err() {
            match shared.wait_until(LOST_PATIENCE, |known| known.closed) {
                true => Err(Error::Gone),
                false => Err(Error::Unsure("it does not end".to_owned())),
            }
        } else {
            // A guard that is stopped or wedged: its death makes its descendants ours, and the reader ends them.
            lock(&self.child).kill();
            match shared.wait_until(LOST_PATIENCE, |known| known.closed) {
                true => Err(Error::StopTooSlow { bound }),
                false => Err(Error::Unsure("it does not end, though it was killed".to_owned())),
            }
        };
        lock(&shared.socket).shutdown(std::net::Shutdown::Write).ok();
        match lock(&shared.known).unsure.clone() {
            Some(why) => Err(Error::Unsure(why)),
            None => result,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // What fails here is in the guard's log, and its reader ends what is left.
        self.stop_all().ok();
        if let Some(reader) = self.reader.take() {
            // It waits for the guard's end, which the kernel may withhold (a disk that does not answer).
            if self.handle.0.wait_until(LOST_PATIENCE, |known| known.closed) {
                reader.join().ok();
            } else {
                tracing::warn!(pid = self.pid, "the guard does not end; no longer waiting for it");
            }
        }
        tracing::debug!(run_id = self.run_id, "guard gone");
    }
}

impl GuardHandle {
    /// Has a service started; `Spawned` or `SpawnFailed` follows as an event, the latter with a text that says why.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn spawn(&self, order: SpawnOrder) -> Result<(), Error> {
        let (service, plan) = (order.service.clone(), order.stop.clone());
        lock(&self.0.known).starting.insert(service.clone(), plan);
        self.0.send(&Order::Spawn(Box::new(order))).inspect_err(|_| {
            lock(&self.0.known).starting.remove(&service);
        })
    }

    /// Sends a signal to a service's main process.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn signal(&self, service: &str, signal: i32) -> Result<(), Error> {
        self.0.send(&Order::Signal {
            service: service.to_owned(),
            signal,
        })
    }

    /// Runs one service's stop plan; `Gone` follows as an event.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn stop(&self, service: &str) -> Result<(), Error> {
        self.0.send(&Order::Stop {
            service: service.to_owned(),
        })
    }

    /// The longest that a stop of the living services takes before SIGKILL: the sum over ranks.
    pub fn stop_bound(&self) -> Duration {
        let mut ranks: BTreeMap<u32, Duration> = BTreeMap::new();
        let known = lock(&self.0.known);
        for plan in known.plans.values().chain(known.starting.values()) {
            let rank = ranks.entry(plan.rank).or_default();
            *rank = (*rank).max(plan.bound());
        }
        ranks.values().sum()
    }

    /// A switch for a signal's thread.
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
        // Not into the middle of another order, unless whoever writes that is stuck.
        let deadline = Instant::now() + HURRY_PATIENCE;
        let turn = loop {
            match self.shared.socket.try_lock() {
                Ok(turn) => break Some(turn),
                Err(TryLockError::Poisoned(turn)) => break Some(turn.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => break None,
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(Duration::from_millis(1)),
            }
        };
        send(&self.socket, &Order::Hurry).ok();
        drop(turn);
    }
}

/// The thread that hears the guard.
struct Reader {
    shared: Arc<Shared>,
    /// Why it does not start, if it does not.
    started: Sender<Result<(), String>>,
    run_id: String,
    /// Whose descendants of this process are that are not the guard's.
    inherited: InheritedChildren,
    /// The guard and all that it has started, where there can be such a group.
    group: Option<HeldGroup>,
    child: Arc<Mutex<GuardProcess>>,
}

impl Reader {
    fn run(mut self, socket: UnixStream, on_event: impl Fn(GuardEvent)) {
        let mut lines = BufReader::new(socket);
        let mut line = Vec::new();
        loop {
            line.clear();
            match lines.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => match serde_json::from_slice::<Report>(&line) {
                    Ok(report) => self.take(report, &on_event),
                    Err(error) => tracing::warn!(%error, "a report of the guard that cannot be read"),
                },
            }
        }
        let wanted = lock(&self.shared.known).all_gone;
        if !wanted {
            // It may still be alive, with a broken socket; it must not be, before its descendants are ours.
            lock(&self.child).kill();
            // All of them at once, before they can do more.
            if let Some(group) = self.group.as_ref().map(HeldGroup::group)
                && let Err(error) = group.kill()
            {
                tracing::warn!(%error, group = %group.path().display(), "end the run's control group");
            }
        }
        lock(&self.child).wait();
        let mut unsure = None;
        if !wanted {
            let mains: Vec<i32> = lock(&self.shared.known).mains.values().copied().collect();
            unsure = end_descendants(&self.run_id, &mains, &self.inherited).err();
        }
        if let Some(group) = self.group.take() {
            group.remove();
        }
        {
            let mut known = lock(&self.shared.known);
            known.closed = true;
            if unsure.is_some() {
                known.unsure.clone_from(&unsure);
            }
        }
        self.shared.changed.notify_all();
        if !wanted {
            on_event(GuardEvent::Lost { unsure });
        }
    }

    /// Names what is in the run's control group besides the guard: the guard says that there is nothing, and the kernel knows.
    fn left_in_group(&self) -> Option<String> {
        let group = self.group.as_ref()?.group();
        let guard = lock(&self.child).pid();
        let left = group.processes().into_iter().filter(|pid| *pid != guard);
        let left: Vec<String> = left.map(|pid| pid.to_string()).collect();
        let group = group.path().display();
        (!left.is_empty()).then(|| format!("processes are left in its control group {group}: {}", left.join(", ")))
    }

    fn take(&self, report: Report, on_event: &impl Fn(GuardEvent)) {
        match &report {
            Report::Started { .. } => {
                self.started.send(Ok(())).ok();
            }
            Report::Spawned { service, pid } => {
                let mut known = lock(&self.shared.known);
                known.mains.insert(service.clone(), *pid);
                if let Some(plan) = known.starting.remove(service) {
                    known.plans.insert(service.clone(), plan);
                }
            }
            Report::SpawnFailed { service, .. } => {
                lock(&self.shared.known).starting.remove(service);
            }
            Report::Gone { service } => {
                let mut known = lock(&self.shared.known);
                known.plans.remove(service);
                known.mains.remove(service);
            }
            Report::AllGone => {
                let left = self.left_in_group();
                let mut known = lock(&self.shared.known);
                known.all_gone = true;
                known.unsure = known.unsure.take().or(left);
                drop(known);
                self.shared.changed.notify_all();
            }
            // After its start nobody listens there.
            Report::Refused { error, .. } => {
                self.started.send(Err(error.clone())).ok();
            }
            Report::Exited { .. } | Report::Signalled { .. } => {}
        }
        on_event(GuardEvent::Report(report));
    }
}

/// Ends what a dead guard has left to us, or tells why that is not certain.
fn end_descendants(run_id: &str, mains: &[i32], inherited: &InheritedChildren) -> Result<(), String> {
    let deadline = Instant::now() + STOP_SLACK;
    let owns_all = inherited.is_none();
    let mut empty_looks = 0;
    loop {
        let look = if owns_all {
            // Nobody else may reap them meanwhile: they are signalled by their pids.
            let _turn = lock(&REAPING);
            match end_children() {
                true => Ok(Look::default()),
                false => end_below().map(|left| Look {
                    left: left.any,
                    unknown: Vec::new(),
                }),
            }
        } else {
            end_ours(run_id, mains, inherited)
        };
        // One look can miss a process whose parent ended while it was taken. That this process has no child is proof,
        // since whoever loses its parent becomes one; else several looks must agree.
        empty_looks = match &look {
            Ok(Look { left: false, .. }) => empty_looks + 1,
            Ok(Look { left: true, .. }) | Err(_) => 0,
        };
        let children = process_table::children();
        let over = match &children {
            Some(children) if owns_all => children.is_empty(),
            _ => empty_looks >= EMPTY_LOOKS,
        };
        match look {
            Ok(Look { unknown, .. }) if over && !unknown.is_empty() => {
                let pids: Vec<String> = unknown.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "processes that bear no mark of the run are below orch, left by a service or by what had been started \
                     before orch: {}",
                    pids.join(", ")
                ));
            }
            _ if over => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.to_string()),
            Ok(_) if Instant::now() >= deadline => {
                return Err(format!("not all of it ended within {}", shown(STOP_SLACK)));
            }
            _ => std::thread::park_timeout(Duration::from_millis(2)),
        }
    }
}

/// A look at what a dead guard has left.
#[derive(Default)]
struct Look {
    /// There was something of the run.
    left: bool,
    /// Processes of which it cannot be told whose they are.
    unknown: Vec<i32>,
}

/// Kills what carries the run's id or is in a session of its services, and what only the guard can have left, where not all
/// descendants are the guard's: a wrapper has left children to orch, the host program has some of its own, or it is PID 1
/// and has strangers' orphans.
fn end_ours(run_id: &str, mains: &[i32], inherited: &InheritedChildren) -> io::Result<Look> {
    let me = std::process::id().cast_signed();
    let mut look = Look::default();
    let are_childless = inherited.are_childless();
    for (process, top) in process_table::descendants(me)? {
        let marked = mains.contains(&process.session)
            || mains.contains(&top)
            || process_table::variable(process.pid, RUN_ID_VARIABLE).as_deref() == Some(run_id);
        if !marked {
            match inherited.owner(&process, top, are_childless) {
                Unmarked::Ours => {}
                Unmarked::Theirs => continue,
                Unmarked::Unknown => {
                    if !process.zombie {
                        look.unknown.push(process.pid);
                    }
                    continue;
                }
            }
        }
        look.left = true;
        if !process.zombie {
            leftovers::kill_exactly(process.pid, process.start_time)?;
        } else if process.parent == me {
            let _turn = lock(&REAPING);
            let pid = nix::unistd::Pid::from_raw(process.pid);
            nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).ok();
        }
    }
    Ok(look)
}
