//! Which dead run `--resume` means, found among the runs that the state directory keeps.
//!
//! Not here: what such a run has left to do (`run::Resumption`), and what is done about it (`sites`).

use std::collections::HashSet;

use crate::config::Config;
use crate::run::{PastRun, Progress, Resumption, SiteName, Unfinished, each_line_told, past_runs};
use crate::services::Failure;

/// The run to be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeTarget {
    /// The last one that began a site, or continued another.
    Latest,
    /// The one of this id, or the only one whose id begins so.
    Run(String),
}

/// Reads what the run has left to do. The caller holds the lock of runs: none of this state directory is alive.
///
/// # Errors
/// There is no such run, its journal cannot be read, or what it left to do is no longer configured.
pub fn find(config: &Config, target: &ResumeTarget) -> Result<Resumption, Failure> {
    let state_dir = &config.orch.state_dir;
    let runs = past_runs(state_dir).map_err(|error| {
        Failure::infrastructure(format!("look for runs in {}", state_dir.display())).caused_by(&error)
    })?;
    let run = choose(&runs, target).map_err(|why| {
        let known: Vec<&str> = runs.iter().rev().map(|run| run.run_id.as_str()).collect();
        let hint = if known.is_empty() {
            "`orch run` starts one".to_owned()
        } else {
            format!("runs that can be resumed, the latest first: {}", known.join(", "))
        };
        Failure::configuration(format!("{why} in {}", state_dir.display())).hint(hint)
    })?;
    let mut unfinished = Unfinished::default();
    each_line_told(&run.journal, &Unfinished::KINDS, |event| unfinished.apply(&event))
        .map_err(|error| Failure::infrastructure(format!("resume run {}", run.run_id)).caused_by(&error))?;
    let resumption = unfinished.resumption().ok_or_else(|| {
        Failure::infrastructure(format!("resume run {}", run.run_id))
            .because(format!("{} does not begin with its start", run.journal.display()))
    })?;
    if let Some(gone) = unconfigured(config, &resumption) {
        return Err(Failure::configuration(format!(
            "run {} has left the site `{gone}` to do, which is not configured any more",
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

/// The latest night. A start that failed before any site began is none: what the one before it had under way would be lost. It is
/// meant only where there is no other.
pub(crate) fn latest(runs: &[PastRun]) -> Option<&PastRun> {
    let is_night = |run: &&PastRun| run.resumes.is_some() || run.has_begun();
    runs.iter().rev().find(is_night).or(runs.last())
}

/// A site that is left to do and cannot be.
fn unconfigured<'a>(config: &Config, resumption: &'a Resumption) -> Option<&'a SiteName> {
    let configured: HashSet<&SiteName> = config.sites.iter().map(|site| &site.name).collect();
    let left = resumption
        .sites
        .iter()
        .filter(|so_far| !matches!(so_far.progress, Progress::Kept { .. }));
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
    fn the_latest_an_id_or_the_begin_of_one_is_meant() {
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
