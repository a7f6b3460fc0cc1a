//! Time of a proxy's last check, as the entries of real pools write it: Unix time in any unit, or a date and a time as
//! text.
//!
//! [`judge`](super::judge) decides which proxies are too old.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::scalar::ScalarValue;

/// Names of fields with such a time, in lower case without `_`, `-` and spaces.
const NAMES: [&str; 24] = [
    "lastchecked",
    "lastcheckedat",
    "checkedat",
    "checkedon",
    "checked",
    "lastcheck",
    "lastcheckat",
    "checktime",
    "lasttested",
    "testedat",
    "tested",
    "lasttest",
    "lastverified",
    "verifiedat",
    "lastvalidated",
    "validatedat",
    "lastalive",
    "lastworking",
    "lastseen",
    "lastupdated",
    "updatedat",
    "updated",
    "timestamp",
    "ts",
];

/// September 2001, in Unix seconds. An earlier value is no time of a check, but a count, a duration, or a zero for
/// "never".
const EARLIEST: f64 = 1e9;
/// Longest time ahead of now, in seconds, for the time of a check. A time within this limit counts as now, because the
/// clocks of two machines may differ.
const FURTHEST_AHEAD: f64 = 24.0 * 60.0 * 60.0;

/// Returns whether a field with this normalised name holds such a time.
pub fn is_name(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Clock against which a time is read.
#[derive(Clone, Debug)]
pub struct CheckClock {
    /// Current time in Unix seconds.
    pub now: f64,
    /// Zone of texts that name none, unless UTC gives the better reading.
    pub zone: TimeZone,
}

impl CheckClock {
    /// Returns the clock of this machine.
    pub fn of_system() -> Self {
        Self {
            now: Timestamp::now().as_duration().as_secs_f64(),
            zone: TimeZone::system(),
        }
    }

    /// Reads a field as the Unix time of a check, in seconds and never later than now; `None` if the field is no such
    /// time.
    pub fn checked_at(&self, value: &ScalarValue) -> Option<f64> {
        let moment = match value {
            ScalarValue::Number(number) => seconds(*number),
            ScalarValue::Text(text) => match text.trim().parse::<f64>() {
                Ok(number) => seconds(number),
                Err(_) => self.read_text(text.trim())?,
            },
            ScalarValue::Boolean(_) | ScalarValue::Nothing => return None,
        };
        let is_plausible = (EARLIEST..=self.now + FURTHEST_AHEAD).contains(&moment);
        is_plausible.then(|| moment.min(self.now))
    }

    fn read_text(&self, text: &str) -> Option<f64> {
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Some(moment.as_duration().as_secs_f64());
        }
        let mut moment: DateTime = text.parse().ok()?;
        if !text.contains(':') {
            // A day without a time counts as the end of the day, so that no proxy becomes older.
            moment = moment.checked_add(SignedDuration::from_hours(24)).ok()?;
        }
        // Python's `datetime.now()` and `datetime.utcnow()` look the same. The later of the readings that are not ahead
        // of now makes no proxy older than it is.
        let in_zone = |zone: &TimeZone| {
            let moment = zone.to_timestamp(moment).ok()?;
            Some(moment.as_duration().as_secs_f64())
        };
        let readings = [in_zone(&self.zone), in_zone(&TimeZone::UTC)];
        let readings = readings.into_iter().flatten();
        let (past, ahead): (Vec<f64>, Vec<f64>) = readings.partition(|reading| *reading <= self.now);
        past.into_iter()
            .max_by(f64::total_cmp)
            .or_else(|| ahead.into_iter().min_by(f64::total_cmp))
    }
}

/// Converts a number of seconds, milliseconds, microseconds or nanoseconds to Unix seconds; present times differ by
/// their number of digits.
fn seconds(number: f64) -> f64 {
    match number {
        _ if number < 1e11 => number,
        _ if number < 1e14 => number / 1e3,
        _ if number < 1e17 => number / 1e6,
        _ => number / 1e9,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-28 12:00:00 UTC.
    const NOW: f64 = 1_795_867_200.0;
    const HOUR: f64 = 3600.0;

    fn clock(zone: &str) -> CheckClock {
        CheckClock {
            now: NOW,
            zone: TimeZone::posix(zone).expect("a zone"),
        }
    }

    fn age_in_hours(value: &ScalarValue, zone: &str) -> Option<f64> {
        clock(zone).checked_at(value).map(|moment| (NOW - moment) / HOUR)
    }

    fn text(text: &str) -> ScalarValue {
        ScalarValue::Text(text.to_owned())
    }

    #[test]
    fn times_are_read_as_pools_write_them() {
        for (value, hours) in [
            (ScalarValue::Number(NOW - HOUR), Some(1.0)),
            (ScalarValue::Number((NOW - HOUR) * 1e3), Some(1.0)),
            (ScalarValue::Number((NOW - HOUR) * 1e6), Some(1.0)),
            (ScalarValue::Number((NOW - HOUR) * 1e9), Some(1.0)),
            (text("1795863600"), Some(1.0)),
            (text(" 1795863600.0 "), Some(1.0)),
            (text("2026-11-28T11:00:00Z"), Some(1.0)),
            (text("2026-11-28T13:00:00+02:00"), Some(1.0)),
            (text("2026-11-28 11:00:00+00:00"), Some(1.0)),
            (text("2026-11-28T11:00:00.000000"), Some(1.0)),
            (text("2026-11-28 11:00:00"), Some(1.0)),
            (text("2026-11-21"), Some(6.5 * 24.0)),
            (text("2026-11-28"), Some(0.0)),
            // A clock that is ahead.
            (ScalarValue::Number(NOW + HOUR), Some(0.0)),
            (ScalarValue::Number(NOW + 25.0 * HOUR), None),
            // No times: a count, a duration, "never", nonsense.
            (ScalarValue::Number(3.0), None),
            (ScalarValue::Number(0.0), None),
            (ScalarValue::Number(-1.0), None),
            (ScalarValue::Number(f64::NAN), None),
            (ScalarValue::Number(f64::INFINITY), None),
            (text("1970-01-01T00:00:00Z"), None),
            (text("0001-01-01T00:00:00Z"), None),
            (text("never"), None),
            (text(""), None),
            (text("nan"), None),
            (ScalarValue::Boolean(true), None),
            (ScalarValue::Nothing, None),
        ] {
            let read = age_in_hours(&value, "UTC0");
            let is_right = match (read, hours) {
                (Some(read), Some(hours)) => (read - hours).abs() < 0.01,
                (None, None) => true,
                _ => false,
            };
            assert!(is_right, "{value:?}: {read:?} instead of {hours:?}");
        }
    }

    #[test]
    fn a_text_without_a_zone_makes_no_proxy_older_than_it_is() {
        // East of Greenwich the local reading is the earlier, west of it the later one.
        assert_eq!(age_in_hours(&text("2026-11-28 11:00:00"), "EET-2"), Some(1.0));
        assert_eq!(age_in_hours(&text("2026-11-28 04:00:00"), "EST5"), Some(3.0));
        // Only one reading has passed.
        assert_eq!(age_in_hours(&text("2026-11-28 14:00:00"), "EET-2"), Some(0.0));
        assert_eq!(age_in_hours(&text("2026-11-28 11:00:00"), "EST5"), Some(1.0));
    }

    proptest! {
        #[test]
        fn no_value_is_a_time_to_come(number in any::<f64>(), text in ".{0,40}") {
            for value in [ScalarValue::Number(number), ScalarValue::Text(text)] {
                if let Some(moment) = clock("EST5").checked_at(&value) {
                    prop_assert!((EARLIEST..=NOW).contains(&moment), "{value:?}: {moment}");
                }
            }
        }

        #[test]
        fn every_unit_gives_the_same_age(age in 0.0f64..1e8, unit in 0i32..4) {
            let number = (NOW - age) * 1e3f64.powi(unit);
            let read = clock("UTC0").checked_at(&ScalarValue::Number(number)).expect("a time");
            prop_assert!((NOW - read - age).abs() < 0.01, "{read}");
        }
    }
}
