//! The control group of a run, where the machine allows one: the group has all processes, nothing of the group stays,
//! and processes that only the group identifies are ended.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;
use support::orch::{Orch, Project, WAIT_TIMEOUT, kill_both_at_once, wait_until};
use support::skip::skip;

/// Service that leaves behind a process of its own session, without a parent and without variables.
const WIPED: &str = r#"
[redis]
mode = "off"
[services.wiped]
command = ["sh", "-c", "env -i setsid -f sh -c 'echo $$ > new && mv new wiped.pid; exec sleep 600'; exec sleep 600"]
readiness = { file = "wiped.pid" }
"#;

/// Returns the group of the run, if it has one, and its guard.
fn group(orch: &mut Orch<'_>) -> (Option<PathBuf>, Pid) {
    let started = orch.wait_for("the start", |event| event["event"] == "run_started");
    let guard = started["guard_pid"].as_i64().unwrap();
    let run = orch.run_directory().unwrap();
    let name = format!("orch-{}", run.file_name().unwrap().to_string_lossy());
    let groups = fs::read_to_string(format!("/proc/{guard}/cgroup")).unwrap();
    let inside = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let mount = mount.and_then(|mount| mount.split(' ').nth(4));
    let path = mount
        .zip(inside)
        .map(|(mount, inside)| PathBuf::from(mount).join(inside));
    let path = path.filter(|path| path.ends_with(&name));
    if path.is_none() {
        skip("no control group can be made here");
    }
    (path, Pid::from_raw(i32::try_from(guard).unwrap()))
}

fn wiped(project: &Project) -> i32 {
    let written = fs::read_to_string(project.file("wiped.pid")).unwrap();
    written.trim().parse().unwrap()
}

#[test]
fn all_of_a_run_is_in_its_group_and_the_group_goes_with_it() {
    let project = Project::new(WIPED);
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "wiped");
    let (group, guard) = group(&mut orch);
    let members = group.as_ref().map(|group| {
        let members = || fs::read_to_string(group.join("cgroup.procs")).unwrap();
        // `setsid` may end a moment after its child has written its pid.
        wait_until("guard, main process and stray alone in it", || {
            members().lines().count() == 3
        });
        members()
    });
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
    let (Some(group), Some(members)) = (group, members) else {
        return;
    };
    let members: Vec<i32> = members.lines().map(|pid| pid.parse().unwrap()).collect();
    assert!(members.contains(&guard.as_raw()) && members.contains(&wiped(&project)));
    assert!(!group.exists());
}

#[test]
fn both_killed_what_has_daemonised_and_wiped_its_environment_is_ended_by_the_next_start() {
    let project = Project::new(WIPED);
    let mut orch = project.orch_with(&["up"], &[], WAIT_TIMEOUT);
    orch.wait_for_service("service_ready", "wiped");
    let (group, guard) = group(&mut orch);
    kill_both_at_once(orch.pid, guard.as_raw());
    let stray = wiped(&project);
    let Some(group) = group else {
        kill(Pid::from_raw(stray), Signal::SIGKILL).unwrap();
        return;
    };
    let cleaned = project.orch(&["clean"]).finish();
    cleaned.expect_code(0);
    assert!(cleaned.stderr.contains(&format!("(pid {stray})")), "{}", cleaned.stderr);
    assert!(orch.finish().left.is_empty());
    assert!(!group.exists());
}

/// Process of the test, ended with it.
struct Stranger(std::process::Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a process that orch does not know is needed")]
fn a_process_that_is_left_in_the_group_is_named_and_nothing_left_is_not_claimed() {
    let project = Project::new("[redis]\nmode = \"off\"\n[services.web]\ncommand = [\"sleep\", \"600\"]\n");
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "web");
    let (group, _guard) = group(&mut orch);
    let stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let stranger = Stranger(stranger);
    let pid = stranger.0.id().to_string();
    if let Some(group) = &group {
        fs::write(group.join("cgroup.procs"), &pid).unwrap();
    }
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    let Some(group) = group else {
        ended.expect_code(143);
        return;
    };
    ended.expect_code(3);
    let told = format!(
        "processes are left in the run's control group {}: {pid}",
        group.display()
    );
    let finished = ended.events_of("run_finished");
    let error = finished.first().unwrap()["error"].as_str().unwrap();
    assert!(error.contains(&told), "{error}");
    assert!(
        ended.events_of("stop_finished").is_empty(),
        "it says that nothing is left"
    );
    drop(stranger);
    fs::remove_dir(&group).unwrap();
}
