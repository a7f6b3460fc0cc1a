//! Remote control.

use std::time::{Duration, Instant};

use orch::celery::{ControlTarget, NodeName, Task, TaskState};
use serde_json::json;

use crate::scene::{Scene, node, run};
use crate::support::celery::{WorkerOptions, at_least};
use crate::support::wait;

const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn a_worker_answers_pings_by_broadcast_by_name_and_by_glob() {
    let scene = Scene::new();
    run(async {
        let control = scene.client.control();
        for target in [
            ControlTarget::All,
            ControlTarget::from(&node()),
            ControlTarget::Glob("w1@*".to_owned()),
        ] {
            let started = Instant::now();
            let replies = control.ping(&target, REPLY_TIMEOUT).await.expect("Redis is up");
            assert_eq!(replies.of(&node()), Some(&()), "{replies:?}");
            assert!(
                started.elapsed() < REPLY_TIMEOUT / 2,
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
        let absent = ControlTarget::Nodes(vec![NodeName::from("nobody@nowhere")]);
        let control = scene.client.control();
        let limit = Duration::from_millis(300);
        let started = Instant::now();
        let replies = control.ping(&absent, limit).await.expect("Redis is up");
        assert!(replies.nodes.is_empty() && replies.is_incomplete(), "{replies:?}");
        assert!(
            started.elapsed() >= limit && started.elapsed() < REPLY_TIMEOUT,
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
        // The next call uses the same list.
        let replies = control
            .ping(&ControlTarget::from(&node()), REPLY_TIMEOUT)
            .await
            .expect("Redis is up");
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
        let call = control.ping(&ControlTarget::All, REPLY_TIMEOUT);
        tokio::time::timeout(Duration::from_millis(100), call)
            .await
            .expect_err("the worker is stopped");
        worker.signal(nix::sys::signal::Signal::SIGCONT);

        let mut redis = scene.redis.connection(0);
        wait::until_async(
            "a late reply in a list that expires",
            Duration::from_secs(30),
            async || late_reply_in_an_expiring_list(&mut redis).then_some(()),
        )
        .await;
    });
}

/// Returns whether a list that expires has a reply, next to the empty marks that keep the list. A reply may come before
/// the marks; then the expiry is set later.
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
    ttl > 0 && items.iter().any(|item| !item.is_empty())
}

#[test]
fn without_any_worker_a_call_returns_at_once() {
    let scene = Scene::without_worker();
    run(async {
        let started = Instant::now();
        let replies = scene
            .client
            .control()
            .ping(&ControlTarget::All, REPLY_TIMEOUT)
            .await
            .expect("Redis is up");
        assert_eq!((replies.listeners, replies.nodes.len()), (0, 0));
        assert!(started.elapsed() < REPLY_TIMEOUT / 2);
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
        let target = ControlTarget::from(&node());

        let stats = control.stats(&target, REPLY_TIMEOUT).await.expect("Redis is up");
        let stats = stats.of(&node()).expect("it answers");
        assert_eq!((stats.pid, stats.pool_slots), (worker_pid, 1));
        assert_eq!(stats.broker.host, "127.0.0.1");
        assert_eq!(
            (stats.broker.port, stats.broker.database),
            (Some(scene.redis.port), Some(0))
        );

        let registered = control.registered(&target, REPLY_TIMEOUT).await.expect("Redis is up");
        assert!(
            registered
                .of(&node())
                .expect("it answers")
                .contains(&"wire_app.dispatch".to_owned())
        );

        control
            .add_consumer("extra", &target, REPLY_TIMEOUT)
            .await
            .expect("Redis is up");
        // A worker replies before it acts.
        let until_consumed = async |wanted: &[&str]| {
            wait::until_async(&format!("the worker consumes {wanted:?}"), REPLY_TIMEOUT, async || {
                let queues = control
                    .active_queues(&target, REPLY_TIMEOUT)
                    .await
                    .expect("Redis is up");
                let queues = queues.of(&node()).expect("it answers");
                let names = queues.iter().map(|queue| queue.name.as_str());
                names.eq(wanted.iter().copied()).then_some(())
            })
            .await;
        };
        until_consumed(&["celery", "extra"]).await;
        control
            .cancel_consumer("extra", &target, REPLY_TIMEOUT)
            .await
            .expect("Redis is up");
        until_consumed(&["celery"]).await;

        let conf = control.conf(&target, REPLY_TIMEOUT).await.expect("Redis is up");
        assert!(conf.of(&node()).expect("it answers").contains_key("broker_url"));

        let unknown = control
            .call("no_such_request", json!({}), &target, REPLY_TIMEOUT)
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

        let active = control
            .active(&ControlTarget::All, REPLY_TIMEOUT)
            .await
            .expect("Redis is up");
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
                &ControlTarget::All,
                REPLY_TIMEOUT,
            )
            .await
            .expect("Redis is up");
        let TaskState::Revoked(failure) = watch.finished().await.expect("a readable result").state else {
            panic!("it was revoked")
        };
        // From Celery 5.6 on a worker also stores the state at once, before the task has ended.
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
            .shutdown(&ControlTarget::from(&node()))
            .await
            .expect("Redis is up")
    });
    assert!(listeners > 0);
    let worker = &mut scene.worker.as_mut().expect("started").process;
    let status = worker.wait_for_end(Duration::from_secs(30));
    assert!(status.success(), "{status}");
}

/// Answers the next control request in the name of several workers, with one pushed message for each reply; returns the
/// name of the list.
fn answer_next(
    redis: &crate::support::redis::RedisServer,
    replies: impl FnOnce(&str) -> Vec<String> + Send + 'static,
) -> std::thread::JoinHandle<String> {
    let (mut listen, mut push) = (redis.connection(0), redis.connection(0));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let answers = std::thread::spawn(move || {
        let mut requests = listen.as_pubsub();
        requests.subscribe("/0.celery.pidbox").expect("Redis is up");
        ready.send(()).expect("the test waits for it");
        let request: String = requests
            .get_message()
            .and_then(|message| message.get_payload())
            .expect("a request");
        let request: serde_json::Value = serde_json::from_str(&request).expect("JSON");
        let body = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            request["body"].as_str().expect("text"),
        );
        let body: serde_json::Value = serde_json::from_slice(&body.expect("base64")).expect("JSON");
        let list = body["reply_to"]["routing_key"].as_str().expect("a list").to_owned();
        for reply in replies(body["ticket"].as_str().expect("a ticket")) {
            let pushed: u64 = redis::cmd("LPUSH")
                .arg(&list)
                .arg(reply)
                .query(&mut push)
                .expect("Redis is up");
            assert!(pushed > 1, "the list was not there before");
        }
        list
    });
    is_ready.recv().expect("it listens");
    answers
}

/// Subscribes one more connection to control requests.
fn listener(scene: &Scene) -> redis::Connection {
    use redis::ConnectionLike;
    let mut connection = scene.redis.connection(0);
    let confirmed = connection.req_command(redis::cmd("SUBSCRIBE").arg("/0.celery.pidbox"));
    confirmed.expect("Redis is up");
    connection
}

fn reply(ticket: &str, body: &serde_json::Value) -> String {
    json!({"body": body.to_string(), "content-type": "application/json", "content-encoding": "utf-8",
        "headers": {"ticket": ticket, "clock": 1}, "properties": {"delivery_tag": "t", "delivery_info": {}}})
    .to_string()
}

#[test]
fn replies_that_are_not_meant_or_cannot_be_read_are_counted_or_skipped() {
    let scene = Scene::without_worker();
    let _others: Vec<redis::Connection> = (0..5).map(|_| listener(&scene)).collect();
    let answers = answer_next(&scene.redis, |ticket| {
        vec![
            "no JSON".to_owned(),
            reply(ticket, &json!(["no", "object"])),
            reply("another ticket", &json!({"w0@test": {"ok": "pong"}})),
            // One name twice, then a name that was not asked for, then a reply with another content.
            reply(ticket, &json!({"w1@test": {"ok": "pong"}})),
            reply(ticket, &json!({"w1@test": {"ok": "pong"}})),
            reply(ticket, &json!({"stranger@nowhere": {"error": "KeyError('ping')"}})),
            reply(ticket, &json!({"w3@test": {"ok": "pung"}})),
        ]
    });
    run(async {
        let control = scene.client.control();
        let target = ControlTarget::Nodes(["w1@test", "w2@test"].map(NodeName::from).to_vec());
        let within = Duration::from_millis(500);
        let replies = control.ping(&target, within).await.expect("Redis is up");
        assert_eq!((replies.listeners, replies.answers, replies.malformed), (6, 4, 2));
        assert_eq!(replies.of(&NodeName::from("w1@test")), Some(&()));
        assert!(replies.nodes[&NodeName::from("w3@test")].is_err(), "no pong");
        assert!(replies.nodes[&NodeName::from("stranger@nowhere")].is_err());
        assert!(replies.of(&NodeName::from("w0@test")).is_none(), "another ticket's");
    });
    answers.join().expect("it answered");
}

#[test]
fn two_workers_of_one_name_and_strangers_are_visible() {
    let scene = Scene::without_worker();
    // Three connections listen, so that the call waits for three answers.
    let _others = [listener(&scene), listener(&scene)];
    let answers = answer_next(&scene.redis, |ticket| {
        vec![
            reply(ticket, &json!({"w1@test": {"ok": "pong"}})),
            reply(ticket, &json!({"w1@test": {"ok": "pong"}})),
            reply(ticket, &json!({"stranger@nowhere": {"error": "KeyError('ping')"}})),
        ]
    });
    run(async {
        let started = Instant::now();
        let replies = scene.client.control().ping(&ControlTarget::All, REPLY_TIMEOUT).await;
        let replies = replies.expect("Redis is up");
        assert_eq!((replies.listeners, replies.answers, replies.nodes.len()), (3, 3, 2));
        assert_eq!(
            replies.nodes[&NodeName::from("stranger@nowhere")],
            Err("KeyError('ping')".to_owned())
        );
        assert!(started.elapsed() < REPLY_TIMEOUT / 2, "all have answered");
    });
    let list = answers.join().expect("it answered");
    let left: u64 = redis::cmd("EXISTS")
        .arg(&list)
        .query(&mut scene.redis.connection(0))
        .expect("Redis is up");
    assert_eq!(left, 0, "{list}");
}

#[test]
fn a_server_that_does_not_tell_of_changes_is_asked_again() {
    let scene = Scene::new();
    redis::cmd("ACL")
        .arg(&["SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-client"])
        .exec(&mut scene.redis.connection(0))
        .expect("Redis is up");
    let url = format!("redis://plain:pw@127.0.0.1:{}/0", scene.redis.port);
    let endpoints = orch::celery::Endpoints::from_urls(&url, &url).expect("our own URL");
    let client = orch::celery::Client::connect(endpoints).expect("no certificates are read");
    run(async {
        for _ in 0..3 {
            let started = Instant::now();
            let replies = client
                .control()
                .ping(&ControlTarget::from(&node()), REPLY_TIMEOUT)
                .await;
            assert_eq!(replies.expect("Redis is up").of(&node()), Some(&()));
            assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        }
    });
}

#[test]
fn a_worker_without_autoscale_refuses_and_limits_are_taken() {
    let scene = Scene::new();
    run(async {
        let control = scene.client.control();
        let target = ControlTarget::Regex("^w[0-9]@".to_owned());
        let refused = control
            .autoscale(1, 4, &target, REPLY_TIMEOUT)
            .await
            .expect("Redis is up");
        let error = refused.nodes[&node()].as_ref().expect_err("it was started without");
        assert!(error.contains("ValueError") || error.contains("utoscale"), "{error}");
        let task = "wire_app.add";
        for replies in [
            control.rate_limit(task, "100/m", &target, REPLY_TIMEOUT).await,
            control.rate_limit(task, "0", &target, REPLY_TIMEOUT).await,
            control
                .time_limit(
                    task,
                    Some(Duration::from_secs(5)),
                    Some(Duration::from_secs(9)),
                    &target,
                    REPLY_TIMEOUT,
                )
                .await,
            control.heartbeat(&target, REPLY_TIMEOUT).await,
            control.disable_events(&target, REPLY_TIMEOUT).await,
            control.enable_events(&target, REPLY_TIMEOUT).await,
        ] {
            assert_eq!(replies.expect("Redis is up").of(&node()), Some(&()));
        }
        let unknown = control.rate_limit("no.such.task", "1/s", &target, REPLY_TIMEOUT).await;
        assert!(unknown.expect("Redis is up").nodes[&node()].is_err());

        let task = Task::new("wire_app.sleep").args([json!(60)]);
        let mut events = scene.client.events().await.expect("Redis is up");
        scene.client.publish(&task).await.expect("Redis is up");
        crate::scene::until_started(&mut events, &task.id).await;
        let ids = std::slice::from_ref(&task.id);
        let asked = control
            .query_tasks(ids, &target, REPLY_TIMEOUT)
            .await
            .expect("Redis is up");
        let found = &asked.of(&node()).expect("it answers")[&task.id];
        assert_eq!((found.state.as_str(), &found.request.id), ("active", &task.id));
        let kill = Some(orch::celery::Signal::Kill);
        control
            .revoke(ids, kill, &target, REPLY_TIMEOUT)
            .await
            .expect("Redis is up");
        let revoked = control.revoked(&target, REPLY_TIMEOUT).await.expect("Redis is up");
        assert_eq!(revoked.of(&node()).expect("it answers"), ids);
    });
}
