//! `sites_file`: additional sites as YAML, TOML or JSON of the form `site: [url, ...]` or `site: {urls: [...], config:
//! {...}}`.

use std::collections::HashMap;
use std::path::Path;

use crate::paths;
use crate::read::load_context::LoadContext;
use crate::read_text::read_text;
use crate::syntax::problem::{Problem, did_you_mean};
use crate::syntax::source::{SourceId, SourceSpan};
use crate::syntax::tree;
use crate::syntax::tree::{Key, SyntaxNode, SyntaxTable, SyntaxValue, mask_secrets};
use crate::syntax::{json, toml, yaml};

/// Largest file that is read, in bytes: a hundred thousand URLs.
const MAX_FILE_SIZE: u64 = 8 << 20;

/// Keys of a site in this file, with their names in the configuration.
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

/// Reads the file and adds the sites, in the form of the configuration, to `sites`. `at` is the position of the file's
/// name.
pub(crate) fn join(
    reading: &LoadContext,
    path: &Path,
    at: SourceSpan,
    sites: &mut SyntaxTable,
    change: impl Fn(&mut SyntaxNode),
) -> Option<SourceId> {
    let text = match read_text(path, MAX_FILE_SIZE) {
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
        Some("yaml" | "yml") => yaml::document,
        Some("json") => json::document,
        Some("toml") => toml::document,
        _ => {
            let problem = Problem::new("the format of the sites file is unknown");
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
    let known: HashMap<String, SourceSpan> = sites
        .entries
        .iter()
        .map(|(key, _)| (key.name.clone(), key.span))
        .collect();
    for (key, node) in table.entries {
        if let Some(earlier) = known.get(&key.name) {
            let problem = match key.name.as_str() {
                "defaults" => Problem::new("a site cannot be named `defaults`").at(key.span, "not a site"),
                name => Problem::new(format!("the site `{name}` is defined twice"))
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

/// Converts one site to the form of the configuration.
fn site(reading: &LoadContext, key: &Key, node: SyntaxNode) -> Option<SyntaxNode> {
    let span = node.span;
    let table = match node.value {
        SyntaxValue::List(_) => {
            let urls = Key {
                name: "start_urls".to_owned(),
                span: key.span,
            };
            return Some(SyntaxNode::table(vec![(urls, node)], span));
        }
        SyntaxValue::Table(table) => table,
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
                let known = "a site of this file has `urls`, `config`, `after`, `uses`, `tags`, `min_results`";
                let label = did_you_mean(&key.name, KEYS.iter().map(|(name, _)| *name), known);
                let title = format!("unknown key `{}` in the sites file", key.name);
                reading.report(Problem::new(title).at(key.span, label));
            }
        }
    }
    Some(SyntaxNode::table(entries, span))
}
