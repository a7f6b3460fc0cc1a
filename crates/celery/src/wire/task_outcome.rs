//! Outcome of a task, as its stored status and its events state it (Celery wire, observed on 5.2 to 5.7).

/// Outcome of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    Succeeded,
    Failed,
    Revoked,
}

impl TaskOutcome {
    /// Reads a stored status; `None` for a status that is not final.
    pub(crate) fn of_status(status: &[u8]) -> Option<Self> {
        match status {
            b"SUCCESS" => Some(Self::Succeeded),
            b"FAILURE" => Some(Self::Failed),
            b"REVOKED" => Some(Self::Revoked),
            _ => None,
        }
    }
}
