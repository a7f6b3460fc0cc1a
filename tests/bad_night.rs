//! The example on a bad night: each site ends as its configuration says.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use support::bookshop;

fn results(project: &Path, site: &str) -> usize {
    let file = project.join("out").join(format!("{site}.jsonl"));
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

#[test]
fn each_site_comes_to_what_is_said_of_it() {
    let project = bookshop::project();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bookshop/bad-night.toml");
    fs::copy(example, project.file("bad-night.toml")).expect("could not copy the configuration");
    let ended = project.orch(&["run", "--config", "bad-night.toml"]).finish();
    ended.expect_code(1);
    let end = |site: &str| -> &Value {
        let ends = ended.events_of("site_finished").into_iter();
        let mut of_site = ends.filter(|event| event["site"] == site);
        of_site.next().unwrap_or_else(|| panic!("{site} has no end"))
    };
    let reason = |site: &str| end(site)["reason"].as_str().unwrap_or_default();
    let seq = |event: &Value| event["seq"].as_u64().expect("a number");

    // The two healthy sites.
    for (site, listings) in [("books", 200), ("quotes", 150)] {
        assert_eq!(
            (&end(site)["status"], results(project.path(), site)),
            (&"complete".into(), listings)
        );
    }
    let dispatched = ended.events_of("site_dispatched");
    let quotes = dispatched
        .iter()
        .find(|event| event["site"] == "quotes")
        .expect("it has begun");
    assert!(seq(quotes) > seq(end("books")), "quotes are to come after books");
    // Workers of their own execute them, one after the other.
    let begun = ended.events_of("run_started");
    let directory = Path::new(begun[0]["directory"].as_str().expect("text"));
    let log = |service: &str| fs::read_to_string(directory.join(format!("{service}.log"))).expect("the worker's log");
    let done = |log: &str| -> Vec<String> {
        let lines = log
            .lines()
            .filter(|line| line.contains("scrape_chunk[") && line.contains(" succeeded in "));
        let process = |line: &str| {
            line.split("ForkPoolWorker-")
                .nth(1)?
                .split(']')
                .next()
                .map(str::to_owned)
        };
        lines.map(|line| process(line).expect("a pool's process")).collect()
    };
    let by_itself = done(&log("celery@quotes"));
    assert_eq!(by_itself.len(), 10);
    assert_eq!(by_itself.into_iter().collect::<BTreeSet<_>>().len(), 1, "one process");
    let shared = done(&log("celery"));
    assert!(
        (14 + 4..14 + 4 + 12).contains(&shared.len()),
        "those of books and gadgets, some of tools: {shared:?}"
    );

    // The three sites that are not healthy.
    assert_eq!(end("gadgets")["status"], "degraded");
    assert_eq!(reason("gadgets"), "60 results, `min_results` is 200");
    let verdicts = ended.events_of("site_verdict");
    for (site, health) in [("prints", "stalled"), ("tools", "failing")] {
        let of_site: Vec<&&Value> = verdicts.iter().filter(|event| event["site"] == site).collect();
        let [verdict] = of_site.as_slice() else {
            panic!("{site}: {of_site:?}")
        };
        assert_eq!(
            (&verdict["health"], &verdict["action"]),
            (&health.into(), &"fail".into())
        );
        assert_eq!(end(site)["status"], "failed");
        let cause = verdict["reason"].as_str().expect("text");
        assert_eq!(reason(site), format!("ended because the site is {health}: {cause}"));
        assert_eq!(results(project.path(), site), 0);
        assert!(
            ended.stdout.contains(&format!("the site is {health}: {cause}")),
            "{}",
            ended.stdout
        );
    }
    assert!(reason("prints").contains("(stall_after 8s)"), "{}", reason("prints"));
    assert!(
        reason("tools").contains("more than max_error_rate 30 %"),
        "{}",
        reason("tools")
    );
    assert!(
        ended.stdout.contains("2 of 5 sites failed, 1 degraded after "),
        "{}",
        ended.stdout
    );

    // The summary names the error of the site with failed tasks, and the command that shows more.
    let has = |text: &str, wanted: &str| assert!(text.contains(wanted), "`{wanted}` is not in:\n{text}");
    has(&ended.stdout, "tools: ChunkError: none of ");
    has(&ended.stdout, "celery.log; more: `orch errors tools`");
    let shown = project
        .orch(&["errors", "tools", "--config", "bad-night.toml"])
        .finish();
    shown.expect_code(0);
    for wanted in [
        "tools FAILED: ended because the site is failing",
        "  ChunkError: none of <n> listings, the last: <url>",
        "first: bookshop.scraping.scrape_chunk ",
        "in scrape_chunk",
        "/celery.log:",
    ] {
        has(&shown.stdout, wanted);
    }
    let unknown = project.orch(&["errors", "tool", "--config", "bad-night.toml"]).finish();
    unknown.expect_code(2);
    has(&unknown.stderr, "did you mean `tools`?");
    let read = project
        .orch(&["errors", "--json", "--config", "bad-night.toml"])
        .finish();
    let report: Value = serde_json::from_str(&read.stdout).expect("one JSON object");
    let sites: Vec<&Value> = report["sites"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|site| &site["site"])
        .collect();
    assert_eq!(sites, ["tools"], "{report:#}");
    assert_eq!(report["sites"][0]["errors"][0]["first"]["kind"], "raised", "{report:#}");
}
