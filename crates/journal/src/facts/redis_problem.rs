//! Problems of Redis, as events state them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Problem of Redis that does not end the run. All are warnings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisProblem {
    /// The external Redis is unavailable; the run waits for it.
    Unavailable {
        /// Longest wait, milliseconds.
        timeout_ms: u64,
        reason: String,
    },
    /// Redis has refused commands of a client without a password, and nothing shows that it was the app.
    ClientRefused {
        /// Number of refused commands.
        count: u64,
        /// Names of the first commands.
        commands: Vec<String>,
    },
    /// The data on the disk are damaged, and Redis starts again without them.
    DataDamaged {
        /// Message of the server.
        cause: String,
        data: PathBuf,
        /// Directory to which the data were moved.
        moved_to: PathBuf,
        /// Reason why the data could not be moved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// The value of a key has a type that Celery cannot use; the value was moved aside.
    KeyMistyped {
        key: String,
        database: u32,
        /// Types as the command `TYPE` names them.
        found_type: String,
        expected_type: String,
        /// Content that Celery stores under the key.
        purpose: String,
        /// Key to which the value was moved.
        moved_to: String,
    },
}
