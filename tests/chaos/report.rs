//! Results of the rounds: printed, and written to a file of the documentation if a variable names it.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::settings::{Campaign, Settings};

/// Results of one campaign.
#[derive(Debug, Default)]
pub struct Results {
    pub rounds: u32,
    /// Number of times that each fault was done; for kills, by the part of the life.
    pub faults: BTreeMap<String, u32>,
    /// Further figures, by name.
    pub figures: BTreeMap<String, String>,
    /// Faults that could not be done here, with the reason and their number.
    pub skipped: BTreeMap<String, u32>,
    /// Broken promises, each with the round that shows it.
    pub violations: Vec<String>,
}

impl Results {
    pub fn count(&mut self, fault: impl Into<String>) {
        *self.faults.entry(fault.into()).or_default() += 1;
    }
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "    {} rounds", self.rounds)?;
        for (fault, times) in &self.faults {
            write!(out, "\n    {times:>6}  {fault}")?;
        }
        for (name, figure) in &self.figures {
            write!(out, "\n            {name}: {figure}")?;
        }
        for (what, times) in &self.skipped {
            write!(out, "\n    skipped {times} times: {what}")?;
        }
        for violation in &self.violations {
            write!(out, "\n    VIOLATION: {violation}")?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
pub struct Report(Vec<(Campaign, Results)>);

impl Report {
    pub fn add(&mut self, campaign: Campaign, results: Results) {
        self.0.push((campaign, results));
    }

    pub fn finish(self, settings: &Settings, took: Duration) -> ExitCode {
        let violations: usize = self.0.iter().map(|(_, results)| results.violations.len()).sum();
        let rounds: u32 = self.0.iter().map(|(_, results)| results.rounds).sum();
        println!(
            "chaos: {rounds} rounds in {} s, seed {}: {violations} violations",
            took.as_secs(),
            settings.seed
        );
        if let Some(file) = &settings.report {
            let before = fs::read_to_string(file).unwrap_or_default();
            if let Err(error) = fs::write(file, self.page(&before, settings, took)) {
                eprintln!("chaos: {}: {error}", file.display());
                return ExitCode::from(2);
            }
        }
        ExitCode::from(u8::from(violations > 0))
    }

    /// Returns the page with the sections of these campaigns; sections of other campaigns in `before` are kept.
    fn page(&self, before: &str, settings: &Settings, took: Duration) -> String {
        let mut sections: BTreeMap<Campaign, String> = BTreeMap::new();
        for section in before.split("\n## ").skip(1) {
            let name = section.lines().next().unwrap_or_default();
            if let Ok(campaign) = name.parse() {
                sections.insert(campaign, section.trim_end().to_owned());
            }
        }
        for (campaign, results) in &self.0 {
            sections.insert(*campaign, section(*campaign, results, settings, took));
        }
        let mut page = String::from("# Reliability\n\nWritten by the chaos driver (`tests/chaos`), by nothing else.\n");
        for section in sections.values() {
            let _ = writeln!(page, "\n## {section}");
        }
        page
    }
}

fn section(campaign: Campaign, results: &Results, settings: &Settings, took: Duration) -> String {
    let asked = ["ORCH_CHAOS_SECONDS", "ORCH_CHAOS_ROUNDS", "ORCH_CHAOS_CHUNKS"]
        .into_iter()
        .filter_map(|name| Some(format!("{name}={} ", std::env::var(name).ok()?)))
        .collect::<String>();
    let release = if cfg!(debug_assertions) { "" } else { "--release " };
    let mut text = format!(
        "{campaign}\n\n{}\n\n```sh\n{asked}ORCH_CHAOS_CAMPAIGNS={campaign} ORCH_CHAOS_SEED={} \\\n    \
         ORCH_CHAOS_REPORT=docs/reliability.md cargo test {release}--test chaos\n```\n\n",
        meaning(campaign),
        settings.seed
    );
    let facts = [
        ("commit", said("git", &["rev-parse", "--short=12", "HEAD"])),
        ("system", said("uname", &["-srm"])),
        (
            "processors",
            std::thread::available_parallelism().map_or(0, usize::from).to_string(),
        ),
        ("duration of all campaigns of that run", format!("{} s", took.as_secs())),
        ("Celery", celery()),
    ];
    for (name, value) in facts {
        let _ = writeln!(text, "- {name}: {value}");
    }
    let _ = writeln!(text, "\n| | |\n|---|---:|\n| rounds | {} |", results.rounds);
    for (fault, times) in &results.faults {
        let _ = writeln!(text, "| {} | {times} |", fault.replace('|', "\\|"));
    }
    for (name, figure) in &results.figures {
        let _ = writeln!(text, "| {name} | {figure} |");
    }
    for (what, times) in &results.skipped {
        let _ = writeln!(text, "| skipped: {what} | {times} |");
    }
    let _ = write!(text, "| **violations** | **{}** |", results.violations.len());
    for violation in &results.violations {
        let _ = write!(text, "\n\n- {violation}");
    }
    text
}

fn meaning(campaign: Campaign) -> &'static str {
    match campaign {
        Campaign::OrchKilled => {
            "`orch up` with four command services (daemonised grandchildren, one without any variable; a tree that \
             ignores SIGTERM; a service that forks while it is stopped) is sent SIGKILL at a moment uniform over its \
             life. A violation is any process left 1 s after the stop bound, a stranger touched, or a state directory \
             that the next round cannot use."
        }
        Campaign::GuardKilled => {
            "The same, and the guard is sent SIGKILL. Besides, orch must end by itself with exit code 3."
        }
        Campaign::BothKilled => {
            "The same, and both are stopped and sent SIGKILL at once: the main processes must die by themselves, and \
             the next `orch up` of the state directory must end what had daemonised."
        }
        Campaign::RunKilled => {
            "`orch run` with its own Redis, a Celery worker and a job is sent SIGKILL at a moment uniform over its life."
        }
        Campaign::Job => {
            "One job, a chord of many short chunks on a real Celery worker, with a random fault every few seconds. \
             A violation is a chunk that was not done, or not counted exactly once, or an exit code or summary that \
             does not say so, or any process left."
        }
        Campaign::Ledger => {
            "`orch run` of five sites, each one chord of many chunks whose tasks append what they do to a ledger, with up to \
             four kills or Ctrl+C at random moments; a run that ends by them is resumed. Own Redis and worker, those of \
             others, those of `orch up`; early and late acknowledgement; with and without retries. The verdict on every \
             attempt is compared with its ledger. A violation is a COMPLETE whose callback has not received each chunk \
             exactly once and ended well, a FAILED whose callback has, a wrong count or exit code, or any process left."
        }
        Campaign::Connections => {
            "`orch run` with many small jobs on one Celery worker, each a chord of 14 chunks; all connections to Redis are \
             cut (`CLIENT KILL`) some four times while a job runs; own and external Redis, early and late acknowledgement, \
             the pools prefork, threads and solo. A round is a job. A violation is a job that hangs until its timeout, \
             comes to its end more than 30 s after the last chunk, callback or cut, or has an end that is not true by what \
             its tasks wrote down."
        }
    }
}

fn celery() -> String {
    let python = crate::support::bookshop::environment().join(".venv/bin/python");
    said(
        python.to_str().unwrap_or_default(),
        &["-c", "import celery; print(celery.__version__)"],
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
