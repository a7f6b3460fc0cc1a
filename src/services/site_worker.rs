//! The worker of one site: how it differs from the one that all sites share. Not here: how either is kept up (`celery`).

use std::path::Path;
use std::time::Duration;

use super::failure::Failure;
use crate::celery::{Control, NodeName, Target};
use crate::config::{BeatMode, CeleryConfig, OwnWorker, RateLimit};
use crate::duration_text::shown;
use crate::run::{ServiceName, SiteName};

/// Where tasks go that a worker's own tasks start and that name no queue.
const DEFAULT_QUEUE: &str = "task.default_queue";
/// For an answer of a worker that has just answered others.
const PATIENCE: Duration = Duration::from_secs(5);

/// No other service has an `@` in its name.
const NAME_BEGIN: &str = "celery@";

/// Its name among the services.
pub fn service_name(site: &SiteName) -> ServiceName {
    ServiceName::new(format!("{NAME_BEGIN}{site}"))
}

/// Whether the service of this name is the worker of a site.
pub fn is_service(name: &str) -> bool {
    name.starts_with(NAME_BEGIN)
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

/// More slots than the site may have would be no limit.
pub(super) fn check_slots(node: &NodeName, slots: u64, wanted: usize, log: &Path) -> Result<(), Failure> {
    if usize::try_from(slots).is_ok_and(|slots| slots <= wanted) {
        return Ok(());
    }
    let what = format!("worker `{node}` has {slots} pool slots, its site may have {wanted}");
    Err(Failure::configuration(what)
        .with_log(log)
        .hint("take `--concurrency` and `--autoscale` out of `[celery] extra_args`"))
}

/// Celery keeps the limit in the worker's memory: it is set after each start.
pub(super) async fn limit(node: &NodeName, rate: &RateLimit, control: &Control, log: &Path) -> Result<(), Failure> {
    let failed = |why: String| {
        let what = format!("limit `{}` to {} in worker `{node}`", rate.task, rate.limit);
        Failure::infrastructure(what).because(why).with_log(log)
    };
    let target = Target::from(node);
    let answered = control.rate_limit(&rate.task, &rate.limit, &target, PATIENCE).await;
    match answered.map_err(|error| failed(error.to_string()))?.of(node) {
        Some(()) => Ok(()),
        None => Err(failed(format!("no answer within {}", shown(PATIENCE)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, LoadOptions};

    #[test]
    fn the_settings_of_all_hold_but_for_what_is_the_site_s() {
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
        // The last one holds.
        assert_eq!(own.extra_args[2..], ["--max-tasks-per-child", "50"]);
    }
}
