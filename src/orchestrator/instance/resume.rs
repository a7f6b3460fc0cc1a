//! Search for the dead run that `--resume` continues, among the runs that the state directory keeps.
//!
//! The remaining work of such a run is a [`Resumption`]; `orch_scrape` executes the work.

use std::collections::HashSet;

use orch_config::Config;
use orch_journal::failure::ServiceFailure;
use orch_journal::{PastRun, Resumption, ResumptionFold, SiteName, SiteRemainder, each_line_of_kinds, past_runs};

/// Selection of the run to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeTarget {
    /// The last run that began a site or continued another run.
    Latest,
    /// The run with this id, or the only run with an id that begins with this text.
    Run(String),
}

/// Reads the remaining work of the run. The caller holds the run lock, so no run of this state directory is alive.
///
/// # Errors
/// There is no such run, its journal cannot be read, or a remaining site is no longer configured.
pub fn find(config: &Config, target: &ResumeTarget) -> Result<Resumption, ServiceFailure> {
    let state_dir = &config.orch.state_dir;
    let runs = past_runs(state_dir).map_err(|error| {
        ServiceFailure::infrastructure(format!("could not list the runs in {}", state_dir.display()))
            .with_source(&error)
    })?;
    let run = choose(&runs, target).map_err(|why| {
        let known: Vec<&str> = runs.iter().rev().map(|run| run.run_id.as_str()).collect();
        let hint = if known.is_empty() {
            "start a run with `orch run`".to_owned()
        } else {
            format!("runs that can be resumed, the latest first: {}", known.join(", "))
        };
        ServiceFailure::configuration(format!("{why} in {}", state_dir.display())).hint(hint)
    })?;
    let mut unfinished = ResumptionFold::default();
    each_line_of_kinds(&run.journal, &ResumptionFold::KINDS, |event| unfinished.apply(&event)).map_err(|error| {
        ServiceFailure::infrastructure(format!("could not resume run {}", run.run_id)).with_source(&error)
    })?;
    let resumption = unfinished.resumption().ok_or_else(|| {
        ServiceFailure::infrastructure(format!("could not resume run {}", run.run_id)).with_cause(format!(
            "{} does not begin with the start of the run",
            run.journal.display()
        ))
    })?;
    if let Some(gone) = unconfigured(config, &resumption) {
        return Err(ServiceFailure::configuration(format!(
            "run {} has the site `{gone}` left to do, which is no longer configured",
            run.run_id
        ))
        .hint("configure it again, or start a new run without `--resume`"));
    }
    Ok(resumption)
}

fn choose<'a>(runs: &'a [PastRun], target: &ResumeTarget) -> Result<&'a PastRun, String> {
    match target {
        ResumeTarget::Latest => latest(runs).ok_or_else(|| "there is no run to resume".to_owned()),
        ResumeTarget::Run(id) => {
            let mut fitting = runs.iter().filter(|run| run.run_id.as_str().starts_with(id.as_str()));
            match (fitting.next(), fitting.next()) {
                (Some(run), None) => Ok(run),
                (None, _) => Err(format!("there is no run {id}")),
                (Some(_), Some(_)) => runs
                    .iter()
                    .find(|run| run.run_id.as_str() == id)
                    .ok_or_else(|| format!("several runs begin with {id}")),
            }
        }
    }
}

/// Returns the latest run that began a site or continued another run. A start that failed before any site began counts
/// only if there is no other run: otherwise the unfinished work of the run before it would be lost.
pub(crate) fn latest(runs: &[PastRun]) -> Option<&PastRun> {
    let is_night = |run: &&PastRun| run.resumes.is_some() || run.has_begun();
    runs.iter().rev().find(is_night).or(runs.last())
}

/// Finds a remaining site that is no longer configured.
fn unconfigured<'a>(config: &Config, resumption: &'a Resumption) -> Option<&'a SiteName> {
    let configured: HashSet<&SiteName> = config.sites.iter().map(|site| &site.name).collect();
    let left = resumption
        .sites
        .iter()
        .filter(|so_far| !matches!(so_far.progress, SiteRemainder::Kept { .. }));
    left.map(|so_far| &so_far.site).find(|name| !configured.contains(name))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn kept(ids: &[&str]) -> Vec<PastRun> {
        ids.iter()
            .map(|id| PastRun {
                run_id: (*id).into(),
                journal: PathBuf::new(),
                at: 0.0,
                resumes: None,
            })
            .collect()
    }

    #[test]
    fn a_run_is_chosen_as_the_latest_or_by_the_begin_of_its_id() {
        let runs = kept(&["abc1", "abd2", "abd23"]);
        let run = |id: &str| ResumeTarget::Run(id.to_owned());
        for (target, expected) in [
            (ResumeTarget::Latest, Ok("abd23")),
            (run("abc1"), Ok("abc1")),
            (run("abc"), Ok("abc1")),
            (run("abd2"), Ok("abd2")),
            (run("ab"), Err("several runs begin with ab")),
            (run("x"), Err("there is no run x")),
            (run("../abc1"), Err("there is no run ../abc1")),
        ] {
            let chosen = choose(&runs, &target).map(|run| run.run_id.as_str());
            assert_eq!(chosen, expected.map_err(str::to_owned), "{target:?}");
        }
        let none = choose(&[], &ResumeTarget::Latest).map(|run| run.run_id.to_string());
        assert_eq!(none, Err("there is no run to resume".to_owned()));
    }
}
