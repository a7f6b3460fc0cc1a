//! Generators of notices for property tests: the start of a run, services, the guard, Redis, workers and the app.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::any_values::{service, site, text};
use crate::event::EventKind;
use crate::facts::admission_change::{AdmissionChange, SiteAdmission};
use crate::facts::app_problem::AppProblem;
use crate::facts::guard_problem::GuardProblem;
use crate::facts::leftover_process::{LeftoverProcess, LeftoverProcesses};
use crate::facts::log_problem::{LogFailure, LogProblem};
use crate::facts::redis_problem::RedisProblem;
use crate::facts::request::{RequestAnswer, RequestReceipt, RequestResult, RequestSender, RequestVerb};
use crate::facts::run_file::{RunFile, RunFileFailure};
use crate::facts::state_directory_loss::{PathChange, StateDirectoryLoss};
use crate::facts::unfinished_run::{RunInterruption, UnfinishedRun};
use crate::facts::unread_env_file::UnreadEnvFile;
use crate::facts::worker_problem::{ConsumerAbsence, LastConsumer, NodeProcess, SharedNodeName, WorkerProblem};
use crate::ids::{RequestId, RunId};

fn unread() -> impl Strategy<Value = UnreadEnvFile> {
    (text(), text(), text()).prop_map(|(file, variable, setting)| UnreadEnvFile {
        file: file.into(),
        variable,
        setting: setting.into(),
    })
}

fn redis_problem() -> BoxedStrategy<RedisProblem> {
    prop_oneof![
        (any::<u64>(), text()).prop_map(|(timeout_ms, reason)| RedisProblem::Unavailable { timeout_ms, reason }),
        (any::<u64>(), vec(text(), 0..4)).prop_map(|(count, commands)| RedisProblem::ClientRefused { count, commands }),
        (text(), text(), text(), option::of(text())).prop_map(|(cause, data, moved_to, failure)| {
            RedisProblem::DataDamaged {
                cause,
                data: data.into(),
                moved_to: moved_to.into(),
                failure,
            }
        }),
        (text(), any::<u32>(), text(), text()).prop_map(|(key, database, found_type, purpose)| {
            RedisProblem::KeyMistyped {
                moved_to: format!("{key}.aside"),
                key,
                database,
                found_type,
                expected_type: "list".to_owned(),
                purpose,
            }
        }),
    ]
    .boxed()
}

fn worker_problem() -> BoxedStrategy<WorkerProblem> {
    let process = any::<(u32, bool)>().prop_map(|(pid, on_this_host)| NodeProcess { pid, on_this_host });
    let last = (text(), any::<u32>()).prop_map(|(node, pid)| LastConsumer { node, pid });
    prop_oneof![
        (text(), vec(process, 0..4))
            .prop_map(|(node, processes)| WorkerProblem::NameShared(SharedNodeName { node, processes })),
        (text(), any::<u32>()).prop_map(|(node, pid)| WorkerProblem::Ended { node, pid }),
        (text(), any::<u32>()).prop_map(|(node, pid)| WorkerProblem::Silent { node, pid }),
        (vec(text(), 0..3), any::<u32>(), option::of(last), any::<(u64, bool)>()).prop_map(
            |(queues, since, last, (timeout_ms, is_final))| WorkerProblem::Absent(ConsumerAbsence {
                queues,
                since: since.into(),
                last,
                timeout_ms,
                is_final,
            })
        ),
        (text(), text(), text()).prop_map(|(node, address, queue)| WorkerProblem::OfAnotherApp {
            node,
            address,
            queue
        }),
        (any::<u64>(), vec(text(), 0..4)).prop_map(|(count, tasks)| WorkerProblem::AcknowledgedEarly { count, tasks }),
        option::of(text()).prop_map(|reason| WorkerProblem::AcknowledgementUnknown { reason }),
    ]
    .boxed()
}

fn app_problem() -> impl Strategy<Value = AppProblem> {
    prop_oneof![
        (text(), text()).prop_map(|(app, reason)| AppProblem::SettingsUnknown { app, reason }),
        (text(), vec(text(), 0..4), text()).prop_map(|(app, options, reason)| AppProblem::SettingsHidden {
            app,
            options,
            reason
        }),
        (text(), vec(text(), 0..4)).prop_map(|(directory, files)| AppProblem::ModulesHidden {
            directory: directory.into(),
            files
        }),
    ]
}

fn guard_problem() -> impl Strategy<Value = GuardProblem> {
    prop_oneof![
        option::of(text()).prop_map(|unsure| GuardProblem::LostInStop { unsure }),
        (text(), text()).prop_map(|(order, reason)| GuardProblem::OrderRefused { order, reason }),
        any::<(i32, u32)>().prop_map(|(signal, sender)| GuardProblem::SignalIgnored { signal, sender }),
    ]
}

pub(crate) fn of_start() -> BoxedStrategy<EventKind> {
    let ends = vec![
        RunInterruption::Died,
        RunInterruption::Interrupted,
        RunInterruption::Failed,
    ];
    let files = vec![
        RunFile::Journal,
        RunFile::Summary,
        RunFile::Log,
        RunFile::Ports,
        RunFile::Instance,
        RunFile::EndedInstance,
        RunFile::DeadRuns,
        RunFile::Requests,
    ];
    let log_failures = vec![
        LogFailure::HeadNotMoved,
        LogFailure::HeadNotCut,
        LogFailure::LinesAtRisk,
        LogFailure::NotWatched,
    ];
    let changes = vec![PathChange::Removed, PathChange::Replaced];
    let processes = || {
        let process = (any::<i32>(), service(), proptest::option::of(text()))
            .prop_map(|(pid, service, reason)| LeftoverProcess { pid, service, reason });
        vec(process, 0..5)
    };
    prop_oneof![
        (text(), proptest::sample::select(ends), any::<(u32, u8, u8)>()).prop_map(
            |(run_id, how, (at, complete, sites))| EventKind::UnfinishedRunFound(UnfinishedRun {
                run_id: RunId::new(run_id),
                how,
                ended_at: at.into(),
                complete: complete.into(),
                sites: sites.into(),
            })
        ),
        (processes(), processes())
            .prop_map(|(ended, alive)| EventKind::LeftoverProcessesEnded(LeftoverProcesses { ended, alive })),
        (proptest::sample::select(files), text(), text()).prop_map(|(file, path, reason)| {
            EventKind::RunFileFailed(RunFileFailure {
                file,
                path: path.into(),
                reason,
            })
        }),
        (proptest::sample::select(log_failures), text(), text()).prop_map(|(failure, log, reason)| {
            EventKind::LogProblemFound(LogProblem {
                log: log.into(),
                failure,
                reason,
            })
        }),
        (proptest::sample::select(changes), text(), any::<i32>()).prop_map(|(change, path, pid)| {
            EventKind::StateDirectoryLost(StateDirectoryLoss {
                path: path.into(),
                change,
                pid,
            })
        }),
        unread().prop_map(EventKind::EnvFileUnread),
    ]
    .boxed()
}

pub(crate) fn of_requests() -> BoxedStrategy<EventKind> {
    let by = (any::<i32>(), text()).prop_map(|(pid, user)| RequestSender { pid, user });
    let verb = prop_oneof![
        service().prop_map(|service| RequestVerb::Stop { service }),
        service().prop_map(|service| RequestVerb::Start { service }),
        service().prop_map(|service| RequestVerb::Restart { service }),
        site().prop_map(|site| RequestVerb::StopSite { site }),
        site().prop_map(|site| RequestVerb::StartSite { site }),
        site().prop_map(|site| RequestVerb::RetrySite { site }),
        Just(RequestVerb::Pause),
        Just(RequestVerb::Resume),
        Just(RequestVerb::Drain),
        Just(RequestVerb::RefreshProxies),
        Just(RequestVerb::Down),
    ];
    let results = vec![RequestResult::Done, RequestResult::NothingToDo, RequestResult::Refused];
    let id = || text().prop_map(RequestId::new);
    prop_oneof![
        (id(), by, verb).prop_map(|(id, by, verb)| EventKind::RequestReceived(RequestReceipt { id, by, verb })),
        (option::of(id()), proptest::sample::select(results), text())
            .prop_map(|(id, result, detail)| EventKind::RequestAnswered(RequestAnswer { id, result, detail })),
        proptest::sample::select(vec![
            SiteAdmission::Open,
            SiteAdmission::Paused,
            SiteAdmission::Draining
        ])
        .prop_map(|admission| EventKind::SiteAdmissionChanged(AdmissionChange { admission })),
    ]
    .boxed()
}

pub(crate) fn of_problems() -> BoxedStrategy<EventKind> {
    prop_oneof![
        guard_problem().prop_map(|problem| EventKind::GuardProblemFound { problem }),
        (service(), text(), option::of(unread())).prop_map(|(service, reason, unread)| EventKind::ServiceGivenUp {
            service,
            reason,
            unread
        }),
        service().prop_map(|service| EventKind::ServiceLogEmpty { service }),
        redis_problem().prop_map(|problem| EventKind::RedisProblemFound { problem }),
        worker_problem().prop_map(|problem| EventKind::WorkerProblemFound { problem }),
        vec(text(), 0..3).prop_map(|queues| EventKind::ConsumerReturned { queues }),
        app_problem().prop_map(|problem| EventKind::AppProblemFound { problem }),
        any::<(u64, u64)>().prop_map(|(requeued, acknowledged)| EventKind::MessagesRestored { requeued, acknowledged }),
    ]
    .boxed()
}
