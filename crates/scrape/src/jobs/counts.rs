//! Counts of a job from several sources, the most trusted first.

use orch_journal::SiteCounts;

/// Returns `first`, with unknown counts taken from `second`. An app may initialise a key with zero results and never
/// count results there: such a zero does not hide results that the second source knows.
pub fn merge_counts(first: SiteCounts, second: SiteCounts) -> SiteCounts {
    SiteCounts {
        total_urls: first.total_urls.or(second.total_urls),
        total_chunks: first.total_chunks.or(second.total_chunks),
        completed_chunks: first.completed_chunks.or(second.completed_chunks),
        results: match (first.results, second.results) {
            (Some(0), Some(results)) => Some(results),
            (first, second) => first.or(second),
        },
        errors: first.errors.or(second.errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wins_but_for_a_zero_of_results() {
        let results = |results| SiteCounts {
            results,
            errors: results,
            ..SiteCounts::default()
        };
        for (first, second, expected) in [
            (None, None, None),
            (Some(3), Some(4), Some(3)),
            (Some(3), Some(0), Some(3)),
            (None, Some(0), Some(0)),
            (Some(0), None, Some(0)),
            (Some(0), Some(0), Some(0)),
            (Some(0), Some(40), Some(40)),
        ] {
            let counts = merge_counts(results(first), results(second));
            assert_eq!(counts.results, expected, "{first:?}, {second:?}");
            assert_eq!(counts.errors, first.or(second), "{first:?}, {second:?}");
        }
    }
}
