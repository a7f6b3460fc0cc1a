//! The leases as they stand in Redis: taken, renewed and given back by scripts that compare before they change.
//!
//! Not here: when to do which (`validity`, `keeper`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::holder::{Claim, Holder, Occupant};
use super::moment::Moment;
use super::validity::{Answer, Terms};
use crate::celery::{self, Client, TaskId};
use crate::run::{SiteCounts, SiteName, SiteStatus};

/// The last token outlives the lease, so that the next is greater.
const TOKEN_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Nothing that a dead run has published waits longer than that for its end.
const WORK_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// A run that lost its lease asks within its own time for what another has completed meanwhile.
const COMPLETION_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Between the look at a dead run's lease and its taking others may come first.
const TAKE_TRIES: usize = 3;
/// For what is done once and may come a moment late.
const PATIENCE: Duration = Duration::from_secs(2);

/// Keys: lease, token, work. Arguments: holder, duration, how long the token is kept, value that may be replaced.
/// Answers with the new value and the work that was left, or with the value that stands in the way.
const TAKE: &str = r#"
local now = redis.call("GET", KEYS[1])
if now and now ~= ARGV[4] then return {now} end
local last = tonumber(redis.call("GET", KEYS[2]) or "0") or 0
local token = string.format("%.0f", math.max(last + 1, tonumber(redis.call("TIME")[1])))
local value = '{"token":' .. token .. "," .. string.sub(ARGV[1], 2)
redis.call("SET", KEYS[1], value, "PX", ARGV[2])
redis.call("SET", KEYS[2], token, "PX", ARGV[3])
return {value, redis.call("GET", KEYS[3]) or ""}
"#;

/// Keys as above. Arguments: value, token, duration, how long the token is kept, work (may be empty), how long that is
/// kept. That the work cannot be written (no memory) must not cost the lease.
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

/// Keys: lease, token, work, completion. Arguments: value, how long the token is kept, token, completion (may be empty), how long
/// that is kept. One that has expired is given back, too, unless another has it or had it since. The token rises, so that a
/// renewal which is still on its way finds that the lease has passed on. A completion that cannot be written (no memory) must
/// not cost the return.
const GIVE_BACK: &str = r#"
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

/// A lease that is ours: what stands in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mine {
    pub token: u64,
    value: String,
}

/// What a run has under way, for whoever takes its lease when it was not given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub of: Holder,
    pub tasks: Vec<TaskId>,
}

/// What a run came to that has completed a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// Complete or degraded.
    pub status: SiteStatus,
    pub counts: SiteCounts,
    /// Why it is degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a run leaves beside the lease of a site that it has completed, for one that had lost the lease to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// Under which it was done.
    pub token: u64,
    pub by: Holder,
    #[serde(flatten)]
    pub completion: Completion,
}

/// What came of the wish to take a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taking {
    Taken {
        mine: Mine,
        /// When it was asked for.
        asked: Moment,
        /// What its last holder has left.
        left: Option<Work>,
    },
    Held(Occupant),
}

/// Where the leases of an instance stand, and as whom we take them. Cheap to clone.
#[derive(Clone)]
pub struct LeaseStore {
    client: Client,
    /// Of all keys, up to the site's name.
    prefix: String,
    me: Holder,
    terms: Terms,
}

impl LeaseStore {
    pub fn new(client: Client, instance: &str, me: Holder, terms: Terms) -> Self {
        let app_prefix = &client.endpoints().broker.key_prefix;
        let prefix = format!("{app_prefix}orch:{instance}:lease:");
        Self {
            client,
            prefix,
            me,
            terms,
        }
    }

    pub fn terms(&self) -> Terms {
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

    /// Takes a lease that nobody has, or a run that is known to be dead.
    pub async fn take(&self, site: &SiteName) -> celery::Result<Taking> {
        let mut replaced = String::new();
        let mut tries = 1;
        loop {
            let asked = Moment::now();
            let mut script = redis::pipe();
            script
                .cmd("EVAL")
                .arg(TAKE)
                .arg(3)
                .arg(self.lease_key(site))
                .arg(self.token_key(site))
                .arg(self.work_key(site))
                .arg(json(&self.me))
                .arg(milliseconds(self.terms.duration))
                .arg(milliseconds(TOKEN_KEPT))
                .arg(&replaced);
            let client = self.client.with_deadline(PATIENCE);
            let (answer,): (Vec<String>,) = client.broker_query("take the lease of a site", &script).await?;
            let mut answer = answer.into_iter();
            let value = answer.next().unwrap_or_default();
            let Some(left) = answer.next() else {
                let occupant = Occupant::read(&value);
                let dead = matches!(&occupant, Occupant::Run(holder) if holder.is_superseded_by(&self.me));
                if dead && tries < TAKE_TRIES {
                    (replaced, tries) = (value, tries + 1);
                    continue;
                }
                return Ok(Taking::Held(occupant));
            };
            let claim: Claim = serde_json::from_str(&value).map_err(|error| celery::Error::Malformed {
                what: format!("the lease of site `{site}` that was just written"),
                reason: error.to_string(),
            })?;
            let mine = Mine {
                token: claim.token,
                value,
            };
            // What cannot be read is of another version of orch.
            let left = serde_json::from_str(&left).ok();
            return Ok(Taking::Taken { mine, asked, left });
        }
    }

    /// Renews a lease, and says which tasks are under way in it. One try.
    pub async fn renew(&self, site: &SiteName, mine: &Mine, tasks: Vec<TaskId>, within: Duration) -> Answer {
        let work = Work {
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
            .arg(&mine.value)
            .arg(mine.token)
            .arg(milliseconds(self.terms.duration))
            .arg(milliseconds(TOKEN_KEPT))
            .arg(work)
            .arg(milliseconds(WORK_KEPT));
        let client = self.client.with_deadline(within);
        match client
            .broker_query::<(Vec<String>,)>("renew the lease of a site", &script)
            .await
        {
            Err(error) => Answer::Missing(error.to_string()),
            Ok((answer,)) => match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["ours"] => Answer::Ours,
                ["again"] => Answer::TakenAgain,
                ["passed"] => Answer::Passed,
                ["others", value] => Answer::Others(Occupant::read(value)),
                _ => Answer::Missing(format!("an answer that cannot be: {answer:?}")),
            },
        }
    }

    /// Gives a lease back, and forgets its work; says that the site is complete where it is.
    pub async fn give_back(&self, site: &SiteName, mine: &Mine, completion: Option<Completion>) -> celery::Result<()> {
        let completed = completion.map(|completion| Completed {
            token: mine.token,
            by: self.me.clone(),
            completion,
        });
        let mut script = redis::pipe();
        script
            .cmd("EVAL")
            .arg(GIVE_BACK)
            .arg(4)
            .arg(self.lease_key(site))
            .arg(self.token_key(site))
            .arg(self.work_key(site))
            .arg(self.completion_key(site))
            .arg(&mine.value)
            .arg(milliseconds(TOKEN_KEPT))
            .arg(mine.token)
            .arg(completed.as_ref().map(json).unwrap_or_default())
            .arg(milliseconds(COMPLETION_KEPT))
            .ignore();
        let client = self.client.with_deadline(PATIENCE);
        client.broker_query("give back the lease of a site", &script).await
    }

    /// What another run has completed the site with under a lease that was taken after the one of this token.
    pub async fn completed_since(&self, site: &SiteName, token: u64) -> celery::Result<Option<Completed>> {
        let mut read = redis::pipe();
        read.cmd("GET").arg(self.completion_key(site));
        let client = self.client.with_deadline(PATIENCE);
        let (value,): (Option<String>,) = client.broker_query("read who has completed a site", &read).await?;
        // What cannot be read is of another version of orch.
        let completed = value.and_then(|value| serde_json::from_str::<Completed>(&value).ok());
        Ok(completed.filter(|completed| {
            completed.token > token && completed.by.run_id != self.me.run_id && completed.completion.status.is_success()
        }))
    }

    /// The runs that hold these sites, each `None` where we could take it.
    pub async fn occupants(&self, sites: &[SiteName]) -> celery::Result<Vec<Option<Occupant>>> {
        if sites.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<String> = sites.iter().map(|site| self.lease_key(site)).collect();
        let mut read = redis::pipe();
        read.cmd("MGET").arg(keys);
        let client = self.client.with_deadline(PATIENCE);
        let (values,): (Vec<Option<String>>,) = client.broker_query("read the leases of the sites", &read).await?;
        let occupant = |value: Option<String>| {
            value
                .map(|value| Occupant::read(&value))
                .filter(|occupant| !matches!(occupant, Occupant::Run(holder) if holder.is_superseded_by(&self.me)))
        };
        Ok(values.into_iter().map(occupant).collect())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Plain structs of texts and numbers: there is nothing in them that JSON cannot hold.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
