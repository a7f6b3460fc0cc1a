//! The active run of a state directory as another command sees it: its first event, its journal, and the requests that
//! it answers.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::{CommandError, check_state_directory};
use crate::orchestrator::instance::locks;
use crate::orchestrator::requests::{append_request, this_process};
use orch_base::files::watch::FileWatch;
use orch_config::Config;
use orch_journal::{
    Event, EventKind, JournalTail, RequestAnswer, RequestId, RequestReceipt, RequestVerb, RunCommand, RunDirectory,
    RunStart, is_being_written,
};

/// Longest time between two checks whether the run is alive: the end of a process is no change of a file.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Journal of an active run, read up to a position.
pub(super) struct ActiveRun {
    pub start: RunStart,
    pub directory: RunDirectory,
    tail: JournalTail,
}

/// End of a search in the journal of an active run.
pub(super) enum JournalSearch<T> {
    Found(T),
    /// The run has ended without such an event.
    RunEnded,
    TimedOut,
}

impl ActiveRun {
    /// Finds the active run that a request is about: for sites the `orch run`, for services the `orch up` if there is
    /// one.
    ///
    /// # Errors
    /// The state directory cannot be used, or the run has lost it.
    pub fn find(config: &Config, preferred: RunCommand) -> anyhow::Result<Option<Self>> {
        let mut active = Self::all(config)?;
        let place = active.iter().position(|run| run.start.command == preferred);
        Ok(match place {
            Some(place) => Some(active.swap_remove(place)),
            None => active.pop(),
        })
    }

    /// Lists the active runs: at most one `orch run` and one `orch up`.
    ///
    /// # Errors
    /// The state directory cannot be used, or a run has lost it.
    pub fn all(config: &Config) -> anyhow::Result<Vec<Self>> {
        let state_dir = &config.orch.state_dir;
        if let Some(lost) = locks::lost_holder(config) {
            return Err(CommandError::because(lost.outcome(), lost));
        }
        if !state_dir.exists() {
            return Ok(Vec::new());
        }
        check_state_directory(config)?;
        let kept = RunDirectory::kept(state_dir)
            .map_err(|error| anyhow::anyhow!("could not list the runs in {}\n  cause: {error}", state_dir.display()))?;
        let active = kept.into_iter().filter(|run| is_being_written(&run.journal()));
        Ok(active.filter_map(Self::open).collect())
    }

    /// Opens the journal and reads the first event; `None` if the run has not written the event yet.
    fn open(directory: RunDirectory) -> Option<Self> {
        let mut tail = JournalTail::open(&directory.journal()).ok()?;
        match tail.next_event().ok()??.kind {
            EventKind::RunStarted(start) => Some(Self { start, directory, tail }),
            _ => None,
        }
    }

    /// Calls `each` for every event that the journal has now and that was not read before.
    pub fn read(&mut self, mut each: impl FnMut(Event)) -> anyhow::Result<()> {
        while let Some(event) = self.next_event()? {
            each(event);
        }
        Ok(())
    }

    fn next_event(&mut self) -> anyhow::Result<Option<Event>> {
        self.tail.next_event().map_err(|error| {
            let run = &self.start.run_id;
            anyhow::anyhow!("could not read the journal of run {run}\n  cause: {error}")
        })
    }

    /// Sends a request and returns its id.
    pub fn send(&self, verb: RequestVerb) -> anyhow::Result<RequestId> {
        let request = RequestReceipt {
            id: RequestId::random(),
            by: this_process(),
            verb,
        };
        append_request(&self.directory.requests(), &request).map_err(|error| {
            let file = self.directory.requests();
            anyhow::anyhow!("could not write the request into {}\n  cause: {error}", file.display())
        })?;
        Ok(request.id)
    }

    /// Waits for the answer to a request. An answer `None` means that the stop of the run began before.
    pub async fn answer(
        &mut self,
        id: &RequestId,
        timeout: Duration,
    ) -> anyhow::Result<JournalSearch<Option<RequestAnswer>>> {
        let find = |event: Event| match event.kind {
            EventKind::RequestAnswered(answer) if answer.id.as_ref() == Some(id) => Some(Some(answer)),
            EventKind::StopStarted { .. } => Some(None),
            _ => None,
        };
        self.search(timeout, find).await
    }

    /// Reads the journal until `find` returns a value, the run ends or the time is over.
    pub async fn search<T>(
        &mut self,
        timeout: Duration,
        mut find: impl FnMut(Event) -> Option<T>,
    ) -> anyhow::Result<JournalSearch<T>> {
        let deadline = Instant::now() + timeout;
        let journal = self.directory.journal();
        // Begins before the journal is read, so that no change is missed. Without a watch the check interval decides.
        let mut watch = FileWatch::new(&journal).ok();
        loop {
            // This order matters: the events then include every one that the run wrote before its end.
            let lives = is_being_written(&journal);
            while let Some(event) = self.next_event()? {
                if let Some(found) = find(event) {
                    return Ok(JournalSearch::Found(found));
                }
            }
            let now = Instant::now();
            if !lives {
                return Ok(JournalSearch::RunEnded);
            }
            if now >= deadline {
                return Ok(JournalSearch::TimedOut);
            }
            let until = deadline.min(now + CHECK_INTERVAL);
            let changed = async {
                match &mut watch {
                    Some(watch) => watch.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let is_watched = tokio::select! {
                is_watched = changed => is_watched,
                () = sleep_until(until.into()) => true,
            };
            if !is_watched {
                watch = None;
            }
        }
    }
}
