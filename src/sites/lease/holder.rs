//! Who holds a lease, as its value tells.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::run::{RunId, local_time};

/// How much of a value that no orch has written is shown.
const SHOWN: usize = 60;

/// A run that takes leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub host: String,
    pub pid: i32,
    pub run_id: RunId,
    /// Unix seconds.
    pub started_at: u64,
    /// The lock file that it holds, by [`InstanceLock::identity`](crate::guard::InstanceLock::identity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
}

impl Holder {
    /// This process, as this run.
    pub fn of_this_process(run_id: &RunId, lock: Option<String>) -> Self {
        let host = nix::unistd::gethostname().unwrap_or_default();
        Self {
            host: host.to_string_lossy().into_owned(),
            pid: std::process::id().cast_signed(),
            run_id: run_id.clone(),
            started_at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            lock,
        }
    }

    /// Whether nothing of that run can be alive, or it is our own: we are who holds its lock.
    pub fn is_superseded_by(&self, me: &Self) -> bool {
        self.run_id == me.run_id || (self.lock.is_some() && self.lock == me.lock)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            pid,
            run_id,
            started_at,
            lock: _,
        } = self;
        let since = local_time(*started_at);
        write!(formatter, "run {run_id} on host {host} (pid {pid}, since {since})")
    }
}

/// The value of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub token: u64,
    #[serde(flatten)]
    pub holder: Holder,
}

/// What a lease is found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    Run(Holder),
    /// No orch has written it, or a newer one.
    Unknown(String),
}

impl Occupant {
    pub(super) fn read(value: &str) -> Self {
        match serde_json::from_str::<Claim>(value) {
            Ok(claim) => Self::Run(claim.holder),
            Err(_) => Self::Unknown(value.chars().take(SHOWN).collect()),
        }
    }
}

impl fmt::Display for Occupant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(holder) => holder.fmt(formatter),
            Self::Unknown(value) => write!(formatter, "somebody unknown (the lease's value is {value:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(run_id: &str, lock: Option<&str>) -> Holder {
        Holder {
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
        let claim = Claim {
            token: 9,
            holder: holder("r", Some("x")),
        };
        let value = serde_json::to_string(&claim).unwrap();
        assert_eq!(Occupant::read(&value), Occupant::Run(claim.holder));
        for value in ["", "{}", "[7]", r#"{"token":1}"#] {
            assert_eq!(Occupant::read(value), Occupant::Unknown(value.to_owned()));
        }
        let long = "x".repeat(5000);
        assert!(Occupant::read(&long).to_string().len() < 200);
    }
}
