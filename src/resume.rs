//! Which dead run `--resume` means, found among the runs that the state directory keeps.
//!
//! Not here: what such a run has left to do (`run::Resumption`), and what is done about it (`sites`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::run::{
    Command, Event, EventKind, Progress, Resumption, RunDirectory, SiteName, Unfinished, each_event, first_event,
};
use crate::services::Failure;

/// The run to be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeTarget {
    /// The one that was started last.
    Latest,
    /// The one of this id, or the only one whose id begins so.
    Run(String),
}

/// A run that is kept, by its first event.
struct Kept {
    run_id: String,
    journal: PathBuf,
    /// When it began, Unix seconds.
    at: f64,
}

/// Reads what the run has left to do. The caller holds the lock of runs: none of this state directory is alive.
///
/// # Errors
/// There is no such run, its journal cannot be read, or what it left to do is no longer configured.
pub fn find(config: &Config, target: &ResumeTarget) -> Result<Resumption, Failure> {
    let state_dir = &config.orch.state_dir;
    let runs = runs(state_dir).map_err(|error| {
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
    each_event(&run.journal, |event| unfinished.apply(&event))
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

/// The `orch run`s that are kept, the oldest first.
fn runs(state_dir: &Path) -> io::Result<Vec<Kept>> {
    let mut found = Vec::new();
    for directory in RunDirectory::kept(state_dir)? {
        let Some(Event {
            at,
            kind:
                EventKind::RunStarted {
                    run_id,
                    command: Command::Run,
                    ..
                },
            ..
        }) = first_event(&directory.journal())
        else {
            // `orch up`, or killed before its first event.
            continue;
        };
        found.push(Kept {
            run_id: run_id.as_str().to_owned(),
            journal: directory.journal(),
            at,
        });
    }
    // The wall clock may have been set back between two runs: where it tells nothing the file's own time does.
    found.sort_by(|one, other| {
        one.at
            .total_cmp(&other.at)
            .then_with(|| modified(&one.journal).cmp(&modified(&other.journal)))
    });
    Ok(found)
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

fn choose<'a>(runs: &'a [Kept], target: &ResumeTarget) -> Result<&'a Kept, String> {
    match target {
        ResumeTarget::Latest => runs.last().ok_or_else(|| "there is no run to resume".to_owned()),
        ResumeTarget::Run(id) => {
            let mut fitting = runs.iter().filter(|run| run.run_id.starts_with(id.as_str()));
            match (fitting.next(), fitting.next()) {
                (Some(run), None) => Ok(run),
                (None, _) => Err(format!("there is no run {id}")),
                (Some(_), Some(_)) => runs
                    .iter()
                    .find(|run| run.run_id == *id)
                    .ok_or_else(|| format!("several runs begin with {id}")),
            }
        }
    }
}

/// A site that is left to do and cannot be.
fn unconfigured<'a>(config: &Config, resumption: &'a Resumption) -> Option<&'a SiteName> {
    let left = resumption
        .sites
        .iter()
        .filter(|so_far| !matches!(so_far.progress, Progress::Kept { .. }));
    left.map(|so_far| &so_far.site)
        .find(|name| !config.sites.iter().any(|site| site.name == **name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(ids: &[&str]) -> Vec<Kept> {
        ids.iter()
            .map(|id| Kept {
                run_id: (*id).to_owned(),
                journal: PathBuf::new(),
                at: 0.0,
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
        let none = choose(&[], &ResumeTarget::Latest).map(|run| run.run_id.clone());
        assert_eq!(none, Err("there is no run to resume".to_owned()));
    }
}
