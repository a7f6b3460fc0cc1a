//! The runs that a command observes from outside: the run with a given id, or the runs with living processes, or else the
//! latest run.

use clap::Args;

use super::{CommandError, check_state_directory};
use crate::orchestrator::instance::living_runs::living_runs;
use crate::orchestrator::instance::locks;
use orch_config::Config;
use orch_journal::{KeptRun, RunDirectory, RunId};

/// Option that selects a run.
#[derive(Args, Clone, Debug, Default)]
pub struct RunChoice {
    /// Run to show: its id, or the start of its id [default: the active runs, or else the latest run]
    #[arg(long = "run", value_name = "ID")]
    pub id: Option<String>,
}

/// Runs that a command observes.
#[derive(Debug, Default)]
pub struct ChosenRuns {
    /// An `orch run` comes before an `orch up`; empty if the state directory has no run.
    pub runs: Vec<(RunId, RunDirectory)>,
    /// True if the runs were chosen because processes of them live.
    pub are_living: bool,
}

impl RunChoice {
    /// Finds the runs in the state directory of this configuration.
    ///
    /// # Errors
    /// The state directory cannot be used, a living run has lost it, or no run has the given id.
    pub fn find(&self, config: &Config) -> anyhow::Result<ChosenRuns> {
        let state_dir = &config.orch.state_dir;
        if let Some(lost) = locks::lost_holder(config) {
            return Err(CommandError::because(lost.outcome(), lost));
        }
        let kept = match state_dir.exists() {
            true => {
                check_state_directory(config)?;
                KeptRun::all(state_dir).map_err(|error| {
                    anyhow::anyhow!("could not list the runs in {}\n  cause: {error}", state_dir.display())
                })?
            }
            false => Vec::new(),
        };
        if let Some(id) = &self.id {
            let run = KeptRun::choose(&kept, id).map_err(|why| unknown_run(config, &kept, &why))?;
            return Ok(ChosenRuns {
                runs: vec![(run.run_id.clone(), run.directory.clone())],
                are_living: false,
            });
        }
        let living = living_runs(state_dir, &kept);
        let are_living = !living.is_empty();
        let latest = kept.into_iter().map(|run| (run.run_id, run.directory));
        Ok(ChosenRuns {
            runs: match are_living {
                true => living,
                false => latest.take(1).collect(),
            },
            are_living,
        })
    }
}

/// Number of runs that a hint lists.
const MAX_HINTS: usize = 5;

fn unknown_run(config: &Config, kept: &[KeptRun], why: &str) -> anyhow::Error {
    let known: Vec<&str> = kept.iter().take(MAX_HINTS).map(|run| run.run_id.as_str()).collect();
    let hint = match known.is_empty() {
        true => "no run has begun there".to_owned(),
        false => format!("the latest runs: {}", known.join(", ")),
    };
    let state_dir = config.orch.state_dir.display();
    CommandError::usage(format!("{why} in {state_dir}\n  hint:  {hint}"))
}
