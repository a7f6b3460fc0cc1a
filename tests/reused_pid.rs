//! A pid that the state directory names is a stranger's by now: neither the next start nor `orch clean` may touch it or
//! take it for the one that had it.
//!
//! Where the reuse must be a real one the test runs in a pid namespace of its own, in which the kernel is told which pid
//! it shall give next.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;

mod support;
use support::orch::{Orch, PATIENCE, Project, kill_both_at_once, lives, wait_until};
use support::skip::skip;

/// Set for the test inside its namespace.
const INSIDE: &str = "ORCH_TEST_PID_NAMESPACE";

/// A service with a grandchild that has daemonised itself; the grandchild's pid is written to `stray.pid`.
const STRAY: &str = r#"
[redis]
mode = "off"
[services.stray]
kind = "daemon"
command = ["sh", "-c", "setsid -f sh -c 'echo $$ > stray.new; mv stray.new stray.pid; exec sleep 600'; exec sleep 600"]
readiness = { file = "stray.pid" }
"#;

/// A service that takes its time when it is asked to end, and tells that it was asked.
const SLOW: &str = r#"
[redis]
mode = "off"
[services.slow]
kind = "daemon"
grace = "20s"
command = ["sh", "-c", "trap 'echo > asked; until test -e go; do sleep 0.05; done; exit 0' TERM; echo > up; while :; do sleep 0.05; done"]
readiness = { file = "up" }
"#;

/// Runs the test of this name again, as the first process of a pid namespace, unless this is that already. Whether it is.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        // What root owns is an unknown user's in a namespace in which we are root, and orch keeps no state below it.
        skip("only root can be the user who owns `/` in a pid namespace of its own");
        return false;
    }
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        command.args(arguments).stdin(Stdio::null()).output()
    };
    let allowed = unshare(&["sh", "-c", "echo 1 > /proc/sys/kernel/ns_last_pid"]);
    if !allowed.as_ref().is_ok_and(|output| output.status.success()) {
        skip(format_args!(
            "no pid namespace may be made here, or no pid chosen in it: {allowed:?}"
        ));
        return false;
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new("timeout")
        .args(["--signal=KILL", "300", "unshare"])
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "inside:\n{}", String::from_utf8_lossy(&told));
    assert!(
        String::from_utf8_lossy(&told).contains("1 passed"),
        "the test was not run inside"
    );
    false
}

/// Somebody who has nothing to do with orch, in a session of its own, with this very pid.
struct Stranger(Child);

impl Stranger {
    fn with_pid(pid: i32) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            #[expect(clippy::disallowed_methods, reason = "a stranger is started by somebody else")]
            let child = Command::new("setsid").args(["sleep", "600"]).spawn().unwrap();
            let stranger = Self(child);
            if stranger.pid() == pid {
                return stranger;
            }
            // Another process was faster, or the one before is not reaped yet.
            assert!(Instant::now() < deadline, "the pid {pid} is not given");
        }
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    #[track_caller]
    fn lives_on(&mut self) {
        let end = self.0.try_wait().unwrap();
        assert!(end.is_none(), "the stranger {} was touched: {end:?}", self.pid());
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn pid_in(orch: &mut Orch<'_>, event: &str, field: &str) -> i32 {
    let found = orch.wait_for(event, |told| told["event"] == event);
    i32::try_from(found[field].as_i64().unwrap()).unwrap()
}

/// Ends orch and its guard in one instant, and waits until their pids and that of the service are free again.
fn kill_both(orch: &Orch<'_>, guard: i32, service: i32) {
    kill_both_at_once(orch.pid, guard);
    wait_until("all of them reaped", || {
        [guard, orch.pid, service]
            .iter()
            .all(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
    });
}

/// The state directory of a run that was killed together with its guard, in which every pid that it names is a stranger's
/// now; what the run has left lives.
fn taken_over(project: &Project) -> (Orch<'_>, i32, Vec<Stranger>) {
    let mut orch = project.orch_with(&["up"], &[], PATIENCE);
    // Published when all services are ready; it stays behind, and then names a stranger.
    let instance = project.state_dir().join("instance.json");
    orch.wait_for("instance.json", |_| instance.exists());
    let guard = pid_in(&mut orch, "run_started", "guard_pid");
    let service = pid_in(&mut orch, "service_spawned", "pid");
    let stray = fs::read_to_string(project.file("stray.pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill_both(&orch, guard, service);
    assert!(lives(stray), "without a leftover this test shows little");
    let records = fs::read_dir(project.state_dir().join("pids"))
        .unwrap()
        .flatten()
        .next()
        .unwrap();
    let recorded = fs::read_to_string(records.path()).unwrap();
    assert!(
        recorded.lines().any(|line| line.starts_with(&format!("{service} "))),
        "{recorded}"
    );
    let strangers = [orch.pid, guard, service].map(Stranger::with_pid);
    (orch, stray, strangers.into())
}

#[test]
fn clean_ends_what_was_left_and_touches_no_stranger() {
    if !inside("clean_ends_what_was_left_and_touches_no_stranger") {
        return;
    }
    let project = Project::new(STRAY);
    let (dead, stray, mut strangers) = taken_over(&project);
    assert!(project.state_dir().join("instance.json").exists());
    let asked = project.orch(&["exec", "--", "true"]).finish();
    asked.expect_code(3);
    assert!(asked.stderr.contains("no instance is up"), "{}", asked.stderr);

    let shown = project.orch(&["clean", "--dry-run"]).finish();
    shown.expect_code(0);
    assert!(shown.stderr.contains(&format!("(pid {stray})")), "{}", shown.stderr);
    assert_eq!(shown.stderr.matches("(pid ").count(), 1, "{}", shown.stderr);
    let cleaned = project.orch(&["clean"]).finish();
    cleaned.expect_code(0);
    assert_eq!(cleaned.stderr.matches("(pid ").count(), 1, "{}", cleaned.stderr);
    assert!(!lives(stray));
    strangers.iter_mut().for_each(Stranger::lives_on);
    assert!(dead.finish().left.is_empty());
}

#[test]
fn a_start_ends_what_was_left_and_touches_no_stranger() {
    if !inside("a_start_ends_what_was_left_and_touches_no_stranger") {
        return;
    }
    let project = Project::new(STRAY);
    let (dead, stray, mut strangers) = taken_over(&project);
    fs::remove_file(project.file("stray.pid")).unwrap();
    let mut next = project.orch(&["up"]);
    next.wait_for_service("service_ready", "stray");
    assert!(!lives(stray));
    next.signal(Signal::SIGTERM);
    next.finish().expect_code(143);
    strangers.iter_mut().for_each(Stranger::lives_on);
    assert!(dead.finish().left.is_empty());
}

/// Its guard holds the lock, whose file names orch: with that pid a stranger is no reason to refuse a start, and not
/// whom a start waits for.
#[test]
fn a_stranger_with_the_pid_of_a_dead_orch_holds_no_lock() {
    if !inside("a_stranger_with_the_pid_of_a_dead_orch_holds_no_lock") {
        return;
    }
    let project = Project::new(SLOW);
    let mut first = project.orch(&["up"]);
    first.wait_for_service("service_ready", "slow");
    first.signal(Signal::SIGKILL);
    wait_until("the guard at work", || project.file("asked").exists());
    wait_until("orch reaped", || {
        !PathBuf::from(format!("/proc/{}", first.pid)).exists()
    });
    let mut stranger = Stranger::with_pid(first.pid);

    let mut next = project.orch(&["up"]);
    // Refused it would have ended; it waits for the guard instead.
    let lock = project.state_dir().join("services.lock");
    wait_until("the next start at the lock", || {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", next.pid))
            .into_iter()
            .flatten()
            .flatten();
        descriptors
            .into_iter()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|file| file == lock))
    });
    assert!(next.run_directory().is_none());
    fs::remove_file(project.file("up")).unwrap();
    fs::write(project.file("go"), "").unwrap();
    next.wait_for_service("service_ready", "slow");
    stranger.lives_on();
    assert!(first.finish().left.is_empty());
    next.signal(Signal::SIGTERM);
    next.finish().expect_code(143);
    stranger.lives_on();
}

/// Pid and start time together name a process; one of them alone, or of another start of the machine, names nobody.
#[test]
fn only_who_started_at_the_recorded_time_is_of_the_dead_run() {
    #[expect(clippy::disallowed_methods, reason = "a stranger is started by somebody else")]
    let start = || Stranger(Command::new("setsid").args(["sleep", "600"]).spawn().unwrap());
    let start_time = |stranger: &Stranger| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", stranger.pid())).unwrap();
        let fields = stat.rsplit(')').next().unwrap();
        fields.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
    };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for arguments in [&["clean"][..], &["up"]] {
        let project = Project::new("[redis]\nmode = \"off\"\n[services.web]\ncommand = [\"sleep\", \"600\"]\n");
        let [mut exact, mut earlier, mut later, mut before] = [(); 4].map(|()| start());
        let records = project.state_dir().join("pids");
        fs::create_dir_all(&records).unwrap();
        fs::set_permissions(project.state_dir(), fs::Permissions::from_mode(0o700)).unwrap();
        let record = |stranger: &Stranger, shift: i64| {
            let started = start_time(stranger).checked_add_signed(shift).unwrap();
            format!("{} {started} web\n", stranger.pid())
        };
        let text = [
            format!("boot {boot}\n"),
            record(&exact, 0),
            record(&earlier, -1),
            record(&later, 1),
        ]
        .concat();
        fs::write(records.join("00000000000a"), text).unwrap();
        let text = format!("boot 00000000-0000-0000-0000-000000000000\n{}", record(&before, 0));
        fs::write(records.join("00000000000b"), text).unwrap();
        let mut orch = project.orch(arguments);
        if arguments == ["up"] {
            orch.wait_for_service("service_ready", "web");
            orch.signal(Signal::SIGTERM);
            orch.finish().expect_code(143);
        } else {
            orch.finish().expect_code(0);
        }
        // Told to end before the next start began; reaped by us.
        wait_until("the end of who is exactly recorded", || !lives(exact.pid()));
        assert_eq!(exact.0.wait().unwrap().signal(), Some(9));
        for stranger in [&mut earlier, &mut later, &mut before] {
            stranger.lives_on();
        }
    }
}
