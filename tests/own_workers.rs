//! Sites with a Celery worker of their own: the number of their chunks in execution, their worker, their rate; the
//! death and the end of such a worker.

mod support;

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::bookshop;
use support::orch::{Ended, Project, wait_until};

/// Creates a project; `celery` are further lines of its section; each site has a name, a number of chunks with their
/// seconds, and further lines.
fn project(celery: &str, sites: &[(&str, u32, f64, &str)]) -> Project {
    let mut configuration = format!(
        "[orch]\ninstance = \"limits\"\n[redis]\nport = 0\nmode = \"own\"\n\
         [celery]\napp = \"limits_app\"\nconcurrency = 4\nacks_late = true\n{celery}\n"
    );
    for (name, chunks, seconds, more) in sites {
        configuration.push_str(&format!(
            "[sites.{name}]\n{more}\ndispatch = {{ task = \"limits.dispatch\", kwargs = {{ site = \"{{site}}\", \
             job_id = \"{{job_id}}\", chunks = {chunks}, seconds = {seconds:?} }} }}\n"
        ));
    }
    bookshop::project_with("limits_app", &configuration)
}

/// Executed chunk.
struct Chunk {
    number: u64,
    node: String,
    begun: f64,
    ended: f64,
}

/// Returns the chunks of a site in the order in which they began.
fn chunks(project: &Project, site: &str) -> Vec<Chunk> {
    let text = fs::read_to_string(project.file(&format!("ledger.{site}"))).unwrap_or_default();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of the app"));
    let mut chunks: Vec<Chunk> = lines
        .map(|line: Value| Chunk {
            number: line["number"].as_u64().expect("a number"),
            node: line["node"].as_str().expect("a name").to_owned(),
            begun: line["begun"].as_f64().expect("a time"),
            ended: line["ended"].as_f64().expect("a time"),
        })
        .collect();
    chunks.sort_by(|a, b| a.begun.total_cmp(&b.begun));
    chunks
}

/// Returns the largest number of chunks that were executed at the same moment.
fn at_one_time(chunks: &[Chunk]) -> usize {
    let at = |moment: f64| {
        chunks
            .iter()
            .filter(|chunk| chunk.begun <= moment && moment < chunk.ended)
            .count()
    };
    chunks.iter().map(|chunk| at(chunk.begun)).max().unwrap_or(0)
}

#[track_caller]
fn expect_complete(ended: &Ended, project: &Project, site: &str, count: usize) {
    let ends = ended.events_of("site_finished");
    let end = ends.iter().find(|event| event["site"] == site).expect("its end");
    assert_eq!(end["status"], "complete", "{end}");
    let mut numbers: Vec<u64> = chunks(project, site).iter().map(|chunk| chunk.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "each chunk of {site}");
}

/// Returns the place of an event in the journal.
#[track_caller]
fn place(ended: &Ended, kind: &str, key: &str, of: &str) -> usize {
    let found = ended
        .events
        .iter()
        .position(|event| event["event"] == kind && event[key] == of);
    found.unwrap_or_else(|| panic!("no {kind} of {of}: {:#?}", ended.events))
}

#[test]
fn the_chunks_of_a_site_run_one_at_a_time_on_a_node_of_its_own_beside_those_of_another() {
    let project = project(
        "",
        &[
            (
                "books",
                6,
                0.4,
                "workers = { concurrency = 1, max_tasks_per_child = 100 }",
            ),
            ("quotes", 16, 2.5, ""),
            ("idle", 1, 0.1, "workers = { concurrency = 2 }"),
        ],
    );
    let ended = project.orch(&["run", "--sites", "books,quotes"]).finish();
    ended.expect_code(0);
    expect_complete(&ended, &project, "books", 6);
    expect_complete(&ended, &project, "quotes", 16);
    let (books, quotes) = (chunks(&project, "books"), chunks(&project, "quotes"));
    assert_eq!(at_one_time(&books), 1);
    assert!(at_one_time(&quotes) > 1, "they had four slots");
    assert!(books.iter().all(|chunk| chunk.node.starts_with("limits-books@")));
    assert!(quotes.iter().all(|chunk| chunk.node.starts_with("limits@")));
    let both = books.iter().any(|book| {
        quotes
            .iter()
            .any(|quote| quote.begun < book.ended && book.begun < quote.ended)
    });
    assert!(both, "at the same time");
    // The timeout of a job depends on the number of its slots.
    let started = ended.events_of("site_job_started");
    let books = started.iter().find(|event| event["site"] == "books").expect("its job");
    assert_eq!(books["timeout_ms"], 6 * 60_000 * 3 / 2, "{books}");

    // The worker runs for as long as its site, and only where its site is selected.
    let worker = "celery@books";
    let ready = place(&ended, "service_ready", "service", worker);
    assert!(ready < place(&ended, "site_dispatched", "site", "books"));
    assert!(
        place(&ended, "service_stopped", "service", worker) < place(&ended, "stop_started", "event", "stop_started")
    );
    assert!(!ended.events.iter().any(|event| event["service"] == "celery@idle"));
    assert!(ended.events_of("service_restarting").is_empty());
}

#[test]
fn max_chunks_in_flight_needs_no_more_than_a_number() {
    let project = project(
        "",
        &[("books", 6, 0.3, "max_chunks_in_flight = 2"), ("quotes", 2, 0.1, "")],
    );
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    expect_complete(&ended, &project, "books", 6);
    assert_eq!(at_one_time(&chunks(&project, "books")), 2);
}

#[test]
fn a_rate_limits_the_chunks_of_one_site() {
    let rate = "workers = { concurrency = 4 }\nrate = { task = \"limits.chunk\", limit = \"2/s\" }";
    let project = project("", &[("books", 6, 0.05, rate), ("quotes", 12, 0.05, "")]);
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    expect_complete(&ended, &project, "books", 6);
    let took = |chunks: &[Chunk]| chunks.last().expect("some").begun - chunks[0].begun;
    // The token bucket may hold one at the beginning: five intervals of half a second, or four.
    let limited = took(&chunks(&project, "books"));
    assert!(limited > 1.9, "{limited} s");
    let free = took(&chunks(&project, "quotes"));
    assert!(free < limited, "{free} s");
}

#[test]
fn a_task_that_the_worker_does_not_know_cannot_be_limited_and_fails_its_site_only() {
    let rate = "max_chunks_in_flight = 1\nrate = { task = \"limits.chunks\", limit = \"2/s\" }";
    let project = project("", &[("books", 2, 0.05, rate), ("quotes", 2, 0.05, "")]);
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(1);
    expect_complete(&ended, &project, "quotes", 2);
    let ends = ended.events_of("site_finished");
    let end = ends.iter().find(|event| event["site"] == "books").expect("its end");
    let reason = end["reason"].as_str().expect("why");
    assert!(
        reason.starts_with("its own worker was given up: ") && reason.contains("limits.chunks"),
        "{reason}"
    );
    assert!(
        ended
            .events_of("site_dispatched")
            .iter()
            .all(|event| event["site"] != "books")
    );
}

#[test]
fn a_worker_that_is_killed_is_started_again_and_the_site_finishes() {
    let project = project("", &[("books", 8, 0.5, "workers = { concurrency = 2 }")]);
    let mut orch = project.orch(&["run"]);
    let pid = orch.wait_for_service("service_spawned", "celery@books")["pid"]
        .as_i64()
        .expect("a pid");
    wait_until("two chunks are done", || chunks(&project, "books").len() >= 2);
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("it runs");
    let ended = orch.finish();
    ended.expect_code(0);
    expect_complete(&ended, &project, "books", 8);
    let restarts: Vec<&Value> = ended.events_of("service_restarting");
    assert!(
        restarts.len() == 1 && restarts[0]["service"] == "celery@books",
        "{restarts:?}"
    );
    assert!(at_one_time(&chunks(&project, "books")) <= 2);
}

#[test]
fn a_site_whose_worker_is_given_up_fails_and_the_others_go_on() {
    let celery = "restart = { limit = 0 }";
    let project = project(
        celery,
        &[
            ("books", 8, 0.5, "workers = { concurrency = 2 }"),
            ("quotes", 8, 1.0, ""),
        ],
    );
    let mut orch = project.orch(&["run"]);
    let pid = orch.wait_for_service("service_spawned", "celery@books")["pid"]
        .as_i64()
        .expect("a pid");
    wait_until("two chunks are done", || chunks(&project, "books").len() >= 2);
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("it runs");
    let ended = orch.finish();
    ended.expect_code(1);
    expect_complete(&ended, &project, "quotes", 8);
    let ends = ended.events_of("site_finished");
    let end = ends.iter().find(|event| event["site"] == "books").expect("its end");
    assert_eq!(end["status"], "failed");
    let reason = end["reason"].as_str().expect("why");
    assert!(reason.starts_with("its own worker was given up: "), "{reason}");
}

#[test]
fn a_run_that_is_stopped_in_the_middle_goes_on_where_it_was() {
    let project = project("", &[("books", 8, 0.5, "max_chunks_in_flight = 1")]);
    let mut orch = project.orch(&["run"]);
    orch.wait_for_service("service_ready", "celery@books");
    wait_until("two chunks are done", || chunks(&project, "books").len() >= 2);
    orch.signal(Signal::SIGINT);
    orch.finish().expect_code(130);
    let before = chunks(&project, "books").len();
    assert!(before < 8, "{before} of 8");
    let ended = project.orch(&["run", "--resume"]).finish();
    ended.expect_code(0);
    expect_complete(&ended, &project, "books", 8);
    assert_eq!(ended.events_of("site_picked_up").len(), 1);
    let all = chunks(&project, "books");
    assert!(all.len() <= 9 && at_one_time(&all) == 1, "{} chunks", all.len());
}

#[test]
fn a_site_with_a_worker_of_its_own_is_stopped_by_another_command() {
    let project = project(
        "",
        &[
            ("books", 8, 20.0, "workers = { concurrency = 2 }"),
            ("quotes", 4, 0.2, ""),
        ],
    );
    let mut orch = project.orch(&["run"]);
    orch.wait_for("its job", |event| {
        event["event"] == "site_job_started" && event["site"] == "books"
    });
    project.orch_bare(&["stop", "site", "books"]).finish().expect_code(0);
    let ended = orch.finish();
    ended.expect_code(1);
    expect_complete(&ended, &project, "quotes", 4);
    assert!(chunks(&project, "books").is_empty());
    let stopped = place(&ended, "service_stopped", "service", "celery@books");
    assert!(
        place(&ended, "site_finished", "site", "books") < stopped,
        "it heard of the stop"
    );
}

#[test]
fn beside_an_instance_that_is_up_the_worker_of_a_site_is_the_run_s_own() {
    let project = project(
        "",
        &[("books", 4, 0.2, "max_chunks_in_flight = 1"), ("quotes", 4, 0.2, "")],
    );
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "celery");
    bookshop::wait_until_up(&mut up, &project);
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    expect_complete(&ended, &project, "books", 4);
    expect_complete(&ended, &project, "quotes", 4);
    let (books, quotes) = (chunks(&project, "books"), chunks(&project, "quotes"));
    assert_eq!(at_one_time(&books), 1);
    assert!(books.iter().all(|chunk| chunk.node.starts_with("limits-books@")));
    assert!(quotes.iter().all(|chunk| chunk.node.starts_with("limits@")));
    let reused = ended.events_of("service_reused");
    assert!(reused.iter().any(|event| event["service"] == "celery"), "{reused:?}");
    up.signal(Signal::SIGTERM);
    let up = up.finish();
    up.expect_code(143);
    assert!(!up.stdout.contains("celery@books"), "{}", up.stdout);
}

#[test]
fn a_shared_worker_that_is_reused_does_not_do_the_work_of_a_site_with_its_own() {
    let site = ("books", 4, 0.2, "max_chunks_in_flight = 1");
    let theirs = project("", &[("quotes", 1, 0.1, "")]);
    std::fs::write(
        theirs.file("orch.toml"),
        "[orch]\ninstance = \"theirs\"\n[redis]\nport = 0\nmode = \"own\"\nauth = false\n[celery]\napp = \"limits_app\"\n",
    )
    .expect("their configuration");
    let mut up = theirs.orch(&["up"]);
    up.wait_for_service("service_ready", "celery");
    let ready = up.wait_for_service("service_ready", "redis");
    let (_, port) = ready["detail"]
        .as_str()
        .expect("an address")
        .rsplit_once(':')
        .expect("a port");
    let ours = project("", &[site, ("quotes", 2, 0.1, "")]);
    let text = fs::read_to_string(ours.file("orch.toml")).expect("our configuration");
    let text = text.replace(
        "port = 0\nmode = \"own\"",
        &format!("port = {port}\nmode = \"external\""),
    );
    fs::write(ours.file("orch.toml"), text).expect("our configuration");
    let ended = ours.orch(&["run"]).finish();
    ended.expect_code(0);
    let books = chunks(&ours, "books");
    assert_eq!((books.len(), at_one_time(&books)), (4, 1));
    assert!(books.iter().all(|chunk| chunk.node.starts_with("limits-books@")));
    // The reused worker works in the directory in which it was started.
    let quotes = chunks(&theirs, "quotes");
    assert!(quotes.len() == 2 && quotes.iter().all(|chunk| chunk.node.starts_with("theirs@")));
    up.signal(Signal::SIGTERM);
    up.finish().expect_code(143);
}
