//! One line of a journal as it was written. The parts that are often needed are found without parsing the line.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::event::Event;
use crate::site_counts::SiteCounts;

/// Number of bytes from the start of a line within which the kind of the event is found.
const KIND_WITHIN: usize = 160;
/// Start of the kind of each event about a site.
const SITE_EVENT: &[u8] = b"\"event\":\"site_";

/// Line of a journal as it was written, without the line break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalLine(Vec<u8>);

impl JournalLine {
    /// Creates a line of these bytes.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Returns the name of the event's kind, such as `service_ready`; `None` if the line is no event.
    pub fn kind(&self) -> Option<&str> {
        std::str::from_utf8(kind_of(&self.0)?).ok()
    }

    /// Returns the text of the line.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Parses the event; `None` if this version does not know the line.
    pub fn event(&self) -> Option<Event> {
        serde_json::from_slice(&self.0).ok()
    }

    /// Returns the number of the event.
    pub(crate) fn seq(&self) -> Option<u64> {
        let text = value_after(&self.0[..self.0.len().min(KIND_WITHIN)], b"\"seq\":")?;
        let text = text.split(|byte| matches!(byte, b',' | b'}')).next()?;
        std::str::from_utf8(text).ok()?.trim().parse().ok()
    }

    /// Returns the run time of the event in seconds.
    pub(crate) fn elapsed(&self) -> Option<f64> {
        let text = value_after(&self.0[..self.0.len().min(KIND_WITHIN)], b"\"elapsed\":")?;
        let text = text.split(|byte| matches!(byte, b',' | b'}')).next()?;
        std::str::from_utf8(text).ok()?.trim().parse().ok()
    }

    /// Returns the name of the site of an event about a site, as it stands in the line.
    pub(crate) fn site(&self) -> Option<&[u8]> {
        static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(SITE_EVENT));
        let after = self.0.get(FINDER.find(&self.0)? + SITE_EVENT.len()..)?;
        // Events about a site have the site as their first field.
        let after = &after[memchr::memchr(b'"', after)? + 1..];
        let name = after.strip_prefix(b",\"site\":\"")?;
        let mut end = 0;
        loop {
            end += memchr::memchr2(b'"', b'\\', name.get(end..)?)?;
            match name.get(end)? {
                b'"' => return name.get(..end),
                _ => end += 2,
            }
        }
    }

    /// Returns the length of the line in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.0.len() as u64
    }

    /// Returns the counts of a site that the line has.
    pub(crate) fn counts(&self) -> CountSet {
        static FINDERS: LazyLock<[Finder<'static>; SiteCounts::FIELDS.len()]> =
            LazyLock::new(|| SiteCounts::FIELDS.map(Finder::new));
        let found = FINDERS.iter().map(|name| name.find(&self.0).is_some());
        CountSet(found.fold(0, |set, has| set << 1 | u8::from(has)))
    }
}

/// Set of the counts of a site, one bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountSet(u8);

impl CountSet {
    /// Decides whether this set has all counts of another one.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Returns the bytes after the first occurrence of a key.
fn value_after<'l>(line: &'l [u8], key: &[u8]) -> Option<&'l [u8]> {
    line.get(memchr::memmem::find(line, key)? + key.len()..)
}

/// Finds the kind of a line's event without parsing the line.
pub(crate) fn kind_of(line: &[u8]) -> Option<&[u8]> {
    let begin = &line[..line.len().min(KIND_WITHIN)];
    value_after(begin, b"\"event\":\"")?.split(|byte| *byte == b'"').next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::any_event::any_event;
    use orch_base::text::printable;

    proptest! {
        #[test]
        fn the_parts_are_those_of_the_event(event in any_event()) {
            let written = printable::escaped(serde_json::to_string(&event).expect("plain data"));
            let found = JournalLine::new(written.clone().into_bytes());
            let parsed: serde_json::Value = serde_json::from_str(&written).expect("JSON");
            prop_assert_eq!(found.seq(), parsed["seq"].as_u64());
            prop_assert_eq!(found.elapsed(), parsed["elapsed"].as_f64());
            prop_assert_eq!(found.kind(), parsed["event"].as_str());
            if let Some(site) = found.site() {
                let quoted = format!("\"{}\"", String::from_utf8_lossy(site));
                let name: String = serde_json::from_str(&quoted).expect("a text");
                prop_assert_eq!(Some(name.as_str()), parsed["site"].as_str());
            } else {
                let kind = parsed["event"].as_str().unwrap_or_default();
                prop_assert!(!kind.starts_with("site_") || parsed["site"].is_null(), "{}", written);
            }
        }

        #[test]
        fn any_bytes_have_parts(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for prefix in ["", "{\"event\":\"site_x\",\"site\":\"", "{\"elapsed\":"] {
                let line = JournalLine::new([prefix.as_bytes(), &bytes].concat());
                prop_assert!(line.counts().contains(line.counts()));
                prop_assert!(line.site().is_none_or(|site| site.len() < line.text().len()));
                prop_assert!(line.kind().is_none_or(|kind| kind.len() < 160));
                prop_assert!(line.event().is_none() || line.elapsed().is_some());
            }
        }
    }
}
