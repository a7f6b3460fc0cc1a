//! Words and figures as people read them.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::counted::plural;
use crate::duration_text::shown;
use crate::run::ProgressSource;

/// As all messages have it; no time at all for what is none.
pub fn span(seconds: f64) -> String {
    shown(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// The same in whole seconds, and always as wide: for figures that are looked at while they grow.
pub fn coarse_span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
    }
}

/// What tells the finished chunks.
pub fn source_name(source: ProgressSource) -> &'static str {
    match source {
        ProgressSource::Events => "events",
        ProgressSource::Keys => "keys",
        ProgressSource::Chord => "chord",
    }
}

/// `7 chunks`, `1 chunk`, `- chunks` where the number is not known.
pub fn chunks_of(total: Option<u64>) -> String {
    match total {
        Some(total) => plural(total, "chunk"),
        None => "- chunks".to_owned(),
    }
}

/// A count, or a dash for what is not known.
pub fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// A moment of the wall clock, `HH:MM:SS` in this time zone.
pub fn clock(unix_seconds: f64, zone: &TimeZone) -> String {
    moment(unix_seconds, zone, "%H:%M:%S")
}

/// `2026-08-01 02:30:00+02:00`: for what is read on another day, or in another zone.
pub fn dated_clock(unix_seconds: f64, zone: &TimeZone) -> String {
    moment(unix_seconds, zone, "%Y-%m-%d %H:%M:%S%:z")
}

fn moment(unix_seconds: f64, zone: &TimeZone, format: &str) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "seconds since 1970 fit an i64; a journal's nonsense saturates"
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
