//! Values of the notices that services, the guard and the start of a run emit: typed facts; views have the sentences.

pub(crate) mod admission_change;
pub(crate) mod app_problem;
pub(crate) mod failed_task;
pub(crate) mod guard_problem;
pub(crate) mod leftover_process;
pub(crate) mod log_problem;
pub(crate) mod proxy_pool_count;
pub(crate) mod proxy_refresh_job;
pub(crate) mod redis_leftovers;
pub(crate) mod redis_problem;
pub(crate) mod request;
pub(crate) mod run_file;
pub(crate) mod run_start;
pub(crate) mod site_errors;
pub(crate) mod state_directory_loss;
pub(crate) mod state_snapshot;
pub(crate) mod unfinished_run;
pub(crate) mod unread_env_file;
pub(crate) mod worker_problem;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::guard_problem::GuardProblem;
    use super::request::{RequestReceipt, RequestSender, RequestVerb};
    use super::run_file::{RunFile, RunFileFailure};
    use super::unfinished_run::{RunInterruption, UnfinishedRun};
    use super::worker_problem::WorkerProblem;
    use crate::event::EventKind;
    use crate::event_values::{NoticeLevel, RunCommand};
    use crate::ids::{ServiceName, SiteName};

    #[test]
    fn json_has_the_fields_of_a_fact_beside_the_kind_or_below_the_problem() {
        let problem = GuardProblem::SignalIgnored { signal: 10, sender: 7 };
        let silent = WorkerProblem::AcknowledgementUnknown { reason: None };
        for (kind, expected) in [
            (
                EventKind::UnfinishedRunFound(UnfinishedRun {
                    run_id: "a1".into(),
                    how: RunInterruption::Died,
                    ended_at: 5,
                    complete: 1,
                    sites: 2,
                }),
                json!({"event": "unfinished_run_found", "run_id": "a1", "how": "died", "ended_at": 5, "complete": 1, "sites": 2}),
            ),
            (
                EventKind::RunFileFailed(RunFileFailure {
                    file: RunFile::EndedInstance,
                    path: "/s".into(),
                    reason: "no".to_owned(),
                }),
                json!({"event": "run_file_failed", "file": "ended_instance", "path": "/s", "reason": "no"}),
            ),
            (
                EventKind::GuardProblemFound { problem },
                json!({"event": "guard_problem_found", "problem": {"signal_ignored": {"signal": 10, "sender": 7}}}),
            ),
            (
                EventKind::WorkerProblemFound { problem: silent },
                json!({"event": "worker_problem_found", "problem": {"acknowledgement_unknown": {}}}),
            ),
        ] {
            assert_eq!(serde_json::to_value(&kind).unwrap(), expected);
            assert_eq!(serde_json::from_value::<EventKind>(expected).unwrap(), kind);
        }
    }

    #[test]
    fn values_of_earlier_versions_are_read() {
        let noticed = json!({"event": "noticed", "level": "warning", "message": "the guard ignored SIGUSR1"});
        let read: EventKind = serde_json::from_value(noticed).unwrap();
        assert_eq!(read.level(), Some(NoticeLevel::Warning));
        let command: RunCommand = serde_json::from_value(Value::from("prepare")).unwrap();
        assert_eq!(command, RunCommand::Up);
    }

    #[test]
    fn a_receipt_has_the_fields_of_its_line() {
        let receipt = EventKind::RequestReceived(RequestReceipt {
            id: "a1".into(),
            by: RequestSender {
                pid: 12,
                user: "alice".to_owned(),
            },
            verb: RequestVerb::Stop {
                service: "redis".into(),
            },
        });
        let expected = json!({
            "event": "request_received", "id": "a1", "by": {"pid": 12, "user": "alice"}, "verb": "stop", "service": "redis"
        });
        assert_eq!(serde_json::to_value(&receipt).unwrap(), expected);
        assert_eq!(serde_json::from_value::<EventKind>(expected).unwrap(), receipt);
    }

    #[test]
    fn names_are_those_of_the_verbs() {
        let (service, site) = (ServiceName::from("web"), SiteName::from("books"));
        let verbs = [
            RequestVerb::Stop {
                service: service.clone(),
            },
            RequestVerb::Start {
                service: service.clone(),
            },
            RequestVerb::Restart { service },
            RequestVerb::StopSite { site: site.clone() },
            RequestVerb::StartSite { site: site.clone() },
            RequestVerb::RetrySite { site },
            RequestVerb::Pause,
            RequestVerb::Resume,
            RequestVerb::Drain,
            RequestVerb::RefreshProxies,
            RequestVerb::Down,
        ];
        let names = verbs.map(|verb| serde_json::to_value(verb).unwrap()["verb"].clone());
        assert_eq!(names, RequestVerb::NAMES.map(Value::from));
    }
}
