//! Facts about the kinds of events: the site that an event concerns, the notices, and their levels.

use std::time::Duration;

use crate::event::EventKind;
use crate::event_values::NoticeLevel;
use crate::ids::SiteName;

/// Matches the notices of level info, except [`EventKind::Noticed`].
#[doc(hidden)]
#[macro_export]
macro_rules! info_notice {
    () => {
        $crate::EventKind::FreeSiteAwaited { .. }
            | $crate::EventKind::SiteLeaseAwaited { .. }
            | $crate::EventKind::SiteLeaseAbandoned { .. }
            | $crate::EventKind::SiteRetriesWithheld { .. }
            | $crate::EventKind::SiteMemoryAwaited { .. }
            | $crate::EventKind::MemoryGateOpened { .. }
            | $crate::EventKind::ProxyRefreshRequested { .. }
            | $crate::EventKind::ProxyPoolSuspected { .. }
            | $crate::EventKind::UnfinishedRunFound { .. }
            | $crate::EventKind::ConsumerReturned { .. }
            | $crate::EventKind::MessagesRestored { .. }
            | $crate::EventKind::RequestReceived(_)
            | $crate::EventKind::RequestAnswered(_)
            | $crate::EventKind::SiteAdmissionChanged(_)
    };
}

/// Matches the notices of level warning, except [`EventKind::Noticed`].
#[doc(hidden)]
#[macro_export]
macro_rules! warning_notice {
    () => {
        $crate::EventKind::SiteResultsUnknown { .. }
            | $crate::EventKind::SiteChunksLost { .. }
            | $crate::EventKind::MemoryCheckFailed { .. }
            | $crate::EventKind::MemoryGateShut { .. }
            | $crate::EventKind::MemoryGateForced { .. }
            | $crate::EventKind::ProxyPoolUnreadable { .. }
            | $crate::EventKind::ProxyRefreshInsufficient { .. }
            | $crate::EventKind::ProxyRefreshNotStarted { .. }
            | $crate::EventKind::ProxyShortageAccepted { .. }
            | $crate::EventKind::ProxyChunksLost { .. }
            | $crate::EventKind::CrashingTaskRevoked { .. }
            | $crate::EventKind::StaleExecutionsFound { .. }
            | $crate::EventKind::QueueUnconsumed { .. }
            | $crate::EventKind::LeftoverProcessesEnded { .. }
            | $crate::EventKind::EnvFileUnread { .. }
            | $crate::EventKind::ServiceLogEmpty { .. }
            | $crate::EventKind::RedisProblemFound { .. }
            | $crate::EventKind::LogProblemFound { .. }
    };
}

/// Matches the notices of level error, except [`EventKind::Noticed`].
#[doc(hidden)]
#[macro_export]
macro_rules! error_notice {
    () => {
        $crate::EventKind::StateDirectoryLost { .. } | $crate::EventKind::ServiceGivenUp { .. }
    };
}

/// Matches the notices whose fields decide the level.
#[doc(hidden)]
#[macro_export]
macro_rules! graded_notice {
    () => {
        $crate::EventKind::Noticed { .. }
            | $crate::EventKind::RunFileFailed { .. }
            | $crate::EventKind::GuardProblemFound { .. }
            | $crate::EventKind::WorkerProblemFound { .. }
            | $crate::EventKind::AppProblemFound { .. }
    };
}

/// Matches every notice. A match over all kinds of events has one arm for the notices and stays exhaustive: the compiler
/// rejects a new kind that stands neither here nor in an arm of its own.
#[macro_export]
macro_rules! any_notice {
    () => {
        $crate::info_notice!() | $crate::warning_notice!() | $crate::error_notice!() | $crate::graded_notice!()
    };
}

/// Matches every kind of event that is no notice. A match with one arm for each notice ends with this pattern instead of
/// `_`: the compiler then rejects a notice without an arm.
#[doc(hidden)]
#[macro_export]
macro_rules! no_notice {
    () => {
        $crate::EventKind::RunStarted(_)
            | $crate::EventKind::StateTaken(_)
            | $crate::EventKind::StopStarted { .. }
            | $crate::EventKind::StopHurried
            | $crate::EventKind::StopFinished { .. }
            | $crate::EventKind::RunFinished { .. }
            | $crate::EventKind::ServiceStarting { .. }
            | $crate::EventKind::ServiceSpawned { .. }
            | $crate::EventKind::ServiceReady { .. }
            | $crate::EventKind::ServiceReused { .. }
            | $crate::EventKind::ServiceCompleted { .. }
            | $crate::EventKind::ServiceUnhealthy { .. }
            | $crate::EventKind::ServicePeaked { .. }
            | $crate::EventKind::ConsumerAdded { .. }
            | $crate::EventKind::ServiceExited { .. }
            | $crate::EventKind::ServiceRestarting { .. }
            | $crate::EventKind::ServiceFailed { .. }
            | $crate::EventKind::ServiceStopping { .. }
            | $crate::EventKind::ServiceStopped { .. }
            | $crate::EventKind::LeftoversFound(_)
            | $crate::EventKind::ProxiesCounted(_)
            | $crate::EventKind::ProxyRefreshStarted { .. }
            | $crate::EventKind::ProxyRefreshDispatched(_)
            | $crate::EventKind::ProxyStageEntered { .. }
            | $crate::EventKind::ProxyRefreshProgressed { .. }
            | $crate::EventKind::ProxyRefreshFinished { .. }
            | $crate::EventKind::ProxyRefreshFailed { .. }
            | $crate::EventKind::EndExpected { .. }
            | $crate::EventKind::SiteWaiting { .. }
            | $crate::EventKind::SiteQueued { .. }
            | $crate::EventKind::SiteDispatched { .. }
            | $crate::EventKind::SitePickedUp { .. }
            | $crate::EventKind::SiteJobStarted { .. }
            | $crate::EventKind::SiteStageEntered { .. }
            | $crate::EventKind::SiteProgressed { .. }
            | $crate::EventKind::SiteChordCompleted { .. }
            | $crate::EventKind::SiteVerdict { .. }
            | $crate::EventKind::SiteStopRequested { .. }
            | $crate::EventKind::TaskFailed(_)
            | $crate::EventKind::SiteErrorsCounted(_)
            | $crate::EventKind::SiteRetrying { .. }
            | $crate::EventKind::SiteFinished { .. }
    };
}

impl EventKind {
    /// Returns the site that the event concerns, if there is one.
    pub fn site(&self) -> Option<&SiteName> {
        match self {
            EventKind::SiteWaiting { site, .. }
            | EventKind::SiteQueued { site }
            | EventKind::SiteDispatched { site, .. }
            | EventKind::SitePickedUp { site, .. }
            | EventKind::SiteJobStarted { site, .. }
            | EventKind::SiteStageEntered { site, .. }
            | EventKind::SiteProgressed { site, .. }
            | EventKind::SiteChordCompleted { site, .. }
            | EventKind::SiteVerdict { site, .. }
            | EventKind::SiteStopRequested { site, .. }
            | EventKind::SiteRetrying { site, .. }
            | EventKind::SiteFinished { site, .. }
            | EventKind::SiteLeaseAwaited { site, .. }
            | EventKind::SiteLeaseAbandoned { site, .. }
            | EventKind::SiteRetriesWithheld { site }
            | EventKind::SiteResultsUnknown { site, .. }
            | EventKind::SiteChunksLost { site, .. }
            | EventKind::SiteMemoryAwaited { site, .. }
            | EventKind::ProxyRefreshRequested { site } => Some(site),
            EventKind::TaskFailed(failed) => failed.site.as_ref(),
            EventKind::SiteErrorsCounted(counted) => Some(&counted.site),
            EventKind::RunStarted(_)
            | EventKind::StateTaken(_)
            | EventKind::Noticed { .. }
            | EventKind::StopStarted { .. }
            | EventKind::StopHurried
            | EventKind::StopFinished { .. }
            | EventKind::RunFinished { .. }
            | EventKind::ServiceStarting { .. }
            | EventKind::ServiceSpawned { .. }
            | EventKind::ServiceReady { .. }
            | EventKind::ServiceReused { .. }
            | EventKind::ServiceCompleted { .. }
            | EventKind::ServiceUnhealthy { .. }
            | EventKind::ConsumerAdded { .. }
            | EventKind::ServiceExited { .. }
            | EventKind::ServiceRestarting { .. }
            | EventKind::ServiceFailed { .. }
            | EventKind::ServiceStopping { .. }
            | EventKind::ServiceStopped { .. }
            | EventKind::ServicePeaked { .. }
            | EventKind::LeftoversFound(_)
            | EventKind::ProxiesCounted(_)
            | EventKind::ProxyRefreshStarted { .. }
            | EventKind::ProxyRefreshDispatched(_)
            | EventKind::ProxyStageEntered { .. }
            | EventKind::ProxyRefreshProgressed { .. }
            | EventKind::ProxyRefreshFinished { .. }
            | EventKind::ProxyRefreshFailed { .. }
            | EventKind::EndExpected { .. }
            | EventKind::FreeSiteAwaited { .. }
            | EventKind::MemoryCheckFailed { .. }
            | EventKind::MemoryGateShut { .. }
            | EventKind::MemoryGateOpened
            | EventKind::MemoryGateForced { .. }
            // Concerns the site of an earlier run.
            | EventKind::ProxyPoolSuspected { .. }
            | EventKind::ProxyPoolUnreadable { .. }
            | EventKind::ProxyRefreshInsufficient { .. }
            | EventKind::ProxyRefreshNotStarted { .. }
            | EventKind::ProxyShortageAccepted { .. }
            | EventKind::ProxyChunksLost { .. }
            | EventKind::CrashingTaskRevoked { .. }
            | EventKind::StaleExecutionsFound { .. }
            | EventKind::QueueUnconsumed { .. }
            | EventKind::UnfinishedRunFound { .. }
            | EventKind::LeftoverProcessesEnded { .. }
            | EventKind::RunFileFailed { .. }
            | EventKind::LogProblemFound { .. }
            | EventKind::StateDirectoryLost { .. }
            | EventKind::EnvFileUnread { .. }
            | EventKind::GuardProblemFound { .. }
            | EventKind::ServiceGivenUp { .. }
            | EventKind::ServiceLogEmpty { .. }
            | EventKind::RedisProblemFound { .. }
            | EventKind::WorkerProblemFound { .. }
            | EventKind::ConsumerReturned { .. }
            | EventKind::AppProblemFound { .. }
            | EventKind::MessagesRestored { .. }
            | EventKind::RequestReceived(_)
            | EventKind::RequestAnswered(_)
            | EventKind::SiteAdmissionChanged(_) => None,
        }
    }

    /// Returns the level of a notice; `None` for an event that is no notice.
    pub fn level(&self) -> Option<NoticeLevel> {
        match self {
            EventKind::Noticed { level, message: _ } => Some(*level),
            EventKind::RunFileFailed(failure) => Some(failure.level()),
            EventKind::GuardProblemFound { problem } => Some(problem.level()),
            EventKind::WorkerProblemFound { problem } => Some(problem.level()),
            EventKind::AppProblemFound { problem } => Some(problem.level()),
            info_notice!() => Some(NoticeLevel::Info),
            warning_notice!() => Some(NoticeLevel::Warning),
            error_notice!() => Some(NoticeLevel::Error),
            no_notice!() => None,
        }
    }

    /// Converts `duration` to whole milliseconds, the unit of events.
    pub fn millis(duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }
}
