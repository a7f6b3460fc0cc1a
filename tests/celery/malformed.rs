//! Malformed data in Redis: each is a clear error or a counted skip, and everything else arrives.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use orch::celery::{
    ControlTarget, Error, EventKind, GroupId, NodeName, StreamItem, Task, TaskEvent, TaskId, TaskState,
};
use serde_json::{Value, json};

use crate::scene::{Scene, node, run};
use crate::support::redis::RedisServer;
use crate::support::wait;

/// Size above the largest result that Redis clients send, below the limit of orch.
const LARGE: usize = 50 * 1024 * 1024;

/// Writes a result as a worker does: stored and published at once.
fn write(redis: &RedisServer, id: &TaskId, value: &[u8]) {
    let key = format!("celery-task-meta-{id}");
    redis::pipe()
        .atomic()
        .cmd("SETEX")
        .arg(&key)
        .arg(60)
        .arg(value)
        .cmd("PUBLISH")
        .arg(&key)
        .arg(value)
        .exec(&mut redis.connection(1))
        .expect("Redis is up");
}

#[test]
fn a_result_that_cannot_be_read_ends_its_own_wait_only() {
    let scene = Scene::without_worker();
    let large = format!(
        r#"{{"status": "SUCCESS", "result": "{}", "task_id": "x"}}"#,
        "x".repeat(LARGE)
    );
    let table: [(&str, &[u8], Option<&str>); 9] = [
        ("a pickle", b"\x80\x04\x95\x1e\x00\x00\x00", Some("expected value")),
        ("a list", b"[1, 2]", Some("it is a list")),
        ("a number", b"7", Some("invalid type")),
        ("half of it", br#"{"status": "SUCC"#, Some("EOF")),
        ("no status", br#"{"result": 5}"#, Some("missing field `status`")),
        ("a status of another type", br#"{"status": 5}"#, Some("invalid type")),
        ("another order of keys", br#"{"result": 5, "status": "SUCCESS"}"#, None),
        (
            "fields of other types",
            br#"{"status": "SUCCESS", "result": 1, "children": 7, "traceback": 8}"#,
            None,
        ),
        ("fifty megabytes", large.as_bytes(), None),
    ];
    run(async {
        let results = scene.client.results();
        let good = TaskId::random();
        let mut waits_on = results.watch(&good);
        for (what, value, error) in table {
            for before in [true, false] {
                let id = TaskId::random();
                if before {
                    write(&scene.redis, &id, value);
                }
                let mut watch = results.watch(&id);
                if !before {
                    // No result exists yet; once this question is answered, the subscription exists.
                    assert_eq!(results.get(&id).await.expect("Redis is up"), None);
                    write(&scene.redis, &id, value);
                }
                match (watch.finished().await, error) {
                    (Ok(result), None) => assert!(matches!(result.state, TaskState::Success(_)), "{what}"),
                    (Err(Error::Malformed { what: named, reason }), Some(error)) => {
                        assert!(
                            named.contains(id.as_str()) && reason.contains(error),
                            "{what}: {reason}"
                        );
                    }
                    (outcome, _) => panic!("{what}: {outcome:?}"),
                }
            }
        }
        write(&scene.redis, &good, br#"{"status": "SUCCESS", "result": 1}"#);
        let result = waits_on.finished().await.expect("a readable result");
        assert_eq!(result.state, TaskState::Success(json!(1)));
    });
}

#[test]
fn a_result_key_of_another_type_is_named() {
    let scene = Scene::without_worker();
    let id = TaskId::random();
    redis::cmd("LPUSH")
        .arg(format!("celery-task-meta-{id}"))
        .arg("no string")
        .exec(&mut scene.redis.connection(1))
        .expect("Redis is up");
    run(async {
        let error = scene.client.results().get(&id).await.expect_err("a list").to_string();
        assert!(error.contains("WRONGTYPE"), "{error}");
    });
}

#[test]
fn events_that_cannot_be_read_are_counted_and_the_rest_arrives() {
    let scene = Scene::without_worker();
    let publish = |payload: &[u8]| {
        redis::cmd("PUBLISH")
            .arg("/0.celeryev/task.multi")
            .arg(payload)
            .exec(&mut scene.redis.connection(0))
            .expect("Redis is up");
    };
    let envelope = |body: &Value| {
        json!({"body": body.to_string(), "content-type": "application/json", "content-encoding": "utf-8",
               "headers": {}, "properties": {}})
        .to_string()
    };
    let event = |id: &str, timestamp: Value| json!({"type": "task-started", "uuid": id, "hostname": "w1@test", "timestamp": timestamp, "clock": 1});
    run(async {
        let mut events = scene.client.events().await.expect("Redis is up");
        let bad: [&[u8]; 4] = [
            b"no JSON",
            b"{}",
            br#"{"body": "!!", "properties": {"body_encoding": "base64"}}"#,
            b"\xff\xfe\x00",
        ];
        bad.iter().for_each(|payload| publish(payload));
        // The year 9999, and values that are no times.
        let times = [
            json!(253_402_300_799.0),
            json!(1e300),
            json!(-1),
            json!("soon"),
            json!(null),
        ];
        for (number, time) in times.iter().enumerate() {
            publish(envelope(&event(&format!("t{number}"), time.clone())).as_bytes());
        }
        publish(
            envelope(&json!([event("t5", json!(1)), 7, {"type": "task-started"}, event("t6", json!(1))])).as_bytes(),
        );
        for number in 0..=6 {
            let StreamItem::Event(event) = events.next().await.expect("Redis is up") else {
                panic!("nothing was lost")
            };
            let EventKind::Task {
                id,
                event: TaskEvent::Started,
            } = &event.kind
            else {
                panic!("{event:?}")
            };
            assert_eq!(id.as_str(), format!("t{number}"));
        }
        assert_eq!(events.malformed(), 6);
    });
}

#[test]
fn replies_that_are_not_ours_or_cannot_be_read_do_not_stand_for_a_worker() {
    let scene = Scene::new();
    run(async {
        let control = scene.client.control();
        // The list of replies is known once a request is pending: all lists in Redis get malformed replies while the
        // call waits for a worker that does not exist.
        let target = ControlTarget::Nodes(vec![node(), "nobody@test".into()]);
        let spoil = wait::until_async("the end of the request", Duration::from_secs(30), async || {
            let mut connection = scene.redis.connection(0);
            let keys: Vec<String> = redis::cmd("KEYS")
                .arg("*.reply.celery.pidbox")
                .query(&mut connection)
                .expect("Redis is up");
            for key in keys {
                for reply in [
                    "no JSON",
                    "{}",
                    r#"{"body": "!!", "properties": {"body_encoding": "base64"}}"#,
                ] {
                    redis::cmd("LPUSH")
                        .arg(&key)
                        .arg(reply)
                        .exec(&mut connection)
                        .expect("Redis is up");
                }
            }
            None::<Infallible>
        });
        let asked = control.ping(&target, Duration::from_millis(500));
        let replies = tokio::select! {
            replies = asked => replies.expect("Redis is up"),
            never = spoil => match never {},
        };
        assert_eq!(replies.of(&node()), Some(&()));
        assert_eq!(replies.nodes.len(), 1, "{replies:?}");
        // The next call succeeds as if nothing had happened.
        let replies = control
            .ping(&ControlTarget::from(&node()), Duration::from_secs(5))
            .await
            .expect("Redis is up");
        assert_eq!(replies.of(&node()), Some(&()));
    });
}

#[test]
fn bookkeeping_that_is_none_is_an_error_or_nothing() {
    let scene = Scene::without_worker();
    let group = GroupId::random();
    let key = |suffix: &str| format!("celery-taskset-meta-{group}{suffix}");
    let mut backend = scene.redis.connection(1);
    let mut broker = scene.redis.connection(0);
    run(async {
        redis::pipe()
            .cmd("ZADD")
            .arg(key(".j"))
            .arg(1)
            .arg("garbage")
            .arg(2)
            .arg(b"\xff\xfe")
            .cmd("SET")
            .arg(key(".s"))
            .arg(5)
            .exec(&mut backend)
            .expect("Redis is up");
        let progress = scene
            .client
            .chord_progress(&group)
            .await
            .expect("Redis is up")
            .expect("begun");
        assert_eq!((progress.done, progress.total, progress.failed), (2, Some(5), 0));
        redis::cmd("SET")
            .arg(key(".s"))
            .arg("many")
            .exec(&mut backend)
            .expect("Redis is up");
        assert!(scene.client.chord_progress(&group).await.is_err());

        for (tag, value) in [
            ("a", "no JSON"),
            ("b", "[]"),
            ("c", r#"[{"headers": 5}, "", "celery"]"#),
        ] {
            redis::pipe()
                .cmd("HSET")
                .arg("unacked")
                .arg(tag)
                .arg(value)
                .cmd("ZADD")
                .arg("unacked_index")
                .arg(1)
                .arg(tag)
                .exec(&mut broker)
                .expect("Redis is up");
        }
        let listed = scene.client.unacked_messages(10).await.expect("Redis is up");
        assert_eq!(listed.len(), 3);
        assert!(listed.iter().all(|message| message.task.is_none()), "{listed:?}");
        let task = Task::new("wire_app.add");
        let queues = ["celery"];
        scene.client.publish(&task).await.expect("Redis is up");
        scene
            .client
            .locate(&task.id, &queues)
            .await
            .expect("what cannot be read is no task");
        let inspection = scene
            .client
            .inspect_messages(&["celery".to_owned()])
            .await
            .expect("Redis is up");
        assert_eq!(
            (inspection.inspected, inspection.harmful.len()),
            (4, 3),
            "{inspection:?}"
        );

        redis::cmd("SET")
            .arg("wrong")
            .arg(1)
            .exec(&mut broker)
            .expect("Redis is up");
        let error = scene
            .client
            .queue_depth("wrong")
            .await
            .expect_err("no list")
            .to_string();
        assert!(error.contains("WRONGTYPE"), "{error}");
    });
}

/// Answers one request as no worker would, and then as the worker that was asked.
fn answer_badly_then_well(redis: &RedisServer, ready: &std::sync::mpsc::Sender<()>) {
    let mut listener = redis.connection(0);
    let mut listener = listener.as_pubsub();
    listener
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a socket");
    listener.psubscribe("/0.celery.pidbox").expect("Redis is up");
    ready.send(()).expect("the test waits");
    let request = listener.get_message().expect("a request");
    let request: Value = serde_json::from_slice(request.get_payload_bytes()).expect("our own JSON");
    let body = BASE64
        .decode(request["body"].as_str().expect("a body"))
        .expect("our own base64");
    let body: Value = serde_json::from_slice(&body).expect("our own JSON");
    let list = body["reply_to"]["routing_key"].as_str().expect("a list");
    let reply = |ticket: &Value, encoding: Value, body: &str| {
        json!({"body": body, "content-type": "application/json", "content-encoding": "utf-8",
               "headers": {"ticket": ticket}, "properties": {"body_encoding": encoding}})
        .to_string()
    };
    let ticket = &body["ticket"];
    let pong = |node: &str| json!({node: {"ok": "pong"}}).to_string();
    for message in [
        reply(ticket, json!("base64"), "!! no base64 !!"),
        reply(ticket, json!(null), r#"["no", "object"]"#),
        reply(&json!("another call"), json!(null), &pong("w1@fake")),
        reply(ticket, json!(null), &pong("stranger@nowhere")),
        reply(ticket, json!(null), &pong("w1@fake")),
    ] {
        redis::cmd("LPUSH")
            .arg(list)
            .arg(message)
            .exec(&mut redis.connection(0))
            .expect("Redis is up");
    }
}

#[test]
fn a_strangers_reply_does_not_end_the_wait_for_the_node_that_was_asked() {
    let scene = Scene::without_worker();
    std::thread::scope(|threads| {
        let (ready, listens) = std::sync::mpsc::channel();
        let redis = &scene.redis;
        threads.spawn(move || answer_badly_then_well(redis, &ready));
        listens.recv().expect("the listener subscribes");
        run(async {
            let asked: NodeName = "w1@fake".into();
            let control = scene.client.control();
            let replies = control
                .ping(&ControlTarget::from(&asked), Duration::from_secs(10))
                .await;
            let replies = replies.expect("Redis is up");
            assert_eq!(replies.of(&asked), Some(&()), "{replies:?}");
            assert_eq!(replies.malformed, 2, "{replies:?}");
        });
    });
}

#[test]
fn garbage_among_the_unacknowledged_does_not_keep_a_lost_message_from_its_queue() {
    let scene = Scene::new();
    let id = TaskId::random();
    let message = json!({"body": "W1sxLCAyXSwge30sIHt9XQ==", "content-type": "application/json", "content-encoding": "utf-8",
        "headers": {"task": "wire_app.add", "id": id, "root_id": id},
        "properties": {"body_encoding": "base64", "delivery_tag": "lost", "priority": 0,
                       "delivery_info": {"exchange": "", "routing_key": "celery"}}});
    let lost = json!([message, "", "celery"]).to_string();
    let garbage: [(&str, &[u8]); 6] = [
        ("a", b"no JSON"),
        ("b", b"[]"),
        ("c", br#"[{"headers": 5}, "", "celery"]"#),
        ("d", b"\xff\xfe"),
        ("e", br#"[{"headers": {"id": "no-queue"}}, 7, null]"#),
        (
            "f",
            br#"[{"headers": {"id": "nobody-bound"}, "properties": []}, "no such exchange", "x"]"#,
        ),
    ];
    run(async {
        let mut put = redis::pipe();
        for (tag, value) in garbage.into_iter().chain([("lost", lost.as_bytes())]) {
            put.cmd("HSET").arg("unacked").arg(tag).arg(value);
            put.cmd("ZADD").arg("unacked_index").arg(1).arg(tag);
        }
        put.exec(&mut scene.redis.connection(0)).expect("Redis is up");
        let restored = scene
            .client
            .restore_unacked(&HashSet::new())
            .await
            .expect("Redis is up");
        assert_eq!((restored.requeued, &restored.uncertain), (1, &None), "{restored:?}");
        let result = scene.client.results().watch(&id).finished().await;
        assert_eq!(result.expect("a readable result").state, TaskState::Success(json!(3)));
        let kept: u64 = redis::cmd("HLEN")
            .arg("unacked")
            .query(&mut scene.redis.connection(0))
            .expect("Redis is up");
        assert_eq!(kept, garbage.len() as u64, "what cannot be judged is kept");
    });
}
