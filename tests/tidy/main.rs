//! Names, comments and messages follow the rules of the house. `ORCH_TIDY_ROOT` names another tree, and arguments are not
//! needed: `cargo test --test tidy -- --nocapture` prints all findings.

mod crates;
mod imports;
mod prose;
mod rules;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use rules::{FILE_RULES, Glossary};
use source::Source;

fn root() -> PathBuf {
    let asked = std::env::var_os("ORCH_TIDY_ROOT");
    asked.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

fn glossary() -> Glossary {
    let text = fs::read_to_string(root().join("GLOSSARY.md")).expect("there is a glossary");
    Glossary::parse(&text)
}

/// Reads all Rust files of the product and its tests, except the fixtures of this test.
fn sources() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    for folder in ["src", "crates", "tests", "benches"] {
        collect(&root, &root.join(folder), &mut found);
    }
    assert!(found.len() > 100, "only {} files were found", found.len());
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry of a folder").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("fixtures/tidy") && !path.ends_with("tests/tidy") {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let path = path.strip_prefix(root).expect("a file below the root");
            found.push(Source::parse(path, &text));
        }
    }
}

#[test]
fn every_file_keeps_the_rules() {
    let (glossary, sources) = (glossary(), sources());
    let mut broken = 0;
    for (name, rule) in FILE_RULES {
        for source in &sources {
            for problem in rule(source, &glossary) {
                println!("{}:{problem} ({name})", source.path.display());
                broken += 1;
            }
        }
    }
    assert_eq!(broken, 0, "places that break a rule");
}

#[test]
fn a_crate_has_one_type_of_each_name() {
    let repeated = rules::repeated_types(&sources());
    assert!(repeated.is_empty(), "{} names: {repeated:#?}", repeated.len());
}

#[test]
fn a_module_that_a_documentation_names_is_a_link() {
    let unlinked = rules::unlinked_modules(&sources());
    assert!(unlinked.is_empty(), "{unlinked:#?}");
}

#[test]
fn no_files_of_a_crate_import_each_other() {
    let circles = imports::circles(&sources());
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn few_crates_depend_on_each_other() {
    let mut manifests = vec![root().join("Cargo.toml")];
    let crates = fs::read_dir(root().join("crates")).expect("the folder of the crates");
    manifests.extend(crates.map(|entry| entry.expect("an entry of a folder").path().join("Cargo.toml")));
    let mut edges = Vec::new();
    for path in manifests {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let dependencies = crates::dependencies(&text).into_iter();
        edges.extend(dependencies.map(|dependency| format!("{} -> {dependency}", path.display())));
    }
    println!(
        "{} dependencies between crates (at most {})",
        edges.len(),
        crates::MAX_EDGES
    );
    assert!(edges.len() <= crates::MAX_EDGES, "{edges:#?}");
}

#[test]
fn comments_read_like_those_of_the_best() {
    let measures = prose::measure(&sources());
    for measure in &measures {
        println!("{:6.2} (at most {:5.2}) {}", measure.found, measure.bound, measure.name);
    }
    let over = measures.iter().filter(|measure| measure.found > measure.bound);
    assert_eq!(over.count(), 0, "measures over their bounds");
}

/// Each fixture breaks the one rule that its name says; the same rule accepts the fixture that keeps all.
#[test]
fn each_rule_can_fail() {
    let glossary = Glossary::parse("- **Probe**: a question.\n- **Restart policy**: a rule.\n");
    let fixture = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/tidy")
            .join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Source::parse(&Path::new("crates/example/src").join(name), &text)
    };
    let fixtures = [
        "lines.rs",
        "openings.rs",
        "words.rs",
        "headlines.rs",
        "durations.rs",
        "one_word_types.rs",
    ];
    for ((name, rule), broken) in FILE_RULES.into_iter().zip(fixtures) {
        assert_eq!(rule(&fixture("tidy.rs"), &glossary), Vec::<String>::new(), "{name}");
        let text = fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/fixtures/tidy")
                .join(broken),
        );
        let expected = text.expect("a fixture").matches("// breaks").count();
        assert_eq!(rule(&fixture(broken), &glossary).len(), expected.max(1), "{name}");
    }
    let repeated = [fixture("repeated_types.rs"), fixture("tidy.rs")];
    assert_eq!(rules::repeated_types(&repeated).len(), 1);
    assert_eq!(rules::repeated_types(&repeated[1..]), Vec::<String>::new());
    let unlinked = [fixture("unlinked_modules.rs"), fixture("tidy.rs")];
    assert_eq!(rules::unlinked_modules(&unlinked).len(), 1);
    let fixtures = ["circle_a.rs", "circle_b.rs", "tidy.rs"].map(fixture);
    assert_eq!(imports::circles(&fixtures), ["example: circle_a, circle_b"]);
    assert_eq!(imports::circles(&fixtures[1..]), Vec::<String>::new());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tidy/crate.toml");
    let manifest = fs::read_to_string(manifest).expect("a fixture");
    assert_eq!(
        crates::dependencies(&manifest),
        ["orch-base", "orch-journal", "orch-guard"]
    );
    assert!(
        prose::measure(&[fixture("openings.rs")])
            .iter()
            .any(|measure| measure.found > measure.bound)
    );
    assert!(
        prose::measure(&[fixture("tidy.rs")])
            .iter()
            .all(|measure| measure.found <= measure.bound)
    );
}
