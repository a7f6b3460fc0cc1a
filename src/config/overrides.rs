//! `--set celery.concurrency=4` and `ORCH_CELERY__CONCURRENCY=4`: single values laid over the file, each a source of its
//! own, so that errors point at what the user typed.

use super::problem::{Problem, Problems, nearest};
use super::source::{SourceId, Sources, Span};
use super::toml_tree;
use super::tree::{Key, Node, Table, Value, is_secret};

/// Sections whose entries are named by the user: an override may change one, but not make one up, or a misspelt
/// `ORCH_SITES__BOKS__TIMEOUT` would be a new site.
const NAMED: [&str; 3] = ["ports", "services", "sites"];

/// One value and the keys that lead to it.
#[derive(Clone, Debug)]
pub(super) struct Override {
    keys: Vec<Key>,
    pub node: Node,
    /// Variables have no case: their keys are matched without it.
    from_variable: bool,
}

/// Reads the `ORCH_A__B` variables in the order of their names, then the `--set` arguments.
pub(super) fn read(
    environment: &[(String, String)],
    arguments: &[String],
    sources: &Sources,
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

/// `ORCH_CONFIG` and other single words are orch's own; two words with two underscores between are a key.
fn is_override(name: &str) -> bool {
    name.strip_prefix("ORCH_").is_some_and(|rest| rest.contains("__"))
}

fn variable(name: &str, value: &str, sources: &Sources, problems: &Problems) -> Option<Override> {
    let source = sources.add("environment", format!("{name}={value}"));
    let mut keys = Vec::new();
    let mut start = "ORCH_".len();
    for word in name[start..].split("__") {
        let span = Span {
            source,
            start,
            end: start + word.len(),
        };
        if word.is_empty() {
            let problem = Problem::new(format!("the variable `{name}` names no key"));
            let problem = problem.at(span, "two underscores separate the words of a key");
            problems.push(problem.help("such as `ORCH_CELERY__CONCURRENCY=4` for `[celery] concurrency`"));
            return None;
        }
        // The names of variables keep their case: they are the user's words, not orch's keys.
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

fn argument(text: &str, sources: &Sources, problems: &Problems) -> Option<Override> {
    let source = sources.add("--set", text);
    let whole = Span {
        source,
        start: 0,
        end: text.len(),
    };
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
        return wrong(format!("`--set {text}` names no key"), "before the `=` stands no key");
    };
    let node = value_node(source, equals + 1, &text[equals + 1..], problems);
    Some(Override {
        keys,
        node,
        from_variable: false,
    })
}

/// The first `=` outside quotes.
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

/// `sites."imot.bg".timeout`, as TOML reads it.
fn dotted_key(source: SourceId, text: &str) -> Option<Vec<Key>> {
    if text.contains(['\n', '\r', '=', '#', '[']) {
        return None;
    }
    let ignored = Problems::default();
    let mut table = toml_tree::document(source, &format!("{text} = 0"), &ignored);
    let mut keys = Vec::new();
    while let Some((key, node)) = table.entries.pop() {
        keys.push(key);
        match node.value {
            Value::Table(below) => table = below,
            _ => break,
        }
    }
    (ignored.is_empty() && !keys.is_empty()).then_some(keys)
}

/// The value as TOML, else as a string; numbers and booleans may be taken as strings too, having no quotes to tell.
fn value_node(source: SourceId, offset: usize, text: &str, problems: &Problems) -> Node {
    let span = Span {
        source,
        start: offset,
        end: offset + text.len(),
    };
    let spaces = text.len() - text.trim_start().len();
    match toml_tree::value(source, offset + spaces, text.trim(), problems) {
        Some(mut node) => {
            if !matches!(node.value, Value::Text(_) | Value::List(_) | Value::Table(_)) {
                node.text = Some(text.trim().to_owned());
            }
            node
        }
        None => Node::new(Value::Text(text.to_owned()), span),
    }
}

impl Override {
    /// Whether it changes a site: those are laid over when all files of sites are known.
    pub fn is_of_sites(&self) -> bool {
        self.keys.first().is_some_and(|key| key.name == "sites")
    }

    /// Lays the value over `root`.
    pub fn apply(mut self, root: &mut Table, problems: &Problems) {
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
            let entries = vec![(key, node)];
            Node::new(Value::Table(Table { entries }), span)
        });
        root.merge(Table {
            entries: vec![(first, node)],
        });
    }

    /// Takes the spelling of the file where it differs by case alone.
    fn match_case(&mut self, root: &Table) {
        let mut table = Some(root);
        for key in &mut self.keys {
            let Some(here) = table else { return };
            let same = |(known, _): &&(Key, Node)| known.name.to_lowercase() == key.name.to_lowercase();
            let exact = here.entry(&key.name);
            let Some((known, node)) = exact.or_else(|| here.entries.iter().find(same)) else {
                return;
            };
            key.name.clone_from(&known.name);
            table = match &node.value {
                Value::Table(below) => Some(below),
                _ => None,
            };
        }
    }

    fn names_what_exists(&self, root: &Table, problems: &Problems) -> bool {
        let [section, name, ..] = self.keys.as_slice() else {
            return true;
        };
        if !NAMED.contains(&section.name.as_str()) || (section.name == "sites" && name.name == "defaults") {
            return true;
        }
        let known: Vec<&str> = match root.get(&section.name).map(|node| &node.value) {
            Some(Value::Table(table)) => table.entries.iter().map(|(key, _)| key.name.as_str()).collect(),
            _ => Vec::new(),
        };
        if known.contains(&name.name.as_str()) {
            return true;
        }
        let title = format!("there is no `{}` in `[{}]` to override", name.name, section.name);
        let problem = Problem::new(title).at(
            name.span,
            match nearest(&name.name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "not in the configuration".to_owned(),
            },
        );
        let problem = problem.absence();
        problems.push(match known.as_slice() {
            [] => problem,
            known => problem.help(format!("known: {}", known.join(", "))),
        });
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Option<Vec<String>> {
        let sources = Sources::default();
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
