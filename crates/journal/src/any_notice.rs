//! Generators of notices for property tests: leases and sites, memory, proxies and tasks.

use proptest::option;
use proptest::prelude::*;

use crate::any_values::{site, text};
use crate::chunk_loss::ChunkLoss;
use crate::event::EventKind;
use crate::ids::RunId;
use crate::memory_shortage::MemoryShortage;
use crate::site_holder::{HeldSites, SiteHolder};

fn chunk_loss() -> impl Strategy<Value = ChunkLoss> {
    let tasks = proptest::collection::vec(text(), 0..4);
    (any::<(u64, u64, u64)>(), tasks, text()).prop_map(|((lost, failed, total_chunks), tasks, reason)| ChunkLoss {
        lost,
        failed,
        total_chunks,
        tasks,
        reason,
    })
}

fn holder() -> BoxedStrategy<SiteHolder> {
    prop_oneof![
        (text(), text(), any::<(i32, u64)>()).prop_map(|(run_id, host, (pid, started_at))| SiteHolder::Run {
            run_id: RunId::new(run_id),
            host,
            pid,
            started_at,
        }),
        text().prop_map(|value| SiteHolder::Unknown { value }),
    ]
    .boxed()
}

fn shortage() -> impl Strategy<Value = MemoryShortage> {
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(available, reserve)| MemoryShortage::Low { available, reserve }),
        (0.0..100.0_f64).prop_map(|percent| MemoryShortage::Pressed { percent }),
        any::<u64>().prop_map(|left| MemoryShortage::TooLittle { left }),
    ]
}

pub(crate) fn of_leases() -> BoxedStrategy<EventKind> {
    let held =
        (proptest::collection::vec(site(), 1..4), holder()).prop_map(|(sites, holder)| HeldSites { sites, holder });
    prop_oneof![
        (any::<u64>(), proptest::collection::vec(held, 1..4))
            .prop_map(|(timeout_ms, held)| EventKind::FreeSiteAwaited { timeout_ms, held }),
        (site(), holder()).prop_map(|(site, holder)| EventKind::SiteLeaseAwaited { site, holder }),
        (site(), holder(), any::<(u64, u64)>()).prop_map(|(site, holder, (messages_removed, tasks_revoked))| {
            EventKind::SiteLeaseAbandoned {
                site,
                holder,
                messages_removed,
                tasks_revoked,
            }
        }),
        site().prop_map(|site| EventKind::SiteRetriesWithheld { site }),
        (site(), text()).prop_map(|(site, reason)| EventKind::SiteResultsUnknown { site, reason }),
        (site(), chunk_loss(), any::<bool>()).prop_map(|(site, loss, ends_attempt)| EventKind::SiteChunksLost {
            site,
            loss,
            ends_attempt
        }),
    ]
    .boxed()
}

pub(crate) fn of_resources() -> BoxedStrategy<EventKind> {
    prop_oneof![
        (site(), any::<u64>()).prop_map(|(site, memory_bytes)| EventKind::SiteMemoryAwaited { site, memory_bytes }),
        text().prop_map(|reason| EventKind::MemoryCheckFailed { reason }),
        shortage().prop_map(|shortage| EventKind::MemoryGateShut { shortage }),
        Just(EventKind::MemoryGateOpened),
        shortage().prop_map(|shortage| EventKind::MemoryGateForced { shortage }),
        site().prop_map(|site| EventKind::ProxyRefreshRequested { site }),
        (site(), text()).prop_map(|(site, run_id)| EventKind::ProxyPoolSuspected {
            site,
            run_id: RunId::new(run_id)
        }),
        (text(), text(), text()).prop_map(|(file, reason, hint)| EventKind::ProxyPoolUnreadable {
            file: file.into(),
            reason,
            hint
        }),
        (any::<(u64, u64)>(), text()).prop_map(|((usable, min_usable), reason)| {
            EventKind::ProxyRefreshInsufficient {
                usable,
                min_usable,
                reason,
            }
        }),
        text().prop_map(|reason| EventKind::ProxyRefreshNotStarted { reason }),
        (any::<(u64, u64)>(), text()).prop_map(|((usable, min_usable), reason)| {
            EventKind::ProxyShortageAccepted {
                usable,
                min_usable,
                reason,
            }
        }),
        chunk_loss().prop_map(|loss| EventKind::ProxyChunksLost { loss }),
        (text(), option::of(text()), any::<u32>())
            .prop_map(|(task_id, name, crashes)| EventKind::CrashingTaskRevoked { task_id, name, crashes }),
        (text(), any::<u64>(), proptest::collection::vec(text(), 0..4))
            .prop_map(|(worker, count, tasks)| EventKind::StaleExecutionsFound { worker, count, tasks }),
        (text(), any::<(u64, bool)>(), text()).prop_map(|(queue, (waiting, was_consumed), workers)| {
            EventKind::QueueUnconsumed {
                queue,
                waiting,
                was_consumed,
                workers,
            }
        }),
    ]
    .boxed()
}
