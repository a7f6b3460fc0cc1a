//! From a spawn order to a running process: environment, directory, log, record; and what a refusal means.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::protocol::SpawnOrder;
use super::records::Records;
use super::sys::{NotExecuted, Prepared, Step};
use super::{RUN_ID_VARIABLE, SERVICE_VARIABLE};
use crate::regular_file;

/// Where a program is looked for if there is no PATH, as execvp(3) does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Starts what is ordered; its pid, and the pipe that tells what became of its execution. Or why it cannot be started, in
/// words for the user.
pub fn launch(order: &SpawnOrder, run_id: &str, records: &Records) -> Result<(i32, PipeReader), String> {
    let program = order.argv.first().ok_or("no program")?;
    let log = open_log(&order.log).map_err(|error| format!("open its log {}: {error}", order.log.display()))?;
    let mut environment: BTreeMap<&str, &str> = BTreeMap::new();
    environment.extend(order.environment.iter().map(|(name, value)| (&**name, &**value)));
    environment.insert(RUN_ID_VARIABLE, run_id);
    environment.insert(SERVICE_VARIABLE, &order.service);
    let path = environment.get("PATH").copied().unwrap_or(DEFAULT_PATH);
    let programs = candidates(program, path);
    Prepared::new(&programs, &order.argv, &environment, &order.directory, &order.service)
        .and_then(|prepared| prepared.start(records.descriptor(), log.as_fd()))
        .map_err(|error| explain_number(&error, program, records))
}

/// The paths at which a program may be: a name without a slash is looked up in PATH, of which an empty part is the working
/// directory.
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
    // Its services may have put something else there since: that must not hold the guard up.
    regular_file::open_own(OpenOptions::new().append(true), path)
}

/// What the kernel means by refusing to execute.
pub fn explain(refusal: &NotExecuted, order: &SpawnOrder, records: &Records) -> String {
    let directory = order.directory.display();
    let program = order.argv.first().map_or("", String::as_str);
    let error = &refusal.error;
    match (refusal.step, error.kind()) {
        (Step::Directory, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            format!("the directory {directory} does not exist")
        }
        (Step::Directory, _) => format!("the directory {directory} cannot be entered: {error}"),
        (Step::Execute, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) if program.contains('/') => {
            format!("`{program}` does not exist, or the interpreter in its first line does not")
        }
        (Step::Execute, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let path = order.environment.iter().find(|(name, _)| name == "PATH");
            format!(
                "`{program}` is not found in PATH ({})",
                path.map_or("not set", |(_, value)| value.as_str())
            )
        }
        (Step::Execute, io::ErrorKind::PermissionDenied) => format!("`{program}` may not be executed: {error}"),
        (Step::SetUp | Step::Record | Step::Execute, _) => explain_number(error, program, records),
    }
}

fn explain_number(error: &io::Error, program: &str, records: &Records) -> String {
    match error.raw_os_error() {
        Some(nix::libc::EAGAIN) => {
            format!("no further process is allowed (ulimit -u, or the container's limit): {error}")
        }
        Some(nix::libc::EMFILE | nix::libc::ENFILE) => format!("no file descriptor is left (ulimit -n): {error}"),
        Some(nix::libc::ENOMEM) => format!("no memory is left for a further process: {error}"),
        Some(nix::libc::ENOSPC | nix::libc::EDQUOT | nix::libc::EFBIG) => {
            format!("write its record to {}: {error}", records.path().display())
        }
        _ => format!("execute `{program}`: {error}"),
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
