//! Words and figures as people read them.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::run::ProgressSource;

/// `0.4s`, `12.3s`, `2m05s`, `1h02m`.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    // From here on a tenth would be rounded to `60.0s`.
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    // Bounded, the cast is exact.
    let whole = Duration::from_secs_f64(seconds.min(8.64e7)).as_secs().max(60);
    match whole {
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
    }
}

/// As [`span`], in whole seconds: for figures that are looked at while they grow.
pub fn coarse_span(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 60.0 {
        format!("{}s", seconds.floor())
    } else {
        span(seconds)
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

/// `1 error`, `2 errors`.
pub fn plural(count: u64, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
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
        assert_eq!(span(59.94), "59.9s");
        assert_eq!(span(59.97), "1m00s");
        assert_eq!(span(125.0), "2m05s");
        assert_eq!(span(3725.0), "1h02m");
        assert_eq!(span(f64::NAN), "0.0s");
        assert_eq!(plural(1, "error"), "1 error");
        assert_eq!(plural(0, "error"), "0 errors");
    }
}
