//! Lines for the terminal: toned words that are made safe, cut and painted. Every view prints only [`PaintedLine`] lines.
//!
//! Widths are columns of the terminal, not characters; control sequences never count and are never cut.

use std::fmt;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use orch_base::text::printable::one_line;

/// Meaning of a word's colour; the words have the same meaning without colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextTone {
    #[default]
    Plain,
    Dim,
    Good,
    Busy,
    Warning,
    Bad,
    /// Name of one of several sources; the number selects the colour.
    Source(usize),
}

/// Colours of sources.
const SOURCES: [&str; 6] = ["36", "33", "32", "35", "34", "96"];

impl TextTone {
    /// Returns the "select graphic rendition" parameter (ECMA-48), if there is one.
    fn parameter(self) -> Option<&'static str> {
        match self {
            TextTone::Plain => None,
            TextTone::Dim => Some("2"),
            TextTone::Good => Some("32"),
            TextTone::Busy => Some("36"),
            TextTone::Warning => Some("33"),
            TextTone::Bad => Some("31"),
            // Red is for errors.
            TextTone::Source(number) => SOURCES.get(number % SOURCES.len()).copied(),
        }
    }
}

/// Formats the text in this tone.
fn painted(tone: TextTone, text: &str, color: bool) -> String {
    match tone.parameter() {
        Some(parameter) if color && !text.is_empty() => format!("\x1b[{parameter}m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// Returns the width of the text in columns.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// Pads the text with spaces to this width.
pub fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(columns(text));
    format!("{text}{}", " ".repeat(missing))
}

/// Cuts the text to this width; an ellipsis shows the cut.
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

/// Line under construction.
#[derive(Clone, Debug, Default)]
pub struct StyledLine(Vec<(TextTone, String)>);

impl StyledLine {
    /// Makes a line of these words.
    pub fn of(tone: TextTone, text: impl AsRef<str>) -> Self {
        let mut line = Self::default();
        line.push(tone, text);
        line
    }

    /// Appends words; a line break or a control character in them is replaced.
    pub fn push(&mut self, tone: TextTone, text: impl AsRef<str>) -> &mut Self {
        self.0.push((tone, one_line(text.as_ref())));
        self
    }

    /// Appends words in the plain tone.
    pub fn plain(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.push(TextTone::Plain, text)
    }

    /// Appends another line's words.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns the current width in columns.
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| columns(text)).sum()
    }

    /// Paints the line without a limit of its width.
    pub fn whole(&self, color: bool) -> PaintedLine {
        self.paint(usize::MAX, color)
    }

    /// Paints the line, cut to this width.
    pub fn paint(&self, width: usize, color: bool) -> PaintedLine {
        let fits = self.width() <= width;
        let (mut line, mut left) = (String::new(), width);
        for (tone, text) in &self.0 {
            let used = columns(text);
            // The ellipsis must be at the cut of the line, even if this part alone would just fit.
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
        PaintedLine(line)
    }
}

/// Painted line. Only [`StyledLine`] makes one, so that no control sequence reaches a terminal except orch's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaintedLine(String);

impl PaintedLine {
    /// Returns the text with its control sequences.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PaintedLine {
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
        let mut line = StyledLine::default();
        line.plain("books  ")
            .push(TextTone::Good, "COMPLETE")
            .push(TextTone::Dim, "\x1b[2Jdetail\nmore");
        assert_eq!(line.paint(80, false).as_str(), "books  COMPLETE\u{fffd}[2Jdetail more");
        assert_eq!(line.paint(10, false).as_str(), "books  CO…");
        assert_eq!(line.paint(10, true).as_str(), "books  \x1b[32mCO…\x1b[0m");
        assert_eq!(line.paint(15, false).as_str(), "books  COMPLET…");
        assert_eq!(line.paint(0, true).as_str(), "");
    }
}
