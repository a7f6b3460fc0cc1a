//! The registry of a site's job: `scrape_<site>:<job_id>:<suffix>` in the result backend's database.
//!
//! orch writes it for apps that keep none, and for whoever looks on from outside. Where an app keeps its own keys under
//! the very same names the app's values win: orch adds only what is missing, until it knows how the job ended. Keys that
//! an app keeps under another prefix are read and never written. Not here: reading (`follow`).

use std::time::Duration;

use jiff::Timestamp;

use crate::celery::{self, Client};
use crate::follow::progress_keys::{self, SUFFIXES};
use crate::run::{JobId, SiteCounts, SiteName};

/// How long keys live after the job was last seen alive.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(3600);
/// Keys are renewed this often while the job lives.
pub const RENEW_EVERY: Duration = Duration::from_secs(600);

/// Keys of the job; their seconds to live; for each of them what is done (`set` it, `replace` it and keep what stood there, `add`
/// it where it is missing, `keep` it alive) and its value. Answers with the places of the keys that were written, counted from 1.
const WRITE: &str = r#"
local written = {}
for at, key in ipairs(KEYS) do
  local how, value = ARGV[2 * at], ARGV[2 * at + 1]
  if how == "replace" and redis.call("TYPE", key).ok == "string" then
    local before = redis.call("GET", key)
    if before ~= value then redis.call("SET", key .. "_before", before, "EX", ARGV[1]) end
  end
  if how == "set" or how == "replace" or (redis.call("EXPIRE", key, ARGV[1]) == 0 and how == "add") then
    redis.call("SET", key, value, "EX", ARGV[1])
    written[#written + 1] = at
  end
end
return written
"#;

/// What orch says about a job in its `status` key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryStatus {
    /// The dispatch task has been published.
    Collecting,
    /// It has answered.
    Dispatched,
    /// Chunks have ended.
    Processing,
    Complete,
    Failed,
    Cancelled,
}

impl RegistryStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Collecting => "COLLECTING",
            Self::Dispatched => "DISPATCHED",
            Self::Processing => "PROCESSING",
            Self::Complete => "COMPLETE",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    fn is_end(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Cancelled)
    }
}

/// Writes the keys of one job.
#[derive(Clone, Debug)]
pub struct Registry {
    prefix: String,
    /// The app keeps its keys under the same prefix.
    shared: bool,
}

impl Registry {
    /// The registry of a job whose app keeps its own keys under `app_prefix`.
    pub fn new(site: &SiteName, job_id: &JobId, app_prefix: &str) -> Self {
        let prefix = format!("scrape_{site}:{job_id}:");
        Self {
            shared: prefix == app_prefix,
            prefix,
        }
    }

    /// The begin of its keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Prepares the registry of a job that an earlier run had under way: what that orch said of its state is not to be
    /// taken for the app's word, and the app's word stays.
    pub async fn reopen(&self, client: &Client) -> celery::Result<()> {
        let status = format!("{}status", self.prefix);
        let replaced = format!("{status}_before");
        let mut get = redis::pipe();
        get.cmd("GET").arg(&status).cmd("GET").arg(&replaced);
        let (value, before): (Option<Vec<u8>>, Option<Vec<u8>>) =
            client.backend_query("read the registry of a job", &get).await?;
        let Some(value) = value else { return Ok(()) };
        let word = self.word_of_app(&value, before.as_deref());
        if word == Some(value.as_slice()) {
            return Ok(());
        }
        let mut change = redis::pipe();
        change
            .cmd("DEL")
            .arg(&status)
            .arg(&replaced)
            .arg(format!("{}completed_at", self.prefix))
            .ignore();
        if let Some(word) = word {
            let seconds = TIME_TO_LIVE.as_secs();
            change.cmd("SET").arg(&status).arg(word).arg("EX").arg(seconds).ignore();
        }
        client.backend_query("reopen the registry of a job", &change).await
    }

    /// What the app has said of its state: the `status` of the registry, or what stood there before a cancellation. Without it
    /// an app that was at work would pass for one that keeps no status, whose counters of chunks may tell its end.
    fn word_of_app<'a>(&self, status: &'a [u8], before: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let is = |word: &[u8], own: RegistryStatus| word == own.as_str().as_bytes();
        let word = if is(status, RegistryStatus::Cancelled) {
            before?
        } else {
            status
        };
        let is_end = is(word, RegistryStatus::Complete) || is(word, RegistryStatus::Failed);
        // Where the app has no status, orch adds its first, and leaves that there.
        let is_own = is(word, RegistryStatus::Collecting) || is(word, RegistryStatus::Dispatched);
        (is_end || (self.shared && !is_own)).then_some(word)
    }

    /// Writes what is known; gives the values that orch itself has put under the app's names, in the order of
    /// [`SUFFIXES`], so that they are not taken for the app's.
    pub async fn write(
        &self,
        client: &Client,
        status: RegistryStatus,
        counts: SiteCounts,
    ) -> celery::Result<Vec<Option<String>>> {
        let values = self.values(status, counts);
        let mut script = redis::pipe();
        let write = script.cmd("EVAL").arg(WRITE).arg(SUFFIXES.len());
        for name in progress_keys::names(&self.prefix) {
            write.arg(name);
        }
        write.arg(TIME_TO_LIVE.as_secs());
        for (suffix, value) in SUFFIXES.into_iter().zip(&values) {
            match value {
                None => write.arg("keep").arg(""),
                Some(value) if self.only_if_missing(suffix, status) => write.arg("add").arg(value),
                // A run that picks the job up must know what the app had said.
                Some(value) if suffix == "status" && status == RegistryStatus::Cancelled => {
                    write.arg("replace").arg(value)
                }
                Some(value) => write.arg("set").arg(value),
            };
        }
        let (written,): (Vec<usize>,) = client.backend_query("write the registry of a job", &script).await?;
        if !self.shared {
            return Ok(Vec::new());
        }
        let ours = |(at, value): (usize, Option<String>)| value.filter(|_| written.contains(&(at + 1)));
        Ok(values.into_iter().enumerate().map(ours).collect())
    }

    /// Says why the job's site counts as degraded, in the key `degraded`. Its status is COMPLETE all the same: whoever waits
    /// for the end knows the six words of the registry, and would wait for ever for a seventh.
    pub async fn tell_degraded(&self, client: &Client, why: &str) -> celery::Result<()> {
        let mut set = redis::pipe();
        set.cmd("SET")
            .arg(format!("{}degraded", self.prefix))
            .arg(why)
            .arg("EX")
            .arg(TIME_TO_LIVE.as_secs())
            .ignore();
        client.backend_query("write the registry of a job", &set).await
    }

    /// Keeps the keys alive.
    pub async fn renew(&self, client: &Client) -> celery::Result<()> {
        let mut commands = redis::pipe();
        for name in progress_keys::names(&self.prefix) {
            commands.cmd("EXPIRE").arg(name).arg(TIME_TO_LIVE.as_secs()).ignore();
        }
        client.backend_query("renew the registry of a job", &commands).await
    }

    /// A counter that the app may still count up must not be created under its feet.
    fn values(&self, status: RegistryStatus, counts: SiteCounts) -> Vec<Option<String>> {
        let count = |count: Option<u64>| count.map(|count| count.to_string());
        // A cancelled job may be picked up by a later run, and its app counts on.
        let may_count_on = !status.is_end() || status == RegistryStatus::Cancelled;
        let counted = |value: Option<u64>| {
            if self.shared && may_count_on {
                None
            } else {
                count(value)
            }
        };
        let now = || Some(Timestamp::now().to_string());
        SUFFIXES
            .into_iter()
            .map(|suffix| match suffix {
                "status" => Some(status.as_str().to_owned()),
                "total_chunks" => count(counts.total_chunks),
                "total_urls" => count(counts.total_urls),
                "completed_chunks" => counted(counts.completed_chunks),
                "result_count" => counted(counts.results),
                "error_count" => counted(counts.errors),
                "started_at" => now(),
                "completed_at" if status.is_end() => now(),
                _ => None,
            })
            .collect()
    }

    fn only_if_missing(&self, suffix: &str, status: RegistryStatus) -> bool {
        match suffix {
            "started_at" => true,
            // The end that orch has seen is the end, whatever the app had written last.
            "status" if status.is_end() => false,
            _ => self.shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_reads_the_word_of_the_app_and_not_that_of_the_orch_before() {
        let registry = |app_prefix: &str| Registry::new(&SiteName::from("shop"), &JobId::from("7"), app_prefix);
        let (shared, apart) = (registry("scrape_shop:7:"), registry("shop:7:"));
        for (status, before, word) in [
            // The orch was killed.
            ("PROCESSING", None, Some("PROCESSING")),
            ("AGGREGATING", None, Some("AGGREGATING")),
            ("COMPLETE", None, Some("COMPLETE")),
            ("FAILED", None, Some("FAILED")),
            ("COLLECTING", None, None),
            ("DISPATCHED", None, None),
            // It was stopped, and wrote CANCELLED over what stood there.
            ("CANCELLED", Some("PROCESSING"), Some("PROCESSING")),
            ("CANCELLED", Some("COMPLETE"), Some("COMPLETE")),
            ("CANCELLED", Some("COLLECTING"), None),
            ("CANCELLED", None, None),
            // The app has gone on since.
            ("COMPLETE", Some("PROCESSING"), Some("COMPLETE")),
        ] {
            let found = shared.word_of_app(status.as_bytes(), before.map(str::as_bytes));
            assert_eq!(found, word.map(str::as_bytes), "{status} {before:?}");
        }
        // All but an end is orch's own there.
        for (status, word) in [
            ("PROCESSING", None),
            ("CANCELLED", None),
            ("COMPLETE", Some("COMPLETE")),
        ] {
            let found = apart.word_of_app(status.as_bytes(), Some(b"PROCESSING"));
            assert_eq!(found, word.map(str::as_bytes), "{status}");
        }
    }
}
