//! Another user of the machine attacks ports, files, sockets, signals, links and `/proc` of a running instance for some
//! seconds (`ORCH_STRANGER_SECONDS` sets more), and gains nothing: no password, no execution, and at most the end of a
//! run with an error that names this user.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;
use support::bookshop;
use support::orch::{Ended, Orch, Project, WAIT_TIMEOUT, wait_until};
use support::schedule::pause_until;
use support::skip::skip;
use support::{server, watch};

/// User without other processes.
const STRANGER: u32 = 42_421;
/// Script that brings up the loopback device of a new network namespace: SIOCSIFFLAGS with IFF_UP.
const LOOPBACK_UP: &str = "import socket, fcntl, struct; \
    fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1))";

/// Returns the seconds of the attack.
fn seconds() -> u64 {
    let asked = std::env::var("ORCH_STRANGER_SECONDS").ok();
    asked.map_or(8, |asked| asked.parse().expect("ORCH_STRANGER_SECONDS is a number"))
}

/// Creates a network namespace for this thread and its children, since the stranger takes all ports; returns whether
/// that was possible.
fn own_network() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can start another user's process");
        return false;
    }
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        skip(format_args!("no network namespace can be made here: {error}"));
        return false;
    }
    let up = Command::new("python3").args(["-c", LOOPBACK_UP]).status().unwrap();
    assert!(up.success() && TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_ok());
    true
}

/// Process of the other user.
struct Stranger {
    process: Child,
    log: PathBuf,
    pids: PathBuf,
    place: tempfile::TempDir,
    until: Instant,
}

impl Stranger {
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn begin(project: &Project, seconds: u64) -> Self {
        // The stranger may reach the state directory, but not read it.
        fs::set_permissions(project.path(), Permissions::from_mode(0o755)).unwrap();
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o711)).unwrap();
        let (log, pids) = (place.path().join("log"), place.path().join("pids"));
        let script = place.path().join("stranger.py");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/stranger.py");
        fs::copy(source, &script).unwrap();
        for file in [&log, &pids, &script] {
            fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        std::os::unix::fs::chown(&log, Some(STRANGER), Some(STRANGER)).unwrap();
        let output = fs::File::create(place.path().join("output")).unwrap();
        let process = Command::new("/usr/bin/env")
            .arg("python3")
            .arg(script)
            // On a busy machine the first instance takes its time.
            .arg((seconds + 10 * WAIT_TIMEOUT.as_secs()).to_string())
            .args([project.path(), &log, &pids])
            .current_dir("/")
            .uid(STRANGER)
            .gid(STRANGER)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self {
            process,
            log,
            pids,
            place,
            until: Instant::now() + Duration::from_secs(seconds),
        }
    }

    /// Shows the stranger the pids of the instance: every user can see the processes of others.
    fn show(&self, orch: &Orch<'_>) {
        let mut pids = vec![i64::from(orch.pid)];
        for event in orch.events() {
            pids.extend(["guard_pid", "pid"].iter().filter_map(|name| event[*name].as_i64()));
        }
        let text: Vec<String> = pids.iter().map(ToString::to_string).collect();
        fs::write(&self.pids, text.join(" ")).unwrap();
    }

    /// Returns whether the time of the attack is not over; the stranger goes on until [`Stranger::finish`].
    fn has_time(&self) -> bool {
        Instant::now() < self.until
    }

    /// Ends the stranger; returns the log of its attempts.
    fn finish(mut self) -> String {
        let mut stop = self.pids.clone().into_os_string();
        stop.push(".stop");
        fs::write(stop, "").unwrap();
        let status = watch::exit(&mut self.process, WAIT_TIMEOUT);
        assert!(status.is_some(), "the stranger does not end");
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned();
        let output = fs::read_to_string(self.place.path().join("output")).unwrap();
        assert!(log.contains("END\n") && !log.contains("BROKEN"), "{log}\n{output}");
        log
    }
}

/// Returns the passwords of the Redis that runs now.
fn passwords(project: &Project) -> Vec<String> {
    // There are none if the port was taken before.
    let file = fs::read_to_string(project.state_dir().join("redis/redis.conf")).unwrap_or_default();
    let words = file.split_ascii_whitespace();
    words
        .filter_map(|word| Some(word.strip_prefix('>')?.to_owned()))
        .collect()
}

fn end(orch: Orch<'_>) -> Ended {
    orch.signal(Signal::SIGTERM);
    orch.finish()
}

/// Returns whether the service got ready; if orch ended, the error names the stranger.
fn is_ready(orch: &mut Orch<'_>, service: &str) -> bool {
    let ready = |event: &serde_json::Value| event["event"] == "service_ready" && event["service"] == service;
    orch.wait_for_or_end(ready).is_some()
}

#[track_caller]
fn expect_named(ended: &Ended) {
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    assert!(matches!(ended.code, Some(2 | 3)), "{shown}");
    let named = shown.contains(&STRANGER.to_string()) || shown.contains("Address already in use");
    assert!(named && shown.contains("hint:"), "{shown}");
    assert!(ended.left.is_empty(), "{:?}", ended.left);
}

#[test]
fn a_stranger_gets_nothing_of_an_instance() {
    let configuration = "[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"workshop\"\nconcurrency = 1\n";
    let project = bookshop::project_with("workshop", configuration);
    if !own_network() {
        return;
    }
    let mut secrets = Vec::new();
    let stranger = Stranger::begin(&project, seconds());
    let (mut ready, mut refused) = (0, 0);
    while stranger.has_time() || ready == 0 {
        let mut orch = project.orch(&["up"]);
        let is_up = is_ready(&mut orch, "celery");
        secrets.extend(passwords(&project));
        stranger.show(&orch);
        if !is_up {
            refused += 1;
            expect_named(&orch.finish());
            continue;
        }
        ready += 1;
        // A command of a permitted user, through the same port.
        let answer = project.orch(&["celery", "ping", "--timeout", "20s"]).finish();
        answer.expect_code(0);
        // The load of this test: the stranger tries everything on an instance that is ready for this long.
        pause_until(Instant::now() + Duration::from_secs(2));
        let ended = end(orch);
        ended.expect_code(143);
        assert!(ended.events_of("service_exited").is_empty(), "{}", ended.stdout);
    }
    report(&stranger.finish(), &secrets, ready, refused);
}

#[test]
fn a_stranger_takes_no_password_when_redis_dies_and_comes_back() {
    let project = Project::new(
        "[redis]\nmode = \"own\"\nport = 0\nrestart = { limit = 3, backoff = \"10ms\", backoff_max = \"20ms\" }\n",
    );
    if !own_network() {
        return;
    }
    let mut secrets = Vec::new();
    let stranger = Stranger::begin(&project, seconds());
    let (mut ready, mut refused) = (0, 0);
    while stranger.has_time() || ready == 0 {
        let mut orch = project.orch(&["up"]);
        let is_up = is_ready(&mut orch, "redis");
        secrets.extend(passwords(&project));
        stranger.show(&orch);
        if !is_up {
            refused += 1;
            expect_named(&orch.finish());
            continue;
        }
        ready += 1;
        let spawned = orch.wait_for_service("service_spawned", "redis");
        let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let again = orch.wait_for_or_end(|event| {
            event["event"] == "service_spawned" && event["service"] == "redis" && event["pid"] != spawned["pid"]
        });
        if again.is_none() {
            refused += 1;
            expect_named(&orch.finish());
            continue;
        }
        let times = |kind: &str| orch.events().iter().filter(|event| event["event"] == kind).count();
        let is_settled = || (times("service_ready") >= 2 || times("stop_started") > 0).then_some(());
        let settled = orch.wait_within(WAIT_TIMEOUT, &[], is_settled);
        assert!(settled.is_ok(), "{:#?}", orch.events());
        if times("stop_started") > 0 {
            refused += 1;
            expect_named(&orch.finish());
            continue;
        }
        end(orch).expect_code(143);
    }
    report(&stranger.finish(), &secrets, ready, refused);
}

/// Asserts that the stranger has tried everything, and gained nothing.
#[track_caller]
fn report(log: &str, secrets: &[String], ready: u32, refused: u32) {
    let tried: Vec<&str> = log.lines().filter(|line| line.starts_with("TRIED")).collect();
    eprintln!(
        "{ready} starts got ready, {refused} were refused by name; {}",
        tried.join("; ")
    );
    let got = log
        .lines()
        .filter(|line| line.starts_with("GAINED") || line.starts_with("ANSWER"));
    let got: Vec<&str> = got.take(20).collect();
    assert!(got.is_empty(), "{got:#?}");
    assert!(!secrets.is_empty());
    for secret in secrets {
        assert!(!log.contains(secret.as_str()), "the stranger got a password");
    }
    for way in [
        "announced_ports",
        "reserved_ports",
        "default_port",
        "redis",
        "files",
        "processes",
    ] {
        let line = tried.iter().find(|line| line.contains(&format!(" {way} ")));
        assert!(
            line.is_some_and(|line| line.contains('=')),
            "{way} was not tried: {tried:?}"
        );
    }
}

/// Shows that orch uses a Redis on the default port only if the Redis belongs to this user or to root.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
fn another_users_redis_is_no_broker_unless_it_is_named() {
    if !own_network() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(place.path(), Some(STRANGER), Some(STRANGER)).unwrap();
    let redis = |arguments: &[&str]| {
        let mut command = Command::new(server::program());
        command
            .args(["--port", "6379", "--bind", "127.0.0.1", "--save", ""])
            .args(arguments);
        command.current_dir(place.path()).uid(STRANGER).gid(STRANGER);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let server = server::program().file_name().unwrap().to_str().unwrap();
    for arguments in [&[][..], &["--requirepass", "theirs"]] {
        let mut theirs = redis(arguments);
        wait_until("their Redis", || std::net::TcpStream::connect("127.0.0.1:6379").is_ok());
        let project = Project::new("[redis]\npassword = \"ours-and-secret\"\n");
        let ended = project.orch(&["up"]).finish();
        ended.expect_code(2);
        for message in [
            &format!("belongs to another user: {server}, pid "),
            &format!(" of user {STRANGER}"),
            "mode = \"own\"",
            "mode = \"external\"",
        ] {
            assert!(ended.stdout.contains(message), "{message} is not in {}", ended.stdout);
        }
        theirs.kill().unwrap();
        theirs.wait().unwrap();
    }
    // A listener that does not accept is not used as root's Redis, although the kernel shows root as the owner of the
    // connection.
    let mut silent = Command::new("python3");
    let listen = "import socket, sys; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', 6379)); \
                  s.listen(50); sys.stdin.readline(); c, _ = s.accept(); c.settimeout(5); print(c.recv(9999))";
    silent.args(["-c", listen]).uid(STRANGER).gid(STRANGER).current_dir("/");
    let mut silent = silent.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_until("a listener", || TcpListener::bind((Ipv4Addr::LOCALHOST, 6379)).is_err());
    let project = Project::new("[redis]\npassword = \"ours-and-secret\"\n");
    let ended = project.orch(&["up"]).finish();
    ended.expect_code(3);
    assert!(
        ended.stdout.contains("does not answer PING (it is python3, pid "),
        "{}",
        ended.stdout
    );
    // The listener accepts only now, and reads the bytes that were waiting.
    std::io::Write::write_all(silent.stdin.as_mut().unwrap(), b"\n").unwrap();
    let mut heard = String::new();
    std::io::Read::read_to_string(silent.stdout.as_mut().unwrap(), &mut heard).unwrap();
    silent.wait().unwrap();
    assert!(heard.contains("PING") && !heard.contains("ours-and-secret"), "{heard}");
}

/// Shows that a port which another user takes between the start of a service and its first answer makes nothing ready:
/// the answers are those of the other user.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
fn another_user_who_listens_after_the_start_makes_nothing_ready() {
    if !own_network() {
        return;
    }
    let project = Project::new(
        "[redis]\nmode = \"off\"\n[services.web]\ncommand = [\"sleep\", \"60\"]\nstart_timeout = \"3s\"\nreadiness = { tcp = \"127.0.0.1:8000\" }\n",
    );
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_spawned", "web");
    let mut theirs = Command::new("python3");
    let listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 8000)); sys.stdin.readline()";
    theirs.args(["-c", listen]).uid(STRANGER).gid(STRANGER).current_dir("/");
    let mut theirs = theirs.stdin(Stdio::piped()).spawn().unwrap();
    let ended = orch.finish();
    ended.expect_code(3);
    assert!(ended.events_of("service_ready").is_empty(), "{}", ended.stdout);
    for part in [
        "127.0.0.1:8000 is held by ",
        &format!("{STRANGER}"),
        "which is no process of this run",
    ] {
        assert!(ended.stdout.contains(part), "{part} is not in {}", ended.stdout);
    }
    drop(theirs.stdin.take());
    theirs.wait().unwrap();
}
