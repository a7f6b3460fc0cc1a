//! Whether a site's counts say that nothing came of it. A number that is not known is never taken for zero.

use super::event::SiteCounts;

impl SiteCounts {
    /// The number of results, as counted or as it follows from other counts: without URLs or chunks there are none.
    pub fn known_results(&self) -> Option<u64> {
        let nothing_to_do = self.total_urls == Some(0) || self.total_chunks == Some(0);
        self.results.or(nothing_to_do.then_some(0))
    }

    /// These counts with the number of results filled in where it follows from the others.
    #[must_use]
    pub fn with_known_results(self) -> Self {
        Self {
            results: self.known_results(),
            ..self
        }
    }

    /// Whether it is known that there are no results.
    pub fn has_no_results(&self) -> bool {
        self.known_results() == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            // An app whose count of URLs is of something else: results that are there are there.
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
            // What is filled in changes no verdict.
            assert_eq!(counts.with_known_results().known_results(), known, "{counts:?}");
        }
    }
}
