//! Names and ids as types, so that a task id is never taken for a job id.
//!
//! Not here: pids (the guard's, `guard::ProcessId`).

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps a name that is already checked or comes from a trusted source.
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }

            /// The bare text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }
    };
}

string_id!(
    /// One run of `orch run` or `orch up`: random, also in `ORCH_RUN_ID` of every descendant.
    RunId
);
string_id!(
    /// What is kept running: `redis`, `celery`, `beat`, or a name of `[services.<name>]`.
    ServiceName
);
string_id!(
    /// A site of the configuration; may hold dots (`imot.bg`).
    SiteName
);
string_id!(
    /// The job id under which an app keeps its progress keys.
    JobId
);

impl RunId {
    /// A new random id of 12 hexadecimal digits: short enough to type, and unique within a state directory.
    pub fn random() -> Self {
        let mut id = uuid::Uuid::new_v4().simple().to_string();
        id.truncate(12);
        Self(id)
    }
}
