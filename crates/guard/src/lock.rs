//! The instance lock: a lock file with one open file description for orch and the guard, so the lock is free when both
//! are gone.
//!
//! The file names the holder. If the holder's orch is dead, the guard is still ending processes: a new orch waits for
//! the guard, up to the stop bound that the file names.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::holder_command::HolderCommand;
use orch_base::files::{private_directory, regular};
use orch_base::system::processes;
use orch_base::text::duration_text::shown;
use orch_base::wall_clock::unix_now;

/// Time for the guard's own end, beyond the recorded stop bound.
const GUARD_END_GRACE: Duration = Duration::from_secs(1);
/// Delay between two tries if there is no process to wait for.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Delay between two tries while the holder lives: the lock can be free before its holder ends.
const HOLDER_INTERVAL: Duration = Duration::from_millis(100);

/// The holder of a lock, as named by the lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    pub pid: i32,
    pub start_time: u64,
    /// Known once the guard has started.
    pub guard_pid: Option<i32>,
    pub run_id: String,
    pub command: HolderCommand,
    /// Start time in Unix seconds.
    pub started_at: u64,
    pub stop_bound_ms: u64,
    /// The configuration file of the holder; `None` if the holder is an older orch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// The state directory of the holder; `None` if the holder is an older orch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
}

impl LockHolder {
    /// Describes this process as a holder.
    pub fn of_this_process(run_id: &str, command: HolderCommand, guard_pid: Option<i32>, stop_bound: Duration) -> Self {
        let pid = std::process::id().cast_signed();
        Self {
            pid,
            start_time: processes::own_start_time(),
            guard_pid,
            run_id: run_id.to_owned(),
            command,
            started_at: unix_now().as_secs(),
            stop_bound_ms: u64::try_from(stop_bound.as_millis()).unwrap_or(u64::MAX),
            config: None,
            state_dir: None,
        }
    }

    /// Adds the configuration file and the state directory to the holder.
    #[must_use]
    pub fn with_paths(self, config: &Path, state_dir: &Path) -> Self {
        Self {
            config: Some(config.to_path_buf()),
            state_dir: Some(state_dir.to_path_buf()),
            ..self
        }
    }

    /// Returns true if the holder is a run: `orch run` or `orch up`.
    pub fn is_run(&self) -> bool {
        matches!(self.command, HolderCommand::Run | HolderCommand::Up)
    }

    /// Returns true if the holder's orch (not only its guard) is alive.
    pub fn is_alive(&self) -> bool {
        processes::is_alive_with_start_time(self.pid, self.start_time)
    }
}

/// The reason why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A living orch holds the lock.
    #[error("held by `orch {}` (pid {}, run {})", .0.command, .0.pid, .0.run_id)]
    Held(Box<LockHolder>),
    /// The guard of a dead orch holds the lock beyond its stop bound.
    #[error("the guard of a dead run ({run_id}) has not ended within its stop bound of {}{}", shown(*.bound), pstree_hint(*.guard))]
    GuardStuck {
        guard: Option<i32>,
        run_id: String,
        bound: Duration,
    },
    #[error("could not lock {path}")]
    Io { path: String, source: io::Error },
}

/// Explains how to find the process that the guard waits for.
fn pstree_hint(guard: Option<i32>) -> String {
    guard.map_or_else(String::new, |pid| {
        format!(
            "; it is process {pid} and waits for a process below it (`pstree -p {pid}`), which the kernel does not end as long as it \
             waits for a disk, or is frozen"
        )
    })
}

/// A held lock; the lock is free when this value and the guard's copy are closed.
#[derive(Debug)]
pub struct InstanceLock {
    file: File,
}

impl InstanceLock {
    /// Takes the lock of this file; waits for a dying guard in any case, and for a living holder up to `wait`.
    ///
    /// # Errors
    /// Another orch holds the lock, or the file cannot be used.
    pub fn acquire(path: &Path, wait: Duration, me: &LockHolder) -> Result<Self, LockError> {
        let failed = |source: io::Error| LockError::Io {
            path: path.display().to_string(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).truncate(false);
        let mut file = regular::open_own(&mut options, path).map_err(failed)?;
        let started = Instant::now();
        // The run with a dead orch, and the time of the discovery: the guard's time counts from then on.
        let mut dying: Option<(String, Instant)> = None;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
            let Some(holder) = read(&mut file).map_err(failed)? else {
                // The lock is held, and the holder has not written the file yet.
                if started.elapsed() > GUARD_END_GRACE + wait {
                    let source = io::Error::other("it is held, and the file does not name the holder");
                    return Err(failed(source));
                }
                std::thread::park_timeout(RETRY_INTERVAL);
                continue;
            };
            if holder.is_alive() {
                if started.elapsed() >= wait {
                    return Err(LockError::Held(Box::new(holder)));
                }
                wait_for_end(holder.pid, wait.saturating_sub(started.elapsed()));
            } else {
                let bound = Duration::from_millis(holder.stop_bound_ms);
                let since = match &dying {
                    Some((run_id, since)) if *run_id == holder.run_id => *since,
                    _ => dying.insert((holder.run_id.clone(), Instant::now())).1,
                };
                if started.elapsed() >= wait && since.elapsed() >= bound + GUARD_END_GRACE {
                    return Err(LockError::GuardStuck {
                        guard: holder.guard_pid,
                        run_id: holder.run_id,
                        bound,
                    });
                }
                match holder.guard_pid {
                    Some(guard) => wait_for_end(guard, bound + GUARD_END_GRACE),
                    None => std::thread::park_timeout(RETRY_INTERVAL),
                }
            }
        }
        let mut lock = Self { file };
        lock.update(me).map_err(failed)?;
        Ok(lock)
    }

    /// Returns an identifier of the locked file, unique during this boot of the kernel and across containers: a process
    /// that can lock a file with the same identifier locks this file. `None` if the kernel does not provide the values.
    pub fn identity(&self) -> Option<String> {
        let (boot, metadata) = (processes::boot_id()?, self.file.metadata().ok()?);
        Some(format!("{boot}:{}:{}", metadata.dev(), metadata.ino()))
    }

    /// Returns true if an orch or a guard holds the lock of this file. The look takes a shared lock for a moment: an orch
    /// that starts in this moment tries again.
    pub fn is_held(path: &Path) -> bool {
        let locked = regular::open(path).map(|file| flock(&file, FlockOperation::NonBlockingLockShared));
        matches!(locked, Ok(Err(rustix::io::Errno::WOULDBLOCK)))
    }

    /// Returns the current or last holder of the lock, if the file names one.
    pub fn holder(path: &Path) -> Option<LockHolder> {
        read(&mut regular::open(path).ok()?).ok().flatten()
    }

    /// Returns true if the locked file is the file at this path.
    pub fn is_at(&self, path: &Path) -> bool {
        let held = self.file.metadata();
        held.is_ok_and(|held| private_directory::is_at(&held, path))
    }

    /// Duplicates the descriptor of the lock for the guard.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn duplicate_for_guard(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Writes the holder to the file.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn update(&mut self, holder: &LockHolder) -> io::Result<()> {
        let mut text = serde_json::to_vec(holder)?;
        text.push(b'\n');
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)?;
        // The file is truncated after the write: the first line is complete at any moment.
        self.file.set_len(text.len() as u64)
    }
}

/// Reads the holder that the file names, if any.
fn read(file: &mut File) -> io::Result<Option<LockHolder>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(64 * 1024).read_to_end(&mut text)?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice(line).ok())
}

/// Waits in steps for a process to end, by pidfd; another process may hold the lock after a step.
fn wait_for_end(pid: i32, longest: Duration) {
    let step = longest.min(HOLDER_INTERVAL).max(Duration::from_millis(1));
    match Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
        Some(process) => {
            let timeout = Timespec {
                tv_sec: step.as_secs().cast_signed(),
                tv_nsec: i64::from(step.subsec_nanos()),
            };
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)).ok();
            // The kernel closes a process's descriptors before the pidfd becomes readable; the pause keeps an unreaped
            // zombie from making the loop spin.
            std::thread::park_timeout(Duration::from_millis(1));
        }
        None => std::thread::park_timeout(RETRY_INTERVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> LockHolder {
        LockHolder::of_this_process("a1", HolderCommand::Up, None, Duration::from_millis(100))
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
        assert!(InstanceLock::is_held(&path) && !InstanceLock::is_held(&directory.path().join("missing")));
        let copy = first.duplicate_for_guard().unwrap();
        drop(first);
        assert!(
            InstanceLock::acquire(&path, Duration::ZERO, &me()).is_err(),
            "the guard's copy holds the lock"
        );
        drop(copy);
        // A child that another test is starting holds copies of all descriptors until its exec.
        InstanceLock::acquire(&path, Duration::from_secs(60), &me()).unwrap();
    }

    #[test]
    fn the_guard_of_a_dead_orch_is_waited_for_up_to_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.lock");
        let dead = LockHolder { pid: i32::MAX, ..me() };
        let held = InstanceLock::acquire(&path, Duration::ZERO, &dead).unwrap();
        let started = Instant::now();
        let refused = InstanceLock::acquire(&path, Duration::ZERO, &me());
        assert!(matches!(refused, Err(LockError::GuardStuck { .. })), "{refused:?}");
        let text = LockError::GuardStuck {
            guard: Some(7),
            run_id: "a1".to_owned(),
            bound: Duration::from_millis(500),
        }
        .to_string();
        assert!(text.contains("`pstree -p 7`") && !text.contains("Some"), "{text}");
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
        let start_time = processes::look_up(pid).unwrap().unwrap().start_time;
        let holder = LockHolder {
            pid,
            start_time,
            ..me()
        };
        let _held = InstanceLock::acquire(&path, Duration::ZERO, &holder).unwrap();
        // The wait is as long as the guard's bound and grace; a living orch takes half a second of that.
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
