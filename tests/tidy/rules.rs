//! The rules. Each takes files and returns what breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::source::{Comment, Source};

const MAX_LINES: usize = 500;
const BANNED_OPENINGS: [&str; 14] = [
    "What ", "Whether ", "Who ", "Whose ", "Which ", "So many", "So long", "Those ", "The same", "As above",
    "Of which", "By whom", "Has it", "How long",
];
/// Words of prose that say less than others: metaphors and idioms that a reader of English as a third language must guess.
const BANNED_WORDS: [&str; 22] = [
    "tell",
    "tells",
    "told",
    "beside",
    "meanwhile",
    "all the same",
    "be had",
    "in hand",
    "once more",
    "by whose word",
    "at work",
    "ghost",
    "ghosts",
    "errand",
    "desk",
    "whereabouts",
    "undone",
    "so many",
    "so long as",
    "no matter",
    "is at it",
    "be it",
];
/// What an error could begin with that names an action and does not say that the action failed.
const IMPERATIVES: [&str; 24] = [
    "make ", "take ", "write ", "read ", "start ", "put ", "end ", "open ", "create ", "remove ", "run ", "send ",
    "ask ", "connect ", "look ", "list ", "close ", "set ", "load ", "find ", "get ", "wait ", "lock ", "bring ",
];
const DURATION_ENDINGS: [&str; 6] = ["TIMEOUT", "INTERVAL", "BACKOFF", "GRACE", "DELAY", "DEADLINE"];
/// First words of functions' documentation that end in "s" and are no verbs.
const NO_VERBS: [&str; 12] = [
    "this", "its", "as", "always", "is", "has", "was", "does", "less", "unless", "besides", "these",
];

pub type Rule = fn(&Source, &Glossary) -> Vec<String>;

pub const FILE_RULES: [(&str, Rule); 6] = [
    ("at most 500 lines a file", lines),
    ("a documentation begins with a verb or a noun", openings),
    ("no banned words", words),
    ("an error says what failed", headlines),
    ("the name of a duration says what it bounds", durations),
    ("one-word types stand in the glossary", one_word_types),
];

/// The terms of `GLOSSARY.md`, as type names: `RestartPolicy`.
pub struct Glossary(BTreeSet<String>);

impl Glossary {
    pub fn parse(text: &str) -> Self {
        let terms = text
            .lines()
            .filter_map(|line| line.strip_prefix("- **")?.split_once("**"));
        let name = |term: &str| -> String {
            let words = term.split([' ', '-']);
            words.map(|word| word[..1].to_uppercase() + &word[1..]).collect()
        };
        Self(terms.map(|(term, _)| name(term)).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name) || name.strip_suffix('s').is_some_and(|one| self.0.contains(one))
    }
}

fn lines(source: &Source, _: &Glossary) -> Vec<String> {
    let is_over = source.lines > MAX_LINES;
    is_over.then(|| format!("{} lines", source.lines)).into_iter().collect()
}

fn openings(source: &Source, _: &Glossary) -> Vec<String> {
    let mut broken = Vec::new();
    for comment in first_lines(source) {
        let opening = BANNED_OPENINGS
            .iter()
            .find(|opening| comment.text.starts_with(**opening));
        if let Some(opening) = opening {
            broken.push(at(comment.line, &format!("begins with {opening:?}: {}", comment.text)));
        } else if comment.is_doc && documents_function(source, comment) && !begins_with_verb(&comment.text) {
            broken.push(at(comment.line, &format!("begins with no verb: {}", comment.text)));
        }
    }
    broken
}

/// The first line of each block of comments.
pub fn first_lines(source: &Source) -> impl Iterator<Item = &Comment> {
    let lines: BTreeSet<usize> = source.comments.iter().map(|comment| comment.line).collect();
    source
        .comments
        .iter()
        .filter(move |comment| !lines.contains(&(comment.line - 1)))
}

fn documents_function(source: &Source, comment: &Comment) -> bool {
    let documented = source.code[comment.line - 1..].iter().map(|line| line.trim());
    let mut documented = documented.filter(|line| !line.is_empty() && !line.starts_with("#["));
    documented.next().is_some_and(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words
            .iter()
            .take_while(|word| !word.contains('(') || word.starts_with("pub("))
            .any(|word| *word == "fn")
    })
}

fn begins_with_verb(text: &str) -> bool {
    let word = text.split_whitespace().next().unwrap_or_default();
    let word = word.trim_end_matches([',', '.', ':', ';']).to_lowercase();
    word.ends_with('s') && !word.ends_with("ss") && !NO_VERBS.contains(&word.as_str()) || word == "is" || word == "has"
}

fn words(source: &Source, _: &Glossary) -> Vec<String> {
    let comments = source.comments.iter().map(|comment| (comment.line, &comment.text));
    let literals = source.literals.iter().map(|literal| (literal.line, &literal.text));
    let mut broken = Vec::new();
    for (line, text) in comments.chain(literals) {
        for word in BANNED_WORDS {
            if has_words(text, word) {
                broken.push(at(line, &format!("{word:?} in: {text}")));
            }
        }
    }
    broken
}

/// Searches for whole words.
pub fn has_words(text: &str, words: &str) -> bool {
    let text = text.to_lowercase();
    let is_word =
        |character: Option<char>| character.is_some_and(|character| character.is_alphanumeric() || character == '_');
    text.match_indices(words).any(|(start, _)| {
        !is_word(text[..start].chars().next_back()) && !is_word(text[start + words.len()..].chars().next())
    })
}

fn headlines(source: &Source, _: &Glossary) -> Vec<String> {
    let mut broken = Vec::new();
    for literal in &source.literals {
        let before = literal
            .before
            .trim_end()
            .trim_end_matches("format!(")
            .trim_end()
            .trim_end_matches("||")
            .trim_end();
        let is_headline = ["context(", "bail!(", "anyhow!("]
            .iter()
            .any(|call| before.ends_with(call));
        if is_headline
            && IMPERATIVES
                .iter()
                .any(|imperative| literal.text.starts_with(imperative))
        {
            broken.push(at(literal.line, &format!("an order, not a failure: {}", literal.text)));
        }
    }
    broken
}

fn durations(source: &Source, _: &Glossary) -> Vec<String> {
    let mut broken = Vec::new();
    for (index, line) in source.code.iter().enumerate() {
        let Some((_, constant)) = line.split_once("const ") else {
            continue;
        };
        let Some((name, value)) = constant.split_once(':') else {
            continue;
        };
        let is_duration =
            value.trim_start().starts_with("Duration ") || value.trim_start().starts_with("std::time::Duration ");
        if is_duration && !DURATION_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            broken.push(at(index + 1, &format!("const {name}")));
        }
    }
    broken
}

fn one_word_types(source: &Source, glossary: &Glossary) -> Vec<String> {
    if source.krate.is_none() {
        return Vec::new();
    }
    let types = types(source).into_iter();
    let unknown = types.filter(|(_, name)| is_one_word(name) && !glossary.has(name));
    unknown.map(|(line, name)| at(line, &format!("type {name}"))).collect()
}

pub fn is_one_word(name: &str) -> bool {
    name.chars().filter(|character| character.is_uppercase()).count() == 1
}

/// The types that a file defines, with their lines. Associated types are none.
pub fn types(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in source.code.iter().enumerate() {
        let is_associated = line.starts_with(' ') && line.trim_start().starts_with("type ");
        let words: Vec<&str> = line.split_whitespace().collect();
        let keyword = words
            .iter()
            .position(|word| ["struct", "enum", "trait", "union", "type"].contains(word));
        let Some(keyword) = keyword.filter(|keyword| !is_associated && *keyword <= 2) else {
            continue;
        };
        let are_modifiers = words[..keyword]
            .iter()
            .all(|word| word.starts_with("pub") || ["unsafe", "in"].contains(word));
        let Some(name) = words.get(keyword + 1).filter(|_| are_modifiers) else {
            continue;
        };
        let end = name.find(|character: char| !character.is_alphanumeric());
        let name = &name[..end.unwrap_or(name.len())];
        if name.starts_with(char::is_uppercase) {
            found.push((index + 1, name.to_owned()));
        }
    }
    found
}

/// Finds type names that a crate defines more than once.
pub fn repeated_types(sources: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for source in sources {
        let Some(krate) = &source.krate else {
            continue;
        };
        for (line, name) in types(source) {
            let place = format!("{}:{line}", source.path.display());
            places.entry((krate.clone(), name)).or_default().push(place);
        }
    }
    let repeated = places.into_iter().filter(|(_, places)| places.len() > 1);
    repeated
        .map(|((krate, name), places)| format!("{name} in {krate}: {}", places.join(", ")))
        .collect()
}

/// Finds modules that a documentation names without a link that `cargo doc` checks.
pub fn unlinked_modules(sources: &[Source]) -> Vec<String> {
    let mut modules: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        if let (Some(krate), Some(stem)) = (&source.krate, source.path.file_stem()) {
            modules
                .entry(krate)
                .or_default()
                .insert(stem.to_string_lossy().into_owned());
        }
    }
    let mut broken = Vec::new();
    for source in sources {
        let Some(modules) = source.krate.as_deref().and_then(|krate| modules.get(krate)) else {
            continue;
        };
        for comment in source.comments.iter().filter(|comment| comment.is_doc) {
            let pieces: Vec<&str> = comment.text.split('`').collect();
            for (index, name) in pieces.iter().enumerate().skip(1).step_by(2) {
                let is_linked = pieces[index - 1].ends_with('[');
                let module = name
                    .strip_suffix(".rs")
                    .or_else(|| name.split_once("::").map(|(first, _)| first));
                if !is_linked && module.is_some_and(|module| modules.contains(module)) {
                    let mut place = String::new();
                    let _ = write!(place, "{}:{}: `{name}` is no link", source.path.display(), comment.line);
                    broken.push(place);
                }
            }
        }
    }
    broken
}

fn at(line: usize, problem: &str) -> String {
    format!("{line}: {problem}")
}
