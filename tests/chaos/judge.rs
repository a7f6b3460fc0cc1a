//! Compares what orch said of each job, by its journals, with the job's ledger.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::ledger::{Job, Ledger, Truth};

/// The clock of a verdict and that of a ledger are the same; a line is dated a moment before it is written.
const CLOCK_SLACK: f64 = 0.01;

/// What the reason of an attempt says whose end is not known: the event of its retry has no status.
const UNKNOWN: [&str; 4] = [
    "not known",
    "nothing is left of the earlier run's job",
    "no task of the job is known",
    "the app's progress keys disagree",
];

/// What orch said of one attempt at a site.
#[derive(Debug)]
pub struct Verdict {
    pub site: String,
    /// The dispatch task of the attempt; `None` if nothing was dispatched.
    pub root: Option<String>,
    /// `complete`, `failed`, ...; `retried` and `retried-unknown`: the attempt failed, or its end is not known, and another
    /// one follows.
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

/// All verdicts of one run, in order.
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

/// What an attempt was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub chunks: u32,
    /// Its dispatch result names the callback, so that the verdict is about that one.
    pub names_callback: bool,
}

/// What became of the job that a verdict is about, and what is wrong with the verdict.
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
        wrong.push("FALSE COMPLETE: said before the callback ended".to_owned());
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
        // A verdict about all tasks of the job may be about those of the first dispatch.
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

/// Panics unless this judge finds what is wrong in verdicts on known ledgers: one that finds nothing is no evidence otherwise.
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
    let said = |status: &str, chunks: u64, at: f64| Verdict {
        site: "s".to_owned(),
        root: Some("d".to_owned()),
        status: status.to_owned(),
        reason: "why".to_owned(),
        at,
        counts: BTreeMap::from([("completed_chunks".to_owned(), chunks), ("total_chunks".to_owned(), 3)]),
    };
    let whole = || callback("[[0, 2]]", &all);
    for (ledger, verdict, truth, expected) in [
        (job(whole()), said("complete", 3, 6.0), Truth::Done, None),
        (job(torn), said("complete", 3, 6.0), Truth::Done, None),
        (
            job(whole()),
            said("complete", 2, 6.0),
            Truth::Done,
            Some("completed_chunks is not 3"),
        ),
        (
            job(whole()),
            said("complete", 3, 4.0),
            Truth::Done,
            Some("before the callback ended"),
        ),
        (job(whole()), said("failed", 3, 6.0), Truth::Done, Some("FALSE FAILED")),
        (job(whole()), said("retried", 3, 6.0), Truth::Done, Some("FALSE FAILED")),
        (job(whole()), said("unknown", 3, 6.0), Truth::Done, None),
        (
            job(whole() + &line("chunk_failed", "t1", ", \"chunk\": 1")),
            said("failed", 3, 6.0),
            Truth::FailedByCelery,
            None,
        ),
        // One chunk is missing, one is there twice, the callback did not end, or nothing of the job is there.
        (
            job(callback("[[0, 1]]", &all)),
            said("complete", 3, 6.0),
            Truth::Lost,
            Some("FALSE COMPLETE"),
        ),
        (
            job(callback("[[0, 1], [1, 1]]", &all)),
            said("complete", 3, 6.0),
            Truth::Lost,
            Some("FALSE COMPLETE"),
        ),
        (
            job(callback("[[0, 2], [2, 2]]", &all)),
            said("complete", 3, 6.0),
            Truth::Lost,
            Some("FALSE COMPLETE"),
        ),
        (
            job(callback("[[0, 2]]", &all[..1])),
            said("complete", 3, 6.0),
            Truth::Lost,
            Some("FALSE COMPLETE"),
        ),
        (
            job(callback("[[0, 2]]", &all[..1])),
            said("failed", 3, 6.0),
            Truth::Lost,
            None,
        ),
        (
            job(callback("[[0, 2]]", &all[..2])),
            said("failed", 3, 6.0),
            Truth::NotStored,
            None,
        ),
        (
            job(callback("[[0, 2]]", &all[..2])),
            said("complete", 3, 6.0),
            Truth::NotStored,
            None,
        ),
        (
            job(raised.clone()),
            said("complete", 3, 6.0),
            Truth::Raised,
            Some("FALSE COMPLETE"),
        ),
        (job(raised), said("failed", 3, 6.0), Truth::Raised, None),
        (
            job(String::new()),
            said("failed", 4, 6.0),
            Truth::Lost,
            Some("more chunks are counted"),
        ),
        (
            Ledger::parse(""),
            said("complete", 3, 6.0),
            Truth::NeverBegun,
            Some("FALSE COMPLETE"),
        ),
        (Ledger::parse(""), said("failed", 0, 6.0), Truth::NeverBegun, None),
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
