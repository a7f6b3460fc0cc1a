//! `orch stop site`: ends one site of the run that is at work here, and leaves the others alone.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::output::{print, say};
use super::{ConfigArgs, Refusal};
use crate::config::{Config, nearest};
use crate::counted::plural;
use crate::duration_text::shown;
use crate::run::{
    EventKind, JournalTail, Outcome, PastRun, RunDirectory, SiteCounts, SiteName, SiteStatus, is_being_written,
    past_runs,
};
use crate::{claim, state_directory, stop_requests};

/// For the run to say that the site has ended: its tasks are gone within five seconds, but it may be waiting for Redis.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Stops a part of the `orch run` of this state directory while the rest goes on
#[derive(Args, Debug)]
pub struct StopArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Site(SiteArgs),
    /// Neither a subcommand nor a help: most likely the name of a site.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Ends one site: its tasks are taken off the queues, running ones ended after a second, and it counts as cancelled
#[derive(Args, Debug)]
#[command(
    after_help = "Sites that are to run after it are skipped. Exit codes: 0 it was stopped; 1 there was nothing to stop \
(no run is at work, or the site has ended); 2 the run has no such site; 3 the run does not answer."
)]
struct SiteArgs {
    /// The site
    #[arg(value_name = "SITE")]
    name: String,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &StopArgs) -> anyhow::Result<u8> {
    let args = match &args.what {
        What::Site(args) => args,
        What::Other(words) => return Err(without_site(words)),
    };
    let config = args.config.load(&[])?;
    let site = SiteName::from(args.name.as_str());
    let Some((run, directory)) = running(&config)? else {
        let state_dir = config.orch.state_dir.display();
        let unknown = unknown_site(&config, &site);
        return nothing(&format!("no `orch run` is at work in {state_dir}{unknown}"));
    };
    let failed = |what: &str, error: &dyn std::error::Error| {
        let text = format!("{what} of run {}\n  cause: {error}", run.run_id);
        Refusal::because(Outcome::InfrastructureFailed, text)
    };
    let mut journal = JournalTail::open(&run.journal).map_err(|error| failed("read the journal", &error))?;
    let mut seen = Seen::default();
    let mut look = || -> anyhow::Result<Seen> {
        while let Some(event) = journal
            .next_event()
            .map_err(|error| failed("read the journal", &error))?
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
        return Err(Refusal::because(Outcome::ConfigurationError, text));
    }
    if let Some((status, _)) = before.ended {
        return nothing(&format!("{site} {} already", word(status)));
    }
    if before.is_stopping {
        return nothing(&format!("run {} is stopping, and {site} with it", run.run_id));
    }
    stop_requests::ask(&directory.stop_requests(), &site, stop_requests::me())
        .map_err(|error| failed("ask for the stop in the directory", &error))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // In this order: what is written before the end of the run is seen.
        let lives = is_being_written(&run.journal);
        let now = look()?;
        match now.ended {
            Some((SiteStatus::Cancelled, counts)) => {
                print(&format!("{site} was stopped{}", done(counts)));
                return Ok(Outcome::Succeeded.exit_code());
            }
            Some((status, _)) => return nothing(&format!("{site} {} meanwhile", word(status))),
            None if !lives => return nothing(&format!("run {} has ended meanwhile", run.run_id)),
            None if Instant::now() >= deadline => {
                let text = format!(
                    "run {} has not ended {site} within {}; it knows that it is to, as soon as it comes to its \
                     sites and Redis answers\n  log:   {}",
                    run.run_id,
                    shown(PATIENCE),
                    directory.orch_log().display()
                );
                return Err(Refusal::because(Outcome::InfrastructureFailed, text));
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}

/// The run that is at work in the state directory: there is one at most.
fn running(config: &Config) -> anyhow::Result<Option<(PastRun, RunDirectory)>> {
    let state_dir = &config.orch.state_dir;
    if let Some(lost) = claim::lost_holder(config) {
        return Err(Refusal::because(lost.outcome(), lost));
    }
    if !state_dir.exists() {
        return Ok(None);
    }
    state_directory::check(state_dir, &config.file)
        .map_err(|failure| Refusal::because(failure.kind.outcome(), failure))?;
    let runs = past_runs(state_dir).map_err(|error| {
        let text = format!("look for runs in {}\n  cause: {error}", state_dir.display());
        Refusal::because(Outcome::InfrastructureFailed, text)
    })?;
    let run = runs.into_iter().rev().find(|run| is_being_written(&run.journal));
    Ok(run.map(|run| {
        let directory = RunDirectory::of(state_dir, &run.run_id);
        (run, directory)
    }))
}

/// What the journal tells of the site.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The run's sites, when this is none of them.
    others: Option<Vec<String>>,
    ended: Option<(SiteStatus, SiteCounts)>,
    is_stopping: bool,
}

impl Seen {
    fn note(&mut self, wanted: &SiteName, kind: EventKind) {
        match kind {
            EventKind::RunStarted { sites, .. } if !sites.contains(wanted) => {
                self.others = Some(sites.iter().map(ToString::to_string).collect());
            }
            EventKind::RunStarted { resumes, .. } => {
                // What the earlier run had completed is no work of this one.
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

/// A name of a site where the word `site` belongs.
fn without_site(words: &[String]) -> anyhow::Error {
    let words = words.join(" ");
    let text = format!(
        "`orch stop {words}` does not say what is to be stopped\n  hint:  `orch stop site {words}` stops a site"
    );
    Refusal::because(Outcome::ConfigurationError, text)
}

/// Says that the configuration has no such site, and which one may be meant.
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
    say(&format!("nothing to stop: {why}"));
    Ok(Outcome::SitesFailed.exit_code())
}

fn word(status: SiteStatus) -> &'static str {
    match status {
        SiteStatus::Complete => "was complete",
        SiteStatus::Degraded => "was degraded",
        SiteStatus::Failed => "had failed",
        SiteStatus::Cancelled => "was stopped",
        SiteStatus::Skipped => "was skipped",
        SiteStatus::Unknown => "ended, and how is not known",
    }
}

fn done(counts: SiteCounts) -> String {
    match (counts.completed_chunks, counts.total_chunks) {
        (Some(completed), Some(total)) => format!(" after {completed} of {}", plural(total, "chunk")),
        _ => String::new(),
    }
}
