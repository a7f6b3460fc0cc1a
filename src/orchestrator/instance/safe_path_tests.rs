//! Tests of the path to the state directory: parents and links of other users.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use nix::unistd::{Gid, Uid};

use super::state_directory;
use orch_journal::failure::ServiceFailure;

/// Configuration file that only this user may write.
const CONFIGURATION: &str = "/proc/self/cmdline";

fn prepare(state_dir: &Path) -> Result<(), ServiceFailure> {
    state_directory::prepare(state_dir, Path::new(CONFIGURATION))
}

#[test]
fn nothing_is_created_where_other_users_may_write() {
    for (bits, expected) in [(0o777, "every user may write in it"), (0o1777, "")] {
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
            if expected.is_empty() {
                outcome.unwrap();
                assert!(state.join("version").exists());
                continue;
            }
            let error = outcome.unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("state_dir"),
                "{place}: {error}"
            );
            assert!(!state.exists(), "{place}");
        }
    }
}

#[test]
fn foreign_parent_directories_are_refused_unless_the_configuration_is_foreign_too() {
    if !nix::unistd::geteuid().is_root() {
        crate::skip::skip("only root can make another user's files");
        return;
    }
    let (user, group) = (Some(Uid::from_raw(4_001)), Some(Gid::from_raw(4_002)));
    for (owner, owning, bits, expected) in [
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
        match (prepare(&state), expected) {
            (Ok(()), "") => {}
            (Err(error), _) => assert!(error.to_string().contains(expected), "{error}"),
            (Ok(()), _) => panic!("not refused: {expected}"),
        }
        // The owner of the configuration decides in any case which programs orch executes.
        state_directory::prepare(&state, &project.join("orch.toml")).unwrap();
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
