//! A crash at every write: orch, its guard, or both are killed before, and in the middle of, each system call that
//! changes the state directory, and each of these calls is made to fail. After each crash the state directory must be
//! whole, nothing may be left, and `orch clean` and the next `orch up` must work.
//!
//! Crashes at other moments are in `tests/chaos`.
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "../support/mod.rs"]
mod support;

mod call;
mod place;
mod run;
mod tracer;

use std::collections::BTreeMap;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use call::{Actor, Call};
use place::{Life, TestDirectory, age};
use tracer::{End, Fault, Victims};

/// Service with a grandchild that has daemonised itself, and a port that is remembered.
const WEB: &str = r#"
[redis]
mode = "off"
[ports]
web = 0
[services.web]
command = ["sh", "-c", "setsid -f sleep 600; exec sleep 600"]
"#;

/// A Redis of orch, whose configuration orch writes.
const REDIS: &str = "[redis]\nmode = \"own\"\nport = 0\n";

/// Series of lives of orch, with a fault at one call of each.
#[derive(Clone, Copy)]
struct Campaign {
    configuration: &'static str,
    /// `up`, which is asked to end once it is up, or `clean`.
    command: &'static str,
    /// The state directory has a history: the largest number of runs that are kept, and the leftovers of a dead run.
    aged: bool,
    /// Selects the calls that may be hit.
    hits: fn(&Call) -> bool,
    fault: Fault,
    /// Faults of the calls after the one that was hit.
    afterwards: fn(&Call) -> Option<Fault>,
}

const ONCE: fn(&Call) -> Option<Fault> = |_| None;

impl Campaign {
    /// Hits the first call in one life, the second in the next, until a life has no more calls.
    fn run(self, name: &str) {
        let began = Instant::now();
        let mut problems = Vec::new();
        let mut hits: BTreeMap<String, usize> = BTreeMap::new();
        for number in 1.. {
            let place = TestDirectory::new(self.configuration);
            if self.aged {
                age(&place);
            }
            let (mut seen, mut hit) = (0, None);
            let life = place.live(self.command, &mut |call| {
                if hit.is_some() {
                    return (self.afterwards)(call);
                }
                seen += usize::from((self.hits)(call));
                let due = seen == number;
                hit = due.then(|| call.clone());
                due.then_some(self.fault)
            });
            let Some(life) = life else { return };
            let Some(hit) = hit else {
                assert_eq!(life.end, self.undisturbed(), "undisturbed: {}", life.output);
                break;
            };
            let shown = place.shown(&hit);
            if let Err(problem) = self.judge(&place, &life, &hit, number) {
                problems.push(format!("call {number}, {shown}: {problem}\n{}", life.output));
            }
            *hits.entry(shown).or_default() += 1;
        }
        let count: usize = hits.values().sum();
        println!("{name}: {count} calls hit in {:?}", began.elapsed());
        for (call, count) in &hits {
            println!("    {count:3} {call}");
        }
        assert!(
            problems.is_empty(),
            "{} problems\n{}",
            problems.len(),
            problems.join("\n")
        );
    }

    fn undisturbed(self) -> End {
        End::Code(if self.command == "clean" { 0 } else { 143 })
    }

    /// Checks the state after a life.
    fn judge(self, place: &TestDirectory, life: &Life, hit: &Call, number: usize) -> Result<(), String> {
        // With both killed no process is left that could end the daemonised one.
        let stray = usize::from(matches!(
            self.fault,
            Fault::Kill(Victims::Both) | Fault::KillHalfway(Victims::Both)
        ));
        place.wait_until_alone(stray)?;
        match (self.fault, life.end) {
            (Fault::Kill(Victims::Orch | Victims::Both) | Fault::KillHalfway(Victims::Orch | Victims::Both), end) => {
                // The last calls of the guard come when orch may have ended already.
                let ended = hit.actor == Actor::Guard && end == self.undisturbed();
                if end != End::Signal(Signal::SIGKILL) && !ended {
                    return Err(format!("killed, and ended with {end:?}"));
                }
            }
            (Fault::Kill(Victims::Guard) | Fault::KillHalfway(Victims::Guard), End::Code(3)) => {
                if !life.output.contains("guard") {
                    return Err("the guard's death is not reported".to_owned());
                }
            }
            // After its last report orch does not need the guard any more.
            (Fault::Kill(Victims::Guard), End::Code(143)) if hit.name == "unlink" => {}
            (Fault::Fail(errno), end) if end == End::Code(3) || end == self.undisturbed() => {
                let why = std::io::Error::from(errno).to_string();
                if !place.output_and_guard_log(life).contains(&why) {
                    return Err(format!("`{why}` is not reported; ended with {:?}", life.end));
                }
            }
            (Fault::Halve, end) if end == self.undisturbed() => {}
            // A process of a service writes a record of itself, and cannot write a second one.
            (Fault::Halve, End::Code(3)) if hit.actor == Actor::Service => {}
            (_, end) => return Err(format!("ended with {end:?}")),
        }
        place.whole()?;
        // Alternately, so that each also meets the state that the other would have repaired.
        if number.is_multiple_of(2) {
            place.next_start()?;
            place.tidy(&[place.state(), place.state().join("redis")])?;
            place.clean()?;
        } else {
            place.clean()?;
            place.next_start()?;
        }
        place.tidy(&place.directories())
    }
}

fn of_orch(call: &Call) -> bool {
    call.actor == Actor::Orch
}

fn of_all(_: &Call) -> bool {
    true
}

const KILL_ORCH: Campaign = Campaign {
    configuration: WEB,
    command: "up",
    aged: false,
    hits: of_orch,
    fault: Fault::Kill(Victims::Orch),
    afterwards: ONCE,
};

#[test]
fn orch_killed_before_each() {
    KILL_ORCH.run("orch killed before each");
}

#[test]
fn orch_killed_before_each_in_a_directory_with_a_history() {
    let aged = Campaign {
        aged: true,
        ..KILL_ORCH
    };
    aged.run("orch killed before each, in a directory with a history");
}

#[test]
fn the_guard_killed_before_each_of_its_own() {
    let guard = Campaign {
        hits: |call| call.actor != Actor::Orch,
        fault: Fault::Kill(Victims::Guard),
        ..KILL_ORCH
    };
    guard.run("the guard killed before each of its own");
}

#[test]
fn both_killed_before_each() {
    let both = Campaign {
        hits: of_all,
        fault: Fault::Kill(Victims::Both),
        ..KILL_ORCH
    };
    both.run("orch and the guard killed before each");
}

#[test]
fn both_killed_in_the_middle_of_each() {
    let halfway = Campaign {
        hits: Call::writes,
        fault: Fault::KillHalfway(Victims::Both),
        ..KILL_ORCH
    };
    halfway.run("orch and the guard killed in the middle of each");
}

#[test]
fn each_refused_by_a_full_disk() {
    let refused = Campaign {
        hits: Call::needs_room,
        fault: Fault::Fail(Errno::ENOSPC),
        ..KILL_ORCH
    };
    refused.run("each refused for want of room");
}

#[test]
fn each_failing_by_a_bad_disk() {
    let refused = Campaign {
        hits: of_all,
        fault: Fault::Fail(Errno::EIO),
        ..KILL_ORCH
    };
    refused.run("each failing");
}

#[test]
fn each_cut_short() {
    let halved = Campaign {
        hits: Call::writes,
        fault: Fault::Halve,
        ..KILL_ORCH
    };
    halved.run("each cut short");
}

#[test]
fn a_disk_that_is_full_from_each_on() {
    let full = Campaign {
        hits: Call::needs_room,
        fault: Fault::Fail(Errno::ENOSPC),
        afterwards: |call| call.needs_room().then_some(Fault::Fail(Errno::ENOSPC)),
        ..KILL_ORCH
    };
    full.run("a disk that is full from each on");
}

const CLEAN: Campaign = Campaign {
    command: "clean",
    aged: true,
    ..KILL_ORCH
};

#[test]
fn clean_killed_before_each() {
    CLEAN.run("`orch clean` killed before each");
}

#[test]
fn clean_with_each_failing() {
    let failing = Campaign {
        fault: Fault::Fail(Errno::EIO),
        ..CLEAN
    };
    failing.run("`orch clean` with each failing");
}

/// Selects the files that orch writes for Redis.
fn of_redis(call: &Call) -> bool {
    call.path.components().any(|word| word.as_os_str() == "redis")
}

#[test]
fn killed_before_each_about_redis() {
    let redis = Campaign {
        configuration: REDIS,
        hits: of_redis,
        ..KILL_ORCH
    };
    redis.run("orch killed before each about Redis");
}

#[test]
fn each_about_redis_failing() {
    let redis = Campaign {
        configuration: REDIS,
        hits: of_redis,
        fault: Fault::Fail(Errno::ENOSPC),
        ..KILL_ORCH
    };
    redis.run("each about Redis refused for want of room");
}
