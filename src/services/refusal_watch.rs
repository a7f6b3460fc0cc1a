//! Watches through a run whether the Redis that orch started refuses the app. Not here: what is evidence (`refusal`).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::failure::Failure;
use super::redis::ADMINISTRATIVE;
use super::refusal::{Refused, WatchedLog, by_log, by_text, refused};
use crate::celery::Client;
use crate::run::{EventKind, Level, Recorder};

/// From one look at Redis' error counters to the next.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Commands that a message names; the rest is left out.
const NAMED: usize = 8;

/// Reads what the workers of a run log once Redis has refused somebody.
pub struct RefusalWatch {
    client: Client,
    logs: Arc<Mutex<Vec<WatchedLog>>>,
}

impl RefusalWatch {
    /// A watch of these logs, which need not be there yet.
    pub fn new(client: Client, logs: &[PathBuf]) -> Self {
        let logs = logs.iter().map(|path| WatchedLog::new(path.clone(), 0)).collect();
        Self {
            client,
            logs: Arc::new(Mutex::new(logs)),
        }
    }

    /// Waits until there is evidence that the app is refused: as soon as one of its tasks has failed, and now and then, since
    /// a result that cannot be stored fails no task.
    pub async fn until_refused(&self, task_failures: &mut watch::Receiver<u64>) -> Failure {
        loop {
            let refused = refused(&self.client).await;
            if let Some(failure) = self.by_logs(refused).await {
                return failure;
            }
            let wait = tokio::time::timeout(CHECK_INTERVAL, task_failures.changed());
            if let Ok(Err(_closed)) = wait.await {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
        }
    }

    /// Gives the failure if at the end of a run the logs, or one of the reasons for which something failed, are evidence. Says
    /// what is no evidence, such as of a health check, and what an app would swallow.
    pub async fn at_the_end(&self, reasons: &[String], recorder: &Recorder) -> Option<Failure> {
        let refused = refused(&self.client).await;
        let by_reason = || {
            reasons
                .iter()
                .find_map(|reason| by_text(refused, "the reason of a failure", reason))
        };
        let failure = self.by_logs(refused).await.or_else(by_reason);
        if failure.is_none() && refused.no_password > 0 {
            let message = self.strangers(refused.no_password).await;
            let level = Level::Warning;
            recorder.emit(EventKind::Noticed { level, message });
        }
        failure
    }

    async fn by_logs(&self, refused: Refused) -> Option<Failure> {
        if refused == Refused::default() {
            return None;
        }
        let logs = Arc::clone(&self.logs);
        let read = tokio::task::spawn_blocking(move || {
            let mut logs = logs.lock().unwrap_or_else(PoisonError::into_inner);
            logs.iter_mut().find_map(|log| by_log(refused, log))
        });
        read.await.ok().flatten()
    }

    async fn strangers(&self, times: u64) -> String {
        let rejected = self.client.rejected_commands().await.unwrap_or_default();
        let commands = rejected.into_keys();
        describe(times, commands)
    }
}

/// Describes refusals of which nobody knows who was refused.
fn describe(times: u64, commands: impl Iterator<Item = String>) -> String {
    // What the app may not do was refused to it for another reason.
    let others = commands.filter(|command| {
        let name = command.split(' ').next().unwrap_or_default();
        !ADMINISTRATIVE.contains(&name)
    });
    let commands: Vec<String> = others.take(NAMED).map(|command| command.to_uppercase()).collect();
    let commands = match commands.is_empty() {
        true => String::new(),
        false => format!(" ({})", commands.join(", ")),
    };
    let times = match times {
        1 => "1 command".to_owned(),
        times => format!("{times} commands"),
    };
    format!(
        "Redis refused {times}{commands} of a client without a password; nothing shows that it was the app\n  hint:  a \
         health check or an exporter on this machine does that; if it is the app, build its URL from CELERY_BROKER_URL or \
         REDIS_PASSWORD"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_commands_are_named_but_for_those_that_are_forbidden_anyway() {
        let commands = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
                .into_iter()
        };
        for (times, names, expected) in [
            (1, vec!["ping"], "Redis refused 1 command (PING) of a client"),
            (
                3,
                vec!["client setinfo", "config get", "set"],
                "refused 3 commands (CLIENT SETINFO, SET) of",
            ),
            (2, vec!["config get"], "refused 2 commands of a client"),
            (2, vec![], "refused 2 commands of a client"),
        ] {
            let text = describe(times, commands(&names));
            assert!(text.contains(expected), "{text}");
        }
    }
}
