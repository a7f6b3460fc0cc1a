//! One instance and its users: `orch run` and `orch exec` next to `orch up`, runs one after the other and at the same
//! time, other users of the machine, and the output of all of them.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

mod support;
use support::bookshop;
use support::orch::{Ended, Orch, Project, wait_until};
use support::server;
use support::skip::skip;

/// Creates a project with a site whose one task appends to the file `done`; `before` and `after` are placed around it
/// in the configuration.
fn workshop(before: &str, after: &str) -> Project {
    let configuration = format!(
        "{before}\n[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"workshop\"\nconcurrency = 1\n\
         [sites.shop]\ndispatch = {{ task = \"workshop.append\", args = [\"done\", \"{{site}}\"] }}\n{after}\n"
    );
    bookshop::project_with("workshop", &configuration)
}

/// Creates a project as [`workshop`] does, with a task that runs until the file `finish` exists.
fn patient() -> Project {
    let project = workshop("", "");
    let configuration = fs::read_to_string(project.file("orch.toml")).unwrap();
    let waiting = configuration.replace(
        "workshop.append\", args = [\"done\", \"{site}\"]",
        "workshop.wait\", args = [\"finish\"]",
    );
    assert_ne!(configuration, waiting);
    fs::write(project.file("orch.toml"), waiting).unwrap();
    project
}

fn lines(project: &Project, file: &str) -> Vec<String> {
    let text = fs::read_to_string(project.file(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn wait_until_begun(orch: &mut Orch<'_>, project: &Project) {
    let begun = project.file("begun");
    orch.wait_until("the task", || begun.exists());
}

fn services(ended: &Ended, kind: &str) -> BTreeSet<String> {
    let events = ended.events_of(kind);
    events
        .iter()
        .map(|event| event["service"].as_str().unwrap().to_owned())
        .collect()
}

fn names<const COUNT: usize>(names: [&str; COUNT]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn end(mut orch: Orch<'_>) -> Ended {
    orch.signal(Signal::SIGTERM);
    orch.wait_for("its stop", |event| event["event"] == "stop_started");
    orch.finish()
}

#[test]
fn a_run_beside_an_instance_that_is_up_uses_it_and_leaves_it_alone() {
    let web = "[services.web]\nkind = \"daemon\"\nreadiness = { tcp = \"127.0.0.1:{ports.web}\" }\n\
               command = [\"python3\", \"-m\", \"http.server\", \"--bind\", \"127.0.0.1\", \"{ports.web}\"]\n\
               [sites.port]\ndispatch = { task = \"workshop.append\", args = [\"port\", \"{ports.web}\"] }\n";
    let project = workshop("[ports]\nweb = 0", web);
    let mut up = project.orch(&["up"]);
    bookshop::wait_until_up(&mut up, &project);
    let text = fs::read(project.state_dir().join("instance.json")).unwrap();
    let instance: Value = serde_json::from_slice(&text).unwrap();
    for runs in 1..=2 {
        let ended = project.orch(&["run"]).finish();
        ended.expect_code(0);
        assert_eq!(services(&ended, "service_reused"), names(["redis", "celery", "web"]));
        assert!(ended.events_of("service_spawned").is_empty(), "{:#?}", ended.events);
        assert_eq!(lines(&project, "done").len(), runs);
        let ports = lines(&project, "port");
        assert!(
            ports
                .iter()
                .all(|port| port.parse::<u64>().ok() == instance["ports"]["web"].as_u64()),
            "{ports:?}"
        );
    }
    let ended = end(up);
    ended.expect_code(143);
    assert!(ended.events_of("service_exited").is_empty());
    assert!(ended.events_of("service_unhealthy").is_empty());
}

#[test]
fn exec_has_the_environment_and_the_exit_code() {
    let project = workshop("", "");
    let mut up = project.orch(&["up"]);
    bookshop::wait_until_up(&mut up, &project);
    let ended = project
        .orch(&["exec", "--", "sh", "-c", "echo url $REDIS_URL; exit 7"])
        .finish();
    ended.expect_code(7);
    assert!(ended.stdout.contains("url redis://default:"), "{}", ended.stdout);
    // The address and the password are those of the Redis that runs.
    let ask = "import os, redis; print('pong', redis.Redis.from_url(os.environ['REDIS_URL']).ping())";
    let ended = project.orch(&["exec", "--", ".venv/bin/python", "-c", ask]).finish();
    ended.expect_code(0);
    assert!(ended.stdout.contains("pong True"), "{}", ended.stdout);
    // The two ways of redis-cli to log in work too.
    if server::of_the_system("redis-cli").is_some() {
        let ask = "redis-cli -u \"$CELERY_BROKER_URL\" ping && redis-cli -p $REDIS_PORT ping";
        let ended = project.orch(&["exec", "--", "sh", "-c", ask]).finish();
        ended.expect_code(0);
        assert_eq!(
            ended.stdout.matches("PONG").count(),
            2,
            "{}{}",
            ended.stdout,
            ended.stderr
        );
    } else {
        skip("there is no `redis-cli`");
    }
    // Programs and modules are those of the worker, in every working directory of the command.
    let ask = "cd / && command -v celery && python -c 'import workshop, sys; print(sys.executable)' && celery -A workshop inspect ping";
    let ended = project.orch(&["exec", "--", "sh", "-c", ask]).finish();
    ended.expect_code(0);
    let programs = project.file(".venv/bin");
    for text in [programs.join("celery"), programs.join("python"), "pong".into()] {
        assert!(
            ended.stdout.contains(&*text.to_string_lossy()),
            "{}: {}{}",
            text.display(),
            ended.stdout,
            ended.stderr
        );
    }
    let ended = project.orch(&["exec", "--", "no-such-command"]).finish();
    ended.expect_code(127);
    assert!(
        ended.stderr.contains("`no-such-command`: not found in PATH (/"),
        "{}",
        ended.stderr
    );
    end(up).expect_code(143);
}

#[test]
fn orch_celery_speaks_to_the_instance_that_is_up_here() {
    let project = workshop("", "");
    let refused = project.orch(&["celery", "ping"]).finish();
    refused.expect_code(2);
    assert!(
        refused.stderr.contains("no instance is running here"),
        "{}",
        refused.stderr
    );
    let mut up = project.orch(&["up"]);
    bookshop::wait_until_up(&mut up, &project);
    let healthy = project.orch(&["celery", "ping", "-v", "--timeout", "10s"]).finish();
    healthy.expect_code(0);
    assert!(healthy.stdout.starts_with("healthy: "), "{}", healthy.stdout);
    assert!(
        healthy.stderr.starts_with("broker 127.0.0.1:")
            && healthy.stderr.contains("(from the instance that is running here)"),
        "{}",
        healthy.stderr
    );
    // When a broker is named, the instance is not read.
    let elsewhere = ["celery", "ping", "-v", "--broker", "redis://:secret@127.0.0.1:1/3"];
    let elsewhere = project.orch(&elsewhere).finish();
    elsewhere.expect_code(1);
    assert_eq!(
        elsewhere.stderr.trim_end(),
        "broker 127.0.0.1:1/3, result backend 127.0.0.1:1/3 (from --broker)"
    );
    end(up).expect_code(143);
}

#[test]
fn exec_without_an_instance_says_how_to_start_one() {
    let project = workshop("", "");
    let ended = project.orch(&["exec", "--", "true"]).finish();
    ended.expect_code(3);
    assert!(
        ended.stderr.contains("no instance is running") && ended.stderr.contains("orch up"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_second_run_is_refused_or_waits() {
    let project = patient();
    let mut first = project.orch(&["run"]);
    wait_until_begun(&mut first, &project);
    let run_id = first.events()[0]["run_id"].as_str().unwrap().to_owned();

    let refused = project.orch(&["run"]).finish();
    refused.expect_code(75);
    for word in [&first.pid.to_string(), &run_id, "--wait"] {
        assert!(refused.stderr.contains(word), "{word} is not in {}", refused.stderr);
    }
    let refused = project.orch(&["run", "--wait", "100ms"]).finish();
    refused.expect_code(75);

    let interrupted = project.orch(&["run", "--wait", "10m"]);
    says_that_it_waits(&interrupted, &run_id);
    interrupted.signal(Signal::SIGINT);
    interrupted.finish().expect_code(130);

    let killed = project.orch(&["run", "--wait", "10m"]);
    says_that_it_waits(&killed, &run_id);
    killed.signal(Signal::SIGKILL);
    let left = killed.finish().left;
    assert!(left.is_empty(), "left behind: {left:?}");

    let second = project.orch(&["run", "--wait", "60s"]);
    says_that_it_waits(&second, &run_id);
    fs::write(project.file("finish"), "").unwrap();
    first.finish().expect_code(0);
    second.finish().expect_code(0);
    assert_eq!(lines(&project, "begun").len(), 2);
}

fn says_that_it_waits(orch: &Orch<'_>, for_run: &str) {
    let waits = orch.wait_within(support::orch::WAIT_TIMEOUT, &[], || {
        orch.stderr().contains(for_run).then_some(())
    });
    assert!(waits.is_ok(), "it does not say that it waits: {}", orch.stderr());
}

#[test]
fn two_state_directories_run_side_by_side() {
    let project = patient();
    let mut first = project.orch(&["run"]);
    wait_until_begun(&mut first, &project);
    let second = project.orch(&[
        "run",
        "--set",
        "orch.state_dir=another state",
        "--set",
        "sites.shop.dispatch.task=workshop.append",
        "--set",
        "sites.shop.dispatch.args=[\"done\",\"x\"]",
    ]);
    second.finish().expect_code(0);
    assert_eq!(lines(&project, "done"), ["x"]);
    fs::write(project.file("finish"), "").unwrap();
    first.finish().expect_code(0);
}

#[test]
fn a_closed_standard_output_changes_nothing_but_what_is_seen() {
    let project = workshop("", "");
    let ended = project.shell("{ \"$ORCH\" run; echo $? > code; } | head -1").finish();
    ended.expect_code(0);
    assert_eq!(lines(&project, "code"), ["0"], "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    assert_eq!(lines(&project, "done"), ["shop"]);
    assert_eq!(ended.events.last().unwrap()["event"], "run_finished");
}

#[test]
fn json_output_is_json_lines_and_the_journal() {
    let project = workshop("", "");
    let ended = project.orch(&["run", "--output", "json"]).finish();
    ended.expect_code(0);
    let printed: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert_eq!(printed, ended.events);
}

#[test]
fn quiet_prints_failures_and_nothing_where_all_went_well() {
    let project = workshop("", "");
    let ended = project.orch(&["run", "-q"]).finish();
    ended.expect_code(0);
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    assert_eq!(shown, "");

    let ended = project
        .orch(&["run", "-q", "--set", "sites.shop.dispatch.task=workshop.nothing"])
        .finish();
    ended.expect_code(2);
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        shown.contains("workshop.nothing") && shown.contains("logs: "),
        "{shown}"
    );
    assert!(!shown.contains("redis ready"), "{shown}");
}

/// Id of the user and the group `nobody`.
const NOBODY: u32 = 65534;

/// Copies orch into the project, which then belongs to nobody; returns `None` when this is not root.
fn give_to_nobody(project: &Project) -> Option<PathBuf> {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can run this as another user");
        return None;
    }
    let program = project.file("orch");
    fs::copy(env!("CARGO_BIN_EXE_orch"), &program).unwrap();
    for entry in fs::read_dir(project.path()).unwrap().flatten() {
        lchown(entry.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    lchown(project.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    Some(program)
}

#[test]
fn another_user_keeps_services_up_in_a_directory_of_its_own() {
    let project = Project::new(
        "[redis]\nmode = \"own\"\nport = 0\n\
         [services.web]\nkind = \"daemon\"\ncommand = [\"sh\", \"-c\", \"id -u > user; exec sleep 600\"]\n\
         readiness = { file = \"user\" }\n",
    );
    let Some(program) = give_to_nobody(&project) else {
        return;
    };
    let mut up = project.orch_as(NOBODY, &program, &["up"]);
    up.wait_for_service("service_ready", "redis");
    up.wait_for_service("service_ready", "web");
    assert_eq!(lines(&project, "user"), [NOBODY.to_string()]);
    end(up).expect_code(143);
    // Another user, even root, may not use the state.
    let ended = project.orch(&["up"]).finish();
    ended.expect_code(3);
    let reason = format!("belongs to user {NOBODY}");
    assert!(ended.stderr.contains(&reason), "{}", ended.stderr);
}

#[test]
fn another_user_runs_sites_in_a_directory_of_its_own() {
    let project = workshop("", "");
    let Some(program) = give_to_nobody(&project) else {
        return;
    };
    let mut celery = Command::new(project.file(".venv/bin/celery"));
    celery.arg("--version").uid(NOBODY).gid(NOBODY).stdin(Stdio::null());
    if !celery.output().is_ok_and(|output| output.status.success()) {
        skip("the user nobody may not read the Python environment below cargo's target directory");
        return;
    }
    project.orch_as(NOBODY, &program, &["run"]).finish().expect_code(0);
    assert_eq!(lines(&project, "done"), ["shop"]);
}

/// Returns how often orch has sent PING to the Redis of a running instance.
fn pings(port: u64, password: &str) -> u64 {
    let ask = "import redis, sys; r = redis.Redis(port=int(sys.argv[1]), password=sys.argv[2]); \
               print(r.info('commandstats')['cmdstat_ping']['calls'])";
    let python = bookshop::environment().join(".venv/bin/python");
    let output = Command::new(python)
        .args(["-c", ask, &port.to_string(), password])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{printed}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_state_directory_that_is_removed_is_reported_and_its_instance_stays_the_only_one() {
    let project = Project::new(
        "[redis]\nmode = \"own\"\nport = 0\nliveness = { interval = \"50ms\", timeout = \"5s\", failures = 1 }\n",
    );
    let mut up = project.orch(&["up"]);
    bookshop::wait_until_up(&mut up, &project);
    let instance: Value =
        serde_json::from_slice(&fs::read(project.state_dir().join("instance.json")).unwrap()).unwrap();
    let port = instance["redis"]["port"].as_u64().unwrap();
    let password = instance["redis"]["password"].as_str().unwrap();
    let stdout = fs::read_dir(project.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let stdout = stdout.filter(|path| path.extension().is_some_and(|extension| extension == "stdout"));
    let stdout = stdout.collect::<Vec<_>>().remove(0);
    fs::remove_dir_all(project.state_dir()).unwrap();
    wait_until("the loss is reported", || {
        fs::read_to_string(&stdout)
            .unwrap()
            .contains("was removed while this orch uses it")
    });
    for (command, code) in [(&["up"][..], 75), (&["clean"], 75), (&["exec", "--", "true"], 3)] {
        let ended = project.orch(command).finish();
        ended.expect_code(code);
        let named = ended.stderr.contains(&format!("(pid {}, run ", up.pid))
            && ended.stderr.contains("was removed or replaced");
        assert!(named, "{command:?}: {}", ended.stderr);
    }
    // orch now reaches Redis by the port, and does not consider Redis dead.
    let before = pings(port, password);
    wait_until("Redis is asked again and again", || pings(port, password) > before + 5);
    up.signal(Signal::SIGTERM);
    let ended = up.finish();
    ended.expect_code(143);
    assert!(!ended.stdout.contains("redis restarting"), "{}", ended.stdout);
    // Another orch may start now.
    end({
        let mut up = project.orch(&["up"]);
        bookshop::wait_until_up(&mut up, &project);
        up
    })
    .expect_code(143);
}
