//! `orch clean`: shows, ends and removes the leftovers of dead runs.

use clap::Args;

use super::output::print_message;
use super::{CommandError, ConfigArgs, check_state_directory};
use crate::orchestrator::instance::locks;
use crate::orchestrator::instance::stale_files::{FoundLeftovers, RemovedLeftovers, clean, find_leftovers};
use orch_guard::why_unended;
use orch_journal::RunOutcome;

/// Ends processes and removes files that dead runs have left; logs and the data of Redis stay
#[derive(Args, Debug)]
pub struct CleanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only show what would be ended and removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &CleanArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let state_dir = &config.orch.state_dir;
    if let Some(lost) = locks::lost_holder(&config) {
        return Err(CommandError::because(lost.outcome(), lost));
    }
    if !state_dir.exists() {
        print_message(&format!("nothing is left: {} does not exist", state_dir.display()));
        return Ok(RunOutcome::Succeeded.exit_code());
    }
    check_state_directory(&config)?;
    // The locks prove that no run is alive, and prevent the start of a run during the search.
    let locks = locks::take_all(&config).map_err(|error| CommandError::because(error.outcome(), error))?;
    let unusable = |error: std::io::Error| anyhow::anyhow!("could not clean {}\n  cause: {error}", state_dir.display());
    let (verb, ended, alive, hidden, files) = if args.dry_run {
        let FoundLeftovers { processes, files } = find_leftovers(state_dir).map_err(unusable)?;
        ("would ", processes.alive, Vec::new(), processes.hidden, files)
    } else {
        let RemovedLeftovers { processes, files } = clean(state_dir).map_err(unusable)?;
        ("", processes.ended, processes.alive, processes.hidden, files)
    };
    drop(locks);
    let (end, remove) = if args.dry_run {
        ("end", "remove")
    } else {
        ("ended", "removed")
    };
    for (pid, service) in &ended {
        print_message(&format!("{verb}{end} {service} (pid {pid})"));
    }
    for file in &files {
        print_message(&format!("{verb}{remove} {}", file.display()));
    }
    for (pid, service) in &alive {
        let why = why_unended(*pid);
        print_message(&format!("could not end {service} (pid {pid}), which {why}"));
    }
    let nothing = ended.is_empty() && alive.is_empty() && files.is_empty();
    match hidden {
        0 if nothing => print_message(&format!("nothing is left in {}", state_dir.display())),
        0 => {}
        // Only the environment would identify a daemon of a service that has changed to another user, and orch cannot
        // read the environment of such a process.
        _ => print_message(&format!(
            "{}{hidden} processes of other users have started since and cannot be inspected; processes that a service has \
             started as another user may be among them",
            if nothing { "nothing was found; " } else { "" }
        )),
    }
    let outcome = if alive.is_empty() {
        RunOutcome::Succeeded
    } else {
        RunOutcome::InfrastructureFailed
    };
    Ok(outcome.exit_code())
}
