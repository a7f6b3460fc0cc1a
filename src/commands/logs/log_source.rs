//! One log that is printed: the start of the printed part, and the next line with its time.

use std::io;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

use super::line_filter::LineFilter;
use super::log_time::time_of;
use super::site_lines::SiteLines;
use crate::commands::output::print_message;
use orch_base::files::lines_from_end::{LinesFromEnd, last_data};
use orch_base::files::log_reader::{LogChange, LogReader};

/// Number of bytes from the end of a log after which a log without a time counts as one without times.
const TIMELESS_BYTES: u64 = 1 << 20;

/// Part of a log that is printed first; the default is the whole log.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StartLimit {
    /// Number of the last lines.
    pub lines: Option<u64>,
    /// Time of the first line, Unix seconds.
    pub since: Option<f64>,
}

/// Log that is printed.
#[derive(Debug)]
pub struct LogSource {
    name: String,
    path: PathBuf,
    reader: LogReader,
    filter: LineFilter,
    zone: TimeZone,
    /// Time of the last line with one.
    time: Option<f64>,
    /// The next line that is printed.
    next: Option<Vec<u8>>,
}

impl LogSource {
    /// Opens a log at its start.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(name: &str, path: &Path, filter: LineFilter, zone: &TimeZone) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            path: path.to_owned(),
            reader: LogReader::open(path)?,
            filter,
            zone: zone.clone(),
            time: None,
            next: None,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Goes to the start of the part that is printed first, and limits the log to its size now. Returns false if the part
    /// depends on times and the log has none: then the last `without_times` lines are printed.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn find_start(&mut self, limit: StartLimit, without_times: u64, sites: &mut [SiteLines]) -> io::Result<bool> {
        let end = self.reader.file().metadata()?.len();
        self.reader.limit(Some(end));
        let start = match limit == StartLimit::default() {
            true => Some(last_data(self.reader.file(), end)),
            false => self.start_of(limit, end, sites)?,
        };
        if let Some(start) = start {
            self.go_to(start)?;
            return Ok(true);
        }
        let limit = StartLimit {
            lines: Some(limit.lines.unwrap_or(without_times)),
            since: None,
        };
        let start = self.start_of(limit, end, sites)?;
        self.go_to(start.unwrap_or(end))?;
        Ok(false)
    }

    /// Goes to this position. The first lines may belong to a record that begins before.
    fn go_to(&mut self, start: u64) -> io::Result<()> {
        let mut lines = LinesFromEnd::new(self.reader.file(), start);
        self.time = None;
        while let Some(line) = lines.next_line()? {
            self.time = time_of(&line.text, &self.zone);
            if self.time.is_some() || start - line.start >= TIMELESS_BYTES {
                break;
            }
        }
        self.reader.go_to(start)
    }

    /// Returns the start of the limited part; `None` if the part depends on times and the log has none.
    fn start_of(&mut self, limit: StartLimit, end: u64, sites: &mut [SiteLines]) -> io::Result<Option<u64>> {
        let mut left = limit.lines.unwrap_or(u64::MAX);
        let mut lines = LinesFromEnd::new(self.reader.file(), end);
        // Lines without a time belong to the record before them, which may be too old: they count when that is known.
        let (mut start, mut confirmed, mut has_times) = (end, end, false);
        while left > 0 || start < confirmed {
            let Some(line) = lines.next_line()? else { break };
            let time = time_of(&line.text, &self.zone);
            has_times |= time.is_some();
            if limit.since.is_some_and(|since| time.is_some_and(|time| time < since)) {
                return Ok(Some(confirmed));
            }
            if left > 0 && (limit.lines.is_none() || self.filter.accepts(&line.text, true, sites)) {
                start = line.start;
                left -= 1;
            }
            if limit.since.is_none() || time.is_some() {
                confirmed = start;
            } else if !has_times && end - line.start >= TIMELESS_BYTES {
                return Ok(None);
            }
        }
        let needs_times = limit.since.is_some() && !has_times && start < end;
        Ok((!needs_times).then_some(start))
    }

    /// Lets the log be read beyond the size that it had at the start.
    pub fn remove_limit(&mut self) {
        self.reader.limit(None);
    }

    /// Reads up to the next line that is printed and returns its time (that of its record, if the line has none); `None`
    /// if there is no further line at present. With `is_end` a last line without a line break counts.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn peek(&mut self, is_end: bool, sites: &mut [SiteLines]) -> io::Result<Option<Option<f64>>> {
        while self.next.is_none() {
            let line = match self.reader.next_line()? {
                Some(line) => line,
                None if !is_end => return Ok(None),
                None => match self.reader.take_rest() {
                    Some(line) => line,
                    None => return Ok(None),
                },
            };
            let time = time_of(&line, &self.zone);
            self.time = time.or(self.time);
            if self.filter.accepts(&line, time.is_some(), sites) {
                self.next = Some(line);
            }
        }
        Ok(Some(self.time))
    }

    /// Takes the line that [`LogSource::peek`] has found.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.next.take()
    }

    /// Looks whether the log was truncated or replaced, and continues there; returns true if so.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn follow_changes(&mut self) -> io::Result<bool> {
        let change = self.reader.follow_changes()?;
        let what = match change {
            None => return Ok(false),
            Some(LogChange::Truncated) => "was truncated",
            Some(LogChange::Replaced) => "was replaced by a new file",
        };
        print_message(&format!(
            "the log {} {what}, which is read from its start",
            self.path.display()
        ));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines that are printed first, and whether the log has times if they are needed.
    fn shown(text: &str, limit: StartLimit) -> (Vec<String>, bool) {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), text).unwrap();
        let filter = LineFilter::new(Some(regex::bytes::Regex::new("[^#]$").unwrap()), None);
        let mut source = LogSource::open("web", log.path(), filter, &TimeZone::UTC).unwrap();
        let has_times = source.find_start(limit, 2, &mut []).unwrap();
        let mut lines = Vec::new();
        while source.peek(true, &mut []).unwrap().is_some() {
            lines.push(String::from_utf8(source.take().unwrap()).unwrap());
        }
        (lines, has_times)
    }

    #[test]
    fn the_printed_part_begins_where_the_limits_say() {
        let text = "1970-01-01 00:00:10 a\nof a\n1970-01-01 00:00:20 b\nof b\nleft out #\n1970-01-01 00:00:30 c";
        let ends = |limit: StartLimit| -> Vec<String> {
            let (lines, has_times) = shown(text, limit);
            assert!(has_times);
            lines
                .iter()
                .map(|line| line.trim_start_matches("1970-01-01 00:00:").to_owned())
                .collect()
        };
        let limit = |lines, since| StartLimit { lines, since };
        for (limit, expected) in [
            (limit(None, None), vec!["10 a", "of a", "20 b", "of b", "30 c"]),
            (limit(Some(1), None), vec!["30 c"]),
            (limit(Some(2), None), vec!["of b", "30 c"]),
            (limit(Some(0), None), vec![]),
            (limit(Some(99), None), vec!["10 a", "of a", "20 b", "of b", "30 c"]),
            (limit(None, Some(15.0)), vec!["20 b", "of b", "30 c"]),
            (limit(None, Some(25.0)), vec!["30 c"]),
            (limit(None, Some(35.0)), vec![]),
            (limit(Some(2), Some(15.0)), vec!["of b", "30 c"]),
            (limit(Some(9), Some(25.0)), vec!["30 c"]),
        ] {
            assert_eq!(ends(limit), expected, "{limit:?}");
        }
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), "1970-01-01 00:00:10 a\nof a\nof a\n").unwrap();
        let mut source = LogSource::open("web", log.path(), LineFilter::new(None, None), &TimeZone::UTC).unwrap();
        source.find_start(limit(Some(1), None), 2, &mut []).unwrap();
        assert_eq!(
            source.peek(true, &mut []).unwrap(),
            Some(Some(10.0)),
            "the time of its record"
        );
        let since = limit(None, Some(15.0));
        assert_eq!(shown("x\ny\nz\n", since), (vec!["y".to_owned(), "z".to_owned()], false));
        assert_eq!(shown("", since), (vec![], true));
    }
}
