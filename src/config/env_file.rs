//! `env_file`: `NAME=value` lines as shells, docker and python-dotenv read them.
//!
//! `export ` before a name is skipped; `#` begins a comment at the start of a line or after a space; `'...'` is taken as
//! it is; in `"..."` `\n`, `\t`, `\"`, `\\` and `\$` are escapes; quoted values may go over several lines. `${NAME}` and
//! `${NAME:-default}` are replaced, outside `'...'`, by the caller's variable or an earlier one of the file.

use std::collections::{BTreeMap, HashMap};

use super::problem::Problem;
use super::section::Reading;
use super::source::{SourceId, Span};

/// Bytes of a name, `=` and a value: `execve` takes no longer string (MAX_ARG_STRLEN, with its end).
const LONGEST_VALUE: usize = 131_071;
/// Bytes of all: `execve` takes a quarter of the usual limit of the stack.
const LARGEST: usize = 2 << 20;

/// Reads all variables in order; errors are reported with their line.
pub(super) fn parse(
    reading: &Reading,
    source: SourceId,
    text: &str,
    caller: &BTreeMap<String, String>,
) -> Vec<(String, String)> {
    let mut parser = Parser {
        reading,
        source,
        text,
        at: text.len() - text.trim_start_matches('\u{feff}').len(),
        caller,
        variables: Vec::new(),
        latest: HashMap::new(),
        total: 0,
    };
    while parser.at < text.len() {
        parser.line();
    }
    parser.variables
}

struct Parser<'p> {
    reading: &'p Reading,
    source: SourceId,
    text: &'p str,
    at: usize,
    caller: &'p BTreeMap<String, String>,
    variables: Vec<(String, String)>,
    /// Where in them the last one of each name is.
    latest: HashMap<String, usize>,
    /// Bytes of all of them.
    total: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// To the start of the next line.
    fn skip_line(&mut self) {
        self.at += self.rest().find('\n').map_or(self.rest().len(), |end| end + 1);
    }

    fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r']).len();
    }

    fn fail(&mut self, start: usize, title: &str, label: &str) {
        let line = self.text[start..].find('\n').map_or(self.text.len(), |end| start + end);
        let span = Span {
            source: self.source,
            start,
            end: line,
        };
        // The line may hold a secret: the place is enough.
        self.reading.sources.mask(span);
        self.reading.report(Problem::new(title).at(span, label));
        self.skip_line();
    }

    fn line(&mut self) {
        self.skip_spaces();
        if self.rest().is_empty() || self.rest().starts_with(['\n', '#']) {
            return self.skip_line();
        }
        if let Some(after) = self.rest().strip_prefix("export ") {
            self.at = self.text.len() - after.len();
            self.skip_spaces();
        }
        let start = self.at;
        let line = self.rest().split('\n').next().unwrap_or_default();
        let Some((name, _)) = line.split_once('=') else {
            return self.fail(start, "this line of the env_file sets nothing", "write `NAME=value`");
        };
        let length = name.len();
        let name = name.trim().to_owned();
        let good = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-');
        if name.is_empty() || !name.chars().all(good) || name.starts_with(|first: char| first.is_ascii_digit()) {
            return self.fail(
                start,
                "this line of the env_file names no variable",
                "before the `=` stands no name",
            );
        }
        self.at += length + 1;
        let spaces = self.rest().trim_start_matches([' ', '\t']).len();
        self.at = self.text.len() - spaces;
        let value = match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(start, quote),
            _ => Some(self.plain()),
        };
        if let Some(value) = value {
            if value.contains('\0') {
                return self.fail(
                    start,
                    "this line of the env_file holds a zero byte",
                    "cannot be passed on",
                );
            }
            if name.len() + 1 + value.len() > LONGEST_VALUE {
                return self.fail(
                    start,
                    "a variable of the env_file is too long",
                    "the kernel hands on 131,071 bytes at most",
                );
            }
            self.total += name.len() + value.len();
            if self.total > LARGEST {
                self.fail(
                    start,
                    "the variables of the env_file are too many",
                    "the kernel hands on 2 MiB at most, all together",
                );
                self.at = self.text.len();
                return;
            }
            self.latest.insert(name.clone(), self.variables.len());
            self.variables.push((name, value));
        }
    }

    fn plain(&mut self) -> String {
        let line = self.rest().split('\n').next().unwrap_or_default();
        let comment = line.char_indices().find(|(at, character)| {
            let before = line[..*at].chars().next_back();
            *character == '#' && before.is_none_or(char::is_whitespace)
        });
        let value = comment.map_or(line, |(at, _)| &line[..at]).trim();
        let value = self.expand(value);
        self.skip_line();
        value
    }

    fn quoted(&mut self, start: usize, quote: char) -> Option<String> {
        self.at += 1;
        let mut value = String::new();
        let mut expanded = String::new();
        let mut characters = self.rest().char_indices();
        let end = loop {
            match characters.next() {
                None => {
                    self.fail(
                        start,
                        "a quoted value of the env_file has no end",
                        "the closing quote is missing",
                    );
                    // Where it ought to end is not known; what follows would be misread.
                    self.at = self.text.len();
                    return None;
                }
                Some((at, character)) if character == quote => break at,
                Some((_, '\\')) if quote == '"' => {
                    // What stands before an escape is expanded by itself, so that `\$` stays a dollar sign.
                    if expanded.len() <= LONGEST_VALUE {
                        expanded.push_str(&self.expand(&value));
                    }
                    value.clear();
                    match characters.next().map(|(_, character)| character) {
                        Some('n') => expanded.push('\n'),
                        Some('t') => expanded.push('\t'),
                        Some('r') => expanded.push('\r'),
                        Some(character @ ('"' | '\\' | '$' | '\'')) => expanded.push(character),
                        Some(character) => expanded.extend(['\\', character]),
                        None => {}
                    }
                }
                Some((_, character)) => value.push(character),
            }
        };
        let value = match quote {
            '"' => expanded + &self.expand(&value),
            _ => value,
        };
        self.at += end + 1;
        self.skip_spaces();
        if !(self.rest().is_empty() || self.rest().starts_with(['\n', '#'])) {
            self.fail(
                start,
                "text follows a quoted value of the env_file",
                "the line goes on after the closing quote",
            );
            return None;
        }
        self.skip_line();
        Some(value)
    }

    /// Replaces `${NAME}` and `${NAME:-default}`; an unknown name without default is empty, as in a shell.
    fn expand(&self, text: &str) -> String {
        let mut value = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((inside, next)) = after.split_once('}') else {
                break;
            };
            value.push_str(before);
            let (name, default) = inside.split_once(":-").unwrap_or((inside, ""));
            let earlier = || {
                let place = self.latest.get(name)?;
                self.variables.get(*place).map(|(_, value)| value)
            };
            let known = self.caller.get(name).or_else(earlier).filter(|value| !value.is_empty());
            value.push_str(known.map_or(default, String::as_str));
            rest = next;
            if value.len() > LONGEST_VALUE {
                // Too long whatever follows: a few lines could stand for gigabytes.
                break;
            }
        }
        value + rest
    }
}
