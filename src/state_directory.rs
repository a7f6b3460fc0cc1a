//! The state directory before anything is done in it: made, private, ours, and of a layout that this orch knows.
//!
//! Whoever may write in it could have us end processes by forged records, or write our logs through a link to another
//! file. Not here: what stands in it.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

use crate::atomic_file;
use crate::regular_file;
use crate::services::Failure;

/// The layout that this orch writes. A directory without the file is of the first.
const LAYOUT: u32 = 1;
/// As `[orch] state_dir` is by default.
const OWN_NAME: &str = ".orch";
const GITIGNORE: &str = ".gitignore";
const VERSION: &str = "version";
/// A version file is one number.
const LONGEST_VERSION: u64 = 64;
/// As the kernel follows them.
const MOST_LINKS: u32 = 40;
/// `redis/data/appendonlydir` is the deepest that is made in it.
const DEEPEST: u32 = 3;

/// Makes the directory, or makes sure of the one that is there. `configuration` is the file that names it.
///
/// # Errors
/// It cannot be made, others may put another one in its place, it or something in it is another user's, or a newer orch
/// has written it.
pub fn prepare(state_dir: &Path, configuration: &Path) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| {
        Failure::infrastructure(format!("could not {what} the state directory {}", state_dir.display()))
            .caused_by(&error)
            .hint("`[orch] state_dir` names another one")
    };
    // Before anything is made where others may write.
    check_path(state_dir, configuration)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(|error| failed("create", error))?;
    check(state_dir, configuration)?;
    // Made by hand, or by a copy: what others could read or write so far they can not from now on.
    if close_to_others(state_dir).map_err(|error| failed("make private", error))? {
        // Whatever was put into it before that moment is seen now.
        check(state_dir, configuration)?;
    }
    keep_out_of_git(state_dir).map_err(|error| failed("write `.gitignore` into", error))?;
    if written_layout(state_dir)?.is_none() {
        let path = state_dir.join(VERSION);
        // A directory without the file, which a crash of the machine may leave, is of the first layout too.
        atomic_file::replace_with_late_rename(&path, format!("{LAYOUT}\n").as_bytes())
            .map_err(|error| failed("write the version of", error))?;
    }
    Ok(())
}

/// Keeps what stands in it out of a repository around it, whose `git add` would take journals, logs and Redis' password. Only a
/// directory that is new, or has the name that is orch's own: another may hold more than orch's files.
fn keep_out_of_git(state_dir: &Path) -> io::Result<()> {
    let path = state_dir.join(GITIGNORE);
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    if state_dir.file_name() != Some(OsStr::new(OWN_NAME)) {
        for entry in fs::read_dir(state_dir)? {
            // What a start that was cut short has left of it.
            if !entry?.file_name().as_encoded_bytes().starts_with(GITIGNORE.as_bytes()) {
                return Ok(());
            }
        }
    }
    atomic_file::replace_unsynced(&path, b"*\n")
}

/// Makes sure of a directory that is there, and changes nothing.
///
/// # Errors
/// As [`prepare`].
pub fn check(state_dir: &Path, configuration: &Path) -> Result<(), Failure> {
    check_path(state_dir, configuration)?;
    let me = nix::unistd::geteuid().as_raw();
    // The link too: whoever owns it can point it elsewhere at any moment.
    trust(state_dir, &look_at(state_dir)?, me)?;
    let directory = fs::metadata(state_dir).map_err(|error| {
        Failure::infrastructure(format!("could not look at the state directory {}", state_dir.display()))
            .caused_by(&error)
    })?;
    if !directory.is_dir() {
        return Err(Failure::configuration(format!(
            "the state directory {} is not a directory",
            state_dir.display()
        )));
    }
    trust(state_dir, &directory, me)?;
    trust_entries(state_dir, me, DEEPEST)?;
    written_layout(state_dir).map(|_| ())
}

fn look_at(path: &Path) -> Result<Metadata, Failure> {
    fs::symlink_metadata(path)
        .map_err(|error| Failure::infrastructure(format!("could not look at {}", path.display())).caused_by(&error))
}

/// All that is below it must be ours or root's.
fn trust_entries(directory: &Path, me: u32, depth: u32) -> Result<(), Failure> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // An old run's, removed since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let what = format!("could not list {}", directory.display());
            return Err(Failure::infrastructure(what).caused_by(&error));
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) => {
                trust(&path, &metadata, me)?;
                if metadata.is_dir() && depth > 0 {
                    trust_entries(&path, me, depth - 1)?;
                }
            }
            // Another orch's temporary file, renamed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let what = format!("could not look at {}", path.display());
                return Err(Failure::infrastructure(what).caused_by(&error));
            }
        }
    }
    Ok(())
}

/// Takes from others what they may do in the directory, and that they may write in those directly in it. Returns whether
/// there was anything to take.
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

/// Who may write where the state directory is: root, we ourselves, and who may write the configuration, which decides
/// what orch executes.
struct Writers {
    users: Vec<u32>,
    groups: Vec<u32>,
    /// The group that this user has alone; looked up where it matters.
    private: OnceCell<Option<u32>>,
}

impl Writers {
    fn of(configuration: &Path) -> Self {
        let me = nix::unistd::geteuid();
        let mut writers = Self {
            users: vec![0, me.as_raw()],
            groups: vec![0],
            private: OnceCell::new(),
        };
        for path in [Some(configuration), configuration.parent()].into_iter().flatten() {
            let Ok(metadata) = fs::metadata(path) else { continue };
            writers.users.push(metadata.uid());
            if metadata.mode() & 0o020 != 0 {
                writers.groups.push(metadata.gid());
            }
        }
        writers
    }

    /// Why others could put something else in the place of what is in the directory.
    fn others_in(&self, directory: &Metadata) -> Option<String> {
        let mode = directory.mode();
        if !self.users.contains(&directory.uid()) {
            return Some(format!("it belongs to user {}", directory.uid()));
        }
        // In a sticky directory a user removes and renames only what is his own.
        if mode & 0o1000 != 0 {
            return None;
        }
        if mode & 0o002 != 0 {
            return Some("every user may write in it".to_owned());
        }
        if mode & 0o020 != 0 && !self.is_trusted_group(directory.gid()) {
            let gid = Gid::from_raw(directory.gid());
            let group = Group::from_gid(gid).ok().flatten();
            let name = group.map_or_else(|| gid.to_string(), |group| group.name);
            return Some(format!("the group {name} may write in it"));
        }
        None
    }

    fn is_trusted_group(&self, group: u32) -> bool {
        let private = || private_group(nix::unistd::geteuid()).map(Gid::as_raw);
        self.groups.contains(&group) || *self.private.get_or_init(private) == Some(group)
    }
}

/// The group of this name that a user has alone, as most distributions make it.
fn private_group(user: Uid) -> Option<Gid> {
    let user = User::from_uid(user).ok().flatten()?;
    let group = Group::from_gid(user.gid).ok().flatten()?;
    let is_alone = group.mem.iter().all(|member| *member == user.name);
    (group.name == user.name && is_alone).then_some(user.gid)
}

/// Follows the path as the kernel does, and makes sure that no other user can lead it elsewhere.
fn check_path(state_dir: &Path, configuration: &Path) -> Result<(), Failure> {
    let writers = Writers::of(configuration);
    let absolute = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let refused = |place: &Path, why: String| {
        Failure::infrastructure(format!(
            "the state directory {} is not safe: other users can put another one in its place in {}",
            state_dir.display(),
            place.display()
        ))
        .because(format!(
            "{why}; orch would write its logs where they want, and believe their records of what it started"
        ))
        .hint(format!(
            "`chmod go-w {}`, or choose a `[orch] state_dir` in a directory of your own",
            place.display()
        ))
    };
    let mut pending = parts(&absolute);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let Ok(directory) = fs::metadata(&at) else {
            return Ok(());
        };
        if let Some(why) = writers.others_in(&directory) {
            return Err(refused(&at, why));
        }
        let next = at.join(&part);
        // What is not there yet is made private; what cannot be looked at is an error of whoever needs it.
        let Ok(metadata) = fs::symlink_metadata(&next) else {
            return Ok(());
        };
        if !metadata.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if !writers.users.contains(&metadata.uid()) {
            return Err(refused(
                &at,
                format!("the link {} belongs to user {}", next.display(), metadata.uid()),
            ));
        }
        let Ok(target) = fs::read_link(&next) else {
            return Ok(());
        };
        if links > MOST_LINKS {
            return Ok(());
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        pending.extend(parts(&target));
    }
    Ok(())
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let components = path.components().rev().filter_map(|component| match component {
        Component::Normal(part) => Some(part),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    components.map(OsStr::to_owned).collect()
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
    use std::os::unix::fs::lchown;

    use super::*;

    /// A configuration that this user alone may write.
    const CONFIGURATION: &str = "/proc/self/cmdline";

    fn prepare(state_dir: &Path) -> Result<(), Failure> {
        super::prepare(state_dir, Path::new(CONFIGURATION))
    }

    fn check(state_dir: &Path) -> Result<(), Failure> {
        super::check(state_dir, Path::new(CONFIGURATION))
    }

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
        assert_eq!(fs::read_to_string(state.join(".gitignore")).unwrap(), "*\n");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn one_of_the_own_name_is_kept_out_of_git_however_old_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let (state, ignored) = (parent.path().join(".orch"), parent.path().join(".orch/.gitignore"));
        // `orch demo` makes it with what it prepares in it; earlier versions wrote no such file.
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
    fn an_older_one_is_adopted_and_made_private() {
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
    fn where_others_may_write_nothing_is_made() {
        for (bits, told) in [(0o777, "every user may write in it"), (0o1777, "")] {
            let parent = tempfile::tempdir().unwrap();
            let (open, linked) = (parent.path().join("open"), parent.path().join("linked"));
            fs::create_dir(&open).unwrap();
            fs::set_permissions(&open, Permissions::from_mode(bits)).unwrap();
            std::os::unix::fs::symlink(&open, &linked).unwrap();
            for place in [
                "open/.orch",
                "open/deeper/.orch",
                "linked/.orch",
                "linked/../open/.orch",
            ] {
                let state = parent.path().join(place);
                let outcome = prepare(&state);
                if told.is_empty() {
                    outcome.unwrap();
                    assert!(state.join(VERSION).exists());
                    continue;
                }
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains(told) && error.contains("state_dir"), "{place}: {error}");
                assert!(!state.exists(), "{place}");
            }
        }
    }

    #[test]
    fn other_groups_and_owners_above_it_are_refused_unless_the_configuration_is_theirs() {
        if !nix::unistd::geteuid().is_root() {
            crate::skip::skip("only root can make another user's files");
            return;
        }
        let (user, group) = (Some(Uid::from_raw(4_001)), Some(Gid::from_raw(4_002)));
        for (owner, owning, bits, told) in [
            (user, None, 0o755, "belongs to user 4001"),
            (None, group, 0o775, "the group 4002 may write in it"),
            (user, group, 0o1777, "belongs to user 4001"),
            (None, group, 0o755, ""),
        ] {
            let parent = tempfile::tempdir().unwrap();
            let project = parent.path().join("project");
            fs::create_dir(&project).unwrap();
            nix::unistd::chown(&project, owner, owning).unwrap();
            fs::set_permissions(&project, Permissions::from_mode(bits)).unwrap();
            let state = project.join(".orch");
            match (prepare(&state), told) {
                (Ok(()), "") => {}
                (Err(error), _) => assert!(error.to_string().contains(told), "{error}"),
                (Ok(()), _) => panic!("not refused: {told}"),
            }
            // Who may replace the configuration decides what orch executes anyway.
            super::prepare(&state, &project.join("orch.toml")).unwrap();
        }
        let parent = tempfile::tempdir().unwrap();
        let (real, link) = (parent.path().join("real"), parent.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        lchown(&link, Some(4_001), None).unwrap();
        let error = prepare(&link.join("a/.orch")).unwrap_err().to_string();
        assert!(error.contains("link belongs to user 4001"), "{error}");
    }

    #[test]
    fn a_circle_of_links_ends() {
        let parent = tempfile::tempdir().unwrap();
        let (one, other) = (parent.path().join("one"), parent.path().join("other"));
        std::os::unix::fs::symlink(&one, &other).unwrap();
        std::os::unix::fs::symlink(&other, &one).unwrap();
        let error = prepare(&one.join(".orch")).unwrap_err().to_string();
        assert!(error.contains("could not create the state directory"), "{error}");
    }

    #[test]
    fn what_another_user_put_deep_into_it_is_seen() {
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
