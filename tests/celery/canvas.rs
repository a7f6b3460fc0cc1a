//! Groups, chords, callbacks and the options of a task, in both directions: Python executes and awaits the tasks that
//! orch publishes, and orch follows the tasks that Python publishes.

use std::time::{Duration, Instant};

use orch::celery::{Task, TaskId, TaskLink, TaskState};
use serde_json::{Value, json};

use crate::scene::{Scene, run};

fn add(x: u32, y: u32) -> Task {
    Task::new("wire_app.add").args([json!(x), json!(y)])
}

async fn finished(scene: &Scene, id: &TaskId) -> TaskState {
    let mut watch = scene.client.results().watch(id);
    watch.finished().await.expect("a readable result").state
}

/// Parses ids that a line of Python printed as a JSON list.
fn ids(printed: &str) -> Vec<TaskId> {
    serde_json::from_str(printed).expect("a list of ids")
}

#[test]
fn a_tasks_options_take_effect() {
    let scene = Scene::new();
    run(async {
        let publish = async |task: &Task| scene.client.publish(task).await.expect("Redis is up");

        let task = Task::new("wire_app.own_header")
            .args([json!("x_shop")])
            .header("x_shop", "books");
        publish(&task).await;
        assert_eq!(finished(&scene, &task.id).await, TaskState::Success(json!("books")));

        let delay = Duration::from_secs(1);
        let began = Instant::now();
        let task = add(1, 2).countdown(delay);
        publish(&task).await;
        assert_eq!(finished(&scene, &task.id).await, TaskState::Success(json!(3)));
        assert!(began.elapsed() >= delay, "{:?}", began.elapsed());

        let mut task = Task::new("wire_app.sleep").args([json!(60)]);
        task.time_limit = Some(Duration::from_secs(1));
        publish(&task).await;
        let TaskState::Failure(failure) = finished(&scene, &task.id).await else {
            panic!("it was killed")
        };
        assert_eq!(failure.exc_type, "TimeLimitExceeded");

        let mut task = Task::new("wire_app.sleep").args([json!(60)]);
        task.soft_time_limit = Some(Duration::from_secs(1));
        publish(&task).await;
        let TaskState::Failure(failure) = finished(&scene, &task.id).await else {
            panic!("its end was requested")
        };
        assert_eq!(failure.exc_type, "SoftTimeLimitExceeded");
    });
}

#[test]
fn callbacks_run_after_a_success_and_after_a_failure() {
    let scene = Scene::new();
    run(async {
        let next = TaskLink::new(Task::new("wire_app.add").args([json!(10)]));
        let mut task = add(1, 2);
        task.on_success = vec![next.clone()];
        scene.client.publish(&task).await.expect("Redis is up");
        assert_eq!(finished(&scene, &next.task.id).await, TaskState::Success(json!(13)));

        let last = TaskLink::immutable(Task::new("wire_app.start_job").args([json!("after")]));
        let mut task = Task::new("wire_app.fail");
        task.on_failure = vec![last.clone()];
        scene.client.publish(&task).await.expect("Redis is up");
        assert_eq!(
            finished(&scene, &last.task.id).await,
            TaskState::Success(json!({"job_id": "after"}))
        );
    });
}

#[test]
fn python_restores_a_group_of_ours() {
    let scene = Scene::new();
    let tasks = [add(1, 1), add(2, 2), add(3, 3)];
    let group = run(async {
        let group = scene.client.publish_group(&tasks).await.expect("Redis is up");
        let ids: Vec<TaskId> = tasks.iter().map(|task| task.id.clone()).collect();
        scene.client.save_group(&group, &ids).await.expect("Redis is up");
        let last = scene
            .client
            .results()
            .watch(&tasks[2].id)
            .finished()
            .await
            .expect("a readable result");
        assert_eq!(last.group_id.as_ref(), Some(&group));
        group
    });
    let line = format!(
        "from celery.result import GroupResult; \
         print(GroupResult.restore('{group}', app=wire_app.app).get(timeout=20))"
    );
    assert_eq!(scene.python(&line), "[2, 4, 6]");
}

#[test]
fn python_awaits_a_chord_of_ours_and_its_failure() {
    let scene = Scene::new();
    let aggregate = || TaskLink::new(Task::new("wire_app.aggregate").kwarg("job_id", "J9"));
    let (body, failed) = run(async {
        // Short tasks: the last has ended before the next is sent.
        for size in [1, 2, 30] {
            let header: Vec<Task> = (0..size).map(|number| add(number, 1)).collect();
            let chord = scene
                .client
                .publish_chord(&header, &aggregate())
                .await
                .expect("Redis is up");
            let sum: u32 = (1..=size).sum();
            let expected = json!({"job_id": "J9", "total_processed": sum});
            assert_eq!(
                finished(&scene, &chord.callback).await,
                TaskState::Success(expected),
                "{size}"
            );
        }

        let header: Vec<Task> = (0..4)
            .map(|number| Task::new("wire_app.sleep").args([json!(0.3), json!(number)]))
            .collect();
        let chord = scene
            .client
            .publish_chord(&header, &aggregate())
            .await
            .expect("Redis is up");
        let progress = scene
            .client
            .chord_progress(&chord.group)
            .await
            .expect("Redis is up")
            .expect("begun");
        assert_eq!(progress.total, Some(4));

        let header = [
            add(1, 1),
            Task::new("wire_app.fail").args([json!("bad chunk")]),
            add(2, 2),
        ];
        let failing = scene
            .client
            .publish_chord(&header, &aggregate())
            .await
            .expect("Redis is up");
        let TaskState::Failure(failure) = finished(&scene, &failing.callback).await else {
            panic!("one of its header fails")
        };
        assert!(failure.is_chord_error(), "{failure}");
        (chord.callback, failing.callback)
    });
    let get = |id: &TaskId| format!("wire_app.app.AsyncResult('{id}').get(timeout=20)");
    assert_eq!(
        scene.python(&format!("print({})", get(&body))),
        "{'job_id': 'J9', 'total_processed': 6}"
    );
    let line =
        format!("result = wire_app.app.AsyncResult('{failed}'); print(type(result.get(propagate=False)).__name__)");
    assert_eq!(scene.python(&line), "ChordError");
}

#[test]
fn what_python_publishes_is_followed_to_its_end() {
    let scene = Scene::new();
    let printed = scene.python(
        "import json; from celery import chain, chord, group; from wire_app import add, aggregate, fail, sleep; \
         one = add.apply_async((1, 2), countdown=0.3); \
         several = group(add.s(n, n) for n in range(3)).apply_async(); \
         row = chain(add.s(1, 2), add.s(3), add.s(4)).apply_async(); \
         after = chord([sleep.s(0.1, n) for n in range(3)])(aggregate.s(job_id='P')); \
         broken = chord([sleep.s(0.1, 1), fail.s('no')])(aggregate.s(job_id='P')); \
         linked = add.s(1).set(task_id='linked'); \
         add.apply_async((5, 5), link=linked); \
         print(json.dumps([one.id, *[r.id for r in several.results], row.id, after.id, broken.id, 'linked']))",
    );
    let ids = ids(&printed);
    let success = |value: Value| Some(value);
    let expected = [
        success(json!(3)),
        success(json!(0)),
        success(json!(2)),
        success(json!(4)),
        success(json!(10)),
        success(json!({"job_id": "P", "total_processed": 3})),
        None,
        success(json!(11)),
    ];
    run(async {
        assert_eq!(ids.len(), expected.len());
        for (id, value) in ids.iter().zip(&expected) {
            match (finished(&scene, id).await, value) {
                (TaskState::Success(got), Some(value)) => assert_eq!(got, *value),
                (TaskState::Failure(failure), None) => assert!(failure.is_chord_error(), "{failure}"),
                (state, _) => panic!("{id}: {state:?}"),
            }
        }
    });
}
