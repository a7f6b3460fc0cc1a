//! One run's facts: typed events, the reducer that folds them into a snapshot, the journal, the outcome.

#[cfg(test)]
mod any_event;
mod directory;
mod end_cause;
mod event;
mod exit;
mod feed;
mod fold;
mod health;
mod history;
mod ids;
mod journal;
mod journal_head;
mod left_out;
mod local_time;
mod no_results;
mod recorder;
mod resumption;
mod retention;
mod sites_outcome;
mod state;
mod totals;
mod trend;
mod usual;

#[cfg(test)]
pub(crate) use any_event::any_event;
pub use directory::RunDirectory;
pub use end_cause::EndCause;
pub use event::*;
pub use exit::describe_exit;
pub use feed::{Feed, Update};
pub use health::{HealthAction, SiteHealth, SiteVitals};
pub use history::{History, PastRun, PastSite, past_runs};
pub use ids::{JobId, RunId, ServiceName, SiteName};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use journal::each_event_of;
pub use journal::{
    JOURNAL_FORMAT, Journal, JournalError, JournalTail, each_event, each_line_told, is_being_written, read_journal,
};
pub use left_out::LeftOutProxies;
pub use local_time::local_time;
pub use recorder::Recorder;
pub use resumption::{JobSoFar, Progress, Resumption, SiteSoFar, Unfinished};
pub use state::{
    Header, LeftoversView, ProxiesView, ProxyCount, Resumed, RunState, ServicePhase, ServiceView, SitePhase, SiteView,
    StopView,
};
pub use totals::Totals;
pub use trend::Trend;
pub use usual::{Usual, is_measure};
