//! A small disk of the driver for a state directory, so that a test can fill it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Options of the disk: large enough for the journals, logs and the append-only file of a job that is resumed dozens of
/// times and repeated.
const SIZE: &str = "size=160m,mode=0700";
static AVAILABLE: OnceLock<Result<(), String>> = OnceLock::new();

/// Moves this process into a mount namespace (and, unless root runs it, a user namespace) in which it may mount. Must
/// run before any thread is started.
pub fn prepare() {
    AVAILABLE.get_or_init(|| own_mounts().map_err(|error| format!("no mount namespace of our own: {error}")));
}

fn own_mounts() -> Result<(), std::io::Error> {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if user.is_root() {
        unshare(CloneFlags::CLONE_NEWNS)?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    Ok(())
}

/// Mounted disk; the drop unmounts the disk.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts a disk at this directory.
    ///
    /// # Errors
    /// No disk can be mounted here, with the reason.
    pub fn at(directory: &Path) -> Result<Self, String> {
        AVAILABLE
            .get()
            .cloned()
            .unwrap_or_else(|| Err("prepare() has not run".to_owned()))?;
        fs::create_dir_all(directory).expect("a directory of ours");
        mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some(SIZE))
            .map_err(|error| format!("mount a tmpfs: {error}"))?;
        Ok(Self(directory.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Writes until the disk is full.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file on our disk");
        for piece in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    pub fn free(&self) {
        fs::remove_file(self.filler()).ok();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Detached, so that a process that was left behind and has a file open does not cause a further failure.
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}
