//! Which sites of a run have asked for fresh proxies. Whoever judges a site writes here; one refresh answers them all.
//!
//! Not here: why a site asks (`sites`), and the refresh (`proxies`).

use std::sync::Arc;

use tokio::sync::watch;

use crate::run::SiteName;

/// Cheap to clone; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct RefreshAsks(Arc<watch::Sender<Vec<SiteName>>>);

impl RefreshAsks {
    /// A site that has asked before asks for nothing new.
    pub fn ask(&self, site: &SiteName) {
        self.0.send_if_modified(|asked| {
            let is_new = !asked.contains(site);
            if is_new {
                asked.push(site.clone());
            }
            is_new
        });
    }

    /// Waits for the first that asks; in the order in which they did. Safe to cancel.
    pub async fn asked(&self) -> Vec<SiteName> {
        let mut asked = self.0.subscribe();
        match asked
            .wait_for(|asked| !asked.is_empty())
            .await
            .map(|asked| asked.clone())
        {
            Ok(asked) => asked,
            // Not while this handle lives.
            Err(_) => std::future::pending().await,
        }
    }
}
