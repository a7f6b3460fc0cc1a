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
