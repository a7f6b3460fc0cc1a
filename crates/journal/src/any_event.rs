//! Generators of events for property tests: every kind, with arbitrary values.
//!
//! The strategies are boxed: unboxed, the strategy of all kinds is too large for the stack of a test.

use proptest::option;
use proptest::prelude::*;

use crate::any_fact::{of_problems, of_requests, of_start};
use crate::any_failure::of_failures;
use crate::any_notice::{of_leases, of_resources};
use crate::any_values::{service, site, text};
use crate::end_cause::EndCause;
use crate::event::{Event, EventKind, JOURNAL_FORMAT};
use crate::event_values::{FollowStage, NoticeLevel, PlannedService, ProgressSource, RunCommand, StopReason};
use crate::exit_status::ExitStatus;
use crate::facts::proxy_pool_count::ProxyPoolCount;
use crate::facts::proxy_refresh_job::ProxyRefreshJob;
use crate::facts::redis_leftovers::RedisLeftovers;
use crate::facts::run_start::RunStart;
use crate::facts::state_snapshot::StateSnapshot;
use crate::health::{HealthAction, SiteHealth, SiteMetrics};
use crate::ids::{JobId, RunId};
use crate::left_out::LeftOutProxies;
use crate::resumption::{InterruptedJob, InterruptedSite, Resumption, SiteRemainder};
use crate::run_outcome::RunOutcome;
use crate::site_counts::SiteCounts;
use crate::site_status::SiteStatus;
use crate::state::model::RunState;

fn counts() -> impl Strategy<Value = SiteCounts> {
    let number = || option::of(prop_oneof![0..20_u64, any::<u64>()]);
    (number(), number(), number(), number(), number()).prop_map(
        |(total_urls, total_chunks, completed_chunks, results, errors)| SiteCounts {
            total_urls,
            total_chunks,
            completed_chunks,
            results,
            errors,
        },
    )
}

fn status() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        any::<i32>().prop_map(ExitStatus::Code),
        any::<(i32, bool)>().prop_map(|(signal, core_dumped)| ExitStatus::Signal { signal, core_dumped }),
        Just(ExitStatus::Unknown),
    ]
}

fn stage() -> impl Strategy<Value = FollowStage> {
    proptest::sample::select(vec![
        FollowStage::Dispatch,
        FollowStage::Chord,
        FollowStage::ProgressKeys,
        FollowStage::FileTime,
        FollowStage::TaskEvents,
    ])
}

fn verdict() -> impl Strategy<Value = (SiteHealth, Option<HealthAction>, Option<f64>)> {
    let healths = vec![
        SiteHealth::Healthy,
        SiteHealth::Slow,
        SiteHealth::Failing,
        SiteHealth::Stalled,
    ];
    let actions = vec![
        HealthAction::Warn,
        HealthAction::Cancel,
        HealthAction::Fail,
        HealthAction::RefreshProxies,
    ];
    (
        proptest::sample::select(healths),
        option::of(proptest::sample::select(actions)),
        option::of(0.0..1e5_f64),
    )
}

fn resumption() -> BoxedStrategy<Resumption> {
    let job = (any::<u32>(), text(), option::of(text()), option::of(any::<u64>())).prop_map(
        |(attempt, task_id, job_id, fencing_token)| InterruptedJob {
            attempt,
            task_id,
            job_id: job_id.map(JobId::new),
            fencing_token,
        },
    );
    let progress = prop_oneof![
        (counts(), option::of(text())).prop_map(|(counts, shortfall)| SiteRemainder::Kept { counts, shortfall }),
        job.prop_map(SiteRemainder::InFlight),
        option::of(any::<u64>()).prop_map(|fencing_token| SiteRemainder::ToDo { fencing_token }),
    ];
    let so_far = (site(), progress).prop_map(|(site, progress)| InterruptedSite { site, progress });
    (text(), proptest::collection::vec(so_far, 0..6))
        .prop_map(|(run_id, sites)| Resumption {
            run_id: RunId::new(run_id),
            sites,
        })
        .boxed()
}

fn of_run() -> BoxedStrategy<EventKind> {
    let reasons = vec![
        StopReason::Finished,
        StopReason::Failure,
        StopReason::Requested,
        StopReason::Hangup,
        StopReason::Terminate,
        StopReason::Interrupt,
    ];
    let outcomes = vec![
        RunOutcome::Succeeded,
        RunOutcome::SitesFailed,
        RunOutcome::ConfigurationError,
        RunOutcome::InfrastructureFailed,
        RunOutcome::NotEnoughProxies,
        RunOutcome::Busy,
        RunOutcome::Interrupted,
        RunOutcome::Terminated,
        RunOutcome::HungUp,
    ];
    let commands = proptest::sample::select(vec![RunCommand::Run, RunCommand::Up]);
    let planned = (service(), any::<bool>()).prop_map(|(name, oneshot)| PlannedService { name, oneshot });
    let levels = proptest::sample::select(vec![NoticeLevel::Info, NoticeLevel::Warning, NoticeLevel::Error]);
    prop_oneof![
        (
            (text(), commands, text(), text()),
            (text(), text(), any::<i32>(), any::<i32>()),
            proptest::collection::vec(planned, 0..12),
            (proptest::collection::vec(site(), 0..12), option::of(resumption())),
        )
            .prop_map(
                |(
                    (run_id, command, version, instance),
                    (config, directory, pid, guard_pid),
                    services,
                    (sites, resumes),
                )| {
                    EventKind::RunStarted(RunStart {
                        format: JOURNAL_FORMAT,
                        run_id: RunId::new(run_id),
                        command,
                        version,
                        instance,
                        config: config.into(),
                        directory: directory.into(),
                        pid,
                        guard_pid,
                        services,
                        sites,
                        resumes,
                    })
                }
            ),
        (levels, text()).prop_map(|(level, message)| EventKind::Noticed { level, message }),
        (proptest::sample::select(reasons), any::<u64>())
            .prop_map(|(reason, bound_ms)| EventKind::StopStarted { reason, bound_ms }),
        Just(EventKind::StopHurried),
        any::<u64>().prop_map(|elapsed_ms| EventKind::StopFinished { elapsed_ms }),
        (proptest::sample::select(outcomes), option::of(text())).prop_map(|(outcome, error)| {
            EventKind::RunFinished {
                outcome,
                exit_code: outcome.exit_code(),
                error,
            }
        }),
        any::<(u64, u64, u64, bool)>().prop_map(|(queued, unacked, keys, removed)| EventKind::LeftoversFound(
            RedisLeftovers {
                queued,
                unacked,
                keys,
                removed
            }
        )),
    ]
    .boxed()
}

fn of_services() -> BoxedStrategy<EventKind> {
    prop_oneof![
        (service(), any::<u32>()).prop_map(|(service, attempt)| EventKind::ServiceStarting { service, attempt }),
        (service(), any::<i32>()).prop_map(|(service, pid)| EventKind::ServiceSpawned { service, pid }),
        (service(), any::<u64>(), text()).prop_map(|(service, elapsed_ms, detail)| EventKind::ServiceReady {
            service,
            elapsed_ms,
            detail
        }),
        (service(), text()).prop_map(|(service, detail)| EventKind::ServiceReused { service, detail }),
        (service(), any::<u64>()).prop_map(|(service, elapsed_ms)| EventKind::ServiceCompleted { service, elapsed_ms }),
        (service(), text()).prop_map(|(service, reason)| EventKind::ServiceUnhealthy { service, reason }),
        (service(), any::<u64>())
            .prop_map(|(service, memory_bytes)| EventKind::ServicePeaked { service, memory_bytes }),
        (service(), text(), text()).prop_map(|(service, queue, reason)| EventKind::ConsumerAdded {
            service,
            queue,
            reason
        }),
        (service(), status(), text()).prop_map(|(service, status, log)| EventKind::ServiceExited {
            service,
            status,
            log: log.into()
        }),
        (service(), any::<u32>(), any::<u64>(), text()).prop_map(|(service, attempt, backoff_ms, reason)| {
            EventKind::ServiceRestarting {
                service,
                attempt,
                backoff_ms,
                reason,
            }
        }),
        (service(), text(), option::of(text())).prop_map(|(service, reason, log)| EventKind::ServiceFailed {
            service,
            reason,
            log: log.map(Into::into)
        }),
        service().prop_map(|service| EventKind::ServiceStopping { service }),
        (service(), status()).prop_map(|(service, status)| EventKind::ServiceStopped { service, status }),
    ]
    .boxed()
}

fn of_proxies() -> BoxedStrategy<EventKind> {
    prop_oneof![
        (text(), any::<(u64, u64, u64)>(), 1..=u64::MAX, option::of(text())).prop_map(
            |(file, (total, usable, min_usable), too_old, problem)| EventKind::ProxiesCounted(ProxyPoolCount {
                file: file.into(),
                total,
                usable,
                min_usable,
                left_out: LeftOutProxies {
                    too_old,
                    max_age_ms: total,
                    dead: usable,
                },
                problem,
            })
        ),
        (any::<u32>(), text()).prop_map(|(attempt, task_id)| EventKind::ProxyRefreshStarted { attempt, task_id }),
        (option::of(text()), option::of(text()), any::<(Option<u64>, u64)>()).prop_map(
            |(job_id, chord_id, (total_chunks, timeout_ms))| EventKind::ProxyRefreshDispatched(ProxyRefreshJob {
                job_id: job_id.map(JobId::new),
                chord_id,
                total_chunks,
                timeout_ms,
            })
        ),
        (stage(), text()).prop_map(|(stage, reason)| EventKind::ProxyStageEntered { stage, reason }),
        any::<(u64, Option<u64>)>().prop_map(|(done, total)| EventKind::ProxyRefreshProgressed { done, total }),
        any::<u64>().prop_map(|elapsed_ms| EventKind::ProxyRefreshFinished { elapsed_ms }),
        (text(), any::<bool>()).prop_map(|(reason, will_retry)| EventKind::ProxyRefreshFailed { reason, will_retry }),
    ]
    .boxed()
}

fn cause() -> impl Strategy<Value = EndCause> {
    prop_oneof![
        any::<(u64, Option<u64>)>().prop_map(|(least, median)| EndCause::TooFewResults { least, median }),
        any::<(u32, Option<u64>)>().prop_map(|(in_a_row, median)| EndCause::Failure { in_a_row, median }),
        Just(EndCause::Refused),
        Just(EndCause::ByAnotherRun),
        any::<(u32, u32, Option<u64>)>().prop_map(|(failures, runs, median)| EndCause::SkippedAfterFailures {
            failures,
            runs,
            median
        }),
    ]
}

fn of_sites() -> BoxedStrategy<EventKind> {
    let sources = vec![ProgressSource::Chord, ProgressSource::Keys, ProgressSource::Events];
    let ends = vec![
        SiteStatus::Complete,
        SiteStatus::Degraded,
        SiteStatus::Failed,
        SiteStatus::Cancelled,
        SiteStatus::Skipped,
        SiteStatus::Unknown,
    ];
    // Fields of the start of an attempt, dispatched by this run or by an earlier one.
    let attempt = || {
        (
            site(),
            any::<u32>(),
            text(),
            option::of(text()),
            option::of(any::<u64>()),
        )
    };
    prop_oneof![
        any::<u64>().prop_map(|in_ms| EventKind::EndExpected { in_ms }),
        (site(), proptest::collection::vec(site(), 0..4))
            .prop_map(|(site, waits_for)| EventKind::SiteWaiting { site, waits_for }),
        site().prop_map(|site| EventKind::SiteQueued { site }),
        attempt().prop_map(
            |(site, attempt, task_id, job_id, fencing_token)| EventKind::SiteDispatched {
                site,
                attempt,
                task_id,
                job_id: job_id.map(JobId::new),
                fencing_token,
            }
        ),
        attempt().prop_map(
            |(site, attempt, task_id, job_id, fencing_token)| EventKind::SitePickedUp {
                site,
                attempt,
                task_id,
                job_id: job_id.map(JobId::new),
                fencing_token,
            }
        ),
        (site(), text(), option::of(text()), counts(), any::<u64>()).prop_map(
            |(site, job_id, chord_id, counts, timeout_ms)| EventKind::SiteJobStarted {
                site,
                job_id: JobId::new(job_id),
                chord_id,
                counts,
                timeout_ms,
            }
        ),
        (site(), stage(), text()).prop_map(|(site, stage, reason)| EventKind::SiteStageEntered { site, stage, reason }),
        (site(), counts(), proptest::sample::select(sources))
            .prop_map(|(site, counts, source)| EventKind::SiteProgressed { site, counts, source }),
        (site(), text()).prop_map(|(site, chord_id)| EventKind::SiteChordCompleted { site, chord_id }),
        (site(), any::<(u64, Option<u64>)>(), text(), verdict()).prop_map(
            |(site, (number, maybe), reason, (health, action, chunks_per_minute))| EventKind::SiteVerdict {
                site,
                health,
                reason,
                action,
                vitals: SiteMetrics {
                    window: number,
                    failed: number,
                    failed_in_a_row: number,
                    chunks_per_minute,
                    chunk_p50_ms: maybe,
                    chunk_p95_ms: maybe,
                    quiet_ms: number,
                },
            }
        ),
        (site(), text()).prop_map(|(site, by)| EventKind::SiteStopRequested { site, by }),
        (site(), any::<(u32, u64)>(), text()).prop_map(|(site, (attempt, backoff_ms), reason)| {
            EventKind::SiteRetrying {
                site,
                attempt,
                backoff_ms,
                reason,
            }
        }),
        (
            site(),
            proptest::sample::select(ends),
            counts(),
            any::<u64>(),
            (option::of(text()), option::of(site()), option::of(cause()))
        )
            .prop_map(|(site, status, counts, elapsed_ms, (reason, dependency, cause))| {
                EventKind::SiteFinished {
                    site,
                    status,
                    counts,
                    elapsed_ms,
                    reason,
                    dependency,
                    cause,
                }
            }),
    ]
    .boxed()
}

/// Generates a snapshot of services.
fn of_snapshot() -> BoxedStrategy<EventKind> {
    let fold = |kinds: Vec<EventKind>| {
        let mut state = RunState::default();
        for (kind, seq) in kinds.into_iter().zip(1..) {
            let (at, elapsed) = (1e9, 1.0);
            state.apply(&Event { seq, at, elapsed, kind });
        }
        EventKind::StateTaken(StateSnapshot { state: Box::new(state) })
    };
    proptest::collection::vec(of_services(), 0..6).prop_map(fold).boxed()
}

/// Generates an event of any kind; the times are finite, as in JSON, and mostly typical of a run.
pub fn any_event() -> BoxedStrategy<Event> {
    let time = || prop_oneof![0.0..1e5_f64, proptest::num::f64::NORMAL | proptest::num::f64::ZERO];
    (
        any::<u64>(),
        time(),
        time(),
        prop_oneof![
            of_run(),
            of_services(),
            of_snapshot(),
            of_proxies(),
            of_sites(),
            of_leases(),
            of_failures(),
            of_resources(),
            of_start(),
            of_problems(),
            of_requests()
        ],
    )
        .prop_map(|(seq, at, elapsed, kind)| Event { seq, at, elapsed, kind })
        .boxed()
}
