//! Descriptions of processes that SIGKILL has not ended.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::protocol::SERVICE_VARIABLE;
use orch_base::system::processes::{Process, environment_variable, living_thread_states, program_name};
use orch_base::text::printable::one_line;

/// Number of processes that a message names.
const SHOWN: usize = 10;

/// Describes the processes that have not ended, each with its service, pid and reason; returns `None` if all have.
/// `mains` are the main processes by service.
pub fn describe<'a>(processes: impl IntoIterator<Item = &'a Process>, mains: &BTreeMap<String, i32>) -> Option<String> {
    let texts: Vec<String> = processes
        .into_iter()
        .filter_map(|process| describe_one(process, mains))
        .collect();
    let more = texts.len().saturating_sub(SHOWN);
    let shown = texts.get(..texts.len() - more).unwrap_or_default().join("; ");
    match (shown.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown),
        (false, more) => Some(format!("{shown}; and {more} more")),
    }
}

fn describe_one(process: &Process, mains: &BTreeMap<String, i32>) -> Option<String> {
    // A process whose main thread has ended lives as long as another thread does.
    if living_thread_states(process.pid).is_empty() {
        return None;
    }
    let leads = |(_, main): &(&String, &i32)| [process.pid, process.session].contains(*main);
    let service = mains.iter().find(leads).map(|(service, _)| service.clone());
    // A process that has left the session of its service still has the variable.
    let service = service.or_else(|| environment_variable(process.pid, SERVICE_VARIABLE));
    let service = service.unwrap_or_else(|| "a process".to_owned());
    let name = program_name(process.pid).unwrap_or_default();
    let reason = why_unended(process.pid);
    Some(format!(
        "{service} (pid {}, `{}`) {reason}",
        process.pid,
        one_line(&name)
    ))
}

/// Returns the reason why a process has not ended although it was sent SIGKILL, as the predicate of a sentence.
pub fn why_unended(pid: i32) -> &'static str {
    if kill(Pid::from_raw(pid), None) == Err(Errno::EPERM) {
        "belongs to another user, whose processes orch may not signal"
    } else if living_thread_states(pid).contains(&b'D') {
        "waits in the kernel (state D, such as for a disk that does not answer) and ends when that wait does"
    } else {
        "was sent SIGKILL and has not ended yet"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_base::system::processes::look_up;

    #[test]
    fn a_process_is_named_with_service_pid_program_and_reason() {
        let me = std::process::id().cast_signed();
        let process = look_up(me).unwrap().unwrap();
        let mains = |services: &[(&str, i32)]| services.iter().map(|(name, pid)| ((*name).to_owned(), *pid)).collect();
        let rest = format!(
            " (pid {me}, `{}`) was sent SIGKILL and has not ended yet",
            program_name(me).unwrap()
        );
        for (services, named) in [
            (vec![("web", me), ("base", 1)], "web"),
            (vec![("web", 1)], "a process"),
            (vec![], "a process"),
        ] {
            assert_eq!(
                describe([&process], &mains(&services)),
                Some(format!("{named}{rest}")),
                "{services:?}"
            );
        }
    }

    #[test]
    fn of_many_processes_ten_are_named() {
        let me = look_up(std::process::id().cast_signed()).unwrap().unwrap();
        let many = std::iter::repeat_n(&me, 12);
        let text = describe(many, &BTreeMap::new()).unwrap();
        assert_eq!(text.matches("SIGKILL").count(), 10);
        assert!(text.ends_with("; and 2 more"), "{text}");
        assert_eq!(describe([], &BTreeMap::new()), None);
    }
}
