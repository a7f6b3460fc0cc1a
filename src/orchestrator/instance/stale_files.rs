//! Leftovers of dead runs in a state directory: processes and files, and their removal. Logs, journals and the data of
//! an owned Redis are results, not leftovers.
//!
//! The next start also ends the processes and removes most of these files. `orch clean` uses this module for a state
//! directory without a next start, or to list the leftovers before it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use orch_base::files::atomic::writer_of;
use orch_guard::Leftovers;

/// Leftovers that would be ended and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundLeftovers {
    /// Processes that would be ended, in the list of those that are alive.
    pub processes: Leftovers,
    /// Half-written files, and files that describe a dead run.
    pub files: Vec<PathBuf>,
}

/// Processes that were ended and files that were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedLeftovers {
    pub processes: Leftovers,
    pub files: Vec<PathBuf>,
}

/// Lists the leftovers. The caller holds the locks of the instance.
///
/// # Errors
/// The state directory cannot be read.
pub fn find_leftovers(state_dir: &Path) -> io::Result<FoundLeftovers> {
    Ok(FoundLeftovers {
        processes: orch_guard::find_leftovers(state_dir)?,
        files: stale_files(state_dir)?,
    })
}

/// Ends the processes and removes the files. The caller holds the locks of the instance.
///
/// # Errors
/// The state directory cannot be read or written; the processes may already be ended by then.
pub fn clean(state_dir: &Path) -> io::Result<RemovedLeftovers> {
    let processes = orch_guard::end_leftovers(state_dir)?;
    let files = stale_files(state_dir)?;
    remove(&files)?;
    Ok(RemovedLeftovers { processes, files })
}

/// Removes the files that are certainly stale at a start. The caller holds only the lock of the services: another run
/// may be alive, and another process may be about to take another lock.
///
/// # Errors
/// The state directory cannot be read or written.
pub fn remove_stale_files(state_dir: &Path) -> io::Result<()> {
    let runs = state_dir.join("runs");
    let mut files = stale_files(state_dir)?;
    files.retain(|file| {
        let writer = file.file_name().and_then(|name| writer_of(&name.to_string_lossy()));
        !file.starts_with(&runs) && !writer.is_some_and(orch_base::system::processes::is_alive)
    });
    remove(&files)
}

fn remove(files: &[PathBuf]) -> io::Result<()> {
    for file in files {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", file.display())));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Lists the temporary files of dead writers and the description of a dead instance.
fn stale_files(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut directories = vec![state_dir.to_owned(), state_dir.join("redis")];
    directories.extend(entries(&state_dir.join("runs"))?);
    let mut found = Vec::new();
    for directory in directories.iter().filter(|directory| directory.is_dir()) {
        found.extend(entries(directory)?.into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            writer_of(&name).is_some() || path.as_path() == state_dir.join("instance.json")
        }));
    }
    found.sort();
    Ok(found)
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{}: {error}", directory.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_written_files_are_removed_and_results_stay() {
        let state = tempfile::tempdir().unwrap();
        let run = state.path().join("runs/r1");
        fs::create_dir_all(&run).unwrap();
        fs::create_dir(state.path().join("redis")).unwrap();
        let stale = [
            "instance.json",
            "instance.json.being-written-by-12",
            "redis/redis.conf.being-written-by-7",
            "runs/r1/summary.json.being-written-by-7",
        ];
        let kept = [
            "ports.json",
            "instance.json.bak",
            "redis/redis.conf",
            "runs/r1/journal.jsonl",
            "run.lock",
        ];
        for name in stale.iter().chain(&kept) {
            fs::write(state.path().join(name), "").unwrap();
        }
        let expected: Vec<PathBuf> = stale.iter().map(|name| state.path().join(name)).collect();
        assert_eq!(find_leftovers(state.path()).unwrap().files, expected);
        assert_eq!(clean(state.path()).unwrap().files, expected);
        assert_eq!(find_leftovers(state.path()).unwrap(), FoundLeftovers::default());
        assert!(kept.iter().all(|name| state.path().join(name).exists()));
    }

    #[test]
    fn a_start_removes_only_certainly_stale_files() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir_all(state.path().join("runs/r1")).unwrap();
        let dead = format!("version.being-written-by-{}", i32::MAX);
        let living = format!("version.being-written-by-{}", std::process::id());
        let of_a_run = format!("runs/r1/summary.json.being-written-by-{}", i32::MAX);
        for name in [&dead, &living, &of_a_run, "instance.json", "ports.json"] {
            fs::write(state.path().join(name), "").unwrap();
        }
        remove_stale_files(state.path()).unwrap();
        let there = |name: &str| state.path().join(name).exists();
        assert!(!there(&dead) && !there("instance.json"));
        assert!(there(&living) && there(&of_a_run) && there("ports.json"));
    }

    #[test]
    fn a_missing_state_directory_has_no_leftovers() {
        let parent = tempfile::tempdir().unwrap();
        assert_eq!(
            find_leftovers(&parent.path().join("none")).unwrap(),
            FoundLeftovers::default()
        );
    }
}
