//! orch as a library: a program that panics while an `Orchestrator` exists, drops the `Orchestrator`, or forgot `init`.
//!
//! This program has no test harness, since `init` must be the first line of `main`; each case is this program, started
//! again as a child whose orphans the parent adopts.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::path::Path;
use std::process::Command as Process;
use std::time::Duration;

use orch::config::{Config, LoadOptions};
use orch::guard::{Guard, GuardOptions};
use orch::journal::{FeedUpdate, RunCommand};
use orch::orchestrator::{Orchestrator, RunOptions};

#[path = "support/wait.rs"]
#[allow(dead_code, reason = "this program uses a part of it")]
mod wait;

const CONFIGURATION: &str = r#"
[redis]
mode = "off"
[services.stubborn]
kind = "daemon"
grace = "200ms"
command = ["sh", "-c", "trap '' TERM; (setsid sleep 60 &); echo up; sleep 60"]
readiness = { log = "up" }
"#;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some("without-init") {
        return without_init();
    }
    orch::guard::init();
    match arguments.get(1).map(String::as_str) {
        Some("panic") => hold(Path::new(&arguments[2]), || panic!("on purpose")),
        Some("drop") => hold(Path::new(&arguments[2]), || {}),
        // The arguments of the test runner (a filter, `--quiet`) are ignored.
        _ => cases(),
    }
}

/// Starts a service and calls `then` while it runs.
fn hold(directory: &Path, then: impl FnOnce()) {
    let load = LoadOptions {
        directory: directory.to_owned(),
        ..LoadOptions::of_this_process()
    };
    let config = Config::load(load).unwrap();
    let environment = std::env::vars().collect();
    let options = RunOptions {
        command: RunCommand::Up,
        ends_when_ready: false,
        sites: Vec::new(),
        resume: None,
        wait: Duration::ZERO,
        force: false,
        environment,
        owns_all_children: false,
    };
    let mut orchestrator = Orchestrator::start(config, options).unwrap();
    let (_stop, asked) = tokio::sync::watch::channel(None);
    let mut events = orchestrator.recorder().subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ready = wait::until_async("a service is ready", Duration::from_secs(60), async || {
            while let Some(update) = events.try_recv() {
                if let FeedUpdate::Event(event) = update
                    && matches!(event.kind, orch::journal::EventKind::ServiceReady { .. })
                {
                    return Some(());
                }
            }
            None
        });
        tokio::select! {
            ending = orchestrator.run(asked) => panic!("it ended: {ending:?}"),
            () = ready => {}
        }
    });
    then();
}

fn without_init() {
    let options = GuardOptions {
        run_id: "none".to_owned(),
        owns_all_children: false,
    };
    let Err(error) = Guard::start(options) else {
        panic!("a guard without `init`")
    };
    assert!(
        error.to_string().contains("init()") && error.to_string().contains("first line of `main`"),
        "{error}"
    );
}

fn cases() {
    // The leftovers of a case are re-parented to this process, and then are its children.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let mut passed = 0;
    for (case, succeeds) in [("panic", false), ("drop", true), ("without-init", true)] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("orch.toml"), CONFIGURATION).unwrap();
        let this = std::env::current_exe().unwrap();
        let output = Process::new(this).arg(case).arg(directory.path()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), succeeds, "{case}: {error}");
        let left = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        assert_eq!(left, Err(nix::errno::Errno::ECHILD), "{case} has left something");
        println!("test {case} ... ok");
        passed += 1;
    }
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}
