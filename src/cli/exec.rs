//! `orch exec -- CMD`: a command with the environment of the instance that is up, and of its worker: its programs come first.

use std::env;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::Path;

use clap::Args;

use super::{ConfigArgs, Refusal, caller_environment};
use crate::config::find_celery;
use crate::run::Outcome;
use crate::services::{base_environment, extend_import_path, merge_environment, prefer_programs_of};
use crate::{claim, instance, state_directory};

/// Runs a command with the environment of the running instance: Redis' address and password, and the programs and modules of its
/// worker
#[derive(Args, Debug)]
pub struct ExecArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Becomes the command; returns only when that fails.
pub fn main(args: &ExecArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let state_dir = &config.orch.state_dir;
    if state_dir.exists() {
        state_directory::check(state_dir, &config.file)
            .map_err(|failure| Refusal::because(failure.kind.outcome(), failure))?;
    }
    let running = match instance::read(state_dir) {
        Ok(Some(file)) if file.is_alive() => file,
        Ok(_) => {
            if let Some(lost) = claim::lost_holder(&config) {
                return Err(Refusal::because(Outcome::InfrastructureFailed, lost));
            }
            let text = format!(
                "no instance is up in {}\n  hint:  start it with `orch up`, in another terminal",
                state_dir.display()
            );
            return Err(Refusal::because(Outcome::InfrastructureFailed, text));
        }
        Err(error) => {
            let text = format!("read the instance's file in {}: {error}", state_dir.display());
            return Err(Refusal::because(Outcome::InfrastructureFailed, text));
        }
    };
    let base = base_environment(&config.orch.env_file_variables, &caller_environment());
    let must = running.redis.map(|redis| redis.environment()).unwrap_or_default();
    let mut environment = merge_environment(&base, &config.celery.env, &must);
    if config.celery.enabled {
        let directory = config.file.parent().unwrap_or(Path::new("/"));
        // Without one the worker of this instance is another's.
        if let Ok(celery) = find_celery(&config.celery, directory, &base) {
            prefer_programs_of(&mut environment, &celery);
        }
        // The start of the worker has already reported a path that cannot be added.
        drop(extend_import_path(&mut environment, &config.celery.directory));
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Refusal::because(Outcome::ConfigurationError, "no command"));
    };
    let path = environment.iter().find(|(name, _)| *name == "PATH");
    let path = path.map_or_else(String::new, |(_, value)| value.clone());
    // Replaces this process: terminal, signals and exit code are the command's own.
    let error = std::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .exec();
    let is_found = match error.kind() {
        ErrorKind::NotFound => false,
        // Of directories that may not be searched, too: then nobody has seen it there.
        ErrorKind::PermissionDenied if !program.contains('/') => {
            env::split_paths(&path).any(|directory| directory.join(program).symlink_metadata().is_ok())
        }
        _ => true,
    };
    if is_found {
        super::output::say(&format!("error: execute `{program}`: {error}"));
        return Ok(126);
    }
    super::output::say(&match program.contains('/') {
        true => format!("error: execute `{program}`: {error}"),
        false => format!("error: execute `{program}`: it is not found in PATH ({path})"),
    });
    Ok(127)
}
