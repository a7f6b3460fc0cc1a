//! A file system that does not answer, like a dead NFS server: processes that use it wait in the kernel, and SIGKILL does
//! not end them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::skip::skip;

/// File system that does not answer until this is dropped.
pub struct SilentFiles(Child, PathBuf);

impl SilentFiles {
    /// Mounts the file system here; returns `None`, and prints the reason, where that is not possible.
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    pub fn mount(place: PathBuf) -> Option<Self> {
        fs::create_dir(&place).expect("a directory of the test");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/silent_files.py");
        let mut server = Command::new("python3")
            .arg(script)
            .arg(&place)
            .stdout(Stdio::piped())
            .spawn()
            .expect("could not start python3");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("its standard output"))
            .read_line(&mut line)
            .expect("could not read from the server");
        if line.trim() != "mounted" {
            server.wait().expect("a child of the test");
            skip("no file system can be mounted here (this needs root and /dev/fuse)");
            return None;
        }
        Some(Self(server, place))
    }
}

/// Returns whether a process waits for an answer of such a file system. The kernel names the function in which it waits.
pub fn waits_for_answer(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|function| function.contains("request"))
}

impl Drop for SilentFiles {
    fn drop(&mut self) {
        self.0.kill().expect("a child of the test");
        self.0.wait().expect("a child of the test");
        nix::mount::umount2(&self.1, nix::mount::MntFlags::MNT_DETACH).expect("a mount of the test");
    }
}
