//! A real Celery worker for a test app of `tests/fixtures/apps`, in the version that `ORCH_TEST_CELERY` names.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::python;
use super::redis::RedisServer;

const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the version of Celery of the tests, such as `5.4`: `ORCH_TEST_CELERY`, or the default.
pub fn version() -> String {
    std::env::var("ORCH_TEST_CELERY").unwrap_or_else(|_| "5.4".to_owned())
}

/// Returns whether the tests use this version of Celery or a newer one.
pub fn at_least(major: u32, minor: u32) -> bool {
    let version = version();
    let (have_major, have_minor) = version.split_once('.').expect("ORCH_TEST_CELERY is such as 5.4");
    let number = |text: &str| text.parse::<u32>().expect("ORCH_TEST_CELERY is such as 5.4");
    (number(have_major), number(have_minor)) >= (major, minor)
}

/// Returns the virtual environment with that version of Celery.
pub fn environment() -> PathBuf {
    python::environment(&format!("celery-{}", version()))
}

/// Options of a worker; the app reads its broker and its backend from `BROKER` and `BACKEND`.
pub struct WorkerOptions {
    pub app: &'static str,
    pub node: &'static str,
    pub concurrency: u32,
    /// Option `--events`: with it, remote control cannot switch the task events off.
    pub events: bool,
    /// Further arguments, before `--`.
    pub arguments: Vec<String>,
    /// Settings of the app, as JSON: `CONF_<NAME>`.
    pub settings: Vec<(&'static str, &'static str)>,
    /// Further variables of the environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            app: "wire_app",
            node: "w1@test",
            concurrency: 2,
            events: true,
            arguments: Vec::new(),
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }
}

pub struct Worker {
    pub process: Process,
    _directory: TempDir,
}

impl Worker {
    /// Starts a worker whose broker is database 0 and whose backend is database 1, and waits until it consumes and
    /// listens for control requests.
    pub fn start(redis: &RedisServer, options: WorkerOptions) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("orch-worker-")
            .tempdir()
            .expect("a temporary directory");
        let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/apps");
        let mut command = Command::new(environment().join("bin/celery"));
        command
            .current_dir(directory.path())
            .env("PYTHONPATH", apps)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("BROKER", redis.url(0)).env("BACKEND", redis.url(1));
        command.args([
            "-A",
            options.app,
            "worker",
            "--loglevel",
            "INFO",
            "--hostname",
            options.node,
        ]);
        command.args([
            "--concurrency",
            &options.concurrency.to_string(),
            "--without-mingle",
            "--without-gossip",
        ]);
        command.args(options.events.then_some("--events"));
        command.args(&options.arguments);
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        for (name, value) in &options.settings {
            command.env(format!("CONF_{}", name.to_uppercase()), value);
        }
        let listeners = listeners(redis);
        let mut process = Process::start(options.node, &mut command, &directory.path().join("celery.log"));
        let ready = format!("{} ready.", options.node);
        process.wait_until("become ready", READY_TIMEOUT, |process| {
            // The subscription to control requests begins a moment after the log line.
            process.log().contains(&ready) && !self::listeners(redis).is_subset(&listeners)
        });
        Self {
            process,
            _directory: directory,
        }
    }
}

/// Runs a line of Python after an import of the app; returns its output.
pub fn python(redis: &RedisServer, app: &str, line: &str) -> String {
    let output = program("python", redis)
        .args(["-c", &format!("import {app}; {line}")])
        .output();
    let output = output.expect("the environment has a Python");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`{line}` failed with {}:\n{errors}",
        output.status
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Returns a program of the environment, with all variables that the test apps read.
fn program(name: &str, redis: &RedisServer) -> Command {
    let mut command = Command::new(environment().join("bin").join(name));
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/apps");
    command.env("PYTHONPATH", apps).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("BROKER", redis.url(0)).env("BACKEND", redis.url(1));
    command
}

/// Returns the connections with a pattern subscription: each worker has one for control requests. `PUBSUB NUMPAT`
/// counts each pattern once, so that its number would not change with a second worker.
fn listeners(redis: &RedisServer) -> HashSet<String> {
    let clients: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query(&mut redis.connection(0))
        .expect("the server answers");
    clients
        .lines()
        .filter(|client| !client.contains(" psub=0 "))
        .filter_map(|client| Some(client.split_once(' ')?.0.to_owned()))
        .collect()
}
