//! `orch init`: the example goes into a directory of its own, and the commands that it prints work.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn init(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command.arg("init").arg(directory).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_empty_directory_gets_the_example_and_the_next_commands() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("my shop");
    for made in [false, true] {
        if made {
            fs::remove_dir_all(&directory).unwrap();
            fs::create_dir(&directory).unwrap();
        }
        let output = init(&directory, &[]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(directory.join("orch.toml").is_file());
        let cd = said.lines().find_map(|line| line.strip_prefix("next:  ")).unwrap();
        let there = Command::new("sh")
            .args(["-c", &format!("{cd} && pwd")])
            .output()
            .unwrap();
        assert_eq!(
            Path::new(text(&there.stdout).trim_end()),
            fs::canonicalize(&directory).unwrap()
        );
        // No preparation is needed: the run creates everything that it needs.
        let plan = Command::new(env!("CARGO_BIN_EXE_orch"))
            .arg("plan")
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(plan.status.success(), "{}", text(&plan.stderr));
        let plan = Command::new(env!("CARGO_BIN_EXE_orch"))
            .args(["plan", "--config", "bad-night.toml"])
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(plan.status.success(), "{}", text(&plan.stderr));
        let run = said.lines().last().unwrap().trim_start();
        let help = Command::new("sh")
            .args(["-c", &format!("{run} --help")])
            .output()
            .unwrap();
        assert!(
            text(&help.stdout).contains("Usage: orch run"),
            "{run}: {}",
            text(&help.stderr)
        );
    }
}

#[test]
fn a_directory_in_use_is_left_as_it_is_unless_it_is_forced() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("orch.toml"), "mine").unwrap();
    let output = init(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.contains("is not empty") && error.contains("`--force`"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    let output = init(directory.path(), &["--force"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let replaced: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("replaced: "))
        .collect();
    assert_eq!(replaced, ["orch.toml"]);
    assert_ne!(fs::read_to_string(directory.path().join("orch.toml")).unwrap(), "mine");
    // The second time there is nothing to replace.
    let again = text(&init(directory.path(), &["--force"]).stderr);
    assert!(!again.contains("replaced"), "{again}");
}
