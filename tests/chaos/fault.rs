//! What the driver does to a running job, each by pids that it knows from orch's journal and the kernel.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::processes::{children, lives, signal, tree};

/// One fault. What is stopped is continued after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    WorkerKilled,
    PoolChildKilled,
    RedisKilled,
    WorkerStopped,
    PoolChildStopped,
    RedisStopped,
    OrchStopped,
    GuardStopped,
    /// orch and all below it, as when a machine sleeps.
    AllSuspended,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::WorkerKilled,
        Self::PoolChildKilled,
        Self::RedisKilled,
        Self::WorkerStopped,
        Self::PoolChildStopped,
        Self::RedisStopped,
        Self::OrchStopped,
        Self::GuardStopped,
        Self::AllSuspended,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::WorkerKilled => "the worker's main process killed",
            Self::PoolChildKilled => "a pool child killed",
            Self::RedisKilled => "Redis killed",
            Self::WorkerStopped => "the worker's main process stopped for a while",
            Self::PoolChildStopped => "a pool child stopped for a while",
            Self::RedisStopped => "Redis stopped for a while",
            Self::OrchStopped => "orch stopped for a while",
            Self::GuardStopped => "the guard stopped for a while",
            Self::AllSuspended => "everything suspended and resumed",
        })
    }
}

/// The processes of a run, as they are now.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    pub orch: i32,
    pub guard: i32,
    pub redis: Option<i32>,
    pub worker: Option<i32>,
}

impl Cast {
    /// Whom a fault by signals would hit; none when there is nobody now.
    fn victims(&self, fault: Fault, random: &mut fastrand::Rng) -> Vec<i32> {
        let pool_child = |random: &mut fastrand::Rng| {
            let pool = self.worker.map(children).unwrap_or_default();
            (!pool.is_empty()).then(|| pool[random.usize(..pool.len())])
        };
        let found = match fault {
            Fault::WorkerKilled | Fault::WorkerStopped => vec![self.worker],
            Fault::PoolChildKilled | Fault::PoolChildStopped => vec![pool_child(random)],
            Fault::RedisKilled | Fault::RedisStopped => vec![self.redis],
            Fault::OrchStopped => vec![Some(self.orch)],
            Fault::GuardStopped => vec![Some(self.guard)],
            Fault::AllSuspended => tree(self.orch).into_iter().map(Some).collect(),
        };
        found.into_iter().flatten().filter(|pid| lives(*pid)).collect()
    }

    /// Does it; what it returns must be undone by [`resume`] after the pause. `None`: there was nobody to hit.
    pub fn strike(&self, fault: Fault, random: &mut fastrand::Rng) -> Option<Struck> {
        let victims = self.victims(fault, random);
        if victims.is_empty() {
            return None;
        }
        let (kind, pause) = match fault {
            Fault::WorkerKilled | Fault::PoolChildKilled | Fault::RedisKilled => (Signal::SIGKILL, None),
            _ => (Signal::SIGSTOP, Some(Duration::from_millis(random.u64(200..4000)))),
        };
        let mut hit = false;
        for victim in &victims {
            hit |= signal(*victim, kind);
        }
        hit.then_some(Struck { victims, pause })
    }
}

/// What was done.
pub struct Struck {
    victims: Vec<i32>,
    /// Until they are to be continued.
    pub pause: Option<Duration>,
}

impl Struck {
    pub fn resume(&self) {
        for victim in &self.victims {
            signal(*victim, Signal::SIGCONT);
        }
    }
}
