//! Places of tasks in the broker, and the removal of leftovers.

use std::collections::{BTreeMap, HashSet};

use orch::celery::{Client, KeptJobs, Leftovers, Task, TaskId, TaskLocation};
use serde_json::json;

use crate::scene::{Scene, node, run, until_started};
use crate::support::celery::{Worker, WorkerOptions};

fn sleeper(seconds: u32) -> Task {
    Task::new("wire_app.sleep").args([json!(seconds)])
}

#[test]
fn a_task_is_found_wherever_it_is() {
    let mut scene = Scene::without_worker();
    run(async {
        let client = scene.client.clone();
        let queues = ["other", "celery"];
        let locate = async |id: &TaskId| client.locate(id, &queues).await.expect("Redis is up");

        assert_eq!(locate(&TaskId::random()).await, TaskLocation::NotFound);
        let mut waiting = sleeper(60);
        waiting.priority = 6;
        client.publish(&waiting).await.expect("Redis is up");
        // Deep in the queue, beyond the first page of a read.
        for _ in 0..120 {
            let other = Task {
                priority: 6,
                ..sleeper(60)
            };
            client.publish(&other).await.expect("Redis is up");
        }
        assert_eq!(locate(&waiting.id).await, TaskLocation::Queued("celery".to_owned()));
        assert_eq!(
            client.queue_depth("celery").await.expect("up"),
            BTreeMap::from([(0, 0), (3, 0), (6, 121), (9, 0)])
        );
        redis::cmd("FLUSHALL")
            .exec(&mut scene.redis.connection(0))
            .expect("Redis is up");

        scene.worker = Some(Worker::start(
            &scene.redis,
            WorkerOptions {
                concurrency: 1,
                ..WorkerOptions::default()
            },
        ));
        let mut events = client.events().await.expect("Redis is up");
        let [running, reserved] = [Task::new("wire_app.sleep_late").args([json!(60)]), sleeper(60)];
        client.publish(&running).await.expect("Redis is up");
        until_started(&mut events, &running.id).await;
        client.publish(&reserved).await.expect("Redis is up");
        let scheduled = TaskId::from(scene.python("print(wire_app.add.apply_async((1, 2), countdown=600).id)"));
        crate::scene::until_received(&mut events, &scheduled).await;
        assert_eq!(locate(&running.id).await, TaskLocation::Active(node()));
        assert_eq!(locate(&reserved.id).await, TaskLocation::Reserved(node()));
        assert_eq!(locate(&scheduled).await, TaskLocation::Scheduled(node()));

        scene.worker.as_mut().expect("started").process.kill();
        let places = client
            .locate_all(&[running.id.clone(), reserved.id.clone()], &queues)
            .await
            .expect("Redis is up");
        assert_eq!(
            places,
            [running.id, reserved.id].map(|id| (id, TaskLocation::Unacked)).into()
        );

        redis::cmd("FLUSHALL")
            .exec(&mut scene.redis.connection(0))
            .expect("Redis is up");
        scene.worker = Some(Worker::start(&scene.redis, WorkerOptions::default()));
        let finished = Task::new("wire_app.add").args([json!(1), json!(2)]);
        client.publish(&finished).await.expect("Redis is up");
        client
            .results()
            .watch(&finished.id)
            .finished()
            .await
            .expect("a readable result");
        assert_eq!(locate(&finished.id).await, TaskLocation::Finished);
    });
}

#[test]
fn a_worker_that_does_not_answer_makes_the_answer_unknown() {
    let scene = Scene::new();
    run(async {
        let worker = &scene.worker.as_ref().expect("started").process;
        worker.signal(nix::sys::signal::Signal::SIGSTOP);
        let place = scene
            .client
            .locate(&TaskId::random(), &["celery"])
            .await
            .expect("Redis is up");
        worker.signal(nix::sys::signal::Signal::SIGCONT);
        assert!(
            matches!(&place, TaskLocation::Unknown(why) if why.starts_with("0 of 1 workers")),
            "{place:?}"
        );
    });
}

#[test]
fn leftovers_are_counted_and_removed_and_nothing_else() {
    let mut scene = Scene::new();
    run(async {
        let client = scene.client.clone();
        let mut events = client.events().await.expect("Redis is up");
        let late = Task::new("wire_app.sleep_late").args([json!(60)]);
        client.publish(&late).await.expect("Redis is up");
        until_started(&mut events, &late.id).await;
        scene.worker.take().expect("started").process.kill();
        for priority in [0, 3, 9] {
            client
                .publish(&Task { priority, ..sleeper(1) })
                .await
                .expect("Redis is up");
        }
        client
            .publish(&sleeper(1).queue("not ours"))
            .await
            .expect("Redis is up");

        // Leftovers of a crash in the middle of a chord and of a control call, and keys of the app.
        let mut broker = scene.redis.connection(0);
        let mut backend = scene.redis.connection(1);
        let set = |key: &str, redis: &mut redis::Connection| {
            redis::cmd("SET").arg(key).arg("x").exec(redis).expect("Redis is up");
        };
        redis::cmd("LPUSH")
            .arg("0ab9.reply.celery.pidbox")
            .arg("x")
            .exec(&mut broker)
            .expect("Redis is up");
        redis::cmd("SADD")
            .arg("_kombu.binding.reply.celery.pidbox")
            .arg("x")
            .exec(&mut broker)
            .expect("Redis is up");
        for suffix in [".s", ".j"] {
            set(&format!("celery-taskset-meta-7f{suffix}"), &mut backend);
        }
        let kept_broker = [
            "scraping:j1:status",
            "a.reply.celery.pidbox",
            "celeryish",
            "unacked_mine",
        ];
        let kept_backend = [
            "celery-task-meta-7f",
            "scrape_books:j1:status",
            "my-celery-taskset-meta-1",
        ];
        kept_broker.iter().for_each(|key| set(key, &mut broker));
        kept_backend.iter().for_each(|key| set(key, &mut backend));

        let there = Leftovers {
            queued: BTreeMap::from([("celery".to_owned(), 3)]),
            unacked: 1,
            chord_keys: 2,
            reply_lists: 1,
        };
        let queues = ["celery", "empty"];
        assert_eq!(client.leftovers(&queues).await.expect("Redis is up"), there);
        assert_eq!(
            client
                .remove_leftovers(&queues, &KeptJobs::default())
                .await
                .expect("Redis is up"),
            there
        );
        assert!(client.leftovers(&queues).await.expect("Redis is up").is_empty());

        let keys = |redis: &mut redis::Connection| -> Vec<String> {
            redis::cmd("KEYS").arg("*").query(redis).expect("Redis is up")
        };
        let (broker, backend) = (keys(&mut broker), keys(&mut backend));
        for key in kept_broker
            .into_iter()
            .chain(["not ours", "_kombu.binding.reply.celery.pidbox"])
        {
            assert!(broker.iter().any(|kept| kept == key), "{key} is gone: {broker:?}");
        }
        for key in kept_backend {
            assert!(backend.iter().any(|kept| kept == key), "{key} is gone: {backend:?}");
        }
        for key in ["unacked", "unacked_index", "celery", "celery\u{6}\u{16}9"] {
            assert!(!broker.iter().any(|kept| kept == key), "{key} is still there");
        }
    });
}

#[test]
fn what_belongs_to_kept_jobs_stays_where_it_was_and_in_its_order() {
    let mut scene = Scene::new();
    run(async {
        let client = scene.client.clone();
        let mut events = client.events().await.expect("Redis is up");
        let held = [(); 2].map(|()| Task::new("wire_app.sleep_late").args([json!(60)]));
        for task in &held {
            client.publish(task).await.expect("Redis is up");
            until_started(&mut events, &task.id).await;
        }
        scene.worker.take().expect("started").process.kill();
        // More than one page of a read.
        let tasks: Vec<Task> = (0..1100).map(|_| sleeper(1)).collect();
        client.publish_batch(&tasks).await.expect("Redis is up");
        let kept_tasks: Vec<&TaskId> = tasks.iter().step_by(3).map(|task| &task.id).collect();
        let mut roots: HashSet<TaskId> = kept_tasks.iter().map(|id| (*id).clone()).collect();
        roots.insert(held[1].id.clone());
        let kept = KeptJobs {
            roots,
            key_prefixes: vec!["scrape_books:j1:".to_owned()],
        };
        let mut backend = scene.redis.connection(1);
        for key in [
            "scrape_books:j1:status",
            "scrape_books:j10:status",
            "celery-taskset-meta-7f.j",
        ] {
            redis::cmd("SET")
                .arg(key)
                .arg("x")
                .exec(&mut backend)
                .expect("Redis is up");
        }

        let removed = client.remove_leftovers(&["celery"], &kept).await.expect("Redis is up");
        let expected = Leftovers {
            queued: BTreeMap::from([("celery".to_owned(), (tasks.len() - kept_tasks.len()) as u64)]),
            unacked: 1,
            ..Leftovers::default()
        };
        assert_eq!(removed, expected);
        let mut broker = scene.redis.connection(0);
        let left: Vec<String> = redis::cmd("LRANGE")
            .arg("celery")
            .arg(0)
            .arg(-1)
            .query(&mut broker)
            .expect("Redis is up");
        let ids: Vec<String> = left
            .iter()
            .rev()
            .map(|item| {
                let message: serde_json::Value = serde_json::from_str(item).expect("JSON");
                message["headers"]["id"].as_str().expect("an id").to_owned()
            })
            .collect();
        assert_eq!(ids, kept_tasks.iter().map(|id| id.as_str()).collect::<Vec<_>>());
        let place = client.locate(&held[1].id, &["celery"]).await.expect("Redis is up");
        assert_eq!(place, TaskLocation::Unacked);

        // When everything is kept, nothing is written; writes would fill the disk of a run that is resumed again and
        // again.
        let mut changes = || {
            let info: redis::InfoDict = redis::cmd("INFO").query(&mut broker).expect("Redis is up");
            info.get::<u64>("rdb_changes_since_last_save").expect("the counter")
        };
        let before = changes();
        let again = client.remove_leftovers(&["celery"], &kept).await.expect("Redis is up");
        assert_eq!((again, changes()), (Leftovers::default(), before));

        let patterns = ["scrape_books:*".to_owned()];
        assert_eq!(client.remove_keys(&patterns, &kept).await.expect("Redis is up"), 1);
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut backend).expect("Redis is up");
        assert!(keys.contains(&"scrape_books:j1:status".to_owned()), "{keys:?}");
        assert!(keys.contains(&"celery-taskset-meta-7f.j".to_owned()), "{keys:?}");

        // A second call removes nothing, and loses none of the kept messages.
        let nothing = client.remove_leftovers(&["celery"], &kept).await.expect("Redis is up");
        assert!(nothing.is_empty(), "{nothing:?}");
        let depth: u64 = client.queue_depth("celery").await.expect("Redis is up").values().sum();
        assert_eq!(depth, kept_tasks.len() as u64);
    });
}

#[test]
fn a_sweep_removes_the_messages_of_the_given_jobs_and_no_other() {
    let scene = Scene::without_worker();
    run(async {
        let client = scene.client.clone();
        let job = |root: &TaskId, priority: u8| Task {
            root_id: Some(root.clone()),
            priority,
            ..sleeper(60)
        };
        let (doomed, kept) = (TaskId::random(), TaskId::random());
        let mut expected = Vec::new();
        // Several pages: some of one kind only, some mixed.
        for number in 0..400 {
            let of_doomed = (100..230).contains(&number) || number % 3 == 0;
            let task = job(if of_doomed { &doomed } else { &kept }, 0);
            client.publish(&task).await.expect("Redis is up");
            if !of_doomed {
                expected.push(task.id.to_string());
            }
        }
        client.publish(&job(&doomed, 9)).await.expect("Redis is up");
        let connection = &mut scene.redis.connection(0);
        let push = |list: &str, item: &str| redis::cmd("LPUSH").arg(&[list, item]).clone();
        push("celery", "no message").exec(connection).expect("Redis is up");
        // A message that a worker has taken.
        let taken = job(&doomed, 0);
        client.publish(&taken).await.expect("Redis is up");
        let message: String = redis::cmd("LPOP").arg("celery").query(connection).expect("Redis is up");
        let value = format!("[{message}, \"\", \"celery\"]");
        redis::cmd("HSET")
            .arg(&["unacked", "tag", &value])
            .exec(connection)
            .expect("Redis is up");

        let roots = HashSet::from([doomed.clone()]);
        let swept = client
            .remove_job_messages(&roots, &["other", "celery"])
            .await
            .expect("Redis is up");
        let removed = 400 - expected.len() as u64 + 1;
        assert_eq!((swept.removed, &swept.unseen), (removed, &None));
        assert_eq!(swept.taken, HashSet::from([taken.id.clone()]));
        let left: Vec<String> = redis::cmd("LRANGE")
            .arg(&["celery", "0", "-1"])
            .query(connection)
            .expect("Redis is up");
        let id = |item: &String| {
            let message: serde_json::Value = serde_json::from_str(item).ok()?;
            Some(message["headers"]["id"].as_str()?.to_owned())
        };
        let ids: Vec<String> = left.iter().rev().filter_map(id).collect();
        assert_eq!(ids, expected, "in their order");
        assert_eq!(left.len(), expected.len() + 1, "what is no message stays");
        let again = client
            .remove_job_messages(&roots, &["other", "celery"])
            .await
            .expect("Redis is up");
        assert_eq!((again.removed, again.taken.len()), (0, 1));
    });
}

#[test]
fn all_queues_of_a_broker_are_found_and_nothing_that_is_none() {
    let scene = Scene::without_worker();
    // Everything is in one database, as with an app that has one URL.
    let mut endpoints = scene.client.endpoints().clone();
    endpoints.backend = endpoints.broker.clone();
    endpoints.broker.key_prefix = "shop:".to_owned();
    let prefixed = Client::connect(endpoints).expect("no certificates are read");
    run(async {
        let client = &scene.client;
        let connection = &mut scene.redis.connection(0);
        let found = async |client: &Client| client.broker_queues().await.expect("Redis is up");
        assert_eq!(found(client).await.messages, BTreeMap::new());

        let root = TaskId::random();
        let waiting = |queue: &str, priority: u8| Task {
            root_id: Some(root.clone()),
            priority,
            ..sleeper(1).queue(queue)
        };
        for (queue, priority) in [("slow", 0), ("slow", 4), ("slow", 9), ("later", 6)] {
            client.publish(&waiting(queue, priority)).await.expect("Redis is up");
        }
        client.publish(&sleeper(1).queue("slow")).await.expect("Redis is up");
        prefixed.publish(&waiting("theirs", 3)).await.expect("Redis is up");
        // A message of Python, with its bindings; this message waits for its time, and no worker holds it.
        scene.python("wire_app.add.apply_async((1, 2), queue='from python', countdown=600)");
        let push = |list: &str, items: &[&str]| {
            redis::cmd("RPUSH")
                .arg(list)
                .arg(items)
                .exec(&mut scene.redis.connection(0))
                .expect("Redis is up");
        };
        // Lists that are no queues.
        push("urls", &["http://a/", "http://b/", "http://c/"]);
        push("documents", &[r#"{"headers": {}}"#, r#"{"id": "t1"}"#, "[1, 2]"]);
        push("celery-taskset-meta-7f.j", &[r#"[1, "7f", "SUCCESS", {"saved": 2}]"#]);
        push(
            "0ab9.reply.celery.pidbox",
            &[r#"{"properties": {"correlation_id": "7f"}}"#],
        );
        push("orch:quarantine:celery", &[r#"{"headers": {"id": "7f"}}"#]);
        // Malformed messages at one end do not hide a queue.
        push("later\u{6}\u{16}6", &["poison", "poison", "poison"]);
        redis::cmd("SADD")
            .arg("_kombu.binding.idle")
            .arg("idle\u{6}\u{16}\u{6}\u{16}idle")
            .exec(connection)
            .expect("Redis is up");
        // Keys of results, so that the search has several pages.
        for page in 0..20 {
            let mut keys = redis::pipe();
            for number in 0..1000 {
                keys.cmd("SET")
                    .arg(format!("celery-task-meta-{page}-{number}"))
                    .arg("{}")
                    .ignore();
            }
            keys.exec(connection).expect("Redis is up");
        }

        let begun = std::time::Instant::now();
        let queues = found(client).await;
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(queues.unseen, None);
        let counts = |pairs: &[(&str, u64)]| {
            pairs
                .iter()
                .map(|(queue, count)| ((*queue).to_owned(), *count))
                .collect()
        };
        let expected: BTreeMap<String, u64> = counts(&[
            ("slow", 4),
            ("later", 4),
            ("from python", 1),
            ("idle", 0),
            // For a client without the prefix this list is a queue of that name.
            ("shop:theirs", 1),
        ]);
        let mut without_pidbox = queues.messages;
        without_pidbox.remove("celery");
        assert_eq!(without_pidbox, expected);
        assert_eq!(found(&prefixed).await.messages, counts(&[("theirs", 1)]));

        let roots = HashSet::from([root.clone(), TaskId::random()]);
        let waiting = client
            .waiting_messages(&roots, &["slow", "later", "idle", "from python"])
            .await;
        let waiting = waiting.expect("Redis is up");
        let of = |queue: &str| waiting.by_queue.get(queue).map(|counts| counts[&root]);
        assert_eq!(
            ["slow", "later", "idle", "from python"].map(of),
            [Some(3), Some(1), None, None]
        );
    });
}

#[test]
fn more_lists_than_can_be_looked_at_are_said_to_be_unseen() {
    let scene = Scene::without_worker();
    run(async {
        let connection = &mut scene.redis.connection(0);
        for page in 0..6 {
            let mut lists = redis::pipe();
            for number in 0..1000 {
                lists
                    .cmd("RPUSH")
                    .arg(format!("urls-{page}-{number}"))
                    .arg("http://a/")
                    .ignore();
            }
            lists.exec(connection).expect("Redis is up");
        }
        let queues = scene.client.broker_queues().await.expect("Redis is up");
        assert!(queues.messages.is_empty(), "{queues:?}");
        assert_eq!(
            queues.unseen.as_deref(),
            Some("the broker's database holds more than 5000 lists")
        );
    });
}
