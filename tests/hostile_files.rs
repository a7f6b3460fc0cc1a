//! Obstacles in the place of orch's files - a FIFO, a directory, a device, a huge or a damaged file - cause an error or
//! are left alone: orch never waits for them, and never reads them into memory.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

mod support;
use support::orch::Project;

/// Time for a command that must not wait; long only because the machine may be busy.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// Size that exceeds any memory; the disk holds no byte of such a file.
const HUGE: u64 = 1 << 42;

const CONFIGURATION: &str =
    "[redis]\nmode = \"off\"\n[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n";

/// Obstacle in the place of a file.
#[derive(Clone, Copy, Debug)]
enum Obstacle {
    Fifo,
    Directory,
    Endless,
    Huge,
    Damaged,
    Deep,
}

const OBSTACLES: [Obstacle; 6] = [
    Obstacle::Fifo,
    Obstacle::Directory,
    Obstacle::Endless,
    Obstacle::Huge,
    Obstacle::Damaged,
    Obstacle::Deep,
];

fn put(obstacle: Obstacle, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::remove_file(path).ok();
    match obstacle {
        Obstacle::Fifo => mkfifo(path, Mode::S_IRWXU).unwrap(),
        Obstacle::Directory => fs::create_dir(path).unwrap(),
        Obstacle::Endless => symlink("/dev/zero", path).unwrap(),
        Obstacle::Huge => File::create(path).unwrap().set_len(HUGE).unwrap(),
        Obstacle::Damaged => fs::write(path, b"\xff\x00{\"pid\":1,\"redis\":[[[\"\n").unwrap(),
        Obstacle::Deep => fs::write(path, "[".repeat(1 << 20)).unwrap(),
    }
}

/// Command with 1 GiB of address space, so that reading too much fails, and with a timeout against a wait.
const BOUNDED: &str = "ulimit -v 1048576; exec timeout -s KILL 60 \"$ORCH\" ";

/// Runs orch; returns its exit code and its output.
fn orch(project: &Project, arguments: &str) -> (Option<i32>, String) {
    let started = Instant::now();
    let output = Command::new("/bin/sh")
        .args(["-c", &format!("{BOUNDED}{arguments}")])
        .env("ORCH", env!("CARGO_BIN_EXE_orch"))
        .current_dir(project.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        started.elapsed() < COMMAND_TIMEOUT,
        "{arguments}: {:?}",
        started.elapsed()
    );
    assert!(!message.contains("panicked"), "{arguments}: {message}");
    (output.status.code(), message)
}

/// Creates a state directory as a run leaves it.
fn used() -> Project {
    let project = Project::new(CONFIGURATION);
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "web");
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
    project
}

#[test]
fn nothing_in_the_state_directory_is_waited_for_or_taken_in() {
    let places = [
        "instance.json",
        "ports.json",
        "version",
        "run.lock",
        "services.lock",
        "pids/dead1",
        "runs/dead1/journal.jsonl",
    ];
    let project = used();
    let ports = "[ports]\nweb = 0\n";
    fs::write(project.file("orch.toml"), format!("{CONFIGURATION}{ports}")).unwrap();
    for place in places {
        let path = project.state_dir().join(place);
        let kept = path.is_file().then(|| fs::read(&path).unwrap());
        for obstacle in OBSTACLES {
            put(obstacle, &path);
            let what = format!("{place}: {obstacle:?}");
            for command in ["exec -- true", "clean --dry-run", "clean"] {
                let (code, message) = orch(&project, command);
                assert!(matches!(code, Some(0 | 2 | 3)), "{what}: {command}: {code:?} {message}");
                assert!(
                    command != "exec -- true" || code == Some(3),
                    "{what}: nothing is up: {message}"
                );
            }
            fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).ok();
        }
        if let Some(kept) = kept {
            fs::write(&path, kept).unwrap();
        }
    }
}

#[test]
fn a_start_gets_past_what_is_in_its_way_or_says_what_it_is() {
    let oneshot =
        "[redis]\nmode = \"off\"\n[services.once]\nkind = \"oneshot\"\ncommand = [\"false\"]\n[ports]\nweb = 0\n";
    for (place, passes) in [
        ("instance.json", true),
        ("ports.json", true),
        ("pids/dead1", true),
        ("runs/dead1/journal.jsonl", true),
        ("services.lock", false),
        ("version", false),
    ] {
        for obstacle in [Obstacle::Fifo, Obstacle::Endless, Obstacle::Huge] {
            let project = Project::new(oneshot);
            put(obstacle, &project.state_dir().join(place));
            let (code, message) = orch(&project, "up");
            // A oneshot that fails: the start went on until there.
            assert_eq!(code, Some(3), "{place}: {obstacle:?}: {message}");
            let started = fs::read_dir(project.state_dir().join("runs"))
                .is_ok_and(|runs| runs.flatten().any(|run| run.path().join("once.log").exists()));
            // A lock file may have any content: a larger one is not read.
            let passes = passes || (place == "services.lock" && matches!(obstacle, Obstacle::Huge));
            assert_eq!(started, passes, "{place}: {obstacle:?}: {message}");
            let named = message.contains(place) || message.contains(&project.state_dir().display().to_string());
            assert!(started || named, "{place}: {obstacle:?}: {message}");
        }
    }
}

#[test]
fn configurations_that_are_no_files_are_errors_that_name_them() {
    let celery = "[celery]\napp = \"a\"\n";
    for obstacle in OBSTACLES {
        let project = Project::new("");
        for (place, configuration) in [
            ("orch.toml", None),
            (
                "variables.env",
                Some("[orch]\nenv_file = \"variables.env\"\n[redis]\nmode = \"off\"\n".to_owned()),
            ),
            (
                "sites.yaml",
                Some(format!("[orch]\nsites_file = \"sites.yaml\"\n{celery}")),
            ),
            (
                "sites.json",
                Some(format!("[orch]\nsites_file = \"sites.json\"\n{celery}")),
            ),
            (
                "sites.toml",
                Some(format!("[orch]\nsites_file = \"sites.toml\"\n{celery}")),
            ),
        ] {
            fs::remove_dir_all(project.file("orch.toml"))
                .or_else(|_| fs::remove_file(project.file("orch.toml")))
                .ok();
            if let Some(configuration) = configuration {
                fs::write(project.file("orch.toml"), configuration).unwrap();
            }
            put(obstacle, &project.file(place));
            for command in ["up", "run", "exec -- true"] {
                let (code, message) = orch(&project, command);
                assert_eq!(code, Some(2), "{place}: {obstacle:?}: {command}: {message}");
                assert!(message.contains(place), "{place}: {obstacle:?}: {message}");
                assert!(
                    message.len() < 100_000,
                    "{place}: {obstacle:?}: {} bytes of output",
                    message.len()
                );
            }
        }
    }
}

#[test]
fn a_service_that_puts_a_fifo_in_place_of_its_log_holds_nobody_up() {
    let script = "rm -f .orch/runs/*/web.log && mkfifo .orch/runs/*/web.log || { for run in .orch/runs/*; do mkfifo $run/web.log; done; }; exit 1";
    let project = Project::new(&format!(
        "[redis]\nmode = \"off\"\n[services.web]\nkind = \"daemon\"\ncommand = [\"sh\", \"-c\", \"{}\"]\n\
         readiness = {{ log = \"never\" }}\nrestart = {{ limit = 1 }}\n",
        script.replace('"', "\\\"")
    ));
    let (code, message) = orch(&project, "up");
    assert_eq!(code, Some(3), "{message}");
}

#[test]
fn standard_input_without_an_end_is_refused() {
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_orch"))
        .args(["celery", "publish", "--stdin", "--broker", "redis://127.0.0.1:1/0"])
        .stdin(Stdio::from(File::open("/dev/zero").unwrap()))
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("line 1 of standard input is longer"), "{message}");
    assert!(started.elapsed() < COMMAND_TIMEOUT);
}

#[test]
fn a_link_in_the_state_directory_is_not_written_through() {
    let project = used();
    let precious = project.file("precious");
    fs::write(&precious, "precious").unwrap();
    for place in ["services.lock", "run.lock"] {
        let path = project.state_dir().join(place);
        for (is_hard, word) in [(true, "hard link"), (false, "symbolic link")] {
            fs::remove_file(&path).ok();
            match is_hard {
                true => fs::hard_link(&precious, &path).unwrap(),
                false => symlink(&precious, &path).unwrap(),
            }
            for command in ["up", "clean"] {
                if place == "run.lock" && command == "up" {
                    continue;
                }
                let (code, message) = orch(&project, command);
                assert_eq!(code, Some(3), "{place}: {command}: {message}");
                assert!(
                    message.contains(word) && message.contains(place),
                    "{place}: {command}: {message}"
                );
            }
        }
        fs::remove_file(&path).unwrap();
    }
    // A service that puts a link in the place of its own log, and is restarted.
    let script = "for run in .orch/runs/*; do ln -sf \"$PWD/precious\" $run/linked.log; done; exit 1";
    fs::write(project.file("link.sh"), script).unwrap();
    let configuration = "[redis]\nmode = \"off\"\n[services.linked]\nkind = \"daemon\"\n\
                         command = [\"sh\", \"link.sh\"]\nrestart = { limit = 2 }\n";
    fs::write(project.file("orch.toml"), configuration).unwrap();
    let ended = project.orch(&["up"]).finish();
    ended.expect_code(3);
    assert!(
        ended.stdout.contains("it is a symbolic link"),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn a_state_directory_below_one_that_others_may_write_in_is_refused() {
    let project = Project::new(CONFIGURATION);
    let open = project.file("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let state_dir = open.join("deeper/.orch");
    let set = format!("up --set orch.state_dir='{}'", state_dir.display());
    let (code, message) = orch(&project, &set);
    assert_eq!(code, Some(3), "{message}");
    for word in [
        "is not safe",
        "every user may write in it",
        "chmod go-w",
        "`[orch] state_dir`",
    ] {
        assert!(message.contains(word), "{word} is not in {message}");
    }
    assert!(!open.join("deeper").exists(), "nothing is made there");
}

/// Description, configuration, name and text of a sites file, and a part of the error; an empty error where the
/// configuration is fine.
type Bomb = (&'static str, String, Option<(&'static str, String)>, &'static str);

/// Returns configurations that try to take time or memory.
fn bombs() -> Vec<Bomb> {
    let celery = "[celery]\napp = \"a\"\n";
    let site = |args: &str| format!("{celery}[sites.a]\ndispatch = {{ task = \"t\", args = [{args}] }}\n");
    let file = |name: &str| format!("[orch]\nsites_file = \"{name}\"\n{celery}[sites.defaults]\ndispatch = \"t\"\n");
    let numbered = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<String>();
    let anchors = numbered(60, &|level| format!("&a{level} [")) + &"0,".repeat(200_000) + "0" + &"]".repeat(60);
    let too_many = "too many values";
    let unknown = "unknown placeholder";
    vec![
        (
            "anchors within anchors",
            file("s.yaml"),
            Some(("s.yaml", format!("site:\n  urls: []\n  config:\n    x: {anchors}\n"))),
            "the anchors contain too many values",
        ),
        (
            "a long list of YAML",
            file("s.yaml"),
            Some(("s.yaml", format!("site: [{}0]\n", "0,".repeat(4_000_000)))),
            too_many,
        ),
        (
            "a long list of JSON",
            file("s.json"),
            Some(("s.json", format!("{{\"site\":[{}0]}}", "0,".repeat(4_000_000)))),
            too_many,
        ),
        ("a long list", site(&"0,".repeat(2_000_000)), None, too_many),
        ("nested lists", site(&"[[[[]]]],".repeat(200_000)), None, too_many),
        ("known placeholders", site(&"\"{site}\",".repeat(150_000)), None, ""),
        (
            "unknown placeholders",
            site(&"\"{sote}\",".repeat(150_000)),
            None,
            unknown,
        ),
        (
            "one unknown placeholder again and again",
            site(&format!("\"{}\"", "{sote}".repeat(150_000))),
            None,
            unknown,
        ),
        (
            "different unknown placeholders in one string",
            site(&format!(
                "\"{}\"",
                numbered(150_000, &|number| format!("{{s{number}}}"))
            )),
            None,
            unknown,
        ),
        (
            "many names, and as many that are none",
            format!(
                "{celery}[sites.a]\nconfig = {{ {} }}\ndispatch = {{ task = \"t\", args = [{}] }}\n",
                numbered(50_000, &|number| format!("k{number} = 1,")),
                numbered(50_000, &|number| format!("\"{{config.j{number}}}\","))
            ),
            None,
            unknown,
        ),
        (
            "defaults times sites",
            format!(
                "{celery}[sites.defaults]\ndispatch = {{ task = \"t\", args = [{}] }}\n{}",
                "\"{site}\",".repeat(2_000),
                numbered(2_000, &|number| format!("[sites.s{number}]\n"))
            ),
            None,
            "all sites together have more than",
        ),
        (
            "as many keys over as many",
            format!(
                "{celery}[sites.defaults]\ndispatch = \"t\"\nconfig = {{ {} }}\n[sites.a]\nconfig = {{ {} }}\n",
                numbered(50_000, &|number| format!("k{number} = 1,")),
                numbered(50_000, &|number| format!("l{number} = 1,"))
            ),
            None,
            "",
        ),
    ]
}

#[test]
fn configurations_made_to_take_time_and_memory_are_read_or_refused_at_once() {
    for (what, configuration, file, expected_error) in bombs() {
        let project = Project::new(&configuration);
        if let Some((name, text)) = file {
            fs::write(project.file(name), text).unwrap();
        }
        let started = Instant::now();
        let output = Command::new("/bin/sh")
            // Half a gigabyte, of which the program and its stacks reserve a part.
            .args(["-c", "ulimit -v 524288; exec \"$0\" sites"])
            .arg(env!("CARGO_BIN_EXE_orch"))
            .env("MALLOC_ARENA_MAX", "1")
            .current_dir(project.path())
            .output()
            .unwrap();
        let took = started.elapsed();
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = if expected_error.is_empty() { 0 } else { 2 };
        assert_eq!(output.status.code(), Some(expected), "{what}: {shown:.2000}");
        assert!(shown.contains(expected_error), "{what}: {shown:.2000}");
        assert!(shown.len() < 500_000, "{what}: {} bytes of output", shown.len());
        eprintln!("{what}: {took:?}");
        assert!(took < COMMAND_TIMEOUT, "{what}: {took:?}");
    }
}

/// Bytes of each of the pools: less than the limit, but more than the available memory as a tree of values.
const POOL: usize = 16 << 20;

/// Content of pool files by an attacker: the beginning, the repeated part, the end.
const HOSTILE_POOLS: [(&str, [&str; 3]); 9] = [
    ("a list in a proxy", ["[{\"anonymity\": [", "0,", "0]}]"]),
    ("an object in a proxy", ["[{\"host\": {", "\"a\":0,", "\"a\":0}}]"]),
    ("a deep value", ["[{\"port\": ", "[", ""]),
    ("a text", ["\"", "x", "\""]),
    ("a host", ["[{\"host\": \"", "x", "\", \"port\": 1}]"]),
    ("a name", ["[{\"", "x", "\": 1}]"]),
    ("numbers", ["[", "0,", "0]"]),
    ("digits", ["[{\"port\": ", "7", "}]"]),
    ("decimals", ["[{\"port\": 0.", "7", "e-9}]"]),
];

#[test]
#[ignore = "the next test runs it in a process with little memory"]
fn hostile_pools_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pool.json");
    let rules = orch::scrape::proxies::PoolRules {
        unusable_anonymity: vec!["Transparent".to_owned()],
        max_age: Some(Duration::from_secs(3600)),
    };
    for (what, [begin, part, end]) in HOSTILE_POOLS {
        let mut written = std::io::BufWriter::new(File::create(&file).unwrap());
        written.write_all(begin.as_bytes()).unwrap();
        for _ in 0..POOL / part.len() {
            written.write_all(part.as_bytes()).unwrap();
        }
        written.write_all(end.as_bytes()).unwrap();
        written.flush().unwrap();
        let started = Instant::now();
        let counted = orch::scrape::proxies::count(&file, &rules);
        assert!(started.elapsed() < COMMAND_TIMEOUT, "{what}: {:?}", started.elapsed());
        let expected = if what == "a host" { 1 } else { 0 };
        assert_eq!(counted.usable, expected, "{what}: {counted:?}");
        assert!(counted.problem.is_none_or(|problem| problem.len() < 200), "{what}");
    }
}

#[test]
fn hostile_pools_are_counted_in_little_memory() {
    let this = std::env::current_exe().unwrap();
    let output = Command::new("/bin/sh")
        // Room for the program, its stacks and one text of the file; each arena of the allocator would reserve 64 MiB
        // more.
        .env("MALLOC_ARENA_MAX", "1")
        .args([
            "-c",
            "ulimit -v 131072; exec \"$0\" --ignored --exact hostile_pools_are_counted --test-threads 1",
        ])
        .arg(this)
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && report.contains("1 passed"),
        "{report}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
