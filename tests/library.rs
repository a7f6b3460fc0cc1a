//! orch as a library: a program that panics while it holds an `Orchestrator`, drops it, or forgot `init`.
//!
//! Without the test harness, since `init` must be the first line of `main`; each case is this program, started again
//! as a child whose orphans come to us.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::path::Path;
use std::process::Command as Process;
use std::time::Duration;

use orch::config::{Config, LoadOptions};
use orch::guard::{Guard, GuardOptions};
use orch::orchestrator::{Options, Orchestrator};
use orch::run::{Command, Update};

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
        return without_init(Path::new(&arguments[2]));
    }
    orch::guard::init();
    match arguments.get(1).map(String::as_str) {
        Some("panic") => hold(Path::new(&arguments[2]), || panic!("on purpose")),
        Some("drop") => hold(Path::new(&arguments[2]), || {}),
        // Whatever the test runner passes (a filter, `--quiet`) is not for us.
        _ => cases(),
    }
}

/// Starts a service and does `then` while it runs.
fn hold(directory: &Path, then: impl FnOnce()) {
    let load = LoadOptions {
        directory: directory.to_owned(),
        ..LoadOptions::of_this_process()
    };
    let config = Config::load(load).unwrap();
    let environment = std::env::vars().collect();
    let options = Options {
        command: Command::Up,
        sites: Vec::new(),
        resume: None,
        wait: Duration::ZERO,
        force: false,
        environment,
        sole_spawner: false,
    };
    let mut orchestrator = Orchestrator::start(config, options).unwrap();
    let (_stop, asked) = tokio::sync::watch::channel(None);
    let mut events = orchestrator.recorder().subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ready = async {
            loop {
                while let Some(update) = events.try_recv() {
                    if let Update::Event(event) = update
                        && matches!(event.kind, orch::run::EventKind::ServiceReady { .. })
                    {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ending = orchestrator.run(asked) => panic!("it ended: {ending:?}"),
            ready = tokio::time::timeout(Duration::from_secs(60), ready) => ready.expect("it gets ready in time"),
        }
    });
    then();
}

fn without_init(directory: &Path) {
    let options = GuardOptions {
        run_id: "none".to_owned(),
        state_dir: directory.to_owned(),
        log: directory.join("guard.log"),
        lock: Vec::new(),
        sole_spawner: false,
    };
    let Err(error) = Guard::start(options, |_| {}) else {
        panic!("a guard without `init`")
    };
    assert!(
        error.to_string().contains("init()") && error.to_string().contains("first line of `main`"),
        "{error}"
    );
}

fn cases() {
    // What a case leaves is re-parented to us, and then stands among our children.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let mut passed = 0;
    for (case, succeeds) in [("panic", false), ("drop", true), ("without-init", true)] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("orch.toml"), CONFIGURATION).unwrap();
        let this = std::env::current_exe().unwrap();
        let output = Process::new(this).arg(case).arg(directory.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), succeeds, "{case}: {told}");
        let left = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        assert_eq!(left, Err(nix::errno::Errno::ECHILD), "{case} has left something");
        println!("test {case} ... ok");
        passed += 1;
    }
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}
