//! Storage of the leases in Redis. Scripts acquire, renew and release the leases, and compare before they change.
//!
//! [`validity`](super::validity) and [`keeper`](super::keeper) decide when to call which script.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::holder::{LeaseHolder, LeaseOccupant, LeaseValue};
use super::validity::{LeaseTerms, RenewalAnswer};
use orch_base::boot_clock::BootInstant;
use orch_celery::{Client, TaskId};
use orch_journal::{SiteCounts, SiteName, SiteStatus};

/// Expiry of the last token; the token outlives the lease, so that the next token is greater.
const TOKEN_KEY_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Expiry of the noted work: no task that a dead run has published waits longer than this to be ended.
const WORK_KEY_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Expiry of a completion: a run that has lost the lease asks within that run's own time whether another run has
/// completed the site.
const COMPLETION_KEY_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Number of tries to acquire a dead run's lease: another run may acquire the lease between the read and the
/// replacement.
const ACQUIRE_TRIES: usize = 3;
/// Timeout of requests that are sent once and may be answered a moment late.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Script that acquires a lease. Keys: lease, token, work. Arguments: holder, duration, expiry of the token, value that
/// may be replaced. Returns the new value and the work that was left, or the value that is in the way.
const ACQUIRE: &str = r#"
local now = redis.call("GET", KEYS[1])
if now and now ~= ARGV[4] then return {now} end
local last = tonumber(redis.call("GET", KEYS[2]) or "0") or 0
local token = string.format("%.0f", math.max(last + 1, tonumber(redis.call("TIME")[1])))
local value = '{"token":' .. token .. "," .. string.sub(ARGV[1], 2)
redis.call("SET", KEYS[1], value, "PX", ARGV[2])
redis.call("SET", KEYS[2], token, "PX", ARGV[3])
return {value, redis.call("GET", KEYS[3]) or ""}
"#;

/// Script that renews a lease. Keys: lease, token, work. Arguments: value, token, duration, expiry of the token, work
/// (may be empty), expiry of the work. A failure to write the work (no memory) must not cost the lease.
const RENEW: &str = r#"
local now = redis.call("GET", KEYS[1])
if now and now ~= ARGV[1] then return {"others", now} end
if now then
  redis.call("PEXPIRE", KEYS[1], ARGV[3])
else
  local last = tonumber(redis.call("GET", KEYS[2]) or "0") or 0
  if last > tonumber(ARGV[2]) then return {"passed"} end
  redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[3])
  redis.call("SET", KEYS[2], ARGV[2], "PX", ARGV[4])
end
if ARGV[5] ~= "" then redis.pcall("SET", KEYS[3], ARGV[5], "PX", ARGV[6]) end
return {now and "ours" or "again"}
"#;

/// Script that releases a lease. Keys: lease, token, work, completion. Arguments: value, expiry of the token, token,
/// completion (may be empty), expiry of the completion. An expired lease is also released, unless another run holds it
/// or has held it since. The token grows, so that a renewal that is still on its way finds that the lease has passed
/// on. A failure to write the completion (no memory) must not cost the release.
const RELEASE: &str = r#"
local now = redis.call("GET", KEYS[1])
if now and now ~= ARGV[1] then return 0 end
local last = tonumber(redis.call("GET", KEYS[2]) or "0") or 0
if last > tonumber(ARGV[3]) then return 0 end
redis.call("DEL", KEYS[1], KEYS[3])
redis.call("INCR", KEYS[2])
redis.call("PEXPIRE", KEYS[2], ARGV[2])
if ARGV[4] ~= "" then redis.pcall("SET", KEYS[4], ARGV[4], "PX", ARGV[5]) end
return 1
"#;

/// Lease of this run, as stored in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedLease {
    pub token: u64,
    value: String,
}

/// Work that a run has under way, for a run that acquires the lease without a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedWork {
    pub of: LeaseHolder,
    pub tasks: Vec<TaskId>,
}

/// Result of a run that has completed a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteCompletion {
    /// Complete or degraded.
    pub status: SiteStatus,
    pub counts: SiteCounts,
    /// Reason why the site is degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Record next to the lease of a completed site, for a run that had lost the lease to the run `by`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionRecord {
    /// Fencing token under which the site was completed.
    pub token: u64,
    pub by: LeaseHolder,
    #[serde(flatten)]
    pub completion: SiteCompletion,
}

/// Result of a request for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireResult {
    Acquired {
        owned: OwnedLease,
        /// Time of the request.
        asked: BootInstant,
        /// Work that the last holder has left.
        left: Option<UnfinishedWork>,
    },
    Held(LeaseOccupant),
}

/// Leases of an instance in Redis, and the holder as which this run acquires them. Cheap to clone.
#[derive(Clone)]
pub struct LeaseStore {
    client: Client,
    /// Prefix of all keys, up to the site's name.
    prefix: String,
    me: LeaseHolder,
    terms: LeaseTerms,
}

impl LeaseStore {
    pub fn new(client: Client, instance: &str, me: LeaseHolder, terms: LeaseTerms) -> Self {
        let app_prefix = &client.endpoints().broker.key_prefix;
        let prefix = format!("{app_prefix}orch:{instance}:lease:");
        Self {
            client,
            prefix,
            me,
            terms,
        }
    }

    pub fn terms(&self) -> LeaseTerms {
        self.terms
    }

    fn lease_key(&self, site: &SiteName) -> String {
        format!("{}{site}", self.prefix)
    }

    fn token_key(&self, site: &SiteName) -> String {
        format!("{}{site}:token", self.prefix)
    }

    fn work_key(&self, site: &SiteName) -> String {
        format!("{}{site}:work", self.prefix)
    }

    fn completion_key(&self, site: &SiteName) -> String {
        format!("{}{site}:completed", self.prefix)
    }

    /// Acquires a lease that no run holds, or that a dead run holds.
    pub async fn acquire(&self, site: &SiteName) -> orch_celery::Result<AcquireResult> {
        let mut replaced = String::new();
        let mut tries = 1;
        loop {
            let asked = BootInstant::now();
            let mut script = redis::pipe();
            script
                .cmd("EVAL")
                .arg(ACQUIRE)
                .arg(3)
                .arg(self.lease_key(site))
                .arg(self.token_key(site))
                .arg(self.work_key(site))
                .arg(json(&self.me))
                .arg(milliseconds(self.terms.duration))
                .arg(milliseconds(TOKEN_KEY_TIMEOUT))
                .arg(&replaced);
            let client = self.client.with_deadline(REQUEST_TIMEOUT);
            let (answer,): (Vec<String>,) = client.broker_query("acquire the lease of a site", &script).await?;
            let mut answer = answer.into_iter();
            let value = answer.next().unwrap_or_default();
            let Some(left) = answer.next() else {
                let occupant = LeaseOccupant::read(&value);
                let dead = matches!(&occupant, LeaseOccupant::Run(holder) if holder.is_superseded_by(&self.me));
                if dead && tries < ACQUIRE_TRIES {
                    (replaced, tries) = (value, tries + 1);
                    continue;
                }
                return Ok(AcquireResult::Held(occupant));
            };
            let claim: LeaseValue = serde_json::from_str(&value).map_err(|error| orch_celery::Error::Malformed {
                what: format!("the lease of site `{site}` that was just written"),
                reason: error.to_string(),
            })?;
            let owned = OwnedLease {
                token: claim.token,
                value,
            };
            // Work that cannot be parsed comes from another version of orch.
            let left = serde_json::from_str(&left).ok();
            return Ok(AcquireResult::Acquired { owned, asked, left });
        }
    }

    /// Renews a lease, and stores which tasks are under way. Tries once.
    pub async fn renew(
        &self,
        site: &SiteName,
        owned: &OwnedLease,
        tasks: Vec<TaskId>,
        within: Duration,
    ) -> RenewalAnswer {
        let work = UnfinishedWork {
            of: self.me.clone(),
            tasks,
        };
        let work = if work.tasks.is_empty() {
            String::new()
        } else {
            json(&work)
        };
        let mut script = redis::pipe();
        script
            .cmd("EVAL")
            .arg(RENEW)
            .arg(3)
            .arg(self.lease_key(site))
            .arg(self.token_key(site))
            .arg(self.work_key(site))
            .arg(&owned.value)
            .arg(owned.token)
            .arg(milliseconds(self.terms.duration))
            .arg(milliseconds(TOKEN_KEY_TIMEOUT))
            .arg(work)
            .arg(milliseconds(WORK_KEY_TIMEOUT));
        let client = self.client.with_deadline(within);
        match client
            .broker_query::<(Vec<String>,)>("renew the lease of a site", &script)
            .await
        {
            Err(error) => RenewalAnswer::NoAnswer(error.to_string()),
            Ok((answer,)) => match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["ours"] => RenewalAnswer::Renewed,
                ["again"] => RenewalAnswer::Reacquired,
                ["passed"] => RenewalAnswer::PassedOn,
                ["others", value] => RenewalAnswer::HeldByOther(LeaseOccupant::read(value)),
                _ => RenewalAnswer::NoAnswer(format!("an unexpected answer: {answer:?}")),
            },
        }
    }

    /// Releases a lease and deletes the noted work; stores the completion of a complete site.
    pub async fn release(
        &self,
        site: &SiteName,
        owned: &OwnedLease,
        completion: Option<SiteCompletion>,
    ) -> orch_celery::Result<()> {
        let completed = completion.map(|completion| CompletionRecord {
            token: owned.token,
            by: self.me.clone(),
            completion,
        });
        let mut script = redis::pipe();
        script
            .cmd("EVAL")
            .arg(RELEASE)
            .arg(4)
            .arg(self.lease_key(site))
            .arg(self.token_key(site))
            .arg(self.work_key(site))
            .arg(self.completion_key(site))
            .arg(&owned.value)
            .arg(milliseconds(TOKEN_KEY_TIMEOUT))
            .arg(owned.token)
            .arg(completed.as_ref().map(json).unwrap_or_default())
            .arg(milliseconds(COMPLETION_KEY_TIMEOUT))
            .ignore();
        let client = self.client.with_deadline(REQUEST_TIMEOUT);
        client.broker_query("release the lease of a site", &script).await
    }

    /// Returns the record of another run that has completed the site under a newer lease than that of `token`.
    pub async fn completed_since(&self, site: &SiteName, token: u64) -> orch_celery::Result<Option<CompletionRecord>> {
        let mut read = redis::pipe();
        read.cmd("GET").arg(self.completion_key(site));
        let client = self.client.with_deadline(REQUEST_TIMEOUT);
        let (value,): (Option<String>,) = client
            .broker_query("read which run has completed a site", &read)
            .await?;
        // A record that cannot be parsed comes from another version of orch.
        let completed = value.and_then(|value| serde_json::from_str::<CompletionRecord>(&value).ok());
        Ok(completed.filter(|completed| {
            completed.token > token && completed.by.run_id != self.me.run_id && completed.completion.status.is_success()
        }))
    }

    /// Returns the holder of each site's lease; `None`: this run could acquire the lease.
    pub async fn occupants(&self, sites: &[SiteName]) -> orch_celery::Result<Vec<Option<LeaseOccupant>>> {
        if sites.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<String> = sites.iter().map(|site| self.lease_key(site)).collect();
        let mut read = redis::pipe();
        read.cmd("MGET").arg(keys);
        let client = self.client.with_deadline(REQUEST_TIMEOUT);
        let (values,): (Vec<Option<String>>,) = client.broker_query("read the leases of the sites", &read).await?;
        let occupant = |value: Option<String>| {
            value
                .map(|value| LeaseOccupant::read(&value))
                .filter(|occupant| !matches!(occupant, LeaseOccupant::Run(holder) if holder.is_superseded_by(&self.me)))
        };
        Ok(values.into_iter().map(occupant).collect())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Serializes a plain struct of texts and numbers, which cannot fail.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
