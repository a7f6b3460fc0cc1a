//! A test that cannot run here, or not all of it, says so in a file; `.ci/run` prints what stands in it.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};

/// Names the file; else it is `skipped-tests` below cargo's target directory.
const NAMED_BY: &str = "ORCH_TEST_SKIPPED";

/// Notes that this thread's test, or a part of it, is not run here, and why.
#[track_caller]
pub fn skip(why: impl Display) {
    let place = Location::caller();
    let thread = std::thread::current();
    let test = match thread.name() {
        // The harness names a test's thread after it, unless it runs all of them in its own.
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("line {}", place.line()),
    };
    let why = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("skipped: {why}");
    let path = file();
    let append = |path: &Path| {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        let mut file = File::options().create(true).append(true).open(path)?;
        // One write, so that lines of processes at the same time stay whole.
        file.write_all(format!("{}: {test}: {why}\n", place.file()).as_bytes())
    };
    append(&path).unwrap_or_else(|error| panic!("cannot note a skipped test in {}: {error}", path.display()));
}

fn file() -> PathBuf {
    match std::env::var_os(NAMED_BY) {
        Some(path) => PathBuf::from(path),
        // Cargo tells unit tests nothing of that directory.
        None => {
            Path::new(option_env!("CARGO_TARGET_TMPDIR").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tmp")))
                .join("skipped-tests")
        }
    }
}
