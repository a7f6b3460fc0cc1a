//! Registry of a site's job: the keys `scrape_<site>:<job_id>:<suffix>` in the database of the result backend.
//!
//! orch writes the registry for apps that keep none, and for observers from outside. If an app keeps its own keys under
//! the same names, the app's values win: orch only adds missing keys, until it knows how the job ended. Keys that an
//! app keeps under another prefix are read and never written. [`jobs`](crate::jobs) reads the keys.

use std::time::Duration;

use jiff::Timestamp;

use crate::jobs::progress_keys;
use crate::jobs::progress_keys::SUFFIXES;
use orch_celery::Client;
use orch_journal::{JobId, SiteCounts, SiteName};

/// Time to live of the keys after the job was last seen alive.
pub const KEY_TIMEOUT: Duration = Duration::from_secs(3600);
/// Time between two renewals of the keys while the job is alive.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(600);

/// Script that writes the keys of the job. Keys: those of the job. Arguments: time to live in seconds; then for each
/// key the operation (`set` it, `replace` it and keep the old value, `add` it if it is missing, `keep` it alive) and
/// its value. Returns the positions of the keys that were written, counted from 1.
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

/// State of a job, as orch writes it into the `status` key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryStatus {
    /// The dispatch task has been published.
    Collecting,
    /// The dispatch task has started the job.
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

/// Keys of one job.
#[derive(Clone, Debug)]
pub struct Registry {
    prefix: String,
    /// The app keeps keys under the same prefix.
    shared: bool,
}

impl Registry {
    /// Names the registry of a job; the app of the job keeps own keys under `app_prefix`.
    pub fn new(site: &SiteName, job_id: &JobId, app_prefix: &str) -> Self {
        let prefix = format!("scrape_{site}:{job_id}:");
        Self {
            shared: prefix == app_prefix,
            prefix,
        }
    }

    /// Returns the prefix of the registry's keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Prepares the registry of a job that an earlier run had under way: removes the state that the earlier orch wrote,
    /// which must not count as the app's, and keeps the app's state.
    pub async fn reopen(&self, client: &Client) -> orch_celery::Result<()> {
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
            let seconds = KEY_TIMEOUT.as_secs();
            change.cmd("SET").arg(&status).arg(word).arg("EX").arg(seconds).ignore();
        }
        client.backend_query("reopen the registry of a job", &change).await
    }

    /// Returns the state that the app has written: the `status` of the registry, or the value before a cancellation.
    /// Without that state a busy app would count as an app without a status, and the counters of chunks could then
    /// decide its end.
    fn word_of_app<'a>(&self, status: &'a [u8], before: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let is = |word: &[u8], own: RegistryStatus| word == own.as_str().as_bytes();
        let word = if is(status, RegistryStatus::Cancelled) {
            before?
        } else {
            status
        };
        let is_end = is(word, RegistryStatus::Complete) || is(word, RegistryStatus::Failed);
        // If the app has no status, orch adds the first one and leaves it in place.
        let is_own = is(word, RegistryStatus::Collecting) || is(word, RegistryStatus::Dispatched);
        (is_end || (self.shared && !is_own)).then_some(word)
    }

    /// Writes the known values. Returns the values that orch itself has written under the app's names, in the order of
    /// `SUFFIXES`, so that they do not count as the app's.
    pub async fn write(
        &self,
        client: &Client,
        status: RegistryStatus,
        counts: SiteCounts,
    ) -> orch_celery::Result<Vec<Option<String>>> {
        let values = self.values(status, counts);
        let mut script = redis::pipe();
        let write = script.cmd("EVAL").arg(WRITE).arg(SUFFIXES.len());
        for name in progress_keys::names(&self.prefix) {
            write.arg(name);
        }
        write.arg(KEY_TIMEOUT.as_secs());
        for (suffix, value) in SUFFIXES.into_iter().zip(&values) {
            match value {
                None => write.arg("keep").arg(""),
                Some(value) if self.only_if_missing(suffix, status) => write.arg("add").arg(value),
                // A run that picks the job up must know the app's last state.
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
        let own_value = |(at, value): (usize, Option<String>)| value.filter(|_| written.contains(&(at + 1)));
        Ok(values.into_iter().enumerate().map(own_value).collect())
    }

    /// Writes the reason why the job's site is degraded into the key `degraded`. The status stays COMPLETE: an observer
    /// that waits for the end knows the six words of the registry, and would wait forever for a seventh.
    pub async fn write_degraded(&self, client: &Client, why: &str) -> orch_celery::Result<()> {
        let mut set = redis::pipe();
        set.cmd("SET")
            .arg(format!("{}degraded", self.prefix))
            .arg(why)
            .arg("EX")
            .arg(KEY_TIMEOUT.as_secs())
            .ignore();
        client.backend_query("write the registry of a job", &set).await
    }

    /// Renews the time to live of the keys.
    pub async fn renew(&self, client: &Client) -> orch_celery::Result<()> {
        let mut commands = redis::pipe();
        for name in progress_keys::names(&self.prefix) {
            commands.cmd("EXPIRE").arg(name).arg(KEY_TIMEOUT.as_secs()).ignore();
        }
        client.backend_query("renew the registry of a job", &commands).await
    }

    /// Returns the value of each key. A counter that the app may still increment must not be created by orch.
    fn values(&self, status: RegistryStatus, counts: SiteCounts) -> Vec<Option<String>> {
        let count = |count: Option<u64>| count.map(|count| count.to_string());
        // A later run may pick up a cancelled job, and the app counts on.
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
            // The end that orch has seen is the end, whatever the app wrote last.
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
            // orch was killed.
            ("PROCESSING", None, Some("PROCESSING")),
            ("AGGREGATING", None, Some("AGGREGATING")),
            ("COMPLETE", None, Some("COMPLETE")),
            ("FAILED", None, Some("FAILED")),
            ("COLLECTING", None, None),
            ("DISPATCHED", None, None),
            // orch was stopped, and wrote CANCELLED over the old value.
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
        // Under another prefix every state except an end is orch's own.
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
