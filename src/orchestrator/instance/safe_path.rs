//! Check that no other user can replace the state directory, or redirect the path that leads to it.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

use orch_journal::failure::ServiceFailure;

/// Maximum number of symbolic links in a path, as in the kernel.
const MOST_LINKS: u32 = 40;

/// Users and groups that may write in the parent directories of the state directory: root, the user of orch, and those
/// that may write the configuration, which decides which programs orch executes.
struct TrustedWriters {
    users: Vec<u32>,
    groups: Vec<u32>,
    /// Group with this user as the only member; looked up at the first use.
    private: OnceCell<Option<u32>>,
}

impl TrustedWriters {
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

    /// Returns the reason why other users could replace entries of the directory; `None` if they cannot.
    fn others_in(&self, directory: &Metadata) -> Option<String> {
        let mode = directory.mode();
        if !self.users.contains(&directory.uid()) {
            return Some(format!("it belongs to user {}", directory.uid()));
        }
        // In a sticky directory users can remove and rename only their own files.
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

/// Returns the user's private group, which has the user's name and no other member. Most distributions create such a
/// group.
fn private_group(user: Uid) -> Option<Gid> {
    let user = User::from_uid(user).ok().flatten()?;
    let group = Group::from_gid(user.gid).ok().flatten()?;
    let is_alone = group.mem.iter().all(|member| *member == user.name);
    (group.name == user.name && is_alone).then_some(user.gid)
}

/// Follows the path as the kernel does and checks that no other user can redirect the path.
pub fn check(state_dir: &Path, configuration: &Path) -> Result<(), ServiceFailure> {
    let writers = TrustedWriters::of(configuration);
    let absolute = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let refused = |place: &Path, why: String| {
        ServiceFailure::infrastructure(format!(
            "the state directory {} is not safe: other users can replace it in {}",
            state_dir.display(),
            place.display()
        ))
        .with_cause(format!(
            "{why}; they could redirect orch's logs and forge the records of the processes that orch has started"
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
        // A part that does not exist yet will be created private. Any other error appears when the path is used.
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

/// Splits a path into its parts, in reverse order.
fn parts(path: &Path) -> Vec<OsString> {
    let components = path.components().rev().filter_map(|component| match component {
        Component::Normal(part) => Some(part),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    components.map(OsStr::to_owned).collect()
}
