//! Delay until orch notices a finished chord: from the PUBLISH of the callback's result, as seen by a second
//! subscriber, to the time in orch's journal line. `cargo bench --bench chord_completion`; 100 chords, p50 and p95 in
//! milliseconds.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

#[path = "../tests/support/mod.rs"]
mod support;
use support::bookshop;
use support::orch::Project;

const CHORDS: usize = 100;

fn main() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut configuration = format!(
        "[orch]\nmax_parallel_sites = 1\n[redis]\nmode = \"own\"\nport = {port}\nauth = false\n\
         [celery]\napp = \"chords\"\nconcurrency = 2\n[sites.defaults]\ndispatch = {{ task = \"chords.dispatch\", args = [\"{{site}}\"] }}\n"
    );
    for number in 0..CHORDS {
        configuration.push_str(&format!("[sites.s{number}]\n"));
    }
    let project = Project::new(&configuration);
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/apps/chords.py");
    fs::copy(app, project.file("chords.py")).unwrap();
    std::os::unix::fs::symlink(bookshop::environment().join(".venv"), project.file(".venv")).unwrap();

    let mut orch = project.orch(&["run"]);
    orch.wait_for_service("service_ready", "redis");
    let subscriber = std::thread::spawn(move || published(port));
    let ended = orch.finish();
    ended.expect_code(0);
    let published = subscriber.join().unwrap();

    let mut delays: Vec<f64> = ended
        .events_of("site_chord_completed")
        .iter()
        .map(|event| {
            let chord = event["chord_id"].as_str().unwrap();
            (event["at"].as_f64().unwrap() - published[chord]) * 1000.0
        })
        .collect();
    assert_eq!(delays.len(), CHORDS, "every chord's end was noticed by subscription");
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share).round() as usize];
    println!(
        "chord completion noticed after its PUBLISH, {CHORDS} chords: p50 {:.2} ms, p95 {:.2} ms, max {:.2} ms",
        at(0.5),
        at(0.95),
        at(1.0)
    );
}

/// Records when the SUCCESS of each task was published, by task id, until Redis ends.
fn published(port: u16) -> HashMap<String, f64> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/1")).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut pubsub = connection.as_pubsub();
    pubsub.psubscribe("celery-task-meta-*").unwrap();
    let mut times = HashMap::new();
    while let Ok(message) = pubsub.get_message() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let id = message
            .get_channel_name()
            .trim_start_matches("celery-task-meta-")
            .to_owned();
        times.entry(id).or_insert(now);
    }
    times
}
