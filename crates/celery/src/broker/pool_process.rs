//! Detection of pool processes that wait for their next task, from the kernel's data. A worker may list a task as
//! running although the pool process has finished the task long ago. The detection works only for workers on this
//! machine with readable processes; other workers give no result.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use crate::control::inspect::WorkerStats;
use crate::wire::ids::NodeName;

/// Returns the idle processes of a prefork pool. An idle process is blocked in a `read` of a pipe that the main process
/// also holds. A task that reads the output of a program reads a pipe that the main process does not hold.
///
/// Process ids have a meaning on this machine only, so the result for a node with another host name is empty.
pub fn idle_processes(node: &NodeName, stats: &WorkerStats) -> HashSet<u32> {
    let host = nix::unistd::gethostname().ok();
    let is_here = node
        .as_str()
        .rsplit_once('@')
        .is_some_and(|(_, of_node)| host.is_some_and(|host| *host == *of_node));
    let Some(pipes) = pipes(stats.pid).filter(|_| is_here) else {
        return HashSet::new();
    };
    let is_idle =
        |pid: &u32| parent(*pid) == Some(stats.pid) && pipe_being_read(*pid).is_some_and(|pipe| pipes.contains(&pipe));
    stats.pool_processes.iter().copied().filter(is_idle).collect()
}

/// Returns the pipes that a process holds.
fn pipes(pid: u32) -> Option<HashSet<PathBuf>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let targets = descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    Some(
        targets
            .filter(|target| target.as_os_str().as_encoded_bytes().starts_with(b"pipe:"))
            .collect(),
    )
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain any character, so the parent is the second field after the last parenthesis.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Returns the pipe that a process is blocked in reading.
fn pipe_being_read(pid: u32) -> Option<PathBuf> {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    let descriptor = descriptor_of_read(&call)?;
    fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()
}

/// Parses a line of `/proc/<pid>/syscall`: the number of the system call and its arguments in hexadecimal digits.
/// Returns the file descriptor of a `read`, or `None` for other calls and for a running process.
fn descriptor_of_read(call: &str) -> Option<u64> {
    let mut fields = call.split_ascii_whitespace();
    if fields.next()?.parse() != Ok(nix::libc::SYS_read) {
        return None;
    }
    u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn stats(pid: u32, pool_processes: &[u32]) -> WorkerStats {
        WorkerStats {
            pid,
            pool_processes: pool_processes.to_vec(),
            ..WorkerStats::default()
        }
    }

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let read = nix::libc::SYS_read;
        let write = nix::libc::SYS_write;
        for (call, expected) in [
            (
                format!("{read} 0x1e 0x7f96 0x4 0x0 0x0 0x0 0x7ffe 0x7f96\n"),
                Some(0x1e),
            ),
            (format!("{write} 0x1e 0x7f96 0x4 0x0 0x0 0x0 0x7ffe 0x7f96\n"), None),
            (format!("{read}"), None),
            (format!("{read} 1e"), None),
            ("running\n".to_owned(), None),
            ("-1 0x7ffe 0x7f96\n".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(descriptor_of_read(&call), expected, "{call}");
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "the test starts the processes that it examines"
    )]
    fn a_process_that_reads_a_pipe_of_its_parent_is_idle() {
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            command.spawn().expect("a shell starts")
        };
        // The shell's `read` reads its standard input, a pipe with the other end in this test.
        let mut waits = shell("echo; read line");
        let mut sleeps = shell("echo; exec sleep 60");
        // The third process reads a pipe that its own child writes.
        let mut reads_another = shell("echo; sleep 60 | read line");
        for child in [&mut waits, &mut sleeps, &mut reads_another] {
            let mut line = [0];
            child.stdout.as_mut().unwrap().read_exact(&mut line).expect("a line");
        }
        let pids = [waits.id(), sleeps.id(), reads_another.id()];
        let own = std::process::id();
        let host = nix::unistd::gethostname().expect("a host name");
        let here = NodeName::from(format!("w@{}", host.to_string_lossy()));
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let idle = idle_processes(&here, &stats(own, &pids));
            assert!(
                !idle.contains(&pids[1]) && !idle.contains(&pids[2]),
                "{idle:?} of {pids:?}"
            );
            if idle.contains(&pids[0]) || fs::read_to_string(format!("/proc/{}/syscall", pids[0])).is_err() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "the first process is not idle: {idle:?} of {pids:?}"
            );
            std::thread::yield_now();
        }
        // Children of another process are not examined.
        assert!(idle_processes(&here, &stats(1, &pids)).is_empty());
        let elsewhere = NodeName::from("w@elsewhere.invalid");
        assert!(idle_processes(&elsewhere, &stats(own, &pids)).is_empty());
        waits
            .stdin
            .take()
            .unwrap()
            .write_all(b"\n")
            .expect("the input is written");
        for mut child in [waits, sleeps, reads_another] {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
