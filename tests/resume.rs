//! `orch run --resume`: finished sites of a dead run are kept, its pending jobs are picked up, the rest is done.

mod support;

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::bookshop::{self, ledger};
use support::orch::{Ended, Orch, Project};

const CHUNKS: u64 = 120;
const LATE: u64 = 60;

/// Creates a project with three sites: `small` ends soon; `large` and `late` come after it, since the few chunks of
/// `small` could otherwise wait behind their many chunks.
fn project() -> Project {
    let site = |name: &str, after: &str, chunks: u64, seconds: f64| {
        format!(
            r#"
[sites.{name}]
after = [{after}]
dispatch = {{ task = "chaos.dispatch", kwargs = {{ site = "{{site}}", job_id = "{{job_id}}", chunks = {chunks}, seconds = {seconds:?}, ledger = "ledger.{name}" }} }}
"#
        )
    };
    let configuration = [
        "[orch]\nmax_parallel_sites = 2\nlease = \"3s\"\n[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"chaos_app\"\nconcurrency = 4\n\
         acks_late = true\n"
            .to_owned(),
        site("small", "", 4, 0.05),
        site("large", r#""small""#, CHUNKS, 0.1),
        site("late", r#""small""#, LATE, 0.1),
    ]
    .concat();
    bookshop::project_with("chaos_app", &configuration)
}

/// Runs until `small` is complete, `large` has executed many chunks (so that its lease was renewed, with all known
/// facts of its job) and `late` has begun too.
fn run_to_the_middle(project: &Project) -> (Orch<'_>, String) {
    let mut orch = project.orch(&["run"]);
    let run_id = orch.wait_for("the start", |event| event["event"] == "run_started")["run_id"].clone();
    orch.wait_for("a finished site", |event| {
        event["event"] == "site_finished" && event["site"] == "small"
    });
    orch.wait_for("the last site's job", |event| {
        event["event"] == "site_job_started" && event["site"] == "late"
    });
    orch.wait_for("progress", |event| {
        event["event"] == "site_progressed"
            && event["site"] == "large"
            && event["counts"]["completed_chunks"]
                .as_u64()
                .is_some_and(|done| done >= CHUNKS / 4)
    });
    (orch, run_id.as_str().expect("text").to_owned())
}

/// Returns the sites of the events of one kind.
fn sites_of(ended: &Ended, kind: &str) -> Vec<String> {
    let events = ended.events_of(kind);
    let mut sites: Vec<String> = events
        .iter()
        .map(|event| event["site"].as_str().expect("text").to_owned())
        .collect();
    sites.sort_unstable();
    sites
}

fn summary(ended: &Ended) -> Value {
    let directory = ended.events[0]["directory"].as_str().expect("a directory");
    let text = fs::read(format!("{directory}/summary.json")).expect("summary.json");
    serde_json::from_slice(&text).expect("JSON")
}

fn site<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let mut sites = summary["sites"].as_array().expect("sites").iter();
    sites.find(|site| site["name"] == name).expect("the site")
}

/// Asserts that all sites are complete, with every chunk counted; `resumed` is the expected treatment of each.
#[track_caller]
fn expect_complete(project: &Project, ended: &Ended, from: &str, resumed: [(&str, u64, &str); 3]) {
    ended.expect_code(0);
    let summary = summary(ended);
    assert_eq!(summary["header"]["resumes"], from);
    for (name, chunks, how) in resumed {
        let view = site(&summary, name);
        assert_eq!(view["phase"], "complete", "{view}");
        assert_eq!(view["resumed"], how, "{view}\n{}", ended.stdout);
        assert_eq!(view["counts"]["completed_chunks"], chunks, "{view}");
        let done = ledger(project.path(), name);
        assert_eq!(done.len() as u64, chunks, "{name}: {done:?}");
    }
    assert!(
        ended.stdout.contains(&format!("resumed run {from}: ")),
        "{}",
        ended.stdout
    );
}

/// Returns the report of `orch sites --json` on a run that was cut short.
fn unfinished(project: &Project) -> Value {
    let listed = project.orch(&["sites", "--json"]).finish();
    listed.expect_code(0);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    listed["unfinished_run"].clone()
}

/// Asserts that the run is shown as cut short, with one of its three sites complete.
#[track_caller]
fn expect_unfinished(project: &Project, run_id: &str, how: &str, words: &str) {
    let found = unfinished(project);
    assert_eq!(
        [&found["run_id"], &found["how"], &found["continue_with"]],
        [run_id, how, "orch run --resume"],
        "{found}"
    );
    assert_eq!([&found["complete"], &found["sites"]], [1, 3], "{found}");
    let listed = project.orch(&["sites"]).finish();
    let last = listed.stdout.lines().last().unwrap_or_default();
    assert!(
        last.starts_with(&format!("run {run_id} {words} at 20"))
            && last.ends_with("1 of 3 sites are complete; continue with `orch run --resume`"),
        "{}",
        listed.stdout
    );
}

#[test]
fn a_run_that_was_killed_goes_on_where_it_was() {
    let project = project();
    let (orch, run_id) = run_to_the_middle(&project);
    assert_eq!(unfinished(&project), Value::Null, "it lives");
    orch.signal(Signal::SIGKILL);
    assert_eq!(orch.finish().signal, Some(9));
    expect_unfinished(&project, &run_id, "died", "died");

    // A run that dies before the start of the sites loses nothing of the state of the run before.
    let mut orch = project.orch(&["run", "--resume"]);
    let second = orch.wait_for("the start", |event| event["event"] == "run_started");
    assert_eq!(second["resumes"]["run_id"], run_id.as_str());
    orch.signal(Signal::SIGKILL);
    assert_eq!(orch.finish().signal, Some(9));

    let ended = project.orch(&["run", "--resume"]).finish();
    let second = second["run_id"].as_str().expect("text");
    let expected = [
        ("small", 4, "kept"),
        ("large", CHUNKS, "picked_up"),
        ("late", LATE, "picked_up"),
    ];
    expect_complete(&project, &ended, second, expected);
    assert_eq!(sites_of(&ended, "site_picked_up"), ["large", "late"]);
    assert_eq!(sites_of(&ended, "site_dispatched"), [""; 0]);
    // The stop was warm, and the tasks are acknowledged late: at most the running chunks are executed again.
    let again: u64 = ledger(project.path(), "large").values().map(|times| times - 1).sum();
    assert!(again <= 8, "{again} chunks were done again");

    // The run has seen only the rest of a picked up job: the time of that job is no measure.
    let plan = project.orch(&["plan", "--json"]).finish();
    let plan: Value = serde_json::from_str(&plan.stdout).expect("JSON");
    let sites = plan["sites"].as_array().expect("sites").iter();
    let known: Vec<_> = sites
        .map(|site| (&site["site"], site["expected_seconds"].is_null()))
        .collect();
    assert_eq!(known.len(), 3);
    for (site, is_unknown) in known {
        assert_eq!(is_unknown, site != "small", "{plan}");
    }
    assert_eq!(unfinished(&project), Value::Null);

    let nothing = project.orch(&["run", "--resume"]).finish();
    nothing.expect_code(0);
    assert!(nothing.stderr.contains("nothing is left to do"), "{}", nothing.stderr);
    assert!(nothing.events.is_empty(), "no run was begun");
}

#[test]
fn a_run_that_was_interrupted_goes_on_where_it_was() {
    let project = project();
    let (orch, run_id) = run_to_the_middle(&project);
    orch.signal(Signal::SIGINT);
    let interrupted = orch.finish();
    interrupted.expect_code(130);
    assert_eq!(sites_of(&interrupted, "site_finished"), ["large", "late", "small"]);
    assert_eq!(
        interrupted.stdout.lines().last(),
        Some("continue with `orch run --resume`: 1 of 3 sites are complete")
    );
    expect_unfinished(&project, &run_id, "interrupted", "was interrupted");

    // Neither `orch up` nor any number of starts that fail take their place.
    for _ in 0..21 {
        for command in ["run", "up"] {
            let no_redis = [
                "--set",
                "redis.mode=external",
                "--set",
                "redis.port=1",
                "--set",
                "redis.start_timeout=100ms",
            ];
            let failed = project.orch(&[&[command], &no_redis[..]].concat()).finish();
            failed.expect_code(3);
            let notices = failed.events_of("unfinished_run_found");
            assert_eq!(notices.len(), usize::from(command == "run"), "{}", failed.stdout);
            for notice in notices {
                assert_eq!(notice["run_id"], *run_id, "{notice}");
                for shown in [
                    format!("the last run {run_id} was not finished"),
                    format!("`orch run --resume {run_id}` continues it"),
                ] {
                    assert!(failed.stdout.contains(&shown), "{shown} is not in {}", failed.stdout);
                }
            }
            assert!(!failed.stdout.contains("continue with"), "{}", failed.stdout);
        }
    }
    let kept = fs::read_dir(project.state_dir().join("runs")).expect("runs").count();
    assert!(kept < 45, "{kept} runs are kept");
    expect_unfinished(&project, &run_id, "interrupted", "was interrupted");

    let ended = project.orch(&["run", "--resume", &run_id[..6]]).finish();
    let expected = [
        ("small", 4, "kept"),
        ("large", CHUNKS, "picked_up"),
        ("late", LATE, "picked_up"),
    ];
    expect_complete(&project, &ended, &run_id, expected);
}

#[test]
fn jobs_that_are_gone_are_dispatched_anew() {
    let project = project();
    let (orch, run_id) = run_to_the_middle(&project);
    orch.signal(Signal::SIGKILL);
    assert_eq!(orch.finish().signal, Some(9));
    fs::remove_dir_all(project.state_dir().join("redis")).expect("Redis' data");

    let ended = project.orch(&["run", "--resume"]).finish();
    let expected = [
        ("small", 4, "kept"),
        ("large", CHUNKS, "dispatched"),
        ("late", LATE, "dispatched"),
    ];
    expect_complete(&project, &ended, &run_id, expected);
    assert_eq!(sites_of(&ended, "site_picked_up"), ["large", "late"]);
    let retried = ended.events_of("site_retrying");
    let reason = retried.first().expect("why")["reason"].as_str().expect("text");
    assert!(reason.contains("nothing is left of the earlier run's job"), "{reason}");
}

#[test]
fn a_run_beside_an_instance_that_is_up_picks_up_what_went_on_without_it() {
    let project = project();
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "celery");
    let (orch, run_id) = run_to_the_middle(&project);
    orch.signal(Signal::SIGKILL);
    assert_eq!(orch.finish().signal, Some(9));
    let ended = project.orch(&["run", "--resume"]).finish();
    let expected = [
        ("small", 4, "kept"),
        ("large", CHUNKS, "picked_up"),
        ("late", LATE, "picked_up"),
    ];
    expect_complete(&project, &ended, &run_id, expected);
    let again: u64 = ledger(project.path(), "large").values().map(|times| times - 1).sum();
    assert_eq!(again, 0, "nothing was interrupted");
    up.signal(Signal::SIGTERM);
    up.finish().expect_code(143);
}

#[test]
fn what_cannot_be_resumed_is_refused_with_2() {
    let project = project();
    for (arguments, reason) in [
        (vec!["run", "--resume"], "there is no run to resume"),
        (vec!["run", "--resume", "0123"], "there is no run 0123"),
    ] {
        let ended = project.orch(&arguments).finish();
        ended.expect_code(2);
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    }
}
