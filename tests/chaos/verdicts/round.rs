//! One round: a run with faults, resumed until all of its sites have ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::moments::{ArmedFault, LedgerTail, SILENCE_POLL_INTERVAL, SilenceDetector};
use super::plan::Plan;
use super::{GRACE, journal, start_up};
use crate::fault::Fault;
use crate::judge::verdicts;
use crate::processes::lives;
use crate::report::Results;
use crate::support::orch::{Orch, Project};
use crate::support::redis::RedisServer;
use crate::support::schedule::pause_until;

/// Time for which a fault may find no victim.
const VICTIM_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from one search for a victim to the next.
const VICTIM_POLL_INTERVAL: Duration = Duration::from_millis(5);

pub struct Round<'a> {
    pub plan: &'a Plan,
    pub project: &'a Project,
    /// Project of the `orch up`, if there is one.
    pub sharer: &'a Project,
    pub up: Option<Orch<'a>>,
    /// URL of the Redis, if another owner has it.
    pub broker: Option<String>,
    pub random: fastrand::Rng,
    pub tail: LedgerTail,
    /// Directory of the ledgers.
    pub ledgers: PathBuf,
    /// Exit code and events of each run of orch.
    pub events: Vec<(Option<i32>, Vec<Value>)>,
    pub began: Instant,
}

impl Round<'_> {
    /// Runs and resumes until all sites have ended.
    pub fn go(&mut self, mut server: Option<&mut RedisServer>, results: &mut Results) -> Result<(), String> {
        let plan = self.plan;
        let mut faults = plan.faults.iter();
        let mut next = faults.next().map(|planned| ArmedFault::new(*planned, &self.tail));
        // A run whose early end has a known cause is resumed; two more times than faults are planned.
        let mut resumes_left = plan.faults.len() + 2;
        let mut done_faults = DoneFaults::default();
        loop {
            let has_begun = self
                .events
                .iter()
                .flat_map(|(_, events)| events)
                .any(|event| event["event"] == "site_dispatched");
            let arguments: &[&str] = if has_begun { &["run", "--resume"] } else { &["run"] };
            let orch = self.project.orch_with(arguments, &[], GRACE);
            let mut silence = SilenceDetector::new();
            let mut is_without_victim = false;
            while lives(orch.pid) {
                if silence.is_too_long(&self.tail, self.project, orch.pid) || self.began.elapsed() > plan.timeout() {
                    let events = journal(self.project, orch.pid);
                    self.print_broker();
                    let last: String = events
                        .iter()
                        .rev()
                        .take(12)
                        .rev()
                        .map(|event| format!("\n      {event}"))
                        .collect();
                    self.events.push((None, events));
                    return Err(format!("the round hangs:{last}"));
                }
                self.wait_for_moment(&orch, next.as_mut(), std::mem::take(&mut is_without_victim));
                let Some(armed) = &mut next else { continue };
                if !armed.is_due(&self.tail) {
                    continue;
                }
                let fault = armed.planned.fault;
                let due = armed.due.unwrap_or(armed.since);
                let at = self.began.elapsed().as_secs_f64();
                if self.strike(fault, &orch, server.as_deref_mut()) {
                    println!("    {at:>6.1} s: {fault}, {} chunks ended", self.tail.chunks);
                    results.count(fault.to_string());
                    done_faults.add(fault);
                } else {
                    if due.elapsed() < VICTIM_TIMEOUT {
                        is_without_victim = true;
                        continue;
                    }
                    *results
                        .skipped
                        .entry(format!("{fault}: there was no process to hit"))
                        .or_default() += 1;
                }
                next = faults.next().map(|planned| ArmedFault::new(*planned, &self.tail));
                if fault.ends_the_run() {
                    break;
                }
            }
            let pid = orch.pid;
            let ended = orch.finish();
            let events = journal(self.project, pid);
            self.events.push((ended.code, events));
            if !ended.left.is_empty() {
                return Err(format!("left behind: {:?}", ended.left));
            }
            let code = (ended.code, ended.signal);
            if done_faults.explains_end_by(code) && resumes_left > 0 {
                resumes_left -= 1;
                if let Some(up) = self.up.take_if(|up| !lives(up.pid)) {
                    let left = up.finish().left;
                    if !left.is_empty() {
                        return Err(format!("`orch up` left behind: {left:?}"));
                    }
                    self.up = Some(start_up(self.sharer));
                }
                done_faults = DoneFaults::default();
                continue;
            }
            let is_end = matches!(code, (Some(0 | 1), None));
            return if is_end {
                self.check_code(ended.code)
            } else {
                Err(format!("orch ended with {code:?}: {}{}", ended.stdout, ended.stderr))
            };
        }
    }

    /// Reads the ledgers until the moment of a fault has come or the delay after it is over, orch has ended, or the
    /// next check for silence is due. A fault without a victim is due: the next attempt comes after the next change, or
    /// after a short time, since no event announces a pool process.
    fn wait_for_moment(&mut self, orch: &Orch<'_>, mut armed: Option<&mut ArmedFault>, is_without_victim: bool) {
        let due = armed.as_ref().and_then(|armed| armed.due);
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = match (left, is_without_victim) {
            (_, true) => VICTIM_POLL_INTERVAL,
            (Some(left), false) => left.min(SILENCE_POLL_INTERVAL),
            (None, false) => SILENCE_POLL_INTERVAL,
        };
        let tail = &mut self.tail;
        let has_moment = || {
            tail.read();
            let is_due = armed.as_mut().is_some_and(|armed| armed.is_due(tail));
            let has_come = armed.as_ref().is_some_and(|armed| armed.due != due);
            ((is_due || has_come) && !is_without_victim).then_some(())
        };
        orch.wait_within(timeout, std::slice::from_ref(&self.ledgers), has_moment)
            .ok();
    }

    /// Strikes with a fault; returns whether there was a victim.
    fn strike(&mut self, fault: Fault, orch: &Orch<'_>, server: Option<&mut RedisServer>) -> bool {
        if let (Fault::RedisKilled, Some(server)) = (fault, server) {
            server.kill();
            pause_until(Instant::now() + Duration::from_millis(self.random.u64(..1500)));
            server.start_again();
            return true;
        }
        let events = journal(self.project, orch.pid);
        let up = self.up.as_ref().map(|up| (up.pid, journal(self.sharer, up.pid)));
        let Some(mut targets) = crate::job::fault_targets(&events) else {
            return false;
        };
        if let Some((pid, events)) = up {
            let services = crate::job::fault_targets(&events);
            targets.up = Some(pid);
            targets.redis = services.as_ref().and_then(|services| services.redis);
            targets.worker = services.as_ref().and_then(|services| services.worker);
        }
        targets.strike(fault, &mut self.random)
    }

    /// Prints the queues and the tasks of the workers, for the analysis of a job that hangs.
    fn print_broker(&self) {
        for what in ["queues", "tasks"] {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orch"));
            command.args(["celery", what]).current_dir(self.sharer.path());
            if let Some(broker) = &self.broker {
                command.args(["--broker", broker]);
            }
            let output = command.output().expect("could not start orch");
            let text = [output.stdout, output.stderr].concat();
            println!("    orch celery {what}:\n{}", String::from_utf8_lossy(&text));
        }
    }

    /// Checks that the exit code is 0 exactly when all sites are complete.
    fn check_code(&self, code: Option<i32>) -> Result<(), String> {
        let mut ends: BTreeMap<String, bool> = BTreeMap::new();
        for verdict in self.events.iter().flat_map(|(_, events)| verdicts(events)) {
            ends.insert(verdict.site.clone(), verdict.is_success());
        }
        let all = ends.len() == self.plan.sites.len() && ends.values().all(|complete| *complete);
        if (code == Some(0)) == all {
            Ok(())
        } else {
            Err(format!(
                "exit code {code:?}, and the sites ended (complete or not) {ends:?}"
            ))
        }
    }
}

/// Faults that were done to the current run.
#[derive(Debug, Default)]
struct DoneFaults(Vec<Fault>);

impl DoneFaults {
    fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// Decides whether one of the faults explains this end of the run.
    fn explains_end_by(&self, (code, signal): (Option<i32>, Option<i32>)) -> bool {
        let by = |faults: &[Fault]| self.0.iter().any(|fault| faults.contains(fault));
        match (code, signal) {
            (None, Some(9)) => by(&[Fault::OrchKilled, Fault::BothKilled]),
            (Some(130), None) => by(&[Fault::Interrupted]),
            (Some(3), None) => by(&[Fault::GuardKilled, Fault::UpKilled]),
            _ => false,
        }
    }
}
