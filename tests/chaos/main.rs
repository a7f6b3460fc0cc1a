//! The chaos driver: kills, stops and starves the processes of orch at random moments, and checks after each round the
//! promises of orch: no process left, no stranger touched, every chunk counted, exit code and summary true, state
//! directory fit for the next start. Single faults with a known course are in the other tests.
//!
//! Variables (read in [`settings`]): `ORCH_CHAOS_SECONDS`, `ORCH_CHAOS_ROUNDS`, `ORCH_CHAOS_SEED`,
//! `ORCH_CHAOS_CAMPAIGNS`, `ORCH_CHAOS_REPORT`; of jobs `ORCH_CHAOS_CHUNKS`; of the ledger campaign `ORCH_CHAOS_ROUND`
//! (only this round) and `ORCH_CHAOS_KEEP` (a directory for the files of rounds with a violation). Without variables a
//! few rounds of the quick campaigns run, as a test of the suite.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::process::ExitCode;
use std::time::Instant;

#[path = "../support/mod.rs"]
mod support;

mod connections;
mod disk;
mod fault;
mod job;
mod judge;
mod ledger;
mod lifecycle;
mod processes;
mod proxy;
mod report;
mod scrape;
mod settings;
mod verdicts;

use report::Report;
use settings::{Campaign, Settings};

fn main() -> ExitCode {
    let settings = match Settings::from_environment() {
        Ok(settings) => settings,
        Err(problem) => {
            eprintln!("chaos: {problem}");
            return ExitCode::from(2);
        }
    };
    disk::prepare();
    println!("chaos: seed {} (ORCH_CHAOS_SEED={0} repeats this run)", settings.seed);
    let began = Instant::now();
    let mut report = Report::default();
    for campaign in &settings.campaigns {
        let limits = settings.limits(*campaign, began);
        println!("chaos: {campaign}: {limits}");
        let results = match campaign {
            Campaign::OrchKilled => lifecycle::run(lifecycle::Victim::Orch, limits),
            Campaign::GuardKilled => lifecycle::run(lifecycle::Victim::Guard, limits),
            Campaign::BothKilled => lifecycle::run(lifecycle::Victim::Both, limits),
            Campaign::RunKilled => scrape::run(limits),
            Campaign::Job => job::run(limits),
            Campaign::Ledger => verdicts::run(limits),
            Campaign::Connections => connections::run(limits),
        };
        println!("{results}");
        report.add(*campaign, results);
    }
    report.finish(&settings, began.elapsed())
}
