//! Durations as all messages and views show them. The text for configurations, which can be read back, is
//! [`format_duration`](super::duration::format_duration).

use std::time::Duration;

/// Formats a duration with few digits: `40ms`, `0.4s`, `2s`, `12.3s`, `30m`, `2m05s`, `1h`, `1h02m`.
pub fn shown(duration: Duration) -> String {
    let millis = duration.as_millis();
    let tenths = (millis + 50) / 100;
    let whole = duration.as_secs().max(60);
    match tenths {
        0 if millis == 0 => "0s".to_owned(),
        // Prevents `0.0s` for a duration that is not zero.
        0 => format!("{millis}ms"),
        1..600 if tenths.is_multiple_of(10) => format!("{}s", tenths / 10),
        1..600 => format!("{}.{}s", tenths / 10, tenths % 10),
        _ => match (whole / 3600, whole / 60 % 60, whole % 60) {
            (0, minutes, 0) => format!("{minutes}m"),
            (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
            (hours, 0, _) => format!("{hours}h"),
            (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_few_digits() {
        for (duration, text) in [
            (Duration::ZERO, "0s"),
            (Duration::from_micros(7), "0s"),
            (Duration::from_millis(40), "40ms"),
            (Duration::from_millis(50), "0.1s"),
            (Duration::from_millis(420), "0.4s"),
            (Duration::from_nanos(1_999_989_610), "2s"),
            (Duration::from_millis(12_340), "12.3s"),
            (Duration::from_millis(59_940), "59.9s"),
            (Duration::from_millis(59_970), "1m"),
            (Duration::from_secs(125), "2m05s"),
            (Duration::from_secs(1800), "30m"),
            (Duration::from_secs(3600), "1h"),
            (Duration::from_secs(3725), "1h02m"),
        ] {
            assert_eq!(shown(duration), text, "{duration:?}");
        }
        assert!(shown(Duration::MAX).contains('h'));
    }

    /// Checks that no message formats a duration with `{:?}`, which has nine decimals. Only tests may do so.
    #[test]
    fn no_message_has_a_raw_duration() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut pending = vec![root.join("src"), root.join("crates")];
        let mut found = Vec::new();
        while let Some(directory) = pending.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path);
                    continue;
                }
                if path.extension().is_none_or(|extension| extension != "rs") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                found.extend(raw_durations(code).map(|line| format!("{}: {line}", path.display())));
            }
        }
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    /// Finds lines with `within {..:?}`, `after {..:?}` and the like: a time follows these words.
    fn raw_durations(code: &str) -> impl Iterator<Item = &str> {
        let words = ["within {", "after {", "up to {", "for {", "bound of {", "running for {"];
        code.lines().filter(move |line| {
            words.iter().any(|word| {
                line.split(word)
                    .skip(1)
                    .any(|rest| rest.split('}').next().is_some_and(|name| name.ends_with(":?")))
            })
        })
    }
}
