//! `orch run` with a Redis and a worker is killed before, or in the middle of, some of the calls. A life is too slow
//! for a kill at each call, so the calls that are hit are spread evenly. `--resume` continues the run, or explains why
//! there is nothing to resume.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::call::Call;
use crate::place::{Life, TestDirectory};
use crate::support::bookshop::{self, ledger};
use crate::tracer::{End, Fault, Victims};

/// Largest number of calls that are hit; a busy machine hits fewer in the available time.
const MOST: usize = 42;
/// Smallest number of calls that must be hit.
const FEWEST: usize = 6;
/// Time after which no further life begins.
const START_DEADLINE: Duration = Duration::from_secs(40);
/// Number of lives at the same time: most of a life is waiting.
const PARALLEL_LIVES: usize = 3;

const CHUNKS: u64 = 6;
const SITES: [&str; 2] = ["left", "right"];

fn place() -> TestDirectory {
    let mut configuration = "[orch]\nlease = \"3s\"\n[redis]\nmode = \"own\"\nport = 0\n\
         [celery]\napp = \"chaos_app\"\nconcurrency = 2\nacks_late = true\ngrace = \"5s\"\nquit_grace = \"300ms\"\n"
        .to_owned();
    for site in SITES {
        configuration.push_str(&format!(
            "[sites.{site}]\ndispatch = {{ task = \"chaos.dispatch\", kwargs = {{ site = \"{{site}}\", job_id = \"{{job_id}}\", \
             chunks = {CHUNKS}, seconds = 0.1, ledger = \"ledger.{site}\" }} }}\n"
        ));
    }
    let place = TestDirectory::new(&configuration);
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/apps/chaos_app.py");
    fs::copy(app, place.path().join("chaos_app.py")).unwrap();
    std::os::unix::fs::symlink(bookshop::environment().join(".venv"), place.path().join(".venv")).unwrap();
    place
}

/// Returns shares of a whole that are evenly spread for any number of them: 0, 1/2, 1/4, 3/4, 1/8, ...
fn share(number: usize) -> f64 {
    let (mut number, mut share, mut weight) = (number, 0.0, 0.5);
    while number > 0 {
        if number % 2 == 1 {
            share += weight;
        }
        number /= 2;
        weight /= 2.0;
    }
    share
}

/// Returns the fault for the call of this number among those that are hit.
fn fault(number: usize, call: &Call) -> Fault {
    match number % 3 {
        0 => Fault::Kill(Victims::Orch),
        1 => Fault::Kill(Victims::Both),
        _ if call.writes() => Fault::KillHalfway(Victims::Orch),
        _ => Fault::Kill(Victims::Orch),
    }
}

/// Runs a life in which the call of this number is hit; returns the number of calls before it.
fn live(place: &TestDirectory, due: Option<usize>, number: usize) -> Option<(Life, Option<Call>, usize)> {
    let (mut seen, mut hit) = (0, None);
    let life = place.live("run", &mut |call| {
        if hit.is_some() {
            return None;
        }
        seen += 1;
        if due != Some(seen - 1) {
            return None;
        }
        hit = Some(call.clone());
        Some(fault(number, call))
    })?;
    Some((life, hit, seen))
}

#[test]
fn a_run_killed_at_calls_all_over_its_life() {
    // Created before the time of the lives begins.
    bookshop::environment();
    let began = Instant::now();
    let undisturbed = place();
    let Some((life, _, calls)) = live(&undisturbed, None, 0) else {
        return;
    };
    assert_eq!(life.end, End::Code(0), "undisturbed: {}", life.output);
    let (next, hits, problems) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL_LIVES {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= MOST || (number >= FEWEST && began.elapsed() > START_DEADLINE) {
                        return;
                    }
                    // Lives differ by a few calls: the last ones may not come.
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        clippy::cast_precision_loss,
                        reason = "a share of some hundred calls"
                    )]
                    let due = (share(number) * calls as f64) as usize;
                    let place = place();
                    let (life, hit, _) = live(&place, Some(due), number).unwrap();
                    let Some(hit) = hit else {
                        assert_eq!(life.end, End::Code(0), "not hit: {}", life.output);
                        continue;
                    };
                    let shown = format!(
                        "call {due} of {calls}, {:?} at {}",
                        fault(number, &hit),
                        place.shown(&hit)
                    );
                    match judge(&place, &life, fault(number, &hit), number) {
                        Ok(how) => hits.lock().unwrap().push(format!("{shown}: {how}")),
                        Err(problem) => problems
                            .lock()
                            .unwrap()
                            .push(format!("{shown}: {problem}\n{}", life.output)),
                    }
                }
            });
        }
    });
    let (hits, problems) = (hits.into_inner().unwrap(), problems.into_inner().unwrap());
    println!("{} calls hit in {:?}", hits.len(), began.elapsed());
    for hit in &hits {
        println!("    {hit}");
    }
    assert!(
        problems.is_empty(),
        "{} problems\n{}",
        problems.len(),
        problems.join("\n")
    );
    assert!(hits.len() + 2 >= FEWEST);
}

/// Checks the state after a life; returns how the run was continued.
fn judge(place: &TestDirectory, life: &Life, fault: Fault, number: usize) -> Result<&'static str, String> {
    // The last call of the guard comes when orch may have ended already.
    if life.end != End::Signal(Signal::SIGKILL) && life.end != End::Code(0) {
        return Err(format!("killed, and ended with {:?}", life.end));
    }
    // With both killed no process is left that could end a process that is no direct child of the guard.
    if !matches!(fault, Fault::Kill(Victims::Both)) {
        place.wait_until_alone(0)?;
    }
    place.whole()?;
    if number.is_multiple_of(2) {
        place.clean()?;
    }
    let how = go_on(place)?;
    place.wait_until_alone(0)?;
    place.tidy(&[place.state(), place.state().join("redis")])?;
    let all: BTreeSet<u64> = (0..CHUNKS).collect();
    for site in SITES {
        let done = ledger(place.path(), site);
        if done.keys().copied().collect::<BTreeSet<u64>>() != all || done.values().any(|times| *times > 2) {
            return Err(format!(
                "chunks of {site}, and how often they were done: {done:?} ({how})"
            ));
        }
    }
    Ok(how)
}

/// Resumes the run that was killed, or starts another one if `--resume` explains that there is none to resume.
fn go_on(place: &TestDirectory) -> Result<&'static str, String> {
    let began = place.files().iter().any(|file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        file.ends_with("journal.jsonl") && text.lines().next().is_some_and(|line| line.ends_with('}'))
    });
    let (code, said) = place.orch(&["run", "--resume"]);
    match code {
        Some(0) if said.contains("nothing is left to do") => Ok("it had finished"),
        Some(0) => Ok("resumed"),
        Some(2) if said.contains("there is no run to resume") && !began => match place.orch(&["run"]) {
            (Some(0), _) => Ok("begun anew"),
            (code, said) => Err(format!("another run ended with {code:?}: {said}")),
        },
        _ => Err(format!("`orch run --resume` ended with {code:?}: {said}")),
    }
}
