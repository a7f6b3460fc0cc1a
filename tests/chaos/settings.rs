//! Settings of the driver, from the environment.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Kind of rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Campaign {
    /// `orch up` with stubborn and daemonising services; orch is killed at a random moment of its life.
    OrchKilled,
    /// As `OrchKilled`, but the guard is killed.
    GuardKilled,
    /// As `OrchKilled`, but both are killed at the same instant; the next start ends what is left.
    BothKilled,
    /// `orch run` with Redis and a Celery worker; orch is killed at a random moment of its life.
    RunKilled,
    /// A job of many chunks with a random fault every few seconds.
    Job,
    /// Runs of several such jobs with a few faults each; the verdict on every job is compared with its ledger.
    Ledger,
    /// Many small jobs; all connections to Redis are cut again and again.
    Connections,
}

impl Campaign {
    pub const ALL: [Self; 7] = [
        Self::OrchKilled,
        Self::GuardKilled,
        Self::BothKilled,
        Self::RunKilled,
        Self::Job,
        Self::Ledger,
        Self::Connections,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::OrchKilled => "orch-killed",
            Self::GuardKilled => "guard-killed",
            Self::BothKilled => "both-killed",
            Self::RunKilled => "run-killed",
            Self::Job => "job",
            Self::Ledger => "ledger",
            Self::Connections => "connections",
        }
    }

    /// Returns the share of the campaign in the time, in hundredths.
    fn share(self) -> u32 {
        match self {
            Self::OrchKilled => 15,
            Self::GuardKilled | Self::BothKilled => 5,
            Self::RunKilled => 15,
            Self::Job => 40,
            Self::Ledger => 35,
            Self::Connections => 10,
        }
    }

    /// Returns the share of the campaign in the rounds asked for, in thousandths: of 1,000 kills of orch, 50 are of
    /// `orch run`.
    fn rounds(self) -> u32 {
        match self {
            Self::OrchKilled => 950,
            Self::GuardKilled | Self::BothKilled => 100,
            Self::RunKilled => 50,
            Self::Job => 3,
            // Rounds of five jobs each.
            Self::Ledger => 100,
            Self::Connections => 200,
        }
    }
}

impl fmt::Display for Campaign {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Campaign {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|campaign| campaign.name() == text)
            .ok_or_else(|| {
                let known: Vec<_> = Self::ALL.iter().map(|campaign| campaign.name()).collect();
                format!("no campaign `{text}`; there are {}", known.join(", "))
            })
    }
}

/// Returns the number of chunks of a job; `ORCH_CHAOS_CHUNKS` sets another number.
pub fn chunks() -> u32 {
    const CHUNKS: u32 = 2000;
    variable("ORCH_CHAOS_CHUNKS").ok().flatten().unwrap_or(CHUNKS)
}

/// Limits of a campaign.
#[derive(Clone, Debug)]
pub struct Limits {
    pub seed: u64,
    pub rounds: Option<u32>,
    pub until: Option<Instant>,
    /// Number of the one round of the ledger campaign that is done, or all.
    pub only: Option<u32>,
}

impl Limits {
    /// Returns whether round `number`, from 0, may begin.
    pub fn allow(&self, number: u32) -> bool {
        // Always the first round: a campaign without a round would be a success that shows nothing.
        number == 0
            || self.rounds.is_none_or(|rounds| number < rounds) && self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Returns the randomness of one round: a function of the seed and the number alone.
    pub fn random(&self, number: u32) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rounds, self.until) {
            (Some(rounds), _) => write!(out, "{rounds} rounds"),
            (None, Some(until)) => {
                let left = until.saturating_duration_since(Instant::now());
                write!(out, "for {} s", left.as_secs())
            }
            (None, None) => out.write_str("without end"),
        }
    }
}

pub struct Settings {
    pub seed: u64,
    pub campaigns: Vec<Campaign>,
    /// Time of all campaigns together.
    time: Option<Duration>,
    /// Number of kills of orch; the other campaigns do rounds in proportion.
    rounds: Option<u32>,
    /// The one round that is repeated.
    only: Option<u32>,
    /// File of the report.
    pub report: Option<PathBuf>,
}

impl Settings {
    pub fn from_environment() -> Result<Self, String> {
        let seconds: Option<u64> = variable("ORCH_CHAOS_SECONDS")?;
        let rounds: Option<u32> = variable("ORCH_CHAOS_ROUNDS")?;
        let named: Option<String> = variable("ORCH_CHAOS_CAMPAIGNS")?;
        let asked = seconds.is_some() || rounds.is_some();
        let campaigns = match named {
            Some(names) => names.split(',').map(str::parse).collect::<Result<_, _>>()?,
            None if asked => Campaign::ALL.to_vec(),
            None => vec![Campaign::OrchKilled, Campaign::GuardKilled, Campaign::BothKilled],
        };
        Ok(Self {
            seed: variable("ORCH_CHAOS_SEED")?.unwrap_or_else(|| fastrand::u64(..1_000_000_000)),
            campaigns,
            time: seconds.map(Duration::from_secs),
            rounds: rounds.or((!asked).then_some(10)),
            only: variable("ORCH_CHAOS_ROUND")?,
            report: variable("ORCH_CHAOS_REPORT")?,
        })
    }

    pub fn limits(&self, campaign: Campaign, began: Instant) -> Limits {
        let part = |all: u32| (all * campaign.rounds()).div_ceil(1000);
        // A campaign that ended early leaves its time to the next ones: each ends where the shares up to it end.
        let before = self.campaigns.iter().take_while(|other| **other != campaign);
        let shares: u32 = before.map(|other| other.share()).sum::<u32>() + campaign.share();
        let whole: u32 = self.campaigns.iter().map(|other| other.share()).sum();
        Limits {
            seed: self.seed ^ u64::from(campaign.rounds()) << 32 ^ u64::from(campaign.share()) << 40,
            rounds: self.rounds.map(part),
            until: self.time.map(|time| began + time * shares / whole),
            only: self.only,
        }
    }
}

fn variable<T: FromStr>(name: &str) -> Result<Option<T>, String> {
    match std::env::var(name) {
        Err(_) => Ok(None),
        Ok(text) => {
            let parsed = text.parse().map_err(|_| format!("{name}={text} is not understood"));
            parsed.map(Some)
        }
    }
}
