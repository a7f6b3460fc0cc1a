//! Requests of sites for fresh proxies. The judgement of a site's health adds requests; one refresh answers them all.
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
    /// A chain that refreshes the pool exists and has not ended yet.
    awaits_refresh: bool,
}

/// Requests for fresh proxies. Cheap to clone; clones share one state.
#[derive(Clone, Debug, Default)]
pub struct RefreshRequests(Arc<watch::Sender<RefreshRequestState>>);

impl RefreshRequests {
    /// Announces that the first request starts a refresh. Without this call nothing answers the requests.
    pub fn open(&self) {
        self.0.send_modify(|asks| asks.awaits_refresh = true);
    }

    /// Announces that the refresh has ended with any result: there is no other one in this run.
    pub fn close(&self) {
        self.0.send_modify(|asks| asks.awaits_refresh = false);
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

    /// Waits for the first request. Returns the sites in the order of their requests. Safe to cancel.
    pub async fn wait_for_first(&self) -> Vec<SiteName> {
        let mut asks = self.0.subscribe();
        match asks
            .wait_for(|asks| !asks.sites.is_empty())
            .await
            .map(|asks| asks.sites.clone())
        {
            Ok(sites) => sites,
            // The channel stays open while this handle exists.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_is_awaited_from_the_begin_of_the_run_to_its_end_where_there_is_one() {
        let asks = RefreshRequests::default();
        asks.add(&"a".into());
        assert!(!asks.awaits_refresh(), "no refresh can answer");
        asks.open();
        asks.add(&"a".into());
        asks.add(&"b".into());
        assert!(asks.awaits_refresh());
        assert_eq!(asks.0.borrow().sites, ["a", "b"].map(SiteName::from));
        asks.close();
        assert!(!asks.awaits_refresh(), "the refresh has ended");
        asks.add(&"c".into());
        assert!(!asks.awaits_refresh(), "there is no second refresh");
    }
}
