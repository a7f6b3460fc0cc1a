//! Errors of the Celery client. Most of them name the failed action and the server.
//!
//! No variant holds a password: servers are named by the `Display` of [`Endpoint`](crate::redis::endpoint::Endpoint),
//! which omits credentials.

use std::time::Duration;

use crate::wire::ids::TaskId;
use orch_base::text::duration_text::shown;

/// Result type of the functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error of the Celery client.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Broker or result URL that cannot be used. The password in `url` is replaced.
    #[error("`{url}` is not a usable Redis URL: {reason}")]
    InvalidUrl { url: String, reason: String },

    /// Task that must not reach a queue, because workers cannot handle its message.
    #[error("task `{task}` cannot be published: {reason}")]
    InvalidTask { task: String, reason: String },

    /// Connection that could not be opened, or that broke and was not replaced before the deadline.
    #[error("cannot {action} at {endpoint}: {reason}")]
    Unreachable {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// Server that answers but is still loading the data from disk.
    #[error("cannot {action} at {endpoint}: the server is still loading its data")]
    Loading { action: String, endpoint: String },

    /// Server that answers but does not serve now: a replica, a replica without its master, an incomplete cluster. The
    /// command was not executed.
    #[error("cannot {action} at {endpoint}: the server does not serve now: {reason}")]
    NotServing {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// Credentials that are missing or that the server refuses.
    #[error("cannot {action} at {endpoint}: the server refuses our credentials ({reason})")]
    CredentialsRefused {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// Action that the server's ACL does not permit to our user.
    #[error(
        "cannot {action} at {endpoint}: the ACL does not permit this: {rule} ({reason}); \
         `orch redis acl` prints all rules"
    )]
    NotAllowed {
        action: String,
        endpoint: String,
        /// Description of the missing rule, for people.
        rule: String,
        reason: String,
    },

    /// Server that does not speak the Redis protocol.
    #[error("cannot {action} at {endpoint}: the server there does not speak the Redis protocol ({reason})")]
    NotRedis {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// Server process that belongs to another user of this machine.
    #[error("cannot {action} at {endpoint}: {reason}")]
    UntrustedServer {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// Command that the server understood and refused.
    #[error("cannot {action} at {endpoint}: {reason}")]
    Refused {
        action: String,
        endpoint: String,
        reason: String,
    },

    /// Server that did not answer in time.
    #[error("cannot {action} at {endpoint}: no answer within {}", shown(*.after))]
    DeadlineExceeded {
        action: String,
        endpoint: String,
        after: Duration,
    },

    /// Task that may be queued or not, because the connection broke during the transfer. [`Client::locate`] finds out.
    ///
    /// [`Client::locate`]: crate::client::Client::locate
    #[error("task {task} may or may not have been published to {endpoint}: {reason}")]
    Unconfirmed {
        task: TaskId,
        endpoint: String,
        reason: String,
    },

    /// Data from the wire that cannot be read.
    #[error("cannot read {what}: {reason}")]
    Malformed { what: String, reason: String },

    /// Data that is too large for the wire.
    #[error("{what} is too large: {bytes} bytes, above the limit of {limit} bytes")]
    TooLarge { what: String, bytes: usize, limit: usize },
}

/// Returns the missing ACL rule that a server error names; `None` if the error is not about permissions.
fn missing_rule(message: &str) -> Option<String> {
    if !message.to_lowercase().contains("no permissions to") {
        return None;
    }
    // The text is "... to run the 'client|tracking' command"; some versions add words after it.
    let command = message
        .split_once("run the '")
        .and_then(|(_, rest)| rest.split_once('\''));
    Some(match command {
        Some((command, _)) => format!("the user lacks `+{command}`"),
        None if message.contains("channel") => "the user lacks a rule `&...` for a channel".to_owned(),
        None => "the user lacks a rule `~...` for a key".to_owned(),
    })
}

impl Error {
    /// Returns whether the same call may succeed later without any change of settings.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Loading { .. }
            | Self::NotServing { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Unconfirmed { .. } => true,
            Self::InvalidUrl { .. }
            | Self::InvalidTask { .. }
            | Self::CredentialsRefused { .. }
            | Self::NotAllowed { .. }
            | Self::NotRedis { .. }
            | Self::UntrustedServer { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    /// Returns the error of a connection that could not be opened, or that broke.
    pub(crate) fn unreachable(action: impl Into<String>, endpoint: impl ToString, reason: impl Into<String>) -> Self {
        Self::Unreachable {
            action: action.into(),
            endpoint: endpoint.to_string(),
            reason: reason.into(),
        }
    }

    /// Returns the error of data that cannot be read.
    pub(crate) fn malformed(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Malformed {
            what: what.into(),
            reason: reason.to_string(),
        }
    }

    /// Returns the error of an action that did not end within `after`.
    pub(crate) fn deadline(action: &str, endpoint: &impl ToString, after: Duration) -> Self {
        Self::DeadlineExceeded {
            action: action.to_owned(),
            endpoint: endpoint.to_string(),
            after,
        }
    }

    /// Classifies an error of the Redis library by the reaction that it requires of a caller.
    pub(crate) fn from_redis(error: &redis::RedisError, action: &str, endpoint: &impl ToString) -> Self {
        let (action, endpoint) = (action.to_owned(), endpoint.to_string());
        // Commands are sent in pipelines; the first error of the server decides.
        let server_errors = error.clone().into_server_errors().unwrap_or_default();
        let (code, reason) = match server_errors.first() {
            Some((_, first)) => {
                let details = first.details().unwrap_or_default();
                (Some(first.code()), format!("{} {details}", first.code()))
            }
            None => (None, error.to_string()),
        };
        // The library wraps the server's refusal of the commands that it sends first on a connection, such as SELECT.
        let is_of_cluster = match code {
            Some(code) => matches!(code, "MOVED" | "ASK" | "CROSSSLOT"),
            None => reason.contains("in cluster mode"),
        };
        let missing_rule = match code {
            Some("NOPERM") => Some(missing_rule(&reason).unwrap_or_else(|| "a rule is missing".to_owned())),
            Some(_) => None,
            None => missing_rule(&reason),
        };
        if is_of_cluster {
            return Self::Refused {
                action,
                endpoint,
                reason: format!("it is a Redis Cluster, which Celery cannot use ({reason})"),
            };
        }
        if let Some(rule) = missing_rule {
            return Self::NotAllowed {
                action,
                endpoint,
                rule,
                reason,
            };
        }
        match (code, error.kind()) {
            (Some("NOAUTH" | "WRONGPASS"), _) | (None, redis::ErrorKind::AuthenticationFailed) => {
                Self::CredentialsRefused {
                    action,
                    endpoint,
                    reason,
                }
            }
            (Some("LOADING"), _) => Self::Loading { action, endpoint },
            (Some("MASTERDOWN" | "READONLY" | "NOREPLICAS" | "CLUSTERDOWN" | "UNBLOCKED"), _) => Self::NotServing {
                action,
                endpoint,
                reason,
            },
            (None, redis::ErrorKind::Io) => Self::unreachable(action, endpoint, reason),
            (None, redis::ErrorKind::Parse | redis::ErrorKind::UnexpectedReturnType) => Self::NotRedis {
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

    /// Returns whether the connection that returned this error must not be used again.
    pub(crate) fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::NotServing { .. }
                | Self::DeadlineExceeded { .. }
                | Self::CredentialsRefused { .. }
                | Self::NotRedis { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_rule_is_read_from_the_words_of_every_version() {
        for (message, rule) in [
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
            let found = missing_rule(message);
            assert_eq!(found.is_some(), rule.is_some(), "{message}");
            assert!(
                found.unwrap_or_default().contains(rule.unwrap_or_default()),
                "{message}"
            );
        }
    }
}
