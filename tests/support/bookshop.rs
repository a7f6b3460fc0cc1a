//! Copies of the example project, one for each test, with one virtual environment for all of them.
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::orch::{Orch, Project};
use super::{python, server};

/// Returns the virtual environment, which `orch demo --prepare-only` creates if it does not exist. `ORCH_TEST_CELERY`
/// installs another version of Celery in an environment of its own.
pub fn environment() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let version = std::env::var("ORCH_TEST_CELERY").ok();
        let name = version
            .as_ref()
            .map_or_else(|| "bookshop".to_owned(), |version| format!("bookshop-{version}"));
        let directory = python::directory().join(name);
        let prepared = Command::new(env!("CARGO_BIN_EXE_orch"))
            .args(["demo", "--prepare-only", "--dir"])
            .arg(&directory)
            .env("PATH", server::path())
            .stdin(Stdio::null())
            .output()
            .expect("could not start orch demo --prepare-only");
        let text = String::from_utf8_lossy(&prepared.stderr).into_owned();
        assert!(
            prepared.status.success(),
            "orch demo --prepare-only: {}\n{text}",
            prepared.status
        );
        if let Some(version) = version {
            let requirements = python::requirements(&format!("celery-{version}"));
            python::install(&directory.join(".venv"), &requirements);
        }
        directory
    })
}

/// Copies the example into a directory of its own.
pub fn project() -> Project {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bookshop");
    let configuration = fs::read_to_string(source.join("orch.toml")).expect("could not read the example's orch.toml");
    let project = Project::new(&configuration);
    for part in ["bookshop", "shop"] {
        copy(&source.join(part), &project.file(part));
    }
    std::os::unix::fs::symlink(environment().join(".venv"), project.file(".venv"))
        .expect("could not link the environment");
    project
}

/// Creates a project for `tests/fixtures/apps/<app>.py`, with the environment of the example.
pub fn project_with(app: &str, configuration: &str) -> Project {
    let project = Project::new(configuration);
    let name = format!("{app}.py");
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/apps")
        .join(&name);
    fs::copy(source, project.file(&name)).expect("could not copy the app");
    std::os::unix::fs::symlink(environment().join(".venv"), project.file(".venv"))
        .expect("could not link the environment");
    project
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("could not create a directory");
    for entry in fs::read_dir(from).expect("could not list the example").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("could not copy a file of the example");
        }
    }
}

/// Returns the numbers that a site of a running instance reports about its own content.
pub fn truth(project: &Project, site: &str) -> Value {
    let text = fs::read(project.state_dir().join("instance.json")).expect("could not read instance.json");
    let instance: Value = serde_json::from_slice(&text).expect("instance.json");
    let port = instance["ports"][site].as_u64().expect("the site's port");
    let mut stream =
        TcpStream::connect(("127.0.0.1", u16::try_from(port).expect("a port"))).expect("could not connect");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("could not set a deadline");
    stream
        .write_all(b"GET /truth.json HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .expect("could not ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("could not read the answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("truth.json")
}

/// Returns how often each chunk of a site was executed; `chaos_app` writes that into `ledger.<site>` of this directory.
pub fn ledger(directory: &Path, site: &str) -> BTreeMap<u64, u64> {
    let text = fs::read_to_string(directory.join(format!("ledger.{site}"))).unwrap_or_default();
    let mut times = BTreeMap::new();
    for number in text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()) {
        *times.entry(number).or_default() += 1;
    }
    times
}

/// Waits until the instance has published `instance.json`.
pub fn wait_until_up(orch: &mut Orch<'_>, project: &Project) {
    let file = project.state_dir().join("instance.json");
    orch.wait_until("instance.json", || file.exists());
}
