//! The pool of a worker: the place where it runs tasks decides when it answers.

use orch_celery::WorkerStats;

/// The place where a worker runs tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolKind {
    /// In separate processes: no task can keep the main process from answering.
    Separate,
    /// In threads of the main process: a task that computes without a break keeps the process from answering, one that
    /// waits does not.
    Threads,
    /// In the main process, in turns with the code that answers: a task that computes, or waits without yielding, keeps
    /// the worker from answering.
    Shared,
    /// In the main process, in place of the code that answers: the worker answers only between two tasks, and events
    /// wait until then as well.
    Solo,
}

impl PoolKind {
    /// Reads the pool that a worker reports. `configured` is used only if an old version reports none.
    pub(crate) fn of(stats: &WorkerStats, configured: &str) -> Self {
        let named = stats.pool_implementation.as_deref();
        let class = |name: &str| {
            let module = name.split(':').next().unwrap_or_default();
            match module.rsplit('.').next().unwrap_or_default() {
                "prefork" | "processes" | "asynpool" => Self::Separate,
                "solo" => Self::Solo,
                "thread" | "threads" => Self::Threads,
                _ => Self::Shared,
            }
        };
        match (named, stats.pool_processes.as_slice()) {
            (Some(name), _) => class(name),
            // A solo pool reports the main process as a pool process.
            (None, [only]) if *only == stats.pid => Self::Solo,
            (None, []) => class(configured),
            (None, _) => Self::Separate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_the_one_that_the_worker_reports() {
        let stats = |implementation: Option<&str>, processes: &[u32]| WorkerStats {
            pid: 7,
            pool_slots: 1,
            pool_processes: processes.to_vec(),
            pool_implementation: implementation.map(str::to_owned),
            ..WorkerStats::default()
        };
        for (implementation, processes, configured, expected) in [
            (
                Some("celery.concurrency.prefork:TaskPool"),
                vec![8, 9],
                "solo",
                PoolKind::Separate,
            ),
            (
                Some("celery.concurrency.solo:TaskPool"),
                vec![7],
                "prefork",
                PoolKind::Solo,
            ),
            (
                Some("celery.concurrency.gevent:TaskPool"),
                vec![],
                "prefork",
                PoolKind::Shared,
            ),
            (
                Some("celery.concurrency.eventlet:TaskPool"),
                vec![],
                "prefork",
                PoolKind::Shared,
            ),
            (
                Some("celery.concurrency.thread:TaskPool"),
                vec![],
                "prefork",
                PoolKind::Threads,
            ),
            (
                Some("celery_aio_pool.pool:AsyncIOPool"),
                vec![],
                "prefork",
                PoolKind::Shared,
            ),
            (None, vec![7], "prefork", PoolKind::Solo),
            (None, vec![8], "solo", PoolKind::Separate),
            (None, vec![], "gevent", PoolKind::Shared),
            (None, vec![], "prefork", PoolKind::Separate),
        ] {
            let found = PoolKind::of(&stats(implementation, &processes), configured);
            assert_eq!(found, expected, "{implementation:?} {processes:?} {configured}");
        }
    }
}
