//! The stream of events: a burst larger than Redis buffers, a consumer that is too slow, every kind of connection to a
//! server.

use std::collections::HashSet;
use std::time::Duration;

use orch::celery::{
    Client, Endpoints, Error, Event, EventBatch, EventKind, EventStream, JobEvent, JobTaskEvent, StreamItem,
};
use serde_json::json;

use crate::scene::{Scene, run};
use crate::support::redis::RedisServer;
use crate::support::wait;

/// Returns a single event as a worker sends it, of some 600 bytes.
fn message(number: usize) -> String {
    let event = json!({
        "type": "task-succeeded", "hostname": "w1@test", "uuid": format!("task-{number}"), "timestamp": 1.8e9,
        "clock": number, "pid": 7, "utcoffset": 0, "runtime": 0.5, "result": "x".repeat(300),
    });
    let properties = json!({"delivery_mode": 1, "delivery_tag": "7b3f4d1c-3f0a-4c58-8ad6-27d6ad0e9b3e"});
    json!({
        "body": event.to_string(), "content-type": "application/json", "content-encoding": "utf-8",
        "headers": {"hostname": "w1@test"}, "properties": properties,
    })
    .to_string()
}

/// Publishes events as fast as Redis takes them.
fn publish(connection: &mut redis::Connection, channel: &str, numbers: std::ops::Range<usize>) {
    for first in numbers.clone().step_by(1000) {
        let mut pipeline = redis::pipe();
        for number in first..numbers.end.min(first + 1000) {
            pipeline.cmd("PUBLISH").arg(channel).arg(message(number)).ignore();
        }
        pipeline.query::<()>(connection).expect("Redis is up");
    }
}

fn id(event: &Event) -> &str {
    match &event.kind {
        EventKind::Task { id, .. } => id.as_str(),
        other => panic!("{other:?}"),
    }
}

/// Limits the output buffer of subscribers: Redis disconnects a subscriber with more unread bytes.
fn limit_output(redis: &RedisServer, bytes: &str) {
    redis::cmd("CONFIG")
        .arg(&[
            "SET",
            "client-output-buffer-limit",
            &format!("pubsub {bytes} {bytes} 60"),
        ])
        .exec(&mut redis.connection(0))
        .expect("a setting of Redis");
}

#[test]
fn a_burst_is_taken_whole_while_the_consumer_does_something_else() {
    const EVENTS: usize = 30_000;
    run(async {
        let scene = Scene::without_worker();
        limit_output(&scene.redis, "4mb");
        let mut events = scene.client.events().await.expect("Redis is up");
        // This blocks the only thread of the runtime: no event is decoded during this time.
        publish(&mut scene.redis.connection(0), "/0.celeryev/task.succeeded", 0..EVENTS);
        let mut taken = Vec::new();
        while taken.len() < EVENTS {
            assert_eq!(
                events.next_batch(&mut taken).await.expect("Redis is up"),
                EventBatch::Events
            );
        }
        for (number, event) in taken.iter().enumerate() {
            assert_eq!(event.clock, number as u64, "in the order in which they were published");
        }
        assert_eq!((taken.len(), events.malformed(), events.overflows()), (EVENTS, 0, 0));
    });
}

#[test]
fn the_news_of_a_burst_are_received_in_order_and_a_loss_is_received_after_them() {
    const EVENTS: usize = 10_000;
    run(async {
        let scene = Scene::without_worker();
        let mut events = scene.client.events().await.expect("Redis is up");
        publish(&mut scene.redis.connection(0), "/0.celeryev/task.succeeded", 0..EVENTS);
        let mut received = Vec::new();
        let mut take = |news: JobEvent<'_>| match news {
            JobEvent::Task { id, event, .. } => {
                assert!(matches!(event, JobTaskEvent::Succeeded { .. }), "{event:?}");
                received.push(id.as_str().to_owned());
            }
            JobEvent::WorkersChanged => panic!("there is no worker"),
        };
        let mut killed = false;
        while events.next_job_events(&mut take).await.expect("Redis is up") == EventBatch::Events {
            if !std::mem::replace(&mut killed, true) {
                let kill = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).to_owned();
                kill.exec(&mut scene.redis.connection(0)).expect("Redis is up");
            }
        }
        let expected = (0..received.len()).map(|number| format!("task-{number}"));
        assert!(received.iter().cloned().eq(expected), "{received:?}");
        assert!(!received.is_empty());
    });
}

#[test]
fn a_consumer_that_is_too_slow_is_received_what_it_missed() {
    run(async {
        let scene = Scene::without_worker();
        let mut events = scene.client.events().await.expect("Redis is up");
        events.set_memory_limit(1024 * 1024);
        let channel = "/0.celeryev/task.succeeded";
        publish(&mut scene.redis.connection(0), channel, 0..10_000);
        let mut seen = 0;
        let notice = loop {
            match events.next().await.expect("Redis is up") {
                StreamItem::Event(event) => {
                    assert_eq!(
                        id(&event),
                        format!("task-{seen}"),
                        "what came before the loss is given first"
                    );
                    seen += 1;
                }
                StreamItem::Gap => break StreamItem::Gap,
            }
        };
        assert_eq!((notice, events.overflows()), (StreamItem::Gap, 1));
        assert!((1_000..10_000).contains(&seen), "{seen}");
        publish(&mut scene.redis.connection(0), channel, 10_000..10_001);
        let StreamItem::Event(event) = events.next().await.expect("Redis is up") else {
            panic!("another gap");
        };
        assert_eq!(id(&event), "task-10000");
    });
}

#[test]
fn a_subscriber_that_redis_cuts_off_is_received() {
    run(async {
        let scene = Scene::without_worker();
        let mut events = scene.client.events().await.expect("Redis is up");
        redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "pubsub"])
            .exec(&mut scene.redis.connection(0))
            .expect("Redis is up");
        assert_eq!(events.next().await.expect("Redis is up"), StreamItem::Gap);
        publish(&mut scene.redis.connection(0), "/0.celeryev/task.succeeded", 0..1);
        assert!(matches!(
            events.next().await.expect("Redis is up"),
            StreamItem::Event(_)
        ));
        assert_eq!(events.overflows(), 0);
    });
}

#[test]
fn every_way_to_a_server_leads_to_its_events() {
    run(async {
        let redis = RedisServer::start_with(Some("s3cret"));
        let user = redis.url(2).replace("//:", "//default:");
        let mut prefixed = Endpoints::from_urls(&redis.url(2), &redis.url(2)).expect("our own URL");
        prefixed.broker.key_prefix = "shop[1]".to_owned();
        let plain = |url: &str| Endpoints::from_urls(url, url).expect("our own URL");
        let ways = [
            (plain(&redis.url(2)), "/2"),
            (plain(&user), "/2"),
            (prefixed, "shop[1]/2"),
        ];
        for (endpoints, prefix) in ways {
            let mut events = Client::connect(endpoints)
                .expect("no certificates are read")
                .events()
                .await
                .expect("Redis is up");
            gives_an_event(&redis, &mut events, &format!("{prefix}.celeryev/task.succeeded")).await;
        }
        let wrong = redis.url(2).replace("s3cret", "guess");
        let refused = Client::connect(plain(&wrong))
            .expect("no certificates are read")
            .events()
            .await;
        assert!(matches!(refused, Err(Error::CredentialsRefused { .. })));

        let redis = RedisServer::start();
        let mut events = Client::connect(plain(&redis.socket_url(3)))
            .expect("no certificates are read")
            .events()
            .await
            .expect("Redis is up");
        gives_an_event(&redis, &mut events, "/3.celeryev/task.succeeded").await;
    });
}

async fn gives_an_event(redis: &RedisServer, events: &mut EventStream, channel: &str) {
    publish(&mut redis.connection(0), channel, 5..6);
    let StreamItem::Event(event) = events.next().await.expect("Redis is up") else {
        panic!("a gap");
    };
    assert_eq!(id(&event), "task-5", "{channel}");
}

#[test]
fn what_is_no_redis_is_said_to_be_none() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let port = listener.local_addr().expect("a bound socket").port();
        let server = async {
            let (mut socket, _) = listener.accept().await.expect("a client");
            tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .expect("a client");
            socket
        };
        let url = format!("redis://127.0.0.1:{port}/0");
        let endpoints = Endpoints::from_urls(&url, &url).expect("our own URL");
        let client = Client::connect(endpoints).expect("no certificates are read");
        let (_socket, opened) = tokio::join!(server, client.events());
        assert!(matches!(opened, Err(Error::NotRedis { .. })));
    });
}

#[test]
fn a_stream_leaves_no_thread_and_no_connection() {
    run(async {
        let scene = Scene::without_worker();
        let subscribers = || {
            let clients: String = redis::cmd("CLIENT")
                .arg(&["LIST", "TYPE", "pubsub"])
                .query(&mut scene.redis.connection(0))
                .expect("Redis is up");
            clients.lines().count()
        };
        let threads = || -> HashSet<String> {
            let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
            tasks
                .filter_map(|task| Some(task.ok()?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let streams = [
            scene.client.events().await.expect("Redis is up"),
            scene.client.events().await.expect("Redis is up"),
        ];
        assert_eq!(subscribers(), 2);
        let with = threads();
        drop(streams);
        assert!(with.difference(&threads()).count() >= 2, "dropping ends the threads");
        wait::until_async("the connections are closed", Duration::from_secs(5), async || {
            (subscribers() == 0).then_some(())
        })
        .await;
    });
}
