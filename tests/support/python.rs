//! Python virtual environments of the tests: created on demand, kept for the next run, shared by all tests.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// File that is created last, so that an incomplete environment is never used.
const COMPLETE: &str = ".complete";

/// Returns the directory for everything that the next run of the tests can reuse: `ORCH_TEST_DIRECTORY`, or a directory
/// below cargo's target directory.
pub fn directory() -> PathBuf {
    let asked = std::env::var_os("ORCH_TEST_DIRECTORY");
    asked.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// Returns a virtual environment with the packages of `tests/fixtures/requirements/<name>.txt`.
///
/// The first call takes a while; other callers, also in other processes, wait for it.
pub fn environment(name: &str) -> PathBuf {
    let requirements = requirements(name);
    let text = fs::read_to_string(&requirements).unwrap_or_else(|error| panic!("{}: {error}", requirements.display()));
    let root = directory().join("venv");
    fs::create_dir_all(&root).expect("a directory of the tests is writable");
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let directory = root.join(format!("{name}-{:016x}", hasher.finish()));

    let lock = File::create(root.join(format!("{name}.lock"))).expect("a directory of the tests is writable");
    lock.lock().expect("a lock on a file of ours");
    if !directory.join(COMPLETE).exists() {
        make(&directory, &requirements);
    }
    directory
}

pub fn requirements(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/requirements/{name}.txt"))
}

/// Returns the directory of the packages of an environment.
pub fn site_packages(environment: &Path) -> PathBuf {
    let versions = fs::read_dir(environment.join("lib")).expect("a virtual environment has a lib");
    let packages = versions.flatten().map(|version| version.path().join("site-packages"));
    let mut packages = packages.filter(|path| path.is_dir());
    packages.next().expect("a virtual environment has its packages")
}

fn make(directory: &Path, requirements: &Path) {
    if directory.exists() {
        fs::remove_dir_all(directory).expect("a directory of ours");
    }
    run(
        Command::new("python3").args(["-m", "venv"]).arg(directory),
        "is python3-venv installed?",
    );
    install(directory, requirements);
    File::create(directory.join(COMPLETE)).expect("a directory of ours");
}

/// Installs packages; replaces installed packages of the same names.
pub fn install(directory: &Path, requirements: &Path) {
    let mut install = Command::new(directory.join("bin/python"));
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ])
        .arg(requirements);
    run(&mut install, "is the network up?");
}

fn run(command: &mut Command, hint: &str) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}; {hint}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} failed with {}: {text}\n{hint}",
        output.status
    );
}
