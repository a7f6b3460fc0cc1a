//! `orch stop`: stops one service, or one site, of the active run; everything else continues.

use std::time::Duration;

use clap::Args;

use super::CommandError;
use super::active_run::{ActiveRun, JournalSearch};
use super::output::{print, print_message};
use super::service_request::{RequestArgs, ServiceAction, request};
use super::site_request::{active_sites_run, check_site};
use orch_base::text::counted::plural;
use orch_base::text::duration_text::shown;
use orch_config::{Config, nearest};
use orch_journal::{EventKind, RequestResult, RequestVerb, RunOutcome, SiteCounts, SiteName, SiteStatus};

/// Time in which the run must report the end of the site. The site's tasks are gone within five seconds, but the run
/// may be waiting for Redis.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Stops one service of the active run until `orch start` starts it, or ends one site (`orch stop site SITE`)
#[derive(Args, Debug)]
#[command(
    override_usage = "orch stop [OPTIONS] <NAME>\n       orch stop [OPTIONS] site <SITE>",
    after_help = "A service gets its stop signal and its grace period; services that depend on it keep running. For a site, \
its tasks are removed from the queues, and running tasks end after a second; it counts as cancelled, and sites that depend \
on it are skipped. Exit codes: 0 stopped; 1 nothing was done (no run is active, or it does not run); 2 the run has no such \
service or site; 3 the run does not answer."
)]
pub struct StopArgs {
    /// Name of the service; or the word `site` and the name of the site
    #[arg(value_name = "NAME", required = true, num_args = 1..=2)]
    target: Vec<String>,
    #[command(flatten)]
    request: RequestArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &StopArgs) -> anyhow::Result<u8> {
    match args.target.as_slice() {
        [service] => request(&args.request, ServiceAction::Stop, service),
        [word, site] if word == "site" => stop_site(&args.request, site),
        words => {
            let words = words.join(" ");
            Err(CommandError::usage(format!(
                "`orch stop {words}` names two things to stop\n  hint:  `orch stop NAME` stops a service, `orch stop site SITE` \
                 ends a site"
            )))
        }
    }
}

fn stop_site(args: &RequestArgs, name: &str) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let site = SiteName::from(name);
    let Some(mut run) = active_sites_run(&config)? else {
        let state_dir = config.orch.state_dir.display();
        let unknown = unknown_site(&config, &site);
        return nothing(&format!("no `orch run` is active in {state_dir}{unknown}"));
    };
    let run_id = run.start.run_id.clone();
    check_site(&run, &site)?;
    let mut before = ObservedSite::at_start(&run, &site);
    run.read(|event| before.note(&site, event.kind))?;
    if let Some((status, _)) = before.ended {
        return nothing(&format!("{site} {} already", word(status)));
    }
    if before.is_stopping {
        return nothing(&format!("run {run_id} is stopping, and {site} with it"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(args, &site, &mut run))
}

async fn follow(args: &RequestArgs, site: &SiteName, run: &mut ActiveRun) -> anyhow::Result<u8> {
    let id = run.send(RequestVerb::StopSite { site: site.clone() })?;
    let run_id = run.start.run_id.clone();
    let mut answered = false;
    // The end of the site answers the question better than the answer, which may come before or after it.
    let find = |event: orch_journal::Event| match event.kind {
        EventKind::RequestAnswered(answer) if answer.id.as_ref() == Some(&id) => {
            answered = true;
            match answer.result {
                RequestResult::Done if args.no_wait => Some(SiteStop::Accepted(answer.detail)),
                RequestResult::Done => None,
                RequestResult::NothingToDo | RequestResult::Refused => Some(SiteStop::NotDone(answer.detail)),
            }
        }
        EventKind::SiteFinished {
            site: ended,
            status,
            counts,
            ..
        } if ended == *site => Some(SiteStop::Ended(status, counts)),
        _ => None,
    };
    match run.search(STOP_TIMEOUT, find).await? {
        JournalSearch::Found(SiteStop::Ended(SiteStatus::Cancelled, counts)) => {
            print(&format!("{site} was stopped{}", done(counts)));
            Ok(RunOutcome::Succeeded.exit_code())
        }
        JournalSearch::Found(SiteStop::Ended(status, _)) => {
            nothing(&format!("{site} {} before the stop", word(status)))
        }
        JournalSearch::Found(SiteStop::NotDone(reason)) => nothing(&reason),
        JournalSearch::Found(SiteStop::Accepted(detail)) => {
            print(&detail);
            Ok(RunOutcome::Succeeded.exit_code())
        }
        JournalSearch::RunEnded => nothing(&format!("run {run_id} ended before the stop")),
        JournalSearch::TimedOut => {
            let log = run.directory.orch_log();
            let (timeout, log) = (shown(STOP_TIMEOUT), log.display());
            match answered {
                true => anyhow::bail!(
                    "run {run_id} has not stopped {site} within {timeout}; the request stays: the run stops the site as \
                     soon as its sites run and Redis answers\n  log:   {log}"
                ),
                false => anyhow::bail!("the run {run_id} has not answered within {timeout}\n  log:   {log}"),
            }
        }
    }
}

/// Result of a request to stop a site.
enum SiteStop {
    Ended(SiteStatus, SiteCounts),
    Accepted(String),
    NotDone(String),
}

/// Facts about the site from the journal.
#[derive(Clone, Debug, Default)]
struct ObservedSite {
    ended: Option<(SiteStatus, SiteCounts)>,
    is_stopping: bool,
}

impl ObservedSite {
    /// Returns the facts of the first event: a run that resumes another does not run its complete sites again.
    fn at_start(run: &ActiveRun, wanted: &SiteName) -> Self {
        let so_far = run.start.resumes.iter().flat_map(|resumption| &resumption.sites);
        let ended = so_far
            .filter(|so_far| so_far.site == *wanted)
            .find_map(|so_far| so_far.progress.kept());
        Self {
            ended,
            is_stopping: false,
        }
    }

    fn note(&mut self, wanted: &SiteName, kind: EventKind) {
        match kind {
            EventKind::SiteFinished {
                site, status, counts, ..
            } if site == *wanted => self.ended = Some((status, counts)),
            // The site begins again by request.
            EventKind::SiteQueued { site } if site == *wanted => self.ended = None,
            EventKind::StopStarted { .. } => self.is_stopping = true,
            _ => {}
        }
    }
}

/// Returns a text that the configuration has no such site, with the most similar name; empty if the site is configured.
fn unknown_site(config: &Config, site: &SiteName) -> String {
    let names = || config.sites.iter().map(|site| site.name.as_str());
    if names().any(|name| name == site.as_str()) {
        return String::new();
    }
    let meant = nearest(site.as_str(), names()).map(|meant| format!(": did you mean `{meant}`?"));
    format!(
        ", and {} has no site `{site}`{}",
        config.file.display(),
        meant.unwrap_or_default()
    )
}

fn nothing(why: &str) -> anyhow::Result<u8> {
    print_message(&format!("nothing to stop: {why}"));
    Ok(RunOutcome::SitesFailed.exit_code())
}

fn word(status: SiteStatus) -> &'static str {
    match status {
        SiteStatus::Complete => "was complete",
        SiteStatus::Degraded => "was degraded",
        SiteStatus::Failed => "had failed",
        SiteStatus::Cancelled => "was stopped",
        SiteStatus::Skipped => "was skipped",
        SiteStatus::Unknown => "had ended with unknown outcome",
    }
}

fn done(counts: SiteCounts) -> String {
    match (counts.completed_chunks, counts.total_chunks) {
        (Some(completed), Some(total)) => format!(" after {completed} of {}", plural(total, "chunk")),
        _ => String::new(),
    }
}
