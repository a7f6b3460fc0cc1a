//! The end of the processes that a dead guard has left to orch.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::channel::lock;
use super::reap_orphans::REAP_LOCK;
use crate::inherited_children::{InheritedChildren, UnmarkedOwner};
use crate::kill_exactly::kill_exactly;
use crate::protocol::RUN_ID_VARIABLE;
use crate::server::kill_tree::{kill_children, kill_descendants};
use crate::unended::describe;
use orch_base::system::processes;
use orch_base::system::processes::Process;
use orch_base::text::duration_text::shown;

/// Time for SIGKILL to take effect, beyond the bound of the stop plans.
pub const KILL_GRACE: Duration = Duration::from_secs(2);
/// Number of consecutive empty looks that prove that nothing is left.
const EMPTY_LOOKS: u32 = 3;

/// Ends the processes that a dead guard has left to orch, or returns why their end is not certain. `mains` are the main
/// processes by service.
pub fn end_descendants(
    run_id: &str,
    mains: &BTreeMap<String, i32>,
    inherited: &InheritedChildren,
) -> Result<(), String> {
    let deadline = Instant::now() + KILL_GRACE;
    let owns_all_children = inherited.guard_owns_all();
    let mut empty_looks = 0;
    loop {
        let look = if owns_all_children {
            // The lock keeps others from reaping them: they are signalled by their pids.
            let _turn = lock(&REAP_LOCK);
            match kill_children() {
                true => Ok(DescendantCheck::default()),
                false => kill_descendants().map(|left| DescendantCheck {
                    found: left.processes,
                    unknown: Vec::new(),
                }),
            }
        } else {
            end_guard_descendants(run_id, mains, inherited)
        };
        // A single look can miss a process if the parent ended during the look. That this process has no child is
        // proof, since orphans become children; otherwise several looks must agree.
        empty_looks = match &look {
            Ok(DescendantCheck { found, .. }) if found.is_empty() => empty_looks + 1,
            Ok(_) | Err(_) => 0,
        };
        let children = processes::children();
        let is_over = match &children {
            Some(children) if owns_all_children => children.is_empty(),
            _ => empty_looks >= EMPTY_LOOKS,
        };
        match look {
            Ok(DescendantCheck { unknown, .. }) if is_over && !unknown.is_empty() => {
                let pids: Vec<String> = unknown.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "processes without a mark of the run are below orch; a service or a process that was started \
                     before orch has left them: {}",
                    pids.join(", ")
                ));
            }
            _ if is_over => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.to_string()),
            Ok(DescendantCheck { found, .. }) if Instant::now() >= deadline => {
                let left = describe(&found, mains);
                return Err(left.unwrap_or_else(|| format!("not all processes ended within {}", shown(KILL_GRACE))));
            }
            _ => std::thread::park_timeout(Duration::from_millis(2)),
        }
    }
}

/// A look at the processes that a dead guard has left.
#[derive(Default)]
struct DescendantCheck {
    /// Processes of the run that were found.
    found: Vec<Process>,
    /// Processes with an unknown owner.
    unknown: Vec<i32>,
}

/// Kills the processes with the run's id or in a session of the run's services, and the processes that only the guard
/// can have left. Used when other processes may be below orch: children of a wrapper, children of the host program, or
/// orphans of a container in which orch is PID 1.
fn end_guard_descendants(
    run_id: &str,
    mains: &BTreeMap<String, i32>,
    inherited: &InheritedChildren,
) -> io::Result<DescendantCheck> {
    let is_main = |pid: i32| mains.values().any(|main| *main == pid);
    let me = std::process::id().cast_signed();
    let mut look = DescendantCheck::default();
    let are_childless = inherited.are_childless();
    for (process, top) in processes::descendants(me)? {
        let marked = is_main(process.session)
            || is_main(top)
            || processes::environment_variable(process.pid, RUN_ID_VARIABLE).as_deref() == Some(run_id);
        if !marked {
            match inherited.owner(&process, top, are_childless) {
                UnmarkedOwner::Guard => {}
                UnmarkedOwner::Inherited => continue,
                UnmarkedOwner::Unknown => {
                    if !process.zombie {
                        look.unknown.push(process.pid);
                    }
                    continue;
                }
            }
        }
        if !process.zombie {
            kill_exactly(process.pid, process.start_time)?;
        } else if process.parent == me {
            let _turn = lock(&REAP_LOCK);
            let pid = nix::unistd::Pid::from_raw(process.pid);
            nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).ok();
        }
        look.found.push(process);
    }
    Ok(look)
}
