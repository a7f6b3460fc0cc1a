//! `--set celery.concurrency=4` and `ORCH_CELERY__CONCURRENCY=4`: single values that replace those of the file. Each is
//! a source of its own, so that problems show the text that the user typed.

use crate::syntax::problem::{Problem, Problems, did_you_mean};
use crate::syntax::source::{SourceId, SourceTexts};
use crate::syntax::toml;
use crate::syntax::tree::{Key, SyntaxNode, SyntaxTable, SyntaxValue, is_secret};

/// Sections with entries that the user names: an override may change an entry but not add one, or a misspelt
/// `ORCH_SITES__BOKS__TIMEOUT` would be a new site.
const NAMED: [&str; 3] = ["ports", "services", "sites"];

/// One value and the path of keys.
#[derive(Clone, Debug)]
pub(crate) struct Override {
    keys: Vec<Key>,
    pub node: SyntaxNode,
    /// Keys from a variable are matched without regard to case.
    from_variable: bool,
}

/// Reads the `ORCH_A__B` variables in the order of their names, then the `--set` arguments.
pub(crate) fn read(
    environment: &[(String, String)],
    arguments: &[String],
    sources: &SourceTexts,
    problems: &Problems,
) -> Vec<Override> {
    let mut variables: Vec<&(String, String)> = environment.iter().filter(|(name, _)| is_override(name)).collect();
    variables.sort();
    let variables = variables
        .into_iter()
        .map(|(name, value)| variable(name, value, sources, problems));
    let arguments = arguments.iter().map(|text| argument(text, sources, problems));
    let overrides: Vec<Override> = variables.chain(arguments).flatten().collect();
    for secret in overrides
        .iter()
        .filter(|change| change.keys.iter().any(|key| is_secret(&key.name)))
    {
        sources.mask(secret.node.span);
    }
    overrides
}

/// Decides whether a variable is an override: two words with two underscores between them. `ORCH_CONFIG` and other
/// single words have other meanings.
fn is_override(name: &str) -> bool {
    name.strip_prefix("ORCH_").is_some_and(|rest| rest.contains("__"))
}

fn variable(name: &str, value: &str, sources: &SourceTexts, problems: &Problems) -> Option<Override> {
    let source = sources.add("environment", format!("{name}={value}"));
    let mut keys = Vec::new();
    let mut start = "ORCH_".len();
    for word in name[start..].split("__") {
        let span = source.span(start..start + word.len());
        if word.is_empty() {
            let problem = Problem::new(format!("the variable `{name}` has no valid key"));
            let problem = problem.at(span, "a key has two underscores between its words");
            problems.push(problem.help("such as `ORCH_CELERY__CONCURRENCY=4` for `[celery] concurrency`"));
            return None;
        }
        // The names of environment variables keep their case: they belong to the user and are no keys of orch.
        let is_variable = keys.last().is_some_and(|key: &Key| key.name == "env");
        let name = if is_variable {
            word.to_owned()
        } else {
            word.to_lowercase()
        };
        keys.push(Key { name, span });
        start += word.len() + 2;
    }
    let node = value_node(source, name.len() + 1, value, problems);
    Some(Override {
        keys,
        node,
        from_variable: true,
    })
}

fn argument(text: &str, sources: &SourceTexts, problems: &Problems) -> Option<Override> {
    let source = sources.add("--set", text);
    let whole = source.span(0..text.len());
    let wrong = |title: String, label: &str| {
        problems.push(
            Problem::new(title)
                .at(whole, label)
                .help("such as `--set celery.concurrency=4`"),
        );
        None
    };
    let Some(equals) = equals_sign(text) else {
        return wrong(format!("`--set {text}` has no value"), "a `=` is missing");
    };
    let Some(keys) = dotted_key(source, &text[..equals]) else {
        return wrong(
            format!("`--set {text}` has no valid key"),
            "there is no valid key before the `=`",
        );
    };
    let node = value_node(source, equals + 1, &text[equals + 1..], problems);
    Some(Override {
        keys,
        node,
        from_variable: false,
    })
}

/// Finds the first `=` outside quotes.
fn equals_sign(text: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices()
        .find_map(|(at, character)| match (quote, character) {
            (None, '=') => Some(at),
            (None, '"' | '\'') => {
                quote = Some(character);
                None
            }
            (Some(open), close) if open == close => {
                quote = None;
                None
            }
            _ => None,
        })
}

/// Reads `sites."imot.bg".timeout` in the syntax of TOML.
fn dotted_key(source: SourceId, text: &str) -> Option<Vec<Key>> {
    if text.contains(['\n', '\r', '=', '#', '[']) {
        return None;
    }
    let ignored = Problems::default();
    let mut table = toml::document(source, &format!("{text} = 0"), &ignored);
    let mut keys = Vec::new();
    while let Some((key, node)) = table.entries.pop() {
        keys.push(key);
        match node.value {
            SyntaxValue::Table(below) => table = below,
            _ => break,
        }
    }
    (ignored.is_empty() && !keys.is_empty()).then_some(keys)
}

/// Reads the value as TOML, else as a string; numbers and booleans may also be used as strings, since they have no
/// quotes.
fn value_node(source: SourceId, offset: usize, text: &str, problems: &Problems) -> SyntaxNode {
    let span = source.span(offset..offset + text.len());
    let spaces = text.len() - text.trim_start().len();
    match toml::value(source, offset + spaces, text.trim(), problems) {
        Some(mut node) => {
            if !matches!(
                node.value,
                SyntaxValue::Text(_) | SyntaxValue::List(_) | SyntaxValue::Table(_)
            ) {
                node.text = Some(text.trim().to_owned());
            }
            node
        }
        None => SyntaxNode::new(SyntaxValue::Text(text.to_owned()), span),
    }
}

impl Override {
    /// Decides whether this changes a site: such overrides are applied after the sites file is read.
    pub fn is_of_sites(&self) -> bool {
        self.keys.first().is_some_and(|key| key.name == "sites")
    }

    /// Applies the value to `root`.
    pub fn apply(mut self, root: &mut SyntaxTable, problems: &Problems) {
        if self.from_variable {
            self.match_case(root);
        }
        if !self.names_what_exists(root, problems) {
            return;
        }
        let mut keys = self.keys.into_iter();
        let Some(first) = keys.next() else { return };
        let node = keys.rev().fold(self.node, |node, key| {
            let span = key.span;
            SyntaxNode::table(vec![(key, node)], span)
        });
        root.merge(SyntaxTable {
            entries: vec![(first, node)],
        });
    }

    /// Adopts the spelling of the file if only the case differs.
    fn match_case(&mut self, root: &SyntaxTable) {
        let mut table = Some(root);
        for key in &mut self.keys {
            let Some(here) = table else { return };
            let same = |(known, _): &&(Key, SyntaxNode)| known.name.to_lowercase() == key.name.to_lowercase();
            let exact = here.entry(&key.name);
            let Some((known, node)) = exact.or_else(|| here.entries.iter().find(same)) else {
                return;
            };
            key.name.clone_from(&known.name);
            table = match &node.value {
                SyntaxValue::Table(below) => Some(below),
                _ => None,
            };
        }
    }

    fn names_what_exists(&self, root: &SyntaxTable, problems: &Problems) -> bool {
        let [section, name, ..] = self.keys.as_slice() else {
            return true;
        };
        if !NAMED.contains(&section.name.as_str()) || (section.name == "sites" && name.name == "defaults") {
            return true;
        }
        let known: Vec<&str> = match root.get(&section.name).map(|node| &node.value) {
            Some(SyntaxValue::Table(table)) => table.entries.iter().map(|(key, _)| key.name.as_str()).collect(),
            _ => Vec::new(),
        };
        if known.contains(&name.name.as_str()) {
            return true;
        }
        let title = format!("there is no `{}` in `[{}]` to override", name.name, section.name);
        let label = did_you_mean(&name.name, known.iter().copied(), "not in the configuration");
        let problem = Problem::new(title).at(name.span, label).absence();
        problems.push(problem.help_names("known", &known));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Option<Vec<String>> {
        let sources = SourceTexts::default();
        let source = sources.add("--set", text);
        let keys = dotted_key(source, text)?;
        for key in &keys {
            assert!(
                sources.text(key.span).trim_matches(['"', '\'']) == key.name,
                "{key:?} of {text}"
            );
        }
        Some(keys.into_iter().map(|key| key.name).collect())
    }

    #[test]
    fn keys_are_read_as_toml_reads_them() {
        for (text, expected) in [
            ("celery.concurrency", Some(vec!["celery", "concurrency"])),
            ("sites.\"imot.bg\".timeout", Some(vec!["sites", "imot.bg", "timeout"])),
            ("sites.'a=b'", None),
            ("a", Some(vec!["a"])),
            ("", None),
            ("a..b", None),
            ("a b", None),
            ("[a]\nb", None),
        ] {
            let expected = expected.map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(keys(text), expected, "{text}");
        }
    }

    #[test]
    fn the_equals_sign_is_the_first_outside_quotes() {
        assert_eq!(equals_sign("a=b=c"), Some(1));
        assert_eq!(equals_sign("sites.\"a=b\".x=1"), Some(13));
        assert_eq!(equals_sign("abc"), None);
    }

    #[test]
    fn single_words_are_not_overrides() {
        for name in [
            "ORCH_CONFIG",
            "ORCH_LOG",
            "ORCH_RUN_ID",
            "ORCH_SERVICE",
            "OTHER__X",
            "ORCH",
        ] {
            assert!(!is_override(name), "{name}");
        }
        assert!(is_override("ORCH_CELERY__CONCURRENCY"));
    }
}
