//! What a worker is, by what it says of itself: its pool, what it may import.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::time::Duration;

mod support {
    #[path = "bookshop.rs"]
    pub mod bookshop;
    #[path = "orch.rs"]
    pub mod orch;
}
use support::bookshop;
use support::orch::{Ended, Project};

/// The least patient liveness: one silent probe is a restart.
const IMPATIENT: &str = "[celery.liveness]\ninterval = \"200ms\"\ntimeout = \"300ms\"\nfailures = 1";

/// A project of the workshop app with one site; `celery` are further lines of its section.
fn workshop(celery: &str, task: &str, args: &str) -> Project {
    bookshop::project_with(
        "workshop",
        &format!(
            "[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"workshop\"\nconcurrency = 1\n{celery}\n\
             [sites.shop]\ndispatch = {{ task = \"workshop.{task}\", args = [{args}] }}\n"
        ),
    )
}

fn run(project: &Project, environment: &[(&str, &str)]) -> Ended {
    project
        .orch_with(&["run"], environment, Duration::from_secs(15))
        .finish()
}

fn expect_no_restart(ended: &Ended) {
    ended.expect_code(0);
    for kind in ["service_restarting", "service_unhealthy"] {
        assert!(ended.events_of(kind).is_empty(), "{}", ended.stdout);
    }
}

#[test]
fn a_solo_pool_that_the_app_or_an_argument_chooses_is_known_by_the_worker_s_word() {
    let by_the_app = workshop(IMPATIENT, "work", "2.5");
    expect_no_restart(&run(&by_the_app, &[("WORKSHOP_POOL", "solo")]));
    let by_argument = workshop(&format!("extra_args = [\"-P\", \"solo\"]\n{IMPATIENT}"), "work", "2.5");
    expect_no_restart(&run(&by_argument, &[]));
}

#[test]
fn a_task_that_computes_in_the_main_process_is_no_death() {
    let project = workshop(
        &format!("extra_args = [\"-P\", \"threads\"]\n{IMPATIENT}"),
        "compute",
        "3",
    );
    expect_no_restart(&run(&project, &[]));
}

#[test]
fn a_task_may_import_a_module_beside_the_app() {
    let project = workshop("", "lazy", "");
    fs::write(project.file("sidekick.py"), "SAVED = 5\n").unwrap();
    let ended = run(&project, &[("PYTHONPATH", "/somewhere/else")]);
    ended.expect_code(0);
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], 5);
}

#[test]
fn the_import_path_stays_what_it_was() {
    let project = workshop("", "environment", "[\"PYTHONPATH\"]");
    run(&project, &[("PYTHONPATH", "/somewhere/else")]).expect_code(0);
    let told = fs::read_to_string(project.file("environment")).unwrap();
    let expected = format!("PYTHONPATH={}:/somewhere/else\n", project.path().display());
    assert_eq!(told, expected);
    // Celery would import this in place of Python's own, and not start.
    let project = workshop("", "environment", "[\"PYTHONPATH\"]");
    fs::write(project.file("types.py"), "").unwrap();
    let ended = run(&project, &[("PYTHONPATH", "")]);
    ended.expect_code(0);
    assert_eq!(
        fs::read_to_string(project.file("environment")).unwrap(),
        "PYTHONPATH=\n"
    );
    let notices = ended.events_of("noticed");
    let mut messages = notices.iter().filter_map(|event| event["message"].as_str());
    assert!(
        messages.any(|message| message.contains("is not put on PYTHONPATH: `types.py` there")),
        "{notices:?}"
    );
}
