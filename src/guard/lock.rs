//! One at a time: a lock file whose open description orch and its guard share, so that it is free when both are gone.
//!
//! The file says who holds it. A holder whose orch is dead is a guard at its last work: a newcomer waits for that, up to
//! the stop bound which the holder had written down.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::process_table;
use crate::duration_text::shown;
use crate::{private_directory, regular_file};

/// Beyond the recorded stop bound, for the guard's own end.
const SLACK: Duration = Duration::from_secs(1);
/// Between tries while nothing can be waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// Who holds a lock, as the lock's file tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: i32,
    pub start_time: u64,
    /// Known once the guard has started.
    pub guard_pid: Option<i32>,
    pub run_id: String,
    /// `run`, `up`.
    pub command: String,
    /// Unix seconds.
    pub started_at: u64,
    pub stop_bound_ms: u64,
    /// The configuration that it was started with; `None`: an older orch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
}

impl Holder {
    /// This process as a holder.
    pub fn of_this_process(run_id: &str, command: &str, guard_pid: Option<i32>, stop_bound: Duration) -> Self {
        let pid = std::process::id().cast_signed();
        Self {
            pid,
            start_time: process_table::own_start_time(),
            guard_pid,
            run_id: run_id.to_owned(),
            command: command.to_owned(),
            started_at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            stop_bound_ms: u64::try_from(stop_bound.as_millis()).unwrap_or(u64::MAX),
            config: None,
        }
    }

    /// The same, with the configuration that it was started with.
    #[must_use]
    pub fn with_config(self, config: &Path) -> Self {
        let config = Some(config.to_path_buf());
        Self { config, ..self }
    }

    /// Whether its orch (not only its guard) is alive.
    pub fn lives(&self) -> bool {
        process_table::is_the_same_alive(self.pid, self.start_time)
    }
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A living orch holds it.
    #[error("held by `orch {}` (pid {}, run {})", .0.command, .0.pid, .0.run_id)]
    Held(Holder),
    /// The guard of a dead orch holds it beyond its stop bound.
    #[error("the guard (pid {guard:?}) of a dead run ({run_id}) has not ended within its stop bound of {}", shown(*.bound))]
    GuardStuck {
        guard: Option<i32>,
        run_id: String,
        bound: Duration,
    },
    #[error("lock {path}")]
    Io { path: String, source: io::Error },
}

/// A taken lock; given back when it and the guard's copy are closed.
#[derive(Debug)]
pub struct InstanceLock {
    file: File,
}

impl InstanceLock {
    /// Takes the lock of this file; waits for a dying guard in any case, for a living holder up to `wait`.
    ///
    /// # Errors
    /// It is held, or the file cannot be used.
    pub fn acquire(path: &Path, wait: Duration, me: &Holder) -> Result<Self, LockError> {
        let failed = |source: io::Error| LockError::Io {
            path: path.display().to_string(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).truncate(false);
        let mut file = regular_file::open_own(&mut options, path).map_err(failed)?;
        let started = Instant::now();
        // The run whose orch was found dead, and when: its guard's time counts from then on, not from our start.
        let mut dying: Option<(String, Instant)> = None;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
            let Some(holder) = read(&mut file).map_err(failed)? else {
                // Taken, and not written yet: in a moment it is.
                if started.elapsed() > SLACK + wait {
                    let source = io::Error::other("it is held, and does not say by whom");
                    return Err(failed(source));
                }
                std::thread::park_timeout(PAUSE);
                continue;
            };
            if holder.lives() {
                if started.elapsed() >= wait {
                    return Err(LockError::Held(holder));
                }
                wait_for_end(holder.pid, wait.saturating_sub(started.elapsed()));
            } else {
                let bound = Duration::from_millis(holder.stop_bound_ms);
                let since = match &dying {
                    Some((run_id, since)) if *run_id == holder.run_id => *since,
                    _ => dying.insert((holder.run_id.clone(), Instant::now())).1,
                };
                if started.elapsed() >= wait && since.elapsed() >= bound + SLACK {
                    return Err(LockError::GuardStuck {
                        guard: holder.guard_pid,
                        run_id: holder.run_id,
                        bound,
                    });
                }
                match holder.guard_pid {
                    Some(guard) => wait_for_end(guard, bound + SLACK),
                    None => std::thread::park_timeout(PAUSE),
                }
            }
        }
        let mut lock = Self { file };
        lock.update(me).map_err(failed)?;
        Ok(lock)
    }

    /// What names the locked file among all files of this boot of the kernel, containers included: whoever can lock a file
    /// of the same name locks this one. None where the kernel does not tell.
    pub fn identity(&self) -> Option<String> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let metadata = self.file.metadata().ok()?;
        Some(format!("{}:{}:{}", boot.trim(), metadata.dev(), metadata.ino()))
    }

    /// Who holds the lock of this file, or held it last, if the file says so.
    pub fn holder(path: &Path) -> Option<Holder> {
        read(&mut regular_file::open(path).ok()?).ok().flatten()
    }

    /// Whether the locked file is the one that has this path.
    pub fn is_at(&self, path: &Path) -> bool {
        let held = self.file.metadata();
        held.is_ok_and(|held| private_directory::is_at(&held, path))
    }

    /// Another descriptor of the same lock, for the guard.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn duplicate_for_guard(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Writes who holds it.
    ///
    /// # Errors
    /// The disk is full or failing.
    pub fn update(&mut self, holder: &Holder) -> io::Result<()> {
        let mut text = serde_json::to_vec(holder)?;
        text.push(b'\n');
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)?;
        // Shortened after the write: at any moment the first line is a whole one.
        self.file.set_len(text.len() as u64)
    }
}

/// The holder that the file names, if it names one.
fn read(file: &mut File) -> io::Result<Option<Holder>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(64 * 1024).read_to_end(&mut text)?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice(line).ok())
}

/// Waits for a process to end, by its pidfd, in steps: another may take the lock's place meanwhile.
fn wait_for_end(pid: i32, patience: Duration) {
    let step = patience.min(Duration::from_secs(1)).max(Duration::from_millis(1));
    match Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
        Some(process) => {
            let timeout = Timespec {
                tv_sec: step.as_secs().cast_signed(),
                tv_nsec: i64::from(step.subsec_nanos()),
            };
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)).ok();
            // Its descriptors are closed before it can be waited for; a zombie that nobody reaps must not spin us.
            std::thread::park_timeout(Duration::from_millis(1));
        }
        None => std::thread::park_timeout(PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Holder {
        Holder::of_this_process("a1", "up", None, Duration::from_millis(100))
    }

    #[test]
    fn a_living_holder_is_named_and_a_free_lock_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.lock");
        let first = InstanceLock::acquire(&path, Duration::ZERO, &me()).unwrap();
        let Err(LockError::Held(holder)) = InstanceLock::acquire(&path, Duration::ZERO, &me()) else {
            panic!("a held lock was taken")
        };
        assert_eq!(holder.run_id, "a1");
        let copy = first.duplicate_for_guard().unwrap();
        drop(first);
        assert!(
            InstanceLock::acquire(&path, Duration::ZERO, &me()).is_err(),
            "the guard's copy holds it"
        );
        drop(copy);
        InstanceLock::acquire(&path, Duration::ZERO, &me()).unwrap();
    }

    #[test]
    fn the_guard_of_a_dead_orch_is_waited_for_up_to_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.lock");
        let dead = Holder { pid: i32::MAX, ..me() };
        let held = InstanceLock::acquire(&path, Duration::ZERO, &dead).unwrap();
        let started = Instant::now();
        let refused = InstanceLock::acquire(&path, Duration::ZERO, &me());
        assert!(matches!(refused, Err(LockError::GuardStuck { .. })), "{refused:?}");
        assert!(started.elapsed() >= Duration::from_millis(1100));
        let waiter = std::thread::spawn(move || InstanceLock::acquire(&path, Duration::ZERO, &me()).map(|_| ()));
        drop(held);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn a_guards_time_begins_with_the_death_of_its_orch() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.lock");
        let started = Instant::now();
        let mut orch = std::process::Command::new("sleep").arg("0.5").spawn().unwrap();
        let pid = orch.id().cast_signed();
        let start_time = process_table::look_up(pid).unwrap().unwrap().start_time;
        let holder = Holder {
            pid,
            start_time,
            ..me()
        };
        let _held = InstanceLock::acquire(&path, Duration::ZERO, &holder).unwrap();
        // Patient for as long as the guard's bound and slack, half a second of which a living orch takes.
        let refused = InstanceLock::acquire(&path, Duration::from_millis(1100), &me());
        assert!(matches!(refused, Err(LockError::GuardStuck { .. })), "{refused:?}");
        assert!(
            started.elapsed() >= Duration::from_millis(1600),
            "{:?}",
            started.elapsed()
        );
        orch.wait().unwrap();
    }
}
