//! The worker of one site, and the differences from the worker that all sites share. Not here: the supervision of both.

use std::path::Path;
use std::time::Duration;

use orch_base::text::duration_text::shown;
use orch_celery::{ControlTarget, NodeName, RemoteControl};
use orch_config::{BeatMode, CeleryConfig, OwnWorker, RateLimit};
use orch_journal::failure::ServiceFailure;
use orch_journal::{ServiceName, SiteName};

/// Setting with the queue for tasks that the worker's tasks start without naming a queue.
const DEFAULT_QUEUE: &str = "task.default_queue";
/// Longest wait for the answer of a worker that has just answered others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Prefix of the service's name; no other service has an `@` in the name.
const NAME_BEGIN: &str = "celery@";

/// Returns the name of the service.
pub fn service_name(site: &SiteName) -> ServiceName {
    ServiceName::new(format!("{NAME_BEGIN}{site}"))
}

/// Returns true if this is the name of a site's worker.
pub fn is_service(name: &str) -> bool {
    name.starts_with(NAME_BEGIN)
}

/// Returns the first part of the node's name, before the `@`.
pub fn node_begin(instance: &str, site: &SiteName) -> String {
    format!("{instance}-{site}")
}

/// Returns the settings of `[celery]` with those of the site's worker.
pub fn settings(celery: &CeleryConfig, worker: &OwnWorker) -> CeleryConfig {
    let mut own = celery.clone();
    own.queues = vec![worker.queue.clone()];
    own.concurrency = worker.concurrency;
    own.max_memory = worker.max_memory.or(celery.max_memory);
    own.log = worker.log.or(celery.log);
    own.settings.insert(DEFAULT_QUEUE.to_owned(), worker.queue.clone());
    // A scheduled task must run once, so only one worker schedules.
    own.beat = BeatMode::Off;
    own.reuse = false;
    // The last option of a name applies.
    if let Some(tasks) = worker.max_tasks_per_child {
        own.extra_args
            .extend(["--max-tasks-per-child".to_owned(), tasks.to_string()]);
    }
    own
}

/// Checks that the worker has no more slots than the site may use.
pub(crate) fn check_slots(node: &NodeName, slots: u64, wanted: usize, log: &Path) -> Result<(), ServiceFailure> {
    if usize::try_from(slots).is_ok_and(|slots| slots <= wanted) {
        return Ok(());
    }
    let what = format!("worker `{node}` has {slots} pool slots, its site may have {wanted}");
    Err(ServiceFailure::configuration(what)
        .with_log(log)
        .hint("take `--concurrency` and `--autoscale` out of `[celery] extra_args`"))
}

/// Sets the rate limit; Celery keeps it in the worker's memory, so the limit is set after each start.
pub(crate) async fn limit(
    node: &NodeName,
    rate: &RateLimit,
    control: &RemoteControl,
    log: &Path,
) -> Result<(), ServiceFailure> {
    let failed = |why: String| {
        let what = format!("could not limit `{}` to {} in worker `{node}`", rate.task, rate.limit);
        ServiceFailure::infrastructure(what).with_cause(why).with_log(log)
    };
    let target = ControlTarget::from(node);
    let answered = control
        .rate_limit(&rate.task, &rate.limit, &target, ANSWER_TIMEOUT)
        .await;
    match answered.map_err(|error| failed(error.to_string()))?.of(node) {
        Some(()) => Ok(()),
        None => Err(failed(format!("no answer within {}", shown(ANSWER_TIMEOUT)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_config::{Config, LoadOptions};

    #[test]
    fn a_site_worker_has_the_shared_settings_except_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let text = "[celery]\napp = 'a'\nbeat = 'embedded'\nmax_memory = '4GiB'\ngrace = '7s'\nacks_late = true\n\
                    extra_args = ['--max-tasks-per-child', '9']\nsettings = { 'task.default_queue' = 'q' }\n\
                    [sites.books]\ndispatch = 't'\nworkers = { concurrency = 3, max_tasks_per_child = 50 }";
        std::fs::write(directory.path().join("orch.toml"), text).unwrap();
        let config = Config::load(LoadOptions {
            directory: directory.path().to_owned(),
            ..LoadOptions::default()
        });
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        let own = settings(&config.celery, config.sites[0].worker.as_ref().unwrap());
        assert_eq!(own.queues, ["scrape.books"]);
        assert_eq!(own.settings[DEFAULT_QUEUE], "scrape.books");
        assert_eq!((own.concurrency, own.beat, own.reuse), (3, BeatMode::Off, false));
        assert_eq!(
            (own.max_memory, own.grace, own.acks_late),
            (Some(4 << 30), Duration::from_secs(7), true)
        );
        // The last option applies.
        assert_eq!(own.extra_args[2..], ["--max-tasks-per-child", "50"]);
    }
}
