//! Requests of persons about the sites of a run: the admission of sites, and the begin of one site. The receiver of
//! requests writes here; the run of the sites reads, answers and acts.
//!
//! Not here: requests to stop a site ([`super::stop_requests`]), which the tasks of running sites observe.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use orch_journal::{AdmissionChange, EventKind, PendingRequest, Recorder, SiteAdmission, SiteName};

/// Request about the sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteRequest {
    /// Set the admission of sites that have not begun.
    Admit(SiteAdmission),
    /// Begin a site that waits, before all others.
    Start(SiteName),
    /// Begin a site again that has ended.
    Retry(SiteName),
    /// Refresh the proxies.
    RefreshProxies,
}

/// Requests about the sites. Cheap to clone; clones share one state.
#[derive(Clone, Default)]
pub struct SiteRequests(Arc<SiteRequestState>);

#[derive(Default)]
struct SiteRequestState {
    inbox: Mutex<SiteInbox>,
    /// Number of requests so far.
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct SiteInbox {
    stage: SitesStage,
    admission: SiteAdmission,
    waiting: Vec<(SiteRequest, PendingRequest)>,
}

/// Stage of the sites of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SitesStage {
    #[default]
    NotBegun,
    Running,
    Ended,
}

impl SiteRequests {
    /// Passes a request to the run of the sites, which answers at once. Before and after that run the answer is given
    /// here.
    pub fn send(&self, request: SiteRequest, pending: PendingRequest, recorder: &Recorder) {
        let mut inbox = self.inbox();
        match (inbox.stage, request) {
            (SitesStage::Running, request) => {
                inbox.waiting.push((request, pending));
                drop(inbox);
                self.0.count.send_modify(|count| *count += 1);
            }
            (SitesStage::Ended, _) => pending.nothing_to_do("all sites of the run have ended"),
            (SitesStage::NotBegun, SiteRequest::Admit(admission)) => {
                let before = std::mem::replace(&mut inbox.admission, admission);
                drop(inbox);
                answer_admission(before, admission, 0, pending, recorder);
            }
            (SitesStage::NotBegun, SiteRequest::Start(_) | SiteRequest::Retry(_) | SiteRequest::RefreshProxies) => {
                pending.refuse(
                    "the sites of the run do not run yet: its services are starting, or its proxies are refreshed",
                );
            }
        }
    }

    /// Marks the begin of the sites; returns the admission that a request has set before.
    pub(crate) fn open(&self) -> SiteAdmission {
        let mut inbox = self.inbox();
        inbox.stage = SitesStage::Running;
        inbox.admission
    }

    /// Takes the requests that wait for an answer.
    pub(crate) fn take(&self) -> Vec<(SiteRequest, PendingRequest)> {
        std::mem::take(&mut self.inbox().waiting)
    }

    /// Marks the end of the sites, unless a request waits; returns whether the sites have ended.
    pub(crate) fn close(&self) -> bool {
        let mut inbox = self.inbox();
        if inbox.waiting.is_empty() {
            inbox.stage = SitesStage::Ended;
        }
        inbox.stage == SitesStage::Ended
    }

    /// Refuses all requests that wait, because the run ends.
    pub fn refuse_all(&self) {
        self.inbox().stage = SitesStage::Ended;
        drop(self.take());
    }

    /// Returns the number of requests, which rises with each one.
    pub(crate) fn count(&self) -> watch::Receiver<u64> {
        self.0.count.subscribe()
    }

    /// Locks the state. A panic elsewhere leaves no half-written entry.
    fn inbox(&self) -> MutexGuard<'_, SiteInbox> {
        self.0.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a request that sets the admission, and records a change. `running` sites have begun and not ended.
pub(crate) fn answer_admission(
    before: SiteAdmission,
    admission: SiteAdmission,
    running: usize,
    pending: PendingRequest,
    recorder: &Recorder,
) {
    let go_on = match running {
        0 => "no site is running".to_owned(),
        1 => "1 running site goes on".to_owned(),
        count => format!("{count} running sites go on"),
    };
    let (already, done) = match admission {
        SiteAdmission::Open => ("sites are not held back", "sites begin again".to_owned()),
        SiteAdmission::Paused => ("the run is already paused", format!("no further site begins; {go_on}")),
        SiteAdmission::Draining => (
            "the run is already being drained",
            format!("no further site begins, and the run ends afterwards; {go_on}"),
        ),
    };
    if before == admission {
        return pending.nothing_to_do(already);
    }
    pending.done(done);
    recorder.emit(EventKind::SiteAdmissionChanged(AdmissionChange { admission }));
}
