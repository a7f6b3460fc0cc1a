//! Record of the tests that cannot run here, or not completely, in a file that `.ci/run` prints.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};

/// Variable that names the file; the default is `skipped-tests` below cargo's target directory.
const NAMED_BY: &str = "ORCH_TEST_SKIPPED";

/// Records that the test of this thread, or a part of it, does not run here, and why.
#[track_caller]
pub fn skip(why: impl Display) {
    let place = Location::caller();
    let thread = std::thread::current();
    let test = match thread.name() {
        // The harness names the thread of a test after the test, unless it runs all tests in its own thread.
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("line {}", place.line()),
    };
    let why = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("skipped: {why}");
    let path = file();
    let append = |path: &Path| {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        let mut file = File::options().create(true).append(true).open(path)?;
        // One write, so that lines of parallel processes stay whole.
        file.write_all(format!("{}: {test}: {why}\n", place.file()).as_bytes())
    };
    append(&path).unwrap_or_else(|error| panic!("cannot note a skipped test in {}: {error}", path.display()));
}

fn file() -> PathBuf {
    match std::env::var_os(NAMED_BY) {
        Some(path) => PathBuf::from(path),
        // Cargo does not set the variable for unit tests; those of every crate run from `target/<profile>/deps`.
        None => match option_env!("CARGO_TARGET_TMPDIR") {
            Some(directory) => PathBuf::from(directory),
            None => {
                let program = std::env::current_exe().unwrap_or_default();
                program.ancestors().nth(3).unwrap_or(Path::new("")).join("tmp")
            }
        }
        .join("skipped-tests"),
    }
}
