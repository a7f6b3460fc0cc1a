//! Outages of Redis while results are awaited.

use std::time::Duration;

use orch::celery::{StreamItem, Task, TaskId, TaskState};
use serde_json::json;

use crate::scene::{Scene, run};
use crate::support::wait;

const SUBSCRIPTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Writes the result of a successful task as a worker does; `publish` is false for a result that is written while no
/// client listens.
fn succeed(scene: &Scene, id: &TaskId, value: &serde_json::Value, publish: bool) {
    let meta =
        json!({"status": "SUCCESS", "result": value, "traceback": null, "children": [], "task_id": id}).to_string();
    let key = format!("celery-task-meta-{id}");
    let mut write = redis::pipe();
    write.atomic().cmd("SETEX").arg(&key).arg(86400).arg(&meta);
    if publish {
        write.cmd("PUBLISH").arg(&key).arg(&meta);
    }
    write.exec(&mut scene.redis.connection(1)).expect("Redis is up");
}

/// Waits until the server has this number of subscribers of a task's channel.
async fn subscribers(scene: &Scene, id: &TaskId, wanted: u64) {
    let mut redis = scene.redis.connection(1);
    wait::until_async(&format!("{wanted} subscribers"), SUBSCRIPTION_TIMEOUT, async || {
        let mut count = redis::cmd("PUBSUB");
        count.arg("NUMSUB").arg(format!("celery-task-meta-{id}"));
        let (_channel, subscribers): (String, u64) = count.query(&mut redis).expect("Redis is up");
        (subscribers == wanted).then_some(())
    })
    .await;
}

#[test]
fn waits_go_on_over_a_restart_of_redis() {
    let mut scene = Scene::without_worker();
    run(async {
        let results = scene.client.results();
        let [published, written, already] = [TaskId::random(), TaskId::random(), TaskId::random()];
        let mut of_published = results.watch(&published);
        let mut of_written = results.watch(&written);
        subscribers(&scene, &published, 1).await;
        succeed(&scene, &already, &json!("before"), false);

        scene.redis.kill();
        // This watch begins during the outage.
        let mut of_already = results.watch(&already);
        tokio::time::timeout(Duration::from_millis(300), of_published.finished())
            .await
            .expect_err("Redis is away");
        scene.redis.start_again();

        assert_eq!(
            of_already.finished().await.expect("kept").state,
            TaskState::Success(json!("before"))
        );
        // The server confirmed the subscription to all of them at once.
        subscribers(&scene, &published, 1).await;
        succeed(&scene, &published, &json!("after"), true);
        assert_eq!(
            of_published.finished().await.expect("heard").state,
            TaskState::Success(json!("after"))
        );

        scene.redis.kill();
        scene.redis.start_again();
        // The result may be written before the reconnection, and without a message: only a second read can find it.
        succeed(&scene, &written, &json!("unheard"), false);
        scene.redis.kill();
        scene.redis.start_again();
        assert_eq!(
            of_written.finished().await.expect("could not read").state,
            TaskState::Success(json!("unheard"))
        );
    });
}

#[test]
fn a_result_too_large_for_a_subscriber_is_read_instead() {
    let scene = Scene::without_worker();
    run(async {
        let id = TaskId::random();
        let mut watch = scene.client.results().watch(&id);
        subscribers(&scene, &id, 1).await;
        // Redis closes the connection of a subscriber for which it buffers more than 32 MiB.
        let value = json!("x".repeat(40 * 1024 * 1024));
        succeed(&scene, &id, &value, true);
        assert!(
            matches!(watch.finished().await.expect("could not read").state, TaskState::Success(read) if read == value)
        );
    });
}

#[test]
fn a_watch_that_ended_leaves_no_subscription() {
    let scene = Scene::without_worker();
    run(async {
        let results = scene.client.results();
        let [dropped, finished] = [TaskId::random(), TaskId::random()];
        let (first, second) = (results.watch(&dropped), results.watch(&dropped));
        subscribers(&scene, &dropped, 1).await;
        drop(first);
        let mut of_finished = results.watch(&finished);
        subscribers(&scene, &finished, 1).await;
        subscribers(&scene, &dropped, 1).await;
        drop(second);
        subscribers(&scene, &dropped, 0).await;
        succeed(&scene, &finished, &json!(1), true);
        of_finished.finished().await.expect("heard");
        subscribers(&scene, &finished, 0).await;
    });
}

#[test]
fn commands_and_events_go_on_after_a_restart() {
    let mut scene = Scene::without_worker();
    run(async {
        let mut events = scene.client.events().await.expect("Redis is up");
        let task = Task::new("wire_app.add");
        scene.client.publish(&task).await.expect("Redis is up");
        scene.redis.kill();
        scene.redis.start_again();
        assert_eq!(events.next().await.expect("back"), StreamItem::Gap);
        scene.client.publish(&task).await.expect("Redis is back");
        let depth = scene.client.queue_depth("celery").await.expect("Redis is back");
        assert_eq!(depth.values().sum::<u64>(), 2);
    });
}
