//! Requests to begin a site of the active run: one that waits, or one that has ended.

use super::CommandError;
use super::active_run::{ActiveRun, JournalSearch};
use super::output::{print, print_message};
use super::service_request::{RequestArgs, accepted, nothing};
use orch_base::text::duration_text::shown;
use orch_config::{Config, nearest};
use orch_journal::{EventKind, RequestVerb, RunCommand, RunOutcome, SiteName};

/// Sends the request, prints the answer and the begin of the site, and returns the exit code.
pub fn begin_site(args: &RequestArgs, verb: RequestVerb, site: &SiteName) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let Some(mut run) = active_sites_run(&config)? else {
        let state_dir = config.orch.state_dir.display();
        return nothing(&format!("no `orch run` is active in {state_dir}"));
    };
    check_site(&run, site)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(args, verb, site, &mut run))
}

/// Returns the active `orch run`.
pub fn active_sites_run(config: &Config) -> anyhow::Result<Option<ActiveRun>> {
    let run = ActiveRun::find(config, RunCommand::Run)?;
    Ok(run.filter(|run| run.start.command == RunCommand::Run))
}

/// Returns an error if the run has no such site.
pub fn check_site(run: &ActiveRun, site: &SiteName) -> anyhow::Result<()> {
    let sites = &run.start.sites;
    if sites.contains(site) {
        return Ok(());
    }
    let names = || sites.iter().map(|site| site.as_str());
    let meant = nearest(site.as_str(), names());
    let meant = meant
        .map(|meant| format!("did you mean `{meant}`? "))
        .unwrap_or_default();
    let names = names().collect::<Vec<_>>().join(", ");
    let run_id = &run.start.run_id;
    let text = format!("run {run_id} has no site `{site}`\n  hint:  {meant}its sites: {names}");
    Err(CommandError::usage(text))
}

async fn follow(args: &RequestArgs, verb: RequestVerb, site: &SiteName, run: &mut ActiveRun) -> anyhow::Result<u8> {
    if let Err(code) = accepted(run, verb).await? {
        return Ok(code);
    }
    if args.no_wait {
        return Ok(RunOutcome::Succeeded.exit_code());
    }
    let run_id = run.start.run_id.clone();
    let begins = |event: orch_journal::Event| match event.kind {
        EventKind::SiteDispatched { site: begun, .. } | EventKind::SitePickedUp { site: begun, .. }
            if begun == *site =>
        {
            Some(Ok(format!("{site} has begun")))
        }
        EventKind::SiteFinished {
            site: ended, reason, ..
        } if ended == *site => {
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            Some(Err(format!("{site} has ended{reason}")))
        }
        EventKind::StopStarted { .. } => Some(Err(format!("run {run_id} is being stopped"))),
        _ => None,
    };
    match run.search(args.timeout, begins).await? {
        JournalSearch::Found(Ok(text)) => {
            print(&text);
            Ok(RunOutcome::Succeeded.exit_code())
        }
        JournalSearch::Found(Err(text)) => {
            print_message(&text);
            Ok(RunOutcome::InfrastructureFailed.exit_code())
        }
        JournalSearch::RunEnded => {
            print_message(&format!("run {} has ended", run.start.run_id));
            Ok(RunOutcome::InfrastructureFailed.exit_code())
        }
        JournalSearch::TimedOut => {
            // The run keeps the request: the site waits for a slot.
            print(&format!(
                "{site} has not begun within {}; it is still next",
                shown(args.timeout)
            ));
            Ok(RunOutcome::Succeeded.exit_code())
        }
    }
}
