//! The leases that this run holds: renewed side by side, each told when it is lost.
//!
//! Nothing here runs by itself: [`Leases::keep`] is polled beside the sites and dropped with them. A lease that is dropped
//! is renewed no more and ends by itself, its work noted beside it; [`Lease::give_back`] is for work that has ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::sleep;

use super::holder::Occupant;
use super::moment::Moment;
use super::store::{Completed, Completion, LeaseStore, Mine, Taking, Work};
use super::validity::{Answer, Loss, Terms, Validity};
use crate::celery::{self, TaskId};
use crate::follow::InFlight;
use crate::run::SiteName;

/// While a Redis that is away is waited for.
const PAUSE: Duration = Duration::from_millis(250);
/// For the last question, on which hangs how the site ended.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Why a lease was not taken.
#[derive(Clone, Debug)]
pub enum Refused {
    /// By another run.
    Held(Occupant),
    Unreachable(celery::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(occupant) => write!(formatter, "it is held by {occupant}"),
            Self::Unreachable(error) => write!(formatter, "its lease cannot be taken: {error}"),
        }
    }
}

/// See the module.
pub struct Leases {
    store: LeaseStore,
    in_flight: InFlight,
    held: Mutex<BTreeMap<SiteName, Held>>,
}

/// One lease that is ours.
struct Held {
    mine: Mine,
    validity: Validity,
    /// First task of what is under way.
    root: Option<TaskId>,
    lost: watch::Sender<Option<Loss>>,
}

impl Leases {
    pub fn new(store: LeaseStore, in_flight: InFlight) -> Self {
        Self {
            store,
            in_flight,
            held: Mutex::default(),
        }
    }

    /// A panic elsewhere leaves whole entries.
    fn held(&self) -> MutexGuard<'_, BTreeMap<SiteName, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lease of a site, through a restart of Redis until `give_up`; with what its last holder has left under way.
    ///
    /// # Errors
    /// Another run has it, or Redis stays away.
    pub async fn take(&self, site: &SiteName, give_up: Instant) -> Result<(Lease<'_>, Option<Work>), Refused> {
        let error = loop {
            match self.store.take(site).await {
                Ok(Taking::Held(occupant)) => return Err(Refused::Held(occupant)),
                Ok(Taking::Taken { mine, asked, left }) => return Ok((self.hold(site, mine, asked), left)),
                Err(error) if error.is_transient() && Instant::now() + PAUSE < give_up => sleep(PAUSE).await,
                Err(error) => break error,
            }
        };
        Err(Refused::Unreachable(error))
    }

    /// What another run has completed the site with since the lease of this token was lost to it; what cannot be asked is taken not
    /// to be so.
    pub async fn completed_since(&self, site: &SiteName, token: u64) -> Option<Completed> {
        self.store.completed_since(site, token).await.unwrap_or_else(|error| {
            tracing::warn!(%site, %error, "could not ask whether another run has completed the site");
            None
        })
    }

    fn hold(&self, site: &SiteName, mine: Mine, asked: Moment) -> Lease<'_> {
        let (lost, told) = watch::channel(None);
        let token = mine.token;
        tracing::debug!(%site, token, "lease taken");
        let held = Held {
            mine,
            validity: Validity::begin(self.store.terms(), asked),
            root: None,
            lost,
        };
        self.held().insert(site.clone(), held);
        Lease {
            leases: self,
            site: site.clone(),
            token,
            lost: told,
        }
    }

    /// Renews what is due for as long as it is polled.
    pub async fn keep(&self) -> Infallible {
        loop {
            let now = Moment::now();
            let due: Vec<SiteName> = self
                .held()
                .iter()
                .filter(|(_, held)| held.lost.borrow().is_none() && now >= held.validity.next_try())
                .map(|(site, _)| site.clone())
                .collect();
            join_all(due.iter().map(|site| self.renew(site))).await;
            sleep(self.store.terms().look_every()).await;
        }
    }

    /// One try; whether Redis has answered.
    async fn renew(&self, site: &SiteName) -> bool {
        let asked = Moment::now();
        let known = self
            .held()
            .get(site)
            .map(|held| (held.mine.clone(), held.root.clone(), held.validity.patience(asked)));
        let Some((mine, root, within)) = known else {
            return false;
        };
        let tasks = root.map(|root| self.in_flight.tasks_of(&root)).unwrap_or_default();
        let answer = self.store.renew(site, &mine, tasks, within).await;
        match &answer {
            Answer::TakenAgain => tracing::warn!(%site, token = mine.token, "the lease was gone and is taken again"),
            Answer::Missing(reason) => tracing::warn!(%site, reason, "the lease cannot be renewed for now"),
            Answer::Ours | Answer::Others(_) | Answer::Passed => {}
        }
        let answered = !matches!(answer, Answer::Missing(_));
        let now = Moment::now();
        let mut all = self.held();
        // Given back or lost meanwhile: then there is nothing that this answer could tell.
        if let Some(held) = all.get_mut(site)
            && held.mine == mine
            && held.lost.borrow().is_none()
        {
            match held.validity.clone().step(answer, asked, now) {
                Ok(validity) => held.validity = validity,
                Err(loss) => {
                    tracing::warn!(%site, token = mine.token, %loss, "lease lost");
                    held.lost.send_replace(Some(loss));
                }
            }
        }
        answered
    }
}

/// The lease of one site, held by this run until it is lost, given back or dropped.
pub struct Lease<'l> {
    leases: &'l Leases,
    site: SiteName,
    token: u64,
    lost: watch::Receiver<Option<Loss>>,
}

impl Lease<'_> {
    /// Rises with each taking of this site's lease, whoever takes it.
    pub fn token(&self) -> u64 {
        self.token
    }

    pub fn terms(&self) -> Terms {
        self.leases.store.terms()
    }

    /// Waits until it is lost; for ever, when it is not. Safe to cancel.
    pub async fn lost(&self) -> Loss {
        let mut told = self.lost.clone();
        loop {
            if let Some(loss) = told.borrow_and_update().clone() {
                return loss;
            }
            if told.changed().await.is_err() {
                // Given back: what is held no more cannot be lost.
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Notes beside the lease what is about to begin, and makes sure that it is still ours. A Redis that is away is waited
    /// for until `give_up`; where it is not back by then the work's own publishing will tell.
    ///
    /// # Errors
    /// It is lost: nothing may begin.
    pub async fn begin(&self, root: &TaskId, give_up: Instant) -> Result<(), Loss> {
        if let Some(held) = self.leases.held().get_mut(&self.site) {
            held.root = Some(root.clone());
        }
        self.ask_until(give_up).await
    }

    /// Whether it is ours at the end of the work; what cannot be asked is taken to be so.
    ///
    /// # Errors
    /// It is lost: what was done is not the only one's doing.
    pub async fn confirm(&self) -> Result<(), Loss> {
        self.ask_until(Instant::now() + LAST_PATIENCE).await
    }

    async fn ask_until(&self, give_up: Instant) -> Result<(), Loss> {
        loop {
            let answered = self.leases.renew(&self.site).await;
            if let Some(loss) = self.lost.borrow().clone() {
                return Err(loss);
            }
            if answered || Instant::now() + PAUSE >= give_up {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Gives it back at the end of its work, as far as Redis answers; else it ends by itself. So does one that was lost: what
    /// could not be revoked then stays noted for whoever takes it.
    /// `completion` is what the site came to, where it is complete.
    pub async fn give_back(self, completion: Option<Completion>) {
        if self.is_lost() {
            return;
        }
        let mine = self.leases.held().get(&self.site).map(|held| held.mine.clone());
        let Some(mine) = mine else { return };
        if let Err(error) = self.leases.store.give_back(&self.site, &mine, completion).await {
            tracing::warn!(site = %self.site, %error, "the lease cannot be given back and ends by itself");
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut all = self.leases.held();
        // One that was taken again since is another.
        if all.get(&self.site).is_some_and(|held| held.mine.token == self.token) {
            all.remove(&self.site);
        }
    }
}
