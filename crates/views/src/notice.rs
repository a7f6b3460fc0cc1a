//! Sentences of notices: the events that state a fact of the run with a level.

use std::time::Duration;

use crate::{problem_text, unfinished_run};
use orch_base::text::bytes::shown as bytes;
use orch_base::text::counted::plural;
use orch_base::text::duration_text;
use orch_journal::failure::BUFFERED_OUTPUT_HINT;
use orch_journal::{
    AdmissionChange, EventKind, HeldSites, MemoryShortage, NoticeLevel, RequestAnswer, RequestReceipt, RequestResult,
    SiteAdmission,
};

/// Formats a notice with its level; `None` for an event that is no notice.
pub fn text(kind: &EventKind) -> Option<String> {
    let sentence = sentence(kind)?;
    Some(match kind.level()? {
        NoticeLevel::Info => sentence,
        NoticeLevel::Warning => format!("warning: {sentence}"),
        NoticeLevel::Error => format!("error: {sentence}"),
    })
}

fn sentence(kind: &EventKind) -> Option<String> {
    Some(match kind {
        EventKind::Noticed { level: _, message } => message.clone(),
        EventKind::FreeSiteAwaited { timeout_ms, held } => {
            // Rounded up, so that a wait is never shown as zero.
            let seconds = Duration::from_millis(*timeout_ms).as_secs() + 1;
            format!(
                "waiting up to {} for sites that are held: {}",
                duration_text::shown(Duration::from_secs(seconds)),
                HeldSites::listed(held)
            )
        }
        EventKind::SiteLeaseAwaited { site, holder } => format!("{site} waits for {holder}, which holds its lease"),
        EventKind::SiteLeaseAbandoned {
            site,
            holder,
            messages_removed,
            tasks_revoked,
        } => format!(
            "{site}: {holder} did not release its lease; its remaining work is ended ({messages_removed} messages \
             removed, {tasks_revoked} tasks revoked)"
        ),
        EventKind::SiteRetriesWithheld { site } => format!("{site}: no retries, since it failed in its last runs"),
        EventKind::SiteResultsUnknown { site, reason } => format!("{site}: {reason}"),
        EventKind::SiteChunksLost {
            site,
            loss,
            ends_attempt,
        } => {
            let consequence = match ends_attempt {
                true => "the attempt ends, and another one follows (`on_lost`)",
                false => "its other chunks go on",
            };
            format!("{site}: {}; {consequence}", loss.reason)
        }
        EventKind::SiteMemoryAwaited { site, memory_bytes } => format!(
            "{site} waits for memory: it used {} in earlier runs, more than is available to it now",
            bytes(*memory_bytes)
        ),
        EventKind::MemoryCheckFailed { reason } => format!("sites begin without a memory check: {reason}"),
        EventKind::MemoryGateShut { shortage } => format!("no further site begins: {}", described(shortage)),
        EventKind::MemoryGateOpened => "enough memory is available again: sites begin".to_owned(),
        EventKind::MemoryGateForced { shortage } => format!(
            "a site begins although memory is short, because no running site could free memory: {}",
            described(shortage)
        ),
        EventKind::ProxyRefreshRequested { site } => {
            format!("refreshing the proxies at the request of {site}, once in the run for all sites")
        }
        EventKind::ProxyPoolSuspected { site, run_id } => {
            format!("refreshing the proxies, because {site} had no results with them in run {run_id}")
        }
        EventKind::ProxyPoolUnreadable { file, reason, hint } => format!(
            "the proxy pool {} cannot be read: {reason}; the sites go on; {hint}",
            file.display()
        ),
        EventKind::ProxyRefreshInsufficient {
            usable,
            min_usable,
            reason,
        } => format!("{usable} usable proxies, {min_usable} are wanted: {reason}; the sites go on"),
        EventKind::ProxyRefreshNotStarted { reason } => format!("the proxies are not refreshed: {reason}"),
        EventKind::ProxyShortageAccepted {
            usable,
            min_usable,
            reason,
        } => format!("going on with {usable} usable proxies instead of {min_usable}: {reason}"),
        EventKind::ProxyChunksLost { loss } => {
            format!("the refresh of the proxies: {}; its other chunks go on", loss.reason)
        }
        EventKind::CrashingTaskRevoked { task_id, name, crashes } => format!(
            "task {task_id} ({}) has lost its pool process {crashes} times (was it killed for lack of memory?); orch \
             revokes it and counts it as an error\n  hint:  the worker's log names the signal",
            name.as_deref().unwrap_or("unknown name")
        ),
        EventKind::StaleExecutionsFound { worker, count, tasks } => {
            let first = tasks.first().map(String::as_str).unwrap_or_default();
            match count {
                1 => format!(
                    "worker {worker} lists task {first} as running, but its pool process no longer executes it: the \
                     worker does not learn how the task ended"
                ),
                count => format!(
                    "worker {worker} lists {count} tasks as running that their pool processes no longer execute: the \
                     worker does not learn how they ended; the first is {first}"
                ),
            }
        }
        EventKind::QueueUnconsumed {
            queue,
            waiting,
            was_consumed,
            workers,
        } => {
            let verb = if *waiting == 1 { "waits" } else { "wait" };
            let tasks = plural(*waiting, "task");
            let (any_more, remedy) = match was_consumed {
                false => (
                    "",
                    format!("add `{queue}` to `[celery] queues`, or route the task to a queue that a worker consumes"),
                ),
                true => (
                    " any more",
                    format!(
                        "start its worker again, or add the consumer again: `orch celery control add-consumer {queue}`"
                    ),
                ),
            };
            format!(
                "{tasks} of this run {verb} in the queue `{queue}`, which no worker consumes{any_more}; {workers}\n  \
                 hint:  {remedy}"
            )
        }
        EventKind::UnfinishedRunFound(run) => unfinished_run::notice(run),
        EventKind::LeftoverProcessesEnded(processes) => problem_text::of_leftovers(processes),
        EventKind::RunFileFailed(failure) => problem_text::of_file(failure),
        EventKind::LogProblemFound(problem) => problem_text::of_log(problem),
        EventKind::StateDirectoryLost(loss) => problem_text::of_state_directory(loss),
        EventKind::EnvFileUnread(unread) => unread.to_string(),
        EventKind::GuardProblemFound { problem } => problem_text::of_guard(problem),
        EventKind::ServiceGivenUp {
            service: _,
            reason,
            unread,
        } => {
            let hint = unread
                .as_ref()
                .map_or_else(String::new, |unread| format!("\n  hint:  {unread}"));
            format!("{reason}{hint}\n  the other services keep running")
        }
        EventKind::ServiceLogEmpty { service } => format!("{service}: {BUFFERED_OUTPUT_HINT}"),
        EventKind::RedisProblemFound { problem } => problem_text::of_redis(problem),
        EventKind::WorkerProblemFound { problem } => problem_text::of_workers(problem),
        EventKind::ConsumerReturned { queues } => {
            format!("a worker consumes the queue `{}` again", queues.join("`, `"))
        }
        EventKind::AppProblemFound { problem } => problem_text::of_app(problem),
        EventKind::MessagesRestored { requeued, acknowledged } => {
            problem_text::of_restored_messages(*requeued, *acknowledged)
        }
        EventKind::RequestReceived(RequestReceipt { id: _, by, verb }) => format!("{by} asked to {verb}"),
        EventKind::RequestAnswered(RequestAnswer { id: _, result, detail }) => match result {
            // The events of the effect follow.
            RequestResult::Done => return None,
            RequestResult::NothingToDo => format!("nothing to do: {detail}"),
            RequestResult::Refused => format!("request refused: {detail}"),
        },
        EventKind::SiteAdmissionChanged(AdmissionChange { admission }) => match admission {
            SiteAdmission::Open => "sites begin again".to_owned(),
            SiteAdmission::Paused => "no further site begins until `orch resume`; running sites go on".to_owned(),
            SiteAdmission::Draining => {
                "no further site begins; the run ends when the running sites have ended".to_owned()
            }
        },
        // No `_`: the compiler rejects a notice without a sentence.
        orch_journal::no_notice!() => return None,
    })
}

fn described(shortage: &MemoryShortage) -> String {
    match shortage {
        MemoryShortage::Low { available, reserve } => format!(
            "{} of memory are available, `memory_reserve` is {}",
            bytes(*available),
            bytes(*reserve)
        ),
        MemoryShortage::TooLittle { left } => {
            format!("it used more in earlier runs than the {} that are left", bytes(*left))
        }
        MemoryShortage::Pressed { percent } => {
            format!("processes waited for memory in {percent:.0} % of the last ten seconds")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_journal::{ChunkLoss, SiteHolder, local_time};

    fn assert_texts(notices: impl IntoIterator<Item = (EventKind, String)>) {
        for (kind, expected) in notices {
            assert_eq!(text(&kind), Some(expected), "{kind:?}");
        }
    }

    fn run(run_id: &str) -> SiteHolder {
        SiteHolder::Run {
            run_id: run_id.into(),
            host: "h".to_owned(),
            pid: 7,
            started_at: 0,
        }
    }

    #[test]
    fn notices_of_leases_name_the_holders() {
        let since = local_time(0);
        let by = |run_id| format!("run {run_id} on host h (pid 7, since {since})");
        let held = |sites: &[&str], holder| HeldSites {
            sites: sites.iter().map(|site| (*site).into()).collect(),
            holder,
        };
        let unknown = SiteHolder::Unknown { value: "7".to_owned() };
        assert_texts([
            (
                EventKind::FreeSiteAwaited {
                    timeout_ms: 119_900,
                    held: vec![held(&["a", "c"], run("x")), held(&["b"], unknown)],
                },
                format!(
                    "waiting up to 2m for sites that are held: a, c by {}; b by an unknown holder (the lease's value is \
                     \"7\")",
                    by("x")
                ),
            ),
            (
                EventKind::SiteLeaseAwaited {
                    site: "shop".into(),
                    holder: run("x"),
                },
                format!("shop waits for {}, which holds its lease", by("x")),
            ),
            (
                EventKind::SiteLeaseAbandoned {
                    site: "shop".into(),
                    holder: run("x"),
                    messages_removed: 3,
                    tasks_revoked: 1,
                },
                format!(
                    "shop: {} did not release its lease; its remaining work is ended (3 messages removed, 1 tasks \
                     revoked)",
                    by("x")
                ),
            ),
        ]);
    }

    #[test]
    fn notices_of_sites_begin_with_the_site() {
        let lost = |ends_attempt| EventKind::SiteChunksLost {
            site: "shop".into(),
            loss: ChunkLoss {
                reason: "1 of its 9 chunks is lost".to_owned(),
                ..ChunkLoss::default()
            },
            ends_attempt,
        };
        let texts = [
            (
                EventKind::SiteRetriesWithheld { site: "shop".into() },
                "shop: no retries, since it failed in its last runs",
            ),
            (
                EventKind::SiteResultsUnknown {
                    site: "shop".into(),
                    reason: "the number of results is not known, `min_results` is 50".to_owned(),
                },
                "warning: shop: the number of results is not known, `min_results` is 50",
            ),
            (
                lost(true),
                "warning: shop: 1 of its 9 chunks is lost; the attempt ends, and another one follows (`on_lost`)",
            ),
            (
                lost(false),
                "warning: shop: 1 of its 9 chunks is lost; its other chunks go on",
            ),
            (
                EventKind::SiteMemoryAwaited {
                    site: "fat".into(),
                    memory_bytes: 1 << 60,
                },
                "fat waits for memory: it used 1073741824.0 GiB in earlier runs, more than is available to it now",
            ),
        ];
        assert_texts(texts.map(|(kind, text)| (kind, text.to_owned())));
    }

    #[test]
    fn notices_of_memory_give_the_shortage() {
        let shut = |shortage| EventKind::MemoryGateShut { shortage };
        let texts = [
            (
                EventKind::MemoryCheckFailed {
                    reason: "no /proc".to_owned(),
                },
                "warning: sites begin without a memory check: no /proc",
            ),
            (
                shut(MemoryShortage::Low {
                    available: 1 << 30,
                    reserve: 1000 << 40,
                }),
                "warning: no further site begins: 1.0 GiB of memory are available, `memory_reserve` is 1024000.0 GiB",
            ),
            (
                shut(MemoryShortage::Pressed { percent: 20.4 }),
                "warning: no further site begins: processes waited for memory in 20 % of the last ten seconds",
            ),
            (
                EventKind::MemoryGateForced {
                    shortage: MemoryShortage::TooLittle { left: 1 << 30 },
                },
                "warning: a site begins although memory is short, because no running site could free memory: it used \
                 more in earlier runs than the 1.0 GiB that are left",
            ),
            (
                EventKind::MemoryGateOpened,
                "enough memory is available again: sites begin",
            ),
        ];
        assert_texts(texts.map(|(kind, text)| (kind, text.to_owned())));
    }

    #[test]
    fn notices_of_proxies_say_how_the_run_goes_on() {
        let reason = || "the refresh failed".to_owned();
        let texts = [
            (
                EventKind::ProxyRefreshRequested { site: "shop".into() },
                "refreshing the proxies at the request of shop, once in the run for all sites",
            ),
            (
                EventKind::ProxyPoolSuspected {
                    site: "shop".into(),
                    run_id: "r".into(),
                },
                "refreshing the proxies, because shop had no results with them in run r",
            ),
            (
                EventKind::ProxyPoolUnreadable {
                    file: "/p.json".into(),
                    reason: "it is a directory".to_owned(),
                    hint: "remove it".to_owned(),
                },
                "warning: the proxy pool /p.json cannot be read: it is a directory; the sites go on; remove it",
            ),
            (
                EventKind::ProxyRefreshInsufficient {
                    usable: 3,
                    min_usable: 10,
                    reason: reason(),
                },
                "warning: 3 usable proxies, 10 are wanted: the refresh failed; the sites go on",
            ),
            (
                EventKind::ProxyRefreshNotStarted { reason: reason() },
                "warning: the proxies are not refreshed: the refresh failed",
            ),
            (
                EventKind::ProxyShortageAccepted {
                    usable: 0,
                    min_usable: 10,
                    reason: reason(),
                },
                "warning: going on with 0 usable proxies instead of 10: the refresh failed",
            ),
            (
                EventKind::ProxyChunksLost {
                    loss: ChunkLoss {
                        reason: "1 of its 9 chunks is lost".to_owned(),
                        ..ChunkLoss::default()
                    },
                },
                "warning: the refresh of the proxies: 1 of its 9 chunks is lost; its other chunks go on",
            ),
        ];
        assert_texts(texts.map(|(kind, text)| (kind, text.to_owned())));
    }

    #[test]
    fn notices_of_tasks_name_a_task_or_a_queue_and_a_remedy() {
        let revoked = |name: Option<&str>| EventKind::CrashingTaskRevoked {
            task_id: "t".to_owned(),
            name: name.map(str::to_owned),
            crashes: 3,
        };
        let stale = |count, tasks: &[&str]| EventKind::StaleExecutionsFound {
            worker: "orch@vm".to_owned(),
            count,
            tasks: tasks.iter().map(|task| (*task).to_owned()).collect(),
        };
        let unconsumed = |waiting, was_consumed| EventKind::QueueUnconsumed {
            queue: "slow".to_owned(),
            waiting,
            was_consumed,
            workers: "worker w1@h consumes celery".to_owned(),
        };
        let texts = [
            (
                revoked(Some("app.dies")),
                "warning: task t (app.dies) has lost its pool process 3 times (was it killed for lack of memory?); orch \
                 revokes it and counts it as an error\n  hint:  the worker's log names the signal",
            ),
            (
                revoked(None),
                "warning: task t (unknown name) has lost its pool process 3 times (was it killed for lack of memory?); \
                 orch revokes it and counts it as an error\n  hint:  the worker's log names the signal",
            ),
            (
                stale(1, &["a"]),
                "warning: worker orch@vm lists task a as running, but its pool process no longer executes it: the \
                 worker does not learn how the task ended",
            ),
            (
                stale(20, &["a", "b"]),
                "warning: worker orch@vm lists 20 tasks as running that their pool processes no longer execute: the \
                 worker does not learn how they ended; the first is a",
            ),
            (
                unconsumed(1, false),
                "warning: 1 task of this run waits in the queue `slow`, which no worker consumes; worker w1@h consumes \
                 celery\n  hint:  add `slow` to `[celery] queues`, or route the task to a queue that a worker consumes",
            ),
            (
                unconsumed(5, true),
                "warning: 5 tasks of this run wait in the queue `slow`, which no worker consumes any more; worker w1@h \
                 consumes celery\n  hint:  start its worker again, or add the consumer again: `orch celery control \
                 add-consumer slow`",
            ),
        ];
        assert_texts(texts.map(|(kind, text)| (kind, text.to_owned())));
    }
}
