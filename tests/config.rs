//! Configurations that are right: what is read, what the defaults are, and which source wins.

use std::fs;
use std::path::Path;

use orch::config::{Config, LoadOptions};

/// A directory with an `orch.toml` of this text.
fn project(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("orch.toml"), text).expect("the configuration is written");
    directory
}

fn options(directory: &Path) -> LoadOptions {
    LoadOptions {
        directory: directory.to_path_buf(),
        environment: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        ..LoadOptions::default()
    }
}

fn load(text: &str) -> Config {
    let directory = project(text);
    Config::load(options(directory.path())).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn an_empty_file_is_a_configuration() {
    let config = load("");
    assert!(!config.celery.enabled);
    assert!(config.sites.is_empty());
}
