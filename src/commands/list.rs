//! `orch list`: lists the instances of this user on this machine, by the locks that their orch and guard hold.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::output::{print, print_json, print_message};
use super::table::table;
use crate::orchestrator::instance::locks;
use crate::orchestrator::run_observer::RunObserver;
use orch_guard::LockHolder;
use orch_journal::{RunDirectory, RunId, RunOutcome, local_time};
use orch_views::ObservedRun;

/// Exit code if nothing runs.
const NOTHING_RUNS: u8 = 3;
const HEADINGS: [&str; 6] = ["INSTANCE", "COMMAND", "PID", "SINCE", "STATE", "STATE DIRECTORY"];

/// Lists the active instances of this user on this machine, wherever their state directories are
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 something runs; 3 nothing runs.")]
pub struct InstancesArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Active instance.
struct ListedInstance {
    holder: LockHolder,
    /// `None`: the state directory is gone, or the orch is an older one that does not name it.
    run: Option<ObservedRun>,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &InstancesArgs) -> anyhow::Result<u8> {
    let instances: Vec<ListedInstance> = locks::holders_of_user().into_iter().map(ListedInstance::of).collect();
    if args.json {
        let objects: Vec<Value> = instances.iter().map(ListedInstance::object).collect();
        print_json(&json!({ "instances": objects }));
    } else if instances.is_empty() {
        print_message("no instance of this user runs on this machine");
    } else {
        let rows: Vec<Vec<String>> = instances.iter().map(ListedInstance::row).collect();
        print(&table(&HEADINGS, &rows).join("\n"));
    }
    Ok(match instances.is_empty() {
        true => NOTHING_RUNS,
        false => RunOutcome::Succeeded.exit_code(),
    })
}

impl ListedInstance {
    fn of(holder: LockHolder) -> Self {
        let run = holder
            .state_dir
            .as_deref()
            .and_then(|state_dir| observe(&holder, state_dir));
        Self { holder, run }
    }

    fn instance(&self) -> Option<&str> {
        let header = self.run.as_ref()?.state.header.as_ref()?;
        Some(&header.instance)
    }

    fn state(&self) -> &'static str {
        match (&self.run, self.holder.is_alive()) {
            (Some(run), _) => run.state_words(),
            // An older orch does not name its state directory.
            (None, true) if self.holder.state_dir.is_none() => "active",
            (None, true) => "its state directory is gone or cannot be read",
            (None, false) => "orch has died, its guard ends the rest",
        }
    }

    fn row(&self) -> Vec<String> {
        let directory = self.holder.state_dir.as_ref();
        vec![
            self.instance().unwrap_or("-").to_owned(),
            format!("orch {}", self.holder.command),
            self.holder.pid.to_string(),
            local_time(self.holder.started_at),
            self.state().to_owned(),
            directory.map_or_else(|| "-".to_owned(), |directory| directory.display().to_string()),
        ]
    }

    fn object(&self) -> Value {
        let holder = &self.holder;
        json!({
            "instance": self.instance(),
            "command": holder.command,
            "run_id": holder.run_id,
            "pid": holder.pid,
            "guard_pid": holder.guard_pid,
            "started_at": holder.started_at,
            "state": self.state(),
            "life": self.run.as_ref().map(|run| run.life.word()),
            "well": self.run.as_ref().map(ObservedRun::is_well),
            "problems": self.run.as_ref().map(ObservedRun::problems),
            "state_dir": holder.state_dir,
            "config": holder.config,
        })
    }
}

/// Reads the state of the run; `None` if the state directory is not the one of the run any more.
fn observe(holder: &LockHolder, state_dir: &Path) -> Option<ObservedRun> {
    let run_id = RunId::from(holder.run_id.as_str());
    let directory = RunDirectory::of(state_dir, &run_id);
    if !directory.path().is_dir() {
        return None;
    }
    let observed = RunObserver::new(run_id, directory).look(state_dir);
    observed
        .inspect_err(|error| tracing::debug!(%error, "could not observe a run"))
        .ok()
}
