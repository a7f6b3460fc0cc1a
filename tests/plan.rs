//! `orch plan` and `orch simulate` of many sites, with the history of earlier runs: quick, and complete.

mod support;

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::{Value, json};
use support::orch::Project;

const SITES: usize = 10_000;
/// Number of runs that orch reads.
const RUNS: usize = 10;

/// Returns a configuration in which a third of the sites depends on one or two others, and a fifth uses a resource.
fn configuration() -> String {
    let mut random = fastrand::Rng::with_seed(5);
    let mut text = "[orch]\nmax_parallel_sites = 64\n[redis]\nmode = \"external\"\n[celery]\napp = \"app\"\n\n\
                    [resources]\nbrowsers = 20\n[sites.defaults]\ndispatch = \"app.dispatch\"\n"
        .to_owned();
    for number in 0..SITES {
        writeln!(text, "[sites.site{number}]").expect("text grows");
        if number > 0 && random.f64() < 0.3 {
            let needed = random.usize(number.saturating_sub(50)..number);
            writeln!(text, "after = [\"site{needed}\", \"site{}\"]", number - 1).expect("text grows");
        }
        if random.f64() < 0.2 {
            writeln!(text, "uses = {{ browsers = {} }}", random.usize(1..5)).expect("text grows");
        }
    }
    text
}

/// Writes the journal of a run as orch writes it, with a few lines of each site.
fn write_run(state_dir: &Path, number: usize) {
    let directory = state_dir.join(format!("runs/run{number}"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .expect("could not create the run's directory");
    let sites: Vec<String> = (0..SITES).map(|site| format!("site{site}")).collect();
    let begun = json!({
        "seq": 1, "at": 1000.0 + number as f64, "elapsed": 0.0, "event": "run_started", "format": 1,
        "run_id": format!("run{number}"), "command": "run", "version": "0", "instance": "orch", "config": "orch.toml",
        "directory": directory, "pid": 1, "guard_pid": 2, "services": [], "sites": sites,
    });
    let mut text = format!("{begun}\n");
    for site in 0..SITES {
        for event in ["site_queued", "site_progressed", "site_progressed", "site_finished"] {
            let rest = match event {
                "site_queued" => String::new(),
                "site_progressed" => {
                    ",\"counts\":{\"total_chunks\":100,\"completed_chunks\":7},\"source\":\"events\"".to_owned()
                }
                _ => format!(
                    ",\"status\":\"complete\",\"counts\":{{\"results\":3}},\"elapsed_ms\":{}",
                    1000 * (site + number)
                ),
            };
            writeln!(
                text,
                "{{\"seq\":2,\"at\":1.5,\"elapsed\":1.5,\"event\":\"{event}\",\"site\":\"site{site}\"{rest}}}"
            )
            .expect("text grows");
        }
    }
    fs::write(directory.join("journal.jsonl"), text).expect("could not write the journal");
}

/// Returns the processor time of ended children. Elapsed time would also depend on the other load of the machine.
fn time_of_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it has children");
    let seconds =
        |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).expect("no negative time"));
    seconds(usage.user_time()) + seconds(usage.system_time())
}

#[test]
fn ten_thousand_sites_with_their_history_take_no_time() {
    let project = Project::new(&configuration());
    DirBuilder::new()
        .mode(0o700)
        .create(project.state_dir())
        .expect("could not create the state directory");
    for number in 0..RUNS {
        write_run(&project.state_dir(), number);
    }
    let simulate = ["simulate", "--json", "--parallel", "16,640"];
    for arguments in [&["plan", "--json"][..], &["plan"], &["plan", "--dot"], &simulate] {
        let before = time_of_children();
        let ended = project.orch(arguments).finish();
        let took = time_of_children().saturating_sub(before);
        ended.expect_code(0);
        let lines = ended.stdout.lines().count();
        println!(
            "orch {} of {SITES} sites, {RUNS} earlier runs: {took:?}, {lines} lines",
            arguments.join(" ")
        );
        match arguments {
            [_, "--json"] => {
                let plan: Value = serde_json::from_str(&ended.stdout).expect("JSON");
                let sites = plan["sites"].as_array().expect("sites");
                assert_eq!(sites.len(), SITES);
                let site = sites.iter().find(|site| site["site"] == "site77").expect("it is there");
                // The median of the last five: runs 5 to 9.
                assert_eq!(site["expected_seconds"], 84.0);
                let (length, bound) = (&plan["expected_seconds"], &plan["lower_bound_seconds"]);
                assert!(length.as_f64() >= bound.as_f64(), "{length} {bound}");
            }
            ["simulate", ..] => {
                let simulated: Value = serde_json::from_str(&ended.stdout).expect("JSON");
                let nights = simulated["nights"].as_array().expect("nights");
                assert_eq!(nights.len(), RUNS);
                for night in nights {
                    let [few, many] = &night["simulated"].as_array().expect("both")[..] else {
                        panic!("{night:#}")
                    };
                    let seconds = |of: &Value| of["seconds"].as_f64().expect("a number");
                    for (replay, at_once) in [(few, 16), (many, 640)] {
                        assert_eq!(replay["max_parallel_sites"], at_once);
                        assert_eq!(replay["sites"], SITES);
                        let bound = replay["lower_bound_seconds"].as_f64().expect("a number");
                        for policy in ["as_configured", "by_history", "foreseen"] {
                            assert!(seconds(&replay[policy]) >= bound - 1e-6, "{policy}: {replay:#}");
                        }
                    }
                    assert!(seconds(&few["by_history"]) > seconds(&many["by_history"]));
                }
            }
            [_] => assert!(
                lines > SITES && ended.stdout.contains("longest path: "),
                "{lines} lines"
            ),
            _ => assert!(
                lines > SITES && ended.stdout.starts_with("digraph sites {"),
                "{lines} lines"
            ),
        }
        // Unoptimised; a release build takes a fraction of a second.
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}

#[test]
fn where_no_night_was_there_is_nothing_to_run_again() {
    let project = Project::new(&configuration());
    let ended = project.orch(&["simulate"]).finish();
    ended.expect_code(2);
    assert!(
        ended.stderr.contains("no run in") && ended.stderr.contains("orch plan"),
        "{}",
        ended.stderr
    );
}
