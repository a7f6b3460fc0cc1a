//! Sentences about problems of the run's files, its guard, its services, Redis, the workers and the app.

use std::time::Duration;

use orch_base::text::counted::plural;
use orch_base::text::duration_text;
use orch_base::text::signal_name::signal_name;
use orch_journal::{
    AppProblem, ConsumerAbsence, GuardProblem, LeftoverProcess, LeftoverProcesses, LogFailure, LogProblem, PathChange,
    RedisProblem, RunFile, RunFileFailure, SharedNodeName, StateDirectoryLoss, WorkerProblem,
};

/// Number of leftover processes that are named; further ones are only counted.
const NAMED_PROCESSES: usize = 20;

pub(crate) fn of_leftovers(processes: &LeftoverProcesses) -> String {
    let list = |processes: &[LeftoverProcess]| {
        let named = processes.iter().take(NAMED_PROCESSES);
        let mut names: Vec<String> = named
            .map(|LeftoverProcess { pid, service, reason }| match reason {
                None => format!("{service} ({pid})"),
                Some(reason) => format!("{service} ({pid}), which {reason}"),
            })
            .collect();
        if processes.len() > NAMED_PROCESSES {
            names.push(format!("{} more", processes.len() - NAMED_PROCESSES));
        }
        names.join(", ")
    };
    let LeftoverProcesses { ended, alive } = processes;
    match (ended.is_empty(), alive.is_empty()) {
        (_, true) => format!("ended leftover processes of dead runs: {}", list(ended)),
        (true, false) => format!("could not end leftover processes of dead runs: {}", list(alive)),
        (false, false) => format!(
            "ended leftover processes of dead runs: {}; could not end: {}",
            list(ended),
            list(alive)
        ),
    }
}

pub(crate) fn of_file(failure: &RunFileFailure) -> String {
    let RunFileFailure { file, path, reason } = failure;
    let path = path.display();
    match file {
        RunFile::Journal => format!("the journal cannot be written, events may be missing from it: {reason}"),
        RunFile::Summary => format!("could not write the summary {path}: {reason}"),
        RunFile::Log => format!("could not create orch's own log {path}: {reason}"),
        RunFile::Ports => {
            format!("could not record the chosen ports, so the next run may choose other ports: {reason}")
        }
        RunFile::Instance => format!("could not write the instance file in {path}\n  cause: {reason}"),
        RunFile::EndedInstance => format!("could not remove {path}: {reason}\n  hint:  `orch clean` removes it"),
        RunFile::Requests => format!("could not read the requests of other commands in {path}: {reason}"),
        RunFile::DeadRuns => format!("could not remove the files that dead runs have left: {reason}"),
    }
}

pub(crate) fn of_log(problem: &LogProblem) -> String {
    let LogProblem { log, failure, reason } = problem;
    let log = log.display();
    match failure {
        LogFailure::HeadNotMoved => format!(
            "could not copy the head of {log} to a piece: {reason}\n  then:  the log grows to the size of all its pieces, then \
             its first lines are removed; orch tries again after 30 s"
        ),
        LogFailure::HeadNotCut => format!(
            "could not cut the head off {log}: {reason}\n  then:  the log grows above its bound; orch tries again when it grows"
        ),
        LogFailure::LinesAtRisk => format!(
            "{log} is on a file system that can only empty a log: {reason}\n  then:  lines that the service writes at the moment \
             of a cut are lost"
        ),
        LogFailure::NotWatched => {
            format!("could not watch {log}, so orch looks at its size every second: {reason}")
        }
    }
}

pub(crate) fn of_state_directory(loss: &StateDirectoryLoss) -> String {
    let StateDirectoryLoss { path, change, pid } = loss;
    let change = match change {
        PathChange::Removed => "was removed",
        PathChange::Replaced => "was replaced by another one",
    };
    format!(
        "{} {change} while this orch uses it: its services keep running, but none can be started again, and log lines \
         from now on are lost\n  hint:  stop this orch (pid {pid}) and start it again; until then no other orch starts \
         here",
        path.display()
    )
}

pub(crate) fn of_guard(problem: &GuardProblem) -> String {
    match problem {
        GuardProblem::LostInStop { unsure: None } => {
            "the guard was killed during the stop; the remaining processes were killed without a grace period"
                .to_owned()
        }
        GuardProblem::LostInStop { unsure: Some(reason) } => {
            format!("the guard was killed during the stop, and some processes may be left: {reason}")
        }
        GuardProblem::OrderRefused { order, reason } => {
            format!("the guard could not carry out `{order}`: {reason}")
        }
        GuardProblem::SignalIgnored { signal, sender } => {
            let from = match sender {
                0 => "the kernel".to_owned(),
                sender => format!("process {sender}"),
            };
            format!(
                "the guard ignored {} from {from}; it is the parent of all services",
                signal_name(*signal)
            )
        }
    }
}

pub(crate) fn of_redis(problem: &RedisProblem) -> String {
    match problem {
        RedisProblem::Unavailable { timeout_ms, reason } => format!(
            "the external Redis is unavailable; waiting for it up to {}: {reason}",
            duration_text::shown(Duration::from_millis(*timeout_ms))
        ),
        RedisProblem::ClientRefused { count, commands } => {
            let commands = match commands.is_empty() {
                true => String::new(),
                false => format!(" ({})", commands.join(", ")),
            };
            format!(
                "Redis refused {}{commands} of a client without a password; nothing shows that it was the app\n  hint:  a \
                 health check or an exporter on this machine does that; if it is the app, build its URL from \
                 CELERY_BROKER_URL or REDIS_PASSWORD",
                plural(*count, "command")
            )
        }
        RedisProblem::DataDamaged {
            cause,
            data: _,
            moved_to,
            failure: None,
        } => format!(
            "the data of redis were damaged ({cause}) and are now in {}; redis starts again without data",
            moved_to.display()
        ),
        RedisProblem::DataDamaged {
            cause,
            data,
            moved_to,
            failure: Some(failure),
        } => format!(
            "the data of redis in {} are damaged ({cause}) and could not be moved to {}: {failure}",
            data.display(),
            moved_to.display()
        ),
        RedisProblem::KeyMistyped {
            key,
            database,
            found_type,
            expected_type,
            purpose,
            moved_to,
        } => format!(
            "the key `{key}` is a {found_type}; Celery stores {purpose} there, in a {expected_type}; its value was moved \
             aside to `{moved_to}`, and the data of Celery in it is lost\n  hint:  find the program that writes `{key}` in \
             database {database} of this Redis"
        ),
    }
}

pub(crate) fn of_workers(problem: &WorkerProblem) -> String {
    match problem {
        WorkerProblem::NameShared(shared) => format!("{shared}\n  hint:  {}", SharedNodeName::ADVICE),
        WorkerProblem::Ended { node, pid } => format!(
            "the shared worker {node} (pid {pid}) has ended: tasks that it ran are lost, unless they are acknowledged late"
        ),
        WorkerProblem::Silent { node, pid } => format!(
            "the shared worker {node} (pid {pid}) does not answer any more\n  hint:  its tasks wait for the visibility \
             timeout; if it is dead, `orch celery restore --node {node}` puts them back at once"
        ),
        WorkerProblem::Absent(absence) => {
            let hint = match absence.is_final {
                true => "start one, then continue this run with `orch run --resume`".to_owned(),
                false => format!(
                    "start one: sites fail {} after that ({})",
                    absence.timeout(),
                    ConsumerAbsence::SETTINGS
                ),
            };
            format!("{absence}\n  hint:  {hint}")
        }
        WorkerProblem::OfAnotherApp { node, address, queue } => format!(
            "worker `{node}` on {address} consumes the queue `{queue}` too, but is of another app: it discards the tasks of \
             this app that it takes\n  hint:  give one of the apps queues of its own (`[celery] queues`), or another \
             database (`[redis] broker_db`)"
        ),
        WorkerProblem::AcknowledgedEarly { count, tasks } => {
            let more = match count.saturating_sub(tasks.len() as u64) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "late acknowledgement does not reach {count} of the worker's tasks: {}{more}; a crash can lose their \
                 work\n  hint:  the app is finalised at import, or these tasks override the setting: give them \
                 `acks_late=True, reject_on_worker_lost=True` where they are defined",
                tasks.join(", ")
            )
        }
        WorkerProblem::AcknowledgementUnknown { reason: None } => {
            "the worker does not report which tasks it acknowledges late".to_owned()
        }
        WorkerProblem::AcknowledgementUnknown { reason: Some(reason) } => {
            format!("could not find out which tasks are acknowledged late: {reason}")
        }
    }
}

pub(crate) fn of_app(problem: &AppProblem) -> String {
    match problem {
        AppProblem::SettingsUnknown { app, reason } => format!(
            "the transport settings of the app `{app}` are unknown; Celery's defaults are used\n  cause: {reason}"
        ),
        AppProblem::SettingsHidden { app, options, reason } => format!(
            "the app `{app}` sets {}, and its worker does not report the value; Celery's default is used\n  cause: \
             {reason}\n  hint:  let `[celery] program` be the `celery` command next to the app's Python",
            options.join(", ")
        ),
        AppProblem::ModulesHidden { directory, files } => format!(
            "{} is not put on PYTHONPATH: `{}` there would be imported in place of a module that Celery needs\n  hint:  \
             tasks that import a module of that directory when they run do not find it; rename the file, or set PYTHONPATH \
             in `[celery.env]`",
            directory.display(),
            files.join("`, `")
        ),
    }
}

/// Returns the sentence about restored messages.
pub(crate) fn of_restored_messages(requeued: u64, acknowledged: u64) -> String {
    let were = if requeued == 1 { "was" } else { "were" };
    format!(
        "{} that a worker had taken and cannot acknowledge {were} put back; {acknowledged} more had finished already",
        plural(requeued, "message")
    )
}
