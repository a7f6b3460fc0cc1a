//! What can go wrong between us, Redis and Celery, with what was being done and to which server.
//!
//! No variant holds a password: servers are named by [`Endpoint`](super::Endpoint)'s `Display`, which has none.

use std::time::Duration;

use super::TaskId;
use crate::duration_text::shown;

/// Shorthand of this part.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the Celery client.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A broker or result URL that cannot be used. `url` has its password replaced.
    #[error("`{url}` is not a usable Redis URL: {reason}")]
    Url { url: String, reason: String },

    /// A task that must not reach a queue, because workers would choke on it.
    #[error("task `{task}` cannot be published: {reason}")]
    Task { task: String, reason: String },

    /// No connection, or it broke, and it was not back before the deadline.
    #[error("cannot {action} at {endpoint}: {reason}")]
    Unreachable {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// The server is there but still reads its data from disk.
    #[error("cannot {action} at {endpoint}: the server is still loading its data")]
    Loading { action: String, endpoint: String },

    /// The server is there and does not serve now: a replica, one without its master, a cluster that is not whole. The
    /// command was not executed.
    #[error("cannot {action} at {endpoint}: the server does not serve now: {reason}")]
    NotMaster {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// The server wants other credentials, or any at all.
    #[error("cannot {action} at {endpoint}: the server refuses our credentials ({reason})")]
    Credentials {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// The server's ACL does not allow our user what is needed.
    #[error(
        "cannot {action} at {endpoint}: its ACL does not allow it: {rule} ({reason}); `orch redis acl` prints all rules"
    )]
    NotAllowed {
        action: String,
        endpoint: String,
        /// Names the missing rule for people.
        rule: String,
        reason: String,
    },

    /// What listens there does not speak Redis.
    #[error("cannot {action} at {endpoint}: what listens there does not speak the Redis protocol ({reason})")]
    NotRedis {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// What listens there belongs to another user of this machine.
    #[error("cannot {action} at {endpoint}: {reason}")]
    Stranger {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// The server understood and refused.
    #[error("cannot {action} at {endpoint}: {reason}")]
    Refused {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// The server did not answer in time.
    #[error("cannot {action} at {endpoint}: no answer within {}", shown(*.after))]
    Deadline {
        action: String,
        endpoint: String,
        after: Duration,
    },

    /// The connection broke while a task was on its way: it may be queued or not. [`Client::locate`] can tell.
    ///
    /// [`Client::locate`]: super::Client::locate
    #[error("task {task} may or may not have been published to {endpoint}: {reason}")]
    Unconfirmed {
        task: TaskId,
        endpoint: String,
        reason: String,
    },

    /// Something on the wire that cannot be read.
    #[error("cannot read {what}: {reason}")]
    Malformed { what: String, reason: String },

    /// Something that is too large for the wire.
    #[error("{what} is too large: {bytes} bytes, above the limit of {limit} bytes")]
    TooLarge { what: String, bytes: usize, limit: usize },
}

/// The rule of an ACL that is missing, by the server's words; `None` where they are of something else.
fn missing_rule(said: &str) -> Option<String> {
    if !said.to_lowercase().contains("no permissions to") {
        return None;
    }
    // "... to run the 'client|tracking' command", of some versions with more words behind it.
    let command = said.split_once("run the '").and_then(|(_, rest)| rest.split_once('\''));
    Some(match command {
        Some((command, _)) => format!("the user lacks `+{command}`"),
        None if said.contains("channel") => "the user lacks a rule `&...` for a channel".to_owned(),
        None => "the user lacks a rule `~...` for a key".to_owned(),
    })
}

/// Names the kind of server that cannot be used, with its own words.
fn cluster(said: &str) -> String {
    format!("it is a Redis Cluster, which Celery cannot use ({said})")
}

impl Error {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Loading { .. }
            | Self::NotMaster { .. }
            | Self::Deadline { .. }
            | Self::Unconfirmed { .. } => true,
            Self::Url { .. }
            | Self::Task { .. }
            | Self::Credentials { .. }
            | Self::NotAllowed { .. }
            | Self::NotRedis { .. }
            | Self::Stranger { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    /// Sorts an error of the Redis library by what a caller would do about it.
    pub(super) fn from_redis(error: &redis::RedisError, action: &str, endpoint: &impl ToString) -> Self {
        let (action, endpoint) = (action.to_owned(), endpoint.to_string());
        // Commands go in pipelines; what the server said to the first that failed is what matters.
        if let Some(said) = error
            .clone()
            .into_server_errors()
            .as_deref()
            .and_then(<[_]>::first)
            .map(|(_, said)| said)
        {
            let reason = format!("{} {}", said.code(), said.details().unwrap_or_default());
            return match said.code() {
                "NOPERM" => Self::NotAllowed {
                    action,
                    endpoint,
                    rule: missing_rule(&reason).unwrap_or_else(|| "a rule is missing".to_owned()),
                    reason,
                },
                "NOAUTH" | "WRONGPASS" => Self::Credentials {
                    action,
                    endpoint,
                    reason,
                },
                "LOADING" => Self::Loading { action, endpoint },
                "MASTERDOWN" | "READONLY" | "NOREPLICAS" | "CLUSTERDOWN" | "UNBLOCKED" => Self::NotMaster {
                    action,
                    endpoint,
                    reason,
                },
                "MOVED" | "ASK" | "CROSSSLOT" => Self::Refused {
                    action,
                    endpoint,
                    reason: cluster(&reason),
                },
                _ => Self::Refused {
                    action,
                    endpoint,
                    reason,
                },
            };
        }
        let reason = error.to_string();
        // The library wraps the server's refusal of a SELECT.
        if reason.contains("in cluster mode") {
            return Self::Refused {
                action,
                endpoint,
                reason: cluster(&reason),
            };
        }
        // And of whatever else it sends first on a connection.
        if let Some(rule) = missing_rule(&reason) {
            return Self::NotAllowed {
                action,
                endpoint,
                rule,
                reason,
            };
        }
        match error.kind() {
            redis::ErrorKind::AuthenticationFailed => Self::Credentials {
                action,
                endpoint,
                reason,
            },
            redis::ErrorKind::Io => Self::Unreachable {
                action,
                endpoint,
                reason,
            },
            redis::ErrorKind::Parse => Self::NotRedis {
                action,
                endpoint,
                reason,
            },
            _ => Self::Refused {
                action,
                endpoint,
                reason,
            },
        }
    }

    /// Whether the connection that gave this error must not be used again.
    pub(super) fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::NotMaster { .. }
                | Self::Deadline { .. }
                | Self::Credentials { .. }
                | Self::NotRedis { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_rule_is_read_from_the_words_of_every_version() {
        for (said, rule) in [
            (
                "NOPERM this user has no permissions to run the 'info' command or its subcommand",
                Some("`+info`"),
            ),
            (
                "NOPERM this user has no permissions to run the 'client|tracking' command",
                Some("`+client|tracking`"),
            ),
            (
                "NOPERM User orch has no permissions to run the 'zadd' command",
                Some("`+zadd`"),
            ),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                Some("`~...`"),
            ),
            ("NOPERM No permissions to access a key", Some("`~...`")),
            (
                "NOPERM this user has no permissions to access one of the channels used as arguments",
                Some("`&...`"),
            ),
            ("WRONGPASS invalid username-password pair or user is disabled.", None),
        ] {
            let found = missing_rule(said);
            assert_eq!(found.is_some(), rule.is_some(), "{said}");
            assert!(found.unwrap_or_default().contains(rule.unwrap_or_default()), "{said}");
        }
    }
}
