//! Case of a test of the state machine: the machine with a clock that the test sets, and its usual inputs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::inputs::*;
use super::inventory::JobInventory;
use super::progress_keys::{KeysStatus, ProgressKeyValues};
use super::state_machine::*;
use orch_celery::TaskId;
use orch_config::DynamicTimeout;
use orch_journal::{FollowStage, JobId, SiteCounts};

pub(super) const PACE: DynamicTimeout = DynamicTimeout {
    time_per_chunk: Duration::from_secs(60),
    buffer: 1.5,
    timeout_min: Duration::from_secs(300),
    timeout_default: Duration::from_secs(1800),
};
pub(super) const JOB_TIMEOUT: Duration = Duration::from_secs(7200);

#[derive(Clone, Copy, Debug)]
pub(super) enum JobKind {
    Site,
    SiteWithOwnJobId,
    /// A site with its own job id whose job an earlier run has published.
    PickedUp,
    Proxies,
}

/// State machine with a clock that tests set.
pub(super) struct MachineCase {
    pub begun: Instant,
    pub now: Instant,
    pub following: JobStateMachine,
    pub facts: Vec<JobFact>,
}

impl MachineCase {
    pub fn new(kind: JobKind) -> Self {
        let begun = Instant::now();
        let rules = FollowRules {
            pool_file: matches!(kind, JobKind::Proxies),
            picked_up: matches!(kind, JobKind::PickedUp),
            own_job_id: matches!(kind, JobKind::SiteWithOwnJobId | JobKind::PickedUp).then(|| JobId::from("own")),
            pace: PACE,
            deadline: begun + JOB_TIMEOUT,
            auto_timeout: None,
        };
        Self {
            begun,
            now: begun,
            following: JobStateMachine::begin(rules, 8),
            facts: Vec::new(),
        }
    }

    pub fn see(mut self, input: JobInput) -> Self {
        let (following, facts) = self.following.step(input, self.now);
        self.following = following;
        self.facts.extend(facts);
        self
    }

    pub fn after(mut self, seconds: u64) -> Self {
        self.now = self.begun + Duration::from_secs(seconds);
        self
    }

    pub fn stage(&self) -> FollowStageOrEnd {
        match self.following.stage() {
            JobStage::Dispatch => At(FollowStage::Dispatch),
            JobStage::Chord { .. } => At(FollowStage::Chord),
            JobStage::ProgressKeys { .. } => At(FollowStage::ProgressKeys),
            JobStage::FileTime => At(FollowStage::FileTime),
            JobStage::TaskEvents => At(FollowStage::TaskEvents),
            JobStage::Ended(Ok(())) => Complete,
            JobStage::Ended(Err(JobFailure::Reported(_))) => Reported,
            JobStage::Ended(Err(JobFailure::Lost(_))) => Lost,
            JobStage::Ended(Err(JobFailure::Unknown(_))) => Unknown,
            JobStage::Ended(Err(JobFailure::TimedOut(_))) => TimedOut,
            JobStage::Ended(Err(JobFailure::Unhealthy { .. })) => {
                unreachable!("the state machine does not judge health")
            }
        }
    }

    pub fn reason(&self) -> String {
        match self.following.stage() {
            JobStage::Ended(Err(failure)) => failure.reason().to_owned(),
            stage => format!("{stage:?}"),
        }
    }

    pub fn stages_entered(&self) -> Vec<FollowStage> {
        let stage = |fact: &JobFact| match fact {
            JobFact::StageEntered { stage, .. } => Some(*stage),
            JobFact::JobStarted { .. } | JobFact::ChordCompleted { .. } | JobFact::HeaderLost { .. } => None,
        };
        self.facts.iter().filter_map(stage).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum FollowStageOrEnd {
    At(FollowStage),
    Complete,
    Reported,
    Lost,
    Unknown,
    TimedOut,
}
pub(super) use FollowStageOrEnd::*;

/// Returns a dispatch task's result which lists a header of this number of tasks.
pub(super) fn answered(result: Value, started: u64) -> JobInput {
    JobInput::DispatchEnded {
        end: TaskEnd::Succeeded(result),
        listed: header_of(started).into(),
    }
}

pub(super) fn header_of(started: u64) -> ListedTasks {
    if started == 0 {
        return ListedTasks::default();
    }
    ListedTasks {
        groups: vec!["header".to_owned()],
        members: chunks(started),
        tasks: vec![],
    }
}

pub(super) fn chunks(count: u64) -> Vec<TaskId> {
    (0..count)
        .map(|number| TaskId::from(format!("chunk-{number}")))
        .collect()
}

pub(super) fn chord_answer() -> JobInput {
    answered(
        json!({"job_id": "j", "chord_id": "c", "total_urls": 40, "total_chunks": 10}),
        1,
    )
}

/// Returns an inventory in which no task of the job is known except its dispatch task, whose events were seen.
pub(super) fn gone(worker_died: bool) -> JobInput {
    JobInput::NothingLeft(JobInventory { worker_died, ..known() })
}

/// Returns an inventory that misses nothing.
pub(super) fn known() -> JobInventory {
    JobInventory {
        sees_callbacks: true,
        no_end_is_proof: true,
        are_events_unbroken: true,
        ..JobInventory::default()
    }
}

pub(super) fn tallied(succeeded: u64, failed: u64, unended: u64) -> JobInput {
    JobInput::NothingLeft(JobInventory {
        succeeded,
        failed,
        unended: chunks(unended),
        ..known()
    })
}

pub(super) fn keys(status: &str, completed: Option<u64>) -> JobInput {
    let status = match status {
        "" => None,
        "COMPLETE" => Some(KeysStatus::Complete),
        "FAILED" => Some(KeysStatus::Failed("FAILED".to_owned())),
        running => Some(KeysStatus::Running(running.to_owned())),
    };
    let counts = SiteCounts {
        completed_chunks: completed,
        total_chunks: Some(10),
        ..SiteCounts::default()
    };
    JobInput::KeysRead(Some(ProgressKeyValues { status, counts }))
}

pub(super) fn failed(text: &str) -> TaskEnd {
    TaskEnd::Failed(text.to_owned())
}
