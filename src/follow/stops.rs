//! Which sites of a run are to be stopped, and who asked for it. Whoever hears requests writes here; the run of the sites
//! reads. Not here: how a request comes (`stop_requests`), and what is done about it (`sites`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::run::SiteName;

/// Who asked for the stop of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Of the process that asked.
    pub pid: i32,
    pub user: String,
}

/// `pid 12 of user alice`
impl fmt::Display for Asker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pid {} of user {}", self.pid, self.user)
    }
}

/// Cheap to clone; clones are the same. A request stays: a site that is stopped is stopped for the rest of the run.
#[derive(Clone, Debug, Default)]
pub struct Stops(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<BTreeMap<SiteName, Asker>>,
    /// How many have been asked for.
    count: watch::Sender<usize>,
}

impl Stops {
    /// Asks for the stop of a site; what is no site of the run, or has ended, is not stopped.
    pub fn ask(&self, site: SiteName, by: Asker) {
        let count = {
            let mut asked = self.asked();
            // The first is the one that did it.
            asked.entry(site).or_insert(by);
            asked.len()
        };
        self.0.count.send_replace(count);
    }

    /// A panic elsewhere leaves whole entries.
    fn asked(&self) -> MutexGuard<'_, BTreeMap<SiteName, Asker>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn of(&self, site: &SiteName) -> Option<Asker> {
        self.asked().get(site).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(SiteName, Asker)> {
        self.asked()
            .iter()
            .map(|(site, by)| (site.clone(), by.clone()))
            .collect()
    }

    /// Rises with each stop that is asked for.
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.0.count.subscribe()
    }

    /// Waits until the stop of this site is asked for. Safe to cancel.
    pub(crate) async fn asked_for(&self, site: &SiteName) -> Asker {
        let mut count = self.count();
        loop {
            count.borrow_and_update();
            if let Some(by) = self.of(site) {
                return by;
            }
            if count.changed().await.is_err() {
                // Not while this handle lives.
                std::future::pending::<()>().await;
            }
        }
    }
}
