//! Remote control.

use std::time::{Duration, Instant};

use orch::celery::{NodeName, Target, Task, TaskState};
use serde_json::json;

use crate::scene::{Scene, node, run};
use crate::support::celery::{WorkerOptions, at_least};

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_worker_answers_pings_by_broadcast_by_name_and_by_glob() {
    let scene = Scene::new();
    run(async {
        let control = scene.client.control();
        for target in [Target::All, Target::from(&node()), Target::Glob("w1@*".to_owned())] {
            let started = Instant::now();
            let replies = control.ping(&target, LIMIT).await.expect("Redis is up");
            assert_eq!(replies.of(&node()), Some(&()), "{replies:?}");
            assert!(
                started.elapsed() < LIMIT / 2,
                "it waited for more than all who can answer"
            );
        }
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*.reply.*")
            .query(&mut scene.redis.connection(0))
            .expect("up");
        assert_eq!(keys, Vec::<String>::new());
    });
}

#[test]
fn nobody_answers_for_an_absent_node_and_its_late_reply_would_expire() {
    let scene = Scene::new();
    run(async {
        let absent = Target::Nodes(vec![NodeName::from("nobody@nowhere")]);
        let control = scene.client.control();
        let limit = Duration::from_millis(300);
        let started = Instant::now();
        let replies = control.ping(&absent, limit).await.expect("Redis is up");
        assert!(replies.nodes.is_empty() && replies.is_incomplete(), "{replies:?}");
        assert!(
            started.elapsed() >= limit && started.elapsed() < LIMIT,
            "{:?}",
            started.elapsed()
        );

        let mut redis = scene.redis.connection(0);
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*.reply.celery.pidbox")
            .query(&mut redis)
            .expect("Redis is up");
        let [list] = keys.as_slice() else {
            panic!("one list: {keys:?}")
        };
        let ttl: i64 = redis::cmd("TTL").arg(list).query(&mut redis).expect("Redis is up");
        assert!(ttl > 0, "it has no expiry");
        // The same list serves the next call.
        let replies = control.ping(&Target::from(&node()), LIMIT).await.expect("Redis is up");
        assert_eq!(replies.of(&node()), Some(&()));
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*.reply.celery.pidbox")
            .query(&mut redis)
            .expect("Redis is up");
        assert_eq!(keys, Vec::<String>::new());
    });
}

#[test]
fn late_replies_to_a_cancelled_call_expire() {
    let scene = Scene::new();
    let worker = &scene.worker.as_ref().expect("started").process;
    run(async {
        scene.client.ping_redis().await.expect("Redis is up");
        worker.signal(nix::sys::signal::Signal::SIGSTOP);
        let control = scene.client.control();
        let call = control.ping(&Target::All, LIMIT);
        tokio::time::timeout(Duration::from_millis(100), call)
            .await
            .expect_err("the worker is stopped");
        worker.signal(nix::sys::signal::Signal::SIGCONT);

        let mut redis = scene.redis.connection(0);
        while !late_reply_in_an_expiring_list(&mut redis) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// Beside the empty marks that keep the list.
fn late_reply_in_an_expiring_list(redis: &mut redis::Connection) -> bool {
    let lists: Vec<String> = redis::cmd("KEYS")
        .arg("*.reply.celery.pidbox")
        .query(redis)
        .expect("Redis is up");
    let Some(list) = lists.first() else { return false };
    let mut ask = redis::pipe();
    let (items, ttl): (Vec<Vec<u8>>, i64) = ask
        .cmd("LRANGE")
        .arg(list)
        .arg(0)
        .arg(-1)
        .cmd("TTL")
        .arg(list)
        .query(redis)
        .expect("Redis is up");
    assert!(ttl > 0, "{list} has no expiry");
    items.iter().any(|item| !item.is_empty())
}

#[test]
fn without_any_worker_a_call_returns_at_once() {
    let scene = Scene::without_worker();
    run(async {
        let started = Instant::now();
        let replies = scene
            .client
            .control()
            .ping(&Target::All, LIMIT)
            .await
            .expect("Redis is up");
        assert_eq!((replies.listeners, replies.nodes.len()), (0, 0));
        assert!(started.elapsed() < LIMIT / 2);
    });
}

#[test]
fn a_worker_tells_what_it_is_and_what_it_does() {
    let scene = Scene::with(WorkerOptions {
        concurrency: 1,
        ..WorkerOptions::default()
    });
    let worker_pid = scene.worker.as_ref().expect("started").process.pid();
    run(async {
        let control = scene.client.control();
        let target = Target::from(&node());

        let stats = control.stats(&target, LIMIT).await.expect("Redis is up");
        let stats = stats.of(&node()).expect("it answers");
        assert_eq!((stats.pid, stats.pool_slots), (worker_pid, 1));
        assert_eq!(stats.broker.host, "127.0.0.1");
        assert_eq!(
            (stats.broker.port, stats.broker.database),
            (Some(scene.redis.port), Some(0))
        );

        let registered = control.registered(&target, LIMIT).await.expect("Redis is up");
        assert!(
            registered
                .of(&node())
                .expect("it answers")
                .contains(&"wire_app.dispatch".to_owned())
        );

        control
            .add_consumer("extra", &target, LIMIT)
            .await
            .expect("Redis is up");
        // A worker answers before it acts.
        let until_consumed = async |wanted: &[&str]| loop {
            let queues = control.active_queues(&target, LIMIT).await.expect("Redis is up");
            let queues = queues.of(&node()).expect("it answers");
            if queues
                .iter()
                .map(|queue| queue.name.as_str())
                .eq(wanted.iter().copied())
            {
                break;
            }
        };
        until_consumed(&["celery", "extra"]).await;
        control
            .cancel_consumer("extra", &target, LIMIT)
            .await
            .expect("Redis is up");
        until_consumed(&["celery"]).await;

        let conf = control.conf(&target, LIMIT).await.expect("Redis is up");
        assert!(conf.of(&node()).expect("it answers").contains_key("broker_url"));

        let unknown = control
            .call("no_such_request", json!({}), &target, LIMIT)
            .await
            .expect("Redis is up");
        assert_eq!(unknown.nodes[&node()], Err("KeyError('no_such_request')".to_owned()));
    });
}

#[test]
fn a_running_task_is_seen_and_its_revocation_ends_it() {
    let scene = Scene::new();
    run(async {
        let control = scene.client.control();
        let task = Task::new("wire_app.sleep").args([json!(60)]);
        let mut events = scene.client.events().await.expect("Redis is up");
        let mut watch = scene.client.results().watch(&task.id);
        scene.client.publish(&task).await.expect("Redis is up");
        crate::scene::until_started(&mut events, &task.id).await;

        let active = control.active(&Target::All, LIMIT).await.expect("Redis is up");
        let [running] = active.of(&node()).expect("it answers").as_slice() else {
            panic!("{active:?}")
        };
        assert_eq!(
            (&running.id, running.acknowledged, &running.args),
            (&task.id, true, &json!([60]))
        );
        assert!(running.worker_pid.is_some() && running.time_start.is_some());

        control
            .revoke(
                std::slice::from_ref(&task.id),
                Some(orch::celery::Signal::Term),
                &Target::All,
                LIMIT,
            )
            .await
            .expect("Redis is up");
        let TaskState::Revoked(failure) = watch.finished().await.expect("a readable result").state else {
            panic!("it was revoked")
        };
        // From 5.6 on a worker also writes it at once, before the task has ended.
        let at_once = at_least(5, 6) && failure.exc_message == "revoked";
        assert!(at_once || failure.exc_message == "terminated", "{failure:?}");
    });
}

#[test]
fn shutdown_ends_the_worker_warm() {
    let mut scene = Scene::new();
    let listeners = run(async {
        scene
            .client
            .control()
            .shutdown(&Target::from(&node()))
            .await
            .expect("Redis is up")
    });
    assert!(listeners > 0);
    let worker = &mut scene.worker.as_mut().expect("started").process;
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = worker.ended() {
            break status;
        }
        assert!(Instant::now() < deadline, "the worker goes on");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}
