//! Readers of one value: each returns the value, or reports a problem and returns `None`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::load_context::LoadContext;
use crate::syntax::problem::{Problem, alternatives, did_you_mean};
use crate::syntax::source::SourceSpan;
use crate::syntax::tree::{Key, SyntaxNode, SyntaxTable, SyntaxValue};
use orch_base::text::duration::{format_duration, parse_duration};
use orch_base::text::large_integer;
use orch_base::text::size_text::parse_size;

/// Value with its path in the configuration and its position in the text.
pub(crate) struct ConfigItem<'a> {
    pub reading: &'a LoadContext,
    pub node: &'a SyntaxNode,
    /// Path, such as `celery.queues[1]`.
    pub path: String,
    /// Path with `*` for names that the user chooses and `[]` for positions.
    pub pattern: String,
}

impl<'a> ConfigItem<'a> {
    /// Creates a problem at this value.
    pub fn problem(&self, title: impl Into<String>, label: impl Into<String>) -> Problem {
        Problem::new(title).at(self.node.span, label)
    }

    pub fn report<T>(&self, problem: Problem) -> Option<T> {
        self.reading.report(problem);
        None
    }

    /// Reports a problem at this value.
    pub fn refuse<T>(&self, title: impl Into<String>, label: impl Into<String>) -> Option<T> {
        self.report(self.problem(title, label))
    }

    fn out_of_range<T>(&self, label: impl Into<String>) -> Option<T> {
        self.refuse(format!("`{}` is out of range", self.path), label)
    }

    /// Reports that the value has the wrong kind.
    pub fn wrong<T>(&self, wanted: &str) -> Option<T> {
        self.wrong_with_help(wanted, None)
    }

    fn wrong_with_help<T>(&self, wanted: &str, help: impl Into<Option<String>>) -> Option<T> {
        if let SyntaxValue::Broken = self.node.value {
            return None;
        }
        let title = format!("`{}` must be {wanted}", self.path);
        let problem = self.problem(title, format!("this is {}", self.node.kind()));
        self.report(match help.into() {
            Some(help) => problem.help(help),
            None => problem,
        })
    }

    pub fn span(&self) -> SourceSpan {
        self.node.span
    }

    /// Returns the key alone, for examples in hints.
    fn key(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }

    /// Returns the text of a string, or of another value that may be read as a string.
    fn as_text(&self) -> Option<&'a str> {
        match (&self.node.value, &self.node.text) {
            (SyntaxValue::Text(text), _) => Some(text),
            (_, Some(text)) => Some(text),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<String> {
        self.as_text().map(str::to_owned).or_else(|| self.wrong("a string"))
    }

    /// Reads a text with at least one character other than spaces and without line breaks.
    pub fn line(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            return self.refuse(format!("`{}` must not be empty", self.path), "empty");
        }
        if text.contains(['\n', '\r', '\0']) {
            return self.refuse(
                format!("`{}` must be a single line", self.path),
                "has a line break or a zero byte",
            );
        }
        Some(text)
    }

    /// Reads a text, or a number or boolean as text: environment variables, settings.
    pub fn scalar_text(&self) -> Option<String> {
        let text = match &self.node.value {
            SyntaxValue::Integer(number) => number.to_string(),
            SyntaxValue::LargeInteger(digits) => digits.clone(),
            SyntaxValue::Float(number) => number.to_string(),
            SyntaxValue::Boolean(truth) => truth.to_string(),
            _ => match self.as_text() {
                Some(text) => text.to_owned(),
                None => return self.wrong("a string, a number or a boolean"),
            },
        };
        if text.contains(['\0']) {
            return self.refuse(
                format!("`{}` contains a zero byte", self.path),
                "a variable cannot contain one",
            );
        }
        Some(text)
    }

    /// Reads a name that is used in file names and Redis keys.
    pub fn name(&self) -> Option<String> {
        let text = self.line()?;
        if let Some(why) = bad_name(&text) {
            return self.refuse(format!("`{text}` cannot be `{}`", self.path), why);
        }
        Some(text)
    }

    pub fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            SyntaxValue::Boolean(truth) => Some(*truth),
            SyntaxValue::Text(text) if text == "true" || text == "false" => self.wrong_with_help(
                "`true` or `false`",
                format!("without quotes: `{} = {text}`", self.key()),
            ),
            _ => self.wrong("`true` or `false`"),
        }
    }

    /// Reads a whole number within a range.
    pub fn integer<T: TryFrom<i64>>(&self, range: std::ops::RangeInclusive<i64>) -> Option<T> {
        let number = match &self.node.value {
            SyntaxValue::Integer(number) => *number,
            SyntaxValue::LargeInteger(_) => {
                let label = "does not fit into 64 bits";
                return self.out_of_range(label);
            }
            SyntaxValue::Text(text) if text.trim().parse::<i64>().is_ok() => {
                let help = format!("without quotes: `{} = {}`", self.key(), text.trim());
                return self.wrong_with_help("a whole number", help);
            }
            _ => return self.wrong("a whole number"),
        };
        let (low, high) = (*range.start(), *range.end());
        let fits = T::try_from(number).ok().filter(|_| range.contains(&number));
        fits.or_else(|| match high {
            i64::MAX => self.out_of_range(format!("must be {low} or more")),
            _ => self.out_of_range(format!("must be {low} to {high}")),
        })
    }

    /// Reads a number with or without a fraction.
    pub fn number(&self, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let number = match &self.node.value {
            SyntaxValue::Integer(number) => *number as f64,
            SyntaxValue::Float(number) => *number,
            SyntaxValue::LargeInteger(digits) => digits.parse().unwrap_or(f64::INFINITY),
            _ => return self.wrong("a number"),
        };
        if range.contains(&number) {
            return Some(number);
        }
        let label = format!("must be {} to {}", range.start(), range.end());
        self.out_of_range(label)
    }

    /// Reads a share in hundredths, `"60%"`, 1 to 100, for a key that may also be a number.
    pub fn percent(&self) -> Option<u8> {
        let share = match &self.node.value {
            SyntaxValue::Text(text) => text.trim().strip_suffix('%').and_then(|text| text.trim().parse().ok()),
            _ => None,
        };
        share.filter(|share| (1..=100).contains(share)).or_else(|| {
            let title = format!("`{}` must be a number or a percentage as text", self.path);
            let problem = self.problem(title, "not a percentage from `1%` to `100%` without a fraction");
            self.report(problem.help(format!("such as `{0} = 50` or `{0} = \"60%\"`", self.key())))
        })
    }

    /// Reads a TCP port; 0 lets orch choose one.
    pub fn port(&self, lowest: u16) -> Option<u16> {
        self.integer(i64::from(lowest)..=65_535)
    }

    pub fn duration(&self) -> Option<Duration> {
        let text = match &self.node.value {
            SyntaxValue::Text(text) => text,
            SyntaxValue::Integer(number) if *number >= 0 => {
                let help = format!("a number needs a unit: `{} = \"{number}s\"`", self.key());
                return self.wrong_with_help("a duration such as `\"90s\"`", help);
            }
            _ => return self.wrong("a duration such as `\"90s\"`"),
        };
        match parse_duration(text) {
            Ok(duration) => Some(duration),
            Err(error) => self.refuse(format!("`{}` is not a duration", self.path), error.to_string()),
        }
    }

    /// Reads a size in bytes.
    pub fn size(&self) -> Option<u64> {
        let text = match &self.node.value {
            SyntaxValue::Text(text) => text.clone(),
            SyntaxValue::Integer(0) => return Some(0),
            SyntaxValue::Integer(number) if *number > 0 => {
                let help = format!("a number needs a unit: `{} = \"{number}MiB\"`", self.key());
                return self.wrong_with_help("a size such as `\"512MiB\"`", help);
            }
            _ => return self.wrong("a size such as `\"512MiB\"`"),
        };
        match parse_size(&text) {
            Ok(bytes) => Some(bytes),
            Err(error) => self.refuse(format!("`{}` is not a size", self.path), error.to_string()),
        }
    }

    /// Reads a size that is not zero.
    pub fn positive_size(&self) -> Option<u64> {
        match self.size()? {
            0 => self.out_of_range("must be more than zero"),
            size => Some(size),
        }
    }

    /// Reads a duration that is not zero.
    pub fn positive_duration(&self) -> Option<Duration> {
        match self.duration()? {
            Duration::ZERO => self.out_of_range("must be longer than zero"),
            duration => Some(duration),
        }
    }

    /// Reads a duration of at least `lowest`.
    pub fn duration_from(&self, lowest: Duration) -> Option<Duration> {
        let duration = self.duration()?;
        if duration >= lowest {
            return Some(duration);
        }
        let label = format!("must be {} or more", format_duration(lowest));
        self.out_of_range(label)
    }

    /// Reads one of several words.
    pub fn choice<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let Some(text) = self.as_text() else {
            return self.wrong(&alternatives(&names));
        };
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text) {
            return Some(value.clone());
        }
        let label = did_you_mean(text, names.iter().copied(), "not one of these words");
        self.refuse(format!("`{}` must be {}", self.path, alternatives(&names)), label)
    }

    /// Reads a path; a relative one starts at the configuration's directory.
    pub fn path(&self) -> Option<PathBuf> {
        let text = self.line()?;
        if text == "~" || text.starts_with("~/") {
            let problem = self.problem(format!("`{}` starts with `~`", self.path), "`~` is not supported here");
            return self.report(problem.help("write an absolute path or one relative to the configuration"));
        }
        Some(crate::paths::join(&self.reading.base, &text))
    }

    /// Returns the elements of a list.
    pub fn items(&self) -> Option<Vec<ConfigItem<'a>>> {
        let SyntaxValue::List(items) = &self.node.value else {
            let example = self.as_text().map(|text| {
                let words: Vec<String> = text.split(',').map(|word| format!("{:?}", word.trim())).collect();
                format!(
                    "write a list, even for one value: `{} = [{}]`",
                    self.key(),
                    words.join(", ")
                )
            });
            return self.wrong_with_help("a list", example);
        };
        let item = |(index, node)| ConfigItem {
            reading: self.reading,
            node,
            path: format!("{}[{index}]", self.path),
            pattern: format!("{}[]", self.pattern),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// Reads the elements of a list one by one; elements that cannot be read are left out.
    pub fn list<T>(&self, read: impl Fn(&ConfigItem<'a>) -> Option<T>) -> Option<Vec<T>> {
        Some(self.items()?.iter().filter_map(read).collect())
    }

    /// Returns the entries of a table with keys that the user chooses.
    pub fn entries(&self) -> Option<Vec<(&'a Key, ConfigItem<'a>)>> {
        let SyntaxValue::Table(SyntaxTable { entries }) = &self.node.value else {
            return self.wrong("a table");
        };
        let item = |node, name: &str| ConfigItem {
            reading: self.reading,
            node,
            path: format!("{}.{name}", self.path),
            pattern: format!("{}.*", self.pattern),
        };
        Some(entries.iter().map(|(key, node)| (key, item(node, &key.name))).collect())
    }

    /// Returns the entries of a table as JSON.
    pub fn json_entries(&self) -> Option<Map<String, Json>> {
        let entries = self.entries()?.into_iter();
        Some(entries.map(|(key, value)| (key.name.clone(), value.json())).collect())
    }

    /// Returns the value as JSON, for task arguments.
    pub fn json(&self) -> Json {
        json(self.node)
    }
}

/// Converts a tree to JSON; a date becomes its text. Numbers that JSON does not have were reported by the parser.
fn json(node: &SyntaxNode) -> Json {
    match &node.value {
        SyntaxValue::Null | SyntaxValue::Broken => Json::Null,
        SyntaxValue::Text(text) | SyntaxValue::Date(text) => Json::from(text.as_str()),
        SyntaxValue::Integer(number) => Json::from(*number),
        // The digits were checked by the parser.
        SyntaxValue::LargeInteger(digits) => large_integer::value(digits).unwrap_or_default(),
        SyntaxValue::Float(number) => Json::from(*number),
        SyntaxValue::Boolean(truth) => Json::from(*truth),
        SyntaxValue::List(items) => items.iter().map(json).collect(),
        SyntaxValue::Table(table) => {
            let entries = table.entries.iter().map(|(key, node)| (key.name.clone(), json(node)));
            Json::Object(entries.collect())
        }
    }
}

/// Reports a name in the file that cannot be the name of such a `thing`; returns whether the name is valid.
pub(crate) fn has_valid_name(reading: &LoadContext, thing: &str, key: &Key) -> bool {
    let why = bad_name(&key.name);
    if let Some(why) = why {
        let title = format!("{thing} cannot be named `{}`", key.name);
        reading.report(Problem::new(title).at(key.span, why));
    }
    why.is_none()
}

/// Returns the reason why a text cannot be the name of a service, a site or an instance.
pub(crate) fn bad_name(text: &str) -> Option<&'static str> {
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
        return Some("only letters, digits, `.`, `_` and `-`: the name is used in file names and Redis keys");
    }
    (text.len() > 100).then_some("longer than 100 bytes")
}
