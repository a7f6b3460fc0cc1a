//! Distinct types for names and ids, so that a task id cannot be used as a job id.

pub use orch_base::names::{ServiceName, SiteName};
use orch_base::text_id;

text_id!(
    /// Id of one run of `orch run` or `orch up`: random, also in `ORCH_RUN_ID` of every descendant.
    RunId
);
text_id!(
    /// Job id under which an app keeps progress keys.
    JobId
);

text_id!(
    /// Id of a request to a run: random, chosen by the requesting command.
    RequestId
);

impl RequestId {
    /// Generates a random id of 16 hexadecimal digits.
    pub fn random() -> Self {
        let mut id = uuid::Uuid::new_v4().simple().to_string();
        id.truncate(16);
        Self(id)
    }
}

impl RunId {
    /// Generates a random id of 12 hexadecimal digits: short enough to type, and unique within a state directory.
    pub fn random() -> Self {
        let mut id = uuid::Uuid::new_v4().simple().to_string();
        id.truncate(12);
        Self(id)
    }
}
