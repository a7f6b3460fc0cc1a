//! Words and figures as people read them.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::run::ProgressSource;

/// Text from outside, safe in a terminal: control characters (but line breaks) are replaced, and what reorders text.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '\n' => letter,
            // Embeddings, overrides and isolates (Unicode, annex 9): a name could make its line read backwards.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            _ if letter.is_control() => '\u{fffd}',
            _ => letter,
        })
        .collect()
}

/// Text from outside as one line that is safe in a terminal: control characters and line breaks are replaced.
pub fn one_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}

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
    #[expect(
        clippy::cast_possible_truncation,
        reason = "seconds since 1970 fit an i64; a journal's nonsense saturates"
    )]
    let moment = jiff::Timestamp::from_second(unix_seconds as i64).unwrap_or_default();
    moment.to_zoned_datetime(zone.clone()).strftime("%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(printable("a\x1b[31mb\nc"), "a\u{fffd}[31mb\nc");
        assert_eq!(printable("\u{202e}skoob\u{202c} имот"), "\u{fffd}skoob\u{fffd} имот");
    }
}
