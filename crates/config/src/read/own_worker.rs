//! The worker of one site: `workers`, `max_chunks_in_flight` and `rate` of `[sites."<name>"]`.

use std::time::Duration;

use super::item::ConfigItem;
use super::section::Section;
use crate::model::{Config, OwnWorker, RateLimit};
use crate::syntax::problem::Problem;

use super::policy;
use super::task::task_name;

/// Number of pool slots of one worker, as in `[celery]`.
const SLOTS: std::ops::RangeInclusive<i64> = 1..=100_000;

/// Returns the name of the queue that only the worker of this site consumes.
fn queue(site: &str) -> String {
    format!("scrape.{site}")
}

/// Reads the worker's keys of a site; without `is_site` they are defaults, which may be incomplete.
pub(crate) fn own_worker(section: &Section<'_>, site: &str, is_site: bool) -> Option<OwnWorker> {
    let at_most = section.read("max_chunks_in_flight", |item| item.integer(SLOTS));
    let rate = section.read("rate", rate);
    let workers = section.section("workers");
    let is_wanted = workers.is_written() || section.place("max_chunks_in_flight").is_some();
    let concurrency = match at_most {
        Some(at_most) => workers
            .read("concurrency", |item| item.integer(SLOTS))
            .map_or(at_most, |slots: usize| slots.min(at_most)),
        None if is_site && workers.is_written() => workers.required("concurrency", "3", |item| item.integer(SLOTS)),
        None => workers.read_or("concurrency", 1, |item| item.integer(SLOTS)),
    };
    let max_memory = workers.read("max_memory", ConfigItem::positive_size);
    let max_tasks_per_child = workers.read("max_tasks_per_child", |item| item.integer(1..=i64::from(u32::MAX)));
    let log = policy::log_keys(&workers);
    workers.finish();
    if !is_wanted {
        if let (true, Some(item)) = (is_site, section.item("rate")) {
            section.reading.report(not_only_of_site(&item));
        }
        return None;
    }
    Some(OwnWorker {
        queue: queue(site),
        concurrency,
        max_memory,
        max_tasks_per_child,
        log,
        rate,
    })
}

/// Reports a queue that both the worker of one site and the worker of all sites would consume.
pub(crate) fn check_queues(root: &Section<'_>, config: &Config) {
    let queues = &config.celery.queues;
    for queue in config
        .own_queues()
        .filter(|own| queues.iter().any(|queue| queue == own))
    {
        let title =
            format!("the worker of all sites must not consume `{queue}`, which is the queue of one site's own worker");
        let problem = Problem::new(title).at_if(
            root.section("celery").place("queues"),
            "queues of the worker of all sites",
        );
        root.reading
            .report(problem.help(format!("remove `{queue}` from `[celery] queues`")));
    }
}

/// Returns the problem of a rate that would limit other sites too.
fn not_only_of_site(item: &ConfigItem<'_>) -> Problem {
    item.problem(
        format!("`{}` needs a worker for this site only", item.path),
        "a worker limits a task for all sites together",
    )
    .help("give the site a worker: `workers = { concurrency = 2 }`, or `max_chunks_in_flight = 2`")
}

fn rate(item: &ConfigItem<'_>) -> Option<RateLimit> {
    let Some(section) = Section::of(item, item.span()) else {
        return item.wrong("a table such as `{ task = \"scraping.tasks.chunk\", limit = \"30/m\" }`");
    };
    let rate = RateLimit {
        task: section.required("task", "\"scraping.tasks.chunk\"", task_name),
        limit: section.required("limit", "\"30/m\"", limit),
    };
    section.finish();
    Some(rate)
}

fn limit(item: &ConfigItem<'_>) -> Option<String> {
    let text = item.line()?;
    if interval(&text).is_some() {
        return Some(text);
    }
    item.refuse(
        format!("`{text}` is not a rate"),
        "write a number per second, minute or hour: `10/s`, `30/m`, `100/h`",
    )
}

/// Returns the time from the start of one task to the start of the next.
fn interval(limit: &str) -> Option<Duration> {
    let (count, unit) = limit.split_once('/')?;
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    if !count.chars().all(|digit| digit.is_ascii_digit() || digit == '.') {
        return None;
    }
    let count: f64 = count.parse().ok()?;
    // A rate that is extremely slow, or too fast to limit anything, is a mistake.
    (0.001..=1e6)
        .contains(&count)
        .then(|| Duration::from_secs_f64(seconds / count))
}

impl RateLimit {
    /// Returns the time from the start of one task to the start of the next.
    pub fn interval(&self) -> Duration {
        interval(&self.limit).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_as_celery_reads_them() {
        let seconds = |limit| interval(limit).map(|interval| interval.as_secs_f64());
        for (limit, expected) in [
            ("10/s", Some(0.1)),
            ("30/m", Some(2.0)),
            ("0.5/m", Some(120.0)),
            ("100/h", Some(36.0)),
            ("30", None),
            ("0/m", None),
            ("-1/s", None),
            ("1e3/s", None),
            ("inf/s", None),
            ("30/d", None),
            ("30 / m", None),
            ("/m", None),
        ] {
            assert_eq!(seconds(limit), expected, "{limit}");
        }
    }
}
