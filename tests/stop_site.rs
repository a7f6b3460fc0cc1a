//! `orch stop site` during an `orch run`, and Ctrl+C of a run while other workers go on.

mod support;

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::bookshop;
use support::orch::{Ended, Orch, Project};

/// Creates a project in which `doomed` would take minutes, `first` and `last` take some seconds, and `next` depends on
/// `doomed`.
fn project() -> Project {
    let site = |name: &str, chunks: u32, seconds: f64, more: &str| {
        format!(
            "[sites.{name}]\n{more}\ndispatch = {{ task = \"chaos.dispatch\", kwargs = {{ site = \"{{site}}\", \
             job_id = \"{{job_id}}\", chunks = {chunks}, seconds = {seconds:?}, ledger = \"ledger.{name}\" }} }}\n"
        )
    };
    let configuration = [
        "[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"chaos_app\"\nconcurrency = 4\n".to_owned(),
        site("first", 10, 0.3, ""),
        site("doomed", 60, 20.0, ""),
        site("last", 10, 0.3, ""),
        site("next", 1, 0.0, "after = [\"doomed\"]"),
    ]
    .concat();
    bookshop::project_with("chaos_app", &configuration)
}

fn job_of(orch: &mut Orch<'_>, site: &str) {
    orch.wait_for("a job", |event| {
        event["event"] == "site_job_started" && event["site"] == site
    });
}

fn end_of<'a>(ended: &'a Ended, site: &str) -> &'a Value {
    let ends = ended.events_of("site_finished");
    ends.into_iter().find(|event| event["site"] == site).expect("its end")
}

fn stop(project: &Project, site: &str) -> Ended {
    project.orch_bare(&["stop", "site", site]).finish()
}

fn expect(ended: &Ended, code: i32, message: &str) {
    ended.expect_code(code);
    let all = format!("{}{}", ended.stdout, ended.stderr);
    assert!(all.contains(message), "`{message}` is not in {all}");
}

fn lines(project: &Project, site: &str) -> usize {
    let text = fs::read_to_string(project.file(&format!("ledger.{site}"))).unwrap_or_default();
    text.lines().count()
}

#[test]
fn a_site_of_a_running_run_is_stopped_by_another_command() {
    let project = project();
    expect(
        &stop(&project, "doomed"),
        1,
        "nothing to stop: no `orch run` is active in ",
    );
    let mut orch = project.orch(&["run"]);
    for site in ["first", "doomed", "last"] {
        job_of(&mut orch, site);
    }
    expect(
        &stop(&project, "nobody"),
        2,
        "has no site `nobody`\n  hint:  its sites: first, doomed, last, next",
    );
    expect(
        &stop(&project, "domed"),
        2,
        "has no site `domed`\n  hint:  did you mean `doomed`? its sites: first",
    );
    expect(&stop(&project, "doomed"), 0, "doomed was stopped");
    expect(
        &stop(&project, "doomed"),
        1,
        "nothing to stop: doomed was stopped already",
    );
    expect(&stop(&project, "next"), 1, "nothing to stop: next was skipped already");
    let ended = orch.finish();
    ended.expect_code(1);
    let doomed = end_of(&ended, "doomed");
    assert_eq!(doomed["status"], "cancelled", "{doomed}");
    let reason = doomed["reason"].as_str().expect("why");
    assert!(
        reason.starts_with("it was stopped by pid ") && reason.contains(" of user "),
        "{reason}"
    );
    assert_eq!(ended.events_of("site_stop_requested").len(), 1);
    for site in ["first", "last"] {
        assert_eq!(end_of(&ended, site)["status"], "complete");
        assert_eq!(end_of(&ended, site)["counts"]["completed_chunks"], 10);
        assert_eq!(lines(&project, site), 10, "each of its chunks once");
    }
    assert_eq!(end_of(&ended, "next")["status"], "skipped");
    assert_eq!(lines(&project, "doomed"), 0, "no chunk of it came to its end");
    let directory = ended.events[0]["directory"].as_str().expect("a directory");
    let summary = fs::read_to_string(format!("{directory}/summary.json")).expect("summary.json");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["sites"][1]["phase"], "cancelled");
    expect(
        &stop(&project, "first"),
        1,
        "nothing to stop: no `orch run` is active in ",
    );
}

#[test]
fn ctrl_c_of_a_run_beside_an_instance_that_is_up_leaves_none_of_its_tasks() {
    let project = project();
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "celery");
    let mut orch = project.orch(&["run", "--sites", "doomed"]);
    job_of(&mut orch, "doomed");
    orch.signal(Signal::SIGINT);
    orch.finish().expect_code(130);
    let tasks = project.orch_bare(&["celery", "tasks", "--json"]).finish();
    assert!(!tasks.stdout.contains("chaos."), "{}", tasks.stdout);
    let queues = project.orch_bare(&["celery", "queues", "--json"]).finish();
    queues.expect_code(0);
    let object: Value = serde_json::from_str(&queues.stdout).expect("JSON");
    let depths = object["queues"].as_object().expect("queues").values();
    let depths: Vec<&Value> = depths
        .flat_map(|depths| depths.as_object().expect("depths").values())
        .collect();
    assert!(
        !depths.is_empty() && depths.iter().all(|depth| **depth == 0),
        "{object}"
    );
    up.signal(Signal::SIGTERM);
    up.finish().expect_code(143);
}

#[test]
fn a_stop_that_names_no_site_says_what_was_meant() {
    let project = project();
    let ended = project.orch_bare(&["stop", "first"]).finish();
    expect(&ended, 2, "`orch stop site first` stops a site");
    expect(&stop(&project, "frist"), 1, "no `orch run` is active in ");
    expect(
        &stop(&project, "frist"),
        1,
        "has no site `frist`: did you mean `first`?",
    );
    let known = stop(&project, "first");
    expect(&known, 1, "no `orch run` is active in ");
    assert!(!known.stderr.contains("has no site"), "{}", known.stderr);
}
