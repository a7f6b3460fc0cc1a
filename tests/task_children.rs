//! Processes that Celery's tasks start. Such a process, with a session of its own, which ignores everything but SIGKILL
//! and outlives its task and the pool process of the task, ends with the worker, for every end of the worker or the
//! run.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

mod support;
use support::bookshop;
use support::orch::{Orch, Project, lives, wait_until};

/// Variables of the process, which show the service that the process belongs to: kept or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Environment {
    Kept,
    Wiped,
}

/// End of the pool process after its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PoolProcess {
    Stays,
    EndsWithItsTask,
}

use Environment::{Kept, Wiped};
use PoolProcess::{EndsWithItsTask, Stays};

/// Creates a project with a site whose task starts such a process and then runs until the file `go` exists.
fn project(environment: Environment, pool: PoolProcess) -> Project {
    let most = match pool {
        Stays => String::new(),
        EndsWithItsTask => "[celery.settings]\nworker_max_tasks_per_child = 1\n".to_owned(),
    };
    bookshop::project_with(
        "workshop",
        &format!(
            "[redis]\nmode = \"own\"\nport = 0\nauth = false\n\
             [celery]\napp = \"workshop\"\nconcurrency = 1\ngrace = \"300ms\"\nquit_grace = \"300ms\"\n{most}\
             [sites.shop]\ndispatch = {{ task = \"workshop.stray\", args = [{}, \"go\"] }}\n",
            environment == Wiped
        ),
    )
}

/// Returns the processes that tasks have started so far.
fn strays(project: &Project) -> Vec<i32> {
    let text = fs::read_to_string(project.file("strays")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Waits until a task has started a process; returns its pid.
fn wait_for_stray(orch: &mut Orch<'_>, project: &Project) -> i32 {
    orch.wait_until("what the task starts", || !strays(project).is_empty());
    let stray = strays(project)[0];
    assert!(lives(stray));
    stray
}

fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn seq(event: &Value) -> u64 {
    event["seq"].as_u64().unwrap()
}

const ALL: [(Environment, PoolProcess); 4] = [
    (Kept, Stays),
    (Kept, EndsWithItsTask),
    (Wiped, Stays),
    (Wiped, EndsWithItsTask),
];

#[test]
fn it_ends_with_the_run() {
    for (environment, pool) in ALL {
        let project = project(environment, pool);
        fs::write(project.file("go"), "").unwrap();
        let ended = project.orch(&["run"]).finish();
        ended.expect_code(0);
        let stray = strays(&project)[0];
        assert!(!lives(stray), "{environment:?} {pool:?}");
    }
}

/// Asserts that the process ends after Ctrl+C; the task runs through the whole warm shutdown, and past the cold one.
#[test]
fn it_ends_with_ctrl_c() {
    for environment in [Kept, Wiped] {
        let project = project(environment, Stays);
        let mut orch = project.orch(&["run"]);
        let stray = wait_for_stray(&mut orch, &project);
        orch.signal(Signal::SIGINT);
        orch.finish().expect_code(130);
        assert!(!lives(stray), "{environment:?}");
    }
}

#[test]
fn it_ends_with_orch_killed() {
    for environment in [Kept, Wiped] {
        let project = project(environment, Stays);
        let mut orch = project.orch(&["run"]);
        let stray = wait_for_stray(&mut orch, &project);
        orch.signal(Signal::SIGKILL);
        let ended = orch.finish();
        assert!(ended.left.is_empty(), "{environment:?}: {:?}", ended.left);
        assert!(!lives(stray), "{environment:?}");
    }
}

/// Starts an instance that is kept up, with such a task.
fn up_with_task(project: &Project, environment: Environment) -> Orch<'_> {
    let mut orch = project.orch(&["up"]);
    bookshop::wait_until_up(&mut orch, project);
    let arguments = format!("[{}, \"go\"]", environment == Wiped);
    let output = Command::new(env!("CARGO_BIN_EXE_orch"))
        .args(["celery", "publish", "workshop.stray", "--args", &arguments])
        .current_dir(project.path())
        .env_remove("CELERY_BROKER_URL")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    orch
}

/// Asserts that the process ends with an instance that is kept up, whether its task has ended or not.
#[test]
fn it_ends_with_orch_up() {
    for (environment, pool) in ALL {
        let project = project(environment, pool);
        fs::write(project.file("go"), "").unwrap();
        let mut orch = up_with_task(&project, environment);
        let stray = wait_for_stray(&mut orch, &project);
        if pool == EndsWithItsTask {
            let guard = orch.wait_for("the start", |event| event["event"] == "run_started")["guard_pid"].clone();
            wait_until("the pool process gone", || parent(stray) == guard);
        }
        orch.signal(Signal::SIGTERM);
        orch.finish().expect_code(143);
        assert!(!lives(stray), "{environment:?} {pool:?}");
    }
}

/// Asserts that the process ends before the next worker starts, which must not run next to leftovers of the former
/// worker's tasks.
fn it_ends_with_its_worker(environment: Environment, pool: PoolProcess) {
    let project = project(environment, pool);
    // Without variables the process is recognised by its parent. Celery lets the kernel kill a pool process with its
    // worker, so that the guard may look too late to see that parent; here the parent outlives the worker.
    let has_parent = (environment, pool) == (Wiped, Stays);
    if has_parent {
        fs::write(project.file("outlives"), "").unwrap();
    }
    let mut orch = up_with_task(&project, environment);
    let stray = wait_for_stray(&mut orch, &project);
    let started = orch.wait_for("the start", |event| event["event"] == "run_started");
    if pool == EndsWithItsTask {
        fs::write(project.file("go"), "").unwrap();
        wait_until("the pool process gone", || parent(stray) == started["guard_pid"]);
    }
    let spawned = orch.wait_for_service("service_spawned", "celery");
    let worker = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    if has_parent {
        wait_until("a pool process that outlives its worker", || {
            project.file("outliving").exists()
        });
    }
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    let killed = orch.wait_for_service("service_exited", "celery");
    orch.wait_for("the next worker", |event| {
        event["event"] == "service_ready" && event["service"] == "celery" && seq(event) > seq(&killed)
    });
    // The next worker wrote this file when it began.
    let seen = fs::read_to_string(project.file("seen")).unwrap();
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
    assert_eq!(seen, format!("{stray} gone\n"), "{environment:?} {pool:?}");
}

#[test]
fn it_ends_with_its_worker_before_the_next_one_starts() {
    it_ends_with_its_worker(Kept, Stays);
}

#[test]
fn it_ends_with_its_worker_when_its_pool_process_is_long_gone() {
    it_ends_with_its_worker(Kept, EndsWithItsTask);
}

#[test]
fn it_ends_with_its_worker_without_any_variable() {
    it_ends_with_its_worker(Wiped, Stays);
}
