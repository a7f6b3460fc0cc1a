//! Holders of sites' leases, as events name them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{RunId, SiteName};
use crate::local_time::local_time;

/// Holder of a site's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteHolder {
    Run {
        run_id: RunId,
        host: String,
        pid: i32,
        /// Time at which the run began to hold leases, Unix seconds.
        started_at: u64,
    },
    /// The lease has a value that no orch has written, or a newer version of orch.
    Unknown { value: String },
}

impl fmt::Display for SiteHolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run {
                run_id,
                host,
                pid,
                started_at,
            } => {
                let since = local_time(*started_at);
                write!(formatter, "run {run_id} on host {host} (pid {pid}, since {since})")
            }
            Self::Unknown { value } => write!(formatter, "an unknown holder (the lease's value is {value:?})"),
        }
    }
}

/// Sites with one holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSites {
    pub sites: Vec<SiteName>,
    pub holder: SiteHolder,
}

impl HeldSites {
    /// Formats several holders: `books, quotes by run a on host b (pid 1, since ...); gadgets by run c ...`.
    pub fn listed(held: &[Self]) -> String {
        let parts: Vec<String> = held.iter().map(Self::to_string).collect();
        parts.join("; ")
    }
}

impl fmt::Display for HeldSites {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.sites.iter().map(SiteName::as_str).collect();
        write!(formatter, "{} by {}", names.join(", "), self.holder)
    }
}
