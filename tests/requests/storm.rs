//! Random requests and random ends of processes, from several writers at once. `ORCH_STORM_SECONDS` sets the length and
//! `ORCH_STORM_SEED` the order.

use std::collections::{HashMap, HashSet};
use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::orch::{Orch, lives};
use crate::{expect, finish, orch, project, started};

const SERVICES: [&str; 6] = ["web", "api", "slow", "stubborn", "tables", "nobody"];
/// Longest pause of a writer between two requests.
const MAX_PAUSE_MS: u64 = 20;

/// Returns the length of the storm: some seconds with the other tests, minutes at night.
fn length() -> Duration {
    let asked = env::var("ORCH_STORM_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(5))
}

fn seed() -> u64 {
    let asked = env::var("ORCH_STORM_SEED").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| fastrand::u64(..))
}

/// Writes random requests until the time is over; returns their ids.
fn write_requests(file: &Path, mut random: fastrand::Rng, until: Instant) -> Vec<String> {
    let mut ids = Vec::new();
    while Instant::now() < until {
        let id = format!("{:016x}", random.u64(..));
        let verb = random.choice(["stop", "start", "restart"]).unwrap();
        let service = random.choice(SERVICES).unwrap();
        let line = format!(
            "\n{{\"v\":1,\"id\":\"{id}\",\"by\":{{\"pid\":7,\"user\":\"alice\"}},\"verb\":\"{verb}\",\"service\":\"{service}\"}}\n"
        );
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.create(true).append(true).open(file).unwrap();
        file.write_all(line.as_bytes()).unwrap();
        ids.push(id);
        thread::park_timeout(Duration::from_millis(random.u64(..=MAX_PAUSE_MS)));
    }
    ids
}

/// Kills processes of services until the time is over.
fn kill_processes(up: &Orch<'_>, mut random: fastrand::Rng, until: Instant) {
    while Instant::now() < until {
        let spawned: Vec<Value> = up
            .events()
            .into_iter()
            .filter(|event| event["event"] == "service_spawned")
            .collect();
        if let Some(process) = spawned.last() {
            let pid = i32::try_from(process["pid"].as_i64().unwrap()).unwrap();
            if lives(pid) {
                // The process may end in this moment; its pid is not reused within seconds.
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
        thread::park_timeout(Duration::from_millis(random.u64(50..400)));
    }
}

#[test]
fn random_requests_and_deaths_leave_no_request_without_answer_and_nothing_behind() {
    let project = project(
        "[services.web]\ncommand = [\"sleep\", \"600\"]\nrestart = { limit = 100000, backoff = \"1ms\", backoff_max = \"50ms\" }\n\
         [services.api]\ncommand = [\"sleep\", \"600\"]\nafter = [\"web\"]\nrestart = { limit = 100000, backoff = \"1ms\", backoff_max = \"50ms\" }\n\
         [services.slow]\ncommand = [\"sh\", \"-c\", \"sleep 0.3; echo up; exec sleep 600\"]\nreadiness = { log = \"up\" }\n\
         restart = { limit = 100000, backoff = \"1ms\", backoff_max = \"50ms\" }\n\
         [services.stubborn]\ngrace = \"500ms\"\ncommand = [\"sh\", \"-c\", \"trap '' TERM; sleep 600 & wait; wait\"]\n\
         restart = { limit = 100000, backoff = \"1ms\", backoff_max = \"50ms\" }\n\
         [services.tables]\nkind = \"oneshot\"\ncommand = [\"sh\", \"-c\", \"sleep 0.1\"]\n",
    );
    let up = started(&project);
    let seed = seed();
    eprintln!("ORCH_STORM_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let file = up.run_directory().unwrap().join("requests.jsonl");
    let until = Instant::now() + length();
    let ids: Vec<String> = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let (file, random) = (file.clone(), random.fork());
                scope.spawn(move || write_requests(&file, random, until))
            })
            .collect();
        kill_processes(&up, random.fork(), until);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    // Every service comes up after the storm.
    for service in ["web", "api", "slow", "stubborn"] {
        let ended = orch(&project, &["restart", service]);
        match ended.code {
            // It was about to be started anyway.
            Some(1) => {}
            _ => expect(&ended, 0, " is ready after "),
        }
    }
    for service in ["web", "api", "slow", "stubborn"] {
        let ended = orch(&project, &["start", service]);
        assert!(matches!(ended.code, Some(0 | 1)), "{ended:?}");
    }
    let ended = finish(up);
    let answered: HashSet<&str> = ended
        .events_of("request_answered")
        .into_iter()
        .filter_map(|answer| answer["id"].as_str())
        .collect();
    let unanswered: Vec<&String> = ids.iter().filter(|id| !answered.contains(id.as_str())).collect();
    assert!(
        unanswered.is_empty(),
        "{} of {} requests: {unanswered:?}",
        unanswered.len(),
        ids.len()
    );
    // A service whose last request was a stop does not start.
    let mut asked: HashMap<&str, (&str, &str)> = HashMap::new();
    let mut last: HashMap<&str, &str> = HashMap::new();
    for event in &ended.events {
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        match text("event") {
            "request_received" => drop(asked.insert(text("id"), (text("service"), text("verb")))),
            "request_answered" if event["result"] == "done" => {
                let (service, verb) = asked[text("id")];
                last.insert(service, verb);
            }
            "service_starting" => assert_ne!(last.get(text("service")), Some(&"stop"), "{event}"),
            "stop_started" => break,
            _ => {}
        }
    }
}
