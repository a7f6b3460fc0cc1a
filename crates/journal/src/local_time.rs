//! Formats stored times in the local time zone.

/// Formats a time in the local time zone, such as `2026-08-01 02:30:00`.
pub fn local_time(unix_seconds: u64) -> String {
    let second = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).map_or_else(
        |_| "an unknown time".to_owned(),
        |moment| {
            moment
                .to_zoned_datetime(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string()
        },
    )
}
