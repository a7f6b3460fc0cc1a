//! Faults of a running job: signals to the pids that orch's journal and the kernel name, and faults of the disk and the
//! connections.

use std::fmt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::disk::Disk;
use crate::processes::{children, lives, signal, tree};
use crate::proxy::Proxy;
use crate::support::schedule::pause_until;

/// One fault. A stop, a hold and a full disk last for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    WorkerKilled,
    PoolChildKilled,
    RedisKilled,
    /// SIGKILL of orch; the run is resumed.
    OrchKilled,
    /// SIGKILL of the guard; the run is resumed.
    GuardKilled,
    /// SIGKILL of both; the run is resumed.
    BothKilled,
    /// Ctrl+C; the run is resumed.
    Interrupted,
    /// SIGKILL of the `orch up` that shares services with the run; `orch up` is started again, and the run is resumed.
    UpKilled,
    WorkerStopped,
    PoolChildStopped,
    RedisStopped,
    OrchStopped,
    GuardStopped,
    /// Stop of orch and all of its descendants, as when a machine sleeps.
    AllSuspended,
    DiskFull,
    ConnectionsCut,
    ConnectionsHeld,
    ConnectionTruncated,
}

impl Fault {
    /// Faults of a job with orch's own Redis.
    pub const OWNED: &[Self] = &[
        Self::WorkerKilled,
        Self::PoolChildKilled,
        Self::RedisKilled,
        Self::OrchKilled,
        Self::GuardKilled,
        Self::BothKilled,
        Self::WorkerStopped,
        Self::PoolChildStopped,
        Self::RedisStopped,
        Self::OrchStopped,
        Self::GuardStopped,
        Self::AllSuspended,
        Self::DiskFull,
    ];
    /// Faults of a job whose Redis is behind the driver's proxy. orch does not put the messages of a dead worker back
    /// there, since others may use that Redis; so no fault kills the worker.
    pub const BEHIND_PROXY: &[Self] = &[
        Self::PoolChildKilled,
        Self::PoolChildStopped,
        Self::OrchStopped,
        Self::ConnectionsCut,
        Self::ConnectionsHeld,
        Self::ConnectionTruncated,
    ];
}

impl Fault {
    /// Returns whether the fault ends the run.
    pub fn ends_the_run(self) -> bool {
        matches!(
            self,
            Self::OrchKilled | Self::GuardKilled | Self::BothKilled | Self::Interrupted | Self::UpKilled
        )
    }

    /// Returns whether the proxy does the fault.
    pub fn breaks_connections(self) -> bool {
        matches!(
            self,
            Self::ConnectionsCut | Self::ConnectionsHeld | Self::ConnectionTruncated
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::WorkerKilled => "the worker's main process killed",
            Self::PoolChildKilled => "a pool child killed",
            Self::RedisKilled => "Redis killed",
            Self::OrchKilled => "orch killed, the run resumed",
            Self::GuardKilled => "the guard killed, the run resumed",
            Self::BothKilled => "orch and its guard killed at once, the run resumed",
            Self::Interrupted => "Ctrl+C, the run resumed",
            Self::UpKilled => "the `orch up` next to the run killed and started again, the run resumed",
            Self::WorkerStopped => "the worker's main process stopped for a while",
            Self::PoolChildStopped => "a pool child stopped for a while",
            Self::RedisStopped => "Redis stopped for a while",
            Self::OrchStopped => "orch stopped for a while",
            Self::GuardStopped => "the guard stopped for a while",
            Self::AllSuspended => "everything suspended and resumed",
            Self::DiskFull => "the disk full for a while",
            Self::ConnectionsCut => "all connections to Redis cut",
            Self::ConnectionsHeld => "all connections to Redis silent for a while",
            Self::ConnectionTruncated => "a message to or from Redis truncated",
        })
    }
}

/// Processes, proxy and disk that a fault can hit now.
pub struct FaultTargets<'a> {
    pub orch: i32,
    pub guard: i32,
    pub redis: Option<i32>,
    pub worker: Option<i32>,
    /// The `orch up` that shares services with the run.
    pub up: Option<i32>,
    pub proxy: Option<&'a Proxy>,
    pub disk: Option<&'a Disk>,
}

impl FaultTargets<'_> {
    /// Returns the processes that a fault by signals would hit; none when there are none now.
    fn victims(&self, fault: Fault, random: &mut fastrand::Rng) -> Vec<i32> {
        let pool_child = |random: &mut fastrand::Rng| {
            let pool = self.worker.map(children).unwrap_or_default();
            (!pool.is_empty()).then(|| pool[random.usize(..pool.len())])
        };
        let found = match fault {
            Fault::WorkerKilled | Fault::WorkerStopped => vec![self.worker],
            Fault::PoolChildKilled | Fault::PoolChildStopped => vec![pool_child(random)],
            Fault::RedisKilled | Fault::RedisStopped => vec![self.redis],
            Fault::OrchKilled | Fault::OrchStopped | Fault::Interrupted => vec![Some(self.orch)],
            Fault::UpKilled => vec![self.up],
            Fault::GuardKilled | Fault::GuardStopped => vec![Some(self.guard)],
            Fault::BothKilled => vec![Some(self.orch), Some(self.guard)],
            Fault::AllSuspended => tree(self.orch).into_iter().map(Some).collect(),
            Fault::DiskFull | Fault::ConnectionsCut | Fault::ConnectionsHeld | Fault::ConnectionTruncated => vec![],
        };
        found.into_iter().flatten().filter(|pid| lives(*pid)).collect()
    }

    /// Strikes with a fault and, after a pause, undoes a lasting one; returns whether there was anything to hit.
    pub fn strike(&self, fault: Fault, random: &mut fastrand::Rng) -> bool {
        let victims = self.victims(fault, random);
        let pause = Duration::from_millis(random.u64(200..4000));
        match (fault, self.proxy, self.disk) {
            (Fault::ConnectionsCut, Some(proxy), _) => proxy.cut() > 0,
            (Fault::ConnectionsHeld, Some(proxy), _) => {
                proxy.hold();
                pause_until(Instant::now() + pause);
                proxy.release();
                true
            }
            (Fault::ConnectionTruncated, Some(proxy), _) => {
                proxy.truncate_next();
                true
            }
            (Fault::DiskFull, _, Some(disk)) => {
                disk.fill();
                pause_until(Instant::now() + pause);
                disk.free();
                true
            }
            (
                Fault::WorkerKilled
                | Fault::PoolChildKilled
                | Fault::RedisKilled
                | Fault::OrchKilled
                | Fault::GuardKilled
                | Fault::UpKilled,
                ..,
            ) => to_all(&victims, Signal::SIGKILL),
            (Fault::Interrupted, ..) => to_all(&victims, Signal::SIGINT),
            (Fault::BothKilled, ..) => {
                // Stopped first, so that neither can react to the death of the other.
                to_all(&victims, Signal::SIGSTOP) && to_all(&victims, Signal::SIGKILL)
            }
            _ => {
                let hit = to_all(&victims, Signal::SIGSTOP);
                if hit {
                    pause_until(Instant::now() + pause);
                    to_all(&victims, Signal::SIGCONT);
                }
                hit
            }
        }
    }
}

/// Sends a signal to all victims; returns whether one of them existed.
fn to_all(victims: &[i32], kind: Signal) -> bool {
    let mut hit = false;
    for victim in victims {
        hit |= signal(*victim, kind);
    }
    hit
}
