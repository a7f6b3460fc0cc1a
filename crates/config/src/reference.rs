//! Tests that `config/orch.toml` is correct: the file has every key that the readers know, and the shown defaults are
//! the real defaults.
//!
//! Format: `# ` begins prose; `#` before anything else begins a disabled line of configuration. The prose above a key
//! contains `Default`, `Required` or `Optional`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::load::{LoadOptions, load_with_keys};
use crate::model::Config;

const REFERENCE: &str = include_str!("../../../config/orch.toml");

/// Keys of `[redis]` that replace others.
const REPLACING_KEYS: [&str; 5] = [
    "url",
    "result_url",
    "master_name",
    "sentinel_username",
    "sentinel_password",
];

/// One key of the reference.
#[derive(Debug)]
struct ReferenceKey<'t> {
    section: &'t str,
    key: &'t str,
    comment: String,
    number: usize,
}

/// Returns the whole configuration with the disabled lines enabled.
fn everything() -> String {
    let lines = REFERENCE.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Removes the keys that cannot be combined with others; the line numbers stay.
fn together(text: &str) -> String {
    let stands = |line: &&str| {
        line.split_once(" = ")
            .is_none_or(|(key, _)| !REPLACING_KEYS.contains(&key))
    };
    let lines = text.lines().map(|line| if stands(&line) { line } else { "" });
    lines.collect::<Vec<_>>().join("\n")
}

fn lines(text: &str) -> Vec<ReferenceKey<'_>> {
    let mut section = "";
    let mut comment = String::new();
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(prose) = line.strip_prefix('#') {
            comment.push_str(prose);
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            comment.clear();
        } else if let Some((key, _)) = line.split_once(" = ") {
            found.push(ReferenceKey {
                section,
                key,
                comment: std::mem::take(&mut comment),
                number: index + 1,
            });
        } else {
            comment.clear();
        }
    }
    found
}

/// Creates the project that the reference describes.
fn project() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a file has a parent")).expect("directories are created");
        fs::write(&path, text).expect("files are written");
        path
    };
    write(".env", "A=1\n");
    write("sites.yaml", "other: [http://127.0.0.1/]\n");
    for program in ["bin/redis-server", ".venv/bin/celery"] {
        let path = write(program, "#!/bin/sh\n");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions are set");
    }
    directory
}

fn load(directory: &Path, text: &str) -> (Config, BTreeSet<String>) {
    fs::write(directory.join("orch.toml"), text).expect("the configuration is written");
    let options = LoadOptions {
        directory: directory.to_path_buf(),
        known_ports: [("web".to_owned(), 4711)].into(),
        ..LoadOptions::default()
    };
    load_with_keys(options).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_reference_is_a_valid_configuration() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    load(directory.path(), REFERENCE);
}

#[test]
fn every_key_has_a_comment_with_its_default() {
    for line in lines(&everything()) {
        let said = ["Default: ", "Required", "Optional"]
            .iter()
            .any(|word| line.comment.contains(word));
        assert!(
            said,
            "line {}: `{}` of [{}] has no comment",
            line.number, line.key, line.section
        );
        assert!(line.comment.trim().ends_with('.'), "line {}: no full stop", line.number);
    }
}

#[test]
fn shown_defaults_are_the_defaults() {
    let directory = project();
    let text = together(&everything());
    let defaults: BTreeSet<usize> = lines(&text)
        .iter()
        // The default is the number of processors, which the file cannot show.
        .filter(|line| line.comment.contains("Default: ") && line.key != "concurrency")
        .map(|line| line.number)
        .collect();
    let without = |number: usize| {
        let kept = text.lines().enumerate().filter(|(index, _)| index + 1 != number);
        kept.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
    };
    let (shown, _) = load(directory.path(), &text);
    assert!(defaults.len() > 60, "only {} defaults are shown", defaults.len());
    for number in defaults {
        let line = text.lines().nth(number - 1).unwrap_or_default();
        let (actual, _) = load(directory.path(), &without(number));
        assert_eq!(actual, shown, "line {number} is not the default: {line}");
    }
}

#[test]
fn keys_that_replace_others_are_correct() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = everything();
    let mut written = "[redis]\nmode = \"external\"\n".to_owned();
    let stand = |line: &&str| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        key.is_some_and(|key| REPLACING_KEYS.contains(&key))
    };
    let shown: Vec<&str> = text.lines().filter(stand).collect();
    assert_eq!(shown.len(), REPLACING_KEYS.len());
    written.push_str(&shown.join("\n"));
    // The address in the file is not one of a Sentinel.
    let written = written.replacen("redis://", "sentinel://", 1);
    let (config, _) = load(directory.path(), &written);
    let urls = config.redis.urls.expect("addresses");
    assert!(written.contains(urls.broker.expose()) && written.contains(urls.results.expose()));
    assert_eq!(urls.sentinel.master_name.as_deref(), Some("mymaster"));
}

#[test]
fn every_known_key_is_in_the_reference() {
    let directory = project();
    let text = everything();
    let (_, known) = load(directory.path(), &together(&text));
    let mut named: BTreeSet<String> = BTreeSet::new();
    for line in lines(&text) {
        named.insert(pattern(line.section));
        named.insert(pattern(&format!("{}.{}", line.section, line.key)));
        // A table is also known by a name of its own.
        named.extend(line.section.rsplit_once('.').map(|(parent, _)| pattern(parent)));
    }
    // The alternatives of a probe are listed in the prose above the table, one per line.
    let prose: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#   ")?.split(" = ").next())
        .collect();
    let missing: Vec<&String> = known
        .iter()
        .filter(|key| {
            let probe = key
                .rsplit_once('.')
                .is_some_and(|(section, key)| section.ends_with("ness") && prose.contains(key));
            // A link of the refresh chain has the keys of a dispatch task.
            let link = key.replace("proxies.refresh[]", "sites.*.dispatch");
            !named.contains(*key) && !named.contains(&link) && !probe
        })
        .collect();
    assert!(missing.is_empty(), "config/orch.toml lacks {missing:?}");
}

/// Converts `services.web.kind` to the form in which the readers record keys: `services.*.kind`.
fn pattern(path: &str) -> String {
    let mut words: Vec<&str> = path.splitn(3, '.').collect();
    if path.starts_with("sites.\"") {
        words = vec!["sites", "*", path.rsplit_once("\".").map_or("", |(_, key)| key)];
    } else if matches!(words.as_slice(), ["sites" | "services", _, ..]) {
        words[1] = "*";
    }
    words.retain(|word| !word.is_empty());
    words.join(".")
}
