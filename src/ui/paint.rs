//! A line of the terminal, as toned words that are made safe, cut and painted: whatever a view prints is [`Painted`].
//!
//! Widths are columns of the terminal, not characters; control sequences never count and are never cut.

use std::fmt;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::printable::one_line;

/// What a word means to the eye; the words say the same without colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Dim,
    Good,
    Busy,
    Warning,
    Bad,
}

impl Tone {
    /// The "select graphic rendition" parameter (ECMA-48), if any.
    fn parameter(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Dim => Some("2"),
            Tone::Good => Some("32"),
            Tone::Busy => Some("36"),
            Tone::Warning => Some("33"),
            Tone::Bad => Some("31"),
        }
    }
}

/// The text in its tone.
fn painted(tone: Tone, text: &str, color: bool) -> String {
    match tone.parameter() {
        Some(parameter) if color && !text.is_empty() => format!("\x1b[{parameter}m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// Columns that the text takes.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// The text, padded with spaces to this many columns.
pub fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(columns(text));
    format!("{text}{}", " ".repeat(missing))
}

/// As much of the text as fits; what is cut ends in an ellipsis.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for letter in text.chars() {
        used += letter.width().unwrap_or(0);
        if used > width {
            break;
        }
        kept.push(letter);
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// A line under construction.
#[derive(Clone, Debug, Default)]
pub struct Line(Vec<(Tone, String)>);

impl Line {
    /// A line of these words.
    pub fn of(tone: Tone, text: impl AsRef<str>) -> Self {
        let mut line = Self::default();
        line.push(tone, text);
        line
    }

    /// Appends words; a line break or a control character in them cannot leave the line.
    pub fn push(&mut self, tone: Tone, text: impl AsRef<str>) -> &mut Self {
        self.0.push((tone, one_line(text.as_ref())));
        self
    }

    /// Appends another line's words.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Columns so far.
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| columns(text)).sum()
    }

    /// The finished line, however long.
    pub fn whole(&self, color: bool) -> Painted {
        self.paint(usize::MAX, color)
    }

    /// The finished line, of at most this many columns.
    pub fn paint(&self, width: usize, color: bool) -> Painted {
        let fits = self.width() <= width;
        let (mut line, mut left) = (String::new(), width);
        for (tone, text) in &self.0 {
            let used = columns(text);
            // The ellipsis must go where the line is cut, even if this part alone would just fit.
            let text = if fits || used < left {
                text.clone()
            } else {
                cut(&format!("{text} …"), left)
            };
            line.push_str(&painted(*tone, &text, color));
            if !fits && used >= left {
                break;
            }
            left -= used;
        }
        line.truncate(line.trim_end().len());
        Painted(line)
    }
}

/// A finished line. Only [`Line`] makes one: nothing gets onto a terminal with a control sequence that is not orch's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Painted(String);

impl Painted {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Painted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(columns("имот"), 4);
        assert_eq!(columns("書店"), 4);
        assert_eq!(padded("書店", 6), "書店  ");
        assert_eq!(cut("書店街", 5), "書店…");
        assert_eq!(cut("書店街", 4), "書…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn a_line_is_cut_once_and_painted_whole() {
        let mut line = Line::default();
        line.push(Tone::Plain, "books  ")
            .push(Tone::Good, "COMPLETE")
            .push(Tone::Dim, "\x1b[2Jdetail\nmore");
        assert_eq!(line.paint(80, false).as_str(), "books  COMPLETE\u{fffd}[2Jdetail more");
        assert_eq!(line.paint(10, false).as_str(), "books  CO…");
        assert_eq!(line.paint(10, true).as_str(), "books  \x1b[32mCO…\x1b[0m");
        assert_eq!(line.paint(15, false).as_str(), "books  COMPLET…");
        assert_eq!(line.paint(0, true).as_str(), "");
    }
}
