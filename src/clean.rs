//! What dead runs of a state directory have left, processes and files, and the end of it. Logs, journals and the data of
//! an owned Redis are no leftovers: they are what runs are for.
//!
//! The next start ends processes too, and removes most of these files; this is for a state directory that has no next start,
//! or for a look before it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::writer_of;
use crate::guard::{self, Leftovers};

/// What would be ended and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Those that would be ended, as the ones that are alive.
    pub processes: Leftovers,
    /// Half-written files, and those that describe a run which is dead.
    pub files: Vec<PathBuf>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    pub processes: Leftovers,
    pub files: Vec<PathBuf>,
}

/// Looks. The caller holds the locks of the instance.
///
/// # Errors
/// The state directory cannot be read.
pub fn look(state_dir: &Path) -> io::Result<Found> {
    Ok(Found {
        processes: guard::find_leftovers(state_dir)?,
        files: stale_files(state_dir)?,
    })
}

/// Ends and removes. The caller holds the locks of the instance.
///
/// # Errors
/// The state directory cannot be read or written; what was found first is ended then.
pub fn clean(state_dir: &Path) -> io::Result<Cleaned> {
    let processes = guard::end_leftovers(state_dir)?;
    let files = stale_files(state_dir)?;
    remove(&files)?;
    Ok(Cleaned { processes, files })
}

/// Removes what a start can tell to be stale. The caller holds the lock of the services alone: a run may live beside it,
/// and somebody may be about to take another lock.
///
/// # Errors
/// The state directory cannot be read or written.
pub fn recover(state_dir: &Path) -> io::Result<()> {
    let runs = state_dir.join("runs");
    let mut files = stale_files(state_dir)?;
    files.retain(|file| {
        let writer = file.file_name().and_then(|name| writer_of(&name.to_string_lossy()));
        !file.starts_with(&runs) && !writer.is_some_and(guard::is_alive)
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

/// Temporary files of writers that are dead, and the description of an instance that is.
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
    fn half_written_files_go_and_what_a_run_is_for_stays() {
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
        assert_eq!(look(state.path()).unwrap().files, expected);
        assert_eq!(clean(state.path()).unwrap().files, expected);
        assert_eq!(look(state.path()).unwrap(), Found::default());
        assert!(kept.iter().all(|name| state.path().join(name).exists()));
    }

    #[test]
    fn a_start_removes_what_is_certainly_nobodys() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir_all(state.path().join("runs/r1")).unwrap();
        let dead = format!("version.being-written-by-{}", i32::MAX);
        let living = format!("version.being-written-by-{}", std::process::id());
        let of_a_run = format!("runs/r1/summary.json.being-written-by-{}", i32::MAX);
        for name in [&dead, &living, &of_a_run, "instance.json", "ports.json"] {
            fs::write(state.path().join(name), "").unwrap();
        }
        recover(state.path()).unwrap();
        let there = |name: &str| state.path().join(name).exists();
        assert!(!there(&dead) && !there("instance.json"));
        assert!(there(&living) && there(&of_a_run) && there("ports.json"));
    }

    #[test]
    fn a_state_directory_that_is_not_there_holds_nothing() {
        let parent = tempfile::tempdir().unwrap();
        assert_eq!(look(&parent.path().join("none")).unwrap(), Found::default());
    }
}
