//! Marks in an entry of a pool for a proxy that does not work.

use super::scalar::ScalarValue;

/// Names of fields that say that a proxy works, in lower case without `_`, `-` and spaces.
const WORKS: [&str; 18] = [
    "alive",
    "isalive",
    "live",
    "islive",
    "working",
    "isworking",
    "works",
    "active",
    "isactive",
    "valid",
    "isvalid",
    "ok",
    "isok",
    "up",
    "online",
    "healthy",
    "usable",
    "enabled",
];
/// Names of fields that say that a proxy does not work.
const DEAD: [&str; 6] = ["dead", "isdead", "broken", "disabled", "failed", "offline"];
/// Names of fields with a text that says so.
const STATUS: [&str; 3] = ["status", "state", "health"];
/// Texts of such a field for a proxy that does not work, normalised like the names.
const DEAD_STATUS: [&str; 17] = [
    "dead",
    "down",
    "failed",
    "fail",
    "failing",
    "offline",
    "inactive",
    "broken",
    "disabled",
    "invalid",
    "unreachable",
    "notworking",
    "timeout",
    "timedout",
    "error",
    "expired",
    "unhealthy",
];

/// Kind of a field that can mark a proxy as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadMark {
    /// Marks the proxy if the value is false.
    Works,
    /// Marks the proxy if the value is true.
    Dead,
    /// Marks the proxy if the text says so.
    Status,
}

impl DeadMark {
    /// Returns the kind of mark for a field with this normalised name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            _ if WORKS.contains(&name) => Some(Self::Works),
            _ if DEAD.contains(&name) => Some(Self::Dead),
            _ if STATUS.contains(&name) => Some(Self::Status),
            _ => None,
        }
    }

    /// Returns whether this value of the field means that the proxy does not work. A value that is neither true nor
    /// false means nothing.
    pub fn is_dead(self, value: &ScalarValue) -> bool {
        match self {
            Self::Works => truth(value) == Some(false),
            // A number here is a number of failures, and no mark.
            Self::Dead => !matches!(value, ScalarValue::Number(_)) && truth(value) == Some(true),
            Self::Status => match value {
                ScalarValue::Text(text) => DEAD_STATUS.contains(&normalised(text).as_str()),
                ScalarValue::Boolean(works) => !works,
                ScalarValue::Number(_) | ScalarValue::Nothing => false,
            },
        }
    }
}

/// Returns a name or a word in lower case, without the characters that join words.
pub fn normalised(text: &str) -> String {
    let kept = text.chars().filter(|letter| !matches!(letter, '_' | '-' | ' '));
    kept.flat_map(char::to_lowercase).collect()
}

fn truth(value: &ScalarValue) -> Option<bool> {
    match value {
        ScalarValue::Boolean(truth) => Some(*truth),
        ScalarValue::Number(0.0) => Some(false),
        ScalarValue::Number(1.0) => Some(true),
        ScalarValue::Number(_) | ScalarValue::Nothing => None,
        ScalarValue::Text(text) => match normalised(text).as_str() {
            "true" | "yes" | "1" => Some(true),
            "false" | "no" | "0" => Some(false),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_pools_write_them() {
        let text = |text: &str| ScalarValue::Text(text.to_owned());
        for (name, value, is_dead) in [
            ("alive", ScalarValue::Boolean(false), true),
            ("alive", ScalarValue::Boolean(true), false),
            ("is_working", ScalarValue::Number(0.0), true),
            ("isWorking", text("False"), true),
            ("working", ScalarValue::Nothing, false),
            ("ok", ScalarValue::Number(0.5), false),
            ("dead", ScalarValue::Boolean(true), true),
            ("dead", ScalarValue::Boolean(false), false),
            ("failed", ScalarValue::Number(1.0), false),
            ("disabled", text("yes"), true),
            ("status", text("dead"), true),
            ("Status", text("Not working"), true),
            ("state", text("timed_out"), true),
            ("status", text("live"), false),
            ("status", ScalarValue::Number(200.0), false),
            ("status", ScalarValue::Boolean(false), true),
        ] {
            let mark = DeadMark::named(&normalised(name)).expect("a mark");
            assert_eq!(mark.is_dead(&value), is_dead, "{name}: {value:?}");
        }
        for name in ["anonymity", "latency", "country", "deadline", "uptime"] {
            assert_eq!(DeadMark::named(name), None, "{name}");
        }
    }
}
