//! Tests of the judgement: tables, and random sequences of signals.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::judge::{HealthLimits, HealthMonitor, VerdictChange};
use super::window::WINDOW;
use crate::jobs::{ChunkEnd, JobSignal, WorkerActivity};
use orch_celery::ChordProgress;
use orch_journal::{SiteCounts, SiteHealth};

const LIMITS: HealthLimits = HealthLimits {
    max_error_rate: 0.3,
    stall_after: Some(Duration::from_secs(120)),
    slow: None,
};

/// Site with simulated time.
struct SimulatedSite {
    health: HealthMonitor,
    now: Instant,
    changes: Vec<VerdictChange>,
}

impl SimulatedSite {
    fn new(limits: HealthLimits) -> Self {
        let now = Instant::now();
        Self {
            health: HealthMonitor::new(limits, now),
            now,
            changes: Vec::new(),
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn see(&mut self, vital: JobSignal) -> Option<SiteHealth> {
        let change = self.health.apply_signal(vital, self.now);
        self.changes.extend(change.clone());
        change.map(|change| change.health)
    }

    fn progressed(&mut self, done: u64, total: u64) -> Option<SiteHealth> {
        let counts = SiteCounts {
            completed_chunks: Some(done),
            total_chunks: Some(total),
            ..SiteCounts::default()
        };
        let change = self.health.apply_progress(counts, self.now);
        self.changes.extend(change.clone());
        change.map(|change| change.health)
    }

    /// Ends chunks: `.` is a chunk that succeeds, `x` one that fails.
    fn chunks(&mut self, chunks: &str) {
        for chunk in chunks.chars() {
            self.see(ended(chunk == '.', 10));
        }
    }

    fn verdicts(&self) -> Vec<SiteHealth> {
        self.changes.iter().map(|change| change.health).collect()
    }

    fn last_reason(&self) -> &str {
        self.changes.last().map_or("", |change| change.reason.as_str())
    }
}

fn ended(succeeded: bool, seconds: u64) -> JobSignal {
    JobSignal::ChunkEnded(ChunkEnd {
        succeeded,
        runtime: Some(Duration::from_secs(seconds)),
    })
}

fn read(done: u64, failed: u64) -> JobSignal {
    let total = Some(40);
    JobSignal::ChordRead(ChordProgress { done, total, failed })
}

#[test]
fn too_many_failures_are_failing_and_no_few_are() {
    use SiteHealth::{Failing, Healthy};
    for (rate, total, chunks, expected) in [
        (0.3, 40, "xxxxxxxxx", vec![]),
        (0.3, 40, "xxxxxxxxxx", vec![Failing]),
        (0.3, 40, "......xxxx", vec![Failing]),
        (0.3, 40, ".......xxx", vec![]),
        // 6 of the last 20 may fail, and older chunks are forgotten.
        (0.3, 40, "xxx..............xxxxxx", vec![]),
        (0.3, 40, "...................xxxxxxx", vec![Failing]),
        // Clearly below the limit, and not only for a moment.
        (0.3, 40, ".................xxxxxxx.............", vec![Failing]),
        (
            0.3,
            40,
            ".................xxxxxxx................",
            vec![Failing, Healthy],
        ),
        // Half of few chunks are enough, but one of one is no rate.
        (0.3, 5, "xx", vec![]),
        (0.3, 5, "xxx", vec![Failing]),
        (0.3, 1, "x", vec![]),
        (0.0, 40, ".........x", vec![Failing]),
        (1.0, 40, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", vec![]),
    ] {
        let max_error_rate = rate;
        let mut life = SimulatedSite::new(HealthLimits {
            max_error_rate,
            ..LIMITS
        });
        life.progressed(0, total);
        life.chunks(chunks);
        assert_eq!(life.verdicts(), expected, "{chunks} at {rate} of {total}");
    }
}

#[test]
fn reasons_are_for_a_person_at_night() {
    let mut life = SimulatedSite::new(LIMITS);
    life.progressed(0, 40);
    life.chunks(".......xxxx");
    assert_eq!(
        life.last_reason(),
        "4 of the last 11 chunks failed (36 %, more than max_error_rate 30 %), the latest 4 in a row"
    );
    life.chunks("..................");
    assert_eq!(
        life.last_reason(),
        "only 4 of the last 18 chunks failed, none of the latest 5"
    );
    life.progressed(37, 40);
    life.wait(130);
    assert_eq!(
        life.see(JobSignal::WorkersPolled(WorkerActivity::Running(3))),
        Some(SiteHealth::Stalled)
    );
    assert_eq!(
        life.last_reason(),
        "nothing has happened for 2m10s (stall_after 2m), 3 of 40 chunks left, 3 tasks run"
    );
    assert_eq!(life.see(JobSignal::EventReceived), Some(SiteHealth::Healthy));
    assert_eq!(life.last_reason(), "something happens again");
    // Without a worker there is no waiting time.
    life.wait(15);
    assert_eq!(
        life.see(JobSignal::WorkersPolled(WorkerActivity::Deserted)),
        Some(SiteHealth::Stalled)
    );
    assert_eq!(
        life.last_reason(),
        "no worker consumes its queue, nothing has happened for 15s, 3 of 40 chunks left"
    );
    assert_eq!(life.see(JobSignal::Interrupted), Some(SiteHealth::Healthy));
    life.wait(120);
    assert_eq!(
        life.see(JobSignal::WorkersPolled(WorkerActivity::Idle)),
        Some(SiteHealth::Stalled)
    );
    assert!(
        life.last_reason()
            .ends_with("left, no worker is running any of them or any other task"),
        "{}",
        life.last_reason()
    );

    let slow = Some((Duration::from_secs(600), 1.5));
    let mut life = SimulatedSite::new(HealthLimits { slow, ..LIMITS });
    life.progressed(30, 40);
    life.chunks("...");
    life.wait(900);
    assert_eq!(life.see(JobSignal::TimePassed), None);
    life.wait(1);
    assert_eq!(life.see(JobSignal::TimePassed), Some(SiteHealth::Slow));
    assert_eq!(
        life.last_reason(),
        "it runs for 15m01s and usually takes 10m (slow_factor 1.5), 10 of 40 chunks left; a chunk takes 10s, 1 in 20 more \
         than 10s"
    );
}

#[test]
fn quiet_is_a_stall_only_when_nothing_accounts_for_it() {
    use WorkerActivity::{Idle, Running, Unknown, Waiting};
    let looks = |looks: &[(u64, JobSignal)]| {
        let mut life = SimulatedSite::new(LIMITS);
        let mut last = None;
        for (seconds, vital) in looks {
            life.wait(*seconds);
            last = life.see(*vital).or(last);
        }
        last
    };
    let stalled = Some(SiteHealth::Stalled);
    let looked = |found| JobSignal::WorkersPolled(found);
    assert_eq!(looks(&[(120, looked(Running(1)))]), stalled);
    assert_eq!(looks(&[(120, looked(Idle))]), stalled);
    assert_eq!(looks(&[(119, looked(Running(1)))]), None, "not yet");
    for reason in [Waiting, Unknown] {
        assert_eq!(looks(&[(1000, looked(reason))]), None, "{reason:?}");
        // The task may have begun just now: its time begins here.
        assert_eq!(looks(&[(120, looked(reason)), (120, looked(Running(1)))]), None);
        let again = [
            (120, looked(reason)),
            (120, looked(Running(1))),
            (120, looked(Running(1))),
        ];
        assert_eq!(looks(&again), stalled);
    }
    for sign in [
        JobSignal::EventReceived,
        JobSignal::Interrupted,
        ended(true, 1),
        ended(false, 1),
    ] {
        assert_eq!(looks(&[(119, sign), (119, looked(Running(1)))]), None, "{sign:?}");
    }
    let mut life = SimulatedSite::new(HealthLimits {
        stall_after: None,
        ..LIMITS
    });
    life.wait(1 << 30);
    assert_eq!(life.see(JobSignal::WorkersPolled(Running(1))), None);
}

#[test]
fn without_events_the_counters_of_the_chord_count() {
    let mut life = SimulatedSite::new(LIMITS);
    life.progressed(0, 40);
    assert_eq!(life.see(read(8, 2)), None);
    assert_eq!(life.see(read(8, 2)), None, "nothing new");
    assert_eq!(life.see(read(12, 6)), Some(SiteHealth::Failing));
    assert_eq!(life.see(read(40, 6)), Some(SiteHealth::Healthy));
    // Once events arrive, the counters would count the same ends twice.
    life.chunks("....");
    assert_eq!(life.see(read(40, 40)), None);
    // Far more chunks than a window count like a full window.
    let mut life = SimulatedSite::new(LIMITS);
    assert_eq!(life.see(read(u64::MAX, u64::MAX)), Some(SiteHealth::Failing));
    assert_eq!(life.see(read(0, 0)), None);
}

#[derive(Clone, Copy, Debug)]
enum HealthStep {
    Wait(u64),
    See(JobSignal),
    Progress(u64),
}

fn steps() -> impl Strategy<Value = Vec<HealthStep>> {
    let activity = proptest::sample::select(vec![
        WorkerActivity::Running(1),
        WorkerActivity::Waiting,
        WorkerActivity::Idle,
        WorkerActivity::Unknown,
    ]);
    let step = prop_oneof![
        3 => (0u64..200).prop_map(HealthStep::Wait),
        6 => (any::<bool>(), 0u64..1000).prop_map(|(succeeded, seconds)| HealthStep::See(ended(succeeded, seconds))),
        1 => Just(HealthStep::See(JobSignal::EventReceived)),
        1 => Just(HealthStep::See(JobSignal::TimePassed)),
        1 => Just(HealthStep::See(JobSignal::Interrupted)),
        1 => any::<(u64, u64)>().prop_map(|(done, failed)| HealthStep::See(read(done, failed))),
        3 => activity.prop_map(|found| HealthStep::See(JobSignal::WorkersPolled(found))),
        1 => (0u64..40).prop_map(HealthStep::Progress),
    ];
    proptest::collection::vec(step, 0..300)
}

proptest! {
    #[test]
    fn verdicts_are_reported_on_change_and_never_flap(steps in steps(), rate in 0.0..=1.0_f64) {
        let slow = Some((Duration::from_secs(3000), 2.0));
        let mut life = SimulatedSite::new(HealthLimits { max_error_rate: rate, slow, ..LIMITS });
        let mut said = SiteHealth::Healthy;
        let (mut chunks, mut quiet) = (0_u64, 0);
        let mut failing_left_at = None;
        for step in steps {
            let change = match step {
                HealthStep::Wait(seconds) => {
                    life.wait(seconds);
                    quiet += seconds;
                    None
                }
                HealthStep::See(vital) => {
                    // The counters may report many ends in one signal.
                    chunks += match vital {
                        JobSignal::ChunkEnded(_) => 1,
                        JobSignal::ChordRead(_) => 5,
                        _ => 0,
                    };
                    life.see(vital)
                }
                HealthStep::Progress(done) => life.progressed(done, 40),
            };
            if let Some(health) = change {
                prop_assert_ne!(health, said, "a verdict is reported only when it changes");
                match health {
                    SiteHealth::Stalled => {
                        prop_assert!(matches!(step, HealthStep::See(JobSignal::WorkersPolled(WorkerActivity::Running(_) | WorkerActivity::Idle))));
                        prop_assert!(quiet >= 120, "quiet for {quiet} s only");
                    }
                    SiteHealth::Failing if said != SiteHealth::Stalled => {
                        if let Some(left) = failing_left_at {
                            prop_assert!(chunks > left, "nothing has failed since");
                        }
                    }
                    SiteHealth::Healthy if said == SiteHealth::Failing => failing_left_at = Some(chunks),
                    SiteHealth::Failing | SiteHealth::Slow | SiteHealth::Healthy => {}
                }
                let vitals = &life.changes[life.changes.len() - 1].vitals;
                prop_assert!(vitals.window <= WINDOW as u64 && vitals.failed <= vitals.window);
                said = health;
            }
            if !matches!(step, HealthStep::Wait(_) | HealthStep::See(JobSignal::WorkersPolled(_) | JobSignal::ChordRead(_) | JobSignal::TimePassed)) {
                quiet = 0;
            }
        }
    }

    #[test]
    fn between_failing_and_failing_again_come_many_chunks(chunks in proptest::collection::vec(any::<bool>(), 0..400), rate in 0.0..=1.0_f64) {
        let mut life = SimulatedSite::new(HealthLimits { max_error_rate: rate, ..LIMITS });
        let mut last_failure = None;
        for (index, succeeded) in chunks.into_iter().enumerate() {
            if !succeeded {
                last_failure = Some(index);
            }
            if life.see(ended(succeeded, 1)) == Some(SiteHealth::Healthy) {
                let since = last_failure.map(|last| index - last);
                prop_assert!(since.is_some_and(|since| since >= 5), "well again {since:?} chunks after the last failure");
            }
        }
    }
}
