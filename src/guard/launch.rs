//! From a spawn order to a running process: environment, directory, log, record; and what a refusal means.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::protocol::SpawnOrder;
use super::records::Records;
use super::{RUN_ID_VARIABLE, SERVICE_VARIABLE, sys};
use crate::regular_file;

/// Starts what is ordered; its pid, or why it cannot be started, in words for the user.
#[expect(clippy::disallowed_methods, reason = "this is the guard: the one that spawns")]
pub fn launch(order: &SpawnOrder, run_id: &str, records: &Records) -> Result<i32, String> {
    let (program, arguments) = order.argv.split_first().ok_or("no program")?;
    let log = open_log(&order.log).map_err(|error| format!("open its log {}: {error}", order.log.display()))?;
    let log_again = log
        .try_clone()
        .map_err(|error| format!("duplicate its log's descriptor: {error}"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(order.environment.iter().map(|(name, value)| (name, value)))
        .env(RUN_ID_VARIABLE, run_id)
        .env(SERVICE_VARIABLE, &order.service)
        .current_dir(&order.directory)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_again);
    let guard = std::process::id().cast_signed();
    sys::as_service(&mut command, guard, records.descriptor(), &order.service);
    match command.spawn() {
        Ok(child) => Ok(child.id().cast_signed()),
        Err(error) => Err(explain(&error, program, order, records)),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    // Its services may have put something else there since: that must not hold the guard up.
    regular_file::open_own(OpenOptions::new().append(true), path)
}

/// What the kernel means by refusing to execute.
fn explain(error: &io::Error, program: &str, order: &SpawnOrder, records: &Records) -> String {
    let directory = order.directory.display();
    match error.kind() {
        io::ErrorKind::NotFound if !order.directory.is_dir() => format!("the directory {directory} does not exist"),
        io::ErrorKind::NotFound if program.contains('/') => {
            format!("`{program}` does not exist, or the interpreter in its first line does not")
        }
        io::ErrorKind::NotFound => {
            let path = order.environment.iter().find(|(name, _)| name == "PATH");
            format!(
                "`{program}` is not found in PATH ({})",
                path.map_or("not set", |(_, value)| value.as_str())
            )
        }
        io::ErrorKind::PermissionDenied => format!("`{program}` may not be executed: {error}"),
        _ => match error.raw_os_error() {
            Some(nix::libc::EAGAIN) => {
                format!("no further process is allowed (ulimit -u, or the container's limit): {error}")
            }
            Some(nix::libc::EMFILE | nix::libc::ENFILE) => format!("no file descriptor is left (ulimit -n): {error}"),
            Some(nix::libc::ENOMEM) => format!("no memory is left for a further process: {error}"),
            Some(nix::libc::ENOSPC | nix::libc::EDQUOT | nix::libc::EFBIG) => {
                format!("write its record to {}: {error}", records.path().display())
            }
            _ => format!("execute `{program}`: {error}"),
        },
    }
}
