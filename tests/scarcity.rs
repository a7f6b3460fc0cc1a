//! A kernel that refuses descriptors, processes or `/proc`. orch reports the refusal and a remedy, with exit code 3, or
//! has enough and works; in both cases nothing is left.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

mod support;
use support::orch::{Orch, Project, WAIT_TIMEOUT};
use support::skip::skip;

/// User without other processes, not root: no limit of processes applies to root.
const SOMEBODY: u32 = 61_234;

fn project() -> Project {
    Project::new("[redis]\nmode = \"off\"\n[services.web]\ncommand = [\"sleep\", \"600\"]\n")
}

/// Waits until orch is up and stops it, or waits for its end. Returns whether orch came up, and its output.
#[track_caller]
fn up_or_refused(project: &Project, orch: Orch<'_>) -> (bool, String) {
    let instance = project.state_dir().join("instance.json");
    let up = orch
        .wait_within(WAIT_TIMEOUT, &[], || instance.exists().then_some(()))
        .is_ok();
    if up {
        orch.signal(Signal::SIGTERM);
    }
    let ended = orch.finish();
    ended.expect_code(if up { 143 } else { 3 });
    (up, ended.stderr + &ended.stdout)
}

#[test]
fn without_descriptors_it_says_so_and_leaves_nothing() {
    let project = project();
    let mut ups = 0;
    // From too few for anything to more than enough.
    for limit in 5..=40 {
        let (up, said) = up_or_refused(
            &project,
            project.shell(&format!("ulimit -n {limit}; exec \"$ORCH\" up")),
        );
        ups += u32::from(up);
        assert!(
            up || said.contains("Too many open files") && said.contains("ulimit -n"),
            "with {limit}: {said}"
        );
    }
    assert!(ups >= 10, "{ups} came up");
}

#[test]
fn without_a_further_process_it_says_so_and_leaves_nothing() {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can run this as a user without other processes");
        return;
    }
    let project = project();
    let program = project.file("orch");
    fs::copy(env!("CARGO_BIN_EXE_orch"), &program).unwrap();
    let script = project.file("limited");
    fs::write(&script, "exec prlimit --nproc=\"$2\" \"$1\" up\n").unwrap();
    for path in [project.path(), &program, &script, &project.file("orch.toml")] {
        nix::unistd::chown(path, Some(SOMEBODY.into()), Some(nix::unistd::Gid::from_raw(SOMEBODY))).unwrap();
    }
    let (program, script) = (program.to_str().unwrap(), script.to_str().unwrap());
    let mut ups = 0;
    for limit in 1..=10 {
        let number = limit.to_string();
        let orch = project.orch_as(SOMEBODY, Path::new("/bin/sh"), &[script, program, &number]);
        let (up, said) = up_or_refused(&project, orch);
        ups += u32::from(up);
        assert!(
            up || said.contains("Resource temporarily unavailable"),
            "with {limit}: {said}"
        );
    }
    assert!((1..10).contains(&ups), "{ups} came up");
}

#[test]
fn without_proc_it_says_so() {
    let hidden = "mount -t tmpfs none /proc";
    let possible = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", hidden])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        skip("no mount namespace can be made here");
        return;
    }
    let project = project();
    let ended = project
        .shell(&format!("exec unshare -m sh -c '{hidden} && exec \"$ORCH\" up'"))
        .finish();
    ended.expect_code(3);
    assert!(
        ended.stderr.contains("/proc") && ended.stderr.contains("mount -t proc"),
        "{}",
        ended.stderr
    );
}
