//! The state directory before anything is done in it: made, private, ours, and of a layout that this orch knows.
//!
//! Whoever may write in it could have us end processes by forged records, or write our logs through a link to another
//! file. Not here: what stands in it.

use std::fs::{self, DirBuilder, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::atomic_file;
use crate::regular_file;
use crate::services::Failure;

/// The layout that this orch writes. A directory without the file is of the first.
const LAYOUT: u32 = 1;
const VERSION: &str = "version";
/// A version file is one number.
const LONGEST_VERSION: u64 = 64;

/// Makes the directory, or makes sure of the one that is there.
///
/// # Errors
/// It cannot be made, it or something in it is another user's, or a newer orch has written it.
pub fn prepare(state_dir: &Path) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| {
        Failure::infrastructure(format!("{what} the state directory {}", state_dir.display()))
            .caused_by(&error)
            .hint("`[orch] state_dir` names another one")
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(|error| failed("make", error))?;
    check(state_dir)?;
    let mode = fs::metadata(state_dir)
        .map_err(|error| failed("look at", error))?
        .mode();
    if mode & 0o077 != 0 {
        // Made by hand, or by a copy: what others could read or write so far they can not from now on.
        fs::set_permissions(state_dir, Permissions::from_mode(0o700)).map_err(|error| failed("make private", error))?;
        // Whatever was put into it before that moment is seen now.
        check(state_dir)?;
    }
    if written_layout(state_dir)?.is_none() {
        let path = state_dir.join(VERSION);
        atomic_file::replace(&path, format!("{LAYOUT}\n").as_bytes())
            .map_err(|error| failed("write the version of", error))?;
    }
    Ok(())
}

/// Makes sure of a directory that is there, and changes nothing.
///
/// # Errors
/// As [`prepare`].
pub fn check(state_dir: &Path) -> Result<(), Failure> {
    let me = nix::unistd::geteuid().as_raw();
    let look = |path: &Path| {
        fs::symlink_metadata(path)
            .map_err(|error| Failure::infrastructure(format!("look at {}", path.display())).caused_by(&error))
    };
    // The link too: whoever owns it can point it elsewhere at any moment.
    trust(state_dir, &look(state_dir)?, me)?;
    let directory = fs::metadata(state_dir).map_err(|error| {
        Failure::infrastructure(format!("look at the state directory {}", state_dir.display())).caused_by(&error)
    })?;
    if !directory.is_dir() {
        return Err(Failure::configuration(format!(
            "the state directory {} is not a directory",
            state_dir.display()
        )));
    }
    trust(state_dir, &directory, me)?;
    let entries = fs::read_dir(state_dir).map_err(|error| {
        Failure::infrastructure(format!("list the state directory {}", state_dir.display())).caused_by(&error)
    })?;
    for entry in entries.flatten() {
        match fs::symlink_metadata(entry.path()) {
            Ok(metadata) => trust(&entry.path(), &metadata, me)?,
            // Another orch's temporary file, renamed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let what = format!("look at {}", entry.path().display());
                return Err(Failure::infrastructure(what).caused_by(&error));
            }
        }
    }
    written_layout(state_dir).map(|_| ())
}

/// Only root and we ourselves may have made it.
fn trust(path: &Path, metadata: &Metadata, me: u32) -> Result<(), Failure> {
    let owner = metadata.uid();
    if owner == me || owner == 0 {
        return Ok(());
    }
    let kind = if metadata.is_symlink() { "link " } else { "" };
    Err(
        Failure::infrastructure(format!("the {kind}{} belongs to user {owner}", path.display()))
            .because(format!(
                "orch runs as user {me}, and would trust what another user wrote into its state directory"
            ))
            .hint(format!(
                "run orch as user {owner}, or choose another `[orch] state_dir`"
            )),
    )
}

/// The layout that the directory says it has, if it says so.
fn written_layout(state_dir: &Path) -> Result<Option<u32>, Failure> {
    let path = state_dir.join(VERSION);
    let refused = |what: String| {
        Failure::infrastructure(what)
            .hint("nothing was changed: choose another `[orch] state_dir`, or move this one away")
    };
    // A link would be another file's content.
    let open = regular_file::open_with(OpenOptions::new().read(true), nix::libc::O_NOFOLLOW, &path);
    let mut text = String::new();
    match open.and_then(|file| file.take(LONGEST_VERSION).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(format!("read {}", path.display())).caused_by(&error)),
    }
    match text.trim().parse::<u32>() {
        Ok(layout) if layout <= LAYOUT => Ok(Some(layout)),
        Ok(layout) => Err(refused(format!(
            "the state directory {} was written by a newer orch",
            state_dir.display()
        ))
        .because(format!("its layout is {layout}, this orch knows {LAYOUT} and older"))),
        Err(_) => Err(refused(format!("{} is damaged", path.display()))
            .because("it should hold one number, the layout of the state directory")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_one_is_private_and_says_its_layout() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("a/b");
        prepare(&state).unwrap();
        assert_eq!(mode(&state), 0o700);
        assert_eq!(fs::read_to_string(state.join(VERSION)).unwrap(), "1\n");
        assert_eq!(mode(&state.join(VERSION)), 0o600);
        prepare(&state).unwrap();
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn an_older_one_is_adopted_and_made_private() {
        let state = tempfile::tempdir().unwrap();
        fs::set_permissions(state.path(), Permissions::from_mode(0o775)).unwrap();
        fs::create_dir(state.path().join("runs")).unwrap();
        prepare(state.path()).unwrap();
        assert_eq!(mode(state.path()), 0o700);
        assert!(state.path().join(VERSION).exists());
    }

    #[test]
    fn a_newer_and_a_damaged_one_are_refused_and_left_as_they_are() {
        for (text, told) in [
            ("2\n", "newer orch"),
            ("", "damaged"),
            ("one", "damaged"),
            ("99999999999", "damaged"),
        ] {
            let state = tempfile::tempdir().unwrap();
            fs::write(state.path().join(VERSION), text).unwrap();
            let error = prepare(state.path()).unwrap_err().to_string();
            assert!(error.contains(told) && error.contains("nothing was changed"), "{error}");
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
    fn what_is_no_directory_is_said_to_be_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = check(file.path()).unwrap_err().to_string();
        assert!(error.contains("is not a directory"), "{error}");
    }

    #[test]
    fn what_another_user_made_is_not_trusted() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can make another user's files");
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
}
