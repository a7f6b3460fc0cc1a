//! Taking an instance: its locks, or the running instance to join.
//!
//! A lock in the state directory is lost with the directory: a run that creates the directory again would take a new
//! lock. So each lock has a second lock in the private directory of the user, named after the location of the state
//! directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::resume::ResumeTarget;
use orch_base::files::private_directory;
use orch_config::Config;
use orch_guard::{HolderCommand, InstanceLock, LockError, LockHolder};
use orch_journal::failure::ServiceFailure;
use orch_journal::{RunCommand, RunId, RunOutcome, SiteName, local_time};
use orch_supervisor::shared::instance_file;
use orch_supervisor::shared::instance_file::InstanceFile;

/// Options of a run, in addition to its configuration.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Kind of the run: `orch run` ends with its sites, `orch up` ends on request.
    pub command: RunCommand,
    /// An `orch up` that ends when the services are ready and the oneshots have completed.
    pub ends_when_ready: bool,
    /// Sites to run; empty for `orch up`, ignored if `resume` is set.
    pub sites: Vec<SiteName>,
    /// Run to continue.
    pub resume: Option<ResumeTarget>,
    /// Time to wait for the end of a run that holds this instance or these sites.
    pub wait: Duration,
    /// Switches the circuit breaker off: sites run even if they have failed often.
    pub force: bool,
    /// Environment variables of the caller.
    pub environment: Vec<(String, String)>,
    /// Value of [`GuardOptions::owns_all_children`](orch_guard::GuardOptions::owns_all_children).
    pub owns_all_children: bool,
}

/// Reason why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A living run holds the instance.
    #[error(
        "instance `{instance}` is held by `orch {command}` (pid {pid}, run {run_id}, since {since}){}\n  hint:  {}", of_another(.other.as_deref()), busy_hint(*.has_wait, *.pid)
    )]
    Busy {
        /// True if the refused command has the option `--wait`.
        has_wait: bool,
        instance: String,
        command: String,
        pid: i32,
        run_id: String,
        since: String,
        /// Configuration of the holder if it is a different one, and the state directory that both configurations name.
        other: Option<Box<(PathBuf, PathBuf)>>,
    },
    /// A living run holds the instance and has lost its state directory.
    #[error(
        "instance `{instance}` is held by `orch {command}` (pid {pid}, run {run_id}, since {since}), whose state directory {state_dir} was removed or replaced\n  hint:  stop it (`kill {pid}` also stops its services), then start again"
    )]
    StateDirectoryLost {
        instance: String,
        command: String,
        pid: i32,
        run_id: String,
        since: String,
        state_dir: String,
    },
    /// The run to resume has no site left to do.
    #[error("run {run_id} had finished all of its sites{}: nothing is left to do", degraded_part(*.outcome))]
    NothingLeft {
        run_id: RunId,
        /// Outcome that follows from the ends of the sites.
        outcome: RunOutcome,
    },
    /// The state directory, the guard or the lock failed.
    #[error("{0}")]
    Failed(#[source] ServiceFailure),
}

/// Returns the part of the message about a different configuration of the holder.
fn of_another(other: Option<&(PathBuf, PathBuf)>) -> String {
    other.map_or_else(String::new, |(config, state_dir)| {
        format!(
            " of another configuration, {}: both have the state directory {}",
            config.display(),
            state_dir.display()
        )
    })
}

/// Returns the possible actions against a run that holds the instance.
fn busy_hint(has_wait: bool, pid: i32) -> String {
    match has_wait {
        true => "wait for it (`--wait 10m`), or give this run another `[orch] state_dir`".to_owned(),
        false => format!("stop it (`kill {pid}`), wait for its end, or use another `[orch] state_dir`"),
    }
}

fn degraded_part(outcome: RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::Succeeded => "",
        _ => ", some of them degraded",
    }
}

impl StartError {
    /// Returns the outcome of the refused run, which decides its exit code.
    pub fn outcome(&self) -> RunOutcome {
        match self {
            StartError::Busy { .. } | StartError::StateDirectoryLost { .. } => RunOutcome::Busy,
            StartError::NothingLeft { outcome, .. } => *outcome,
            StartError::Failed(failure) => failure.kind.outcome(),
        }
    }
}

pub(super) const LOCKS: [&str; 2] = ["run.lock", "services.lock"];
/// Start of the name of each second lock.
const SECOND_LOCK: &str = "held-";
/// Time to wait for the locks of an ending process, which releases them one after the other, slowly on a busy machine.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Locks of a run, and the instance that the run joins.
pub struct InstanceClaim {
    pub locks: Vec<InstanceLock>,
    /// Running instance with the services that the run uses instead of starting services.
    pub joined: Option<InstanceFile>,
}

/// Returns the description of this process that its locks contain.
pub fn holder(
    config: &Config,
    options: &RunOptions,
    run_id: &RunId,
    guard_pid: Option<i32>,
    stop_bound: Duration,
) -> LockHolder {
    let command = match options.command {
        RunCommand::Run => HolderCommand::Run,
        RunCommand::Up => HolderCommand::Up,
    };
    LockHolder::of_this_process(run_id.as_str(), command, guard_pid, stop_bound)
        .with_paths(&config.file, &config.orch.state_dir)
}

/// Takes all locks of the instance; no run of the instance is alive while they are held.
///
/// # Errors
/// A living run holds a lock.
pub fn take_all(config: &Config) -> Result<Vec<InstanceLock>, StartError> {
    let run_id = RunId::random();
    let me = LockHolder::of_this_process(run_id.as_str(), HolderCommand::Clean, None, Duration::ZERO)
        .with_paths(&config.file, &config.orch.state_dir);
    let mut locks = LOCKS
        .into_iter()
        .map(|name| InstanceLock::acquire(&config.orch.state_dir.join(name), Duration::ZERO, &me))
        .map(|lock| lock.map_err(|error| start_error(config, false, error)))
        .collect::<Result<Vec<_>, _>>()?;
    for name in LOCKS {
        locks.extend(take_second_lock(config, name, Duration::ZERO, &me)?);
    }
    Ok(locks)
}

/// Takes the second lock of this name, which outlives the state directory; `None` if the user has no private directory.
fn take_second_lock(
    config: &Config,
    name: &str,
    wait: Duration,
    me: &LockHolder,
) -> Result<Option<InstanceLock>, StartError> {
    let Some(path) = second_lock_path(&config.orch.state_dir, name) else {
        return Ok(None);
    };
    loop {
        match InstanceLock::acquire(&path, wait.max(RELEASE_TIMEOUT), me) {
            Ok(lock) if lock.is_at(&path) => return Ok(Some(lock)),
            // Another orch has removed the unlocked file between the open and the lock of this process.
            Ok(_) => {}
            Err(LockError::Held(held)) => return Err(lost_error(config, &held)),
            Err(stuck @ LockError::GuardStuck { .. }) => {
                return Err(start_error(config, me.command == HolderCommand::Run, stuck));
            }
            Err(error) => {
                tracing::warn!(%error, "could not take the second lock: if the state directory is removed, a second orch can start");
                return Ok(None);
            }
        }
    }
}

fn lost_error(config: &Config, held: &LockHolder) -> StartError {
    StartError::StateDirectoryLost {
        instance: config.orch.instance.clone(),
        command: held.command.to_string(),
        pid: held.pid,
        run_id: held.run_id.clone(),
        since: local_time(held.started_at),
        state_dir: config.orch.state_dir.display().to_string(),
    }
}

/// Returns the path of the second lock. The name contains the parent of the state directory and the directory's own
/// name; both stay the same when the state directory is removed.
fn second_lock_path(state_dir: &Path, name: &str) -> Option<PathBuf> {
    let resolved = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let parent = fs::metadata(resolved.parent()?).ok()?;
    let (device, inode, hash) = (parent.dev(), parent.ino(), hash(resolved.file_name()?));
    Some(private_directory::path()?.join(format!("{SECOND_LOCK}{device:x}-{inode:x}-{hash:016x}-{name}")))
}

/// Computes FNV-1a, which is the same in each build: the hash only has to distinguish the names in one directory.
fn hash(name: &OsStr) -> u64 {
    name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Returns the holders of all second locks of this user: all runs on this machine, in all state directories. Runs of which
/// only the guard is alive are included.
pub fn holders_of_user() -> Vec<LockHolder> {
    let Some(directory) = private_directory::path() else {
        return Vec::new();
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_second_lock = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(SECOND_LOCK) && LOCKS.iter().any(|lock| name.ends_with(lock))
    };
    let paths = entries.map(|entry| entry.path()).filter(is_second_lock);
    let held = paths.filter(|path| InstanceLock::is_held(path));
    let mut found: Vec<LockHolder> = Vec::new();
    for holder in held.filter_map(|path| InstanceLock::holder(&path)) {
        // An `orch run` without an `orch up` holds two locks.
        if holder.is_run() && !found.iter().any(|known| known.run_id == holder.run_id) {
            found.push(holder);
        }
    }
    found.sort_by_key(|holder| (holder.started_at, holder.pid));
    found
}

/// Finds a living run that has lost this state directory; returns the run as an error.
pub fn lost_holder(config: &Config) -> Option<StartError> {
    let state_dir = &config.orch.state_dir;
    let is_held = |path: &Path| matches!(private_directory::try_lock(path, false), Ok(None));
    LOCKS.into_iter().find_map(|name| {
        let second = second_lock_path(state_dir, name)?;
        let is_lost = || is_held(&second) && !is_held(&state_dir.join(name));
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        while is_lost() {
            if Instant::now() >= deadline {
                break;
            }
            std::thread::park_timeout(POLL_INTERVAL);
        }
        if !is_lost() {
            return None;
        }
        let holder = InstanceLock::holder(&second)?;
        holder.is_alive().then(|| lost_error(config, &holder))
    })
}

fn start_error(config: &Config, has_wait: bool, error: LockError) -> StartError {
    match error {
        LockError::Held(held) => StartError::Busy {
            has_wait,
            instance: config.orch.instance.clone(),
            command: held.command.to_string(),
            pid: held.pid,
            run_id: held.run_id.clone(),
            since: local_time(held.started_at),
            other: held
                .config
                .clone()
                .filter(|other| *other != config.file)
                .map(|other| Box::new((other, config.orch.state_dir.clone()))),
        },
        other => StartError::Failed(
            ServiceFailure::infrastructure(format!(
                "could not take the instance lock in {}",
                config.orch.state_dir.display()
            ))
            .with_source(&other),
        ),
    }
}

/// Takes the locks of the command. If an `orch up` is alive, `orch run` gets the instance to join.
///
/// # Errors
/// A living run holds a lock.
pub fn take_locks(config: &Config, options: &RunOptions, run_id: &RunId) -> Result<InstanceClaim, StartError> {
    let state_dir = &config.orch.state_dir;
    let me = holder(config, options, run_id, None, Duration::from_secs(10));
    let take = |name: &str| InstanceLock::acquire(&state_dir.join(name), options.wait, &me);
    let refuse = |error| start_error(config, options.command == RunCommand::Run, error);
    let mut claim = match options.command {
        RunCommand::Up => InstanceClaim {
            locks: vec![take("services.lock").map_err(refuse)?],
            joined: None,
        },
        RunCommand::Run => {
            let run_lock = take("run.lock").map_err(refuse)?;
            // `orch run` joins a running `orch up` at once and does not wait for the end of `orch up`.
            match InstanceLock::acquire(&state_dir.join("services.lock"), Duration::ZERO, &me) {
                Ok(services_lock) => InstanceClaim {
                    locks: vec![run_lock, services_lock],
                    joined: None,
                },
                Err(LockError::Held(held)) if held.command == HolderCommand::Up => {
                    let timeout = config.celery.start_timeout + config.redis.start_timeout;
                    let file = instance_file::wait_until_up(state_dir, &held, timeout).map_err(StartError::Failed)?;
                    InstanceClaim {
                        locks: vec![run_lock],
                        joined: Some(file),
                    }
                }
                Err(LockError::Held(_)) => InstanceClaim {
                    locks: vec![run_lock, take("services.lock").map_err(refuse)?],
                    joined: None,
                },
                Err(other) => return Err(refuse(other)),
            }
        }
    };
    // The second locks come last, because the first lock of a run identifies the run to others.
    if options.command == RunCommand::Run {
        claim
            .locks
            .extend(take_second_lock(config, "run.lock", options.wait, &me)?);
    }
    if claim.joined.is_none() {
        claim
            .locks
            .extend(take_second_lock(config, "services.lock", options.wait, &me)?);
    }
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use orch_config::LoadOptions;

    #[test]
    fn the_hint_names_wait_only_for_commands_that_can_wait() {
        let busy = |has_wait| {
            let error = StartError::Busy {
                has_wait,
                instance: "shop".to_owned(),
                command: "up".to_owned(),
                pid: 7,
                run_id: "3a1b".to_owned(),
                since: "today".to_owned(),
                other: None,
            };
            error.to_string()
        };
        assert!(busy(true).ends_with("hint:  wait for it (`--wait 10m`), or give this run another `[orch] state_dir`"));
        assert!(
            busy(false).ends_with("hint:  stop it (`kill 7`), wait for its end, or use another `[orch] state_dir`")
        );
    }

    #[test]
    fn an_instance_of_another_configuration_is_named_as_such() {
        let state_dir = tempfile::tempdir().unwrap();
        let config = |name: &str| {
            let file = state_dir.path().join(name);
            fs::write(&file, "[orch]\nstate_dir = \"shared\"\n").unwrap();
            let options = LoadOptions {
                file: Some(file),
                directory: state_dir.path().to_path_buf(),
                ..LoadOptions::of_this_process()
            };
            Config::load(options).unwrap()
        };
        let (one, other) = (config("one.toml"), config("other.toml"));
        fs::create_dir(&one.orch.state_dir).unwrap();
        let _held = take_all(&one).unwrap();
        assert!(
            !take_all(&one)
                .unwrap_err()
                .to_string()
                .contains("another configuration")
        );
        let words = format!(
            " of another configuration, {}: both have the state directory {}\n  hint:  stop it",
            one.file.display(),
            one.orch.state_dir.display()
        );
        let refused = take_all(&other).unwrap_err().to_string();
        assert!(refused.contains(&words), "{words} is not in {refused}");
    }
}
