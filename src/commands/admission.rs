//! `orch pause`, `orch resume` and `orch drain`: the admission of sites of the active run.

use std::time::Duration;

use clap::Args;

use super::ConfigArgs;
use super::active_run::{ActiveRun, JournalSearch};
use super::output::print;
use super::service_request::{accepted, nothing};
use super::site_request::active_sites_run;
use orch_journal::{EventKind, RequestVerb, RunOutcome};

/// Longest wait for the end of a drained run: a site may take hours.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Lets no further site of the active run begin until `orch resume`; sites that have begun go on
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 the run is paused; 1 nothing was done (no run is active, or it is already paused); 3 the run \
does not answer."
)]
pub struct PauseArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Lets sites of the active run begin again after `orch pause` or `orch drain`
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 sites begin again; 1 nothing was done (no run is active, or it is not paused); 3 the run does \
not answer."
)]
pub struct ResumeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Lets no further site of the active run begin, and ends the run in order when the sites that have begun have ended
#[derive(Args, Debug)]
#[command(
    after_help = "Sites that have not begun are skipped; `orch run --resume` runs them. Exit codes: 0 the run is being drained; \
1 nothing was done (no run is active, or it is already being drained); 3 the run does not answer; with --wait, the exit code \
of the run."
)]
pub struct DrainArgs {
    /// Wait for the end of the run and return its exit code
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs `orch pause` and returns the exit code.
pub fn pause(args: &PauseArgs) -> anyhow::Result<u8> {
    request(&args.config, RequestVerb::Pause, false)
}

/// Runs `orch resume` and returns the exit code.
pub fn resume(args: &ResumeArgs) -> anyhow::Result<u8> {
    request(&args.config, RequestVerb::Resume, false)
}

/// Runs `orch drain` and returns the exit code.
pub fn drain(args: &DrainArgs) -> anyhow::Result<u8> {
    request(&args.config, RequestVerb::Drain, args.wait)
}

fn request(config: &ConfigArgs, verb: RequestVerb, waits: bool) -> anyhow::Result<u8> {
    let config = config.load(&[])?;
    let Some(mut run) = active_sites_run(&config)? else {
        let state_dir = config.orch.state_dir.display();
        return nothing(&format!("no `orch run` is active in {state_dir}"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Err(code) = accepted(&mut run, verb).await? {
            return Ok(code);
        }
        match waits {
            true => wait_for_end(&mut run, DRAIN_TIMEOUT).await,
            false => Ok(RunOutcome::Succeeded.exit_code()),
        }
    })
}

/// Waits for the end of the run and its process, prints it, and returns its exit code.
pub(super) async fn wait_for_end(run: &mut ActiveRun, timeout: Duration) -> anyhow::Result<u8> {
    let run_id = run.start.run_id.clone();
    let mut exit_code = None;
    // The last event comes before the locks are released; the search goes on until the process has ended.
    let note = |event: orch_journal::Event| {
        if let EventKind::RunFinished { exit_code: code, .. } = event.kind {
            exit_code = Some(code);
        }
        None::<()>
    };
    match run.search(timeout, note).await? {
        JournalSearch::Found(()) | JournalSearch::TimedOut => anyhow::bail!("the run {run_id} has not ended yet"),
        JournalSearch::RunEnded => {}
    }
    let Some(code) = exit_code else {
        anyhow::bail!("the run {run_id} died before its end");
    };
    print(&format!("run {run_id} has ended with exit code {code}"));
    Ok(code)
}
