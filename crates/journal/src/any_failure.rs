//! Generators of events about failed tasks, for property tests.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::any_values::{site, text};
use crate::event::EventKind;
use crate::facts::failed_task::{FailedTask, LogExcerpt, TaskEndKind};
use crate::facts::site_errors::{ErrorCount, SiteErrors};

fn failed_task() -> impl Strategy<Value = FailedTask> {
    let kinds = vec![
        TaskEndKind::Raised,
        TaskEndKind::TimeLimit,
        TaskEndKind::ProcessLost,
        TaskEndKind::Revoked,
        TaskEndKind::Expired,
        TaskEndKind::Rejected,
        TaskEndKind::ResultUnstorable,
        TaskEndKind::HeaderFailed,
    ];
    let log = (text(), vec(text(), 0..3)).prop_map(|(file, lines)| LogExcerpt {
        file: file.into(),
        lines,
    });
    (
        (option::of(site()), any::<u32>(), proptest::sample::select(kinds)),
        (text(), text(), option::of(text()), text()),
        (
            option::of(text()),
            option::of(text()),
            any::<Option<u64>>(),
            option::of(log),
        ),
    )
        .prop_map(
            |((site, attempt, kind), (signature, exception, traceback, task_id), (task, worker, chunk, log))| {
                FailedTask {
                    site,
                    attempt,
                    signature,
                    kind,
                    exception,
                    traceback,
                    task_id,
                    task,
                    worker,
                    chunk,
                    log,
                }
            },
        )
}

pub(crate) fn of_failures() -> BoxedStrategy<EventKind> {
    let error = (text(), any::<u64>(), 0.0..1e9_f64, 0.0..1e9_f64).prop_map(|(signature, count, first_at, last_at)| {
        ErrorCount {
            signature,
            count,
            first_at,
            last_at,
        }
    });
    prop_oneof![
        failed_task().prop_map(|failed| EventKind::TaskFailed(Box::new(failed))),
        (site(), vec(error, 0..4), any::<u64>())
            .prop_map(|(site, errors, others)| EventKind::SiteErrorsCounted(SiteErrors { site, errors, others })),
    ]
    .boxed()
}
