//! `orch exec -- CMD`: runs a command with the environment of the running instance and of its worker; the worker's
//! programs come first in `PATH`.

use std::env;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::Path;

use clap::Args;

use super::{CommandError, ConfigArgs, caller_environment, check_state_directory};
use crate::orchestrator::instance::locks;
use orch_config::find_celery;
use orch_supervisor::environment::merge as merge_environment;
use orch_supervisor::import_path::extend as extend_import_path;
use orch_supervisor::shared::instance_file;
use orch_supervisor::{base_environment, prefer_programs_of};

/// Runs a command with the environment of the running instance: address and password of Redis, programs and modules of
/// the worker
#[derive(Args, Debug)]
pub struct ExecArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Replaces this process by the command; returns only if that fails.
pub fn main(args: &ExecArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let state_dir = &config.orch.state_dir;
    if state_dir.exists() {
        check_state_directory(&config)?;
    }
    let running = match instance_file::read(state_dir) {
        Ok(Some(file)) if file.is_alive() => file,
        Ok(_) => {
            if let Some(lost) = locks::lost_holder(&config) {
                anyhow::bail!("{lost}");
            }
            anyhow::bail!(
                "no instance is running in {}\n  hint:  start it with `orch up` in another terminal",
                state_dir.display()
            );
        }
        Err(error) => anyhow::bail!("could not read the instance file in {}: {error}", state_dir.display()),
    };
    let base = base_environment(&config.orch.env_file_variables, &caller_environment());
    let must = running.redis.map(|redis| redis.environment()).unwrap_or_default();
    let mut environment = merge_environment(&base, &config.celery.env, &must);
    if config.celery.enabled {
        let directory = config.file.parent().unwrap_or(Path::new("/"));
        // If no celery program is found, the worker of this instance was not started by orch.
        if let Ok(celery) = find_celery(&config.celery, directory, &base) {
            prefer_programs_of(&mut environment, &celery);
        }
        // An import path that cannot be added was already reported when the worker started.
        drop(extend_import_path(&mut environment, &config.celery.directory));
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(CommandError::usage("no command is given"));
    };
    let path = environment.iter().find(|(name, _)| *name == "PATH");
    let path = path.map_or_else(String::new, |(_, value)| value.clone());
    // Exec instead of spawn: the command owns the terminal, gets all signals, and its exit code is that of this
    // process.
    let error = std::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .exec();
    let is_found = match error.kind() {
        ErrorKind::NotFound => false,
        // The error also occurs if a directory of PATH may not be searched. In that case the program was not found.
        ErrorKind::PermissionDenied if !program.contains('/') => {
            env::split_paths(&path).any(|directory| directory.join(program).symlink_metadata().is_ok())
        }
        _ => true,
    };
    if is_found {
        super::output::print_message(&format!("error: could not execute `{program}`: {error}"));
        return Ok(126);
    }
    super::output::print_message(&match program.contains('/') {
        true => format!("error: could not execute `{program}`: {error}"),
        false => format!("error: could not execute `{program}`: not found in PATH ({path})"),
    });
    Ok(127)
}
