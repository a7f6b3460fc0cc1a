//! The receiving side: watches the file of requests, records each request, and passes it to the part of the run that
//! answers.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::request_line::RefusedLine;
use super::request_reader::{RequestOrRefusal, RequestReader};
use orch_base::files::watch::FileWatch;
use orch_journal::{
    EventKind, PendingRequest, Recorder, RequestAnswer, RequestReceipt, RequestResult, RequestVerb, RunCommand,
    RunFile, RunFileFailure, SiteAdmission, SiteName, SitePhase,
};
use orch_scrape::jobs::{SiteRequest, SiteRequests, StopRequests};
use orch_supervisor::{ServiceRequests, ServiceVerb};

/// Time between two reads of a file that cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Number of lines without a valid request that have an answer of their own in one read; further ones are counted.
const MAX_REFUSALS: usize = 20;

/// Answer of a run without sites.
const NO_SITES: &str = "`orch up` runs no sites";

/// Receiver of the requests to one run.
pub(crate) struct RequestReceiver {
    pub recorder: Recorder,
    pub command: RunCommand,
    pub services: ServiceRequests,
    pub site_stops: StopRequests,
    pub sites: SiteRequests,
    /// Set when the end of the run is requested.
    pub end: watch::Sender<bool>,
}

impl RequestReceiver {
    /// Receives requests for as long as the future is polled. Existing requests come first.
    pub async fn receive(&self, reader: &mut RequestReader) -> Infallible {
        // The watch ignores writes to files that stay open, such as the run's journal in the same directory.
        let mut watch = FileWatch::of_closed_file(reader.file())
            .inspect_err(|error| tracing::debug!(%error, "could not watch the file of requests; orch polls it"))
            .ok();
        let mut reported = None;
        loop {
            self.read(reader, &mut reported, |request| self.handle(request));
            let Some(open) = &mut watch else {
                sleep(POLL_INTERVAL).await;
                continue;
            };
            if open.changed().await.is_err() {
                watch = None;
            }
        }
    }

    /// Refuses the requests that came too late to be handled.
    pub fn refuse_late_requests(recorder: &Recorder, reader: &mut RequestReader) {
        let mut refusals = LineRefusals::default();
        let read = reader.read(|line| match line {
            // A dropped request is refused.
            Ok(request) => drop(PendingRequest::receive(recorder, request)),
            Err(refused) => refusals.add(recorder, refused),
        });
        refusals.finish(recorder);
        if let Err(error) = read {
            tracing::warn!(%error, "could not read the last requests");
        }
    }

    fn read(&self, reader: &mut RequestReader, reported: &mut Option<String>, each: impl Fn(RequestReceipt)) {
        let mut refusals = LineRefusals::default();
        let read = reader.read(|line: RequestOrRefusal| match line {
            Ok(request) => each(request),
            Err(refused) => refusals.add(&self.recorder, refused),
        });
        refusals.finish(&self.recorder);
        let failure = read.err().map(|error| error.to_string());
        // Once for each cause: the file may change again and again.
        if let Some(reason) = &failure
            && *reported != failure
        {
            self.recorder.emit(EventKind::RunFileFailed(RunFileFailure {
                file: RunFile::Requests,
                path: reader.file().to_owned(),
                reason: reason.clone(),
            }));
        }
        *reported = failure;
    }

    /// Records a request, and answers it or passes it on.
    fn handle(&self, request: RequestReceipt) {
        let by = request.by.clone();
        let verb = request.verb.clone();
        let pending = PendingRequest::receive(&self.recorder, request);
        match verb {
            RequestVerb::Stop { service } => self.services.send(service, ServiceVerb::Stop, pending),
            RequestVerb::Start { service } => self.services.send(service, ServiceVerb::Start, pending),
            RequestVerb::Restart { service } => self.services.send(service, ServiceVerb::Restart, pending),
            RequestVerb::StopSite { site } => match self.why_site_cannot_stop(&site) {
                Some((result, reason)) => pending.answer(result, reason),
                None => {
                    pending.done(format!("{site} is being stopped"));
                    self.site_stops.add(site, by);
                }
            },
            RequestVerb::StartSite { site } => self.pass_on(SiteRequest::Start(site), pending),
            RequestVerb::RetrySite { site } => self.pass_on(SiteRequest::Retry(site), pending),
            RequestVerb::Pause => self.pass_on(SiteRequest::Admit(SiteAdmission::Paused), pending),
            RequestVerb::Resume => self.pass_on(SiteRequest::Admit(SiteAdmission::Open), pending),
            RequestVerb::Drain => self.pass_on(SiteRequest::Admit(SiteAdmission::Draining), pending),
            RequestVerb::RefreshProxies => self.pass_on(SiteRequest::RefreshProxies, pending),
            RequestVerb::Down => match self.end.send_replace(true) {
                false => pending.done("the run is being stopped"),
                true => pending.nothing_to_do("the run is already being stopped"),
            },
        }
    }

    /// Passes a request on to the sites of the run.
    fn pass_on(&self, request: SiteRequest, pending: PendingRequest) {
        match self.command {
            RunCommand::Run => self.sites.send(request, pending, &self.recorder),
            RunCommand::Up => pending.refuse(NO_SITES),
        }
    }

    /// Returns the answer to a request to stop a site that is not stopped.
    fn why_site_cannot_stop(&self, site: &SiteName) -> Option<(RequestResult, String)> {
        if self.command != RunCommand::Run {
            return Some((RequestResult::Refused, NO_SITES.to_owned()));
        }
        let phase = self
            .recorder
            .with_state(|state| state.site_named(site).map(|site| site.phase));
        match phase {
            None => Some((RequestResult::Refused, format!("the run has no site {site}"))),
            Some(SitePhase::Ended(_)) => Some((RequestResult::NothingToDo, format!("{site} has already ended"))),
            Some(_) if self.site_stops.is_requested(site) => {
                let reason = format!("{site} is already being stopped");
                Some((RequestResult::NothingToDo, reason))
            }
            Some(_) => None,
        }
    }
}

/// Lines of one read that are no requests.
#[derive(Default)]
struct LineRefusals {
    answered: usize,
    /// Number of lines without an answer of their own, with the reason of the first.
    further: usize,
    first: Option<String>,
}

impl LineRefusals {
    fn add(&mut self, recorder: &Recorder, refused: RefusedLine) {
        if self.answered == MAX_REFUSALS {
            self.further += 1;
            self.first.get_or_insert(refused.reason);
            return;
        }
        self.answered += 1;
        let detail = format!("a line in the file of requests is not understood: {}", refused.reason);
        recorder.emit(refusal(refused.id, detail));
    }

    fn finish(self, recorder: &Recorder) {
        if let Some(first) = self.first {
            let count = self.further;
            let detail = format!("{count} more lines in the file of requests are not understood; the first: {first}");
            recorder.emit(refusal(None, detail));
        }
    }
}

fn refusal(id: Option<orch_journal::RequestId>, detail: String) -> EventKind {
    EventKind::RequestAnswered(RequestAnswer {
        id,
        result: RequestResult::Refused,
        detail,
    })
}
