//! `sites_file`: further sites, as YAML, TOML or JSON of the form `site: [url, ...]` or
//! `site: {urls: [...], config: {...}}`.

use std::collections::HashMap;
use std::path::Path;

use super::load::read_text;
use super::problem::{Problem, nearest};
use super::section::Reading;
use super::source::{SourceId, Span};
use super::tree::{self, Key, Node, Table, Value, mask_secrets};
use super::{json_tree, paths, toml_tree, yaml_tree};

/// Largest file that is read, bytes: a hundred thousand URLs.
const LARGEST: u64 = 8 << 20;

/// Keys of a site in this file, as the configuration names them.
const KEYS: [(&str, &str); 8] = [
    ("urls", "start_urls"),
    ("config", "config"),
    ("after", "after"),
    ("after_any", "after_any"),
    ("after_finished", "after_finished"),
    ("uses", "uses"),
    ("tags", "tags"),
    ("min_results", "min_results"),
];

/// Reads the file and adds its sites to `sites`, in the words of the configuration. `at` is where the file is named.
pub(super) fn join(
    reading: &Reading,
    path: &Path,
    at: Span,
    sites: &mut Table,
    change: impl Fn(&mut Node),
) -> Option<SourceId> {
    let text = match read_text(path, LARGEST) {
        Ok(text) => text,
        Err(why) => {
            let title = format!("the sites file `{}` cannot be read", path.display());
            reading.report(Problem::new(title).at(at, why));
            return None;
        }
    };
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase());
    let parse = match extension.as_deref() {
        Some("yaml" | "yml") => yaml_tree::document,
        Some("json") => json_tree::document,
        Some("toml") => toml_tree::document,
        _ => {
            let problem = Problem::new("the kind of the sites file is not known");
            reading.report(problem.at(at, "name it `.yaml`, `.yml`, `.toml` or `.json`"));
            return None;
        }
    };
    let source = reading.sources.add(paths::shown(path, &reading.base), text.as_str());
    if let Err(problem) = tree::check_size(source, &text) {
        reading.report(problem.syntax(true));
        return Some(source);
    }
    let table = parse(source, &text, &reading.problems);
    mask_secrets(&table, &reading.sources);
    let known: HashMap<String, Span> = sites
        .entries
        .iter()
        .map(|(key, _)| (key.name.clone(), key.span))
        .collect();
    for (key, node) in table.entries {
        if let Some(earlier) = known.get(&key.name) {
            let problem = match key.name.as_str() {
                "defaults" => Problem::new("a site cannot be named `defaults`").at(key.span, "not a site"),
                name => Problem::new(format!("the site `{name}` is there twice"))
                    .at(key.span, "once in the sites file")
                    .related(*earlier, "once in the configuration"),
            };
            reading.report(problem);
            continue;
        }
        if let Some(mut node) = site(reading, &key, node) {
            change(&mut node);
            sites.entries.push((key, node));
        }
    }
    Some(source)
}

/// One site in the words of the configuration.
fn site(reading: &Reading, key: &Key, node: Node) -> Option<Node> {
    let span = node.span;
    let table = match node.value {
        Value::List(_) => {
            let urls = Key {
                name: "start_urls".to_owned(),
                span: key.span,
            };
            let entries = vec![(urls, node)];
            return Some(Node::new(Value::Table(Table { entries }), span));
        }
        Value::Table(table) => table,
        _ => {
            let title = format!(
                "the site `{}` must be a list of URLs, or have `urls` and `config`",
                key.name
            );
            reading.report(Problem::new(title).at(span, format!("this is {}", node.kind())));
            return None;
        }
    };
    let mut entries = Vec::new();
    for (mut key, node) in table.entries {
        match KEYS.iter().find(|(name, _)| *name == key.name) {
            Some((_, name)) => {
                key.name = (*name).to_owned();
                entries.push((key, node));
            }
            None => {
                let label = match nearest(&key.name, KEYS.iter().map(|(name, _)| *name)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => {
                        "a site of this file has `urls`, `config`, `after`, `uses`, `tags`, `min_results`".to_owned()
                    }
                };
                let title = format!("unknown key `{}` in the sites file", key.name);
                reading.report(Problem::new(title).at(key.span, label));
            }
        }
    }
    Some(Node::new(Value::Table(Table { entries }), span))
}
