//! Recorded pids that now belong to strangers: neither the next start nor `orch clean` may touch such a process or
//! mistake it for the former one.
//!
//! Where the reuse must be real, the test runs in a pid namespace of its own, in which the kernel is given the next
//! pid.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

mod support;
use support::orch::{Orch, Project, WAIT_TIMEOUT, kill_both_at_once, lives, wait_until};
use support::skip::skip;
use support::{wait, watch};

/// Variable that is set for the test inside its namespace.
const INSIDE: &str = "ORCH_TEST_PID_NAMESPACE";

/// Service with a grandchild that has daemonised itself; the grandchild's pid is written to `stray.pid`.
const STRAY: &str = r#"
[redis]
mode = "off"
[services.stray]
kind = "daemon"
command = ["sh", "-c", "setsid -f sh -c 'echo $$ > stray.new; mv stray.new stray.pid; exec sleep 600'; exec sleep 600"]
readiness = { file = "stray.pid" }
"#;

/// Service that takes long to end, and writes a file when the stop is requested.
const SLOW: &str = r#"
[redis]
mode = "off"
[services.slow]
kind = "daemon"
grace = "20s"
command = ["sh", "-c", "trap 'echo > asked; until test -e go; do sleep 0.05; done; exit 0' TERM; echo > up; while :; do sleep 0.05; done"]
readiness = { file = "up" }
"#;

/// Runs the test of this name again, as the first process of a pid namespace, unless this process is the first already;
/// returns whether this process is.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        // In a namespace in which this user is root, files of the real root belong to an unknown user, and orch keeps
        // no state below such a directory.
        skip("only root owns `/` in a pid namespace of its own");
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
    let printed = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "inside:\n{}",
        String::from_utf8_lossy(&printed)
    );
    assert!(
        String::from_utf8_lossy(&printed).contains("1 passed"),
        "the test was not run inside"
    );
    false
}

/// Process of a stranger, in a session of its own, with exactly this pid.
struct Stranger(Child);

impl Stranger {
    fn with_pid(pid: i32) -> Self {
        // Again and again: another process may be faster, or the former one may not be reaped yet.
        wait::until(&format!("the pid {pid} is given"), WAIT_TIMEOUT, || {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            #[expect(clippy::disallowed_methods, reason = "a stranger is started by somebody else")]
            let child = Command::new("setsid").args(["sleep", "600"]).spawn().unwrap();
            Some(Self(child)).filter(|stranger| stranger.pid() == pid)
        })
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
    let found = orch.wait_for(event, |found| found["event"] == event);
    i32::try_from(found[field].as_i64().unwrap()).unwrap()
}

/// Kills orch and its guard at the same instant, and waits until their pids and that of the service are free again.
fn kill_both(orch: &Orch<'_>, guard: i32, service: i32) {
    kill_both_at_once(orch.pid, guard);
    wait_until("all of them reaped", || {
        [guard, orch.pid, service]
            .iter()
            .all(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
    });
}

/// Creates the state directory of a run that was killed together with its guard; every recorded pid now belongs to a
/// stranger, and the leftovers of the run live.
fn taken_over(project: &Project) -> (Orch<'_>, i32, Vec<Stranger>) {
    let mut orch = project.orch_with(&["up"], &[], WAIT_TIMEOUT);
    // Published when all services are ready; the file stays, and then names a stranger.
    let instance = project.state_dir().join("instance.json");
    orch.wait_until("instance.json", || instance.exists());
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
    assert!(asked.stderr.contains("no instance is running"), "{}", asked.stderr);

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

/// Shows that a stranger with the pid of a dead orch is no reason to refuse a start, and is not waited for: the guard
/// of that orch holds the lock, whose file names orch.
#[test]
fn a_stranger_with_the_pid_of_a_dead_orch_holds_no_lock() {
    if !inside("a_stranger_with_the_pid_of_a_dead_orch_holds_no_lock") {
        return;
    }
    let project = Project::new(SLOW);
    let mut first = project.orch(&["up"]);
    first.wait_for_service("service_ready", "slow");
    first.signal(Signal::SIGKILL);
    project.wait_for_file("asked");
    wait_until("orch reaped", || {
        !PathBuf::from(format!("/proc/{}", first.pid)).exists()
    });
    let mut stranger = Stranger::with_pid(first.pid);

    let mut next = project.orch(&["up"]);
    // A refused start would have ended; this one waits for the guard instead.
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

/// Shows that only pid and start time together name a process; one of them alone, or a time of another boot, names
/// none.
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
        // Asked to end before the next start began; reaped by this test.
        assert!(
            watch::ends(exact.pid(), WAIT_TIMEOUT),
            "the end of the process that is exactly recorded"
        );
        assert_eq!(exact.0.wait().unwrap().signal(), Some(9));
        for stranger in [&mut earlier, &mut later, &mut before] {
            stranger.lives_on();
        }
    }
}
