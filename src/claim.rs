//! Taking an instance: its private state directory, its locks, or the instance that is up to be joined.

use std::time::Duration;

use crate::config::Config;
use crate::guard::{Holder, InstanceLock, LockError};
use crate::instance::{self, InstanceFile};
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
        "instance `{instance}` is held by `orch {command}` (pid {pid}, run {run_id}, since {since})\n  hint:  wait for it (`--wait 10m`), or give this run another `[orch] state_dir`"
    )]
    Busy {
        instance: String,
        command: String,
        pid: i32,
        run_id: String,
        since: String,
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
            StartError::Busy { .. } => Outcome::Busy,
            StartError::NothingLeft { outcome, .. } => *outcome,
            StartError::Failed(failure) => failure.kind.outcome(),
        }
    }
}

/// What a run holds.
pub struct Claim {
    pub locks: Vec<InstanceLock>,
    /// The instance that is up and to be used, instead of services of the run's own.
    pub joined: Option<InstanceFile>,
}

/// How this process is named in the locks it holds.
pub fn holder(options: &Options, run_id: &RunId, guard_pid: Option<i32>, stop_bound: Duration) -> Holder {
    let command = match options.command {
        Command::Run => "run",
        Command::Up => "up",
        Command::Prepare => "prepare",
    };
    Holder::of_this_process(run_id.as_str(), command, guard_pid, stop_bound)
}

/// Takes both locks of the instance: nothing of it lives while they are held.
///
/// # Errors
/// A living run holds one.
pub fn take_all(config: &Config) -> Result<Vec<InstanceLock>, StartError> {
    let run_id = RunId::random();
    let me = Holder::of_this_process(run_id.as_str(), "clean", None, Duration::ZERO);
    ["run.lock", "services.lock"]
        .into_iter()
        .map(|name| InstanceLock::acquire(&config.orch.state_dir.join(name), Duration::ZERO, &me))
        .map(|lock| lock.map_err(|error| refuse(config, error)))
        .collect()
}

fn refuse(config: &Config, error: LockError) -> StartError {
    match error {
        LockError::Held(held) => StartError::Busy {
            instance: config.orch.instance.clone(),
            command: held.command.clone(),
            pid: held.pid,
            run_id: held.run_id.clone(),
            since: local_time(held.started_at),
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
    let me = holder(options, run_id, None, Duration::from_secs(10));
    let take = |name: &str| InstanceLock::acquire(&state_dir.join(name), options.wait, &me);
    let refuse = |error| refuse(config, error);
    match options.command {
        Command::Up | Command::Prepare => Ok(Claim {
            locks: vec![take("services.lock").map_err(refuse)?],
            joined: None,
        }),
        Command::Run => {
            let run_lock = take("run.lock").map_err(refuse)?;
            // An instance that is up is used at once, not waited for.
            match InstanceLock::acquire(&state_dir.join("services.lock"), Duration::ZERO, &me) {
                Ok(services_lock) => Ok(Claim {
                    locks: vec![run_lock, services_lock],
                    joined: None,
                }),
                Err(LockError::Held(held)) if held.command == "up" => {
                    let patience = config.celery.start_timeout + config.redis.start_timeout;
                    let file = instance::wait_until_up(state_dir, &held, patience).map_err(StartError::Failed)?;
                    Ok(Claim {
                        locks: vec![run_lock],
                        joined: Some(file),
                    })
                }
                Err(LockError::Held(_)) => {
                    let services_lock = take("services.lock").map_err(refuse)?;
                    Ok(Claim {
                        locks: vec![run_lock, services_lock],
                        joined: None,
                    })
                }
                Err(other) => Err(refuse(other)),
            }
        }
    }
}
