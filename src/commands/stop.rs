//! `orch stop site`: stops one site of the active run of this state directory; the other sites continue.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::output::{print, print_message};
use super::{CommandError, ConfigArgs, check_state_directory};
use crate::orchestrator::instance::{locks, stop_request_file};
use orch_base::text::counted::plural;
use orch_base::text::duration_text::shown;
use orch_config::{Config, nearest};
use orch_journal::{
    EventKind, JournalTail, PastRun, RunDirectory, RunOutcome, RunStart, SiteCounts, SiteName, SiteStatus,
    is_being_written, past_runs,
};

/// Time in which the run must report the end of the site. The site's tasks are gone within five seconds, but the run
/// may be waiting for Redis.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Stops one site of the active `orch run`; the other sites continue
#[derive(Args, Debug)]
pub struct StopArgs {
    #[command(subcommand)]
    target: StopTarget,
}

#[derive(Subcommand, Debug)]
enum StopTarget {
    Site(SiteArgs),
    /// Words that are no subcommand: most likely the name of a site.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Stops one site: removes its tasks from the queues, ends running tasks after a second; the site counts as cancelled
#[derive(Args, Debug)]
#[command(
    after_help = "Sites that depend on this site are skipped. Exit codes: 0 the site was stopped; 1 there was nothing to stop \
(no run is active, or the site has ended); 2 the run has no such site; 3 the run does not answer."
)]
struct SiteArgs {
    /// Name of the site
    #[arg(value_name = "SITE")]
    name: String,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &StopArgs) -> anyhow::Result<u8> {
    let args = match &args.target {
        StopTarget::Site(args) => args,
        StopTarget::Other(words) => return Err(without_site(words)),
    };
    let config = args.config.load(&[])?;
    let site = SiteName::from(args.name.as_str());
    let Some((run, directory)) = running(&config)? else {
        let state_dir = config.orch.state_dir.display();
        let unknown = unknown_site(&config, &site);
        return nothing(&format!("no `orch run` is active in {state_dir}{unknown}"));
    };
    let failed = |headline: &str, error: &dyn std::error::Error| {
        anyhow::anyhow!("{headline} of run {}\n  cause: {error}", run.run_id)
    };
    let mut journal = JournalTail::open(&run.journal).map_err(|error| failed("could not read the journal", &error))?;
    let mut seen = ObservedSite::default();
    let mut look = || -> anyhow::Result<ObservedSite> {
        while let Some(event) = journal
            .next_event()
            .map_err(|error| failed("could not read the journal", &error))?
        {
            seen.note(&site, event.kind);
        }
        Ok(seen.clone())
    };
    let before = look()?;
    if let Some(sites) = before.others {
        let meant = nearest(site.as_str(), sites.iter().map(String::as_str));
        let meant = meant
            .map(|meant| format!("did you mean `{meant}`? "))
            .unwrap_or_default();
        let text = format!(
            "run {} has no site `{site}`\n  hint:  {meant}its sites: {}",
            run.run_id,
            sites.join(", ")
        );
        return Err(CommandError::usage(text));
    }
    if let Some((status, _)) = before.ended {
        return nothing(&format!("{site} {} already", word(status)));
    }
    if before.is_stopping {
        return nothing(&format!("run {} is stopping, and {site} with it", run.run_id));
    }
    stop_request_file::append_request(&directory.stop_requests(), &site, stop_request_file::this_process())
        .map_err(|error| failed("could not write the stop request into the directory", &error))?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        // This order matters: the look at the journal then includes every event that the run wrote before the end.
        let lives = is_being_written(&run.journal);
        let now = look()?;
        match now.ended {
            Some((SiteStatus::Cancelled, counts)) => {
                print(&format!("{site} was stopped{}", done(counts)));
                return Ok(RunOutcome::Succeeded.exit_code());
            }
            Some((status, _)) => return nothing(&format!("{site} {} before the stop", word(status))),
            None if !lives => return nothing(&format!("run {} ended before the stop", run.run_id)),
            None if Instant::now() >= deadline => {
                anyhow::bail!(
                    "run {} has not stopped {site} within {}; the request stays: the run stops the site as soon as its \
                     sites run and Redis answers\n  log:   {}",
                    run.run_id,
                    shown(STOP_TIMEOUT),
                    directory.orch_log().display()
                );
            }
            None => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Returns the active run of the state directory; there is at most one.
fn running(config: &Config) -> anyhow::Result<Option<(PastRun, RunDirectory)>> {
    let state_dir = &config.orch.state_dir;
    if let Some(lost) = locks::lost_holder(config) {
        return Err(CommandError::because(lost.outcome(), lost));
    }
    if !state_dir.exists() {
        return Ok(None);
    }
    check_state_directory(config)?;
    let runs = past_runs(state_dir)
        .map_err(|error| anyhow::anyhow!("could not list the runs in {}\n  cause: {error}", state_dir.display()))?;
    let run = runs.into_iter().rev().find(|run| is_being_written(&run.journal));
    Ok(run.map(|run| {
        let directory = RunDirectory::of(state_dir, &run.run_id);
        (run, directory)
    }))
}

/// Facts about the site from the journal.
#[derive(Clone, Debug, Default)]
struct ObservedSite {
    /// Sites of the run, if the wanted site is not among them.
    others: Option<Vec<String>>,
    ended: Option<(SiteStatus, SiteCounts)>,
    is_stopping: bool,
}

impl ObservedSite {
    fn note(&mut self, wanted: &SiteName, kind: EventKind) {
        match kind {
            EventKind::RunStarted(RunStart { sites, .. }) if !sites.contains(wanted) => {
                self.others = Some(sites.iter().map(ToString::to_string).collect());
            }
            EventKind::RunStarted(RunStart { resumes, .. }) => {
                // This run does not run sites again that the resumed run had completed.
                let so_far = resumes.into_iter().flat_map(|resumption| resumption.sites);
                self.ended = so_far
                    .filter(|so_far| so_far.site == *wanted)
                    .find_map(|so_far| so_far.progress.kept());
            }
            EventKind::SiteFinished {
                site, status, counts, ..
            } if site == *wanted => self.ended = Some((status, counts)),
            EventKind::StopStarted { .. } => self.is_stopping = true,
            _ => {}
        }
    }
}

/// Creates the error for `orch stop NAME` without the word `site`.
fn without_site(words: &[String]) -> anyhow::Error {
    let words = words.join(" ");
    let text = format!("`orch stop {words}` lacks the word `site`\n  hint:  `orch stop site {words}` stops a site");
    CommandError::usage(text)
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
