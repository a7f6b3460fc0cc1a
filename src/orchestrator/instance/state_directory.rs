//! Preparation and check of the state directory: the directory exists, is private, belongs to the user of orch, and has
//! a layout that this orch knows.
//!
//! A user with write permission could forge records and thereby make orch end processes, or could make orch write
//! its logs through a link to another file.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::safe_path;
use orch_base::files::atomic;
use orch_base::files::regular;
use orch_journal::failure::ServiceFailure;

/// Layout that this orch writes. A directory without the version file has the first layout.
const LAYOUT: u32 = 1;
/// Name of the directory by the default of `[orch] state_dir`.
const OWN_NAME: &str = ".orch";
const GITIGNORE: &str = ".gitignore";
const VERSION: &str = "version";
/// Size limit of the version file, which contains one number, in bytes.
const LONGEST_VERSION: u64 = 64;
/// Depth of the deepest directory that is created in the state directory: `redis/data/appendonlydir`.
const DEEPEST: u32 = 3;

/// Creates the directory, or checks an existing one. `configuration` is the file that names the directory.
///
/// # Errors
/// The directory cannot be created, other users may replace it, it or an entry belongs to another user, or a newer orch
/// has written it.
pub fn prepare(state_dir: &Path, configuration: &Path) -> Result<(), ServiceFailure> {
    let failed = |action: &str, error: io::Error| {
        ServiceFailure::infrastructure(format!(
            "could not {action} the state directory {}",
            state_dir.display()
        ))
        .with_source(&error)
        .hint("set `[orch] state_dir` to another directory")
    };
    for path in [state_dir, configuration] {
        if path.to_str().is_none() {
            return Err(
                ServiceFailure::configuration(format!("the path {} is not valid UTF-8", path.display()))
                    .with_cause("journals, locks and the guard's orders are texts and cannot contain such a path")
                    .hint("rename the directory"),
            );
        }
    }
    // Comes first, so that orch creates nothing in a directory where other users may write.
    safe_path::check(state_dir, configuration)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(|error| failed("create", error))?;
    check(state_dir, configuration)?;
    // A directory that was created by hand or copied may be open to other users; the call makes the directory private.
    if close_to_others(state_dir).map_err(|error| failed("make private", error))? {
        // The second check finds files that other users put into the directory before that moment.
        check(state_dir, configuration)?;
    }
    keep_out_of_git(state_dir).map_err(|error| failed("write `.gitignore` into", error))?;
    if written_layout(state_dir)?.is_none() {
        let path = state_dir.join(VERSION);
        // A crash of the machine may lose the file, which is harmless: a directory without the file has the first
        // layout.
        atomic::replace_with_late_rename(&path, format!("{LAYOUT}\n").as_bytes())
            .map_err(|error| failed("write the version of", error))?;
    }
    Ok(())
}

/// Excludes the directory from a surrounding Git repository: otherwise `git add` would add journals, logs and the
/// password of Redis. Does so only in a new directory or one with orch's default name, because another one may contain
/// other files.
fn keep_out_of_git(state_dir: &Path) -> io::Result<()> {
    let path = state_dir.join(GITIGNORE);
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    if state_dir.file_name() != Some(OsStr::new(OWN_NAME)) {
        for entry in fs::read_dir(state_dir)? {
            // An interrupted start may have left a temporary `.gitignore` file.
            if !entry?.file_name().as_encoded_bytes().starts_with(GITIGNORE.as_bytes()) {
                return Ok(());
            }
        }
    }
    atomic::replace_unsynced(&path, b"*\n")
}

/// Checks an existing directory and changes nothing.
///
/// # Errors
/// The errors of [`prepare`].
pub fn check(state_dir: &Path, configuration: &Path) -> Result<(), ServiceFailure> {
    safe_path::check(state_dir, configuration)?;
    let me = nix::unistd::geteuid().as_raw();
    // If the path is a symbolic link, the link is checked too: its owner can change its target at any moment.
    check_owner(state_dir, &metadata_of(state_dir)?, me)?;
    let directory = fs::metadata(state_dir).map_err(|error| {
        ServiceFailure::infrastructure(format!("could not inspect the state directory {}", state_dir.display()))
            .with_source(&error)
    })?;
    if !directory.is_dir() {
        return Err(ServiceFailure::configuration(format!(
            "the state directory {} is not a directory",
            state_dir.display()
        )));
    }
    check_owner(state_dir, &directory, me)?;
    check_entries(state_dir, me, DEEPEST)?;
    written_layout(state_dir).map(|_| ())
}

fn metadata_of(path: &Path) -> Result<Metadata, ServiceFailure> {
    fs::symlink_metadata(path).map_err(|error| {
        ServiceFailure::infrastructure(format!("could not inspect {}", path.display())).with_source(&error)
    })
}

/// Checks that all entries below the directory belong to the user of orch or to root.
fn check_entries(directory: &Path, me: u32, depth: u32) -> Result<(), ServiceFailure> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // The directory of an old run may have been removed in the meantime.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let what = format!("could not list {}", directory.display());
            return Err(ServiceFailure::infrastructure(what).with_source(&error));
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) => {
                check_owner(&path, &metadata, me)?;
                if metadata.is_dir() && depth > 0 {
                    check_entries(&path, me, depth - 1)?;
                }
            }
            // A temporary file of another orch may have been renamed in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let what = format!("could not inspect {}", path.display());
                return Err(ServiceFailure::infrastructure(what).with_source(&error));
            }
        }
    }
    Ok(())
}

/// Removes all permissions of other users on the directory, and their write permission on the directories directly in
/// it. Returns whether a permission was removed.
fn close_to_others(state_dir: &Path) -> io::Result<bool> {
    let mut changed = false;
    let mut close = |path: &Path, metadata: &Metadata, bits: u32| -> io::Result<()> {
        if metadata.mode() & bits != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
            changed = true;
        }
        Ok(())
    };
    close(state_dir, &fs::metadata(state_dir)?, 0o077)?;
    for entry in fs::read_dir(state_dir)?.flatten() {
        if let Ok(metadata) = fs::symlink_metadata(entry.path())
            && metadata.is_dir()
        {
            close(&entry.path(), &metadata, 0o022)?;
        }
    }
    Ok(changed)
}

/// Checks that a path belongs to the user of orch or to root.
fn check_owner(path: &Path, metadata: &Metadata, me: u32) -> Result<(), ServiceFailure> {
    let owner = metadata.uid();
    if owner == me || owner == 0 {
        return Ok(());
    }
    let kind = if metadata.is_symlink() { "link " } else { "" };
    Err(
        ServiceFailure::infrastructure(format!("the {kind}{} belongs to user {owner}", path.display()))
            .with_cause(format!(
                "orch runs as user {me}, and would trust files that another user wrote into its state directory"
            ))
            .hint(format!(
                "run orch as user {owner}, or choose another `[orch] state_dir`"
            )),
    )
}

/// Reads the layout from the version file, if the file exists.
fn written_layout(state_dir: &Path) -> Result<Option<u32>, ServiceFailure> {
    let path = state_dir.join(VERSION);
    let refused = |what: String| {
        ServiceFailure::infrastructure(what)
            .hint("nothing was changed: choose another `[orch] state_dir`, or move this directory away")
    };
    // Does not follow a link, which could lead to the content of another file.
    let open = regular::open_with(OpenOptions::new().read(true), nix::libc::O_NOFOLLOW, &path);
    let mut text = String::new();
    match open.and_then(|file| file.take(LONGEST_VERSION).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(format!("could not read {}", path.display())).with_source(&error)),
    }
    match text.trim().parse::<u32>() {
        Ok(layout) if layout <= LAYOUT => Ok(Some(layout)),
        Ok(layout) => Err(refused(format!(
            "the state directory {} was written by a newer orch",
            state_dir.display()
        ))
        .with_cause(format!("its layout is {layout}, this orch knows {LAYOUT} and older"))),
        Err(_) => Err(refused(format!("{} is damaged", path.display()))
            .with_cause("it should hold one number, the layout of the state directory")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::lchown;

    use super::*;

    /// Configuration file that only this user may write.
    const CONFIGURATION: &str = "/proc/self/cmdline";

    fn prepare(state_dir: &Path) -> Result<(), ServiceFailure> {
        super::prepare(state_dir, Path::new(CONFIGURATION))
    }

    fn check(state_dir: &Path) -> Result<(), ServiceFailure> {
        super::check(state_dir, Path::new(CONFIGURATION))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_directory_is_private_and_has_a_version_file() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("a/b");
        prepare(&state).unwrap();
        assert_eq!(mode(&state), 0o700);
        assert_eq!(fs::read_to_string(state.join(VERSION)).unwrap(), "1\n");
        assert_eq!(mode(&state.join(VERSION)), 0o600);
        prepare(&state).unwrap();
        assert_eq!(fs::read_to_string(state.join(".gitignore")).unwrap(), "*\n");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_directory_with_the_default_name_is_excluded_from_git_at_any_age() {
        let parent = tempfile::tempdir().unwrap();
        let (state, ignored) = (parent.path().join(".orch"), parent.path().join(".orch/.gitignore"));
        // `orch demo` creates the directory with other entries in it, and earlier versions wrote no `.gitignore`.
        fs::create_dir_all(state.join("prepare")).unwrap();
        for text in ["*\n", "mine"] {
            prepare(&state).unwrap();
            assert_eq!(fs::read_to_string(&ignored).unwrap(), text);
            fs::write(&ignored, "mine").unwrap();
        }
        fs::remove_file(&ignored).unwrap();
        prepare(&state).unwrap();
        assert_eq!(fs::read_to_string(&ignored).unwrap(), "*\n");
    }

    #[test]
    fn an_older_directory_is_adopted_and_made_private() {
        let state = tempfile::tempdir().unwrap();
        fs::set_permissions(state.path(), Permissions::from_mode(0o775)).unwrap();
        fs::create_dir(state.path().join("runs")).unwrap();
        prepare(state.path()).unwrap();
        assert_eq!(mode(state.path()), 0o700);
        assert!(state.path().join(VERSION).exists());
        assert!(
            !state.path().join(".gitignore").exists(),
            "it may be a user's directory"
        );
    }

    #[test]
    fn newer_and_damaged_directories_are_refused_and_not_changed() {
        for (text, expected) in [
            ("2\n", "newer orch"),
            ("", "damaged"),
            ("one", "damaged"),
            ("99999999999", "damaged"),
        ] {
            let state = tempfile::tempdir().unwrap();
            fs::write(state.path().join(VERSION), text).unwrap();
            let error = prepare(state.path()).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("nothing was changed"),
                "{error}"
            );
            assert_eq!(fs::read_to_string(state.path().join(VERSION)).unwrap(), text);
        }
    }

    #[test]
    fn a_version_that_is_a_link_is_not_followed() {
        let state = tempfile::tempdir().unwrap();
        let target = state.path().join("elsewhere");
        fs::write(&target, "1").unwrap();
        std::os::unix::fs::symlink(&target, state.path().join(VERSION)).unwrap();
        assert!(prepare(state.path()).is_err());
    }

    #[test]
    fn a_file_is_not_a_state_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = check(file.path()).unwrap_err().to_string();
        assert!(error.contains("is not a directory"), "{error}");
    }

    #[test]
    fn entries_of_another_user_are_not_trusted() {
        if !nix::unistd::geteuid().is_root() {
            crate::skip::skip("only root can make another user's files");
            return;
        }
        let another = Some(nix::unistd::Uid::from_raw(65_534));
        for name in ["", "runs"] {
            let state = tempfile::tempdir().unwrap();
            prepare(state.path()).unwrap();
            fs::create_dir(state.path().join("runs")).unwrap();
            nix::unistd::chown(&state.path().join(name), another, None).unwrap();
            let error = prepare(state.path()).unwrap_err().to_string();
            assert!(error.contains("belongs to user 65534"), "{error}");
        }
    }

    #[test]
    fn a_foreign_file_deep_in_the_directory_is_found() {
        if !nix::unistd::geteuid().is_root() {
            crate::skip::skip("only root can make another user's files");
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let records = state.path().join("pids");
        fs::create_dir_all(&records).unwrap();
        fs::set_permissions(&records, Permissions::from_mode(0o777)).unwrap();
        prepare(state.path()).unwrap();
        assert_eq!(mode(&records), 0o700);
        fs::write(records.join("forged"), "").unwrap();
        lchown(records.join("forged"), Some(4_001), None).unwrap();
        let error = prepare(state.path()).unwrap_err().to_string();
        assert!(error.contains("pids/forged belongs to user 4001"), "{error}");
    }
}
