//! Spawns: environment, directory, log and record of a process, and the explanation of a failed start.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::protocol::{RUN_ID_VARIABLE, SERVICE_VARIABLE, SpawnOrder};
use crate::records::RunRecords;
use orch_base::files::regular;
use orch_linux::prepared_process::{NotExecuted, PreparedProcess, StartStep};

/// Search path for the program if PATH is not set, as in execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Starts the ordered process. Returns the pid and the pipe that reports the result of the exec, or a text for the user
/// that explains why the process cannot be started.
pub fn launch(order: &SpawnOrder, run_id: &str, records: &RunRecords) -> Result<(i32, PipeReader), String> {
    let program = order.argv.first().ok_or("no program")?;
    let log =
        open_log(&order.log).map_err(|error| format!("could not open its log {}: {error}", order.log.display()))?;
    let mut environment: BTreeMap<&str, &str> = BTreeMap::new();
    environment.extend(order.environment.iter().map(|(name, value)| (&**name, &**value)));
    environment.insert(RUN_ID_VARIABLE, run_id);
    environment.insert(SERVICE_VARIABLE, &order.service);
    let path = environment.get("PATH").copied().unwrap_or(DEFAULT_PATH);
    let programs = candidates(program, path);
    PreparedProcess::new(&programs, &order.argv, &environment, &order.directory, &order.service)
        .and_then(|prepared| prepared.start(records.descriptor(), log.as_fd()))
        .map_err(|error| explain_number(&error, program, records))
}

/// Lists the paths at which a program may be. A name without a slash is looked up in PATH; an empty part of PATH means
/// the working directory.
fn candidates(program: &str, path: &str) -> Vec<PathBuf> {
    if program.contains('/') || program.is_empty() {
        return vec![program.into()];
    }
    let directories = path.split(':').map(|part| if part.is_empty() { "." } else { part });
    directories
        .map(|directory| Path::new(directory).join(program))
        .collect()
}

fn open_log(path: &Path) -> io::Result<File> {
    // A service may have replaced the file by something that blocks an open; the guard must not block.
    regular::open_own(OpenOptions::new().append(true), path)
}

/// Explains in words why the kernel refused a start.
pub fn explain(refusal: &NotExecuted, order: &SpawnOrder, records: &RunRecords) -> String {
    let directory = order.directory.display();
    let program = order.argv.first().map_or("", String::as_str);
    let error = &refusal.error;
    match (refusal.step, error.kind()) {
        (StartStep::Directory, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            format!("the directory {directory} does not exist")
        }
        (StartStep::Directory, _) => format!("the directory {directory} cannot be entered: {error}"),
        (StartStep::Execute, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) if program.contains('/') => {
            format!("`{program}` does not exist, or the interpreter in its first line does not")
        }
        (StartStep::Execute, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let path = order.environment.iter().find(|(name, _)| name == "PATH");
            format!(
                "`{program}` is not found in PATH ({})",
                path.map_or("not set", |(_, value)| value.as_str())
            )
        }
        (StartStep::Execute, io::ErrorKind::PermissionDenied) => format!("`{program}` may not be executed: {error}"),
        (StartStep::SetUp | StartStep::Record | StartStep::Execute, _) => explain_number(error, program, records),
    }
}

fn explain_number(error: &io::Error, program: &str, records: &RunRecords) -> String {
    match error.raw_os_error() {
        Some(nix::libc::EAGAIN) => {
            format!("no further process is allowed (ulimit -u, or the container's limit): {error}")
        }
        Some(nix::libc::EMFILE | nix::libc::ENFILE) => format!("no file descriptor is left (ulimit -n): {error}"),
        Some(nix::libc::ENOMEM) => format!("no memory is left for a further process: {error}"),
        Some(nix::libc::ENOSPC | nix::libc::EDQUOT | nix::libc::EFBIG) => {
            format!("could not write its record to {}: {error}", records.path().display())
        }
        _ => format!("could not execute `{program}`: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_a_path_is_not() {
        for (program, path, expected) in [
            ("web", "/bin:/usr/bin", vec!["/bin/web", "/usr/bin/web"]),
            ("web", ":/bin", vec!["./web", "/bin/web"]),
            ("web", "", vec!["./web"]),
            ("./web", "/bin", vec!["./web"]),
            ("", "/bin", vec![""]),
        ] {
            let found: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(candidates(program, path), found, "{program} {path}");
        }
    }
}
