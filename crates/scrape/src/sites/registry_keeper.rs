//! Keeper of the registry of one attempt's job: writes the registry whenever the state changes, renews the keys in
//! between, and writes the end.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::attempt_end::AttemptVerdict;
use super::registry::{RENEW_INTERVAL, Registry};
use super::site_projections::{final_registry_status, live_registry_status};
use super::template_values::AppPrefix;
use crate::jobs::{JobContext, TICK_INTERVAL};
use orch_config::SiteConfig;
use orch_journal::{JobId, SiteCounts};

/// Timeout of the last write.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeper of the registry of one attempt's job.
pub(crate) struct RegistryKeeper<'a> {
    context: &'a JobContext,
    site: &'a SiteConfig,
    app_prefix: Arc<AppPrefix<'a>>,
    /// State that the registry should show.
    entry: watch::Sender<RegistryEntry>,
    /// Values that orch has written under the app's keys.
    own_values: Arc<Mutex<Vec<Option<String>>>>,
}

#[derive(Clone, Debug, PartialEq)]
struct RegistryEntry {
    /// `None`: not known yet.
    job_id: Option<JobId>,
    /// The dispatch task has started the job.
    is_started: bool,
    counts: SiteCounts,
}

impl<'a> RegistryKeeper<'a> {
    pub fn new(context: &'a JobContext, site: &'a SiteConfig) -> Self {
        let entry = RegistryEntry {
            job_id: None,
            is_started: false,
            counts: SiteCounts::default(),
        };
        Self {
            context,
            site,
            app_prefix: Arc::new(AppPrefix::new(site)),
            entry: watch::Sender::new(entry),
            own_values: Arc::default(),
        }
    }

    /// Returns the prefixes of the app's own keys.
    pub fn app_prefix(&self) -> &Arc<AppPrefix<'a>> {
        &self.app_prefix
    }

    /// Returns the shared list of the values that orch has written under the app's keys.
    pub fn shared_own_values(&self) -> Arc<Mutex<Vec<Option<String>>>> {
        Arc::clone(&self.own_values)
    }

    /// Prepares the registry of a job that an earlier run has published.
    pub async fn reopen(&self, job_id: &JobId) {
        if let Err(error) = self.registry(job_id).reopen(&self.context.celery).await {
            tracing::warn!(site = %self.site.name, %error, "could not reopen the registry");
        }
    }

    /// Begins the registry under this id; with `None` the registry begins when the job is known.
    pub fn note_dispatched(&self, job_id: Option<&JobId>) {
        self.entry.send_modify(|entry| entry.job_id = job_id.cloned());
    }

    pub fn note_started(&self, job_id: JobId, counts: SiteCounts) {
        self.entry.send_replace(RegistryEntry {
            job_id: Some(job_id),
            is_started: true,
            counts,
        });
    }

    pub fn note_progress(&self, counts: SiteCounts) {
        self.entry.send_modify(|entry| entry.counts = counts);
    }

    fn registry(&self, job_id: &JobId) -> Registry {
        let app_prefix = self.app_prefix.of(job_id).unwrap_or_default();
        Registry::new(&self.site.name, job_id, &app_prefix)
    }

    /// Writes the registry whenever the state changes, and renews the keys in between.
    pub async fn keep(&self) -> Infallible {
        let mut entries = self.entry.subscribe();
        entries.mark_changed();
        let mut written: Option<JobId> = None;
        loop {
            let changed = timeout(RENEW_INTERVAL, entries.changed()).await.is_ok();
            // Changes that follow at once are written together. If the job ends within this time, only its end is
            // written.
            sleep_until(self.context.tick.about(TICK_INTERVAL, Instant::now()).into()).await;
            let entry = entries.borrow_and_update().clone();
            let Some(job_id) = &entry.job_id else { continue };
            let registry = self.registry(job_id);
            let status = live_registry_status(entry.is_started, entry.counts);
            let outcome = if changed {
                if written.as_ref() != Some(job_id) {
                    self.own_values().clear();
                    written = Some(job_id.clone());
                }
                registry
                    .write(&self.context.celery, status, entry.counts)
                    .await
                    .map(|written| self.remember_own_values(written))
            } else {
                registry.renew(&self.context.celery).await
            };
            self.report(outcome);
        }
    }

    fn own_values(&self) -> MutexGuard<'_, Vec<Option<String>>> {
        self.own_values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers which values under the app's keys orch has written.
    fn remember_own_values(&self, written: Vec<Option<String>>) {
        let mut own_values = self.own_values();
        if own_values.len() < written.len() {
            own_values.resize(written.len(), None);
        }
        for (own, written) in own_values.iter_mut().zip(written) {
            if written.is_some() {
                *own = written;
            }
        }
    }

    /// Writes the last state of the registry.
    pub async fn write_end(&self, job_id: &JobId, verdict: &AttemptVerdict, counts: SiteCounts) {
        let client = &self.context.celery.with_deadline(LAST_WRITE_TIMEOUT);
        let status = final_registry_status(verdict);
        let registry = self.registry(job_id);
        let written = async {
            // Written first, so that a reader that sees COMPLETE also finds this key.
            if let AttemptVerdict::Degraded(short) = verdict {
                registry.write_degraded(client, &short.why).await?;
            }
            registry.write(client, status, counts).await
        };
        self.report(written.await.map(drop));
    }

    fn report(&self, written: orch_celery::Result<()>) {
        if let Err(error) = written {
            tracing::warn!(site = %self.site.name, %error, "could not write the registry");
        }
    }
}
