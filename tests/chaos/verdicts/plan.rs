//! Plan of a round: everything that the seed decides.

use std::fmt;
use std::time::Duration;

use crate::fault::Fault;
use crate::judge::Asked;
use crate::settings::chunks;

/// Sites of one run; each is a job.
pub const SITES: usize = 5;
/// Time, beyond that of its chunks, after which a round hangs.
const ROUND_TIMEOUT: Duration = Duration::from_secs(240);
/// Time for one chunk, on a machine that builds at the same time.
const CHUNK_TIMEOUT: Duration = Duration::from_millis(40);
pub const RESTARTS: &str = "restart = { limit = 1000, backoff = \"50ms\", backoff_max = \"500ms\" }\n";

/// Owner of the Redis and the worker that a run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    Owned,
    /// The Redis of another owner, and a worker of the run.
    External,
    /// Redis and worker of the `orch up` in the same directory.
    BesideUp,
    /// Redis and worker of another owner: the `orch up` of another directory, which restarts both.
    Reused,
}

/// Faults of a round, the last one only where an `orch up` shares the services.
const FAULTS: [Fault; 8] = [
    Fault::WorkerKilled,
    Fault::PoolChildKilled,
    Fault::RedisKilled,
    Fault::OrchKilled,
    Fault::GuardKilled,
    Fault::BothKilled,
    Fault::Interrupted,
    Fault::UpKilled,
];

impl Setup {
    pub const ALL: [Self; 4] = [Self::Owned, Self::External, Self::BesideUp, Self::Reused];

    pub fn faults(self) -> &'static [Fault] {
        match self {
            Self::Owned | Self::External | Self::Reused => &FAULTS[..FAULTS.len() - 1],
            Self::BesideUp => &FAULTS,
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Owned => "own Redis, own worker",
            Self::External => "another's Redis, own worker",
            Self::BesideUp => "Redis and worker of `orch up`",
            Self::Reused => "another's Redis, reused worker",
        })
    }
}

/// Content of the result of a dispatch task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Chord,
    Job,
    Id,
    Nothing,
}

impl Names {
    pub fn word(self) -> &'static str {
        match self {
            Self::Chord => "chord",
            Self::Job => "job",
            Self::Id => "id",
            Self::Nothing => "nothing",
        }
    }
}

/// Task of a job that raises each time that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fails {
    Nothing,
    Chunk(u32),
    Callback,
    Dispatch,
}

#[derive(Clone, Copy, Debug)]
pub struct Site {
    pub names: Names,
    /// The app keeps progress keys.
    pub keys: bool,
    /// Each execution of a chunk returns another result.
    pub stamped: bool,
    pub fails: Fails,
}

impl Site {
    pub fn random(random: &mut fastrand::Rng, chunks: u32) -> Self {
        let names = match random.u32(..10) {
            0..5 => Names::Chord,
            5..7 => Names::Job,
            7 => Names::Id,
            _ => Names::Nothing,
        };
        let fails = match random.u32(..40) {
            0..2 => Fails::Chunk(random.u32(..chunks)),
            2 => Fails::Callback,
            3 => Fails::Dispatch,
            _ => Fails::Nothing,
        };
        Self {
            names,
            keys: random.bool(),
            stamped: random.u32(..4) == 0,
            fails,
        }
    }

    pub fn configuration(self, name: &str, chunks: u32, callback_seconds: f64) -> String {
        let fails = match self.fails {
            Fails::Nothing => String::new(),
            Fails::Chunk(number) => format!(", fails = {number}"),
            Fails::Callback => ", fails = \"callback\"".to_owned(),
            Fails::Dispatch => ", fails = \"dispatch\"".to_owned(),
        };
        format!(
            "[sites.{name}.dispatch]\ntask = \"ledger.dispatch\"\n\
             kwargs = {{ site = \"{{site}}\", job_id = \"{{job_id}}\", chunks = {chunks}, names = \"{}\", keys = {}, \
             stamped = {}, callback_seconds = {callback_seconds:.3}{fails} }}\n",
            self.names.word(),
            self.keys,
            self.stamped
        )
    }
}

impl fmt::Display for Site {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "names {}", self.names.word())?;
        if self.keys {
            out.write_str(", keys")?;
        }
        if self.stamped {
            out.write_str(", stamped")?;
        }
        match self.fails {
            Fails::Nothing => Ok(()),
            Fails::Chunk(number) => write!(out, ", chunk {number} raises"),
            Fails::Callback => out.write_str(", the callback raises"),
            Fails::Dispatch => out.write_str(", the dispatch raises"),
        }
    }
}

/// Event before a fault, counted from the fault before it.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// The start of the run, or the fault before.
    Now,
    /// The start of a dispatch task.
    Dispatch,
    /// The end of this number of chunks.
    Chunks(usize),
    /// The start of a callback.
    Callback,
}

#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub fault: Fault,
    pub moment: Moment,
    /// Time from the moment to the fault.
    pub delay: Duration,
}

impl fmt::Display for Planned {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, {} ms after ", self.fault, self.delay.as_millis())?;
        match self.moment {
            Moment::Now => out.write_str("the start or the fault before"),
            Moment::Dispatch => out.write_str("a dispatch began"),
            Moment::Chunks(number) => write!(out, "{number} chunks ended"),
            Moment::Callback => out.write_str("a callback began"),
        }
    }
}

/// Plan of one round.
#[derive(Clone, Debug)]
pub struct Plan {
    pub setup: Setup,
    pub late: bool,
    pub retries: u32,
    pub slots: u32,
    pub chunks: u32,
    pub callback_seconds: f64,
    pub sites: Vec<Site>,
    pub faults: Vec<Planned>,
    /// Randomness that is left for the round: the choice of the pool process that is hit.
    pub random: fastrand::Rng,
}

impl Plan {
    pub fn new(number: u32, mut random: fastrand::Rng) -> Self {
        let chunks = chunks();
        // In turn, so that a few rounds cover all of them.
        let setup = Setup::ALL[number as usize % 4];
        let late = (number / 4).is_multiple_of(2);
        let retries = if random.bool() { 2 } else { 0 };
        let sites = (0..SITES).map(|_| Site::random(&mut random, chunks)).collect();
        let callback_seconds = random.f64() * 0.4;
        let count = [0, 1, 1, 2, 2, 3, 4][random.usize(..7)];
        let faults = (0..count)
            .map(|_| {
                let fault = setup.faults()[random.usize(..setup.faults().len())];
                let (moment, longest) = match random.u32(..10) {
                    0..2 => (Moment::Now, 3000),
                    2..4 => (Moment::Dispatch, 1500),
                    // The last fault still comes before the end.
                    4..8 => (Moment::Chunks(random.usize(..chunks as usize * SITES / count)), 20),
                    _ => (Moment::Callback, 500),
                };
                let delay = Duration::from_millis(random.u64(..=longest));
                Planned { fault, moment, delay }
            })
            .collect();
        Self {
            setup,
            late,
            retries,
            slots: random.u32(2..=4),
            chunks,
            callback_seconds,
            sites,
            faults,
            random,
        }
    }

    pub fn site_name(number: usize) -> String {
        format!("s{number}")
    }

    pub fn site(&self, name: &str) -> Option<&Site> {
        (0..self.sites.len())
            .find(|number| Self::site_name(*number) == name)
            .map(|number| &self.sites[number])
    }

    pub fn asked(&self, name: &str) -> Asked {
        Asked {
            chunks: self.chunks,
            names_callback: self
                .site(name)
                .is_some_and(|site| matches!(site.names, Names::Chord | Names::Id)),
        }
    }

    pub fn timeout(&self) -> Duration {
        ROUND_TIMEOUT + CHUNK_TIMEOUT * self.chunks * u32::try_from(SITES).unwrap_or(u32::MAX) * (self.retries + 1)
    }

    pub fn worker(&self) -> String {
        format!(
            "[celery]\napp = \"ledger_app\"\nlog_level = \"WARNING\"\nconcurrency = {}\nacks_late = {}\n{RESTARTS}",
            self.slots, self.late
        )
    }

    pub fn configuration(&self, redis: &str) -> String {
        let worker = self.worker();
        let reuse = self.setup != Setup::External;
        let mut text = format!(
            "[orch]\nmax_parallel_sites = {SITES}\nmemory_reserve = \"0\"\n[redis]\n{redis}\n{worker}reuse = {reuse}\n\
             [sites.defaults]\ntimeout = \"{}s\"\nretries = {}\nretry_backoff = \"300ms\"\n",
            self.timeout().as_secs(),
            self.retries,
        );
        for (number, site) in self.sites.iter().enumerate() {
            text += &site.configuration(&Self::site_name(number), self.chunks, self.callback_seconds);
        }
        text
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acknowledgement = if self.late { "late" } else { "early" };
        write!(
            out,
            "{}, {acknowledgement} acknowledgement, {} retries, {} slots, {} chunks a site",
            self.setup, self.retries, self.slots, self.chunks
        )?;
        for (number, site) in self.sites.iter().enumerate() {
            write!(out, "\n      {}: {site}", Self::site_name(number))?;
        }
        for fault in &self.faults {
            write!(out, "\n      planned: {fault}")?;
        }
        Ok(())
    }
}
