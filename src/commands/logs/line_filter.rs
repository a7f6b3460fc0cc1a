//! Choice of the lines of a log: by a pattern, by a site. Pure.

use regex::bytes::Regex;

use super::site_lines::SiteLines;
use orch_journal::SiteName;

/// Filter of the lines of one log.
#[derive(Debug)]
pub struct LineFilter {
    pattern: Option<Regex>,
    /// Site that a record must concern.
    site: Option<SiteName>,
    /// The last record concerns the site; the lines of a traceback belong to the record before them.
    is_in_record: bool,
}

impl LineFilter {
    /// Creates a filter; without a pattern and a site it accepts all lines.
    pub fn new(pattern: Option<Regex>, site: Option<SiteName>) -> Self {
        Self {
            pattern,
            site,
            is_in_record: false,
        }
    }

    /// Decides whether the next line is printed. `begins_record`: the line begins with a time.
    pub fn accepts(&mut self, line: &[u8], begins_record: bool, sites: &mut [SiteLines]) -> bool {
        if let Some(site) = &self.site {
            let site = sites.iter_mut().find(|lines| lines.site() == site);
            let concerns = site.is_some_and(|lines| lines.concerns(&String::from_utf8_lossy(line)));
            self.is_in_record = concerns || (self.is_in_record && !begins_record);
            if !self.is_in_record {
                return false;
            }
        }
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceback_belongs_to_the_record_before() {
        let mut sites = [SiteLines::of_ids("books", &["b3c2a1d0-task"])];
        let mut filter = LineFilter::new(None, Some("books".into()));
        for (line, begins, accepted) in [
            ("Traceback of another", false, false),
            ("[time] Task fetch[b3c2a1d0-task] raised", true, true),
            ("Traceback (most recent call last):", false, true),
            ("  ValueError", false, true),
            ("[time] Task fetch[another] succeeded", true, false),
            ("further", false, false),
        ] {
            assert_eq!(filter.accepts(line.as_bytes(), begins, &mut sites), accepted, "{line}");
        }
        let mut filter = LineFilter::new(Some(Regex::new("(?i)error").unwrap()), None);
        assert!(filter.accepts(b"an ERROR", true, &mut []) && !filter.accepts(b"fine", true, &mut []));
    }
}
