//! Holder of a lease, as named in the value of the lease.

use std::fmt;

use serde::{Deserialize, Serialize};

use orch_base::wall_clock::unix_now;
use orch_journal::{RunId, SiteHolder};

/// Number of characters that are shown of a value that no orch has written.
const SHOWN_CHARACTERS: usize = 60;

/// Run that acquires leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseHolder {
    pub host: String,
    pub pid: i32,
    pub run_id: RunId,
    /// Time at which this identity was created, Unix seconds.
    pub started_at: u64,
    /// Identity of the lock file that the run holds: `InstanceLock::identity` of the guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
}

impl LeaseHolder {
    /// Returns this process as the holder for the run `run_id`.
    pub fn of_this_process(run_id: &RunId, lock: Option<String>) -> Self {
        let host = nix::unistd::gethostname().unwrap_or_default();
        Self {
            host: host.to_string_lossy().into_owned(),
            pid: std::process::id().cast_signed(),
            run_id: run_id.clone(),
            started_at: unix_now().as_secs(),
            lock,
        }
    }

    /// Returns whether this holder is our own run, or a run of which nothing can be alive because `me` holds its lock
    /// now.
    pub fn is_superseded_by(&self, me: &Self) -> bool {
        self.run_id == me.run_id || (self.lock.is_some() && self.lock == me.lock)
    }
}

impl fmt::Display for LeaseHolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        SiteHolder::from(self).fmt(formatter)
    }
}

impl From<&LeaseHolder> for SiteHolder {
    fn from(holder: &LeaseHolder) -> Self {
        Self::Run {
            run_id: holder.run_id.clone(),
            host: holder.host.clone(),
            pid: holder.pid,
            started_at: holder.started_at,
        }
    }
}

/// Value of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseValue {
    pub token: u64,
    #[serde(flatten)]
    pub holder: LeaseHolder,
}

/// Holder that the value of a lease names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseOccupant {
    Run(LeaseHolder),
    /// Value that no orch has written, or a newer version of orch.
    Unknown(String),
}

impl LeaseOccupant {
    pub(crate) fn read(value: &str) -> Self {
        match serde_json::from_str::<LeaseValue>(value) {
            Ok(claim) => Self::Run(claim.holder),
            Err(_) => Self::Unknown(value.chars().take(SHOWN_CHARACTERS).collect()),
        }
    }
}

impl fmt::Display for LeaseOccupant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        SiteHolder::from(self).fmt(formatter)
    }
}

impl From<&LeaseOccupant> for SiteHolder {
    fn from(occupant: &LeaseOccupant) -> Self {
        match occupant {
            LeaseOccupant::Run(holder) => holder.into(),
            LeaseOccupant::Unknown(value) => Self::Unknown { value: value.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(run_id: &str, lock: Option<&str>) -> LeaseHolder {
        LeaseHolder {
            host: "a".to_owned(),
            pid: 7,
            run_id: run_id.into(),
            started_at: 0,
            lock: lock.map(str::to_owned),
        }
    }

    #[test]
    fn only_a_run_whose_lock_is_ours_now_is_superseded() {
        let me = holder("mine", Some("boot:1:2"));
        for (run_id, lock, superseded) in [
            ("dead", Some("boot:1:2"), true),
            ("mine", None, true),
            ("other", Some("boot:1:3"), false),
            ("other", None, false),
        ] {
            assert_eq!(
                holder(run_id, lock).is_superseded_by(&me),
                superseded,
                "{run_id} {lock:?}"
            );
        }
        let without = holder("mine", None);
        assert!(!holder("other", None).is_superseded_by(&without));
    }

    #[test]
    fn a_value_is_read_as_written_and_anything_else_is_shown() {
        let claim = LeaseValue {
            token: 9,
            holder: holder("r", Some("x")),
        };
        let value = serde_json::to_string(&claim).unwrap();
        assert_eq!(LeaseOccupant::read(&value), LeaseOccupant::Run(claim.holder));
        for value in ["", "{}", "[7]", r#"{"token":1}"#] {
            assert_eq!(LeaseOccupant::read(value), LeaseOccupant::Unknown(value.to_owned()));
        }
        let long = "x".repeat(5000);
        assert!(LeaseOccupant::read(&long).to_string().len() < 200);
    }
}
