//! Many waits over one connection, and results that some waits cannot read.

use std::thread;
use std::time::{Duration, Instant};

use orch::celery::{Error, ResultStore, TaskId, TaskState};
use serde_json::{Value, json};

use crate::scene::{Scene, run};
use crate::support::wait;

const SUBSCRIPTION_TIMEOUT: Duration = Duration::from_secs(30);

fn key(id: &TaskId) -> String {
    format!("celery-task-meta-{id}")
}

fn success(id: &TaskId, value: &Value) -> Vec<u8> {
    json!({"status": "SUCCESS", "result": value, "traceback": null, "children": [], "task_id": id})
        .to_string()
        .into_bytes()
}

/// Writes a result as a worker does.
fn write(connection: &mut redis::Connection, id: &TaskId, meta: &[u8]) {
    let mut write = redis::pipe();
    write.atomic().cmd("SETEX").arg(key(id)).arg(86400).arg(meta);
    write.cmd("PUBLISH").arg(key(id)).arg(meta);
    write.exec(connection).expect("Redis is up");
}

/// Waits until the server has this number of subscribed channels.
async fn until_subscribed(scene: &Scene, wanted: usize) {
    let mut redis = scene.redis.connection(1);
    wait::until_async(&format!("{wanted} channels"), SUBSCRIPTION_TIMEOUT, async || {
        let mut ask = redis::cmd("PUBSUB");
        let channels: Vec<String> = ask.arg("CHANNELS").query(&mut redis).expect("Redis is up");
        (channels.len() == wanted).then_some(())
    })
    .await;
}

/// Follows all of these tasks at once; returns their values in order.
fn follow(results: &ResultStore, ids: &[TaskId]) -> Vec<tokio::task::JoinHandle<Value>> {
    let one = |id: &TaskId| {
        let mut watch = results.watch(id);
        tokio::spawn(async move {
            match watch.finished().await.expect("a readable result").state {
                TaskState::Success(value) => value,
                other => panic!("{other:?}"),
            }
        })
    };
    ids.iter().map(one).collect()
}

#[test]
fn two_thousand_waits_survive_killed_connections_while_results_come_in() {
    let scene = Scene::without_worker();
    let ids: Vec<TaskId> = (0..2000).map(|_| TaskId::random()).collect();
    run(async {
        let waits = follow(&scene.client.results(), &ids);
        until_subscribed(&scene, ids.len()).await;
        let mut connection = scene.redis.connection(1);
        let written = ids.clone();
        let publisher = thread::spawn(move || {
            let mut killed = 0;
            for (number, id) in written.iter().enumerate() {
                // Half a dozen times while results come in.
                if number % 300 == 150 {
                    let mut kill = redis::cmd("CLIENT");
                    let kill = kill.arg(&["KILL", "TYPE", "pubsub"]);
                    killed += kill.query::<u64>(&mut connection).expect("Redis is up");
                }
                write(&mut connection, id, &success(id, &json!(number)));
            }
            killed
        });
        for (number, wait) in waits.into_iter().enumerate() {
            assert_eq!(wait.await.expect("no panic"), json!(number));
        }
        assert!(
            publisher.join().expect("it has written all") > 0,
            "no connection was killed"
        );
        until_subscribed(&scene, 0).await;
    });
}

#[test]
fn ten_thousand_waits_are_served_over_one_connection() {
    let scene = Scene::without_worker();
    let ids: Vec<TaskId> = (0..10_000).map(|_| TaskId::random()).collect();
    run(async {
        let results = scene.client.results();
        let waits = follow(&results, &ids);
        until_subscribed(&scene, ids.len()).await;
        let mut connection = scene.redis.connection(1);
        let clients: String = redis::cmd("CLIENT")
            .arg(&["LIST", "TYPE", "pubsub"])
            .query(&mut connection)
            .expect("Redis is up");
        assert_eq!(clients.lines().count(), 1, "{clients}");
        let written = ids.clone();
        let publisher = thread::spawn(move || {
            for ids in written.chunks(500) {
                let mut write = redis::pipe();
                for id in ids {
                    let meta = success(id, &json!(id));
                    write.cmd("SETEX").arg(key(id)).arg(86400).arg(&meta);
                    write.cmd("PUBLISH").arg(key(id)).arg(&meta);
                }
                write.exec(&mut connection).expect("Redis is up");
            }
        });
        for (id, wait) in ids.iter().zip(waits) {
            assert_eq!(wait.await.expect("no panic"), json!(id));
        }
        publisher.join().expect("it has written all");
        let progress = results.progress(&ids).await.expect("Redis is up");
        assert_eq!((progress.total, progress.succeeded), (10_000, 10_000));
    });
}

#[test]
fn what_cannot_be_read_ends_its_own_wait_and_delays_no_other() {
    let scene = Scene::without_worker();
    let large = 50 * 1024 * 1024;
    let cases: [(Vec<u8>, &str); 5] = [
        (
            b"\x80\x04\x95\x1e\x00\x00\x00\x00}\x94.".to_vec(),
            "cannot read the result",
        ),
        (br#"["a", "list"]"#.to_vec(), "cannot read the result"),
        (br#"{"status": 7, "result": 1}"#.to_vec(), "cannot read the result"),
        (br#"{"result": "no status"}"#.to_vec(), "status"),
        (vec![b'x'; 65 * 1024 * 1024], "too large"),
    ];
    run(async {
        let results = scene.client.results();
        let healthy: Vec<TaskId> = (0..50).map(|_| TaskId::random()).collect();
        let waits = follow(&results, &healthy);
        let broken: Vec<TaskId> = cases.iter().map(|_| TaskId::random()).collect();
        let mut watches: Vec<_> = broken.iter().map(|id| results.watch(id)).collect();
        let big = TaskId::random();
        let mut of_big = results.watch(&big);
        until_subscribed(&scene, healthy.len() + broken.len() + 1).await;

        let mut connection = scene.redis.connection(1);
        for ((meta, why), (id, watch)) in cases.iter().zip(broken.iter().zip(&mut watches)) {
            write(&mut connection, id, meta);
            let error = watch.finished().await.expect_err(why);
            assert!(
                matches!(error, Error::Malformed { .. } | Error::TooLarge { .. }),
                "{error:?}"
            );
            let error = error.to_string();
            assert!(error.contains(why) && error.contains(id.as_str()), "{error}");
        }
        // Above the 32 MiB that Redis buffers for a subscriber: the connection is lost, and the value is read instead.
        write(&mut connection, &big, &success(&big, &json!("x".repeat(large))));
        let state = of_big.finished().await.expect("readable").state;
        assert!(matches!(state, TaskState::Success(Value::String(text)) if text.len() == large));

        let started = Instant::now();
        for id in &healthy {
            write(&mut connection, id, &success(id, &json!("fine")));
        }
        for wait in waits {
            assert_eq!(wait.await.expect("no panic"), json!("fine"));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    });
}

#[test]
fn progress_is_told_whatever_the_order_of_a_results_fields() {
    let scene = Scene::without_worker();
    let ids: Vec<TaskId> = (0..6).map(|_| TaskId::random()).collect();
    let long = "x".repeat(100);
    let metas = [
        json!({"status": "SUCCESS", "result": 1}).to_string(),
        format!(r#"{{"result": "\"status\": \"FAILURE\" {long}", "status": "SUCCESS"}}"#),
        format!(r#"{{"task_id":"{long}","status":"FAILURE","result":{{"exc_type":"E","exc_message":["m"]}}}}"#),
        format!(r#"{{"traceback": "{long}", "result": {{}}, "status": "REVOKED"}}"#),
        format!(r#"{{"result": {{"status": "SUCCESS"}}, "status": "{long}"}}"#),
    ];
    let mut connection = scene.redis.connection(1);
    for (id, meta) in ids.iter().zip(&metas) {
        write(&mut connection, id, meta.as_bytes());
    }
    run(async {
        let results = scene.client.results();
        let progress = results.progress(&ids).await.expect("Redis is up");
        assert_eq!((progress.total, progress.succeeded, progress.failed), (6, 2, 2));
        assert!(!progress.is_complete());
        assert!(results.forget(&ids[0]).await.expect("Redis is up"));
        assert!(!results.forget(&ids[0]).await.expect("Redis is up"));
        assert_eq!(results.get(&ids[0]).await.expect("Redis is up"), None);
    });
}
