//! `orch up` with commands only: the process supervisor, started, broken and stopped from outside.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "../support/mod.rs"]
mod support;

mod full_outputs;
mod readiness;
mod restarts;
mod signals;
mod stops;

use support::orch::Project;

const BASE: &str = "[redis]\nmode = \"off\"\n";

fn project(services: &str) -> Project {
    Project::new(&format!("{BASE}{services}"))
}

/// Daemon that sleeps, with a grandchild that has daemonised itself.
const STUBBORN: &str = r#"
[services.stubborn]
kind = "daemon"
grace = "300ms"
command = ["python3", "-c", '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        print("daemonised", flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
print("up", flush=True)
time.sleep(600)
''']
readiness = { log = "up" }
"#;
