//! Words and numbers for people.

use std::time::Duration;

use jiff::tz::TimeZone;

use orch_base::text::counted::plural;
use orch_base::text::duration_text::shown;
use orch_journal::{FollowStage, ProgressSource, SiteCounts};

/// Formats seconds as in all messages; an invalid number becomes `0s`.
pub fn span(seconds: f64) -> String {
    shown(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Formats whole seconds with a stable width, for times that change while a person reads them.
pub fn coarse_span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
    }
}

/// Returns the name of a source of progress counts.
pub fn source_name(source: ProgressSource) -> &'static str {
    match source {
        ProgressSource::Events => "events",
        ProgressSource::Keys => "keys",
        ProgressSource::Chord => "chord",
    }
}

/// Returns the source that a stage follows, in words.
pub fn stage_name(stage: FollowStage) -> &'static str {
    match stage {
        FollowStage::Dispatch => "the dispatch task's result",
        FollowStage::Chord => "the chord's callback",
        FollowStage::ProgressKeys => "the progress keys",
        FollowStage::FileTime => "the pool file's time",
        FollowStage::TaskEvents => "the task's events",
    }
}

/// Formats `7 chunks`, `1 chunk`, or `- chunks` if the number is not known.
pub fn chunks_of(total: Option<u64>) -> String {
    match total {
        Some(total) => plural(total, "chunk"),
        None => "- chunks".to_owned(),
    }
}

/// Formats a count, or a dash if unknown.
pub fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Formats the known counts, such as `3/14 chunks, 42 results, 0 errors`.
pub fn counts_text(counts: &SiteCounts) -> String {
    let mut parts = Vec::new();
    match (counts.completed_chunks, counts.total_chunks) {
        (Some(done), total) => parts.push(format!("{done}/{}", chunks_of(total))),
        (None, Some(total)) => parts.push(plural(total, "chunk")),
        (None, None) => {}
    }
    if let Some(urls) = counts.total_urls {
        parts.push(plural(urls, "URL"));
    }
    if let Some(results) = counts.results {
        parts.push(plural(results, "result"));
    }
    if let Some(errors) = counts.errors {
        parts.push(plural(errors, "error"));
    }
    if parts.is_empty() {
        "counts not known".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Formats a time of the wall clock as `HH:MM:SS` in this time zone.
pub fn clock(unix_seconds: f64, zone: &TimeZone) -> String {
    format_time(unix_seconds, zone, "%H:%M:%S")
}

/// Formats `2026-08-01 02:30:00+02:00`, for lines that are read on another day or in another time zone.
pub fn dated_clock(unix_seconds: f64, zone: &TimeZone) -> String {
    format_time(unix_seconds, zone, "%Y-%m-%d %H:%M:%S%:z")
}

fn format_time(unix_seconds: f64, zone: &TimeZone, format: &str) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "seconds since 1970 fit into an i64; invalid values in a journal saturate"
    )]
    let moment = jiff::Timestamp::from_second(unix_seconds as i64).unwrap_or_default();
    moment.to_zoned_datetime(zone.clone()).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_that_of_the_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(-3));
        assert_eq!(clock(0.0, &zone), "21:00:00");
        assert_eq!(dated_clock(0.9, &zone), "1969-12-31 21:00:00-03:00");
        assert_eq!(dated_clock(0.0, &TimeZone::UTC), "1970-01-01 00:00:00+00:00");
    }

    #[test]
    fn figures() {
        assert_eq!(span(0.42), "0.4s");
        assert_eq!(span(1800.0), "30m");
        for nothing in [f64::NAN, -1.0, f64::INFINITY] {
            assert_eq!((span(nothing).as_str(), coarse_span(nothing).as_str()), ("0s", "0s"));
        }
        assert_eq!(coarse_span(59.97), "59s");
        assert_eq!(coarse_span(1800.0), "30m00s");
    }
}
