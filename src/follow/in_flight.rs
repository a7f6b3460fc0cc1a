//! The jobs and sites that are under way: kept apart from the futures that follow them, so that a stop, which drops
//! those, still knows what to revoke and what to report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::answer::Job;
use super::context::Context;
use super::desk::Desk;
use crate::celery::TaskId;
use crate::run::{JobId, SiteCounts, SiteName};

/// A job as far as it is known.
#[derive(Clone, Debug)]
pub struct JobInFlight {
    /// The first task, and the one whose result tells the job.
    pub tasks: Vec<TaskId>,
    pub job: Job,
}

impl JobInFlight {
    /// The tasks whose ids are known for sure.
    pub fn tasks(&self) -> Vec<TaskId> {
        self.tasks.iter().cloned().chain(self.job.callback()).collect()
    }
}

/// A site that has not ended.
#[derive(Clone, Debug, Default)]
pub struct SiteInFlight {
    /// `None`: still waiting for its turn.
    pub begun: Option<Instant>,
    pub attempts: u32,
    pub counts: SiteCounts,
    /// Id of the latest attempt's job, and the prefix of the app's keys for it.
    pub job: Option<(JobId, String)>,
    /// First task of each attempt's job.
    pub roots: Vec<TaskId>,
}

/// Cheap to clone; clones are the same.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<Inner>>);

/// All that is in flight.
pub(crate) struct Taken {
    pub jobs: BTreeMap<TaskId, JobInFlight>,
    pub sites: BTreeMap<SiteName, SiteInFlight>,
    /// There is one wherever there are jobs that are followed no more.
    pub desk: Option<Arc<Desk>>,
}

/// A desk that outlives the following of the jobs under way, when that is dropped: what is to be ended is ended by what it
/// knows.
pub(crate) struct KeptDesk(Arc<Desk>);

impl KeptDesk {
    pub async fn open(context: &Context) -> Self {
        Self(Arc::new(Desk::open(context).await))
    }
}

impl std::ops::Deref for KeptDesk {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.0
    }
}

impl Drop for KeptDesk {
    /// The followers, which borrow it, are gone by now: a job that has ended is in flight no more.
    fn drop(&mut self) {
        self.0.in_flight().leave(Arc::clone(&self.0));
    }
}

#[derive(Default)]
struct Inner {
    /// By the first task of each job.
    jobs: BTreeMap<TaskId, JobInFlight>,
    sites: BTreeMap<SiteName, SiteInFlight>,
    /// Of jobs that were dropped.
    desk: Option<Arc<Desk>>,
}

impl InFlight {
    /// A panic elsewhere leaves whole entries.
    fn inner(&self) -> MutexGuard<'_, Inner> {
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

    /// The first task of each job that is followed, or was and has not ended.
    pub fn roots(&self) -> Vec<TaskId> {
        self.inner().jobs.keys().cloned().collect()
    }

    /// The tasks of a job whose ids are known for sure; its first one, when it is not under way.
    pub fn tasks_of(&self, root: &TaskId) -> Vec<TaskId> {
        let inner = self.inner();
        inner
            .jobs
            .get(root)
            .map_or_else(|| vec![root.clone()], JobInFlight::tasks)
    }

    /// What is known of a site that has not ended.
    pub fn site(&self, site: &SiteName) -> Option<SiteInFlight> {
        self.inner().sites.get(site).cloned()
    }

    pub fn site_queued(&self, site: &SiteName) {
        self.inner().sites.insert(site.clone(), SiteInFlight::default());
    }

    pub fn site_begun(&self, site: &SiteName, begun: Instant, attempts: u32) {
        let mut inner = self.inner();
        let state = inner.sites.entry(site.clone()).or_default();
        (state.begun, state.attempts) = (Some(begun), attempts);
    }

    pub fn site_attempted(&self, site: &SiteName, root: &TaskId, job_id: JobId, keys_prefix: String) {
        if let Some(state) = self.inner().sites.get_mut(site) {
            state.job = Some((job_id, keys_prefix));
            if !state.roots.contains(root) {
                state.roots.push(root.clone());
            }
        }
    }

    pub fn site_progressed(&self, site: &SiteName, counts: SiteCounts) {
        if let Some(state) = self.inner().sites.get_mut(site) {
            state.counts = counts;
        }
    }

    pub fn site_ended(&self, site: &SiteName) {
        self.inner().sites.remove(site);
    }

    /// Keeps what is known of the tasks that jobs have under way, when nobody follows those any more.
    fn leave(&self, desk: Arc<Desk>) {
        let mut inner = self.inner();
        if !inner.jobs.is_empty() {
            inner.desk = Some(desk);
        }
    }

    /// Takes everything out.
    pub(crate) fn take(&self) -> Taken {
        let Inner { jobs, sites, desk } = std::mem::take(&mut *self.inner());
        Taken { jobs, sites, desk }
    }
}
