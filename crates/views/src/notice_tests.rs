//! Sentences of the notices about the start of a run, services, the guard, Redis, workers and the app.

use crate::notice::text;
use orch_journal::{
    AppProblem, ConsumerAbsence, EventKind, GuardProblem, LastConsumer, LeftoverProcess, LeftoverProcesses, LogFailure,
    LogProblem, NodeProcess, PathChange, RedisProblem, RunFile, RunFileFailure, SharedNodeName, StateDirectoryLoss,
    UnreadEnvFile, WorkerProblem, local_time,
};

fn assert_texts<T: Into<String>>(notices: impl IntoIterator<Item = (EventKind, T)>) {
    for (kind, expected) in notices {
        assert_eq!(text(&kind), Some(expected.into()), "{kind:?}");
    }
}

fn unread() -> UnreadEnvFile {
    UnreadEnvFile {
        file: "/srv/.env".into(),
        variable: "API_KEY".to_owned(),
        setting: ".env".into(),
    }
}

#[test]
fn leftover_processes_are_named_and_many_are_counted() {
    let process = |pid| LeftoverProcess {
        pid,
        service: "web".into(),
        reason: (pid == 3).then(|| "is another user's".to_owned()),
    };
    let found = |ended: &[i32], alive: &[i32]| {
        EventKind::LeftoverProcessesEnded(LeftoverProcesses {
            ended: ended.iter().copied().map(process).collect(),
            alive: alive.iter().copied().map(process).collect(),
        })
    };
    let many: Vec<i32> = (1..=22).collect();
    let named: Vec<String> = (1..=20)
        .map(|pid| match pid {
            3 => "web (3), which is another user's".to_owned(),
            _ => format!("web ({pid})"),
        })
        .collect();
    assert_texts([
        (
            found(&[1, 2], &[]),
            "warning: ended leftover processes of dead runs: web (1), web (2)".to_owned(),
        ),
        (
            found(&[], &[3]),
            "warning: could not end leftover processes of dead runs: web (3), which is another user's".to_owned(),
        ),
        (
            found(&[1], &[3]),
            "warning: ended leftover processes of dead runs: web (1); could not end: web (3), which is another user's"
                .to_owned(),
        ),
        (
            found(&many, &[]),
            format!(
                "warning: ended leftover processes of dead runs: {}, 2 more",
                named.join(", ")
            ),
        ),
    ]);
}

#[test]
fn problems_with_logs_are_warnings_that_say_what_happens_next() {
    let problem = |failure| {
        EventKind::LogProblemFound(LogProblem {
            log: "/web.log".into(),
            failure,
            reason: "no".to_owned(),
        })
    };
    assert_texts([
        (
            problem(LogFailure::HeadNotMoved),
            "warning: could not copy the head of /web.log to a piece: no\n  then:  the log grows to the size of all its \
             pieces, then its first lines are removed; orch tries again after 30 s",
        ),
        (
            problem(LogFailure::HeadNotCut),
            "warning: could not cut the head off /web.log: no\n  then:  the log grows above its bound; orch tries again when \
             it grows",
        ),
        (
            problem(LogFailure::LinesAtRisk),
            "warning: /web.log is on a file system that can only empty a log: no\n  then:  lines that the service writes at \
             the moment of a cut are lost",
        ),
        (
            problem(LogFailure::NotWatched),
            "warning: could not watch /web.log, so orch looks at its size every second: no",
        ),
    ]);
}

#[test]
fn failed_files_are_errors_only_if_the_record_of_the_run_is_lost() {
    let failed = |file| {
        EventKind::RunFileFailed(RunFileFailure {
            file,
            path: "/p".into(),
            reason: "no".to_owned(),
        })
    };
    assert_texts([
        (
            failed(RunFile::Journal),
            "error: the journal cannot be written, events may be missing from it: no",
        ),
        (failed(RunFile::Summary), "error: could not write the summary /p: no"),
        (failed(RunFile::Log), "warning: could not create orch's own log /p: no"),
        (
            failed(RunFile::Ports),
            "warning: could not record the chosen ports, so the next run may choose other ports: no",
        ),
        (
            failed(RunFile::Instance),
            "warning: could not write the instance file in /p\n  cause: no",
        ),
        (
            failed(RunFile::EndedInstance),
            "warning: could not remove /p: no\n  hint:  `orch clean` removes it",
        ),
        (
            failed(RunFile::DeadRuns),
            "warning: could not remove the files that dead runs have left: no",
        ),
    ]);
}

#[test]
fn losses_during_a_run_name_what_still_works() {
    let lost = |change| {
        EventKind::StateDirectoryLost(StateDirectoryLoss {
            path: "/s".into(),
            change,
            pid: 7,
        })
    };
    let rest = "while this orch uses it: its services keep running, but none can be started again, and log lines from now \
                on are lost\n  hint:  stop this orch (pid 7) and start it again; until then no other orch starts here";
    let given_up = |unread| EventKind::ServiceGivenUp {
        service: "web".into(),
        reason: "`web` ended".to_owned(),
        unread,
    };
    let cure = "/srv/.env has `API_KEY`, but is not read: set `[orch] env_file = \".env\"` to read it";
    assert_texts([
        (lost(PathChange::Removed), format!("error: /s was removed {rest}")),
        (
            lost(PathChange::Replaced),
            format!("error: /s was replaced by another one {rest}"),
        ),
        (
            given_up(None),
            "error: `web` ended\n  the other services keep running".to_owned(),
        ),
        (
            given_up(Some(unread())),
            format!("error: `web` ended\n  hint:  {cure}\n  the other services keep running"),
        ),
        (EventKind::EnvFileUnread(unread()), format!("warning: {cure}")),
        (
            EventKind::ServiceLogEmpty { service: "web".into() },
            "warning: web: its log is empty since Python buffers its output to a file: set `env = { PYTHONUNBUFFERED = \
             \"1\" }` for this service"
                .to_owned(),
        ),
    ]);
}

#[test]
fn problems_of_the_guard_name_order_signal_and_sender() {
    let found = |problem| EventKind::GuardProblemFound { problem };
    let ignored = |sender| found(GuardProblem::SignalIgnored { signal: 10, sender });
    assert_texts([
        (
            found(GuardProblem::LostInStop { unsure: None }),
            "error: the guard was killed during the stop; the remaining processes were killed without a grace period",
        ),
        (
            found(GuardProblem::LostInStop {
                unsure: Some("no".to_owned()),
            }),
            "error: the guard was killed during the stop, and some processes may be left: no",
        ),
        (
            found(GuardProblem::OrderRefused {
                order: "spawn".to_owned(),
                reason: "no".to_owned(),
            }),
            "warning: the guard could not carry out `spawn`: no",
        ),
        (
            ignored(9),
            "warning: the guard ignored SIGUSR1 from process 9; it is the parent of all services",
        ),
        (
            ignored(0),
            "warning: the guard ignored SIGUSR1 from the kernel; it is the parent of all services",
        ),
    ]);
}

#[test]
fn problems_of_redis_name_the_remedy() {
    let found = |problem| EventKind::RedisProblemFound { problem };
    let refused = |count, commands: &[&str]| {
        found(RedisProblem::ClientRefused {
            count,
            commands: commands.iter().map(|command| (*command).to_owned()).collect(),
        })
    };
    let damaged = |failure: Option<&str>| {
        found(RedisProblem::DataDamaged {
            cause: "Bad file".to_owned(),
            data: "/d/data".into(),
            moved_to: "/d/damaged-1".into(),
            failure: failure.map(str::to_owned),
        })
    };
    let rest = "of a client without a password; nothing shows that it was the app\n  hint:  a health check or an exporter on \
                this machine does that; if it is the app, build its URL from CELERY_BROKER_URL or REDIS_PASSWORD";
    assert_texts([
        (
            found(RedisProblem::Unavailable {
                timeout_ms: 50_000,
                reason: "at h:1: the connection is refused".to_owned(),
            }),
            "warning: the external Redis is unavailable; waiting for it up to 50s: at h:1: the connection is refused"
                .to_owned(),
        ),
        (refused(1, &["PING"]), format!("warning: Redis refused 1 command (PING) {rest}")),
        (
            refused(4, &["INFO", "PING"]),
            format!("warning: Redis refused 4 commands (INFO, PING) {rest}"),
        ),
        (refused(2, &[]), format!("warning: Redis refused 2 commands {rest}")),
        (
            damaged(None),
            "warning: the data of redis were damaged (Bad file) and are now in /d/damaged-1; redis starts again without \
             data"
                .to_owned(),
        ),
        (
            damaged(Some("no")),
            "warning: the data of redis in /d/data are damaged (Bad file) and could not be moved to /d/damaged-1: no"
                .to_owned(),
        ),
        (
            found(RedisProblem::KeyMistyped {
                key: "celery".to_owned(),
                database: 3,
                found_type: "string".to_owned(),
                expected_type: "list".to_owned(),
                purpose: "the messages of the queue `celery`".to_owned(),
                moved_to: "celery.aside".to_owned(),
            }),
            "warning: the key `celery` is a string; Celery stores the messages of the queue `celery` there, in a list; its \
             value was moved aside to `celery.aside`, and the data of Celery in it is lost\n  hint:  find the program that \
             writes `celery` in database 3 of this Redis"
                .to_owned(),
        ),
    ]);
}

#[test]
fn problems_of_workers_name_the_worker_and_the_remedy() {
    let found = |problem| EventKind::WorkerProblemFound { problem };
    let node = || "w@h".to_owned();
    let absent = |last, is_final| {
        found(WorkerProblem::Absent(ConsumerAbsence {
            queues: vec!["a".to_owned(), "b".to_owned()],
            since: 0,
            last,
            timeout_ms: 90_000,
            is_final,
        }))
    };
    let since = local_time(0);
    let early = |count, tasks: &[&str]| {
        found(WorkerProblem::AcknowledgedEarly {
            count,
            tasks: tasks.iter().map(|task| (*task).to_owned()).collect(),
        })
    };
    let settings = "`[celery] start_timeout` and `restart.backoff_max` together";
    let lose = "a crash can lose their work\n  hint:  the app is finalised at import, or these tasks override the setting: \
                give them `acks_late=True, reject_on_worker_lost=True` where they are defined";
    let processes = [(5, true), (6, false)];
    assert_texts([
        (
            found(WorkerProblem::NameShared(SharedNodeName {
                node: node(),
                processes: processes
                    .map(|(pid, on_this_host)| NodeProcess { pid, on_this_host })
                    .to_vec(),
            })),
            "error: 2 workers have the same name w@h: pid 5 (on this host) and pid 6 (not seen on this host)\n  hint:  stop \
             all but one of them, or give each its own name: `celery worker -n worker2@%h`"
                .to_owned(),
        ),
        (
            found(WorkerProblem::Ended { node: node(), pid: 5 }),
            "warning: the shared worker w@h (pid 5) has ended: tasks that it ran are lost, unless they are acknowledged \
             late"
                .to_owned(),
        ),
        (
            found(WorkerProblem::Silent { node: node(), pid: 5 }),
            "warning: the shared worker w@h (pid 5) does not answer any more\n  hint:  its tasks wait for the visibility \
             timeout; if it is dead, `orch celery restore --node w@h` puts them back at once"
                .to_owned(),
        ),
        (
            absent(None, false),
            format!(
                "error: no worker has consumed the queue `a`, `b` since {since}\n  hint:  start one: sites fail 1m30s after \
                 that ({settings})"
            ),
        ),
        (
            absent(Some(LastConsumer { node: node(), pid: 5 }), true),
            format!(
                "error: no worker has consumed the queue `a`, `b` for 1m30s ({settings}), since {since}: the last, w@h (pid \
                 5), ended or stopped answering\n  hint:  start one, then continue this run with `orch run --resume`"
            ),
        ),
        (
            EventKind::ConsumerReturned {
                queues: vec!["a".to_owned(), "b".to_owned()],
            },
            "a worker consumes the queue `a`, `b` again".to_owned(),
        ),
        (
            found(WorkerProblem::OfAnotherApp {
                node: node(),
                address: "h:1".to_owned(),
                queue: "a".to_owned(),
            }),
            "warning: worker `w@h` on h:1 consumes the queue `a` too, but is of another app: it discards the tasks of this \
             app that it takes\n  hint:  give one of the apps queues of its own (`[celery] queues`), or another database \
             (`[redis] broker_db`)"
                .to_owned(),
        ),
        (
            early(2, &["a.chunk", "b.total"]),
            format!("warning: late acknowledgement does not reach 2 of the worker's tasks: a.chunk, b.total; {lose}"),
        ),
        (
            early(500, &["a"]),
            format!("warning: late acknowledgement does not reach 500 of the worker's tasks: a and 499 more; {lose}"),
        ),
        (
            found(WorkerProblem::AcknowledgementUnknown { reason: None }),
            "warning: the worker does not report which tasks it acknowledges late".to_owned(),
        ),
        (
            found(WorkerProblem::AcknowledgementUnknown {
                reason: Some("no".to_owned()),
            }),
            "warning: could not find out which tasks are acknowledged late: no".to_owned(),
        ),
    ]);
}

#[test]
fn problems_of_the_app_name_the_remedy() {
    let found = |problem| EventKind::AppProblemFound { problem };
    let restored = |requeued| EventKind::MessagesRestored {
        requeued,
        acknowledged: 2,
    };
    assert_texts([
        (
            found(AppProblem::SettingsUnknown {
                app: "shop".to_owned(),
                reason: "no".to_owned(),
            }),
            "warning: the transport settings of the app `shop` are unknown; Celery's defaults are used\n  cause: no",
        ),
        (
            found(AppProblem::SettingsHidden {
                app: "shop".to_owned(),
                options: vec!["a_key".to_owned(), "b_key".to_owned()],
                reason: "no".to_owned(),
            }),
            "warning: the app `shop` sets a_key, b_key, and its worker does not report the value; Celery's default is \
             used\n  cause: no\n  hint:  let `[celery] program` be the `celery` command next to the app's Python",
        ),
        (
            found(AppProblem::ModulesHidden {
                directory: "/srv".into(),
                files: vec!["types.py".to_owned(), "redis.py".to_owned()],
            }),
            "/srv is not put on PYTHONPATH: `types.py`, `redis.py` there would be imported in place of a module that Celery \
             needs\n  hint:  tasks that import a module of that directory when they run do not find it; rename the file, or \
             set PYTHONPATH in `[celery.env]`",
        ),
        (
            restored(1),
            "1 message that a worker had taken and cannot acknowledge was put back; 2 more had finished already",
        ),
        (
            restored(3),
            "3 messages that a worker had taken and cannot acknowledge were put back; 2 more had finished already",
        ),
    ]);
}
