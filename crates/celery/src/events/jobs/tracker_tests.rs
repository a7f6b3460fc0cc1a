use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Map;

use super::job::TaskCounts;
use super::tracker::{JobTracker, TrackerLimits};
use crate::events::event::{Event, EventKind, TaskEvent, TaskOrigin};
use crate::wire::ids::{NodeName, TaskId};
use crate::wire::task_outcome::TaskOutcome;

fn id(text: &str) -> TaskId {
    TaskId::from(text)
}

fn event(task: &str, event: TaskEvent, received_at: Instant) -> Event {
    Event {
        kind: EventKind::Task { id: id(task), event },
        node: NodeName::from("w1@h"),
        // The year 9999: only the time of arrival matters.
        timestamp: 253_402_300_799.0,
        clock: 0,
        pid: None,
        extra: Map::new(),
        received_at,
    }
}

fn received(root: &str, name: &str) -> TaskEvent {
    TaskEvent::Received(TaskOrigin {
        name: Some(name.to_owned()),
        root_id: Some(id(root)),
        ..TaskOrigin::default()
    })
}

fn succeeded(seconds: f64) -> TaskEvent {
    TaskEvent::Succeeded {
        result: None,
        runtime_seconds: Some(seconds),
    }
}

fn failed() -> TaskEvent {
    TaskEvent::Failed {
        exception: None,
        traceback: None,
    }
}

fn retried() -> TaskEvent {
    TaskEvent::Retried {
        exception: None,
        traceback: None,
    }
}

fn revoked() -> TaskEvent {
    TaskEvent::Revoked {
        terminated: true,
        signum: None,
        expired: false,
    }
}

fn counts(tracker: &JobTracker, root: &str) -> TaskCounts {
    tracker.job(&id(root)).map(|job| job.counts).unwrap_or_default()
}

#[test]
fn a_job_is_followed_from_its_first_task_to_its_last() {
    let start = Instant::now();
    let mut tracker = JobTracker::default();
    let mut fold = |second: u64, task: &str, change: TaskEvent| {
        tracker.fold(event(task, change, start + Duration::from_secs(second)));
    };
    fold(0, "root", received("root", "shop.dispatch"));
    fold(0, "root", TaskEvent::Started);
    fold(1, "root", succeeded(1.0));
    for task in ["a", "b", "c", "d"] {
        fold(1, task, received("root", "shop.chunk"));
    }
    fold(1, "a", TaskEvent::Started);
    fold(1, "b", TaskEvent::Started);
    fold(2, "a", succeeded(2.5));
    fold(2, "b", retried());
    fold(3, "c", TaskEvent::Started);
    fold(3, "c", failed());
    fold(4, "d", revoked());
    let job = tracker.job(&id("root")).expect("seen");
    assert_eq!(job.name.as_deref(), Some("shop.dispatch"));
    let expected = TaskCounts {
        waiting: 1,
        running: 0,
        succeeded: 2,
        failed: 1,
        revoked: 1,
        retries: 1,
    };
    assert_eq!(job.counts, expected);
    assert_eq!((job.counts.seen(), job.counts.ended()), (5, 4));
    assert_eq!(job.counts.error_rate(), Some(0.5));
    assert_eq!(job.by_name["shop.chunk"].succeeded, 1);
    assert_eq!(
        job.slowest.iter().map(|(seconds, _)| *seconds).collect::<Vec<_>>(),
        [2.5, 1.0]
    );
    let now = start + Duration::from_secs(4);
    assert_eq!(job.rate(now), 1.0);
    assert_eq!(job.rate(now + Duration::from_secs(60)), 0.0);
    assert_eq!(tracker.all_open_tasks(), [id("b")]);
}

#[test]
fn repeated_and_late_events_count_once() {
    let now = Instant::now();
    let mut tracker = JobTracker::default();
    for _ in 0..2 {
        for change in [
            received("a", "x"),
            TaskEvent::Started,
            succeeded(1.0),
            TaskEvent::Started,
        ] {
            tracker.fold(event("a", change, now));
        }
    }
    let expected = TaskCounts {
        succeeded: 1,
        ..TaskCounts::default()
    };
    assert_eq!(counts(&tracker, "a"), expected);
}

#[test]
fn a_task_without_an_end_event_is_settled_once() {
    let now = Instant::now();
    let mut tracker = JobTracker::default();
    for task in ["a", "b"] {
        tracker.fold(event(task, received("a", "x"), now));
        tracker.fold(event(task, TaskEvent::Started, now));
    }
    tracker.record_gap();
    for _ in 0..2 {
        tracker.settle(&id("a"), TaskOutcome::Succeeded, now);
    }
    tracker.settle(&id("unknown task"), TaskOutcome::Failed, now);
    tracker.fold(event("a", failed(), now));
    let counts = counts(&tracker, "a");
    assert_eq!((counts.succeeded, counts.failed, counts.running), (1, 0, 1));
    assert_eq!(tracker.totals().gaps, 1);
}

#[test]
fn memory_is_bounded_for_any_number_of_events() {
    let limits = TrackerLimits {
        jobs: 20,
        tasks: 100,
        ended: 50,
        names: 10,
    };
    let mut tracker = JobTracker::new(limits);
    let now = Instant::now();
    let mut ended = 0;
    for number in 0..50_000_u64 {
        let (task, root) = (format!("t{number}"), format!("r{}", number / 100));
        // Some tasks never end, some are never received, some have a unique name.
        let name = format!("n{}", number % 1000);
        if number % 7 != 0 {
            tracker.fold(event(&task, received(&root, &name), now));
        }
        tracker.fold(event(&task, TaskEvent::Started, now));
        if number % 5 != 0 {
            tracker.fold(event(&task, succeeded(1.0), now));
            ended += u64::from(number % 7 != 0);
        }
        let remembered = tracker.entry_counts();
        assert!(
            remembered.jobs <= limits.jobs && remembered.ended <= limits.ended,
            "{remembered:?}"
        );
        assert!(
            remembered.tasks <= 2 * limits.tasks && remembered.names <= limits.names,
            "{remembered:?}"
        );
    }
    let live: u64 = tracker.jobs().map(|job| job.counts.succeeded).sum();
    assert_eq!(live + tracker.totals().folded.succeeded, ended);
    assert!(tracker.jobs().all(|job| job.by_name.len() <= 101));
}

proptest! {
    #[test]
    fn events_in_any_order_give_the_same_counts(order in Just(vec![0, 1, 2, 3]).prop_shuffle(), ends_well in any::<bool>()) {
        let now = Instant::now();
        let mut tracker = JobTracker::default();
        for number in order {
            let change = match number {
                0 => TaskEvent::Sent { task: TaskOrigin { root_id: Some(id("root")), ..TaskOrigin::default() }, queue: None },
                1 => received("root", "x"),
                2 => TaskEvent::Started,
                _ if ends_well => succeeded(1.0),
                _ => failed(),
            };
            tracker.fold(event("a", change, now));
        }
        let expected = TaskCounts {
            succeeded: u64::from(ends_well),
            failed: u64::from(!ends_well),
            ..TaskCounts::default()
        };
        prop_assert_eq!(counts(&tracker, "root"), expected);
    }

    #[test]
    fn each_task_is_counted_in_one_state(steps in proptest::collection::vec((0..12_u8, 0..7_u8), 0..200)) {
        let now = Instant::now();
        let mut tracker = JobTracker::default();
        let mut known = std::collections::HashSet::new();
        for (task, step) in steps {
            let change = match step {
                0 => received(if task % 2 == 0 { "even" } else { "odd" }, "x"),
                1 => TaskEvent::Started,
                2 => succeeded(0.1),
                3 => failed(),
                4 => retried(),
                5 => revoked(),
                _ => TaskEvent::Rejected { requeue: task % 3 == 0 },
            };
            if step == 0 {
                known.insert(task);
            }
            tracker.fold(event(&format!("t{task}"), change, now));
            let seen: u64 = tracker.jobs().map(|job| job.counts.seen()).sum();
            prop_assert_eq!(seen, known.len() as u64);
            for job in tracker.jobs() {
                let by_name: u64 = job.by_name.values().map(TaskCounts::seen).sum();
                prop_assert_eq!(by_name, job.counts.seen());
            }
        }
    }
}
