//! Whatever a file, a variable or an argument holds, loading it ends with a configuration or with errors: never a panic.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use orch::config::{Config, LoadOptions};
use proptest::prelude::*;

const REFERENCE: &str = include_str!("../config/orch.toml");

static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

/// Loads in a directory of its own (tests run side by side).
fn load(
    name: &str,
    files: &[(&str, &str)],
    environment: &[(&str, &str)],
    overrides: &[&str],
) -> Result<Config, String> {
    let directory = DIRECTORY.path().join(name);
    for (file, text) in files {
        fs::create_dir_all(&directory).expect("directories are made");
        fs::write(directory.join(file), text).expect("files are written");
    }
    load_in(&directory, environment, overrides)
}

fn load_in(directory: &Path, environment: &[(&str, &str)], overrides: &[&str]) -> Result<Config, String> {
    let environment = environment.iter();
    let options = LoadOptions {
        directory: directory.to_path_buf(),
        environment: environment
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        overrides: overrides.iter().map(|text| (*text).to_owned()).collect(),
        ..LoadOptions::default()
    };
    Config::load(options).map_err(|errors| {
        assert!(errors.count() > 0);
        errors.to_string()
    })
}

/// Characters that mean something to one of the formats.
fn grammar() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just("\""),
        Just("'"),
        Just("\"\"\""),
        Just("="),
        Just("\n"),
        Just("\r\n"),
        Just(","),
        Just("."),
        Just(":"),
        Just("- "),
        Just("&a "),
        Just("*a"),
        Just("#"),
        Just("\\"),
        Just("\t"),
        Just("é"),
        Just("夜"),
        Just("celery"),
        Just("sites"),
        Just("services"),
        Just("defaults"),
        Just("ports"),
        Just("after"),
        Just("dispatch"),
        Just("{ports.web}"),
        Just("{site}"),
        Just("5s"),
        Just("0"),
        Just("true"),
        Just("null"),
        Just("urls"),
        Just(" "),
        Just("\u{0}"),
        Just("password"),
        Just("readiness"),
        Just("|"),
        Just(">"),
        Just("!!str "),
        Just("---\n"),
        Just("${"),
        Just("${A:-"),
        Just("export "),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![grammar(), ".*", "(?s).{0,200}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_configuration(text in any_text()) {
        drop(load("any", &[("orch.toml", &text)], &[], &[]));
    }

    #[test]
    fn a_reference_with_a_hole_and_a_patch(at in 0..REFERENCE.len(), hole in 0usize..80, patch in grammar()) {
        // Every second line of the reference is commentary or switched off; take all of it.
        let text = REFERENCE.replace("\n#", "\n");
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let (start, end) = (boundary(at), boundary(at + hole));
        let text = format!("{}{patch}{}", &text[..start], &text[end..]);
        drop(load("hole", &[("orch.toml", &text)], &[], &[]));
    }

    #[test]
    fn any_sites_file(text in any_text(), kind in prop_oneof![Just("yaml"), Just("json"), Just("toml")]) {
        let name = format!("sites.{kind}");
        let configuration = format!("[orch]\nsites_file = '{name}'\n[sites.defaults]\ndispatch = 't'");
        drop(load(&format!("sites_{kind}"), &[("orch.toml", &configuration), (&name, &text)], &[], &[]));
    }

    #[test]
    fn any_env_file(text in any_text()) {
        drop(load("env", &[("orch.toml", "orch.env_file = '.env'"), (".env", &text)], &[("A", "b")], &[]));
    }

    #[test]
    fn any_override(key in any_text(), value in any_text(), name in "[A-Z_]{0,30}") {
        let arguments = [format!("{key}={value}"), key.clone(), format!("celery.{key}={value}")];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let name = format!("ORCH_{name}");
        let variables = [(name.as_str(), value.as_str()), ("ORCH_SITES__A__TIMEOUT", value.as_str())];
        let text = "[celery]\napp = 'a'\n[sites.a]\ndispatch = 't'\n[ports]\nweb = 1";
        drop(load("override", &[("orch.toml", text)], &variables, &arguments));
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for (name, text) in [
        ("sites.yaml", "a: ".to_owned() + &"[".repeat(100_000)),
        ("sites.yaml", "a: ".to_owned() + &"[".repeat(1_000) + &"]".repeat(1_000)),
        ("sites.json", "{\"a\": ".to_owned() + &"[".repeat(100_000)),
        (
            "sites.json",
            "{\"a\": ".to_owned() + &"[".repeat(1_000) + &"]".repeat(1_000) + "}",
        ),
        ("sites.toml", "a = ".to_owned() + &"[".repeat(100_000)),
    ] {
        let configuration = format!("orch.sites_file = '{name}'");
        let loaded = load("deep", &[("orch.toml", &configuration), (name, &text)], &[], &[]);
        assert!(loaded.is_err(), "{name}");
    }
}

#[test]
fn aliases_cannot_grow_without_bound() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in ('b'..='z').zip('a'..='y') {
        text.push_str(&format!(
            "{name}: &{name} [{}]\n",
            vec![format!("*{before}"); 10].join(", ")
        ));
    }
    let files = [
        ("orch.toml", "orch.sites_file = 'sites.yaml'"),
        ("sites.yaml", text.as_str()),
    ];
    let errors = load("aliases", &files, &[], &[]).expect_err("it stands for 10^26 nodes");
    assert!(errors.contains("too many aliases"), "{errors}");
}

#[test]
fn files_that_are_too_large_are_not_read() {
    let text = "#".repeat((4 << 20) + 1);
    let errors = load("large", &[("orch.toml", &text)], &[], &[]).expect_err("it is too large");
    assert!(errors.contains("larger than 4 MiB"), "{errors}");
}
