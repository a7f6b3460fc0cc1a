//! Publication of tasks, and waits for their results.

use std::time::Duration;

use orch::celery::{
    Client, ControlTarget, Endpoint, Endpoints, Error, EventKind, SIZE_LIMIT, StreamItem, Task, TaskEvent, TaskId,
    TaskLink, TaskState,
};
use serde_json::{Value, json};

use crate::scene::{Scene, node, run};
use crate::support::celery::{WorkerOptions, at_least, version};
use crate::support::wait::until_async;

#[test]
fn results_arrive_whatever_they_are() {
    let scene = Scene::new();
    run(async {
        let results = scene.client.results();
        let finished = async |task: Task| {
            let mut watch = results.watch(&task.id);
            let id = scene.client.publish(&task).await.expect("Redis is up");
            assert_eq!(id, task.id);
            watch.finished().await.expect("a readable result").state
        };

        let sum = finished(Task::new("wire_app.add").args([json!(2)]).kwarg("y", 3)).await;
        assert_eq!(sum, TaskState::Success(json!(5)));

        let TaskState::Failure(failure) = finished(Task::new("wire_app.fail").args([json!("bad")])).await else {
            panic!("it raises");
        };
        assert_eq!(failure.to_string(), "ValueError: bad");
        assert!(
            failure
                .traceback
                .is_some_and(|traceback| traceback.contains("wire_app.py"))
        );

        // Python writes NaN, which JSON does not know.
        assert_eq!(
            finished(Task::new("wire_app.odd_number")).await,
            TaskState::Success(Value::Null)
        );

        let TaskState::Failure(failure) = finished(Task::new("wire_app.no_such_task")).await else {
            panic!("the worker does not know it");
        };
        assert_eq!(failure.exc_type, "NotRegistered");

        let mut expired = Task::new("wire_app.add").args([json!(2), json!(3)]);
        expired.expires = Some("2020-01-01T00:00:00Z".parse().expect("an instant"));
        assert!(matches!(finished(expired).await, TaskState::Revoked(failure) if failure.exc_message == "expired"));
    });
}

#[test]
fn a_finished_task_is_found_by_a_later_watch_and_by_get() {
    let scene = Scene::new();
    run(async {
        let task = Task::new("wire_app.add").args([json!(2), json!(3)]);
        let results = scene.client.results();
        assert_eq!(results.get(&task.id).await.expect("Redis is up"), None);
        scene.client.publish(&task).await.expect("Redis is up");
        let mut first = results.watch(&task.id);
        first.finished().await.expect("a readable result");
        let mut second = results.watch(&task.id);
        let again = second.finished().await.expect("a readable result");
        assert_eq!(again.state, TaskState::Success(json!(5)));
        assert_eq!(first.next().await.expect("the final state again").state, again.state);
        let stored = results.get(&task.id).await.expect("Redis is up").expect("finished");
        assert_eq!(stored.state, again.state);
    });
}

#[test]
fn queues_and_priorities_lead_to_the_worker() {
    let arguments = vec!["--queues".to_owned(), "celery,slow lane".to_owned()];
    let scene = Scene::with(WorkerOptions {
        arguments,
        ..WorkerOptions::default()
    });
    run(async {
        for priority in [0, 3, 5, 9, 200] {
            let mut task = Task::new("wire_app.add")
                .args([json!(1), json!(priority)])
                .queue("slow lane");
            task.priority = priority;
            let mut watch = scene.client.results().watch(&task.id);
            scene.client.publish(&task).await.expect("Redis is up");
            let result = watch.finished().await.expect("a readable result");
            assert_eq!(result.state, TaskState::Success(json!(1 + u16::from(priority))));
        }
    });
}

/// Returns the shape of the main job: a chain whose last link starts a chord and returns its id.
fn job(chunks: u32, seconds: f64, failing: bool) -> [TaskLink; 2] {
    let first = Task::new("wire_app.start_job").args([json!("J1")]);
    let dispatch = Task::new("wire_app.dispatch").args([json!(chunks), json!(seconds), json!(failing)]);
    [TaskLink::new(first), TaskLink::new(dispatch)]
}

#[test]
fn a_chain_that_starts_a_chord_is_followed_to_the_callback() {
    let scene = Scene::new();
    run(async {
        let client = &scene.client;
        let ids = client.publish_chain(&job(6, 0.2, false)).await.expect("Redis is up");
        let [first, dispatcher] = ids.as_slice() else {
            panic!("two ids: {ids:?}")
        };
        let dispatched = client
            .results()
            .watch(dispatcher)
            .finished()
            .await
            .expect("a readable result");
        assert_eq!(dispatched.parent_id.as_ref(), Some(first));
        let TaskState::Success(handed_out) = &dispatched.state else {
            panic!("{dispatched:?}")
        };
        let callback = TaskId::from(handed_out["chord_id"].as_str().expect("an id"));
        let [header] = dispatched.children.groups.as_slice() else {
            panic!("{:?}", dispatched.children)
        };
        assert_eq!(header.tasks.len(), 6);

        let mut watch = client.results().watch(&callback);
        let mut seen = Vec::new();
        let finished = loop {
            tokio::select! {
                result = watch.finished() => break result.expect("a readable result"),
                progress = client.chord_progress(&header.id) => {
                    // Asked as often as Redis answers: each question is a round trip.
                    seen.extend(progress.expect("Redis is up"));
                    seen.dedup();
                }
            }
        };
        assert_eq!(
            finished.state,
            TaskState::Success(json!({"job_id": "J1", "total_processed": 15}))
        );
        assert!(
            seen.iter().any(|progress| progress.done >= 2 && progress.done < 6),
            "{seen:?}"
        );
        assert!(seen.is_sorted_by_key(|progress| progress.done), "{seen:?}");
        assert!(
            seen.iter()
                .all(|progress| progress.total == Some(6) && progress.failed == 0),
            "{seen:?}"
        );
        // Celery publishes the callback first and deletes the chord's counters after it, so a fast callback ends before that.
        until_async(
            "the counters of the chord are deleted",
            Duration::from_secs(10),
            async || {
                let progress = client.chord_progress(&header.id).await.expect("Redis is up");
                progress.is_none().then_some(())
            },
        )
        .await;
    });
}

#[test]
fn a_failed_header_fails_the_callback_and_is_counted() {
    let scene = Scene::new();
    run(async {
        let client = &scene.client;
        let ids = client.publish_chain(&job(2, 0.0, true)).await.expect("Redis is up");
        let dispatched = client
            .results()
            .watch(&ids[1])
            .finished()
            .await
            .expect("a readable result");
        let TaskState::Success(handed_out) = &dispatched.state else {
            panic!("{dispatched:?}")
        };
        let callback = TaskId::from(handed_out["chord_id"].as_str().expect("an id"));
        let finished = client
            .results()
            .watch(&callback)
            .finished()
            .await
            .expect("a readable result");
        let TaskState::Failure(failure) = &finished.state else {
            panic!("{finished:?}")
        };
        assert!(failure.is_chord_error(), "{failure}");
        // The bookkeeping of a failed chord stays until it expires.
        let group = &dispatched.children.groups[0].id;
        let progress = client
            .chord_progress(group)
            .await
            .expect("Redis is up")
            .expect("it stays");
        assert_eq!((progress.done, progress.failed), (3, 1));
        // Celery 5.7 deletes the size of the chord a moment later.
        let deleted = at_least(5, 7) && progress.total.is_none();
        assert!(deleted || progress.total == Some(3), "{progress:?}");
    });
}

#[test]
fn a_failing_link_fails_the_last_id() {
    let scene = Scene::new();
    run(async {
        let links = [
            Task::new("wire_app.fail"),
            Task::new("wire_app.start_job"),
            Task::new("wire_app.start_job"),
        ];
        let ids = scene
            .client
            .publish_chain(&links.map(TaskLink::new))
            .await
            .expect("Redis is up");
        let last = ids.last().expect("three ids");
        let result = scene
            .client
            .results()
            .watch(last)
            .finished()
            .await
            .expect("a readable result");
        assert!(matches!(result.state, TaskState::Failure(failure) if failure.exc_type == "ValueError"));
    });
}

#[test]
fn an_immutable_link_gets_its_own_arguments_only() {
    let scene = Scene::new();
    run(async {
        let links = [
            TaskLink::new(Task::new("wire_app.start_job").args([json!("ignored")])),
            TaskLink::immutable(Task::new("wire_app.add").args([json!(20), json!(3)])),
        ];
        let ids = scene.client.publish_chain(&links).await.expect("Redis is up");
        let result = scene
            .client
            .results()
            .watch(&ids[1])
            .finished()
            .await
            .expect("a readable result");
        assert_eq!(result.state, TaskState::Success(json!(23)));
    });
}

#[test]
fn a_task_without_result_is_followed_by_its_events() {
    let scene = Scene::new();
    run(async {
        let mut events = scene.client.events().await.expect("Redis is up");
        let task = Task::new("wire_app.unheard");
        scene.client.publish(&task).await.expect("Redis is up");
        let mut seen = Vec::new();
        loop {
            let StreamItem::Event(event) = events.next().await.expect("Redis is up") else {
                panic!("no gap")
            };
            let EventKind::Task { id, event } = event.kind else {
                continue;
            };
            assert_eq!(id, task.id);
            match &event {
                TaskEvent::Received(origin) => {
                    assert_eq!(origin.name.as_deref(), Some("wire_app.unheard"));
                    assert_eq!(origin.root_id.as_ref(), Some(&task.id));
                }
                TaskEvent::Succeeded { .. } => break,
                _ => {}
            }
            seen.push(event);
        }
        assert!(
            matches!(seen.as_slice(), [TaskEvent::Received(_), TaskEvent::Started]),
            "{seen:?}"
        );
        assert_eq!(events.malformed(), 0);
        assert_eq!(scene.client.results().get(&task.id).await.expect("Redis is up"), None);
    });
}

#[test]
fn what_cannot_be_read_ends_the_wait_with_the_reason() {
    let scene = Scene::without_worker();
    run(async {
        let mut redis = scene.redis.connection(1);
        let unreadable = [
            ("\u{4}\u{95}pickled".to_owned(), "cannot read the result"),
            ("1".repeat(SIZE_LIMIT + 1), "too large"),
        ];
        for (value, why) in unreadable {
            let id = TaskId::random();
            redis::cmd("SET")
                .arg(format!("celery-task-meta-{id}"))
                .arg(value)
                .exec(&mut redis)
                .expect("Redis is up");
            let error = scene
                .client
                .results()
                .watch(&id)
                .finished()
                .await
                .expect_err(why)
                .to_string();
            assert!(error.contains(why) && error.contains(id.as_str()), "{error}");
            let error = scene.client.results().get(&id).await.expect_err(why).to_string();
            assert!(error.contains(why) && error.contains(id.as_str()), "{error}");
        }
    });
}

#[test]
fn a_server_that_is_away_or_refuses_us_is_named_without_the_password() {
    let scene = Scene::without_worker();
    run(async {
        let wrong = Endpoint::tcp("127.0.0.1", scene.redis.port, 0).with_password("hunter2");
        let client = Client::connect(Endpoints {
            broker: wrong.clone(),
            backend: wrong,
        })
        .expect("no files are read");
        let error = client
            .publish(&Task::new("wire_app.add"))
            .await
            .expect_err("the password is wrong");
        assert!(matches!(error, Error::CredentialsRefused { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(
            error.to_string().contains(&format!("127.0.0.1:{}/0", scene.redis.port)),
            "{error}"
        );
        let error = client
            .results()
            .watch(&TaskId::random())
            .finished()
            .await
            .expect_err("the password is wrong");
        assert!(matches!(error, Error::CredentialsRefused { .. }), "{error:?}");

        let port = crate::support::redis::free_port();
        let nobody = Endpoint::tcp("127.0.0.1", port, 0);
        let client = Client::connect(Endpoints {
            broker: nobody.clone(),
            backend: nobody,
        })
        .expect("no files are read");
        let client = client.with_deadline(Duration::from_millis(200));
        let error = client
            .publish(&Task::new("wire_app.add"))
            .await
            .expect_err("nobody is there");
        assert!(
            matches!(&error, Error::Unreachable { reason, .. } if reason.contains("refused")),
            "{error:?}"
        );
    });
}

#[test]
fn a_key_prefix_is_before_every_name() {
    let prefixed = r#"{"global_keyprefix": "app:"}"#;
    let settings = vec![
        ("broker_transport_options", prefixed),
        ("result_backend_transport_options", prefixed),
    ];
    let scene = Scene::with(WorkerOptions {
        settings,
        ..WorkerOptions::default()
    });
    run(async {
        let mut endpoints = scene.client.endpoints().clone();
        endpoints.broker.key_prefix = "app:".to_owned();
        // Celery 5.2 has no prefix for results, 5.3 and 5.4 put an underscore after the prefix.
        endpoints.backend.key_prefix = match version().as_str() {
            "5.2" => "",
            "5.3" | "5.4" => "app:_",
            _ => "app:",
        }
        .to_owned();
        let client = Client::connect(endpoints).expect("no files are read");
        let mut events = client.events().await.expect("Redis is up");
        let ids = client.publish_chain(&job(2, 0.1, false)).await.expect("Redis is up");
        crate::scene::until_started(&mut events, &ids[1]).await;
        let dispatched = client
            .results()
            .watch(&ids[1])
            .finished()
            .await
            .expect("a readable result");
        let group = &dispatched.children.groups[0].id;
        assert!(client.chord_progress(group).await.expect("Redis is up").is_some());
        let replies = client
            .control()
            .ping(&ControlTarget::All, Duration::from_secs(5))
            .await
            .expect("Redis is up");
        assert_eq!(replies.of(&node()), Some(&()));
    });
}

#[test]
fn a_client_outlives_the_runtime_it_was_first_used_on() {
    let scene = Scene::new();
    for _ in 0..2 {
        run(async {
            let task = Task::new("wire_app.add").args([json!(2), json!(3)]);
            scene.client.ping_redis().await.expect("Redis is up");
            scene
                .client
                .control()
                .ping(&ControlTarget::All, Duration::from_secs(5))
                .await
                .expect("Redis is up");
            let mut watch = scene.client.results().watch(&task.id);
            scene.client.publish(&task).await.expect("Redis is up");
            assert_eq!(
                watch.finished().await.expect("a readable result").state,
                TaskState::Success(json!(5))
            );
        });
    }
}
