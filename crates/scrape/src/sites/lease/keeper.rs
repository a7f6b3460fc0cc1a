//! Leases that this run holds: renewed concurrently, with an announcement of each loss.
//!
//! Nothing here runs by itself: [`Leases::keep`] is polled while the sites run, and is dropped with them. A lease that
//! is dropped is renewed no more and expires, and the work stays noted in Redis. A lease is released only after its
//! work has ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::sleep;

use super::holder::LeaseOccupant;
use super::store::{AcquireResult, CompletionRecord, LeaseStore, OwnedLease, SiteCompletion, UnfinishedWork};
use super::validity::{LeaseLoss, LeaseTerms, LeaseValidity, RenewalAnswer};
use crate::jobs::InFlight;
use orch_base::boot_clock::BootInstant;
use orch_celery::TaskId;
use orch_journal::SiteName;

/// Time between two requests while Redis does not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Timeout of the last confirmation, which decides how the site ended.
const FINAL_CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(2);

/// Reason why a lease was not acquired.
#[derive(Clone, Debug)]
pub enum LeaseRefusal {
    /// Another run holds the lease.
    Held(LeaseOccupant),
    Unreachable(orch_celery::Error),
}

impl fmt::Display for LeaseRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(occupant) => write!(formatter, "it is held by {occupant}"),
            Self::Unreachable(error) => write!(formatter, "could not acquire its lease: {error}"),
        }
    }
}

/// Leases that this run holds.
pub struct Leases {
    store: LeaseStore,
    in_flight: InFlight,
    held: Mutex<BTreeMap<SiteName, HeldLease>>,
}

/// One lease that this run holds.
struct HeldLease {
    owned: OwnedLease,
    validity: LeaseValidity,
    /// First task of the work under way.
    root: Option<TaskId>,
    lost: watch::Sender<Option<LeaseLoss>>,
}

impl Leases {
    pub fn new(store: LeaseStore, in_flight: InFlight) -> Self {
        Self {
            store,
            in_flight,
            held: Mutex::default(),
        }
    }

    /// Locks the map. A panic in another place cannot leave an incomplete entry.
    fn held(&self) -> MutexGuard<'_, BTreeMap<SiteName, HeldLease>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acquires the lease of a site; waits for Redis, for example during a restart, until `give_up`. Also returns the
    /// work that the last holder left under way.
    ///
    /// # Errors
    /// Another run holds the lease, or Redis does not answer.
    pub async fn acquire(
        self: &Arc<Self>,
        site: &SiteName,
        give_up: Instant,
    ) -> Result<(Lease, Option<UnfinishedWork>), LeaseRefusal> {
        let error = loop {
            match self.store.acquire(site).await {
                Ok(AcquireResult::Held(occupant)) => return Err(LeaseRefusal::Held(occupant)),
                Ok(AcquireResult::Acquired { owned, asked, left }) => return Ok((self.hold(site, owned, asked), left)),
                Err(error) if error.is_transient() && Instant::now() + RETRY_INTERVAL < give_up => {
                    sleep(RETRY_INTERVAL).await
                }
                Err(error) => break error,
            }
        };
        Err(LeaseRefusal::Unreachable(error))
    }

    /// Returns the record of another run that has completed the site since the lease with this token was lost. If Redis
    /// does not answer, the site counts as not completed.
    pub async fn completed_since(&self, site: &SiteName, token: u64) -> Option<CompletionRecord> {
        self.store.completed_since(site, token).await.unwrap_or_else(|error| {
            tracing::warn!(%site, %error, "could not ask whether another run has completed the site");
            None
        })
    }

    fn hold(self: &Arc<Self>, site: &SiteName, owned: OwnedLease, asked: BootInstant) -> Lease {
        let (lost, losses) = watch::channel(None);
        let token = owned.token;
        tracing::debug!(%site, token, "lease taken");
        let held = HeldLease {
            owned,
            validity: LeaseValidity::begin(self.store.terms(), asked),
            root: None,
            lost,
        };
        self.held().insert(site.clone(), held);
        Lease {
            leases: Arc::clone(self),
            site: site.clone(),
            token,
            lost: losses,
        }
    }

    /// Renews the leases that are due, for as long as the future is polled.
    pub async fn keep(&self) -> Infallible {
        loop {
            let now = BootInstant::now();
            let due: Vec<SiteName> = self
                .held()
                .iter()
                .filter(|(_, held)| held.lost.borrow().is_none() && now >= held.validity.next_try())
                .map(|(site, _)| site.clone())
                .collect();
            join_all(due.iter().map(|site| self.renew(site))).await;
            sleep(self.store.terms().check_interval()).await;
        }
    }

    /// Tries to renew a lease once; returns whether Redis has answered.
    async fn renew(&self, site: &SiteName) -> bool {
        let asked = BootInstant::now();
        let known = self.held().get(site).map(|held| {
            (
                held.owned.clone(),
                held.root.clone(),
                held.validity.request_timeout(asked),
            )
        });
        let Some((owned, root, within)) = known else {
            return false;
        };
        let tasks = root.map(|root| self.in_flight.tasks_of(&root)).unwrap_or_default();
        let answer = self.store.renew(site, &owned, tasks, within).await;
        match &answer {
            RenewalAnswer::Reacquired => {
                tracing::warn!(%site, token = owned.token, "the lease was missing and is acquired again")
            }
            RenewalAnswer::NoAnswer(reason) => tracing::warn!(%site, reason, "one renewal of the lease failed"),
            RenewalAnswer::Renewed | RenewalAnswer::HeldByOther(_) | RenewalAnswer::PassedOn => {}
        }
        let answered = !matches!(answer, RenewalAnswer::NoAnswer(_));
        let now = BootInstant::now();
        let mut all = self.held();
        // Released or lost during the request: then the answer says nothing about this lease.
        if let Some(held) = all.get_mut(site)
            && held.owned == owned
            && held.lost.borrow().is_none()
        {
            match held.validity.clone().apply(answer, asked, now) {
                Ok(validity) => held.validity = validity,
                Err(loss) => {
                    tracing::warn!(%site, token = owned.token, %loss, "lease lost");
                    held.lost.send_replace(Some(loss));
                }
            }
        }
        answered
    }
}

/// Lease of one site, held by this run until the lease is lost, released or dropped.
pub struct Lease {
    leases: Arc<Leases>,
    site: SiteName,
    token: u64,
    lost: watch::Receiver<Option<LeaseLoss>>,
}

impl Lease {
    /// Returns the fencing token, which grows each time that any run acquires this site's lease.
    pub fn token(&self) -> u64 {
        self.token
    }

    pub fn terms(&self) -> LeaseTerms {
        self.leases.store.terms()
    }

    /// Waits until the lease is lost, forever if that does not happen. Safe to cancel.
    pub async fn wait_for_loss(&self) -> LeaseLoss {
        let mut losses = self.lost.clone();
        loop {
            if let Some(loss) = losses.borrow_and_update().clone() {
                return loss;
            }
            if losses.changed().await.is_err() {
                // Released: a lease that is no longer held cannot be lost.
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Notes in Redis which work is about to begin, and checks that this run still holds the lease. Waits for Redis
    /// until `give_up`; if Redis is not back by then, the publication of the work reports that.
    ///
    /// # Errors
    /// The lease is lost: nothing may begin.
    pub async fn begin_work(&self, root: &TaskId, give_up: Instant) -> Result<(), LeaseLoss> {
        if let Some(held) = self.leases.held().get_mut(&self.site) {
            held.root = Some(root.clone());
        }
        self.ask_until(give_up).await
    }

    /// Checks that this run holds the lease at the end of the work. If Redis does not answer, the lease counts as held.
    ///
    /// # Errors
    /// The lease is lost: another run may have worked on the site at the same time.
    pub async fn confirm(&self) -> Result<(), LeaseLoss> {
        self.ask_until(Instant::now() + FINAL_CONFIRMATION_TIMEOUT).await
    }

    async fn ask_until(&self, give_up: Instant) -> Result<(), LeaseLoss> {
        loop {
            let answered = self.leases.renew(&self.site).await;
            if let Some(loss) = self.lost.borrow().clone() {
                return Err(loss);
            }
            if answered || Instant::now() + RETRY_INTERVAL >= give_up {
                return Ok(());
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Releases the lease at the end of the work, if Redis answers; otherwise the lease expires. A lost lease is not
    /// released: the tasks that could not be revoked stay noted for the next holder.
    ///
    /// `completion` is the result of the site if the site is complete.
    pub async fn release(self, completion: Option<SiteCompletion>) {
        if self.is_lost() {
            return;
        }
        let owned = self.leases.held().get(&self.site).map(|held| held.owned.clone());
        let Some(owned) = owned else { return };
        if let Err(error) = self.leases.store.release(&self.site, &owned, completion).await {
            tracing::warn!(site = %self.site, %error, "could not release the lease; it expires by itself");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut all = self.leases.held();
        // A lease that was acquired again since then is another one.
        if all.get(&self.site).is_some_and(|held| held.owned.token == self.token) {
            all.remove(&self.site);
        }
    }
}
