//! Comparison of the verdicts in orch's journals with the ledgers of the jobs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::ledger::{Job, Ledger, Truth};

/// Tolerance, in seconds: verdict and ledger use the same clock, but a line is dated a moment before it is written.
const CLOCK_SLACK: f64 = 0.01;

/// Words in the reason of an attempt whose end is not known: the event of its retry has no status.
const UNKNOWN: [&str; 4] = [
    "not known",
    "nothing is left of the earlier run's job",
    "no task of the job is known",
    "the app's progress keys disagree",
];

/// Verdict of orch on one attempt at a site.
#[derive(Debug)]
pub struct Verdict {
    pub site: String,
    /// Id of the attempt's dispatch task; `None` if nothing was dispatched.
    pub root: Option<String>,
    /// `complete`, `failed`, ...; `retried` and `retried-unknown`: the attempt failed, or its end is not known, and
    /// another attempt follows.
    pub status: String,
    pub reason: String,
    at: f64,
    counts: BTreeMap<String, u64>,
}

impl Verdict {
    pub fn is_success(&self) -> bool {
        self.status == "complete" || self.status == "degraded"
    }
}

/// Returns all verdicts of one run, in order.
pub fn verdicts(events: &[Value]) -> Vec<Verdict> {
    let mut roots: BTreeMap<&str, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for event in events {
        let Some(site) = event["site"].as_str() else { continue };
        let status = match event["event"].as_str() {
            Some("site_dispatched" | "site_picked_up") => {
                roots.insert(site, event["task_id"].as_str().unwrap_or_default());
                continue;
            }
            Some("site_retrying") => {
                let reason = event["reason"].as_str().unwrap_or_default();
                let is_unknown = UNKNOWN.iter().any(|words| reason.contains(words));
                if is_unknown { "retried-unknown" } else { "retried" }
            }
            Some("site_finished") => event["status"].as_str().unwrap_or_default(),
            _ => continue,
        };
        let counts = event["counts"].as_object().into_iter().flatten();
        found.push(Verdict {
            site: site.to_owned(),
            root: roots.get(site).map(|root| (*root).to_owned()),
            status: status.to_owned(),
            reason: event["reason"].as_str().unwrap_or_default().to_owned(),
            at: event["at"].as_f64().unwrap_or_default(),
            counts: counts
                .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
                .collect(),
        });
    }
    found
}

/// Request of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub chunks: u32,
    /// The dispatch result names the callback, so that the verdict is about that callback.
    pub names_callback: bool,
}

/// Returns the truth about the job of a verdict, and the problems of the verdict.
pub fn judge(verdict: &Verdict, asked: Asked, ledger: &Ledger) -> (Truth, Vec<String>) {
    let nothing = Job::default();
    let job = verdict
        .root
        .as_ref()
        .and_then(|root| ledger.job(root))
        .unwrap_or(&nothing);
    let truth = job.truth(asked.chunks);
    let mut wrong = match verdict.status.as_str() {
        "complete" | "degraded" => success(verdict, asked, job, truth),
        "failed" | "retried" => failure(verdict, asked, job, truth),
        _ => Vec::new(),
    };
    for problem in &mut wrong {
        let _ = write!(
            problem,
            "\n      site {}, attempt {}: {} at {:.3}: {}; counts {:?}\n      ledger: {truth}; {job}",
            verdict.site,
            verdict.root.as_deref().unwrap_or("without a job"),
            verdict.status.to_uppercase(),
            verdict.at,
            verdict.reason,
            verdict.counts,
        );
    }
    (truth, wrong)
}

fn success(verdict: &Verdict, asked: Asked, job: &Job, truth: Truth) -> Vec<String> {
    let mut wrong = Vec::new();
    let good = job.good_callback(asked.chunks);
    if good.is_none() || truth == Truth::Raised {
        wrong.push("FALSE COMPLETE".to_owned());
    } else if good.and_then(|callback| callback.ended) > Some(verdict.at + CLOCK_SLACK) {
        wrong.push("FALSE COMPLETE: reported before the callback ended".to_owned());
    }
    if verdict.status == "degraded" {
        wrong.push("DEGRADED, and there are results".to_owned());
    }
    let chunks = u64::from(asked.chunks);
    for (name, is_required) in [
        ("completed_chunks", true),
        ("total_chunks", asked.names_callback),
        ("results", false),
    ] {
        match verdict.counts.get(name) {
            Some(count) if *count != chunks => wrong.push(format!("COMPLETE, and {name} is not {chunks}")),
            None if is_required => wrong.push(format!("COMPLETE, and {name} is not known")),
            _ => {}
        }
    }
    wrong
}

fn failure(verdict: &Verdict, asked: Asked, job: &Job, truth: Truth) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_false = match truth {
        Truth::Done => true,
        // A verdict about all tasks of the job may be about the tasks of the first dispatch.
        Truth::DispatchedAgain => asked.names_callback && job.last_dispatch_is_done(asked.chunks),
        Truth::NotStored | Truth::FailedByCelery | Truth::Raised | Truth::Lost | Truth::NeverBegun => false,
    };
    if is_false {
        wrong.push("FALSE FAILED".to_owned());
    }
    if verdict.reason.is_empty() {
        wrong.push("FAILED without a reason".to_owned());
    }
    let ended = job.ended_chunks();
    if verdict
        .counts
        .get("completed_chunks")
        .is_some_and(|count| *count > ended)
    {
        wrong.push(format!(
            "FAILED, and more chunks are counted than the {ended} that ended"
        ));
    }
    wrong
}

/// Panics unless [`judge`] finds the problems of verdicts on known ledgers: a judge that never finds any proves
/// nothing.
pub fn check_itself() {
    let line = |event: &str, task: &str, further: &str| {
        format!(
            "\n{{\"event\": \"{event}\", \"root\": \"d\", \"task\": \"{task}\", \"pid\": 7, \"at\": 5.0{further}}}\n"
        )
    };
    let chunk = |number: u32| {
        let (task, further) = (format!("t{number}"), format!(", \"chunk\": {number}"));
        ["chunk_started", "chunk_ended", "chunk_stored"].map(|event| line(event, &task, &further))
    };
    let dispatch = ["dispatch_started", "dispatch_ended", "dispatch_stored"]
        .map(|event| line(event, "d", ", \"callback\": \"c\""));
    let chunks = [0, 1, 2].map(|number| chunk(number).concat());
    let callback = |received: &str, events: &[&str]| -> String {
        let further = format!(", \"received\": {received}");
        events.iter().map(|event| line(event, "c", &further)).collect()
    };
    let all = ["callback_started", "callback_ended", "callback_stored"];
    let job = |callback: String| Ledger::parse(&[dispatch.concat(), chunks.concat(), callback].concat());
    let torn = format!("\n{{\"event\": \"chunk_started\", \"ro{}", callback("[[0, 2]]", &all));
    let raised = line("chunk_raised", "t1", ", \"chunk\": 1") + &callback("[]", &[]);
    let process_died = ["chunk_started", "chunk_failed"]
        .map(|event| line(event, "t2", ", \"chunk\": 2"))
        .concat();
    let verdict = |status: &str, chunks: u64, at: f64| Verdict {
        site: "s".to_owned(),
        root: Some("d".to_owned()),
        status: status.to_owned(),
        reason: "why".to_owned(),
        at,
        counts: BTreeMap::from([("completed_chunks".to_owned(), chunks), ("total_chunks".to_owned(), 3)]),
    };
    let whole = || callback("[[0, 2]]", &all);
    for (ledger, verdict, truth, expected) in [
        (job(whole()), verdict("complete", 3, 6.0), Truth::Done, None),
        (job(torn), verdict("complete", 3, 6.0), Truth::Done, None),
        (
            job(whole()),
            verdict("complete", 2, 6.0),
            Truth::Done,
            Some("completed_chunks is not 3"),
        ),
        (
            job(whole()),
            verdict("complete", 3, 4.0),
            Truth::Done,
            Some("before the callback ended"),
        ),
        (
            job(whole()),
            verdict("failed", 3, 6.0),
            Truth::Done,
            Some("FALSE FAILED"),
        ),
        (
            job(whole()),
            verdict("retried", 3, 6.0),
            Truth::Done,
            Some("FALSE FAILED"),
        ),
        (job(whole()), verdict("unknown", 3, 6.0), Truth::Done, None),
        (
            job(whole() + &line("chunk_failed", "t1", ", \"chunk\": 1")),
            verdict("failed", 3, 6.0),
            Truth::FailedByCelery,
            None,
        ),
        // One chunk is missing, one is received twice, the callback did not end, or nothing of the job is recorded.
        (
            job(callback("[[0, 1]]", &all)),
            verdict("complete", 3, 6.0),
            Truth::Lost,
            Some("FALSE COMPLETE"),
        ),
        (
            job(callback("[[0, 1], [1, 1]]", &all)),
            verdict("complete", 3, 6.0),
            Truth::Lost,
            Some("FALSE COMPLETE"),
        ),
        (
            job(callback("[[0, 2], [2, 2]]", &all)),
            verdict("complete", 3, 6.0),
            Truth::Lost,
            Some("FALSE COMPLETE"),
        ),
        (
            job(callback("[[0, 2]]", &all[..1])),
            verdict("complete", 3, 6.0),
            Truth::Lost,
            Some("FALSE COMPLETE"),
        ),
        (
            job(callback("[[0, 2]]", &all[..1])),
            verdict("failed", 3, 6.0),
            Truth::Lost,
            None,
        ),
        (
            job(callback("[[0, 2]]", &all[..2])),
            verdict("failed", 3, 6.0),
            Truth::NotStored,
            None,
        ),
        (
            job(callback("[[0, 2]]", &all[..2])),
            verdict("complete", 3, 6.0),
            Truth::NotStored,
            None,
        ),
        (
            job(raised.clone()),
            verdict("complete", 3, 6.0),
            Truth::Raised,
            Some("FALSE COMPLETE"),
        ),
        (job(raised), verdict("failed", 3, 6.0), Truth::Raised, None),
        (
            job(String::new()),
            verdict("failed", 4, 6.0),
            Truth::Lost,
            Some("more chunks are counted"),
        ),
        (
            Ledger::parse(&[dispatch.concat(), chunk(0).concat(), chunk(1).concat(), process_died].concat()),
            verdict("failed", 3, 6.0),
            Truth::Lost,
            None,
        ),
        (
            Ledger::parse(""),
            verdict("complete", 3, 6.0),
            Truth::NeverBegun,
            Some("FALSE COMPLETE"),
        ),
        (Ledger::parse(""), verdict("failed", 0, 6.0), Truth::NeverBegun, None),
    ] {
        let asked = Asked {
            chunks: 3,
            names_callback: true,
        };
        let (found, wrong) = judge(&verdict, asked, &ledger);
        assert_eq!(found, truth, "{verdict:?} {ledger:?}");
        match expected {
            Some(words) => assert!(
                wrong.iter().any(|problem| problem.contains(words)),
                "{words}: {wrong:?}"
            ),
            None => assert!(wrong.is_empty(), "{verdict:?}: {wrong:?}"),
        }
    }
}
