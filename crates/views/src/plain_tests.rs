//! Tests of the plain lines, each of one event.

use jiff::tz::TimeZone;

use crate::plain::{PlainView, TimestampFormat};
use orch_journal::{Event, EventKind, ExitStatus, JobId, RedisLeftovers, RunState, ServiceName, SiteCounts};

fn text_of(kind: EventKind) -> String {
    let event = Event {
        seq: 1,
        at: 0.0,
        elapsed: 0.0,
        kind,
    };
    let mut state = RunState::default();
    state.apply(&event);
    let lines = PlainView::new(TimeZone::UTC, TimestampFormat::Time, false).lines(&event, &state);
    let lines: Vec<String> = lines.iter().map(|line| line.whole(false).to_string()).collect();
    lines.join("\n")
}

#[test]
fn an_ordinary_stop_is_no_killing() {
    let signal = |signal| ExitStatus::Signal {
        signal,
        core_dumped: false,
    };
    for (status, text) in [
        (ExitStatus::Code(0), "00:00:00 service celery stopped"),
        (signal(nix::libc::SIGTERM), "00:00:00 service celery stopped"),
        (signal(nix::libc::SIGQUIT), "00:00:00 service celery stopped"),
        (ExitStatus::Unknown, "00:00:00 service celery stopped"),
        (
            signal(nix::libc::SIGKILL),
            "00:00:00 service celery stopped: was killed by SIGKILL",
        ),
        (
            signal(nix::libc::SIGSEGV),
            "00:00:00 service celery stopped: was killed by SIGSEGV",
        ),
        (
            ExitStatus::Code(1),
            "00:00:00 service celery stopped: ended with exit code 1",
        ),
    ] {
        let service = ServiceName::new("celery");
        assert_eq!(text_of(EventKind::ServiceStopped { service, status }), text);
    }
}

#[test]
fn leftovers_are_reported_without_a_warning() {
    for (queued, unacked, keys, removed, text) in [
        (
            0,
            0,
            4,
            true,
            "00:00:00 leftovers of earlier runs in Redis: 4 keys, removed",
        ),
        (
            1,
            0,
            1,
            false,
            "00:00:00 leftovers of earlier runs in Redis: 1 queued message, 0 unacknowledged, 1 key: kept (not \
             orch's Redis)",
        ),
    ] {
        let kind = EventKind::LeftoversFound(RedisLeftovers {
            queued,
            unacked,
            keys,
            removed,
        });
        assert_eq!(text_of(kind), text);
    }
}

#[test]
fn one_chunk_is_no_plural_and_nothing_has_no_time() {
    let started = |total_urls, total_chunks| EventKind::SiteJobStarted {
        site: "shop".into(),
        job_id: JobId::new("job"),
        chord_id: None,
        counts: SiteCounts {
            total_urls,
            total_chunks,
            completed_chunks: total_chunks.map(|_| 0),
            ..SiteCounts::default()
        },
        timeout_ms: 1_800_000,
    };
    for (total_urls, total_chunks, text) in [
        (Some(0), None, "00:00:00 shop: running, 0 URLs"),
        (Some(0), Some(0), "00:00:00 shop: running, 0/0 chunks, 0 URLs"),
        (
            Some(9),
            Some(1),
            "00:00:00 shop: running, 0/1 chunk, 9 URLs, within 30m",
        ),
        (None, None, "00:00:00 shop: running, counts not known, within 30m"),
    ] {
        assert_eq!(text_of(started(total_urls, total_chunks)), text);
    }
}
