//! Which sites of a run have asked for fresh proxies. Whoever judges a site writes here; one refresh answers them all.
//!
//! Not here: why a site asks (`sites`), and the refresh (`proxies`).

use std::sync::Arc;

use tokio::sync::watch;

use crate::run::SiteName;

/// The sites that have asked, and what becomes of it.
#[derive(Debug, Default)]
struct Asks {
    /// In the order in which they did.
    sites: Vec<SiteName>,
    /// There is a chain that refreshes the pool, and it has not ended yet.
    awaits_refresh: bool,
}

/// Cheap to clone; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct RefreshAsks(Arc<watch::Sender<Asks>>);

impl RefreshAsks {
    /// Says that the first ask begins a refresh. Without this nobody answers.
    pub fn open(&self) {
        self.0.send_modify(|asks| asks.awaits_refresh = true);
    }

    /// Says that the refresh has ended, whatever came of it: there is no other in this run.
    pub fn close(&self) {
        self.0.send_modify(|asks| asks.awaits_refresh = false);
    }

    /// A site that has asked before asks for nothing new.
    pub fn ask(&self, site: &SiteName) {
        self.0.send_if_modified(|asks| {
            let is_new = !asks.sites.contains(site);
            if is_new {
                asks.sites.push(site.clone());
            }
            is_new
        });
    }

    /// Whether a refresh that a site has asked for, or asks for now, has not ended yet.
    pub fn awaits_refresh(&self) -> bool {
        self.0.borrow().awaits_refresh
    }

    /// Waits for the first that asks; in the order in which they did. Safe to cancel.
    pub async fn asked(&self) -> Vec<SiteName> {
        let mut asks = self.0.subscribe();
        match asks
            .wait_for(|asks| !asks.sites.is_empty())
            .await
            .map(|asks| asks.sites.clone())
        {
            Ok(sites) => sites,
            // Not while this handle lives.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_is_awaited_from_the_begin_of_the_run_to_its_end_where_there_is_one() {
        let asks = RefreshAsks::default();
        asks.ask(&"a".into());
        assert!(!asks.awaits_refresh(), "nobody answers");
        asks.open();
        asks.ask(&"a".into());
        asks.ask(&"b".into());
        assert!(asks.awaits_refresh());
        assert_eq!(asks.0.borrow().sites, ["a", "b"].map(SiteName::from));
        asks.close();
        assert!(!asks.awaits_refresh(), "it has ended");
        asks.ask(&"c".into());
        assert!(!asks.awaits_refresh(), "there is no other");
    }
}
