//! Keys with another type of value than Celery writes: the error names the key, and everything else goes on.

use std::collections::HashSet;

use orch::celery::{Error, GroupId, Task, TaskId, TaskState};
use serde_json::json;

use crate::scene::{Scene, run};

/// Makes a key a list, or a set where a list is expected.
fn spoil(scene: &Scene, database: u32, command: &str, key: &str) {
    let mut spoil = redis::cmd(command);
    spoil.arg(key).arg("not what is expected");
    spoil.exec(&mut scene.redis.connection(database)).expect("Redis is up");
}

fn succeed(scene: &Scene, id: &TaskId) {
    let key = format!("celery-task-meta-{id}");
    let meta = json!({"status": "SUCCESS", "result": 1, "traceback": null, "children": [], "task_id": id}).to_string();
    let mut write = redis::pipe();
    write.atomic().cmd("SET").arg(&key).arg(&meta);
    write.cmd("PUBLISH").arg(&key).arg(&meta);
    write.exec(&mut scene.redis.connection(1)).expect("Redis is up");
}

#[test]
fn a_result_of_another_type_ends_its_own_watch_only() {
    let scene = Scene::without_worker();
    let [spoilt, before, with_it, after] = [(); 4].map(|()| TaskId::random());
    spoil(&scene, 1, "RPUSH", &format!("celery-task-meta-{spoilt}"));
    run(async {
        let results = scene.client.results();
        let mut of_before = results.watch(&before);
        // One batch asks for both.
        let (mut of_spoilt, mut of_with_it) = (results.watch(&spoilt), results.watch(&with_it));
        let error = of_spoilt.finished().await.expect_err("a list is no result");
        assert!(
            matches!(&error, Error::Malformed { what, reason } if what.contains(spoilt.as_str()) && reason.contains("WRONGTYPE")),
            "{error:?}"
        );
        let error = results.get(&spoilt).await.expect_err("a list is no result").to_string();
        assert!(
            error.contains(spoilt.as_str()) && error.contains("WRONGTYPE"),
            "{error}"
        );

        let mut of_after = results.watch(&after);
        for (id, watch) in [
            (&before, &mut of_before),
            (&with_it, &mut of_with_it),
            (&after, &mut of_after),
        ] {
            succeed(&scene, id);
            let state = watch.finished().await.expect("a readable result").state;
            assert_eq!(state, TaskState::Success(json!(1)));
        }
        let ids = [before, spoilt, with_it, after];
        let progress = results.progress(&ids).await.expect("Redis is up");
        assert_eq!((progress.total, progress.succeeded, progress.failed), (4, 3, 0));
    });
}

#[test]
fn lists_and_hashes_of_another_type_are_named_with_what_was_being_done() {
    let scene = Scene::without_worker();
    for key in ["celery", "unacked", "unacked_index"] {
        spoil(&scene, 0, "SADD", key);
    }
    let group = GroupId::from("7f");
    spoil(&scene, 1, "RPUSH", "celery-taskset-meta-7f.s");
    run(async {
        let client = &scene.client;
        let refusals = [
            client.publish(&Task::new("wire_app.add")).await.map(|_| ()),
            client.queue_depth("celery").await.map(|_| ()),
            client.unacked_count().await.map(|_| ()),
            client.unacked_messages(10).await.map(|_| ()),
            client.restore_unacked(&HashSet::new()).await.map(|_| ()),
            client.chord_progress(&group).await.map(|_| ()),
        ];
        for refusal in refusals {
            let error = refusal.expect_err("another type");
            assert!(!error.is_transient(), "{error:?}");
            assert!(error.to_string().contains("WRONGTYPE"), "{error}");
        }
        // Intact keys work on over the same connections.
        let task = Task::new("wire_app.add").queue("whole");
        client.publish(&task).await.expect("Redis is up");
        assert_eq!(client.queue_depth("whole").await.expect("Redis is up")[&0], 1);
    });
}
