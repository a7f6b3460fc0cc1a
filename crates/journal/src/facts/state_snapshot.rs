//! The state of a run at the head of a later segment of its journal.

use serde::{Deserialize, Serialize};

use crate::state::model::RunState;

/// State that all earlier events add up to. Only the journal has this event, in place of the events of earlier segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateSnapshot {
    pub state: Box<RunState>,
}
