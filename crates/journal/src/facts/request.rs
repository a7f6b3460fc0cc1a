//! Requests of other commands to a run, and the run's answers, as events state them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{RequestId, ServiceName, SiteName};

/// Request that another command has sent to the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestReceipt {
    pub id: RequestId,
    pub by: RequestSender,
    #[serde(flatten)]
    pub verb: RequestVerb,
}

/// Process that sent a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSender {
    /// Pid of the requesting process.
    pub pid: i32,
    pub user: String,
}

/// Writes for example `pid 12 of user alice`.
impl fmt::Display for RequestSender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pid {} of user {}", self.pid, self.user)
    }
}

/// Action that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum RequestVerb {
    /// End the service, and keep it down until a request starts it.
    Stop { service: ServiceName },
    /// Start a service that is down.
    Start { service: ServiceName },
    /// End the service and start it again.
    Restart { service: ServiceName },
    /// End the work of one site.
    StopSite { site: SiteName },
    /// Begin a site that waits, before all others.
    StartSite { site: SiteName },
    /// Begin a site again that has ended.
    RetrySite { site: SiteName },
    /// Begin no further site.
    Pause,
    /// Let sites begin again.
    Resume,
    /// Begin no further site, and end the run when the sites that have begun have ended.
    Drain,
    /// Refresh the proxies while the sites run.
    RefreshProxies,
    /// End the run.
    Down,
}

impl RequestVerb {
    /// Names of all verbs, for the answer to an unknown one.
    pub const NAMES: [&'static str; 11] = [
        "stop",
        "start",
        "restart",
        "stop_site",
        "start_site",
        "retry_site",
        "pause",
        "resume",
        "drain",
        "refresh_proxies",
        "down",
    ];
}

/// Writes the verb as a person asks: `stop redis`.
impl fmt::Display for RequestVerb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop { service } => write!(formatter, "stop {service}"),
            Self::Start { service } => write!(formatter, "start {service}"),
            Self::Restart { service } => write!(formatter, "restart {service}"),
            Self::StopSite { site } => write!(formatter, "stop site {site}"),
            Self::StartSite { site } => write!(formatter, "start site {site}"),
            Self::RetrySite { site } => write!(formatter, "retry site {site}"),
            Self::Pause => formatter.write_str("pause"),
            Self::Resume => formatter.write_str("resume"),
            Self::Drain => formatter.write_str("drain"),
            Self::RefreshProxies => formatter.write_str("refresh the proxies"),
            Self::Down => formatter.write_str("end the run"),
        }
    }
}

/// Answer of the run to one request. Each request has exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestAnswer {
    /// The request; `None` for a line without a readable id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    pub result: RequestResult,
    /// Description of the effect, or the reason why there is none.
    pub detail: String,
}

/// Decision of the run about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestResult {
    /// The run does as asked; later events report the effect.
    Done,
    /// The run is already in the requested state.
    NothingToDo,
    /// The run does not do as asked.
    Refused,
}
