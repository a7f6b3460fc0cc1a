//! Durations as people write them: `"90s"`, `"40m"`, `"500ms"`, `"1h30m"`.

use std::fmt::Write as _;
use std::time::Duration;

/// Longest duration that is accepted, so that adding one to a clock cannot overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Names of the units and their milliseconds, longest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reason why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text is empty.
    #[error("a duration is a number and a unit, such as `90s`")]
    Empty,
    /// A unit without a number, or a character that is not a digit.
    #[error("a number is missing before `{rest}`")]
    NoNumber { rest: String },
    /// A number without a unit.
    #[error("`{number}` has no unit: write `{number}s`, or use `ms`, `m`, `h`, `d`")]
    NoUnit { number: String },
    /// A fraction: write `500ms`, not `0.5s`.
    #[error("only whole numbers are allowed: use a smaller unit, such as `500ms` for `0.5s`")]
    Fraction,
    /// An unknown unit.
    #[error("`{unit}` is not a unit: use `ms`, `s`, `m`, `h` or `d`")]
    UnknownUnit { unit: String },
    /// Units in the wrong order or twice: `30s1m`, `1m1m`.
    #[error("units must go from long to short, each at most once, such as `1h30m`")]
    Order,
    /// A duration of more than 366 days.
    #[error("longer than a year")]
    TooLong,
}

/// Reads a duration: whole numbers with the units `d`, `h`, `m`, `s`, `ms`, from long to short, each at most once.
///
/// # Errors
/// The text is not such a duration, or is longer than 366 days.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |character| !character.is_ascii_digit());
        if number.is_empty() {
            return Err(DurationError::NoNumber { rest: rest.to_owned() });
        }
        if after.starts_with(['.', ',']) {
            return Err(DurationError::Fraction);
        }
        let (unit, after) = split_where(after, |character| !character.is_alphabetic());
        if unit.is_empty() {
            return Err(match after.chars().next() {
                None => DurationError::NoUnit {
                    number: number.to_owned(),
                },
                Some(_) => DurationError::UnknownUnit { unit: after.to_owned() },
            });
        }
        if !UNITS.iter().any(|(name, _)| *name == unit) {
            return Err(DurationError::UnknownUnit { unit: unit.to_owned() });
        }
        let (_, millis) = units.find(|(name, _)| *name == unit).ok_or(DurationError::Order)?;
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        let part = number.checked_mul(*millis).ok_or(DurationError::TooLong)?;
        total = total.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    let duration = Duration::from_millis(total);
    if duration > LONGEST_TIMEOUT {
        return Err(DurationError::TooLong);
    }
    Ok(duration)
}

/// Writes a duration so that [`parse_duration`] reads the same value back; fractions of a millisecond are cut off.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, millis) in UNITS {
        if rest >= millis {
            write!(text, "{}{unit}", rest / millis).expect("writing to a string cannot fail");
            rest %= millis;
        }
    }
    text
}

fn split_where(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_durations_are_read() {
        for (text, millis) in [
            ("90s", 90_000),
            ("40m", 2_400_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1h30m", 5_400_000),
            ("1m500ms", 60_500),
            ("0s", 0),
            (" 5s ", 5_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_wrong_part() {
        for (text, message) in [
            ("", "a duration is a number and a unit, such as `90s`"),
            ("90", "`90` has no unit: write `90s`, or use `ms`, `m`, `h`, `d`"),
            ("s", "a number is missing before `s`"),
            ("-5s", "a number is missing before `-5s`"),
            (
                "1.5s",
                "only whole numbers are allowed: use a smaller unit, such as `500ms` for `0.5s`",
            ),
            ("90sec", "`sec` is not a unit: use `ms`, `s`, `m`, `h` or `d`"),
            ("90 s", "` s` is not a unit: use `ms`, `s`, `m`, `h` or `d`"),
            (
                "30s1m",
                "units must go from long to short, each at most once, such as `1h30m`",
            ),
            (
                "1m1m",
                "units must go from long to short, each at most once, such as `1h30m`",
            ),
            ("400d", "longer than a year"),
            ("99999999999999999999h", "longer than a year"),
        ] {
            let error = parse_duration(text).expect_err(text);
            assert_eq!(error.to_string(), message, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_survives_being_written(millis in 0u64..=366 * 86_400_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            drop(parse_duration(&text));
        }
    }
}
