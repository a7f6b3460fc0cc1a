//! Configurations that are right: their values, their sources, and the precedence of the sources.

mod programs;
mod sites;
mod sources;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use orch::config::{Config, LoadOptions};

/// Creates a directory with these files.
fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a file has a parent")).expect("directories are made");
        fs::write(path, text).expect("files are written");
    }
    directory
}

fn program(path: &Path) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a file has a parent")).expect("directories are made");
    fs::write(path, "#!/bin/sh\n").expect("files are written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions are set");
    path.to_path_buf()
}

fn options(directory: &Path) -> LoadOptions {
    LoadOptions {
        directory: directory.to_path_buf(),
        environment: variables(&[("PATH", "/usr/bin:/bin")]),
        ..LoadOptions::default()
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load_with(text: &str, change: impl FnOnce(&mut LoadOptions)) -> Config {
    let directory = project(&[("orch.toml", text)]);
    let mut options = options(directory.path());
    change(&mut options);
    Config::load(options).unwrap_or_else(|errors| panic!("{errors}"))
}

fn load(text: &str) -> Config {
    load_with(text, |_| {})
}
