//! `orch down`: ends the active runs of the state directory in order, from another terminal.

use std::time::Duration;

use clap::Args;

use super::ConfigArgs;
use super::active_run::ActiveRun;
use super::admission::wait_for_end;
use super::service_request::{accepted, nothing};
use orch_journal::{RequestVerb, RunCommand, RunOutcome};

/// Ends the active `orch up` or `orch run` with its ordered stop, and waits for the end
#[derive(Args, Debug)]
#[command(
    after_help = "An `orch run` that uses the services of an `orch up` ends first; `orch run --resume` continues it. Exit codes: \
0 every run has ended; 1 no run is active; 3 a run does not answer, or has not ended in time."
)]
pub struct DownArgs {
    /// Longest wait for the end of each run
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = super::duration)]
    timeout: Duration,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &DownArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let mut active = ActiveRun::all(&config)?;
    if active.is_empty() {
        return nothing(&format!("no run is active in {}", config.orch.state_dir.display()));
    }
    // The sites end before the services that they use.
    active.sort_by_key(|run| run.start.command != RunCommand::Run);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for run in &mut active {
            // A run that is being stopped already refuses or does not answer, and its end counts as well.
            accepted(run, RequestVerb::Down).await?.ok();
            wait_for_end(run, args.timeout).await?;
        }
        Ok(RunOutcome::Succeeded.exit_code())
    })
}
