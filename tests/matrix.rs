//! Every supported version of Celery with every supported server: the tests of `tests/celery`, once for each pair.
//!
//! `cargo test --test matrix -- --ignored --nocapture` runs all (about ten minutes on two cores); `ORCH_BLESS=1` also
//! writes `docs/compatibility.md` from the results. `ORCH_MATRIX_CELERY=5.2,5.7` and `ORCH_MATRIX_REDIS=valkey-9`
//! select a part, as CI does.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

/// Values of `ORCH_TEST_CELERY`, oldest first; the exact versions are in `tests/fixtures/requirements`.
const VERSIONS: [&str; 6] = ["5.2", "5.3", "5.4", "5.5", "5.6", "5.7"];

/// Values of `ORCH_TEST_REDIS`, with the beginning of the version that the server reports.
const SERVERS: [(&str, &str); 3] = [("redis-6.2", "6.2."), ("redis-7.0", "7.0."), ("valkey-9", "9.")];

/// Modules of `tests/celery` with their subjects.
const CAPABILITIES: [(&str, &str); 17] = [
    ("results", "Results, and waiting for them"),
    ("publish", "Tasks, chains, results, events"),
    ("canvas", "Groups and chords, published by orch"),
    ("batch", "Batch publish"),
    ("interop", "What Python publishes"),
    ("control", "Ping, inspect, remote control, revoke"),
    ("consuming", "Is a worker consuming?"),
    ("queues", "Queues, and where a task is"),
    ("restore", "Messages of dead workers"),
    ("poison", "Messages that would end a worker"),
    ("malformed", "Malformed input"),
    ("events", "Events"),
    ("tracker", "Job progress from events"),
    ("outage", "Outages of the server"),
    ("server", "The server itself"),
    ("waits", "Many waits"),
    ("wrong_type", "Keys of another type than Celery writes"),
];

/// Outcome of each test, by its full name.
type Cell = BTreeMap<String, bool>;

/// Outcomes by version and server.
type Matrix = BTreeMap<(String, String), Cell>;

#[test]
#[ignore = "takes about ten minutes"]
fn every_version_passes_on_every_server() {
    let versions = chosen("ORCH_MATRIX_CELERY", &VERSIONS);
    let servers = chosen("ORCH_MATRIX_REDIS", &SERVERS.map(|(name, _)| name));
    let tests = built("celery");
    let mut matrix = Matrix::new();
    let mut failures = Vec::new();
    for server in &servers {
        let reported = server_version(server);
        for version in &versions {
            let started = Instant::now();
            let (cell, output) = run(&tests, version, server);
            let failed: Vec<&str> = cell
                .iter()
                .filter(|(_, passed)| !**passed)
                .map(|(name, _)| name.as_str())
                .collect();
            eprintln!(
                "celery {version}, {reported}: {} of {} passed in {:.0?}",
                cell.len() - failed.len(),
                cell.len(),
                started.elapsed()
            );
            if !failed.is_empty() {
                eprintln!("{output}");
                failures.push(format!("celery {version}, {reported}: {}", failed.join(", ")));
            }
            matrix.insert((version.clone(), server.clone()), cell);
        }
    }
    if std::env::var_os("ORCH_BLESS").is_some() {
        assert_eq!(
            matrix.len(),
            VERSIONS.len() * SERVERS.len(),
            "only a whole matrix is written down"
        );
        let path = page();
        std::fs::write(&path, written(&matrix)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    assert!(failures.is_empty(), "failed:\n{}", failures.join("\n"));
}

#[test]
fn the_page_is_about_the_supported_versions() {
    let page = std::fs::read_to_string(page()).expect("docs/compatibility.md is there");
    for version in VERSIONS {
        let version = exact_version(version);
        assert!(
            page.contains(&format!("| {version} ")),
            "no column for Celery {version}"
        );
    }
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md")
}

/// Returns all values, or those that a variable names.
fn chosen(variable: &str, all: &[&str]) -> Vec<String> {
    let Ok(names) = std::env::var(variable) else {
        return all.iter().map(|&name| name.to_owned()).collect();
    };
    let names: Vec<String> = names.split(',').map(str::to_owned).collect();
    for name in &names {
        assert!(
            all.contains(&name.as_str()),
            "{variable} names `{name}`, which is none of {all:?}"
        );
    }
    names
}

/// Returns the program of an integration test, built if necessary.
fn built(test: &str) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--no-run", "--message-format=json", "--test", test])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo test --no-run: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = messages
        .filter(|message| message["target"]["name"] == test && message["target"]["kind"][0] == "test")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    let program = program.expect("cargo names the program that it built");
    // A build during this run must not change the program that runs.
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("matrix-{test}"));
    std::fs::copy(&program, &copy).unwrap_or_else(|error| panic!("{}: {error}", copy.display()));
    copy
}

/// Returns a version such as `Redis server v=7.0.15`; panics when the version does not fit the name of the server.
fn server_version(server: &str) -> String {
    let program = support::server::named(server);
    let output = Command::new(&program).arg("--version").output();
    let output = output.unwrap_or_else(|error| panic!("{server}: cannot run {}: {error}", program.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))
        .unwrap_or("unknown");
    let (_, wanted) = SERVERS
        .iter()
        .find(|(name, _)| *name == server)
        .expect("a chosen name is one of them");
    assert!(
        version.starts_with(wanted),
        "{server}: {} is version {version}",
        program.display()
    );
    let product = if server.starts_with("valkey") {
        "Valkey"
    } else {
        "Redis"
    };
    format!("{product} {version}")
}

/// Returns the version that the requirements file pins.
fn exact_version(version: &str) -> String {
    let path = support::python::requirements(&format!("celery-{version}"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let pinned = text.lines().find_map(|line| line.strip_prefix("celery=="));
    pinned.expect("the file pins celery").to_owned()
}

/// Runs all tests with one version and one server; returns the outcomes and the output. Each test has a time limit.
fn run(tests: &Path, version: &str, server: &str) -> (Cell, String) {
    let output = Command::new(tests)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("ORCH_TEST_CELERY", version)
        .env("ORCH_TEST_REDIS", server)
        .output()
        .expect("the tests run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let cell: Cell = text.lines().filter_map(outcome).collect();
    let all_passed = cell.values().all(|passed| *passed);
    assert!(
        !cell.is_empty() && output.status.success() == all_passed,
        "the tests ended with {} for another reason than a failed test:\n{text}",
        output.status
    );
    (cell, text)
}

/// Parses a line such as `test queues::a_task_is_found ... ok`.
fn outcome(line: &str) -> Option<(String, bool)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    match outcome {
        "ok" => Some((name.to_owned(), true)),
        "FAILED" => Some((name.to_owned(), false)),
        _ => None,
    }
}

/// Returns the page, without anything that changes from run to run.
fn written(matrix: &Matrix) -> String {
    let mut page = String::from(
        "# Compatibility\n\n\
         Generated by `ORCH_BLESS=1 cargo test --test matrix -- --ignored` from a run of the tests in `tests/celery`, \
         each against a real worker\nof each version on each server. Do not edit.\n\n\
         ## Versions and servers\n\nTests passed, of those run.\n\n",
    );
    let versions: Vec<String> = VERSIONS.iter().map(|version| exact_version(version)).collect();
    heading(&mut page, "server, with Celery", &versions);
    for (server, _) in SERVERS {
        let cells = VERSIONS.map(|version| tally(matrix, |at, _| at == (version, server)));
        row(&mut page, &server_version(server), &cells);
    }

    let tests: BTreeSet<&str> = matrix.values().flat_map(Cell::keys).map(String::as_str).collect();
    let modules: BTreeSet<&str> = tests.iter().filter_map(|test| Some(test.split_once("::")?.0)).collect();
    page.push_str("\n## Capabilities\n\nTests passed, of those run, on all servers together.\n\n");
    heading(&mut page, "capability", &versions);
    let mut modules: Vec<(&str, &str)> = modules.into_iter().map(|module| (title(module), module)).collect();
    modules.sort_by_key(|(_, module)| CAPABILITIES.iter().position(|(name, _)| name == module));
    for (title, module) in &modules {
        let prefix = format!("{module}::");
        let cells = VERSIONS.map(|version| tally(matrix, |at, test| at.0 == version && test.starts_with(&prefix)));
        row(&mut page, title, &cells);
    }

    page.push_str("\n## Each test\n\n\"yes\": it passes on all servers; else the servers on which it fails.\n");
    for (title, module) in &modules {
        let _infallible = write!(page, "\n### {title}\n\n");
        heading(&mut page, "", &versions);
        let prefix = format!("{module}::");
        for test in tests.iter().filter(|test| test.starts_with(&prefix)) {
            let cells = VERSIONS.map(|version| failing(matrix, version, test));
            row(&mut page, &test[prefix.len()..].replace('_', " "), &cells);
        }
    }
    page
}

fn title(module: &str) -> &str {
    CAPABILITIES
        .iter()
        .find(|(name, _)| *name == module)
        .map_or(module, |(_, title)| title)
}

fn heading(page: &mut String, first: &str, versions: &[String]) {
    row(page, first, versions);
    row(page, "---", &vec!["---"; versions.len()]);
}

fn row<T: AsRef<str>>(page: &mut String, first: &str, cells: &[T]) {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    let _infallible = writeln!(page, "| {first} | {} |", cells.join(" | "));
}

fn tally(matrix: &Matrix, counts: impl Fn((&str, &str), &str) -> bool) -> String {
    let outcomes = matrix.iter().flat_map(|((version, server), cell)| {
        cell.iter()
            .map(move |(test, passed)| (version.as_str(), server.as_str(), test.as_str(), *passed))
    });
    let counted: Vec<bool> = outcomes
        .filter(|(version, server, test, _)| counts((version, server), test))
        .map(|(.., passed)| passed)
        .collect();
    let passed = counted.iter().filter(|passed| **passed).count();
    format!("{passed}/{}", counted.len())
}

fn failing(matrix: &Matrix, version: &str, test: &str) -> String {
    let failed = SERVERS.iter().map(|(server, _)| *server).filter(|server| {
        let cell = &matrix[&(version.to_owned(), (*server).to_owned())];
        cell.get(test) != Some(&true)
    });
    let failed: Vec<&str> = failed.collect();
    if failed.is_empty() {
        "yes".to_owned()
    } else {
        format!("no: {}", failed.join(", "))
    }
}
