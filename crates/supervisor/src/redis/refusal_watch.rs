//! A watch for refusals of the app by the Redis that orch started. Not here: the evidence
//! ([`refusal`](crate::redis::refusal)).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::refusal::{RefusalCounts, WatchedLog, failure_in_log, failure_in_text, refusal_counts};
use super::service::ADMINISTRATIVE;
use orch_celery::Client;
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, Recorder, RedisProblem};

/// Interval between two looks at Redis' error counters.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Number of commands that an event names; the rest is left out.
const NAMED: usize = 8;

/// A reader of the workers' logs; reading begins once Redis has refused a client.
pub struct RefusalWatch {
    client: Client,
    logs: Arc<Mutex<Vec<WatchedLog>>>,
}

impl RefusalWatch {
    /// Returns a watch of these logs, which need not exist yet.
    pub fn new(client: Client, logs: &[PathBuf]) -> Self {
        let logs = logs.iter().map(|path| WatchedLog::new(path.clone(), 0)).collect();
        Self {
            client,
            logs: Arc::new(Mutex::new(logs)),
        }
    }

    /// Waits for evidence that the app is refused. Looks at once when one of the app's tasks has failed, and at
    /// intervals, since a result that cannot be stored fails no task.
    pub async fn until_refused(&self, task_failures: &mut watch::Receiver<u64>) -> ServiceFailure {
        loop {
            let refused = refusal_counts(&self.client).await;
            if let Some(failure) = self.by_logs(refused).await {
                return failure;
            }
            let wait = tokio::time::timeout(CHECK_INTERVAL, task_failures.changed());
            if let Ok(Err(_closed)) = wait.await {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
        }
    }

    /// Returns the failure if, at the end of a run, the logs or one of the reasons of failures are evidence. Reports
    /// refusals without evidence, such as those of a health check, because an app might hide errors.
    pub async fn final_failure(&self, reasons: &[String], recorder: &Recorder) -> Option<ServiceFailure> {
        let refused = refusal_counts(&self.client).await;
        let by_reason = || {
            reasons
                .iter()
                .find_map(|reason| failure_in_text(refused, "the reason of a failure", reason))
        };
        let failure = self.by_logs(refused).await.or_else(by_reason);
        if failure.is_none() && refused.no_password > 0 {
            let rejected = self.client.rejected_commands().await.unwrap_or_default();
            let problem = RedisProblem::ClientRefused {
                count: refused.no_password,
                commands: of_strangers(rejected.into_keys()),
            };
            recorder.emit(EventKind::RedisProblemFound { problem });
        }
        failure
    }

    async fn by_logs(&self, refused: RefusalCounts) -> Option<ServiceFailure> {
        if refused == RefusalCounts::default() {
            return None;
        }
        let logs = Arc::clone(&self.logs);
        let read = tokio::task::spawn_blocking(move || {
            let mut logs = logs.lock().unwrap_or_else(PoisonError::into_inner);
            logs.iter_mut().find_map(|log| failure_in_log(refused, log))
        });
        read.await.ok().flatten()
    }
}

/// Returns the names of the first refused commands, in upper case, without administrative ones: the app is refused those
/// for another reason.
fn of_strangers(commands: impl Iterator<Item = String>) -> Vec<String> {
    let others = commands.filter(|command| {
        let name = command.split(' ').next().unwrap_or_default();
        !ADMINISTRATIVE.contains(&name)
    });
    others.take(NAMED).map(|command| command.to_uppercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_commands_are_named_except_the_forbidden_ones() {
        for (names, expected) in [
            (vec!["ping"], vec!["PING"]),
            (
                vec!["client setinfo", "config get", "set"],
                vec!["CLIENT SETINFO", "SET"],
            ),
            (vec!["config get"], vec![]),
            (vec![], vec![]),
            (vec!["get"; NAMED + 1], vec!["GET"; NAMED]),
        ] {
            assert_eq!(of_strangers(names.into_iter().map(str::to_owned)), expected);
        }
    }
}
