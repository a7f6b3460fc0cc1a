//! Output for a person with a wrong configuration: `config_errors.txt` has the inputs and the full texts of the errors.
//!
//! `ORCH_BLESS=1 cargo test --test config_errors` writes the file again; read its diff.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use orch::config::{Config, LoadOptions};

/// One block of the file: `=== name`, then parts that begin with `--- `.
struct Case {
    name: String,
    /// Names and texts: files of the project (executable if the name says `executable`), `--set`, `environment`, and at
    /// the end `errors`.
    parts: Vec<(String, String)>,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("=== ") {
            cases.push(Case {
                name: name.to_owned(),
                parts: Vec::new(),
            });
            continue;
        }
        let case = cases.last_mut().expect("the file begins with `=== name`");
        match line.strip_prefix("--- ") {
            Some(part) => case.parts.push((part.to_owned(), String::new())),
            None => {
                let (_, text) = case.parts.last_mut().expect("a case begins with `--- part`");
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    cases
}

fn errors(case: &Case) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut options = LoadOptions {
        directory: directory.path().to_path_buf(),
        environment: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        ..LoadOptions::default()
    };
    for (part, text) in &case.parts {
        let lines = || text.lines().filter(|line| !line.is_empty()).map(str::to_owned);
        match part.as_str() {
            "errors" => {}
            "--set" => options.overrides.extend(lines()),
            "environment" => {
                let variables =
                    lines().filter_map(|line| line.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())));
                options.environment.extend(variables);
            }
            file => {
                let path = directory.path().join(file);
                fs::create_dir_all(path.parent().expect("a file has a parent")).expect("directories are made");
                let executable = text == "executable\n";
                fs::write(&path, text).expect("files are written");
                if executable {
                    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions are set");
                }
            }
        }
    }
    let shown = match Config::load(options) {
        Ok(_) => "no error".to_owned(),
        Err(errors) => {
            let shown = errors.to_string();
            let drawn = shown.matches("error: ").count();
            assert_eq!(drawn, errors.count(), "{}: {shown}", case.name);
            shown
        }
    };
    shown.replace(&directory.path().display().to_string(), "[project]") + "\n"
}

#[test]
fn wrong_configurations_say_what_is_wrong_and_what_would_be_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_errors.txt");
    let expected = fs::read_to_string(&path).expect("the cases are next to this file");
    let mut actual = String::new();
    for case in cases(&expected) {
        actual.push_str(&format!("=== {}\n", case.name));
        for (part, text) in case.parts.iter().filter(|(part, _)| part != "errors") {
            actual.push_str(&format!("--- {part}\n{text}"));
        }
        actual.push_str(&format!("--- errors\n{}\n", errors(&case)));
    }
    let actual = actual.trim_end().to_owned() + "\n";
    if std::env::var_os("ORCH_BLESS").is_some() {
        return fs::write(&path, actual).expect("the file is written anew");
    }
    for (expected, actual) in cases(&expected).iter().zip(cases(&actual)) {
        let text = |case: &Case| case.parts.last().map(|(_, text)| text.trim_end().to_owned());
        let (expected, actual) = (text(expected), text(&actual).map(|text| (actual.name, text)));
        let (name, actual) = actual.expect("every case has parts");
        let expected = expected.unwrap_or_default();
        assert!(
            actual == expected,
            "{name}:\n\n--- expected\n{expected}\n\n--- actual\n{actual}\n"
        );
    }
}
