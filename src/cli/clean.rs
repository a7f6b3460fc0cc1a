//! `orch clean`: what dead runs have left is shown, ended, removed.

use clap::Args;

use super::output::say;
use super::{ConfigArgs, Refusal};
use crate::clean::{Cleaned, Found, clean, look};
use crate::run::Outcome;
use crate::{claim, state_directory};

/// Ends and removes what dead runs have left; their logs and the data of Redis stay
#[derive(Args, Debug)]
pub struct CleanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only show what would be ended and removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &CleanArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let state_dir = &config.orch.state_dir;
    if let Some(lost) = claim::lost_holder(&config) {
        return Err(Refusal::because(lost.outcome(), lost));
    }
    if !state_dir.exists() {
        say(&format!("nothing is left: {} does not exist", state_dir.display()));
        return Ok(Outcome::Succeeded.exit_code());
    }
    state_directory::check(state_dir, &config.file)
        .map_err(|failure| Refusal::because(failure.kind.outcome(), failure))?;
    // What lives is no leftover, and nobody may start while it is judged.
    let locks = claim::take_all(&config).map_err(|error| Refusal::because(error.outcome(), error))?;
    let unusable = |error: std::io::Error| {
        Refusal::because(
            Outcome::InfrastructureFailed,
            format!("clean {}\n  cause: {error}", state_dir.display()),
        )
    };
    let (verb, ended, alive, hidden, files) = if args.dry_run {
        let Found { processes, files } = look(state_dir).map_err(unusable)?;
        ("would ", processes.alive, Vec::new(), processes.hidden, files)
    } else {
        let Cleaned { processes, files } = clean(state_dir).map_err(unusable)?;
        ("", processes.ended, processes.alive, processes.hidden, files)
    };
    drop(locks);
    let (end, remove) = if args.dry_run {
        ("end", "remove")
    } else {
        ("ended", "removed")
    };
    for (pid, service) in &ended {
        say(&format!("{verb}{end} {service} (pid {pid})"));
    }
    for file in &files {
        say(&format!("{verb}{remove} {}", file.display()));
    }
    for (pid, service) in &alive {
        say(&format!("cannot end {service} (pid {pid})"));
    }
    let nothing = ended.is_empty() && alive.is_empty() && files.is_empty();
    match hidden {
        0 if nothing => say(&format!("nothing is left in {}", state_dir.display())),
        0 => {}
        // Nothing else tells a daemon that has become another user from the others of that user.
        _ => say(&format!(
            "{}processes of other users that started since and cannot be looked into: {hidden}; what a service has started as \
             another user is not found among them",
            if nothing { "nothing is found; " } else { "" }
        )),
    }
    let outcome = if alive.is_empty() {
        Outcome::Succeeded
    } else {
        Outcome::InfrastructureFailed
    };
    Ok(outcome.exit_code())
}
