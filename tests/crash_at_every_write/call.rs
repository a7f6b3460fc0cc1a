//! One system call that may change a directory: its name and its file.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::Pid;

/// Process that makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    Orch,
    Guard,
    /// Process of a service, until it executes its program.
    Service,
}

/// Call that creates, changes, syncs or removes `path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub actor: Actor,
    pub name: &'static str,
    pub path: PathBuf,
}

impl Call {
    /// Returns whether the call writes bytes into a file, possibly only a part of them.
    pub fn writes(&self) -> bool {
        matches!(self.name, "write" | "pwrite64")
    }

    /// Returns whether a full disk would refuse the call.
    pub fn needs_room(&self) -> bool {
        !matches!(self.name, "unlink" | "rmdir" | "chmod")
    }
}

/// Argument of a call that names the file.
enum Place {
    Descriptor,
    /// The path is this argument.
    Path(usize),
    /// The path is the second argument, relative to the directory in the first.
    At,
    /// As `At`, and only with flags in this argument that can change something.
    Open(usize),
}

/// Returns name and place of a call that may change something.
fn known(number: u64) -> Option<(&'static str, Place)> {
    Some(match i64::try_from(number).ok()? {
        libc::SYS_write => ("write", Place::Descriptor),
        libc::SYS_writev => ("writev", Place::Descriptor),
        libc::SYS_pwrite64 => ("pwrite64", Place::Descriptor),
        libc::SYS_fsync => ("fsync", Place::Descriptor),
        libc::SYS_fdatasync => ("fdatasync", Place::Descriptor),
        libc::SYS_ftruncate => ("ftruncate", Place::Descriptor),
        libc::SYS_fallocate => ("fallocate", Place::Descriptor),
        libc::SYS_fchmod => ("chmod", Place::Descriptor),
        libc::SYS_open => ("open", Place::Open(1)),
        libc::SYS_openat => ("open", Place::Open(2)),
        libc::SYS_creat => ("open", Place::Path(0)),
        libc::SYS_mkdir => ("mkdir", Place::Path(0)),
        libc::SYS_mkdirat => ("mkdir", Place::At),
        libc::SYS_rmdir => ("rmdir", Place::Path(0)),
        libc::SYS_unlink => ("unlink", Place::Path(0)),
        libc::SYS_unlinkat => ("unlink", Place::At),
        libc::SYS_chmod => ("chmod", Place::Path(0)),
        libc::SYS_fchmodat => ("chmod", Place::At),
        libc::SYS_link => ("link", Place::Path(1)),
        libc::SYS_symlink => ("symlink", Place::Path(1)),
        // The replaced file counts, not the former name of the new one.
        libc::SYS_rename => ("rename", Place::Path(1)),
        libc::SYS_renameat | libc::SYS_renameat2 => ("rename", Place::Path(3)),
        _ => return None,
    })
}

/// Returns whether a call of this number may change something.
pub fn may_change(number: u64) -> bool {
    known(number).is_some()
}

/// Decodes the call that the stopped thread is about to make, if the call changes something.
pub fn decode(thread: Pid, number: u64, arguments: [u64; 4], actor: Actor) -> Option<Call> {
    let (name, place) = known(number)?;
    let path = match place {
        Place::Descriptor => of_descriptor(thread, arguments[0])?,
        Place::Path(argument) => text(thread, arguments[argument])?,
        Place::At => at(thread, arguments[0], text(thread, arguments[1])?)?,
        Place::Open(flags) => {
            let changing = libc::O_CREAT | libc::O_TRUNC;
            if arguments[flags] & u64::try_from(changing).ok()? == 0 {
                return None;
            }
            match flags {
                1 => text(thread, arguments[0])?,
                _ => at(thread, arguments[0], text(thread, arguments[1])?)?,
            }
        }
    };
    Some(Call { actor, name, path })
}

fn at(thread: Pid, directory: u64, path: PathBuf) -> Option<PathBuf> {
    if path.is_absolute() {
        return Some(path);
    }
    Some(of_descriptor(thread, directory)?.join(path))
}

fn of_descriptor(thread: Pid, descriptor: u64) -> Option<PathBuf> {
    std::fs::read_link(Path::new("/proc").join(format!("{thread}/fd/{descriptor}"))).ok()
}

/// Reads the path at this address of the thread's memory.
fn text(thread: Pid, address: u64) -> Option<PathBuf> {
    let memory = File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut bytes = vec![0; 4096];
    let length = memory.read_at(&mut bytes, address).ok()?;
    bytes.truncate(bytes[..length].iter().position(|byte| *byte == 0)?);
    Some(PathBuf::from(OsString::from_vec(bytes)))
}
