//! Tasks that a Python client publishes, followed by orch: failures, retries, nested structures, the events of one job.
//! (The opposite direction is in [`crate::canvas`].)

use std::collections::HashSet;

use orch::celery::{EventKind, EventStream, StreamItem, TaskEvent, TaskId, TaskResult, TaskState};
use serde_json::{Value, json};

use crate::scene::{Scene, run};

/// Runs a line of Python that prints a JSON list of task ids.
fn published(scene: &Scene, line: &str) -> Vec<TaskId> {
    let line = format!(
        "import json; from celery import chain, chord, group; \
         from wire_app import add, aggregate, dispatch, fail, flaky, sleep, start_job; {line}"
    );
    let printed = scene.python(&line);
    let ids: Vec<String> = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{printed}: {error}"));
    ids.into_iter().map(TaskId::from).collect()
}

async fn finished(scene: &Scene, id: &TaskId) -> TaskResult {
    let result = scene.client.results().watch(id).finished().await;
    result.unwrap_or_else(|error| panic!("{id}: {error}"))
}

async fn value(scene: &Scene, id: &TaskId) -> Value {
    match finished(scene, id).await.state {
        TaskState::Success(value) => value,
        state => panic!("{id}: {state:?}"),
    }
}

async fn failure(scene: &Scene, id: &TaskId) -> String {
    match finished(scene, id).await.state {
        TaskState::Failure(failure) => failure.to_string(),
        state => panic!("{id}: {state:?}"),
    }
}

#[test]
fn a_failing_link_ends_the_chain_and_what_was_to_follow_a_failure_runs() {
    let scene = Scene::new();
    let ids = published(
        &scene,
        "row = chain(start_job.s('J'), fail.si('no'), add.s(1), add.s(2)).apply_async(); \
         rescue = start_job.si('rescued').set(task_id='rescue'); \
         broken = fail.apply_async(('why',), link_error=rescue); \
         print(json.dumps([row.parent.parent.parent.id, row.parent.parent.id, row.id, broken.id, 'rescue']))",
    );
    let [first, failed, last, broken, rescue] = ids.as_slice() else {
        panic!("five ids: {ids:?}")
    };
    run(async {
        assert_eq!(value(&scene, first).await, json!({"job_id": "J"}));
        assert_eq!(failure(&scene, failed).await, "ValueError: no");
        // The last link never ran: it has the failure of the link before.
        assert_eq!(failure(&scene, last).await, "ValueError: no");
        assert_eq!(failure(&scene, broken).await, "ValueError: why");
        assert_eq!(value(&scene, rescue).await, json!({"job_id": "rescued"}));
    });
}

#[test]
fn a_retry_is_seen_and_is_not_the_end() {
    let scene = Scene::new();
    let id = TaskId::from("flaky-1");
    std::thread::scope(|threads| {
        // The watch begins before the publication, which takes the start of a Python.
        let publish = "flaky.apply_async((1,), task_id='flaky-1'); print('[]')";
        threads.spawn(|| published(&scene, publish));
        run(async {
            let mut watch = scene.client.results().watch(&id);
            let first = watch.next().await.expect("a readable result").state;
            assert!(
                matches!(&first, TaskState::Retry(failure) if failure.to_string() == "ValueError: not yet"),
                "{first:?}"
            );
            let last = watch.finished().await.expect("a readable result").state;
            assert_eq!(last, TaskState::Success(json!("after 1")));
        });
    });
}

#[test]
fn structures_within_structures_are_followed_by_the_ids_that_they_have() {
    let scene = Scene::new();
    let ids = published(
        &scene,
        "upgraded = chain(add.s(1, 1), group(add.s(n) for n in range(3)), aggregate.s(job_id='G')).apply_async(); \
         several = group(chain(add.s(n, 1), add.s(10)) for n in range(2)).apply_async(); \
         partial = group(add.s(1, 1), fail.s('one of two')).apply_async(); \
         print(json.dumps([upgraded.id, *[r.id for r in several.results], *[r.id for r in partial.results]]))",
    );
    let [upgraded, one, two, whole, broken] = ids.as_slice() else {
        panic!("five ids: {ids:?}")
    };
    run(async {
        // A group within a chain becomes the header of a chord: 2+0, 2+1, 2+2.
        assert_eq!(
            value(&scene, upgraded).await,
            json!({"job_id": "G", "total_processed": 9})
        );
        assert_eq!(
            (value(&scene, one).await, value(&scene, two).await),
            (json!(11), json!(12))
        );
        assert_eq!(value(&scene, whole).await, json!(2));
        assert_eq!(failure(&scene, broken).await, "ValueError: one of two");
        let progress = scene.client.results().progress(&ids).await.expect("Redis is up");
        assert_eq!((progress.total, progress.succeeded, progress.failed), (5, 4, 1));
        assert!(progress.is_complete());
    });
}

#[test]
fn all_tasks_of_a_python_job_are_known_by_its_root_in_the_events() {
    let scene = Scene::new();
    run(async {
        let mut events = scene.client.events().await.expect("Redis is up");
        let ids = published(
            &scene,
            "row = chain(start_job.s('J'), dispatch.s(3, 0.05)).apply_async(); print(json.dumps([row.parent.id, row.id]))",
        );
        let [root, dispatcher] = ids.as_slice() else {
            panic!("two ids: {ids:?}")
        };
        let handed_out = value(&scene, dispatcher).await;
        let callback = TaskId::from(handed_out["chord_id"].as_str().expect("an id"));
        let (tasks, parents) = tasks_of(root, &callback, &mut events).await;
        // The first task, the dispatch task, three tasks of the header, the callback.
        assert_eq!(tasks.len(), 6, "{tasks:?}");
        assert!(tasks.contains(root) && tasks.contains(dispatcher) && tasks.contains(&callback));
        assert!(parents.contains(root) && parents.contains(dispatcher), "{parents:?}");
    });
}

/// Returns the tasks received below a root, and their parents, up to the success of the last task.
async fn tasks_of(root: &TaskId, last: &TaskId, events: &mut EventStream) -> (HashSet<TaskId>, HashSet<TaskId>) {
    let (mut tasks, mut parents) = (HashSet::new(), HashSet::new());
    loop {
        let StreamItem::Event(event) = events.next().await.expect("Redis is up") else {
            panic!("no gap")
        };
        let EventKind::Task { id, event } = event.kind else {
            continue;
        };
        match event {
            TaskEvent::Received(task) => {
                assert_eq!(task.root_id.as_ref(), Some(root), "{id}");
                tasks.insert(id);
                parents.extend(task.parent_id);
            }
            TaskEvent::Succeeded { .. } if id == *last => return (tasks, parents),
            _ => {}
        }
    }
}
