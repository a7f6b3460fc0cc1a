//! A source file in parts: its lines of code without comments and texts, its comments, its string literals.

use std::path::{Path, PathBuf};

/// One line comment, without its slashes.
pub struct Comment {
    pub line: usize,
    pub is_doc: bool,
    pub text: String,
}

/// One string literal, as written.
pub struct Literal {
    pub line: usize,
    pub text: String,
    /// The code of the same line, up to the literal.
    pub before: String,
}

pub struct Source {
    /// Path from the root of the repository.
    pub path: PathBuf,
    /// Name of the crate, for a file of the program or a library; tests and benches belong to no crate.
    pub krate: Option<String>,
    pub lines: usize,
    /// Code by line; comments are removed, string literals are empty.
    pub code: Vec<String>,
    pub comments: Vec<Comment>,
    pub literals: Vec<Literal>,
}

impl Source {
    pub fn parse(path: &Path, text: &str) -> Self {
        let mut source = Self {
            path: path.to_owned(),
            krate: crate_of(path),
            lines: text.lines().count(),
            code: vec![String::new()],
            comments: Vec::new(),
            literals: Vec::new(),
        };
        let characters: Vec<char> = text.chars().collect();
        let mut at = 0;
        while at < characters.len() {
            at = source.token(&characters, at);
        }
        source
    }

    /// Reads one token and returns the position after it.
    fn token(&mut self, text: &[char], at: usize) -> usize {
        let rest = &text[at..];
        match rest {
            ['/', '/', ..] => {
                let end = position(rest, '\n');
                let comment: String = rest[2..end].iter().collect();
                let is_doc = comment.starts_with(['/', '!']);
                self.comments.push(Comment {
                    line: self.code.len(),
                    is_doc,
                    text: comment.trim_start_matches(['/', '!']).trim().to_owned(),
                });
                at + end
            }
            ['r', '"' | '#', ..] if !self.follows_word() => self.raw_literal(rest).map_or(at + 1, |length| at + length),
            ['"', ..] => at + self.literal(rest),
            ['\'', '\\', ..] => at + 2 + position(&rest[2..], '\'') + 1,
            ['\'', _, '\'', ..] => at + 3,
            ['\n', ..] => {
                self.code.push(String::new());
                at + 1
            }
            [character, ..] => {
                self.push(*character);
                at + 1
            }
            [] => at,
        }
    }

    fn follows_word(&self) -> bool {
        let last = self.code.last().and_then(|line| line.chars().last());
        last.is_some_and(|character| character.is_alphanumeric() || character == '_')
    }

    fn raw_literal(&mut self, rest: &[char]) -> Option<usize> {
        let hashes = rest[1..].iter().take_while(|character| **character == '#').count();
        if rest.get(1 + hashes) != Some(&'"') {
            self.push('r');
            return None;
        }
        let start = 2 + hashes;
        let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
        let length = rest[start..].windows(end.len()).position(|window| window == end)?;
        self.add_literal(&rest[start..start + length]);
        Some(start + length + end.len())
    }

    fn literal(&mut self, rest: &[char]) -> usize {
        let mut length = 1;
        while length < rest.len() && rest[length] != '"' {
            length += if rest[length] == '\\' { 2 } else { 1 };
        }
        self.add_literal(&rest[1..length.min(rest.len())]);
        length + 1
    }

    fn add_literal(&mut self, text: &[char]) {
        let before = self.code.last().cloned().unwrap_or_default();
        let text: String = text.iter().collect();
        let line = self.code.len();
        let further_lines = text.matches('\n').count();
        self.literals.push(Literal { line, text, before });
        self.push('"');
        self.push('"');
        for _ in 0..further_lines {
            self.code.push(String::new());
        }
    }

    fn push(&mut self, character: char) {
        self.code.last_mut().expect("there is a first line").push(character);
    }
}

fn position(text: &[char], character: char) -> usize {
    text.iter().position(|other| *other == character).unwrap_or(text.len())
}

fn crate_of(path: &Path) -> Option<String> {
    let mut parts = path.iter().map(|part| part.to_string_lossy());
    match (parts.next()?.as_ref(), parts.next(), parts.next()) {
        ("src", ..) => Some("orch".to_owned()),
        ("crates", Some(name), Some(folder)) if folder == "src" => Some(name.into_owned()),
        _ => None,
    }
}
