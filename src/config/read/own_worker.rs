//! A site's worker of its own: `workers`, `max_chunks_in_flight` and `rate` of `[sites."<name>"]`.

use std::time::Duration;

use crate::config::item::Item;
use crate::config::model::{Config, OwnWorker, RateLimit};
use crate::config::problem::Problem;
use crate::config::section::Section;

use super::task::task_name;

/// Pool slots of one worker, as in `[celery]`.
const SLOTS: std::ops::RangeInclusive<i64> = 1..=100_000;

/// The queue that nobody but the worker of this site consumes.
fn queue(site: &str) -> String {
    format!("scrape.{site}")
}

/// What the keys of a site come to; without `is_site` they are read as defaults, which need not be complete.
pub(super) fn own_worker(section: &Section<'_>, site: &str, is_site: bool) -> Option<OwnWorker> {
    let at_most = section.read("max_chunks_in_flight", |item| item.integer(SLOTS));
    let rate = section.read("rate", rate);
    let workers = section.section("workers");
    let is_wanted = workers.is_written() || section.place("max_chunks_in_flight").is_some();
    let concurrency = match at_most {
        Some(at_most) => workers
            .read("concurrency", |item| item.integer(SLOTS))
            .map_or(at_most, |slots: usize| slots.min(at_most)),
        None if is_site && workers.is_written() => workers.required("concurrency", "3", |item| item.integer(SLOTS)),
        None => workers.or("concurrency", 1, |item| item.integer(SLOTS)),
    };
    let max_memory = workers.read("max_memory", Item::positive_size);
    let max_tasks_per_child = workers.read("max_tasks_per_child", |item| item.integer(1..=i64::from(u32::MAX)));
    workers.finish();
    if !is_wanted {
        if let (true, Some(item)) = (is_site, section.item("rate")) {
            section.reading.report(of_all(&item));
        }
        return None;
    }
    Some(OwnWorker {
        queue: queue(site),
        concurrency,
        max_memory,
        max_tasks_per_child,
        rate,
    })
}

/// Reports a queue that is to be of one site's worker, and is of that of all as well.
pub(in crate::config) fn check_queues(root: &Section<'_>, config: &Config) {
    let queues = &config.celery.queues;
    for queue in config
        .own_queues()
        .filter(|own| queues.iter().any(|queue| queue == own))
    {
        let title = format!("the worker of all sites is to consume `{queue}`, the queue of one site's own worker");
        let problem = Problem::new(title).at_if(root.section("celery").place("queues"), "of all sites");
        root.reading
            .report(problem.help(format!("take `{queue}` out of `[celery] queues`")));
    }
}

/// A rate that would not be the site's alone.
fn of_all(item: &Item<'_>) -> Problem {
    item.problem(
        format!("`{}` needs a worker of the site's own", item.path),
        "a worker limits a task, whichever site it is for",
    )
    .help("give the site a worker: `workers = { concurrency = 2 }`, or `max_chunks_in_flight = 2`")
}

fn rate(item: &Item<'_>) -> Option<RateLimit> {
    let Some(section) = Section::of(item, item.span()) else {
        item.wrong("a table such as `{ task = \"scraping.tasks.chunk\", limit = \"30/m\" }`");
        return None;
    };
    let rate = RateLimit {
        task: section.required("task", "\"scraping.tasks.chunk\"", task_name),
        limit: section.required("limit", "\"30/m\"", limit),
    };
    section.finish();
    Some(rate)
}

fn limit(item: &Item<'_>) -> Option<String> {
    let text = item.line()?;
    if interval(&text).is_some() {
        return Some(text);
    }
    item.report(item.problem(
        format!("`{text}` is not a rate"),
        "so many in a second, a minute or an hour: `10/s`, `30/m`, `100/h`",
    ))
}

/// From one task to the next.
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
    // So slow that it would not end, or so fast that it is no limit, is a mistake.
    (0.001..=1e6)
        .contains(&count)
        .then(|| Duration::from_secs_f64(seconds / count))
}

impl RateLimit {
    /// From the begin of one task to that of the next.
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
