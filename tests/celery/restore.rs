//! Messages of dead workers: put back exactly once, and only when it is sure that they are dead.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use orch::celery::{Restored, Task, TaskId, TaskState};
use serde_json::{Value, json};

use crate::scene::{Scene, run, until_received};
use crate::support::celery::{Worker, WorkerOptions};

/// Longer than any test: ended only by its worker's end.
const FOR_EVER: u32 = 600;

/// Acknowledged late; takes its time in its first run only.
fn late() -> Task {
    Task::new("wire_app.counted_late").args([json!(FOR_EVER)])
}

fn worker(scene: &Scene, node: &'static str, concurrency: u32, arguments: &[&str]) -> Worker {
    let options = WorkerOptions {
        node,
        concurrency,
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        ..WorkerOptions::default()
    };
    Worker::start(&scene.redis, options)
}

fn runs(scene: &Scene, task: &TaskId) -> u64 {
    let runs: Option<u64> = redis::cmd("GET")
        .arg(format!("runs:{task}"))
        .query(&mut scene.redis.connection(1))
        .expect("Redis is up");
    runs.unwrap_or(0)
}

/// Waits until the task's code has begun: the event that says so comes before.
async fn until_running(scene: &Scene, task: &TaskId) {
    while runs(scene, task) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn unacked(scene: &Scene) -> (u64, u64) {
    redis::pipe()
        .cmd("HLEN")
        .arg("unacked")
        .cmd("ZCARD")
        .arg("unacked_index")
        .query(&mut scene.redis.connection(0))
        .expect("Redis is up")
}

async fn restore(scene: &Scene) -> Restored {
    scene
        .client
        .restore_unacked(&HashSet::new())
        .await
        .expect("Redis is up")
}

async fn succeeds(scene: &Scene, task: &TaskId) {
    let result = scene.client.results().watch(task).finished().await;
    let state = result.expect("a readable result").state;
    assert!(matches!(state, TaskState::Success(_)), "{state:?}");
}

#[test]
fn without_unacknowledged_messages_there_is_nothing_to_do() {
    let scene = Scene::without_worker();
    run(async { assert_eq!(restore(&scene).await, Restored::default()) });
}

#[test]
fn what_a_dead_worker_had_runs_exactly_once_more_and_what_was_finished_does_not() {
    let scene = Scene::without_worker();
    run(async {
        let mut dead = worker(&scene, "dead@test", 2, &[]);
        let mut events = scene.client.events().await.expect("Redis is up");
        let [running, finished] = [late(), late()];
        for task in [&running, &finished] {
            scene.client.publish(task).await.expect("Redis is up");
            until_running(&scene, &task.id).await;
        }
        let prefetched = [late(), late(), late()];
        for task in &prefetched {
            scene.client.publish(task).await.expect("Redis is up");
            until_received(&mut events, &task.id).await;
        }
        dead.process.kill();
        // The worker died between the result and the acknowledgement.
        let meta = format!(
            r#"{{"status": "SUCCESS", "result": null, "traceback": null, "children": [], "task_id": "{}"}}"#,
            finished.id
        );
        redis::cmd("SET")
            .arg(format!("celery-task-meta-{}", finished.id))
            .arg(meta)
            .exec(&mut scene.redis.connection(1))
            .expect("Redis is up");

        assert_eq!(
            restore(&scene).await.uncertain.as_deref(),
            Some("no worker listens"),
            "nobody can say that the worker is dead"
        );
        assert_eq!(unacked(&scene), (5, 5));

        // The prefetched ones must not wait behind each other's first run.
        let _alive = worker(&scene, "alive@test", 4, &[]);
        let (ours, theirs) = tokio::join!(restore(&scene), restore(&scene));
        assert_eq!((&ours.uncertain, &theirs.uncertain), (&None, &None));
        assert_eq!(
            (ours.requeued + theirs.requeued, ours.acknowledged + theirs.acknowledged),
            (4, 1),
            "{ours:?} {theirs:?}"
        );
        // Its second run takes no time.
        succeeds(&scene, &running.id).await;
        for task in &prefetched {
            until_running(&scene, &task.id).await;
        }
        assert_eq!(runs(&scene, &running.id), 2);
        assert_eq!(runs(&scene, &finished.id), 1);

        // What runs now is a live worker's; the finished one's acknowledgement comes after its result.
        while unacked(&scene) != (3, 3) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let again = restore(&scene).await;
        assert_eq!(
            again,
            Restored {
                held: 3,
                ..Restored::default()
            }
        );
        for task in &prefetched {
            assert_eq!(runs(&scene, &task.id), 1);
        }
    });
}

#[test]
fn what_a_live_worker_holds_is_left_to_it() {
    let scene = Scene::without_worker();
    run(async {
        let mut events = scene.client.events().await.expect("Redis is up");
        let mut dead = worker(&scene, "dead@test", 1, &["--queues", "one"]);
        let _alive = worker(&scene, "alive@test", 1, &["--queues", "other"]);
        let lost = late().queue("one");
        let [held, waiting] = [late().queue("other"), late().queue("other")];
        for task in [&lost, &held] {
            scene.client.publish(task).await.expect("Redis is up");
            until_running(&scene, &task.id).await;
        }
        scene.client.publish(&waiting).await.expect("Redis is up");
        until_received(&mut events, &waiting.id).await;
        let mut also_lost = Vec::new();
        for _ in 0..3 {
            let task = late().queue("one");
            scene.client.publish(&task).await.expect("Redis is up");
            until_received(&mut events, &task.id).await;
            also_lost.push(task.id);
        }
        dead.process.kill();

        let restored = restore(&scene).await;
        assert_eq!(
            restored,
            Restored {
                requeued: 4,
                held: 2,
                ..Restored::default()
            }
        );
        assert_eq!(unacked(&scene), (2, 2));
        // Served from the right: in the order in which they were taken.
        let messages: Vec<String> = redis::cmd("LRANGE")
            .arg("one")
            .arg(0)
            .arg(-1)
            .query(&mut scene.redis.connection(0))
            .expect("Redis is up");
        let ids: Vec<TaskId> = messages
            .iter()
            .rev()
            .map(|message| serde_json::from_str::<Value>(message).expect("JSON"))
            .map(|message| TaskId::from(message["headers"]["id"].as_str().expect("an id")))
            .collect();
        also_lost.insert(0, lost.id.clone());
        assert_eq!(ids, also_lost);
        assert_eq!(runs(&scene, &held.id), 1);
    });
}

#[test]
fn a_worker_that_does_not_answer_makes_everything_uncertain() {
    let scene = Scene::without_worker();
    run(async {
        let mut dead = worker(&scene, "dead@test", 1, &[]);
        let lost = late();
        scene.client.publish(&lost).await.expect("Redis is up");
        until_running(&scene, &lost.id).await;
        dead.process.kill();
        let silent = worker(&scene, "silent@test", 1, &[]);

        silent.process.signal(Signal::SIGSTOP);
        let restored = restore(&scene).await;
        silent.process.signal(Signal::SIGCONT);
        assert_eq!((restored.requeued, restored.acknowledged), (0, 0));
        assert_eq!(restored.uncertain.as_deref(), Some("0 of 1 workers have answered"));
        assert_eq!(unacked(&scene), (1, 1));

        assert_eq!(restore(&scene).await.requeued, 1);
        succeeds(&scene, &lost.id).await;
        assert_eq!(runs(&scene, &lost.id), 2);
    });
}

#[test]
fn a_message_goes_back_to_its_priority_and_by_its_exchange_to_its_queue() {
    let scene = Scene::without_worker();
    run(async {
        let lanes = r#"{"lane": {"exchange": "shop", "exchange_type": "direct", "routing_key": "fast"}}"#;
        let options = || WorkerOptions {
            settings: vec![("task_queues", lanes)],
            arguments: vec!["--queues".to_owned(), "lane,celery".to_owned()],
            ..WorkerOptions::default()
        };
        let mut dead = Worker::start(&scene.redis, options());
        let mut urgent = late();
        urgent.priority = 7;
        scene.client.publish(&urgent).await.expect("Redis is up");
        until_running(&scene, &urgent.id).await;
        let routed = TaskId::from(scene.python(&format!(
            "print(wire_app.counted_late.apply_async(({FOR_EVER},), exchange='shop', routing_key='fast').id)"
        )));
        until_running(&scene, &routed).await;
        dead.process.kill();

        let _other = worker(&scene, "other@test", 1, &["--queues", "other"]);
        assert_eq!(restore(&scene).await.requeued, 2);
        assert_eq!(unacked(&scene), (0, 0));
        for (list, task) in [("celery\u{6}\u{16}6", &urgent.id), ("lane", &routed)] {
            let messages: Vec<Vec<u8>> = redis::cmd("LRANGE")
                .arg(list)
                .arg(0)
                .arg(-1)
                .query(&mut scene.redis.connection(0))
                .expect("Redis is up");
            let [message] = messages.as_slice() else {
                panic!("{list} has {} messages", messages.len())
            };
            let message: Value = serde_json::from_slice(message).expect("JSON");
            assert_eq!(message["headers"]["id"], json!(task));
            assert_eq!(message["headers"]["redelivered"], json!(true));
            assert_eq!(message["properties"]["delivery_info"]["redelivered"], json!(true));
        }
        let _next = Worker::start(&scene.redis, options());
        for task in [&urgent.id, &routed] {
            succeeds(&scene, task).await;
            assert_eq!(runs(&scene, task), 2);
        }
    });
}
