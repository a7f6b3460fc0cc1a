//! The worker of one site: how it differs from the one that all sites share. Not here: how either is kept up (`celery`).

use crate::config::{BeatMode, CeleryConfig, OwnWorker};
use crate::run::{ServiceName, SiteName};

/// Where tasks go that a worker's own tasks start and that name no queue.
const DEFAULT_QUEUE: &str = "task.default_queue";

/// Its name among the services; no other has an `@` in it.
pub fn service_name(site: &SiteName) -> ServiceName {
    ServiceName::new(format!("celery@{site}"))
}

/// What its node's name begins with, before the `@`.
pub fn node_begin(instance: &str, site: &SiteName) -> String {
    format!("{instance}-{site}")
}

/// `[celery]` as it holds for the worker of a site.
pub fn settings(celery: &CeleryConfig, worker: &OwnWorker) -> CeleryConfig {
    let mut own = celery.clone();
    own.queues = vec![worker.queue.clone()];
    own.concurrency = worker.concurrency;
    own.max_memory = worker.max_memory.or(celery.max_memory);
    own.settings.insert(DEFAULT_QUEUE.to_owned(), worker.queue.clone());
    // Tasks that are due are due once, whoever does them.
    own.beat = BeatMode::Off;
    own.reuse = false;
    // The last one of a name holds.
    if let Some(tasks) = worker.max_tasks_per_child {
        own.extra_args
            .extend(["--max-tasks-per-child".to_owned(), tasks.to_string()]);
    }
    own
}
