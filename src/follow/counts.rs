//! Counts of a job from several sources, the most trusted first.

use crate::run::SiteCounts;

/// `first`, with what it does not know taken from `second`.
pub fn merged(first: SiteCounts, second: SiteCounts) -> SiteCounts {
    SiteCounts {
        total_urls: first.total_urls.or(second.total_urls),
        total_chunks: first.total_chunks.or(second.total_chunks),
        completed_chunks: first.completed_chunks.or(second.completed_chunks),
        results: first.results.or(second.results),
        errors: first.errors.or(second.errors),
    }
}
