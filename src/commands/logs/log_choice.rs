//! The logs that the command line selects: those of services, and those of the workers of a site.

use std::fs;
use std::path::PathBuf;

use super::site_lines::SiteLines;
use crate::commands::CommandError;
use crate::commands::run_choice::ChosenRuns;
use orch_config::nearest;
use orch_journal::{RunDirectory, SiteName};
use orch_supervisor::worker::site_worker;

/// Log of the worker that all sites share.
const SHARED_WORKER: &str = "celery";
/// Logs that are printed only if they are named: they are not those of services.
const OWN_LOGS: [&str; 3] = ["orch", "guard", "celery-settings"];

/// Selected log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenLog {
    pub name: String,
    pub path: PathBuf,
    /// Site that a line must concern.
    pub site: Option<SiteName>,
}

/// Selection of logs.
#[derive(Debug)]
pub struct LogChoice {
    /// Names of services; with `sites` empty and without names, all services are selected.
    names: Vec<String>,
    /// Sites, for each run one entry.
    sites: Vec<SiteLines>,
}

impl LogChoice {
    /// Parses the names of the command line.
    ///
    /// # Errors
    /// The runs have no such log or site, or a journal cannot be read.
    pub fn parse(names: &[String], chosen: &ChosenRuns) -> anyhow::Result<Self> {
        let mut choice = Self {
            names: Vec::new(),
            sites: Vec::new(),
        };
        let known = all_logs(chosen);
        for name in names {
            if let Some(site) = name.strip_prefix("site:") {
                choice.add_site(site, chosen)?;
            } else if known.iter().any(|log| log.name == *name) {
                choice.names.push(name.clone());
            } else {
                return Err(unknown_log(name, &known));
            }
        }
        Ok(choice)
    }

    fn add_site(&mut self, site: &str, chosen: &ChosenRuns) -> anyhow::Result<()> {
        let mut others = Vec::new();
        let mut is_known = false;
        for (run_id, directory) in &chosen.runs {
            let lines = SiteLines::open(site.into(), &directory.journal())
                .map_err(|error| anyhow::anyhow!("could not read the journal of run {run_id}\n  cause: {error}"))?;
            match lines.others() {
                Some(names) => others.extend(names.iter().cloned()),
                None => {
                    is_known = true;
                    self.sites.push(lines);
                }
            }
        }
        if is_known {
            return Ok(());
        }
        let hint = match nearest(site, others.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `site:{meant}`?"),
            None => "`orch sites` lists the sites".to_owned(),
        };
        let runs: Vec<&str> = chosen.runs.iter().map(|(run_id, _)| run_id.as_str()).collect();
        let runs = runs.join(", ");
        Err(CommandError::usage(format!(
            "run {runs} has no site `{site}`\n  hint:  {hint}"
        )))
    }

    /// Lists the selected logs that exist now.
    pub fn logs(&self, chosen: &ChosenRuns) -> Vec<ChosenLog> {
        let is_all = self.names.is_empty() && self.sites.is_empty();
        let mut found = Vec::new();
        for log in all_logs(chosen) {
            let is_named = self.names.contains(&log.name);
            if is_named || (is_all && !OWN_LOGS.contains(&log.name.as_str())) {
                found.push(log);
                continue;
            }
            for lines in &self.sites {
                // The worker of the site executes no other tasks.
                let is_own = site_worker::service_name(lines.site()).as_str() == log.name;
                if is_own || log.name == SHARED_WORKER {
                    let site = (!is_own).then(|| lines.site().clone());
                    found.push(ChosenLog { site, ..log.clone() });
                    break;
                }
            }
        }
        found
    }

    /// Returns the lines of the selected sites.
    pub fn sites(&mut self) -> &mut [SiteLines] {
        &mut self.sites
    }

    /// Reads the new events of the runs.
    ///
    /// # Errors
    /// A journal cannot be read.
    pub fn read_journals(&mut self) -> std::io::Result<()> {
        self.sites.iter_mut().try_for_each(SiteLines::read_journal)
    }
}

/// Lists all logs of the runs.
fn all_logs(chosen: &ChosenRuns) -> Vec<ChosenLog> {
    let logs = chosen.runs.iter().flat_map(|(_, directory)| logs_in(directory));
    logs.collect()
}

fn logs_in(directory: &RunDirectory) -> Vec<ChosenLog> {
    let entries = fs::read_dir(directory.path()).into_iter().flatten().flatten();
    let log = |entry: fs::DirEntry| {
        let name = entry.file_name();
        Some(ChosenLog {
            name: name.to_str()?.strip_suffix(".log")?.to_owned(),
            path: entry.path(),
            site: None,
        })
    };
    let mut found: Vec<ChosenLog> = entries.filter_map(log).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn unknown_log(name: &str, known: &[ChosenLog]) -> anyhow::Error {
    let names: Vec<&str> = known.iter().map(|log| log.name.as_str()).collect();
    let meant = nearest(name, names.iter().copied())
        .map(|meant| format!("did you mean `{meant}`? "))
        .unwrap_or_default();
    CommandError::usage(format!(
        "the run has no log `{name}`\n  hint:  {meant}its logs: {}",
        names.join(", ")
    ))
}
