//! Taking an instance: its private state directory, its locks, or the instance that is up to be joined.
//!
//! A lock in the state directory is lost with it: whoever makes the directory anew would take another one. So each has a
//! second one in the private directory of the user, named after where the state directory is.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::guard::{Holder, InstanceLock, LockError};
use crate::instance::{self, InstanceFile};
use crate::private_directory;
use crate::resume::ResumeTarget;
use crate::run::{Command, Outcome, RunId, SiteName, local_time};
use crate::services::Failure;

/// What a run is started with, besides its configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// `orch run` ends with its sites, `orch up` when told to.
    pub command: Command,
    /// Sites to run; empty for `orch up`, and not looked at where a run is resumed.
    pub sites: Vec<SiteName>,
    /// A run that is to be continued.
    pub resume: Option<ResumeTarget>,
    /// How long to wait for another run of the instance, or for those that are at its sites, to end.
    pub wait: Duration,
    /// Sites are tried however often they have failed in earlier runs.
    pub force: bool,
    /// The caller's variables.
    pub environment: Vec<(String, String)>,
    /// See [`GuardOptions::sole_spawner`](crate::guard::GuardOptions::sole_spawner).
    pub sole_spawner: bool,
}

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A living run holds the instance.
    #[error(
        "instance `{instance}` is held by `orch {command}` (pid {pid}, run {run_id}, since {since}){}\n  hint:  {}", of_another(.other.as_deref()), busy_hint(*.has_wait, *.pid)
    )]
    Busy {
        /// The command that was refused has an option to wait.
        has_wait: bool,
        instance: String,
        command: String,
        pid: i32,
        run_id: String,
        since: String,
        /// Its configuration, where that is another, and the state directory that both name.
        other: Option<Box<(PathBuf, PathBuf)>>,
    },
    /// A living run holds the instance, and has lost its state directory.
    #[error(
        "instance `{instance}` is held by `orch {command}` (pid {pid}, run {run_id}, since {since}), whose state directory {state_dir} was removed or replaced\n  hint:  end it (`kill {pid}` stops its services too), then start again"
    )]
    Lost {
        instance: String,
        command: String,
        pid: i32,
        run_id: String,
        since: String,
        state_dir: String,
    },
    /// The run that was to be resumed has left nothing to do.
    #[error("run {run_id} had finished all of its sites{}: nothing is left to do", not_all_good(*.outcome))]
    NothingLeft {
        run_id: RunId,
        /// By the ends of its sites.
        outcome: Outcome,
    },
    /// The state directory, the guard or the lock failed.
    #[error("{0}")]
    Failed(#[source] Failure),
}

/// Says that the instance is not that of this configuration.
fn of_another(other: Option<&(PathBuf, PathBuf)>) -> String {
    other.map_or_else(String::new, |(config, state_dir)| {
        format!(
            " of another configuration, {}: both have the state directory {}",
            config.display(),
            state_dir.display()
        )
    })
}

/// What can be done about a run that holds the instance.
fn busy_hint(has_wait: bool, pid: i32) -> String {
    match has_wait {
        true => "wait for it (`--wait 10m`), or give this run another `[orch] state_dir`".to_owned(),
        false => format!("stop it (`kill {pid}`), wait for its end, or use another `[orch] state_dir`"),
    }
}

fn not_all_good(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "",
        _ => ", some of them degraded",
    }
}

impl StartError {
    /// How the run counts as having ended.
    pub fn outcome(&self) -> Outcome {
        match self {
            StartError::Busy { .. } | StartError::Lost { .. } => Outcome::Busy,
            StartError::NothingLeft { outcome, .. } => *outcome,
            StartError::Failed(failure) => failure.kind.outcome(),
        }
    }
}

const LOCKS: [&str; 2] = ["run.lock", "services.lock"];
/// A process that ends gives its locks back one after the other; on a busy machine that takes a while.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What a run holds.
pub struct Claim {
    pub locks: Vec<InstanceLock>,
    /// The instance that is up and to be used, instead of services of the run's own.
    pub joined: Option<InstanceFile>,
}

/// How this process is named in the locks it holds.
pub fn holder(
    config: &Config,
    options: &Options,
    run_id: &RunId,
    guard_pid: Option<i32>,
    stop_bound: Duration,
) -> Holder {
    let command = match options.command {
        Command::Run => "run",
        Command::Up => "up",
        Command::Prepare => "prepare",
    };
    Holder::of_this_process(run_id.as_str(), command, guard_pid, stop_bound).with_config(&config.file)
}

/// Takes both locks of the instance: nothing of it lives while they are held.
///
/// # Errors
/// A living run holds one.
pub fn take_all(config: &Config) -> Result<Vec<InstanceLock>, StartError> {
    let run_id = RunId::random();
    let me = Holder::of_this_process(run_id.as_str(), "clean", None, Duration::ZERO).with_config(&config.file);
    let mut locks = LOCKS
        .into_iter()
        .map(|name| InstanceLock::acquire(&config.orch.state_dir.join(name), Duration::ZERO, &me))
        .map(|lock| lock.map_err(|error| refuse(config, false, error)))
        .collect::<Result<Vec<_>, _>>()?;
    for name in LOCKS {
        locks.extend(take_second(config, name, Duration::ZERO, &me)?);
    }
    Ok(locks)
}

/// The lock of the same name that outlives the state directory; none where the user has no private directory.
fn take_second(config: &Config, name: &str, wait: Duration, me: &Holder) -> Result<Option<InstanceLock>, StartError> {
    let Some(path) = second_path(&config.orch.state_dir, name) else {
        return Ok(None);
    };
    loop {
        match InstanceLock::acquire(&path, wait.max(RELEASE_TIMEOUT), me) {
            Ok(lock) if lock.is_at(&path) => return Ok(Some(lock)),
            // Another orch has removed the file, as nobody held it, between our open and our lock.
            Ok(_) => {}
            Err(LockError::Held(held)) => return Err(lost(config, &held)),
            Err(stuck @ LockError::GuardStuck { .. }) => return Err(refuse(config, me.command == "run", stuck)),
            Err(error) => {
                tracing::warn!(%error, "if the state directory is removed, a second orch can start beside this one");
                return Ok(None);
            }
        }
    }
}

fn lost(config: &Config, held: &Holder) -> StartError {
    StartError::Lost {
        instance: config.orch.instance.clone(),
        command: held.command.clone(),
        pid: held.pid,
        run_id: held.run_id.clone(),
        since: local_time(held.started_at),
        state_dir: config.orch.state_dir.display().to_string(),
    }
}

/// By the directory that the state directory is in and its name there: both stay when it is removed.
fn second_path(state_dir: &Path, name: &str) -> Option<PathBuf> {
    let resolved = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let parent = fs::metadata(resolved.parent()?).ok()?;
    let (device, inode, hash) = (parent.dev(), parent.ino(), hash(resolved.file_name()?));
    Some(private_directory::path()?.join(format!("held-{device:x}-{inode:x}-{hash:016x}-{name}")))
}

/// FNV-1a, the same in each build: it only has to tell the names in one directory apart.
fn hash(name: &OsStr) -> u64 {
    name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The living run that has lost this state directory, as an error.
pub fn lost_holder(config: &Config) -> Option<StartError> {
    let state_dir = &config.orch.state_dir;
    let is_held = |path: &Path| matches!(private_directory::try_lock(path, false), Ok(None));
    LOCKS.into_iter().find_map(|name| {
        let second = second_path(state_dir, name)?;
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
        holder.lives().then(|| lost(config, &holder))
    })
}

fn refuse(config: &Config, has_wait: bool, error: LockError) -> StartError {
    match error {
        LockError::Held(held) => StartError::Busy {
            has_wait,
            instance: config.orch.instance.clone(),
            command: held.command.clone(),
            pid: held.pid,
            run_id: held.run_id.clone(),
            since: local_time(held.started_at),
            other: held
                .config
                .filter(|other| *other != config.file)
                .map(|other| Box::new((other, config.orch.state_dir.clone()))),
        },
        other => StartError::Failed(
            Failure::infrastructure(format!("take the instance lock in {}", config.orch.state_dir.display()))
                .caused_by(&other),
        ),
    }
}

/// Takes the locks of the command; for `orch run` beside a living `orch up`, tells which instance to join.
///
/// # Errors
/// A living run holds them.
pub fn take_locks(config: &Config, options: &Options, run_id: &RunId) -> Result<Claim, StartError> {
    let state_dir = &config.orch.state_dir;
    let me = holder(config, options, run_id, None, Duration::from_secs(10));
    let take = |name: &str| InstanceLock::acquire(&state_dir.join(name), options.wait, &me);
    let refuse = |error| refuse(config, options.command == Command::Run, error);
    let mut claim = match options.command {
        Command::Up | Command::Prepare => Claim {
            locks: vec![take("services.lock").map_err(refuse)?],
            joined: None,
        },
        Command::Run => {
            let run_lock = take("run.lock").map_err(refuse)?;
            // An instance that is up is used at once, not waited for.
            match InstanceLock::acquire(&state_dir.join("services.lock"), Duration::ZERO, &me) {
                Ok(services_lock) => Claim {
                    locks: vec![run_lock, services_lock],
                    joined: None,
                },
                Err(LockError::Held(held)) if held.command == "up" => {
                    let patience = config.celery.start_timeout + config.redis.start_timeout;
                    let file = instance::wait_until_up(state_dir, &held, patience).map_err(StartError::Failed)?;
                    Claim {
                        locks: vec![run_lock],
                        joined: Some(file),
                    }
                }
                Err(LockError::Held(_)) => Claim {
                    locks: vec![run_lock, take("services.lock").map_err(refuse)?],
                    joined: None,
                },
                Err(other) => return Err(refuse(other)),
            }
        }
    };
    // Last, since the first lock of a run is what names it to others.
    if options.command == Command::Run {
        claim.locks.extend(take_second(config, "run.lock", options.wait, &me)?);
    }
    if claim.joined.is_none() {
        claim
            .locks
            .extend(take_second(config, "services.lock", options.wait, &me)?);
    }
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::LoadOptions;

    #[test]
    fn only_a_command_that_can_wait_is_told_to() {
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
