//! Follows one job: turns results, events, keys and time into inputs of the pure machine, and tells what it says.
//!
//! A plain future: dropping it ends everything. Not here: what the job is for and what happens after its end.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{sleep_until, timeout};

use super::context::Context;
use super::desk::{Desk, Left, Page};
use super::errand::{Ending, Errand, Told};
use super::facts::{Fact, Failure, Input, Keys, Listed, TaskEnd};
use super::inventory::{Inventory, Remains};
use super::ledger::{EventEnd, LONGEST_END};
use super::loss::{LossSigns, Losses};
use super::machine::{Following, Stage};
use super::outcome::{HeaderCheck, HeaderLoss};
use super::pending::{UnderWay, done, file_changed, finished};
use super::pool_stamp::FileStamp;
use super::progress::{self, Reading};
use super::progress_keys;
use super::remains;
use super::vitals::{AtWork, Vital};
use crate::celery::{self, Children, ChordProgress, GroupId, ResultWatch, Results, TaskId, TaskResult, TaskState};
use crate::file_watch::FileWatch;
use crate::printable::shortened;
use crate::run::{ProgressSource, SiteCounts};

/// Progress is read at most this often.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);
/// ... and this often when no event asks for it, since keys announce nothing.
const PROGRESS_POLL: Duration = Duration::from_secs(5);
/// A job of which nothing was heard for so long is searched for.
const QUIET: Duration = Duration::from_secs(10);
/// A search that could not look everywhere is repeated after this.
const UNSURE_PAUSE: Duration = Duration::from_secs(2);
/// The result of a task whose event told its end comes before that event; after this long it is not coming.
const RESULT_GRACE: Duration = Duration::from_secs(1);
/// Where no watch on the pool file could be had.
const FILE_POLL: Duration = Duration::from_millis(500);
/// A chord whose header has ended and whose callback no worker has taken is searched for after this.
const CALLBACK_GRACE: Duration = Duration::from_secs(2);
/// A search for lost chunks that could not look everywhere is put off by no more than this.
const LONGEST_LOSS_PAUSE: Duration = Duration::from_secs(30);
/// For the last look at the counts.
const LAST_READING: Duration = Duration::from_secs(2);

/// orch itself has stood still when it wakes up so much later than it wanted to.
const OVERSLEPT: Duration = Duration::from_secs(10);

/// Follows one job from before it is published.
pub struct Follower<'a> {
    context: &'a Context,
    page: Arc<Page<'a>>,
    desk: &'a Desk,
    errand: Errand<'a>,
    following: Following,
    dispatch: Option<ResultWatch>,
    callback: Option<ResultWatch>,
    /// The chord's header, as the dispatch task's result names it.
    group: Option<GroupId>,
    /// What the dispatch task's result lists as started.
    listed: Option<Arc<Listed>>,
    /// What the header's tasks had come to when the callback was first seen.
    header_check: Option<HeaderCheck>,
    chord: Option<ChordProgress>,
    keys: Option<Keys>,
    told: Option<(SiteCounts, ProgressSource)>,
    deaths: u64,
    /// Something of the job has changed since progress was read.
    stale: bool,
    begun: Instant,
    progress_read_at: Option<Instant>,
    search_at: Instant,
    /// When it is asked what workers are at of it.
    look_at: Option<Instant>,
    /// When a task whose event told its end is taken to have no result.
    settle_at: Option<Instant>,
    file_watch: Option<FileWatch>,
    are_results_unreadable: bool,
    /// What is known to be lost of the chord's header.
    loss: HeaderLoss,
    loss_signs: LossSigns,
    /// Events of the job that were taken in.
    changes: u64,
    /// When lost tasks of the header are looked for, and how long a search that could not look everywhere is put off.
    loss_due: Option<Instant>,
    loss_pause: Duration,
    /// A worker has died, and no search for the job has ended since.
    has_death_to_search: bool,
}

/// What was read last of a job of which nothing is left.
struct LastLook {
    dispatch: Option<TaskResult>,
    callback: Option<TaskResult>,
    reading: Reading,
    remains: Remains,
}

impl<'a> Follower<'a> {
    /// Subscribes to everything; publish after this.
    pub fn new(context: &'a Context, desk: &'a Desk, errand: Errand<'a>) -> Self {
        let page = Arc::new(desk.page(&errand.root));
        page.watch(&errand.dispatch);
        if errand.rules.picked_up {
            page.mark_broken();
        }
        let following = Following::begin(errand.rules.clone(), slots(&errand, desk));
        context
            .in_flight
            .note_job(&errand.root, &errand.dispatch, following.job());
        let now = Instant::now();
        // It may be long gone: it is looked for at once.
        let picked_up = errand.rules.picked_up;
        Self {
            context,
            page,
            desk,
            dispatch: Some(context.celery.results().watch(&errand.dispatch)),
            following,
            callback: None,
            group: None,
            listed: None,
            header_check: None,
            chord: None,
            keys: None,
            told: None,
            deaths: *context.worker_deaths.borrow(),
            stale: true,
            begun: now,
            progress_read_at: None,
            search_at: if picked_up { now } else { now + QUIET },
            look_at: errand.look_after.map(|after| now + after),
            settle_at: None,
            file_watch: None,
            are_results_unreadable: false,
            loss: HeaderLoss::default(),
            loss_signs: LossSigns::default(),
            changes: 0,
            loss_due: None,
            loss_pause: UNSURE_PAUSE,
            has_death_to_search: false,
            errand,
        }
    }

    /// Follows to the end, at the latest the rules' deadline and two seconds.
    pub async fn follow(mut self, tell: &mut (dyn FnMut(Told) + Send)) -> Ending {
        let mut deaths = self.context.worker_deaths.clone();
        let mut reading: Option<UnderWay<'a, celery::Result<Reading>>> = None;
        let mut search: Option<UnderWay<'a, Result<Option<LastLook>, Left>>> = None;
        let mut settling: Option<UnderWay<'a, celery::Result<LastLook>>> = None;
        let mut look: Option<UnderWay<'a, AtWork>> = None;
        let mut check: Option<UnderWay<'a, HeaderCheck>> = None;
        let mut loss: Option<UnderWay<'a, Losses>> = None;
        let mut awake_by = Instant::now();
        while !matches!(self.following.stage(), Stage::Ended(_)) {
            let now = Instant::now();
            if now > awake_by + OVERSLEPT {
                look = None;
                self.lives(Vital::Disturbed, tell);
            }
            if look.is_none() && self.look_at.is_some_and(|due| now >= due) {
                self.look_at = None;
                look = Some(self.look());
            }
            if reading.is_none() && self.progress_due().is_some_and(|due| now >= due) {
                self.stale = false;
                self.progress_read_at = Some(now);
                reading = Some(self.read_progress());
            }
            if search.is_none() && now >= self.search_at {
                search = Some(self.search());
            }
            if settling.is_none() && self.settle_at.is_some_and(|due| now >= due) {
                self.settle_at = None;
                settling = Some(self.last_look(false));
            }
            if check.is_none() && self.header_check.is_none() && self.is_callback_seen() {
                check = Some(self.check_header());
            }
            if loss.is_none() && self.loss_due.is_some_and(|due| now >= due) {
                loss = self.look_for_losses();
            }
            let page = Arc::clone(&self.page);
            let mut wake_at = self.wake_at(reading.is_none(), search.is_none(), settling.is_none());
            if let Some(due) = self.loss_due.filter(|_| loss.is_none() && self.has_named_header()) {
                wake_at = wake_at.min(due);
            }
            awake_by = wake_at;
            tokio::select! {
                biased;
                result = finished(&mut self.callback) => {
                    self.callback = None;
                    self.take_result(result, false, tell);
                }
                result = finished(&mut self.dispatch) => {
                    self.dispatch = None;
                    self.take_result(result, true, tell);
                }
                last = done(&mut settling) => match last {
                    Ok(last) => self.settle(last, tell),
                    Err(_) => self.settle_at = Some(Instant::now() + UNSURE_PAUSE),
                },
                () = page.changed() => {
                    let changes = page.changes();
                    if changes == self.changes {
                        // Events were missed: that says nothing about the job, and puts no search for it off.
                        self.search_at = self.search_at.min(Instant::now() + CALLBACK_GRACE);
                        self.stale = true;
                        self.hear_losses(tell);
                    } else {
                        self.changes = changes;
                        search = None;
                        look = None;
                        self.heard(tell);
                    }
                }
                read = done(&mut reading) => match read {
                    Ok(reading) => self.take_reading(reading, tell),
                    Err(error) => tracing::debug!(%error, root = %self.errand.root, "progress cannot be read"),
                },
                found = done(&mut search) => self.take_search(found, tell),
                checked = done(&mut check) => {
                    self.header_check = Some(checked);
                    self.tell_header_check(tell);
                }
                found = done(&mut loss) => self.take_losses(found, tell),
                found = done(&mut look) => {
                    self.look_later();
                    tell(Told::Vital(Vital::Looked(found)));
                }
                Ok(()) = deaths.changed() => {
                    self.search_at = Instant::now();
                    self.has_death_to_search = true;
                    self.loss_due = Some(self.search_at);
                    look = None;
                    self.lives(Vital::Disturbed, tell);
                }
                () = file_changed(&mut self.file_watch), if self.watches_file() => self.look_at_file(tell),
                () = sleep_until(wake_at.into()) => {
                    self.look_at_file(tell);
                    tell(Told::Vital(Vital::TimePassed));
                    self.see(Input::SlotsCounted(slots(&self.errand, self.desk)), tell);
                    self.see(Input::Tick, tell);
                }
            }
        }
        self.end().await
    }

    /// It was never published.
    pub fn abandon(self) {
        self.context.in_flight.forget_job(&self.errand.root);
    }

    async fn end(mut self) -> Ending {
        self.context.in_flight.forget_job(&self.errand.root);
        if self.group.is_some() || self.prefix().is_some() {
            // The app's last word about its counts; the chord's own counters are gone by now.
            self.group = None;
            if let Ok(Ok(reading)) = timeout(LAST_READING, self.read_progress()).await {
                self.remember(&reading);
            }
        }
        let failure = match self.following.stage() {
            Stage::Ended(Err(failure)) => Some(failure.clone()),
            _ => None,
        };
        if matches!(failure, Some(Failure::Told(_))) {
            self.context.task_failed();
        }
        // Of a job that has succeeded nothing is to be ended.
        let unfinished = match &failure {
            Some(_) => self.known_tasks().into_iter().chain(self.page.unfinished()).collect(),
            None => HashSet::new(),
        };
        let (counts, _) = self.counts();
        Ending {
            failure,
            job: self.following.job().clone(),
            counts,
            root: self.errand.root.clone(),
            unfinished: unfinished.into_iter().collect(),
        }
    }

    /// Hands an input to the machine and passes on what it says.
    fn see(&mut self, input: Input, tell: &mut (dyn FnMut(Told) + Send)) {
        let now = Instant::now();
        let (following, facts) = self.following.clone().step(input, now);
        self.following = following;
        for fact in facts {
            let entered = matches!(fact, Fact::StageEntered { .. });
            tell(Told::Fact(fact));
            if entered {
                self.stage_entered(now);
            }
        }
        self.tell_header_check(tell);
        self.look_at_file(tell);
    }

    fn stage_entered(&mut self, now: Instant) {
        let job = self.following.job();
        self.context
            .in_flight
            .note_job(&self.errand.root, &self.errand.dispatch, job);
        self.progress_read_at = None;
        match self.following.stage() {
            Stage::Chord { chord_id, .. } => {
                let callback = TaskId::from(chord_id.as_str());
                self.page.watch(&callback);
                self.callback = Some(self.context.celery.results().watch(&callback));
                self.search_at = if self.errand.rules.picked_up {
                    now
                } else {
                    now + self.quiet()
                };
                if !self.errand.rules.picked_up {
                    // Nothing of it is done yet; and many a job is over when the first look would be due.
                    self.progress_read_at = Some(now);
                }
            }
            // Nothing will announce the end: it may have come already.
            Stage::ProgressKeys { .. } | Stage::TaskEvents => self.search_at = now,
            Stage::FileTime => {
                self.search_at = now;
                self.file_watch = self
                    .errand
                    .pool_file
                    .as_ref()
                    .and_then(|(file, _)| FileWatch::new(file).ok());
            }
            Stage::Dispatch | Stage::Ended(_) => {}
        }
    }

    fn take_result(&mut self, result: celery::Result<TaskResult>, dispatch: bool, tell: &mut (dyn FnMut(Told) + Send)) {
        let input = match result {
            Err(error) => {
                self.are_results_unreadable = true;
                self.see(Input::ResultsUnreadable(error.to_string()), tell);
                return self.hear_end_without_result(tell);
            }
            Ok(result) => {
                let Some(end) = end_of(result.state) else { return };
                if dispatch {
                    let group = result.children.groups.first();
                    self.group = group.map(|group| group.id.clone());
                    let listed = Arc::new(listed(&result.children));
                    if let Some(header) = listed.header() {
                        self.page.know_header(header);
                    }
                    self.listed = Some(Arc::clone(&listed));
                    Input::DispatchEnded { end, listed }
                } else {
                    Input::CallbackEnded(end)
                }
            }
        };
        self.see(input, tell);
    }

    /// The tasks of the one chord that was started; none where there is no such chord.
    fn header(&self) -> &[TaskId] {
        self.listed.as_deref().and_then(Listed::header).unwrap_or_default()
    }

    /// Whether the callback runs or has run.
    fn is_callback_seen(&self) -> bool {
        let is_running = |callback| self.page.is_unfinished(&callback);
        self.following.wants_header_check()
            || (!self.header().is_empty() && self.following.job().callback().is_some_and(is_running))
    }

    fn check_header(&self) -> UnderWay<'a, HeaderCheck> {
        let header = self.header().to_vec();
        Box::pin(remains::check_header(
            self.context.celery.results(),
            Arc::clone(&self.page),
            header,
        ))
    }

    fn tell_header_check(&mut self, tell: &mut (dyn FnMut(Told) + Send)) {
        if self.following.wants_header_check()
            && let Some(check) = self.header_check.clone()
        {
            self.see(Input::HeaderChecked(check), tell);
        }
    }

    /// After so long without news the job is searched for.
    fn quiet(&self) -> Duration {
        // The last events of a dead worker come after its death is known.
        if self.has_death_to_search {
            CALLBACK_GRACE
        } else {
            QUIET
        }
    }

    /// An event of the job came in.
    fn heard(&mut self, tell: &mut (dyn FnMut(Told) + Send)) {
        let now = Instant::now();
        self.lives(Vital::Moved, tell);
        for end in self.page.take_ends() {
            tell(Told::Vital(Vital::ChunkEnded(end)));
        }
        self.stale = true;
        self.search_at = now + self.quiet();
        let callback = self.following.job().chord_id.as_deref().map(TaskId::from);
        let awaited = [
            (self.dispatch.is_some(), Some(&self.errand.dispatch)),
            (self.callback.is_some(), callback.as_ref()),
        ];
        let told = |(waiting, task): (bool, Option<&TaskId>)| {
            waiting && task.is_some_and(|task| self.page.end_of(task).is_some())
        };
        if awaited.into_iter().any(told) && self.settle_at.is_none() {
            self.settle_at = Some(now + RESULT_GRACE);
        }
        let unannounced = matches!(
            self.following.stage(),
            Stage::ProgressKeys { .. } | Stage::TaskEvents | Stage::FileTime
        );
        let tally = self.page.tally();
        let lost = u64::try_from(self.loss.lost.len()).unwrap_or(u64::MAX);
        let is_over = |(ended, size): (u64, u64)| ended.saturating_add(lost) >= size;
        if unannounced && tally.unfinished == 0 {
            self.search_at = now;
        } else if tally.unfinished <= lost && tally.header.is_some_and(is_over) {
            // Its callback comes now, or its id is none that a result is stored under.
            self.search_at = now + CALLBACK_GRACE;
        }
        self.hear_end_without_result(tell);
        self.hear_losses(tell);
    }

    /// Whether the end of the job is that of a named callback, whose header is all that the dispatch task started.
    fn has_named_header(&self) -> bool {
        let is_one = self.listed.as_ref().is_some_and(|listed| listed.is_one_group());
        is_one && self.group.is_some() && self.following.named_callback().is_some()
    }

    /// Takes in what events say of the header's tasks.
    fn hear_losses(&mut self, tell: &mut (dyn FnMut(Told) + Send)) {
        let signs = self.page.loss_signs();
        if signs == self.loss_signs || !self.has_named_header() {
            return;
        }
        if signs.gaps != self.loss_signs.gaps || signs.rejected > self.loss_signs.rejected {
            self.loss_due = Some(Instant::now());
        }
        self.loss_signs = signs;
        // Of a header that has ended Celery itself stores the failure.
        let is_over = |(ended, size): (u64, u64)| ended == size;
        if signs.failed > 0 && !self.page.tally().header.is_some_and(is_over) {
            self.see_losses(&[], tell);
        }
    }

    /// Looks for lost tasks of the header, where its callback is named.
    fn look_for_losses(&mut self) -> Option<UnderWay<'a, Losses>> {
        let group = self.group.clone().filter(|_| self.has_named_header())?;
        self.loss_due = None;
        let page = Arc::clone(&self.page);
        Some(Box::pin(async move { page.losses(&group).await }))
    }

    fn take_losses(&mut self, found: Losses, tell: &mut (dyn FnMut(Told) + Send)) {
        match found {
            Losses::Found(lost) => {
                self.loss_pause = UNSURE_PAUSE;
                self.see_losses(&lost, tell);
            }
            Losses::Unsure(reason) => {
                tracing::debug!(reason, root = %self.errand.root, "cannot tell whether chunks are lost");
                self.loss_due = Some(Instant::now() + self.loss_pause);
                self.loss_pause = (self.loss_pause * 2).min(LONGEST_LOSS_PAUSE);
            }
        }
    }

    /// Hands on what is lost of the header, where that is news: each further lost task, and the first one that failed.
    fn see_losses(&mut self, found: &[TaskId], tell: &mut (dyn FnMut(Told) + Send)) {
        let failed = self.page.failed_chunks();
        let new: Vec<&TaskId> = found.iter().filter(|task| !self.loss.lost.contains(task)).collect();
        let is_first_failure = failed.count > 0 && self.loss.failed == 0;
        if new.is_empty() && !is_first_failure {
            return;
        }
        let mut lost = self.loss.lost.clone();
        lost.extend(new.into_iter().cloned());
        lost.sort();
        self.loss = HeaderLoss {
            lost,
            failed: failed.count,
            first_failure: failed.first,
            size: u64::try_from(self.header().len()).unwrap_or(u64::MAX),
        };
        let until = self.errand.ends_at_loss_until;
        let is_loss = self.errand.ends_at_failure || !self.loss.lost.is_empty();
        let ends_job = is_loss && until.is_some_and(|until| Instant::now() < until);
        let loss = self.loss.clone();
        self.see(Input::HeaderLost { loss, ends_job }, tell);
    }

    /// Results that cannot be read, and ends that events have brought.
    fn hear_end_without_result(&mut self, tell: &mut (dyn FnMut(Told) + Send)) {
        if !self.are_results_unreadable {
            return;
        }
        if let Some(end) = self.page.end_of(&self.errand.dispatch) {
            self.see(Input::DispatchEndedUnrecorded(told_by_event(end)), tell);
        }
        if let Some(callback) = self.following.job().callback() {
            self.page.watch(&callback);
            if let Some(end) = self.page.end_of(&callback) {
                self.see(Input::CallbackEndedUnrecorded(told_by_event(end)), tell);
            }
        }
    }

    fn take_reading(&mut self, reading: Reading, tell: &mut (dyn FnMut(Told) + Send)) {
        let keys_were_read = reading.keys.is_some();
        self.remember(&reading);
        if let Some(chord) = reading.chord {
            tell(Told::Vital(Vital::ChordRead(chord)));
        }
        if keys_were_read {
            self.see(Input::KeysRead(self.keys.clone()), tell);
        }
        let (mut counts, source) = self.counts();
        // Sources tell the same with different delays: what is done stays done.
        if let Some((told, _)) = self.told {
            counts.completed_chunks = counts.completed_chunks.max(told.completed_chunks);
        }
        if counts != SiteCounts::default() && self.told.is_none_or(|told| told.0 != counts) {
            self.told = Some((counts, source));
            self.look_later();
            tell(Told::Progressed { counts, source });
        }
    }

    fn remember(&mut self, reading: &Reading) {
        // The bookkeeping of a chord vanishes when it is complete; what was last seen still holds.
        self.chord = reading.chord.or(self.chord);
        if let Some(values) = &reading.keys {
            let ours = self.errand.ours.lock().unwrap_or_else(PoisonError::into_inner);
            self.keys = progress_keys::read(values, &ours);
        }
    }

    fn counts(&self) -> (SiteCounts, ProgressSource) {
        let (mut counts, source) = progress::combined(
            self.keys.as_ref(),
            self.following.counts(),
            self.chord,
            self.page.tally(),
        );
        if self.following.is_header_complete() {
            counts = progress::with_whole_header(counts, self.keys.as_ref());
        }
        // An app that counts each execution counts a chunk that ran twice as two.
        counts.completed_chunks = match (counts.completed_chunks, counts.total_chunks) {
            (Some(done), Some(total)) => Some(done.min(total)),
            (done, _) => done,
        };
        let lost = self.following.lost_chunks();
        if lost > 0 {
            counts.errors = Some(counts.errors.unwrap_or(0).saturating_add(lost));
            // A worker may have told their end: lost are those that the chord does not count.
            let not_lost = counts.total_chunks.map(|total| total.saturating_sub(lost));
            counts.completed_chunks = counts.completed_chunks.map(|done| done.min(not_lost.unwrap_or(done)));
        }
        (counts, source)
    }

    fn lives(&mut self, vital: Vital, tell: &mut (dyn FnMut(Told) + Send)) {
        self.look_later();
        tell(Told::Vital(vital));
    }

    fn look_later(&mut self) {
        self.look_at = self.errand.look_after.map(|after| Instant::now() + after);
    }

    /// Asks what workers are at of the job.
    fn look(&self) -> UnderWay<'a, AtWork> {
        let (page, known) = (Arc::clone(&self.page), self.known_tasks());
        Box::pin(async move { page.at_work(&known).await })
    }

    /// Tasks whose end an event has told have had time to leave their result.
    fn settle(&mut self, last: LastLook, tell: &mut (dyn FnMut(Told) + Send)) {
        if let Some(result) = last.dispatch.filter(|_| self.dispatch.is_some()) {
            self.take_result(Ok(result), true, tell);
        } else if self.dispatch.is_some()
            && let Some(end) = self.page.end_of(&self.errand.dispatch)
        {
            self.dispatch = None;
            self.see(Input::DispatchEndedUnrecorded(told_by_event(end)), tell);
        }
        if let Some(result) = last.callback.filter(|_| self.callback.is_some()) {
            self.take_result(Ok(result), false, tell);
        } else if self.callback.is_some()
            && let Some(chord_id) = self.following.job().chord_id.clone()
            && let Some(end) = self.page.end_of(&TaskId::from(chord_id))
        {
            self.callback = None;
            self.see(Input::CallbackEndedUnrecorded(told_by_event(end)), tell);
        }
    }

    fn take_search(&mut self, found: Result<Option<LastLook>, Left>, tell: &mut (dyn FnMut(Told) + Send)) {
        self.has_death_to_search = false;
        self.search_at = Instant::now() + QUIET;
        match found {
            Err(Left::Unconsumed(reason)) => self.see(Input::Unconsumed(reason), tell),
            Err(left) => {
                tracing::debug!(?left, root = %self.errand.root, "cannot tell whether anything of the job is left");
                self.search_at = Instant::now() + UNSURE_PAUSE;
            }
            Ok(None) => {}
            Ok(Some(mut last)) => {
                let before = self.following.stage().clone();
                let reading = std::mem::take(&mut last.reading);
                let remains = std::mem::take(&mut last.remains);
                self.settle(last, tell);
                self.take_reading(reading, tell);
                self.look_at_file(tell);
                // Whatever was learnt just now comes first.
                if *self.following.stage() == before {
                    let worker_died = *self.context.worker_deaths.borrow() != self.deaths;
                    let found = Inventory::of(Remains {
                        dispatch: vec![self.errand.root.clone(), self.errand.dispatch.clone()],
                        callback: self.following.named_callback(),
                        worker_died,
                        ..remains
                    });
                    self.see(Input::Gone(found), tell);
                }
            }
        }
    }

    fn watches_file(&self) -> bool {
        *self.following.stage() == Stage::FileTime
    }

    fn look_at_file(&mut self, tell: &mut (dyn FnMut(Told) + Send)) {
        if self.watches_file()
            && let Some((file, before)) = &self.errand.pool_file
            && FileStamp::has_changed(*before, file)
        {
            self.see(Input::FileChanged, tell);
        }
    }

    fn read_progress(&self) -> UnderWay<'a, celery::Result<Reading>> {
        let (client, group, prefix) = (&self.context.celery, self.group.clone(), self.prefix());
        Box::pin(async move { progress::read(client, group.as_ref(), prefix.as_deref()).await })
    }

    /// Reads everything that could name the end, past all subscriptions; also all of the job's tasks, where it is over.
    fn last_look(&self, with_remains: bool) -> UnderWay<'a, celery::Result<LastLook>> {
        let reading = self.read_progress();
        let client = &self.context.celery;
        let results = client.results();
        let dispatch = self.dispatch.is_some().then(|| self.errand.dispatch.clone());
        let callback = self.callback.as_ref().map(|watch| watch.id().clone());
        let (page, listed) = (Arc::clone(&self.page), self.listed.clone());
        Box::pin(async move {
            let dispatch = final_result(&results, dispatch).await?;
            let callback = final_result(&results, callback).await?;
            let remains = if with_remains {
                remains::read(client, &page, listed.as_deref()).await?
            } else {
                Remains::default()
            };
            let reading = match reading.await {
                // Such as a key of another type: it will never be read, and the job has its end all the same.
                Err(error) if !error.is_transient() => {
                    tracing::warn!(%error, "progress cannot be read");
                    Reading::default()
                }
                reading => reading?,
            };
            Ok(LastLook {
                dispatch,
                callback,
                reading,
                remains,
            })
        })
    }

    /// `Some` when nothing of the job is left, with what was read after that was found.
    fn search(&self) -> UnderWay<'a, Result<Option<LastLook>, Left>> {
        let page = Arc::clone(&self.page);
        let known = self.known_tasks();
        let last_look = self.last_look(true);
        Box::pin(async move {
            match page.left(&known).await {
                Left::Something => Ok(None),
                Left::Nothing => last_look
                    .await
                    .map(Some)
                    .map_err(|error| Left::Unsure(error.to_string())),
                left @ (Left::Unsure(_) | Left::Unconsumed(_)) => Err(left),
            }
        })
    }

    fn known_tasks(&self) -> HashSet<TaskId> {
        let callback = self.following.job().chord_id.as_deref().map(TaskId::from);
        let dispatch = [self.errand.root.clone(), self.errand.dispatch.clone()];
        dispatch
            .into_iter()
            .chain(callback)
            .chain(self.listed.iter().flat_map(|listed| listed.all()).cloned())
            .collect()
    }

    fn prefix(&self) -> Option<String> {
        (self.errand.keys_prefix)(self.following.job().job_id.as_ref()?)
    }

    fn progress_due(&self) -> Option<Instant> {
        if self.group.is_none() && self.following.job().job_id.is_none() {
            return None;
        }
        let by_keys_alone = matches!(self.following.stage(), Stage::ProgressKeys { .. });
        let pause = if self.stale || by_keys_alone {
            PROGRESS_PAUSE
        } else {
            PROGRESS_POLL
        };
        // What has never been read is due now.
        Some(self.progress_read_at.map_or(self.begun, |read_at| read_at + pause))
    }

    /// When time itself has something to say; what is under way has not.
    fn wake_at(&self, may_read: bool, may_search: bool, may_settle: bool) -> Instant {
        let polling = (self.watches_file() && self.file_watch.is_none()).then(|| Instant::now() + FILE_POLL);
        let progress = self.progress_due().filter(|_| may_read);
        let search = may_search.then_some(self.search_at);
        let settle = self.settle_at.filter(|_| may_settle);
        let times = [
            self.following.next_tick(),
            progress,
            search,
            settle,
            polling,
            self.look_at,
        ];
        times
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| self.following.deadline())
    }
}

/// Pool slots that do the job's tasks, as far as is known.
fn slots(errand: &Errand<'_>, desk: &Desk) -> u64 {
    errand.slots.unwrap_or_else(|| desk.slots())
}

fn end_of(state: TaskState) -> Option<TaskEnd> {
    match state {
        TaskState::Success(result) => Some(TaskEnd::Succeeded(result)),
        TaskState::Failure(failure) => Some(TaskEnd::Failed(shortened(&failure.to_string(), LONGEST_END))),
        TaskState::Revoked(failure) => Some(TaskEnd::Revoked(shortened(&failure.to_string(), LONGEST_END))),
        TaskState::Started { .. } | TaskState::Retry(_) | TaskState::Custom { .. } => None,
    }
}

fn listed(children: &Children) -> Listed {
    let groups = children.groups.iter();
    Listed {
        groups: groups.clone().map(|group| group.id.as_str().to_owned()).collect(),
        members: groups.flat_map(|group| group.tasks.iter().cloned()).collect(),
        tasks: children.tasks.iter().chain(&children.upstream_tasks).cloned().collect(),
    }
}

fn told_by_event(end: EventEnd) -> TaskEnd {
    match end {
        EventEnd::Succeeded(printed) => TaskEnd::Succeeded(Value::String(printed)),
        EventEnd::Failed(exception) => TaskEnd::Failed(exception),
        EventEnd::Revoked(message) => TaskEnd::Revoked(message),
        EventEnd::Rejected => TaskEnd::Failed("rejected".to_owned()),
    }
}

async fn final_result(results: &Results, task: Option<TaskId>) -> celery::Result<Option<TaskResult>> {
    let Some(task) = task else { return Ok(None) };
    Ok(results.get(&task).await?.filter(|result| result.state.is_final()))
}
