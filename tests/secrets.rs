//! Secrets appear in no output, log, journal, summary or command line; files with a secret are private.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;
use support::bookshop;
use support::orch::{Ended, Orch, Project};

/// Secrets of a test.
struct Secrets(Vec<String>);

impl Secrets {
    /// Returns the passwords of an owned Redis: of the user of the services and of orch's own user.
    fn of_redis(project: &Project) -> Self {
        let file = fs::read_to_string(project.state_dir().join("redis/redis.conf")).unwrap();
        let words = file.split_ascii_whitespace();
        let secrets: Vec<String> = words
            .filter_map(|word| Some(word.strip_prefix('>')?.to_owned()))
            .collect();
        assert_eq!(secrets.len(), 2, "{file}");
        Self(secrets)
    }

    fn and(mut self, others: &[&str]) -> Self {
        self.0.extend(others.iter().map(|other| (*other).to_owned()));
        self
    }

    #[track_caller]
    fn assert_without_secrets(&self, place: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        for secret in &self.0 {
            if let Some(at) = text.find(secret.as_str()) {
                let start = text[..at].char_indices().rev().nth(80).map_or(0, |(start, _)| start);
                panic!(
                    "{place} has a secret: ...{}{}...",
                    &text[start..at],
                    "*".repeat(secret.len())
                );
            }
        }
    }

    /// Asserts that no command line of any process has a secret.
    fn assert_in_no_command_line(&self) {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            if let Ok(words) = fs::read(process.path().join("cmdline")) {
                self.assert_without_secrets(&format!("the command line {}", process.path().display()), &words);
            }
        }
    }

    /// Asserts that the environment of a process that must not have the secrets, such as the guard or Redis, has none.
    fn assert_not_in_environment(&self, of: i64) {
        let variables = fs::read(format!("/proc/{of}/environ")).unwrap();
        self.assert_without_secrets(&format!("the environment of {of}"), &variables);
    }

    /// Asserts that no secret is in the output or in a file of the project, except the files that exist for secrets and
    /// the files that the services write.
    fn assert_nowhere(&self, project: &Project, ended: &Ended, but: &[&str]) {
        self.assert_without_secrets("standard output", ended.stdout.as_bytes());
        self.assert_without_secrets("standard error", ended.stderr.as_bytes());
        let mut seen = BTreeSet::new();
        for file in files(project.path()) {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            if but.contains(&name.as_str()) {
                continue;
            }
            self.assert_without_secrets(&file.display().to_string(), &fs::read(&file).unwrap());
            seen.insert(name);
        }
        for name in ["journal.jsonl", "orch.log", "guard.log", "summary.json"] {
            assert!(seen.contains(name), "{name} was looked at: {seen:?}");
        }
    }
}

/// Returns all regular files below a directory; does not follow links.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && entry.file_name() != "__pycache__" {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

/// Asserts that the state directory and all files that orch creates in it are private.
fn assert_private(state_dir: &Path) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(state_dir), 0o700);
    for run in fs::read_dir(state_dir.join("runs")).unwrap().flatten() {
        assert_eq!(mode(&run.path()), 0o700, "{}", run.path().display());
    }
    for directory in ["redis", "pids"] {
        assert_eq!(mode(&state_dir.join(directory)), 0o700, "{directory}");
    }
    for file in files(state_dir) {
        // Redis creates its data itself, within a private directory.
        let redis = file.starts_with(state_dir.join("redis")) && !file.ends_with("redis.conf");
        assert!(redis || mode(&file) == 0o600, "{}: {:o}", file.display(), mode(&file));
    }
}

fn pid_of(orch: &mut Orch<'_>, service: &str) -> i64 {
    orch.wait_for_service("service_spawned", service)["pid"]
        .as_i64()
        .unwrap()
}

const PROXY: &str = "pr0xy-passw0rd";

/// Returns a pool file with secrets: orch may report nothing of it but the number of proxies.
fn pool() -> String {
    format!(
        "[\"http://scraper:{PROXY}@10.0.0.1:3128\", {{\"host\": \"scraper:{PROXY}@10.0.0.2\", \"port\": \"x\"}}, \
         {{\"host\": \"http://scraper:{PROXY}@10.0.0.3\", \"port\": 3128, \"anonymity\": \"{PROXY}\"}}, \"{PROXY}"
    )
}

const SITES: &str = "[celery]\napp = \"leaky_app\"\nconcurrency = 3\n\
    [proxies]\nfile = \"pool.json\"\nmin_usable = 3\nallow_few = true\n\
    [sites.fails]\ndispatch = { task = \"leaky.fails\", args = [\"{site}\"] }\nretries = 1\nretry_backoff = \"10ms\"\n\
    [sites.answers]\ndispatch = { task = \"leaky.answers\", args = [\"{site}\"] }\n\
    [sites.waits]\ndispatch = { task = \"leaky.waits\", args = [\"{site}\"] }\n";

/// Runs orch while sites fail and Redis is killed, with an app that writes all secrets that it has.
fn run_of_a_leaky_app(flags: &str) {
    let proxy = format!("http://scraper:{PROXY}@10.0.0.9:3128");
    let project = bookshop::project_with("leaky_app", &format!("[redis]\nmode = \"own\"\nport = 0\n{SITES}"));
    fs::write(project.file("pool.json"), pool()).unwrap();
    let variables = [("PROXY_URL", proxy.as_str()), ("ORCH_LOG", "trace")];
    let mut orch = project.shell_with(&format!("umask 000; exec \"$ORCH\" run {flags}"), &variables);
    let redis = pid_of(&mut orch, "redis");
    orch.wait_for_service("service_ready", "redis");
    // The secret of the proxy is in a variable of the caller, which every service gets.
    Secrets::of_redis(&project).assert_not_in_environment(redis);
    let secrets = Secrets::of_redis(&project).and(&[PROXY]);
    orch.wait_for_service("service_ready", "celery");
    secrets.assert_in_no_command_line();
    let started = orch.wait_for("the start", |event| event["event"] == "run_started");
    secrets.assert_not_in_environment(started["guard_pid"].as_i64().unwrap());
    for site in ["fails", "answers"] {
        orch.wait_for(site, |event| event["event"] == "site_finished" && event["site"] == site);
    }
    // The worker executes the last site when its broker dies.
    orch.wait_until("the file", || project.file("begun").exists());
    kill(Pid::from_raw(redis.try_into().unwrap()), Signal::SIGKILL).unwrap();
    let restarting = orch.wait_for_service("service_restarting", "redis")["seq"].as_u64();
    orch.wait_for("another Redis", |event| {
        event["event"] == "service_ready" && event["service"] == "redis" && event["seq"].as_u64() > restarting
    });
    secrets.assert_in_no_command_line();
    fs::write(project.file("go on"), "").unwrap();
    let ended = orch.finish();
    ended.expect_code(1);
    let told = |site: &str| {
        let finished = ended
            .events
            .iter()
            .find(|event| event["event"] == "site_finished" && event["site"] == site);
        finished.unwrap()["reason"].as_str().unwrap_or_default().to_owned()
    };
    assert!(
        told("fails").contains("redis://default:**@127.0.0.1"),
        "the reason is reported, without the password: {}",
        told("fails")
    );
    assert!(told("fails").contains("REDIS_PASSWORD=**"), "{}", told("fails"));
    assert!(
        told("answers").contains("redis://default:**@127.0.0.1"),
        "{}",
        told("answers")
    );
    secrets.assert_nowhere(
        &project,
        &ended,
        // Logs and files of the app, and private files for its secrets; the content of Redis is the app's data.
        &[
            "celery.log",
            "begun",
            "redis.conf",
            "instance.json",
            "pool.json",
            "leaky_app.py",
            "appendonly.aof.1.incr.aof",
            "appendonly.aof.1.base.rdb",
        ],
    );
    assert_private(&project.state_dir());
}

#[test]
fn a_run_tells_no_secret_of_an_app_that_tells_all() {
    run_of_a_leaky_app("-vv");
}

#[test]
fn a_run_for_programs_tells_none_either() {
    run_of_a_leaky_app("--output json");
}

#[test]
fn the_end_of_a_log_is_told_without_secrets() {
    let project = Project::new(
        "[redis]\nmode = \"own\"\nport = 0\n[services.leak]\nkind = \"daemon\"\nafter = [\"redis\"]\n\
         command = [\"sh\", \"-c\", \"env; exit 1\"]\nreadiness = { log = \"never\" }\nrestart = { limit = 0 }\n",
    );
    let ended = project.orch(&["up", "-vv"]).finish();
    ended.expect_code(3);
    assert!(
        ended.stdout.contains("redis://default:**@127.0.0.1"),
        "its end is reported: {}",
        ended.stdout
    );
    let secrets = Secrets::of_redis(&project);
    secrets.assert_nowhere(&project, &ended, &["leak.log", "redis.conf", "instance.json"]);
}

/// Starts an `orch up` whose Redis is the external one of another project; returns its port and password too.
fn somebodys_redis(project: &Project) -> (Orch<'_>, u16, String) {
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "redis");
    bookshop::wait_until_up(&mut orch, project);
    let instance = fs::read(project.state_dir().join("instance.json")).unwrap();
    let instance: serde_json::Value = serde_json::from_slice(&instance).unwrap();
    let port = u16::try_from(instance["redis"]["port"].as_u64().unwrap()).unwrap();
    (orch, port, instance["redis"]["password"].as_str().unwrap().to_owned())
}

#[test]
fn credentials_of_the_caller_and_of_the_configuration_are_told_nowhere() {
    let theirs = Project::new("[redis]\nmode = \"own\"\nport = 0\n");
    let (up, port, password) = somebodys_redis(&theirs);
    let (wrong, other) = ("wr0ng/p@ssw\u{f6}rd", "0ther-passw0rd");
    let others = format!("redis://user:{other}@127.0.0.1:1/0");
    let configuration = format!("[redis]\nmode = \"external\"\nport = {port}\n{SITES}");
    for (given, code) in [(password.as_str(), 1), (wrong, 2)] {
        let secrets = Secrets(vec![
            password.clone(),
            "p@ssw\u{f6}rd".into(),
            "p%40ssw".into(),
            other.into(),
            PROXY.into(),
        ]);
        for by_variable in [true, false] {
            let written = match by_variable {
                true => configuration.clone(),
                false => configuration.replace("port =", &format!("password = \"{given}\"\nport =")),
            };
            let project = bookshop::project_with("leaky_app", &written);
            fs::write(project.file("pool.json"), pool()).unwrap();
            fs::write(project.file("go on"), "").unwrap();
            let mut variables = vec![
                ("CELERY_BROKER_URL", others.as_str()),
                ("CELERY_RESULT_BACKEND", &others),
                ("REDIS_URL", &others),
                ("ORCH_LOG", "trace"),
            ];
            variables.extend(by_variable.then_some(("ORCH_REDIS__PASSWORD", given)));
            let ended = project
                .orch_with(&["run", "-vv"], &variables, Duration::from_secs(15))
                .finish();
            ended.expect_code(code);
            secrets.assert_nowhere(
                &project,
                &ended,
                &[
                    "celery.log",
                    "begun",
                    "instance.json",
                    "pool.json",
                    "leaky_app.py",
                    "orch.toml",
                ],
            );
        }
    }
    up.signal(Signal::SIGTERM);
    up.finish().expect_code(143);
}

#[test]
fn a_broker_that_is_looked_at_is_named_without_its_password() {
    let other = "0ther-passw0rd";
    let secrets = Secrets(vec![other.into()]);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for broker in [
        format!("redis://user:{other}@127.0.0.1:{gone}/0"),
        format!("redis://:{other}@:no:port/0"),
        format!("amqp://user:{other}@host//"),
        format!("user:{other}@host"),
    ] {
        for arguments in [
            &["ping", "-v"][..],
            &["queues"],
            &["result", "x"],
            &["ping", "--timeout", "redis://:0ther-passw0rd@host"],
            &["redis://:0ther-passw0rd@host"],
        ] {
            let output = Command::new(env!("CARGO_BIN_EXE_orch"))
                .arg("celery")
                .args(arguments)
                .env("CELERY_BROKER_URL", &broker)
                .env("CELERY_RESULT_BACKEND", &broker)
                .output()
                .unwrap();
            assert!(!output.status.success());
            let place = format!("orch celery {}", arguments[0].split(':').next().unwrap());
            secrets.assert_without_secrets(&place, &[output.stdout, output.stderr].concat());
        }
    }
}

#[test]
fn a_wrong_configuration_is_quoted_without_passwords() {
    let url = "redis://user:0ther-passw0rd@host:1/0";
    let secrets = Secrets(vec!["0ther-passw0rd".into()]);
    for configuration in [
        format!("[redis]\nmode = \"{url}\"\n"),
        format!("[redis]\nurl = \"{url}\"\n"),
        format!("[redis]\nhost = [\"{url}\"]\n"),
        format!("[redis]\nmode = \"off\" # {url}\nport = true # {url}\n"),
        "[redis]\npassword = \"0ther-passw0rd\" \"\n".to_owned(),
        format!("[services.\"{url}\"]\ncommand = [\"true\"]\n"),
    ] {
        let project = Project::new(&configuration);
        for arguments in [&["up"][..], &["up", "--set", &format!("redis.mode={url}")]] {
            let ended = project.orch(arguments).finish();
            ended.expect_code(2);
            secrets.assert_without_secrets(&configuration, ended.stderr.as_bytes());
        }
    }
}
