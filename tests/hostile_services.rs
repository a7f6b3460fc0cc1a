//! Services that misbehave: they answer probes without end, print lines without end, crash, change their user, or
//! cannot be killed.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chown};

mod support;
use support::orch::{Orch, Project, WAIT_TIMEOUT, lives, wait_until};
use support::skip::skip;
use support::{wait, watch};

const BASE: &str = "[redis]\nmode = \"off\"\n";
/// Memory that orch may hold at most, whatever the output of its services, in KiB; unoptimised.
const MOST_MEMORY: u64 = 64 << 10;
const SOMEBODY: u32 = 61_301;

/// Returns the peak of a process's memory in KiB; `None` once it has ended.
fn peak(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Follows orch to its end; returns the peak of its memory.
fn peak_until_its_end(orch: &Orch<'_>) -> u64 {
    let mut most = 0;
    // The kernel drops the peak with the process: the last value before the end counts.
    wait::until("the end of orch", WAIT_TIMEOUT, || {
        let held = peak(orch.pid);
        most = most.max(held.unwrap_or_default());
        held.is_none().then_some(most)
    })
}

#[test]
fn an_answer_without_end_takes_no_memory_and_no_time() {
    // Only the status of an answer is read, and nothing after it.
    for (what, first, rest, is_answer) in [
        ("a reason", "HTTP/1.1 200 ", "c.sendall(b'x' * 65536)", true),
        (
            "headers",
            "HTTP/1.1 200 OK\\r\\n",
            "c.sendall(b'a: b\\r\\n' * 9999)",
            true,
        ),
        ("zeroes", "", "c.sendall(bytes(65536))", false),
        (
            "a byte now and then",
            "HTTP/1.1 ",
            "c.sendall(b'x'); time.sleep(0.2)",
            false,
        ),
    ] {
        let port = support::redis::free_port();
        let script = format!(
            "import socket, threading, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
             s.bind(('127.0.0.1', {port}))\ns.listen(50)\n\
             def serve(c):\n    try:\n        c.recv(4096)\n        c.sendall(b'{first}')\n        while True:\n            {rest}\n    \
             except OSError:\n        pass\n\
             while True:\n    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()\n",
        );
        let project = Project::new(&format!(
            "{BASE}[services.web]\ncommand = [\"python3\", \"server.py\"]\nstart_timeout = \"5s\"\nrestart = {{ limit = 0 }}\n\
             readiness = {{ http = \"http://127.0.0.1:{port}/\" }}\n"
        ));
        fs::write(project.file("server.py"), script).unwrap();
        let began = Instant::now();
        let mut orch = project.orch(&["up"]);
        if is_answer {
            orch.wait_for_service("service_ready", "web");
            orch.signal(Signal::SIGTERM);
        }
        let most = peak_until_its_end(&orch);
        let ended = orch.finish();
        ended.expect_code(if is_answer { 143 } else { 3 });
        assert_eq!(ended.events_of("service_ready").is_empty(), !is_answer, "{what}");
        assert!(most < MOST_MEMORY, "{what}: {most} KiB");
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{what}: {:?}",
            began.elapsed()
        );
    }
}

#[test]
fn a_line_without_end_takes_no_memory_and_no_screen() {
    let print = "import sys; [sys.stdout.buffer.write(b'x' * (1 << 20)) for _ in range(100)]";
    for (probe, more) in [
        ("", "; sys.exit(1)"),
        (
            "restart = { limit = 0 }\nreadiness = { log = \"never there\" }\nstart_timeout = \"3s\"\n",
            "; sys.stdout.flush(); import time; time.sleep(600)",
        ),
    ] {
        let kind = if probe.is_empty() { "oneshot" } else { "daemon" };
        let project = Project::new(&format!(
            "{BASE}[services.big]\nkind = \"{kind}\"\ncommand = [\"python3\", \"-c\", \"{print}{more}\"]\n{probe}"
        ));
        let orch = project.orch(&["up"]);
        let most = peak_until_its_end(&orch);
        let ended = orch.finish();
        ended.expect_code(3);
        assert!(most < MOST_MEMORY, "{kind}: {most} KiB");
        assert!(
            ended.stdout.len() < 32 << 10,
            "{kind}: {} bytes are shown",
            ended.stdout.len()
        );
    }
}

/// Shows that helpers which a healthy service has daemonised, and which have no mark, live until their own end.
#[test]
fn orphans_of_a_healthy_service_outlive_the_crashes_of_another() {
    let helper = "import os, time\nfor number in range(60):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork():\n            \
                  os._exit(0)\n        null = os.open('/dev/null', os.O_RDWR)\n        [os.dup2(null, stream) for stream in range(3)]\n        \
                  os.execve('/bin/sh', ['sh', '-c', f'sleep 0.3; echo {number} >> ended'], {})\n    os.wait()\n    time.sleep(0.02)\n\
                  open('all', 'w').close()\ntime.sleep(600)\n";
    let project = Project::new(&format!(
        "{BASE}[services.honest]\ncommand = [\"python3\", \"honest.py\"]\n\
         [services.crash]\ncommand = [\"sh\", \"-c\", \"for n in 1 2 3 4; do setsid -f sh -c 'sleep 0.05'; done; exit 1\"]\n\
         restart = {{ limit = 100000, backoff = \"20ms\", backoff_max = \"20ms\" }}\n"
    ));
    fs::write(project.file("honest.py"), helper).unwrap();
    let orch = project.orch(&["up"]);
    let ended = || {
        fs::read_to_string(project.file("ended"))
            .unwrap_or_default()
            .lines()
            .count()
    };
    project.wait_for_file("all");
    wait_until("each helper's own end", || ended() == 60);
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    assert!(ended.events_of("service_restarting").len() > 5, "the other one crashes");
}

#[test]
fn a_variable_that_is_no_text_is_named_and_the_services_run_without_it() {
    let project = Project::new(&format!(
        "{BASE}[services.web]\nkind = \"daemon\"\ncommand = [\"sh\", \"-c\", \"env > seen; exec sleep 600\"]\nreadiness = {{ file = \"seen\" }}\n"
    ));
    let mut orch = project.shell("ODD=$(printf 'a\\377b') EVEN=good exec \"$ORCH\" up");
    orch.wait_for_service("service_ready", "web");
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    assert!(ended.stderr.contains("ODD"), "{}", ended.stderr);
    let seen = fs::read_to_string(project.file("seen")).unwrap();
    assert!(seen.contains("EVEN=good") && !seen.contains("ODD="), "{seen}");
}

/// Gives a directory to another user, with a copy of orch that this user may run; returns the copy.
fn given_to_somebody(project: &Project) -> PathBuf {
    let program = project.file("orch");
    fs::copy(env!("CARGO_BIN_EXE_orch"), &program).unwrap();
    for path in [project.path(), &program, &project.file("orch.toml")] {
        chown(path, Some(SOMEBODY.into()), Some(SOMEBODY.into())).unwrap();
    }
    program
}

#[test]
fn a_child_that_has_become_root_is_named_and_holds_up_nothing_for_ever() {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can make a program that becomes root");
        return;
    }
    let project = Project::new(&format!(
        "{BASE}[services.web]\nkind = \"daemon\"\ngrace = \"300ms\"\ncommand = [\"./becomes-root\"]\nreadiness = {{ file = \"begun\" }}\n"
    ));
    let program = given_to_somebody(&project);
    let source = "#include <unistd.h>\n#include <fcntl.h>\nint main(void) { setgid(0); if (setuid(0)) return 9; \
                  close(open(\"begun\", O_CREAT | O_WRONLY, 0644)); for (;;) pause(); }\n";
    fs::write(project.file("becomes-root.c"), source).unwrap();
    let [binary, text] = ["becomes-root", "becomes-root.c"].map(|name| project.file(name));
    let compiled = Command::new("cc").arg("-o").arg(&binary).arg(&text).status();
    if !compiled.is_ok_and(|status| status.success()) {
        skip("there is no C compiler here");
        return;
    }
    let set_user = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o4755);
    fs::set_permissions(&binary, set_user).unwrap();
    let mut orch = project.orch_as(SOMEBODY, &program, &["up"]);
    // Where programs may not change their user, the service has ended at once.
    if orch
        .wait_for_or_end(|event| event["event"] == "service_ready")
        .is_none()
    {
        skip("programs in the temporary directory may not change their user (nosuid)");
        return;
    }
    let spawned = orch.wait_for_service("service_spawned", "web");
    let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    let began = Instant::now();
    orch.signal(Signal::SIGTERM);
    assert!(watch::ends(orch.pid, WAIT_TIMEOUT), "the end of orch");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(lives(pid), "root's process lives on");
    let clean = project.orch_as(SOMEBODY, &program, &["clean"]).finish();
    assert_eq!(clean.code, Some(3), "{}{}", clean.stdout, clean.stderr);
    let said = format!("{}{}", clean.stdout, clean.stderr);
    assert!(
        said.contains(&pid.to_string()) && !said.contains("nothing is left"),
        "{said}"
    );
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert!(watch::ends(pid, WAIT_TIMEOUT), "the end of root's process");
    let ended = orch.finish();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let clean = project.orch_as(SOMEBODY, &program, &["clean"]).finish();
    assert_eq!(clean.code, Some(0), "{}{}", clean.stdout, clean.stderr);
}

/// Control group of version 1: while it is frozen, SIGKILL does not end its processes, as if they waited for a dead
/// disk.
struct Freezer(PathBuf);

impl Freezer {
    fn new(project: &Project) -> Option<Self> {
        let name = project.path().file_name()?.to_str()?.replace(' ', "-");
        let group = Path::new("/sys/fs/cgroup/freezer").join(name);
        fs::create_dir(&group).ok()?;
        Some(Self(group))
    }

    fn freeze(&self, pid: i32) {
        fs::write(self.0.join("tasks"), pid.to_string()).unwrap();
        fs::write(self.0.join("freezer.state"), "FROZEN").unwrap();
        wait_until("the frozen process", || {
            fs::read_to_string(self.0.join("freezer.state")).unwrap().trim() == "FROZEN"
        });
    }

    fn thaw(&self) {
        fs::write(self.0.join("freezer.state"), "THAWED").unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        // The kernel refuses the removal until the last process has left.
        wait::within(Duration::from_secs(5), || fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn a_process_that_cannot_be_ended_bounds_the_stop_and_is_named_until_it_has_ended() {
    let project = Project::new(&format!(
        "{BASE}[services.web]\nkind = \"daemon\"\ngrace = \"200ms\"\ncommand = [\"sleep\", \"600\"]\n"
    ));
    let Some(freezer) = Freezer::new(&project) else {
        skip("no freezer of control groups of version 1 can be used here");
        return;
    };
    let mut orch = project.orch(&["up"]);
    let spawned = orch.wait_for_service("service_spawned", "web");
    orch.wait_for_service("service_ready", "web");
    let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    freezer.freeze(pid);
    let began = Instant::now();
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(!ended.stdout.contains("nothing left"), "{}", ended.stdout);
    let clean = project.orch(&["clean"]).finish();
    assert_eq!(clean.code, Some(3), "{}{}", clean.stdout, clean.stderr);
    let said = format!("{}{}", clean.stdout, clean.stderr);
    assert!(said.contains(&pid.to_string()), "{pid} is not in {said}");
    freezer.thaw();
    assert!(watch::ends(pid, WAIT_TIMEOUT), "the end of what was frozen");
    let clean = project.orch(&["clean"]).finish();
    assert_eq!(clean.code, Some(0), "{}{}", clean.stdout, clean.stderr);
}
