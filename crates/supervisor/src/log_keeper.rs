//! A thread that keeps the logs of a run within their bounds.
//!
//! The services write to their logs directly, so nothing is lost when orch ends. The thread waits for the first write to
//! each log (a watch that reports one change), and while a log grows it looks at the size again and again, before the log
//! can have passed its bound by much. A log to which nobody writes wakes nobody. It is a thread of its own, because it
//! copies files, and because services write until the end of the stop.

use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bounded_log::{BoundedLog, NextLook};
use orch_base::files::inotify::InotifyWatches;
use orch_base::files::log_bound::LogBound;
use orch_base::files::regular;
use orch_journal::{EventKind, LogFailure, LogProblem, Recorder};

/// Interval between two looks at a log that cannot be watched.
const UNWATCHED_INTERVAL: Duration = Duration::from_secs(1);

/// Handle to the thread; the drop of the last handle ends the thread.
#[derive(Clone)]
pub struct LogKeeper(Arc<LogKeeperShared>);

struct LogKeeperShared {
    is_stopping: Arc<AtomicBool>,
    added: Arc<Mutex<Vec<(PathBuf, LogBound)>>>,
    /// A byte wakes the thread, the end of the pipe ends it. `None`: the thread could not be started.
    wake: Mutex<Option<PipeWriter>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for LogKeeperShared {
    /// Waits until the cut under way is complete.
    fn drop(&mut self) {
        drop(lock(&self.wake).take());
        if let Some(thread) = lock(&self.thread).take() {
            drop(thread.join());
        }
    }
}

impl LogKeeper {
    /// Starts the thread.
    pub fn start(recorder: Recorder) -> Self {
        let added = Arc::<Mutex<Vec<_>>>::default();
        let is_stopping = Arc::<AtomicBool>::default();
        let started = KeeperThread::start(Arc::clone(&added), Arc::clone(&is_stopping), recorder.clone());
        let (wake, thread) = match started {
            Ok((wake, thread)) => (Some(wake), Some(thread)),
            Err(error) => {
                recorder.emit(EventKind::LogProblemFound(LogProblem {
                    log: PathBuf::new(),
                    failure: LogFailure::NotWatched,
                    reason: error.to_string(),
                }));
                (None, None)
            }
        };
        Self(Arc::new(LogKeeperShared {
            is_stopping,
            added,
            wake: Mutex::new(wake),
            thread: Mutex::new(thread),
        }))
    }

    /// Keeps a log within this bound from here on. A missing log is created, empty.
    pub fn keep_within(&self, log: &Path, bound: LogBound) {
        if bound.max == 0 {
            return;
        }
        lock(&self.0.added).push((log.to_owned(), bound));
        self.wake();
    }

    /// Removes the watches at the begin of the stop, and looks at the logs every second from here on: the kernel needs up to
    /// 20 ms to close watches, and the stop of the services may be shorter than that.
    pub fn begin_stop(&self) {
        self.0.is_stopping.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        if let Some(wake) = &mut *lock(&self.0.wake) {
            // Fails only when the thread has ended.
            wake.write_all(&[0]).ok();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own data.
struct KeeperThread {
    added: Arc<Mutex<Vec<(PathBuf, LogBound)>>>,
    is_stopping: Arc<AtomicBool>,
    woken: PipeReader,
    watches: InotifyWatches,
    recorder: Recorder,
    logs: BTreeMap<PathBuf, KeptLog>,
    /// Logs whose next write is awaited.
    watched: HashMap<WatchDescriptor, PathBuf>,
}

/// A log and the time of the next look.
struct KeptLog {
    log: BoundedLog,
    /// `None`: after the next write.
    look_at: Option<Instant>,
    is_watch_failure_reported: bool,
}

impl KeeperThread {
    fn start(
        added: Arc<Mutex<Vec<(PathBuf, LogBound)>>>,
        is_stopping: Arc<AtomicBool>,
        recorder: Recorder,
    ) -> io::Result<(PipeWriter, JoinHandle<()>)> {
        let (woken, wake) = io::pipe()?;
        let mut thread = Self {
            added,
            is_stopping,
            woken,
            watches: InotifyWatches::new()?,
            recorder,
            logs: BTreeMap::new(),
            watched: HashMap::new(),
        };
        let handle = std::thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || thread.run())?;
        Ok((wake, handle))
    }

    fn run(&mut self) {
        loop {
            let next = self.logs.values().filter_map(|kept| kept.look_at).min();
            let (is_woken, has_changes) = self.wait(next);
            if is_woken {
                match self.woken.read(&mut [0; 64]) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => self.add(),
                }
                if self.is_stopping() {
                    self.remove_watches();
                }
            }
            let now = Instant::now();
            if has_changes {
                self.note_writes(now);
            }
            let is_due = |kept: &KeptLog| kept.look_at.is_some_and(|at| at <= now);
            let due: Vec<PathBuf> = self
                .logs
                .iter()
                .filter(|(_, kept)| is_due(kept))
                .map(|(path, _)| path.clone())
                .collect();
            due.iter().for_each(|path| self.look(path));
        }
    }

    /// Waits for a new log, for a write to a watched log, or until this time.
    fn wait(&self, until: Option<Instant>) -> (bool, bool) {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }));
        let mut waiting = vec![PollFd::new(&self.woken, PollFlags::IN)];
        let changes = self.watches.descriptor();
        waiting.extend(changes.map(|changes| PollFd::from_borrowed_fd(changes, PollFlags::IN)));
        // Without a result after a signal.
        let is_polled = poll(&mut waiting, timeout.as_ref()).is_ok();
        let is_ready = |place: usize| is_polled && waiting.get(place).is_some_and(|fd| !fd.revents().is_empty());
        (is_ready(0), is_ready(1))
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    fn remove_watches(&mut self) {
        let next = Instant::now() + UNWATCHED_INTERVAL;
        for (watch, path) in self.watched.drain() {
            self.watches.remove(watch);
            if let Some(kept) = self.logs.get_mut(&path) {
                kept.look_at.get_or_insert(next);
            }
        }
    }

    fn add(&mut self) {
        let added = std::mem::take(&mut *lock(&self.added));
        for (path, bound) in added {
            // Only the log of probes, which is written later, does not exist yet.
            if std::fs::symlink_metadata(&path).is_err()
                && let Err(error) = regular::open_own(OpenOptions::new().append(true), &path)
            {
                self.recorder.emit(EventKind::LogProblemFound(LogProblem {
                    log: path,
                    failure: LogFailure::NotWatched,
                    reason: error.to_string(),
                }));
                continue;
            }
            let kept = self.logs.entry(path.clone()).or_insert_with(|| KeptLog {
                log: BoundedLog::new(path, bound),
                look_at: None,
                is_watch_failure_reported: false,
            });
            kept.look_at = Some(Instant::now());
        }
    }

    /// Sets the time of the next look at the logs that were written to.
    fn note_writes(&mut self, now: Instant) {
        for event in self.watches.read().unwrap_or_default() {
            let Some(path) = self.watched.remove(&event.wd) else {
                continue;
            };
            if let Some(kept) = self.logs.get_mut(&path) {
                kept.look_at = Some(now + kept.log.begin_growth(now));
            }
        }
    }

    fn look(&mut self, path: &Path) {
        let is_stopping = self.is_stopping();
        let Some(kept) = self.logs.get_mut(path) else { return };
        let report = |failure, reason: String| {
            self.recorder.emit(EventKind::LogProblemFound(LogProblem {
                log: path.to_owned(),
                failure,
                reason,
            }));
        };
        match kept.log.look(Instant::now(), report) {
            NextLook::After(delay) => kept.look_at = Some(Instant::now() + delay),
            NextLook::Removed => drop(self.logs.remove(path)),
            NextLook::AfterWrite if is_stopping => kept.look_at = Some(Instant::now() + UNWATCHED_INTERVAL),
            NextLook::AfterWrite => match self.watches.add_once(path, AddWatchFlags::IN_MODIFY) {
                Ok(watch) => {
                    self.watched.insert(watch, path.to_owned());
                    // A write since the look has no event.
                    kept.look_at = kept.log.has_grown().then(Instant::now);
                }
                Err(error) => {
                    if !std::mem::replace(&mut kept.is_watch_failure_reported, true) {
                        report(LogFailure::NotWatched, error.to_string());
                    }
                    kept.look_at = Some(Instant::now() + UNWATCHED_INTERVAL);
                }
            },
        }
    }
}
