//! Jobs and sites that are in progress. They are kept apart from the futures that follow them: a stop drops those
//! futures, and must still know which tasks to revoke and which sites to report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::dispatch_result::Job;
use orch_celery::TaskId;
use orch_journal::{JobId, SiteName};

/// Known facts about a job.
#[derive(Clone, Debug)]
pub struct JobInFlight {
    /// First task of the job, and the dispatch task if that is another one.
    pub tasks: Vec<TaskId>,
    pub job: Job,
}

impl JobInFlight {
    /// Returns the tasks with certain ids.
    pub fn tasks(&self) -> Vec<TaskId> {
        self.tasks.iter().cloned().chain(self.job.callback()).collect()
    }
}

/// Site that has not ended. The run's state has its counts and attempts.
#[derive(Clone, Debug, Default)]
pub struct SiteInFlight {
    /// Start of the site; `None` while the site waits for a turn.
    pub begun: Option<Instant>,
    /// Id of the latest attempt's job, and the prefix of the app's keys for that job.
    pub job: Option<(JobId, String)>,
    /// First task of each attempt's job.
    pub roots: Vec<TaskId>,
}

/// Jobs and sites in progress. Cheap to clone; clones share one state.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<InFlightState>>);

/// All jobs and sites that were in progress.
pub(crate) struct TakenInFlight {
    pub jobs: BTreeMap<TaskId, JobInFlight>,
    pub sites: BTreeMap<SiteName, SiteInFlight>,
}

#[derive(Default)]
struct InFlightState {
    /// Jobs by their first task.
    jobs: BTreeMap<TaskId, JobInFlight>,
    sites: BTreeMap<SiteName, SiteInFlight>,
}

impl InFlight {
    /// Locks the state. A panic elsewhere leaves no half-written entry.
    fn inner(&self) -> MutexGuard<'_, InFlightState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note_job(&self, root: &TaskId, dispatch: &TaskId, job: &Job) {
        let mut tasks = vec![root.clone()];
        if dispatch != root {
            tasks.push(dispatch.clone());
        }
        self.inner().jobs.insert(
            root.clone(),
            JobInFlight {
                tasks,
                job: job.clone(),
            },
        );
    }

    pub fn forget_job(&self, root: &TaskId) {
        self.inner().jobs.remove(root);
    }

    /// Returns the first task of each job that has not ended.
    pub fn roots(&self) -> Vec<TaskId> {
        self.inner().jobs.keys().cloned().collect()
    }

    /// Returns the tasks of a job that have certain ids; only `root` if the job is not in progress.
    pub fn tasks_of(&self, root: &TaskId) -> Vec<TaskId> {
        let inner = self.inner();
        inner
            .jobs
            .get(root)
            .map_or_else(|| vec![root.clone()], JobInFlight::tasks)
    }

    /// Returns the known facts about a site that has not ended.
    pub fn site(&self, site: &SiteName) -> Option<SiteInFlight> {
        self.inner().sites.get(site).cloned()
    }

    pub fn site_queued(&self, site: &SiteName) {
        self.inner().sites.insert(site.clone(), SiteInFlight::default());
    }

    pub fn site_begun(&self, site: &SiteName, begun: Instant) {
        self.inner().sites.entry(site.clone()).or_default().begun = Some(begun);
    }

    pub fn site_attempted(&self, site: &SiteName, root: &TaskId, job_id: JobId, keys_prefix: String) {
        if let Some(state) = self.inner().sites.get_mut(site) {
            state.job = Some((job_id, keys_prefix));
            if !state.roots.contains(root) {
                state.roots.push(root.clone());
            }
        }
    }

    pub fn site_ended(&self, site: &SiteName) {
        self.inner().sites.remove(site);
    }

    /// Takes everything out.
    pub(crate) fn take(&self) -> TakenInFlight {
        let InFlightState { jobs, sites } = std::mem::take(&mut *self.inner());
        TakenInFlight { jobs, sites }
    }
}
