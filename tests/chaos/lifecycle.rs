//! SIGKILL of orch, its guard, or both at a random moment of an `orch up` with process trees of every kind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::processes::{children, lives, signal};
use crate::report::Results;
use crate::settings::Limits;
use crate::support::orch::{Orch, Project};
use crate::support::schedule::pause_until;

/// Four services: one whose grandchildren daemonise, one of them without variables; a tree that ignores SIGTERM; one
/// that forks while it is stopped; and a plain one, on which the others depend.
const TREES: &str = r#"
[redis]
mode = "off"
[services.plain]
command = ["sleep", "600"]
[services.daemons]
after = ["plain"]
grace = "300ms"
command = ["sh", "-c", "setsid -f sleep 600; env -i /usr/bin/setsid -f sleep 600; exec sleep 600"]
[services.stubborn]
after = ["plain"]
grace = "200ms"
command = ["sh", "-c", "trap '' TERM; setsid -f sh -c 'sleep 600; sleep 600'; while :; do sleep 600; done"]
[services.forking]
after = ["daemons"]
grace = "300ms"
command = ["sh", "-c", "trap 'for i in 1 2 3 4 5 6 7 8 9 10; do setsid -f sleep 600; done; exit 0' TERM; sleep 600 & wait"]
"#;

/// Returns the configuration for a victim. A process that is alone in its session and has no variables can be
/// recognised only by its parents. When orch and the guard are killed together, the parents are gone, which is the
/// documented limit.
fn trees(victim: Victim) -> String {
    match victim {
        Victim::Orch | Victim::Guard => TREES.to_owned(),
        Victim::Both => TREES.replace("env -i /usr/bin/setsid", "setsid"),
    }
}

/// Time after the stop bound in which everything must have ended.
const END_GRACE: Duration = Duration::from_secs(1);
/// Number of rounds at the same time: most of a round is waiting for grace periods.
const PARALLEL_ROUNDS: usize = 3;
/// Time for which everything runs before orch is asked to end.
const UP_DELAY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Orch,
    Guard,
    Both,
}

/// Times of an undisturbed `orch up` that a SIGTERM ends.
#[derive(Clone, Copy, Debug)]
struct Life {
    ready: Duration,
    whole: Duration,
    bound: Duration,
}

pub fn run(victim: Victim, limits: Limits) -> Results {
    let (next, results) = (AtomicU32::new(0), Mutex::new(Results::default()));
    let slowest = Mutex::new(Duration::ZERO);
    thread::scope(|scope| {
        for _ in 0..PARALLEL_ROUNDS {
            scope.spawn(|| {
                let mut runner = RoundRunner::new(victim);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if !limits.allow(number) {
                        break;
                    }
                    let round = catch_unwind(AssertUnwindSafe(|| runner.round(victim, limits.random(number))));
                    let mut results = results.lock().unwrap();
                    results.rounds += 1;
                    match round {
                        Ok(Ok(done)) => {
                            results.count(done.part);
                            let mut slowest = slowest.lock().unwrap();
                            *slowest = done.gone_after.max(*slowest);
                        }
                        Ok(Err(problem)) => {
                            results.violations.push(format!("round {number}: {problem}"));
                            runner = RoundRunner::new(victim);
                        }
                        Err(_) => {
                            results
                                .violations
                                .push(format!("round {number}: the round panicked, see above"));
                            runner = RoundRunner::new(victim);
                        }
                    }
                }
                if let Err(problem) = runner.close() {
                    results.lock().unwrap().violations.push(problem);
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    let slowest = slowest.into_inner().unwrap();
    results.figures.insert(
        "longest from the end of orch to the end of the last process".to_owned(),
        format!("{} ms", slowest.as_millis()),
    );
    results
}

/// Result of a round without a violation.
struct Done {
    part: String,
    gone_after: Duration,
}

/// State directory that many rounds use, and strangers next to it.
struct RoundRunner {
    project: Project,
    life: Life,
    strangers: Vec<std::process::Child>,
}

impl RoundRunner {
    fn new(victim: Victim) -> Self {
        let project = Project::new(&trees(victim));
        let life = undisturbed(&project);
        // Equal programs and arguments as those of the services, but descendants of the test.
        let start = |words: &[&str]| {
            #[expect(clippy::disallowed_methods, reason = "a stranger is started by somebody else")]
            let child = std::process::Command::new(words[0])
                .args(&words[1..])
                .current_dir(project.path())
                .spawn();
            child.expect("could not start a stranger")
        };
        let strangers = vec![start(&["sleep", "600000"]), start(&["sh", "-c", "sleep 600000 & wait"])];
        Self {
            project,
            life,
            strangers,
        }
    }

    fn round(&mut self, victim: Victim, mut random: fastrand::Rng) -> Result<Done, String> {
        let life = self.life;
        let moment = (life.whole + UP_DELAY).mul_f64(random.f64());
        let asked = life.ready + UP_DELAY;
        // With both killed nothing stops the services: daemonised processes live until the next start, so that the time
        // includes that start.
        let grace = life.bound
            + END_GRACE
            + if victim == Victim::Both {
                life.whole * 4 + END_GRACE * 10
            } else {
                Duration::ZERO
            };
        let orch = self.project.orch_with(&["up"], &[], grace);
        let began = Instant::now();
        let mut stopping = false;
        if moment > asked {
            pause_until(began + asked);
            orch.signal(Signal::SIGTERM);
            stopping = true;
        }
        pause_until(began + moment);
        strike(victim, &orch);
        let part = match (moment > asked, moment > life.ready) {
            (true, _) => "while stopping",
            (false, true) => "while everything ran",
            (false, false) => "while starting",
        };
        if victim == Victim::Both {
            self.next_start_cleans()?;
        }
        let ended = orch.finish();
        let shown = || format!("at {moment:?} of {life:?}\n{}{}", ended.stdout, ended.stderr);
        if !ended.left.is_empty() {
            return Err(format!("left behind: {:?} {}", ended.left, shown()));
        }
        // orch may have ended before the kill, by the request to stop.
        let truthful = match (victim, ended.signal, ended.code) {
            (Victim::Orch | Victim::Both, Some(9), None) => true,
            (Victim::Guard, None, Some(3)) => true,
            (_, None, Some(143)) => stopping,
            _ => false,
        };
        if !truthful {
            return Err(format!("ended with {:?} {:?} {}", ended.code, ended.signal, shown()));
        }
        self.strangers_live()?;
        Ok(Done {
            part: part.to_owned(),
            gone_after: if victim == Victim::Both {
                Duration::ZERO
            } else {
                ended.gone_after
            },
        })
    }

    /// Checks, after both were killed, that a start of the same state directory ends all leftovers before it is ready.
    fn next_start_cleans(&self) -> Result<(), String> {
        let mut next = self.project.orch_with(&["up"], &[], self.life.bound + END_GRACE);
        for service in ["stubborn", "forking"] {
            next.wait_for_service("service_ready", service);
        }
        next.signal(Signal::SIGTERM);
        let ended = next.finish();
        if ended.code == Some(143) && ended.left.is_empty() {
            return Ok(());
        }
        Err(format!(
            "the next start: code {:?}, left {:?}\n{}{}",
            ended.code, ended.left, ended.stdout, ended.stderr
        ))
    }

    fn strangers_live(&mut self) -> Result<(), String> {
        for stranger in &self.strangers {
            if !lives(stranger.id().cast_signed()) {
                return Err(format!("the stranger {} was touched", stranger.id()));
            }
        }
        Ok(())
    }

    /// Checks, after all rounds, that the state directory still serves an undisturbed life.
    fn close(&mut self) -> Result<(), String> {
        let outcome = catch_unwind(AssertUnwindSafe(|| undisturbed(&self.project)));
        outcome
            .map(|_| ())
            .map_err(|_| "after all rounds an undisturbed `orch up` failed, see above".to_owned())
    }
}

impl Drop for RoundRunner {
    fn drop(&mut self) {
        for stranger in &mut self.strangers {
            for child in children(stranger.id().cast_signed()) {
                signal(child, Signal::SIGKILL);
            }
            stranger.kill().ok();
            stranger.wait().ok();
        }
    }
}

fn strike(victim: Victim, orch: &Orch<'_>) {
    match victim {
        Victim::Orch => orch.signal(Signal::SIGKILL),
        Victim::Guard => {
            // The guard is the only child of orch; before its start there is nothing to kill. No pause between two looks: the
            // first instants of the guard are among the moments that the kill must hit.
            while lives(orch.pid) {
                if let Some(guard) = children(orch.pid).first() {
                    signal(*guard, Signal::SIGKILL);
                    return;
                }
                thread::yield_now();
            }
        }
        Victim::Both => {
            let mut both = children(orch.pid);
            both.truncate(1);
            both.push(orch.pid);
            // Stopped first, so that neither can react to the death of the other.
            for kind in [Signal::SIGSTOP, Signal::SIGKILL] {
                for pid in &both {
                    signal(*pid, kind);
                }
            }
        }
    }
}

fn undisturbed(project: &Project) -> Life {
    let mut orch = project.orch(&["up"]);
    let began = Instant::now();
    for service in ["stubborn", "forking"] {
        orch.wait_for_service("service_ready", service);
    }
    let ready = began.elapsed();
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    let whole = began.elapsed();
    ended.expect_code(143);
    let stop = ended.events_of("stop_started");
    let bound = stop
        .first()
        .and_then(|stop| stop["bound_ms"].as_u64())
        .expect("the printed bound");
    Life {
        ready,
        whole,
        bound: Duration::from_millis(bound),
    }
}
