//! Services that fork without end, hundreds of processes at a time: nothing is left, within bounded time, for every way
//! in which they are ended and every process that is killed during the stop. With a control group that the kernel ends
//! (as root, or where one was delegated) and without one.
//!
//! Each bomb ends by itself after some hundred generations, so that a broken promise does no further harm; and only one
//! bomb runs at a time, since each takes the whole machine for a moment.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, chown, geteuid};

mod support;
use support::orch::{Orch, Project, kill_both_at_once};
use support::skip::skip;

/// User without other processes.
const SOMEBODY: u32 = 61_235;
static ONE_BOMB_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Chains in one process group: each process forks the next of its chain and ends.
const FORKING: &str =
    "flee() { [ $1 -gt 100 ] || flee $(($1+1)) & }; n=0; while [ $n -lt 300 ]; do flee 0; n=$((n+1)); done";

/// Chains in which each process begins a session of its own and executes a program before it forks the next.
const DAEMONISING: &str = "echo 'trap \"\" TERM; [ $1 -gt 60 ] || setsid -f sh flee $(($1+1))' > flee; \
                           n=0; while [ $n -lt 60 ]; do sh flee 0 & n=$((n+1)); done";

/// Bomb as a service that ignores SIGTERM, and a plain service that is stopped after it.
struct ForkBomb {
    project: Project,
    /// User of the bomb, if not the user of the tests.
    user: Option<u32>,
}

impl ForkBomb {
    fn new(bomb: &str, user: Option<u32>) -> Self {
        let script = format!("trap '' TERM; {bomb}; echo > forking; while :; do sleep 600; done");
        let project = Project::new(&format!(
            "[redis]\nmode = \"off\"\n[services.plain]\ncommand = [\"sleep\", \"600\"]\n\
             [services.bomb]\nafter = [\"plain\"]\ngrace = \"100ms\"\nreadiness = {{ file = \"forking\" }}\n\
             command = [\"sh\", \"-c\", {}]\n",
            serde_json::to_string(&script).unwrap()
        ));
        if let Some(user) = user {
            fs::copy(env!("CARGO_BIN_EXE_orch"), project.file("orch")).unwrap();
            for path in [project.path(), &project.file("orch"), &project.file("orch.toml")] {
                chown(path, Some(user.into()), Some(Gid::from_raw(user))).unwrap();
            }
        }
        Self { project, user }
    }

    fn orch(&self, arguments: &[&str]) -> Orch<'_> {
        match self.user {
            None => self.project.orch(arguments),
            Some(user) => self.project.orch_as(user, &self.project.file("orch"), arguments),
        }
    }

    fn forking(&self) -> Orch<'_> {
        let mut orch = self.orch(&["up"]);
        orch.wait_for_service("service_ready", "bomb");
        orch
    }

    /// Runs a test as the user of the tests and, if that is root, also as another user.
    fn each(bomb: &str, test: fn(&Self)) {
        let _lock = ONE_BOMB_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        for user in [None, Some(SOMEBODY)] {
            if user.is_some() && !geteuid().is_root() {
                skip("only root can also run this as another user");
                continue;
            }
            println!("user {user:?}");
            test(&Self::new(bomb, user));
        }
    }
}

fn guard_of(orch: &mut Orch<'_>) -> Pid {
    let started = orch.wait_for("the start", |event| event["event"] == "run_started");
    Pid::from_raw(i32::try_from(started["guard_pid"].as_i64().unwrap()).unwrap())
}

fn stopped_in_order(service: &ForkBomb) {
    let orch = service.forking();
    let asked = Instant::now();
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    let took = asked.elapsed();
    ended.expect_code(143);
    let stopped = ended.events_of("service_stopped");
    let names: Vec<&str> = stopped.iter().filter_map(|event| event["service"].as_str()).collect();
    assert_eq!(names, ["bomb", "plain"]);
    let bound = ended.events_of("stop_started")[0]["bound_ms"].as_u64().unwrap();
    println!("stopped in {took:?}, bound {bound} ms");
    assert!(took < Duration::from_millis(bound + 1000), "{took:?}, bound {bound} ms");
}

fn orch_killed(service: &ForkBomb) {
    let orch = service.forking();
    orch.signal(Signal::SIGKILL);
    let ended = orch.finish();
    assert!(ended.left.is_empty(), "{:?}", ended.left);
    println!("orch killed: gone after {:?}", ended.gone_after);
}

fn guard_killed(service: &ForkBomb) {
    let mut orch = service.forking();
    let guard = guard_of(&mut orch);
    let killed = Instant::now();
    kill(guard, Signal::SIGKILL).unwrap();
    orch.finish().expect_code(3);
    println!("guard killed: over after {:?}", killed.elapsed());
}

fn both_killed(service: &ForkBomb) {
    let mut orch = service.forking();
    let guard = guard_of(&mut orch);
    kill_both_at_once(orch.pid, guard.as_raw());
    service.orch(&["clean"]).finish().expect_code(0);
    let ended = orch.finish();
    assert!(ended.left.is_empty(), "{:?}", ended.left);
    assert!(is_empty(&service.project.state_dir().join("pids")));
    println!("both killed: gone after {:?}", ended.gone_after);
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn forking_is_stopped_in_order() {
    ForkBomb::each(FORKING, stopped_in_order);
}

#[test]
fn daemonising_is_stopped_in_order() {
    ForkBomb::each(DAEMONISING, stopped_in_order);
}

#[test]
fn forking_and_orch_killed() {
    ForkBomb::each(FORKING, orch_killed);
}

#[test]
fn daemonising_and_orch_killed() {
    ForkBomb::each(DAEMONISING, orch_killed);
}

#[test]
fn forking_and_the_guard_killed() {
    ForkBomb::each(FORKING, guard_killed);
}

#[test]
fn daemonising_and_the_guard_killed() {
    ForkBomb::each(DAEMONISING, guard_killed);
}

#[test]
fn forking_and_both_killed() {
    ForkBomb::each(FORKING, both_killed);
}

#[test]
fn daemonising_and_both_killed() {
    ForkBomb::each(DAEMONISING, both_killed);
}
