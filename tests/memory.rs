//! Limits of memory: no further site begins while memory is short, and waiting sites begin in the end.

mod support;

use support::bookshop;
use support::orch::{Ended, Project};

/// Creates a project; `orch` and `celery` are further lines of their sections; each site has a name, a number of chunks
/// with their seconds and the MiB that they hold, and further lines.
fn project(orch: &str, celery: &str, sites: &[(&str, u32, f64, u32, &str)]) -> Project {
    let mut configuration = format!(
        "[orch]\ninstance = \"limits\"\n{orch}\n[redis]\nport = 0\nmode = \"own\"\n\
         [celery]\napp = \"limits_app\"\nconcurrency = 4\nacks_late = true\n{celery}\n"
    );
    for (name, chunks, seconds, mebibytes, more) in sites {
        configuration.push_str(&format!(
            "[sites.{name}]\n{more}\ndispatch = {{ task = \"limits.dispatch\", kwargs = {{ site = \"{{site}}\", job_id = \
             \"{{job_id}}\", chunks = {chunks}, seconds = {seconds:?}, mebibytes = {mebibytes} }} }}\n"
        ));
    }
    bookshop::project_with("limits_app", &configuration)
}

/// Returns the places of the events of a kind.
fn places(ended: &Ended, kind: &str) -> Vec<usize> {
    let events = ended.events.iter().enumerate();
    events
        .filter(|(_, event)| event["event"] == kind)
        .map(|(place, _)| place)
        .collect()
}

#[test]
fn while_memory_is_short_one_site_at_a_time_begins_after_a_while_and_the_reason_is_told_once() {
    // More than any machine has.
    let sites = [("books", 1, 0.1, 0, ""), ("quotes", 1, 0.1, 0, "")];
    let project = project("memory_reserve = \"1000TiB\"", "", &sites);
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    let shut = places(&ended, "memory_gate_shut");
    assert_eq!(shut.len(), 1, "{:#?}", ended.events);
    let low = &ended.events[shut[0]]["shortage"]["low"];
    assert_eq!(low["reserve"], 1000_u64 << 40, "{low}");
    assert!(low["available"].as_u64() < low["reserve"].as_u64(), "{low}");
    let exceptions = places(&ended, "memory_gate_forced");
    let (dispatched, finished) = (places(&ended, "site_dispatched"), places(&ended, "site_finished"));
    // The shortage is reported, one site begins, the site ends, and so on.
    let order = [
        shut[0],
        exceptions[0],
        dispatched[0],
        finished[0],
        exceptions[1],
        dispatched[1],
        finished[1],
    ];
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn nobody_waits_where_memory_is_no_matter_or_enough() {
    for reserve in ["\"0\"", "\"1MiB\""] {
        let sites = [("books", 1, 0.1, 0, ""), ("quotes", 1, 0.1, 0, "")];
        let project = project(&format!("memory_reserve = {reserve}"), "", &sites);
        let ended = project.orch(&["run"]).finish();
        ended.expect_code(0);
        assert!(places(&ended, "memory_gate_shut").is_empty());
        assert!(places(&ended, "site_dispatched")[1] < places(&ended, "site_finished")[0]);
    }
}

#[test]
fn a_worker_that_holds_too_much_is_started_anew_and_says_so_and_nothing_is_lost() {
    // Each chunk of `fat` holds more than its worker may; `slim` also has a worker of its own, within its limit.
    let limited = "workers = { concurrency = 1, max_memory = \"150MiB\" }";
    let sites = [("fat", 3, 6.0, 200, limited), ("slim", 3, 6.0, 1, limited)];
    let project = project("", "grace = \"30s\"\nrestart = { stable = \"100ms\" }", &sites);
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    let of = |kind: &str| -> Vec<String> {
        let events = ended.events_of(kind);
        events
            .iter()
            .map(|event| event["service"].as_str().expect("a name").to_owned())
            .collect()
    };
    let restarted = of("service_restarting");
    assert!(
        !restarted.is_empty() && restarted.iter().all(|name| name == "celery@fat"),
        "{restarted:?}"
    );
    assert_eq!(of("service_unhealthy"), restarted);
    let restarting = ended.events_of("service_restarting")[0];
    let reason = restarting["reason"].as_str().expect("why");
    // The measurement may come while the chunk is still allocating its memory.
    let held = reason
        .strip_prefix("its processes hold ")
        .and_then(|rest| rest.strip_suffix(" MiB of memory, `max_memory` is 150 MiB"))
        .and_then(|held| held.parse::<u64>().ok());
    assert!(held.is_some_and(|held| held >= 150), "{reason}");
    // Warm restarts: running tasks ended, reserved tasks went back to the queue. Late acknowledgement executes each
    // task at least once.
    for site in ["fat", "slim"] {
        let end = ended
            .events_of("site_finished")
            .into_iter()
            .find(|event| event["site"] == site)
            .expect("its end");
        assert_eq!(end["status"], "complete", "{end}");
        let ledger = std::fs::read_to_string(project.file(&format!("ledger.{site}"))).expect("what was done");
        let done = |number: u32| ledger.contains(&format!("\"number\": {number},"));
        assert!((0..3).all(done), "{ledger}");
        assert!(site == "fat" || ledger.lines().count() == 3, "{ledger}");
    }
}

#[test]
fn a_site_that_held_more_in_earlier_runs_than_is_left_waits_until_nothing_runs() {
    let own = "max_chunks_in_flight = 1";
    let sites = [("fat", 1, 8.0, 10, own), ("quotes", 2, 0.5, 0, "")];
    let project = project("", "", &sites);
    let first = project.orch(&["run"]).finish();
    first.expect_code(0);
    let peaks = first.events_of("service_peaked");
    assert!(peaks.len() == 1 && peaks[0]["service"] == "celery@fat", "{peaks:?}");
    let bytes = peaks[0]["memory_bytes"].as_u64().expect("bytes");
    assert!((10 << 20..1 << 30).contains(&bytes), "{bytes}");
    // As if the site had held more than any machine has.
    let runs = std::fs::read_dir(project.state_dir().join("runs"))
        .expect("the runs")
        .flatten();
    let journal = runs
        .map(|run| run.path().join("journal.jsonl"))
        .next()
        .expect("one run");
    let text = std::fs::read_to_string(&journal).expect("its journal");
    let text = text.replace(
        &format!("\"memory_bytes\":{bytes}"),
        &format!("\"memory_bytes\":{}", 1_u64 << 60),
    );
    std::fs::write(&journal, text).expect("its journal");

    let second = project.orch(&["run"]).finish();
    second.expect_code(0);
    let (waits, exceptions) = (
        places(&second, "site_memory_awaited"),
        places(&second, "memory_gate_forced"),
    );
    assert_eq!((waits.len(), exceptions.len()), (1, 1), "{:#?}", second.events);
    let wait = &second.events[waits[0]];
    assert!(wait["site"] == "fat" && wait["memory_bytes"] == 1_u64 << 60, "{wait}");
    let of = |kind: &str, site: &str| {
        let mut events = second.events.iter();
        events
            .position(|event| event["event"] == kind && event["site"] == site)
            .expect("such an event")
    };
    let order = [
        waits[0],
        of("site_finished", "quotes"),
        exceptions[0],
        of("site_dispatched", "fat"),
    ];
    assert!(order.is_sorted(), "{order:?}");
}
