//! Messages of dead workers: put back exactly once, and only when the death is certain.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use orch::celery::{NodeName, RestoreReport, Task, TaskId, TaskState};
use serde_json::{Value, json};

use crate::scene::{Scene, run, until_received};
use crate::support::celery::{Worker, WorkerOptions};
use crate::support::wait;

/// Seconds that are longer than any test: such a task ends only with its worker.
const FOR_EVER: u32 = 600;
/// Time in which a task must begin to run, and its message be acknowledged or restored.
const STATE_TIMEOUT: Duration = Duration::from_secs(50);

/// Returns a task with late acknowledgement that takes long in its first execution only.
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

/// Waits until the code of the task runs: the event of the start comes before.
async fn until_running(scene: &Scene, task: &TaskId) {
    wait::until_async("the task runs", STATE_TIMEOUT, async || {
        (runs(scene, task) > 0).then_some(())
    })
    .await;
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

async fn restore(scene: &Scene) -> RestoreReport {
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
    run(async { assert_eq!(restore(&scene).await, RestoreReport::default()) });
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

        // Four slots: no prefetched task must wait for the first execution of another.
        let _alive = worker(&scene, "alive@test", 4, &[]);
        let (ours, theirs) = tokio::join!(restore(&scene), restore(&scene));
        assert_eq!((&ours.uncertain, &theirs.uncertain), (&None, &None));
        assert_eq!(
            (ours.requeued + theirs.requeued, ours.acknowledged + theirs.acknowledged),
            (4, 1),
            "{ours:?} {theirs:?}"
        );
        // The second execution takes no time.
        succeeds(&scene, &running.id).await;
        for task in &prefetched {
            until_running(&scene, &task.id).await;
        }
        assert_eq!(runs(&scene, &running.id), 2);
        assert_eq!(runs(&scene, &finished.id), 1);

        // Now a live worker executes the tasks; the acknowledgement of the finished task comes after its result.
        wait::until_async("three messages are unacknowledged", STATE_TIMEOUT, async || {
            (unacked(&scene) == (3, 3)).then_some(())
        })
        .await;
        let again = restore(&scene).await;
        assert_eq!(
            again,
            RestoreReport {
                held: 3,
                ..RestoreReport::default()
            }
        );
        for task in &prefetched {
            assert_eq!(runs(&scene, &task.id), 1);
        }
    });
}

/// Starts two header tasks on a worker that is killed while it executes both, then changes Redis by `died_at` to the
/// state of the worker's death, and restores.
fn chord_of_a_dead_worker(died_at: impl Fn(&mut redis::Connection, &[String], &str)) -> RestoreReport {
    let scene = Scene::without_worker();
    run(async {
        let mut dead = worker(&scene, "dead@test", 2, &[]);
        let started = scene.python(&format!(
            "import celery; \
             c = celery.chord([wire_app.counted_late.s({FOR_EVER}) for _ in 'ab'])(wire_app.count_all.s()); \
             print(c.id, c.parent.id, *[r.id for r in c.parent.results])"
        ));
        let ids: Vec<String> = started.split(' ').map(str::to_owned).collect();
        let [callback, group, header @ ..] = ids.as_slice() else {
            panic!("{started}")
        };
        for id in header {
            until_running(&scene, &TaskId::from(id.as_str())).await;
        }
        dead.process.kill();
        died_at(&mut scene.redis.connection(1), header, group);
        let _alive = worker(&scene, "alive@test", 2, &["--queues", "other"]);
        let restored = wait::until_async("nothing is postponed", STATE_TIMEOUT, async || {
            Some(restore(&scene).await).filter(|restored| restored.postponed == 0)
        })
        .await;
        let _next = worker(&scene, "next@test", 2, &[]);
        succeeds(&scene, &TaskId::from(callback.as_str())).await;
        let result = scene.client.results().get(&TaskId::from(callback.as_str())).await;
        let state = result.expect("a readable result").expect("a result").state;
        assert_eq!(state, TaskState::Success(json!(2)), "each header task is counted once");
        restored
    })
}

/// Writes the keys of a worker that dies after it has stored the result of a header task.
fn store_result(redis: &mut redis::Connection, id: &str, group: &str) {
    let meta = json!({"status": "SUCCESS", "result": null, "traceback": null, "children": [], "task_id": id, "group_id": group});
    // The order of Celery: the status is first.
    let meta = format!("{{\"status\": \"SUCCESS\", {}", &meta.to_string()[1..]);
    let set = redis::cmd("SET")
        .arg(format!("celery-task-meta-{id}"))
        .arg(meta)
        .exec(redis);
    set.expect("Redis is up");
}

/// Writes the keys of a worker that dies after it has also counted the task.
fn count_in_chord(redis: &mut redis::Connection, id: &str, group: &str, index: usize) {
    store_result(redis, id, group);
    let key = format!("celery-taskset-meta-{group}.j");
    let entry = format!("[1, \"{id}\", \"SUCCESS\", null]");
    let add = redis::cmd("ZADD").arg(key).arg(index).arg(entry).exec(redis);
    add.expect("Redis is up");
    // The key of Celery 5.7.
    let key = format!("celery-taskset-meta-{group}.d");
    let add = redis::cmd("SADD").arg(key).arg(format!("{id}:{index}")).exec(redis);
    add.expect("Redis is up");
}

#[test]
fn a_chunk_with_a_result_that_its_chord_has_not_counted_runs_again() {
    let restored = chord_of_a_dead_worker(|redis, header, group| store_result(redis, &header[0], group));
    assert_eq!((restored.requeued, restored.acknowledged), (2, 0), "{restored:?}");
}

#[test]
fn a_chunk_that_its_chord_has_counted_does_not_run_again() {
    let restored = chord_of_a_dead_worker(|redis, header, group| count_in_chord(redis, &header[1], group, 1));
    assert_eq!((restored.requeued, restored.acknowledged), (1, 1), "{restored:?}");
}

#[test]
fn a_chord_whose_worker_died_before_it_sent_the_callback_is_completed() {
    let restored = chord_of_a_dead_worker(|redis, header, group| {
        for (index, id) in header.iter().enumerate() {
            count_in_chord(redis, id, group, index);
        }
        // Celery 5.7: the right to send the callback, which the dead worker still has for some seconds.
        let key = format!("celery-taskset-meta-{group}.c");
        let claim = redis::cmd("SET").arg(key).arg("token").arg("EX").arg(3).exec(redis);
        claim.expect("Redis is up");
    });
    assert!(restored.requeued >= 1 && restored.acknowledged == 0, "{restored:?}");
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
            RestoreReport {
                requeued: 4,
                held: 2,
                ..RestoreReport::default()
            }
        );
        assert_eq!(unacked(&scene), (2, 2));
        // Workers take from the right: in the order in which the messages were taken before.
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

/// Opens a connection that the broker counts among the listeners of remote control and that never answers, like that of
/// a machine without power.
fn dead_socket(scene: &Scene) -> redis::Connection {
    let mut connection = scene.redis.connection(0);
    redis::cmd("PSUBSCRIBE")
        .arg("/0.celery.pidbox")
        .exec(&mut connection)
        .expect("Redis is up");
    connection
}

#[test]
fn a_connection_of_a_dead_worker_blocks_nothing_once_the_worker_is_named() {
    let scene = Scene::without_worker();
    run(async {
        let mut dead = worker(&scene, "dead@test", 1, &[]);
        let lost = late();
        scene.client.publish(&lost).await.expect("Redis is up");
        until_running(&scene, &lost.id).await;
        dead.process.kill();
        let _socket = dead_socket(&scene);
        let _alive = worker(&scene, "alive@test", 1, &[]);
        let uncertain = restore(&scene).await.uncertain;
        assert_eq!(uncertain.as_deref(), Some("1 of 2 workers have answered"));
        let without = async |node: &str| {
            let nodes = BTreeSet::from([NodeName::from(node)]);
            scene.client.restore_except_dead(&nodes).await.expect("Redis is up")
        };
        let wrong = without("alive@test").await;
        let why = wrong.uncertain.expect("it lives");
        assert!(why.starts_with("alive@test is alive"), "{why}");
        assert_eq!(unacked(&scene), (1, 1));
        assert_eq!(without("dead@test").await.requeued, 1);
        succeeds(&scene, &lost.id).await;
        assert_eq!(runs(&scene, &lost.id), 2);
    });
}

#[test]
fn of_a_process_that_was_seen_to_end_only_what_it_held_is_put_back() {
    let scene = Scene::without_worker();
    run(async {
        let mut dead = worker(&scene, "dead@test", 1, &["--queues", "one"]);
        let other = worker(&scene, "other@test", 1, &["--queues", "other"]);
        let lost = late().queue("one");
        let held = late().queue("other");
        for task in [&lost, &held] {
            scene.client.publish(task).await.expect("Redis is up");
            until_running(&scene, &task.id).await;
        }
        dead.process.kill();
        // A stopped worker cannot list its tasks, and does not have to.
        other.process.signal(Signal::SIGSTOP);
        let now = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970")
                .as_secs_f64()
        };
        let restored = async |tasks: [&Task; 1], until: f64| {
            let tasks = HashSet::from(tasks.map(|task| task.id.clone()));
            let restored = scene.client.restore_held(&tasks, until, &HashSet::new()).await;
            restored.expect("Redis is up").requeued
        };
        assert_eq!(restored([&lost], now() - 600.0).await, 0, "taken by another since");
        assert_eq!(restored([&lost], now()).await, 1);
        assert_eq!(unacked(&scene), (1, 1), "the other's is left to it");
        other.process.signal(Signal::SIGCONT);
        assert_eq!(restored([&held], now()).await, 0, "it says that it holds it");
    });
}
