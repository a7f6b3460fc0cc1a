//! `env_file`: `NAME=value` lines as shells, docker and python-dotenv read them.
//!
//! `export ` before a name is skipped; `#` begins a comment at the start of a line or after a space; `'...'` is
//! literal; `"..."` has the escapes `\n`, `\t`, `\"`, `\\` and `\$`; quoted values may span several lines, which end
//! with line feeds even in a Windows file. Outside `'...'` `${NAME}` is replaced by the caller's variable or an earlier
//! variable of the file; the other forms are those of shells and docker compose, with substitutions inside their words:
//!
//! | form | set | empty | not set |
//! |---|---|---|---|
//! | `${NAME}` | value | empty | empty |
//! | `${NAME:-word}` | value | word | word |
//! | `${NAME-word}` | value | empty | word |
//! | `${NAME:+word}` | word | empty | empty |
//! | `${NAME+word}` | word | word | empty |
//! | `${NAME:?word}` | value | error | error |
//! | `${NAME?word}` | value | empty | error |

use std::collections::{BTreeMap, HashMap};

use crate::read::load_context::LoadContext;
use crate::syntax::problem::Problem;
use crate::syntax::source::SourceId;

/// Length in bytes of a name, `=` and a value at most: `execve` accepts no longer string (MAX_ARG_STRLEN, which
/// includes the final zero byte).
const MAX_VALUE_LENGTH: usize = 131_071;
/// Number of nested substitutions at most.
const MAX_DEPTH: usize = 16;
/// Title of problems with a substitution.
const SUBSTITUTION: &str = "invalid substitution in the env_file";
/// Number of bytes of all variables at most: `execve` accepts a quarter of the usual stack limit.
const MAX_TOTAL: usize = 2 << 20;

/// Reads all variables in order; problems are reported with their line.
pub(crate) fn parse(
    reading: &LoadContext,
    source: SourceId,
    text: &str,
    caller: &BTreeMap<String, String>,
) -> Vec<(String, String)> {
    let mut parser = EnvFileParser {
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

struct EnvFileParser<'p> {
    reading: &'p LoadContext,
    source: SourceId,
    text: &'p str,
    at: usize,
    caller: &'p BTreeMap<String, String>,
    variables: Vec<(String, String)>,
    /// Index in `variables` of the last variable of each name.
    latest: HashMap<String, usize>,
    /// Total length of all variables, in bytes.
    total: usize,
}

impl EnvFileParser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Moves to the start of the next line.
    fn skip_line(&mut self) {
        self.at += self.rest().find('\n').map_or(self.rest().len(), |end| end + 1);
    }

    fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r']).len();
    }

    fn fail(&mut self, start: usize, title: &str, label: &str) {
        let line = self.text[start..].find('\n').map_or(self.text.len(), |end| start + end);
        let span = self.source.span(start..line);
        // The line may hold a secret, so only the position is shown.
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
                "this line of the env_file has no valid variable name",
                "there is no name before the `=`",
            );
        }
        self.at += length + 1;
        let spaces = self.rest().trim_start_matches([' ', '\t']).len();
        self.at = self.text.len() - spaces;
        let value = match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(start, quote),
            _ => self.plain(start),
        };
        if let Some(value) = value {
            if value.contains('\0') {
                return self.fail(
                    start,
                    "this line of the env_file contains a zero byte",
                    "a variable cannot contain one",
                );
            }
            if name.len() + 1 + value.len() > MAX_VALUE_LENGTH {
                return self.fail(
                    start,
                    "a variable of the env_file is too long",
                    "the kernel accepts at most 131,071 bytes",
                );
            }
            self.total += name.len() + value.len();
            if self.total > MAX_TOTAL {
                self.fail(
                    start,
                    "the env_file is too large",
                    "the kernel accepts at most 2 MiB of variables in total",
                );
                self.at = self.text.len();
                return;
            }
            self.latest.insert(name.clone(), self.variables.len());
            self.variables.push((name, value));
        }
    }

    fn plain(&mut self, start: usize) -> Option<String> {
        let line = self.rest().split('\n').next().unwrap_or_default();
        let comment = line.char_indices().find(|(at, character)| {
            let before = line[..*at].chars().next_back();
            *character == '#' && before.is_none_or(char::is_whitespace)
        });
        let value = comment.map_or(line, |(at, _)| &line[..at]).trim();
        match self.expand(value) {
            Ok(value) => {
                self.skip_line();
                Some(value)
            }
            Err(wrong) => {
                self.fail(start, SUBSTITUTION, &wrong);
                None
            }
        }
    }

    fn quoted(&mut self, start: usize, quote: char) -> Option<String> {
        self.at += 1;
        let mut value = String::new();
        let mut characters = self.rest().char_indices().peekable();
        let end = loop {
            match characters.next() {
                None => {
                    self.fail(
                        start,
                        "a quoted value of the env_file is not closed",
                        "the closing quote is missing",
                    );
                    // The intended end is unknown, so the rest of the file would be parsed wrongly.
                    self.at = self.text.len();
                    return None;
                }
                Some((at, character)) if character == quote => break at,
                // A zero byte is refused here and so can represent an escaped dollar sign below.
                Some((_, '\0')) => return Some("\0".to_owned()),
                Some((_, '\\')) if quote == '"' => match characters.next().map(|(_, character)| character) {
                    Some('n') => value.push('\n'),
                    Some('t') => value.push('\t'),
                    Some('r') => value.push('\r'),
                    Some('$') => value.push('\0'),
                    Some(character @ ('"' | '\\' | '\'')) => value.push(character),
                    Some(character) => value.extend(['\\', character]),
                    None => {}
                },
                Some((_, '\r')) if characters.peek().is_some_and(|(_, next)| *next == '\n') => {}
                Some((_, character)) => value.push(character),
            }
        };
        if quote == '"' {
            value = match self.expand(&value) {
                Ok(expanded) => expanded.replace('\0', "$"),
                Err(wrong) => {
                    // Parsing continues after the value.
                    self.at += end;
                    self.fail(start, SUBSTITUTION, &wrong);
                    return None;
                }
            };
        }
        self.at += end + 1;
        self.skip_spaces();
        if !(self.rest().is_empty() || self.rest().starts_with(['\n', '#'])) {
            self.fail(
                start,
                "text follows a quoted value of the env_file",
                "there is text after the closing quote",
            );
            return None;
        }
        self.skip_line();
        Some(value)
    }

    /// Replaces all substitutions; the error describes the invalid one.
    fn expand(&self, text: &str) -> Result<String, String> {
        let mut value = String::new();
        self.expand_into(&mut value, text, 0)?;
        Ok(value)
    }

    fn expand_into(&self, value: &mut String, text: &str, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} nested substitutions"));
        }
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some(end) = closing_brace(after) else {
                break;
            };
            value.push_str(before);
            self.substitute(value, &after[..end], depth)?;
            rest = &after[end + 1..];
            if value.len() > MAX_VALUE_LENGTH {
                // The value is too long already; without this stop a few lines could grow to gigabytes.
                break;
            }
        }
        value.push_str(rest);
        Ok(())
    }

    /// Expands one substitution, given the text between the braces.
    fn substitute(&self, value: &mut String, inside: &str, depth: usize) -> Result<(), String> {
        let in_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.');
        let length = inside.find(|character| !in_name(character)).unwrap_or(inside.len());
        let (name, form) = inside.split_at(length);
        if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
            return Err("`${...}` has no valid variable name".to_owned());
        }
        let earlier = || {
            let place = self.latest.get(name)?;
            self.variables.get(*place).map(|(_, value)| value)
        };
        // With a colon an empty variable counts as not set.
        let (counts_empty, form) = match form.strip_prefix(':') {
            Some(form) => (false, form),
            None => (true, form),
        };
        let known = self.caller.get(name).or_else(earlier);
        let set = known.filter(|value| counts_empty || !value.is_empty());
        let mut characters = form.chars();
        let operator = characters.next();
        let word = characters.as_str();
        match (operator, set) {
            (None, _) if counts_empty => value.push_str(known.map_or("", String::as_str)),
            (Some('-' | '?'), Some(set)) => value.push_str(set),
            (Some('-'), None) | (Some('+'), Some(_)) => self.expand_into(value, word, depth + 1)?,
            (Some('+'), None) => {}
            (Some('?'), None) => {
                let mut why = String::new();
                self.expand_into(&mut why, word, depth + 1)?;
                return Err(match why.is_empty() {
                    true => format!("`{name}` is not set"),
                    false => format!("`{name}` is not set: {why}"),
                });
            }
            (None | Some(_), _) => {
                return Err(format!(
                    "`${{{name}...}}` has none of the operators `:-`, `-`, `:+`, `+`, `:?`, `?`; write `$` as `\\$` in double quotes"
                ));
            }
        }
        Ok(())
    }
}

/// Finds the closing brace of the substitution that has just been opened; the word may contain substitutions.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    let mut before = ' ';
    for (at, character) in text.char_indices() {
        match character {
            '{' if before == '$' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
        before = character;
    }
    None
}
