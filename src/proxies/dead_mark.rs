//! What in an entry of a pool says that its proxy does not work.

use super::scalar::Scalar;

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
/// Names of fields that say that it does not.
const DEAD: [&str; 6] = ["dead", "isdead", "broken", "disabled", "failed", "offline"];
/// Names of fields whose text says it.
const STATUS: [&str; 3] = ["status", "state", "health"];
/// Such texts, normalised as the names.
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

/// How a field marks a proxy as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// When it is false.
    Works,
    /// When it is true.
    Dead,
    /// When its text says so.
    Status,
}

impl Mark {
    /// The mark that a field of this normalised name is.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            _ if WORKS.contains(&name) => Some(Self::Works),
            _ if DEAD.contains(&name) => Some(Self::Dead),
            _ if STATUS.contains(&name) => Some(Self::Status),
            _ => None,
        }
    }

    /// Says whether this value of the field means that the proxy does not work. What is neither true nor false says nothing.
    pub fn is_dead(self, value: &Scalar) -> bool {
        match self {
            Self::Works => truth(value) == Some(false),
            // A number of failures is no mark.
            Self::Dead => !matches!(value, Scalar::Number(_)) && truth(value) == Some(true),
            Self::Status => match value {
                Scalar::Text(text) => DEAD_STATUS.contains(&normalised(text).as_str()),
                Scalar::Boolean(works) => !works,
                Scalar::Number(_) | Scalar::Nothing => false,
            },
        }
    }
}

/// A name or a word in lower case, without what joins words.
pub fn normalised(text: &str) -> String {
    let kept = text.chars().filter(|letter| !matches!(letter, '_' | '-' | ' '));
    kept.flat_map(char::to_lowercase).collect()
}

fn truth(value: &Scalar) -> Option<bool> {
    match value {
        Scalar::Boolean(truth) => Some(*truth),
        Scalar::Number(0.0) => Some(false),
        Scalar::Number(1.0) => Some(true),
        Scalar::Number(_) | Scalar::Nothing => None,
        Scalar::Text(text) => match normalised(text).as_str() {
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
        let text = |text: &str| Scalar::Text(text.to_owned());
        for (name, value, is_dead) in [
            ("alive", Scalar::Boolean(false), true),
            ("alive", Scalar::Boolean(true), false),
            ("is_working", Scalar::Number(0.0), true),
            ("isWorking", text("False"), true),
            ("working", Scalar::Nothing, false),
            ("ok", Scalar::Number(0.5), false),
            ("dead", Scalar::Boolean(true), true),
            ("dead", Scalar::Boolean(false), false),
            ("failed", Scalar::Number(1.0), false),
            ("disabled", text("yes"), true),
            ("status", text("dead"), true),
            ("Status", text("Not working"), true),
            ("state", text("timed_out"), true),
            ("status", text("live"), false),
            ("status", Scalar::Number(200.0), false),
            ("status", Scalar::Boolean(false), true),
        ] {
            let mark = Mark::named(&normalised(name)).expect("a mark");
            assert_eq!(mark.is_dead(&value), is_dead, "{name}: {value:?}");
        }
        for name in ["anonymity", "latency", "country", "deadline", "uptime"] {
            assert_eq!(Mark::named(name), None, "{name}");
        }
    }
}
