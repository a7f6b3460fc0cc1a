//! Counts of one site. An unknown number is never taken for zero.

use serde::{Deserialize, Serialize};

/// Counts of one site's job; `None` means not known, never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteCounts {
    /// Number of pages or listings that the dispatch task found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_urls: Option<u64>,
    /// Number of chunks (header tasks of the chord).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_chunks: Option<u64>,
    /// Number of chunks that have ended, including failed ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_chunks: Option<u64>,
    /// Number of saved records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<u64>,
    /// Number of errors that the app or Celery counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u64>,
}

impl SiteCounts {
    /// Names of the fields, with the quotes that they have in JSON.
    pub(crate) const FIELDS: [&str; 5] = [
        "\"total_urls\"",
        "\"total_chunks\"",
        "\"completed_chunks\"",
        "\"results\"",
        "\"errors\"",
    ];

    /// Returns these counts, with missing ones taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            total_urls: self.total_urls.or(other.total_urls),
            total_chunks: self.total_chunks.or(other.total_chunks),
            completed_chunks: self.completed_chunks.or(other.completed_chunks),
            results: self.results.or(other.results),
            errors: self.errors.or(other.errors),
        }
    }

    /// Returns the number of results, as counted or derived from other counts: without URLs or chunks there are none.
    pub fn known_results(&self) -> Option<u64> {
        let nothing_to_do = self.total_urls == Some(0) || self.total_chunks == Some(0);
        self.results.or(nothing_to_do.then_some(0))
    }

    /// Fills in the number of results if the other counts imply the number.
    #[must_use]
    pub fn with_known_results(self) -> Self {
        Self {
            results: self.known_results(),
            ..self
        }
    }

    /// Decides whether the site certainly has no results.
    pub fn has_no_results(&self) -> bool {
        self.known_results() == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fields_are_named() {
        let counts = SiteCounts {
            total_urls: Some(1),
            total_chunks: Some(1),
            completed_chunks: Some(1),
            results: Some(1),
            errors: Some(1),
        };
        let written = serde_json::to_value(counts).expect("plain data");
        let names: Vec<String> = written
            .as_object()
            .expect("an object")
            .keys()
            .map(|name| format!("\"{name}\""))
            .collect();
        assert_eq!(names.len(), SiteCounts::FIELDS.len());
        assert!(names.iter().all(|name| SiteCounts::FIELDS.contains(&name.as_str())));
    }

    #[test]
    fn zero_is_counted_or_follows_and_unknown_is_not_zero() {
        for (urls, chunks, results, known) in [
            (None, None, None, None),
            (Some(9), Some(3), None, None),
            (None, Some(3), None, None),
            (Some(0), None, None, Some(0)),
            (None, Some(0), None, Some(0)),
            (Some(9), Some(0), None, Some(0)),
            (Some(9), Some(3), Some(0), Some(0)),
            (None, None, Some(0), Some(0)),
            (Some(9), Some(3), Some(4), Some(4)),
            // An app may count something else as URLs: existing results count.
            (Some(0), Some(0), Some(4), Some(4)),
        ] {
            let counts = SiteCounts {
                total_urls: urls,
                total_chunks: chunks,
                results,
                ..SiteCounts::default()
            };
            assert_eq!(counts.known_results(), known, "{counts:?}");
            assert_eq!(counts.has_no_results(), known == Some(0), "{counts:?}");
            assert_eq!(counts.with_known_results().results, known, "{counts:?}");
            // Filling in the number changes no decision.
            assert_eq!(counts.with_known_results().known_results(), known, "{counts:?}");
        }
    }
}
