//! `orch refresh proxies`: refreshes the proxies of the active run.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::active_run::{ActiveRun, JournalSearch};
use super::output::{print, print_message};
use super::service_request::{RequestArgs, accepted, nothing};
use super::site_request::active_sites_run;
use orch_base::text::duration_text::shown;
use orch_journal::{Event, EventKind, RequestVerb, RunOutcome};

/// Refreshes the proxies of the active run while its sites go on (`orch refresh proxies`)
#[derive(Args, Debug)]
pub struct RefreshArgs {
    #[command(subcommand)]
    target: RefreshTarget,
}

#[derive(Subcommand, Debug)]
enum RefreshTarget {
    Proxies(RefreshProxiesArgs),
}

/// Publishes the configured refresh of the proxies; the sites go on
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 the proxies were refreshed; 1 nothing was done (no run is active, a refresh is under way, or the \
run refuses); 3 the refresh failed, or the run does not answer."
)]
struct RefreshProxiesArgs {
    #[command(flatten)]
    request: RequestArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &RefreshArgs) -> anyhow::Result<u8> {
    let RefreshTarget::Proxies(args) = &args.target;
    let config = args.request.config.load(&[])?;
    let Some(mut run) = active_sites_run(&config)? else {
        let state_dir = config.orch.state_dir.display();
        return nothing(&format!("no `orch run` is active in {state_dir}"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(&args.request, &mut run))
}

async fn follow(args: &RequestArgs, run: &mut ActiveRun) -> anyhow::Result<u8> {
    if let Err(code) = accepted(run, RequestVerb::RefreshProxies).await? {
        return Ok(code);
    }
    if args.no_wait {
        return Ok(RunOutcome::Succeeded.exit_code());
    }
    let run_id = run.start.run_id.clone();
    let end = |event: Event| match event.kind {
        EventKind::ProxyRefreshFinished { elapsed_ms } => {
            let elapsed = shown(Duration::from_millis(elapsed_ms));
            Some(Ok(format!("the proxies were refreshed after {elapsed}")))
        }
        EventKind::ProxyRefreshFailed {
            reason,
            will_retry: false,
        }
        | EventKind::ProxyRefreshNotStarted { reason } => Some(Err(format!("the refresh failed: {reason}"))),
        EventKind::StopStarted { .. } => Some(Err(format!("run {run_id} is being stopped"))),
        _ => None,
    };
    let text = match run.search(args.timeout, end).await? {
        JournalSearch::Found(Ok(text)) => {
            print(&text);
            return Ok(RunOutcome::Succeeded.exit_code());
        }
        JournalSearch::Found(Err(text)) => text,
        JournalSearch::RunEnded => format!("run {} has ended", run.start.run_id),
        JournalSearch::TimedOut => format!(
            "the refresh has not ended within {}; the run goes on with it",
            shown(args.timeout)
        ),
    };
    print_message(&text);
    Ok(RunOutcome::InfrastructureFailed.exit_code())
}
