//! Loading ends with a configuration or with errors, never with a panic, for any content of a file, a variable or an
//! argument.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use orch::config::{Config, LoadOptions};
use proptest::prelude::*;

const REFERENCE: &str = include_str!("../config/orch.toml");

static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

/// Loads in a directory of its own, since tests run in parallel.
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

/// Generates characters that have a meaning in one of the formats.
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
        // Every second line of the reference is a comment or switched off; all of it is used.
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

/// Time in which a configuration must be read, without optimisation and on a busy machine; quadratic reading takes
/// minutes.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Repeats a part until the text is a file near its bound.
fn repeated(part: &str, bytes: usize) -> String {
    part.repeat(bytes / part.len())
}

fn numbered(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

#[test]
fn hostile_texts_are_refused_in_time_and_in_few_words() {
    const OFF: &str = "[redis]\nmode = \"off\"\n";
    const FILE: usize = (4 << 20) - 5000;
    let long = "x".repeat(FILE / 2);
    let service =
        |number: usize, after: usize| format!("[services.s{number}]\ncommand = [\"true\"]\nafter = [\"s{after}\"]\n");
    for (name, text) in [
        ("errors", repeated("=\n", FILE / 8)),
        ("open", repeated("a=\"\n", FILE)),
        ("returns", repeated("\r", FILE)),
        ("twice", repeated("[redis]\n", FILE)),
        ("arrays", format!("a={}", repeated("[", FILE))),
        ("tables", format!("a={}", repeated("{a=", FILE))),
        ("dots", format!("a{}=1\n", repeated(".a", FILE))),
        ("section", format!("[a{}]\n", repeated(".a", FILE))),
        ("keys", numbered(FILE / 11, |number| format!("a{number}=1\n"))),
        ("sections", numbered(FILE / 11, |number| format!("[a{number}]\n"))),
        (
            "ports",
            format!(
                "{OFF}[ports]\n{}",
                numbered(FILE / 11, |number| format!("p{number}=0\n"))
            ),
        ),
        (
            "chain",
            OFF.to_owned() + &numbered(FILE / 70, |number| service(number, number + 1)),
        ),
        (
            "cycle",
            OFF.to_owned() + &numbered(1000, |number| service(number, (number + 1) % 1000)),
        ),
        (
            "names",
            format!("{OFF}[services.a]\ncommand=[\"true\"]\nafter=[\"{long}\"]\n[services.\"{long}y\"]\n"),
        ),
        (
            "sites",
            numbered(FILE / 22, |number| format!("[sites.s{number}]\nx=1\n")),
        ),
    ] {
        let started = Instant::now();
        let errors = load(&format!("hostile-{name}"), &[("orch.toml", &text)], &[], &[]).expect_err(name);
        assert!(started.elapsed() < READ_TIMEOUT, "{name}: {:?}", started.elapsed());
        assert!(errors.len() < 200_000, "{name}: {} bytes", errors.len());
    }
}

#[test]
fn hostile_env_files_are_refused_in_time_and_in_few_words() {
    const FILE: usize = (4 << 20) - 100;
    let tenfold = |number: u8| {
        let before = format!("${{V{}}}", number - 1);
        format!("V{number}={}\n", before.repeat(10))
    };
    for (name, text) in [
        ("bad", repeated("x\n", FILE)),
        (
            "bomb",
            format!("V0=xxxxxxxxxx\n{}", (1..20).map(tenfold).collect::<String>()),
        ),
        (
            "line",
            format!(
                "V=xxxxxxxxxx\nW={}\nX={}",
                repeated("${V}", 100_000),
                repeated("${W}", FILE / 2)
            ),
        ),
        (
            "quoted",
            format!(
                "V=xxxxxxxxxx\nW={}\nX=\"{}\"",
                repeated("${V}", 40_000),
                repeated("${W}\\n", FILE / 2)
            ),
        ),
        (
            "many",
            numbered(100_000, |number| format!("V{number}={}\n", "x".repeat(20))),
        ),
        ("open", format!("V=\"{}", repeated("x\n", FILE))),
        ("dollars", format!("V={}", repeated("${", FILE))),
    ] {
        let started = Instant::now();
        let files = [
            ("orch.toml", "orch.env_file = 'e.env'\nredis.mode = 'off'\n"),
            ("e.env", text.as_str()),
        ];
        let errors = load(&format!("hostile-env-{name}"), &files, &[], &[]).expect_err(name);
        assert!(started.elapsed() < READ_TIMEOUT, "{name}: {:?}", started.elapsed());
        assert!(errors.len() < 200_000, "{name}: {} bytes", errors.len());
    }
    // Names are looked up in a map, not in a list.
    let unknown = numbered(80_000, |number| format!("V{number}=${{W{number}}}\n"));
    let files = [
        ("orch.toml", "orch.env_file = 'e.env'\nredis.mode = 'off'\n"),
        ("e.env", unknown.as_str()),
    ];
    let started = Instant::now();
    let config = load("many-variables", &files, &[], &[]).expect("variables");
    assert_eq!(config.orch.env_file_variables.len(), 80_000);
    assert!(started.elapsed() < READ_TIMEOUT, "{:?}", started.elapsed());
}
