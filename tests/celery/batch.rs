//! Publication of many tasks at once.

use orch::celery::{Error, Task};
use serde_json::{Value, json};

use crate::scene::{Scene, run};

fn tasks(count: usize) -> Vec<Task> {
    (0..count)
        .map(|number| {
            let mut task = Task::new("wire_app.add").args([json!(number), json!(1)]);
            task.priority = if number % 10 == 0 { 9 } else { 0 };
            task
        })
        .collect()
}

#[test]
fn all_of_a_batch_is_queued_once_and_in_order() {
    let scene = Scene::without_worker();
    let tasks = tasks(2_345);
    run(async {
        scene.client.publish_batch(&tasks).await.expect("Redis is up");
        scene.client.publish_batch(&[]).await.expect("nothing to do");
        let depth = scene.client.queue_depth("celery").await.expect("Redis is up");
        assert_eq!((depth[&0], depth[&9]), (2_110, 235));
    });
    let mut connection = scene.redis.connection(0);
    let items: Vec<String> = redis::cmd("LRANGE")
        .arg("celery")
        .arg(0)
        .arg(-1)
        .query(&mut connection)
        .expect("a list");
    let queued = items.iter().rev().map(|item| {
        let message: Value = serde_json::from_str(item).expect("JSON");
        message["headers"]["id"].as_str().expect("an id").to_owned()
    });
    let ids = tasks
        .iter()
        .filter(|task| task.priority == 0)
        .map(|task| task.id.as_str());
    assert!(queued.eq(ids), "in the order of the batch");
}

#[test]
fn one_bad_task_of_a_batch_keeps_all_of_it_back() {
    let scene = Scene::without_worker();
    let mut tasks = tasks(3);
    tasks.push(Task::new("wire_app.add").header("root_id", "mine"));
    run(async {
        let error = scene.client.publish_batch(&tasks).await.expect_err("a reserved header");
        assert_eq!((error.published, error.unconfirmed, error.total), (0, 0, 4));
        assert!(matches!(error.error, Error::InvalidTask { .. }), "{error}");
        assert!(
            error.to_string().contains("the header `root_id` is Celery's own"),
            "{error}"
        );
        let depth = scene.client.queue_depth("celery").await.expect("Redis is up");
        assert_eq!(depth[&0], 0);
    });
}

#[test]
fn a_batch_that_a_server_refuses_halfway_says_how_far_it_came() {
    let scene = Scene::without_worker();
    let tasks = tasks(2_000);
    // Nothing can be pushed to the list of priority 9: the first pipeline has such a message.
    redis::cmd("SET")
        .arg("celery\u{6}\u{16}9")
        .arg("no list")
        .exec(&mut scene.redis.connection(0))
        .expect("the server answers");
    run(async {
        let error = scene
            .client
            .publish_batch(&tasks)
            .await
            .expect_err("a key of another type");
        assert_eq!((error.published, error.unconfirmed), (0, 500), "{error}");
        assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    });
}

#[test]
fn a_batch_for_a_server_that_is_away_is_not_sent() {
    let mut scene = Scene::without_worker();
    scene.redis.kill();
    let client = scene.client.with_deadline(std::time::Duration::from_millis(300));
    run(async {
        let error = client.publish_batch(&tasks(10)).await.expect_err("nobody is there");
        assert_eq!((error.published, error.unconfirmed), (0, 0), "{error}");
    });
}
