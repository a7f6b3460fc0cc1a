//! Times at the start of the lines of logs, in the forms that Celery, Redis, HTTP servers, orch and its guard write. Pure.

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};

/// Number of bytes at the start of a line in which a time is searched for.
const SEARCHED_BYTES: usize = 96;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Returns the time of a line in Unix seconds; a time without an offset is one of this zone. `None` if the line begins
/// with no known form of a time, as the lines of a traceback.
pub fn time_of(line: &[u8], zone: &TimeZone) -> Option<f64> {
    let begin = line.get(..line.len().min(SEARCHED_BYTES))?;
    let text = match std::str::from_utf8(begin) {
        Ok(text) => text,
        // The cut or the program's encoding has broken a character.
        Err(error) => std::str::from_utf8(begin.get(..error.valid_up_to())?).ok()?,
    };
    let text = text.trim_start_matches('[');
    iso_time(text, zone)
        .or_else(|| redis_time(text, zone))
        .or_else(|| guard_time(text))
        .or_else(|| http_time(text, zone))
}

/// Parser that takes parts from the start of a text.
struct TextParts<'t>(&'t str);

impl TextParts<'_> {
    fn number(&mut self, digits: usize) -> Option<i16> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.0 = rest;
        number.parse().ok()
    }

    fn one_of(&mut self, letters: &[char]) -> Option<char> {
        let letter = self.0.chars().next().filter(|letter| letters.contains(letter))?;
        self.0 = &self.0[letter.len_utf8()..];
        Some(letter)
    }

    fn month(&mut self) -> Option<i16> {
        let (name, rest) = self.0.split_at_checked(3)?;
        let month = (1..).zip(MONTHS).find(|(_, month)| *month == name)?.0;
        self.0 = rest;
        Some(month)
    }

    /// Takes `HH:MM:SS` with an optional fraction; returns seconds of the day.
    fn clock(&mut self) -> Option<f64> {
        let hours = self.number(2)?;
        self.one_of(&[':'])?;
        let minutes = self.number(2)?;
        self.one_of(&[':'])?;
        let seconds = self.number(2)?;
        if hours > 23 || minutes > 59 || seconds > 60 {
            return None;
        }
        let whole = f64::from(hours) * 3600.0 + f64::from(minutes) * 60.0 + f64::from(seconds);
        Some(whole + self.fraction())
    }

    /// Takes `.123` or `,123`.
    fn fraction(&mut self) -> f64 {
        let Some(rest) = self.0.strip_prefix(['.', ',']) else {
            return 0.0;
        };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return 0.0;
        }
        let fraction = format!("0.{}", &rest[..digits]).parse().unwrap_or(0.0);
        self.0 = &rest[digits..];
        fraction
    }

    /// Takes `Z`, `+02:00` or `+0200`.
    fn offset(&mut self) -> Option<Offset> {
        if self.one_of(&['Z']).is_some() {
            return Some(Offset::UTC);
        }
        let mut ahead = TextParts(self.0);
        let sign = ahead.one_of(&['+', '-'])?;
        let hours = ahead.number(2)?;
        ahead.one_of(&[':']);
        let minutes = ahead.number(2)?;
        let seconds = i32::from(hours) * 3600 + i32::from(minutes) * 60;
        Offset::from_seconds(if sign == '-' { -seconds } else { seconds }).ok()
    }
}

fn unix_seconds(date: (i16, i16, i16), clock: f64, offset: Option<Offset>, zone: &TimeZone) -> Option<f64> {
    let (year, month, day) = date;
    let midnight = Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let whole = jiff::SignedDuration::from_secs(clock as i64);
    let moment = midnight.at(0, 0, 0, 0).checked_add(whole).ok()?;
    let moment = match offset {
        Some(offset) => offset.to_timestamp(moment).ok()?,
        None => zone.to_timestamp(moment).ok()?,
    };
    Some(moment.as_second() as f64 + clock.fract())
}

/// Reads `2026-11-30 10:43:13,123` and `2026-11-30T10:43:13.123456Z`.
fn iso_time(text: &str, zone: &TimeZone) -> Option<f64> {
    let mut parts = TextParts(text);
    let year = parts.number(4)?;
    parts.one_of(&['-'])?;
    let month = parts.number(2)?;
    parts.one_of(&['-'])?;
    let day = parts.number(2)?;
    parts.one_of(&[' ', 'T'])?;
    let clock = parts.clock()?;
    let offset = parts.offset();
    unix_seconds((year, month, day), clock, offset, zone)
}

/// Reads `1234:M 30 Nov 2026 10:43:13.123 * `.
fn redis_time(text: &str, zone: &TimeZone) -> Option<f64> {
    let (process, rest) = text.split_once(' ')?;
    let (pid, role) = process.split_once(':')?;
    if role.len() != 1 || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut parts = TextParts(rest);
    let day = parts.number(2)?;
    parts.one_of(&[' '])?;
    let month = parts.month()?;
    parts.one_of(&[' '])?;
    let year = parts.number(4)?;
    parts.one_of(&[' '])?;
    let clock = parts.clock()?;
    unix_seconds((year, month, day), clock, None, zone)
}

/// Reads `1796035393.123 `.
fn guard_time(text: &str) -> Option<f64> {
    let (time, _) = text.split_once(' ')?;
    let (seconds, fraction) = time.split_once('.')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.len() < 9 || seconds.len() > 11 || fraction.len() != 3 || !is_number(seconds) || !is_number(fraction) {
        return None;
    }
    time.parse().ok()
}

/// Reads `127.0.0.1 - - [30/Nov/2026:10:43:13 +0000]`.
fn http_time(text: &str, zone: &TimeZone) -> Option<f64> {
    let mut parts = TextParts(text.split_once('[')?.1);
    let day = parts.number(2)?;
    parts.one_of(&['/'])?;
    let month = parts.month()?;
    parts.one_of(&['/'])?;
    let year = parts.number(4)?;
    parts.one_of(&[':', ' '])?;
    let clock = parts.clock()?;
    parts.one_of(&[' ']);
    let offset = parts.offset();
    unix_seconds((year, month, day), clock, offset, zone)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_times_of_all_forms_are_found() {
        let zone = TimeZone::fixed(Offset::constant(1));
        // 2026-11-30 10:43:13 UTC.
        let moment = 1_796_035_393.0;
        for (line, expected) in [
            (
                "[2026-11-30 11:43:13,125: INFO/MainProcess] Task a[1] received",
                Some(moment + 0.125),
            ),
            ("2026-11-30 11:43:13 text", Some(moment)),
            ("2026-11-30T10:43:13.5Z  WARN orch: text", Some(moment + 0.5)),
            ("2026-11-30T12:43:13+02:00 text", Some(moment)),
            ("1234:M 30 Nov 2026 11:43:13.250 * Ready", Some(moment + 0.25)),
            ("1796035393.500 orch is gone: ordered stop", Some(moment + 0.5)),
            (
                "127.0.0.1 - - [30/Nov/2026:10:43:13 +0000] \"GET / HTTP/1.1\" 200",
                Some(moment),
            ),
            ("127.0.0.1 - - [30/Nov/2026 11:43:13] \"GET /\" 200", Some(moment)),
            ("Traceback (most recent call last):", None),
            ("2026-13-30 10:43:13", None),
            ("2026-11-30 25:43:13", None),
            ("2026-11-30", None),
            ("12.345 seconds", None),
            ("", None),
        ] {
            assert_eq!(time_of(line.as_bytes(), &zone), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(line in proptest::collection::vec(any::<u8>(), 0..120)) {
            time_of(&line, &TimeZone::UTC);
        }

        #[test]
        fn any_text_is_read(line in "[0-9:/\\[ .,TZ+ANové-]{0,40}") {
            time_of(line.as_bytes(), &TimeZone::UTC);
        }
    }
}
