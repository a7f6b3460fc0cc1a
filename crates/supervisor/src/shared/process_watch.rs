//! A watch for the end of a process that is not a child of this one, by pidfd.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use orch_celery::NodeName;

/// Interval between checks if no descriptor is left for a pidfd.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// One process; a later process with the same pid is a different one.
pub struct ProcessWatch {
    pid: i32,
    start_time: u64,
    /// `None`: the process is polled.
    descriptor: Option<AsyncFd<OwnedFd>>,
}

impl ProcessWatch {
    /// Begins to watch; returns `None` if the process has ended. `start_time` is in clock ticks since boot, 0 if
    /// unknown. Needs a tokio runtime.
    pub fn begin(pid: i32, start_time: u64) -> Option<Self> {
        let opened = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty());
        #[expect(
            deprecated,
            reason = "the successor is `unsafe` for types that lie about their descriptor; `OwnedFd` owns it"
        )]
        let descriptor = opened
            .ok()
            .and_then(|descriptor| AsyncFd::with_interest(descriptor, Interest::READABLE).ok());
        // The check comes after the descriptor: from here on the pid may be reused, but the descriptor refers to the
        // same process.
        orch_base::system::processes::is_alive_with_start_time(pid, start_time).then_some(Self {
            pid,
            start_time,
            descriptor,
        })
    }

    /// Begins to watch the main process of a worker, by the pid and pool that the worker reports. Returns `None` if no
    /// such worker is visible on this machine: a pid of another pid namespace proves nothing.
    pub fn of_worker(node: &NodeName, pid: u32, pool_processes: &[u32]) -> Option<Self> {
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 1)?;
        let tree = orch_base::system::processes::tree(pid).ok()?;
        let start_time = tree.first()?.start_time;
        let has_its_pool = !pool_processes.is_empty()
            && pool_processes.iter().all(|child| {
                let mut below = tree.iter().skip(1);
                below.any(|process| u32::try_from(process.pid).is_ok_and(|pid| pid == *child))
            });
        let is_worker = has_its_pool || (is_of_this_host(node) && is_celery(pid));
        is_worker.then(|| Self::begin(pid, start_time)).flatten()
    }

    /// Waits for the end of the process. Safe to cancel.
    pub async fn ended(&self) {
        if let Some(descriptor) = &self.descriptor
            && descriptor.readable().await.is_ok()
        {
            return;
        }
        while orch_base::system::processes::is_alive_with_start_time(self.pid, self.start_time) {
            sleep(POLL_INTERVAL).await;
        }
    }
}

fn is_of_this_host(node: &NodeName) -> bool {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let named = node.as_str().rsplit_once('@').map(|(_, host)| host);
    named.is_some_and(|named| *named == *host.to_string_lossy())
}

/// Returns true if the process of this machine is a Celery process.
pub(crate) fn is_celery(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    names_celery(&String::from_utf8_lossy(&line))
}

/// Searches a command line for Celery: `bin/celery -A app worker`, `python -m celery`, or the title that a worker sets.
fn names_celery(line: &str) -> bool {
    let mut words = line.split('\0').flat_map(|word| word.split(' '));
    words.any(|word| word.starts_with("[celeryd") || word.rsplit('/').next() == Some("celery"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn the_end_of_a_process_is_observed_and_a_reused_pid_is_not_mistaken_for_it() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
            let pid = child.id().cast_signed();
            let start_time = orch_base::system::processes::tree(pid)
                .unwrap()
                .first()
                .unwrap()
                .start_time;
            assert!(ProcessWatch::begin(pid, start_time + 1).is_none());
            let watch = ProcessWatch::begin(pid, start_time).unwrap();
            let early = tokio::time::timeout(Duration::from_millis(50), watch.ended()).await;
            assert!(early.is_err(), "it lives");
            child.kill().unwrap();
            tokio::time::timeout(Duration::from_secs(10), watch.ended())
                .await
                .unwrap();
            child.wait().unwrap();
            assert!(ProcessWatch::begin(pid, start_time).is_none());
        });
    }

    #[test]
    fn a_worker_is_recognised_by_its_program_or_its_title() {
        for (line, is_celery) in [
            ("/x/bin/python\0/x/bin/celery\0-A\0app\0worker\0", true),
            ("python\0-m\0celery\0worker\0", true),
            ("[celeryd: celery@h:MainProcess] -active- (worker)", true),
            ("vim\0celery.py\0", false),
            ("grep\0celeryd\0", false),
            ("", false),
        ] {
            assert_eq!(names_celery(line), is_celery, "{line}");
        }
    }

    #[test]
    fn a_process_that_is_no_worker_is_not_watched_as_one() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let here = nix::unistd::gethostname().unwrap();
            let node = NodeName::new(format!("celery@{}", here.to_string_lossy()));
            assert!(ProcessWatch::of_worker(&node, std::process::id(), &[]).is_none());
            assert!(ProcessWatch::of_worker(&node, 1, &[]).is_none());
            assert!(ProcessWatch::of_worker(&node, u32::MAX, &[]).is_none());
        });
    }
}
