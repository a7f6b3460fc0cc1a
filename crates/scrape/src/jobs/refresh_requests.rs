//! Requests for fresh proxies, of sites and of persons. The judgement of a site's health adds the requests of sites; one
//! refresh answers them all. A person may ask for more than one.
//!
//! Not here: why a site requests a refresh ([`crate::sites`]), and the refresh ([`crate::proxies`]).

use std::sync::Arc;

use tokio::sync::watch;

use orch_journal::SiteName;

/// Sites that have requested a refresh, and the state of the refresh.
#[derive(Debug, Default)]
struct RefreshRequestState {
    /// Sites in the order of their requests.
    sites: Vec<SiteName>,
    /// The refresh that answers the sites has not ended yet.
    awaits_refresh: bool,
    /// A refresh can begin, or is under way.
    is_open: bool,
    is_refreshing: bool,
    /// A person asks for a refresh.
    by_person: bool,
}

/// Requests for fresh proxies. Cheap to clone; clones share one state.
#[derive(Clone, Debug, Default)]
pub struct RefreshRequests(Arc<watch::Sender<RefreshRequestState>>);

/// Origin of a refresh that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshCause {
    /// This site asked first.
    Site(SiteName),
    Person,
}

/// Answer to the request of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshAnswer {
    Begins,
    AlreadyRefreshing,
    /// The run has no proxies, or its sites have ended.
    Impossible,
}

impl RefreshRequests {
    /// Announces that a request starts a refresh. Without this call nothing answers the requests.
    pub fn open(&self) {
        self.0.send_modify(|asks| {
            asks.awaits_refresh = true;
            asks.is_open = true;
        });
    }

    /// Waits for a request and marks the begin of its refresh. Safe to cancel.
    pub async fn begin_next(&self) -> RefreshCause {
        let mut asks = self.0.subscribe();
        let has_request =
            |asks: &RefreshRequestState| asks.by_person || (asks.awaits_refresh && !asks.sites.is_empty());
        if asks.wait_for(has_request).await.is_err() {
            // The channel stays open while this handle exists.
            std::future::pending::<()>().await;
        }
        let mut cause = RefreshCause::Person;
        self.0.send_modify(|asks| {
            asks.is_refreshing = true;
            if !std::mem::take(&mut asks.by_person)
                && let Some(first) = asks.sites.first()
            {
                cause = RefreshCause::Site(first.clone());
            }
        });
        cause
    }

    /// Marks the end of the refresh, with any result. The sites that have asked are answered: there is no other refresh
    /// for sites in this run.
    pub fn end(&self) {
        self.0.send_modify(|asks| {
            asks.is_refreshing = false;
            asks.awaits_refresh &= asks.sites.is_empty();
        });
    }

    /// Adds the request of a person.
    pub fn ask(&self) -> RefreshAnswer {
        let mut answer = RefreshAnswer::Impossible;
        self.0.send_if_modified(|asks| {
            answer = match (asks.is_open, asks.is_refreshing || asks.by_person) {
                (false, _) => RefreshAnswer::Impossible,
                (true, true) => RefreshAnswer::AlreadyRefreshing,
                (true, false) => RefreshAnswer::Begins,
            };
            asks.by_person |= answer == RefreshAnswer::Begins;
            answer == RefreshAnswer::Begins
        });
        answer
    }

    /// Adds a site's request; a second request of a site changes nothing.
    pub fn add(&self, site: &SiteName) {
        self.0.send_if_modified(|asks| {
            let is_new = !asks.sites.contains(site);
            if is_new {
                asks.sites.push(site.clone());
            }
            is_new
        });
    }

    /// Returns whether a refresh that a site has requested, or requests now, has not ended yet.
    pub fn awaits_refresh(&self) -> bool {
        self.0.borrow().awaits_refresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(asks: &RefreshRequests) -> Option<RefreshCause> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                cause = asks.begin_next() => Some(cause),
                () = std::future::ready(()) => None,
            }
        })
    }

    #[test]
    fn a_refresh_is_awaited_from_the_begin_of_the_run_to_its_end_where_there_is_one() {
        let asks = RefreshRequests::default();
        asks.add(&"a".into());
        assert!(!asks.awaits_refresh(), "no refresh can answer");
        assert_eq!(next(&asks), None);
        asks.open();
        asks.add(&"a".into());
        asks.add(&"b".into());
        assert!(asks.awaits_refresh());
        assert_eq!(next(&asks), Some(RefreshCause::Site("a".into())));
        asks.end();
        assert!(!asks.awaits_refresh(), "the refresh has ended");
        asks.add(&"c".into());
        assert!(!asks.awaits_refresh(), "there is no second refresh");
        assert_eq!(next(&asks), None);
    }

    #[test]
    fn a_person_may_ask_again_and_answers_the_sites_that_have_asked() {
        let asks = RefreshRequests::default();
        assert_eq!(asks.ask(), RefreshAnswer::Impossible);
        asks.open();
        assert_eq!(asks.ask(), RefreshAnswer::Begins);
        assert_eq!(asks.ask(), RefreshAnswer::AlreadyRefreshing);
        assert_eq!(next(&asks), Some(RefreshCause::Person));
        assert_eq!(asks.ask(), RefreshAnswer::AlreadyRefreshing);
        asks.end();
        assert!(asks.awaits_refresh(), "a site may still ask for its one refresh");
        assert_eq!(asks.ask(), RefreshAnswer::Begins);
        asks.add(&"a".into());
        assert_eq!(next(&asks), Some(RefreshCause::Person));
        asks.end();
        assert!(!asks.awaits_refresh(), "the site has fresh proxies");
        assert_eq!(next(&asks), None);
        assert_eq!(asks.ask(), RefreshAnswer::Begins);
    }
}
