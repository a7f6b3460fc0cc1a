//! One value and the ways to read it: each returns the value, or reports what is wrong with it and returns none.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;

use super::duration::{format_duration, parse_duration};
use super::problem::{Problem, alternatives, nearest};
use super::section::Reading;
use super::size::parse_size;
use super::source::Span;
use super::tree::{Node, Table, Value};
use crate::large_integer;

/// A value, where it belongs and where it stands.
pub(super) struct Item<'a> {
    pub reading: &'a Reading,
    pub node: &'a Node,
    /// Such as `celery.queues[1]`.
    pub path: String,
    /// The path with `*` for names that the user chooses and `[]` for positions.
    pub pattern: String,
}

impl<'a> Item<'a> {
    /// Reports `problem` at this value.
    pub fn problem(&self, title: impl Into<String>, label: impl Into<String>) -> Problem {
        Problem::new(title).at(self.node.span, label)
    }

    pub fn report<T>(&self, problem: Problem) -> Option<T> {
        self.reading.report(problem);
        None
    }

    /// Reports that this is not the kind of value that is wanted.
    pub fn wrong(&self, wanted: &str) {
        self.wrong_with_help::<()>(wanted, None);
    }

    fn wrong_with_help<T>(&self, wanted: &str, help: impl Into<Option<String>>) -> Option<T> {
        if let Value::Broken = self.node.value {
            return None;
        }
        let title = format!("`{}` must be {wanted}", self.path);
        let problem = self.problem(title, format!("this is {}", self.node.kind()));
        self.report(match help.into() {
            Some(help) => problem.help(help),
            None => problem,
        })
    }

    pub fn span(&self) -> Span {
        self.node.span
    }

    /// The key alone, for examples of what to write.
    fn key(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }

    /// The text, if this is one or may be taken as one.
    fn as_text(&self) -> Option<&'a str> {
        match (&self.node.value, &self.node.text) {
            (Value::Text(text), _) => Some(text),
            (_, Some(text)) => Some(text),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<String> {
        match self.as_text() {
            Some(text) => Some(text.to_owned()),
            None => {
                self.wrong("a string");
                None
            }
        }
    }

    /// A text with at least one character and none that would break a line.
    pub fn line(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            return self.report(self.problem(format!("`{}` must not be empty", self.path), "empty"));
        }
        if text.contains(['\n', '\r', '\0']) {
            return self.report(self.problem(
                format!("`{}` must be a single line", self.path),
                "has a line break or a zero byte",
            ));
        }
        Some(text)
    }

    /// A text, or a number or boolean as the text it was written as: environment variables, settings.
    pub fn scalar_text(&self) -> Option<String> {
        let text = match &self.node.value {
            Value::Integer(number) => number.to_string(),
            Value::LargeInteger(digits) => digits.clone(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            _ => match self.as_text() {
                Some(text) => text.to_owned(),
                None => {
                    self.wrong("a string, a number or a boolean");
                    return None;
                }
            },
        };
        if text.contains(['\0']) {
            return self.report(self.problem(format!("`{}` holds a zero byte", self.path), "cannot be passed on"));
        }
        Some(text)
    }

    /// A name that stands in file names and Redis keys.
    pub fn name(&self) -> Option<String> {
        let text = self.line()?;
        if let Some(why) = bad_name(&text) {
            return self.report(self.problem(format!("`{text}` cannot be `{}`", self.path), why));
        }
        Some(text)
    }

    pub fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            Value::Boolean(truth) => Some(*truth),
            Value::Text(text) if text == "true" || text == "false" => self.wrong_with_help(
                "`true` or `false`",
                format!("without quotes: `{} = {text}`", self.key()),
            ),
            _ => {
                self.wrong("`true` or `false`");
                None
            }
        }
    }

    /// A whole number of a range.
    pub fn integer<T: TryFrom<i64>>(&self, range: std::ops::RangeInclusive<i64>) -> Option<T> {
        let number = match &self.node.value {
            Value::Integer(number) => *number,
            Value::LargeInteger(_) => {
                let label = "does not fit 64 bits";
                return self.report(self.problem(format!("`{}` is out of range", self.path), label));
            }
            Value::Text(text) if text.trim().parse::<i64>().is_ok() => {
                let help = format!("without quotes: `{} = {}`", self.key(), text.trim());
                return self.wrong_with_help("a whole number", help);
            }
            _ => {
                self.wrong("a whole number");
                return None;
            }
        };
        let (low, high) = (*range.start(), *range.end());
        let fits = T::try_from(number).ok().filter(|_| range.contains(&number));
        if fits.is_none() {
            let wanted = match high {
                i64::MAX => format!("{low} or more"),
                _ => format!("{low} to {high}"),
            };
            self.reading
                .report(self.problem(format!("`{}` is out of range", self.path), format!("must be {wanted}")));
        }
        fits
    }

    /// A number with or without a fraction.
    pub fn number(&self, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let number = match &self.node.value {
            Value::Integer(number) => *number as f64,
            Value::Float(number) => *number,
            Value::LargeInteger(digits) => digits.parse().unwrap_or(f64::INFINITY),
            _ => {
                self.wrong("a number");
                return None;
            }
        };
        if range.contains(&number) {
            return Some(number);
        }
        let label = format!("must be {} to {}", range.start(), range.end());
        self.report(self.problem(format!("`{}` is out of range", self.path), label))
    }

    /// A share in hundredths: `"60%"`, 1 to 100, of a key that may be a number as well.
    pub fn percent(&self) -> Option<u8> {
        let share = match &self.node.value {
            Value::Text(text) => text.trim().strip_suffix('%').and_then(|text| text.trim().parse().ok()),
            _ => None,
        };
        let share = share.filter(|share| (1..=100).contains(share));
        if share.is_none() {
            let title = format!("`{}` must be a number, or a share as text", self.path);
            let help = format!("such as `{0} = 50` or `{0} = \"60%\"`", self.key());
            self.reading.report(
                self.problem(title, "no share: `1%` to `100%`, in whole hundredths")
                    .help(help),
            );
        }
        share
    }

    /// A TCP port; 0 where orch is to choose one.
    pub fn port(&self, lowest: u16) -> Option<u16> {
        self.integer(i64::from(lowest)..=65_535)
    }

    pub fn duration(&self) -> Option<Duration> {
        let text = match &self.node.value {
            Value::Text(text) => text,
            Value::Integer(number) if *number >= 0 => {
                let help = format!("a number needs a unit: `{} = \"{number}s\"`", self.key());
                return self.wrong_with_help("a duration such as `\"90s\"`", help);
            }
            _ => {
                self.wrong("a duration such as `\"90s\"`");
                return None;
            }
        };
        match parse_duration(text) {
            Ok(duration) => Some(duration),
            Err(error) => self.report(self.problem(format!("`{}` is not a duration", self.path), error.to_string())),
        }
    }

    /// A size in bytes.
    pub fn size(&self) -> Option<u64> {
        let text = match &self.node.value {
            Value::Text(text) => text.clone(),
            Value::Integer(0) => return Some(0),
            Value::Integer(number) if *number > 0 => {
                let help = format!("a number needs a unit: `{} = \"{number}MiB\"`", self.key());
                return self.wrong_with_help("a size such as `\"512MiB\"`", help);
            }
            _ => {
                self.wrong("a size such as `\"512MiB\"`");
                return None;
            }
        };
        match parse_size(&text) {
            Ok(bytes) => Some(bytes),
            Err(error) => self.report(self.problem(format!("`{}` is not a size", self.path), error.to_string())),
        }
    }

    /// A size that is not zero.
    pub fn positive_size(&self) -> Option<u64> {
        match self.size()? {
            0 => self.report(self.problem(format!("`{}` is out of range", self.path), "must be more than zero")),
            size => Some(size),
        }
    }

    /// A duration that is not zero.
    pub fn positive_duration(&self) -> Option<Duration> {
        match self.duration()? {
            Duration::ZERO => {
                self.report(self.problem(format!("`{}` is out of range", self.path), "must be longer than zero"))
            }
            duration => Some(duration),
        }
    }

    /// A duration of at least `lowest`.
    pub fn duration_from(&self, lowest: Duration) -> Option<Duration> {
        let duration = self.duration()?;
        if duration >= lowest {
            return Some(duration);
        }
        let label = format!("must be {} or more", format_duration(lowest));
        self.report(self.problem(format!("`{}` is out of range", self.path), label))
    }

    /// One of some words.
    pub fn choice<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let Some(text) = self.as_text() else {
            self.wrong(&alternatives(&names));
            return None;
        };
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text) {
            return Some(value.clone());
        }
        let label = match nearest(text, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "not one of them".to_owned(),
        };
        self.report(self.problem(format!("`{}` must be {}", self.path, alternatives(&names)), label))
    }

    /// A path; a relative one starts at the configuration's directory.
    pub fn path(&self) -> Option<PathBuf> {
        let text = self.line()?;
        if text == "~" || text.starts_with("~/") {
            let problem = self.problem(format!("`{}` starts with `~`", self.path), "`~` has no meaning here");
            return self.report(problem.help("write the whole path, or one relative to the configuration"));
        }
        Some(super::paths::join(&self.reading.base, &text))
    }

    /// The elements of a list.
    pub fn items(&self) -> Option<Vec<Item<'a>>> {
        let Value::List(items) = &self.node.value else {
            let example = self.as_text().map(|text| {
                let words: Vec<String> = text.split(',').map(|word| format!("{:?}", word.trim())).collect();
                format!("a list, even of one: `{} = [{}]`", self.key(), words.join(", "))
            });
            return self.wrong_with_help("a list", example);
        };
        let item = |(index, node)| Item {
            reading: self.reading,
            node,
            path: format!("{}[{index}]", self.path),
            pattern: format!("{}[]", self.pattern),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A list whose elements are read one by one; those that cannot be read are left out.
    pub fn list<T>(&self, read: impl Fn(&Item<'a>) -> Option<T>) -> Option<Vec<T>> {
        Some(self.items()?.iter().filter_map(read).collect())
    }

    /// The entries of a table whose keys the user chooses.
    pub fn entries(&self) -> Option<Vec<(&'a super::tree::Key, Item<'a>)>> {
        let Value::Table(Table { entries }) = &self.node.value else {
            self.wrong("a table");
            return None;
        };
        let item = |node, name: &str| Item {
            reading: self.reading,
            node,
            path: format!("{}.{name}", self.path),
            pattern: format!("{}.*", self.pattern),
        };
        Some(entries.iter().map(|(key, node)| (key, item(node, &key.name))).collect())
    }

    /// The value as JSON, for task arguments.
    pub fn json(&self) -> Json {
        json(self.node)
    }
}

/// A tree as JSON; a date becomes its text. Numbers that JSON does not have were reported when they were parsed.
pub(super) fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null | Value::Broken => Json::Null,
        Value::Text(text) | Value::Date(text) => Json::from(text.as_str()),
        Value::Integer(number) => Json::from(*number),
        // Its digits were checked when it was read.
        Value::LargeInteger(digits) => large_integer::value(digits).unwrap_or_default(),
        Value::Float(number) => Json::from(*number),
        Value::Boolean(truth) => Json::from(*truth),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Table(table) => {
            let entries = table.entries.iter().map(|(key, node)| (key.name.clone(), json(node)));
            Json::Object(entries.collect())
        }
    }
}

/// Why a text cannot be the name of a service, a site or an instance.
pub(super) fn bad_name(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("a name must not be empty");
    }
    if text.starts_with(['.', '-']) {
        return Some("a name must not start with `.` or `-`");
    }
    if !text
        .chars()
        .all(|character| character.is_alphanumeric() || matches!(character, '.' | '_' | '-'))
    {
        return Some("letters, digits, `.`, `_` and `-` only: the name stands in file names and Redis keys");
    }
    (text.len() > 100).then_some("longer than 100 bytes")
}
