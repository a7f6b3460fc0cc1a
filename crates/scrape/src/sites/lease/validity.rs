//! Validity of a lease: how long the lease is known to be held, when to renew the lease, and the consequence of each
//! answer. Pure: time is an argument.

use std::fmt;
use std::time::Duration;

use super::holder::LeaseOccupant;
use orch_base::boot_clock::BootInstant;
use orch_base::text::duration_text::shown;

/// Timeout of the first request after the process was suspended beyond the end of the lease.
const AFTER_SUSPENSION_TIMEOUT: Duration = Duration::from_secs(2);

/// Meaning of a Redis that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutagePolicy {
    /// Other runs may reach Redis: the work ends before the lease expires.
    StopWork,
    /// No run reaches Redis when this run does not.
    WaitForRedis,
}

/// Times of a lease, all derived from the duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Time to live in Redis from each renewal.
    pub duration: Duration,
    pub outage: OutagePolicy,
}

impl LeaseTerms {
    /// Returns the time from one renewal to the next.
    pub fn renew_interval(self) -> Duration {
        self.duration / 3
    }

    /// Returns the safety margin before the expiry: two request timeouts until the last try has failed, three to stop
    /// the work.
    pub fn margin(self) -> Duration {
        self.duration / 6
    }

    /// Returns the usual timeout of one request, which is also the time from a failed try to the next one.
    pub fn request_timeout(self) -> Duration {
        self.duration / 30
    }

    /// Returns the time in which the work must be stopped.
    pub fn stop_timeout(self) -> Duration {
        (self.request_timeout() * 3).min(Duration::from_secs(2))
    }

    /// Returns the time between two checks of the clock: timers stand still while the machine sleeps.
    pub fn check_interval(self) -> Duration {
        self.request_timeout()
    }
}

/// Result of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenewalAnswer {
    /// This run held the lease, which is now renewed.
    Renewed,
    /// The lease was gone, no other run has held the lease since, and this run has acquired it again with the same
    /// token.
    Reacquired,
    /// Another run holds the lease.
    HeldByOther(LeaseOccupant),
    /// The lease is gone, and another run has held the lease since.
    PassedOn,
    /// No answer came, for this reason.
    NoAnswer(String),
}

/// Reason why a lease is no longer held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseLoss {
    /// Another run has acquired the lease.
    Taken(LeaseOccupant),
    /// Another run has acquired the lease and has ended since.
    PassedOn,
    /// Redis has not confirmed the lease for a time after which another run may soon acquire it.
    NotRenewed { since: Duration, reason: String },
}

impl fmt::Display for LeaseLoss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(occupant) => write!(formatter, "its lease was lost to {occupant}"),
            Self::PassedOn => formatter.write_str("its lease was lost to another run, which has ended since"),
            Self::NotRenewed { since, reason } => {
                let since = shown(Duration::from_secs(since.as_secs()));
                write!(formatter, "its lease could not be renewed for {since}: {reason}")
            }
        }
    }
}

/// Knowledge about a lease that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseValidity {
    terms: LeaseTerms,
    /// Time at which the last renewal that Redis has confirmed was sent: the lease counts from then or later.
    confirmed: BootInstant,
    /// Time at which the last try without an answer was given up, if there was one since.
    failed: Option<BootInstant>,
}

impl LeaseValidity {
    /// Returns the validity of a lease that was acquired by a request sent at `asked`.
    pub fn begin(terms: LeaseTerms, asked: BootInstant) -> Self {
        Self {
            terms,
            confirmed: asked,
            failed: None,
        }
    }

    /// Returns the time of the next renewal.
    pub fn next_try(&self) -> BootInstant {
        match self.failed {
            None => self.confirmed + self.terms.renew_interval(),
            Some(failed) => failed + self.terms.request_timeout(),
        }
    }

    /// Returns the timeout of a request that begins now. The first request after a suspension beyond the end has more
    /// time: a wait costs nothing then, but a missed answer costs the lease.
    pub fn request_timeout(&self, now: BootInstant) -> Duration {
        if self.failed.is_none() && now >= self.end() {
            self.terms.request_timeout().max(AFTER_SUSPENSION_TIMEOUT)
        } else {
            self.terms.request_timeout()
        }
    }

    /// Returns the time from which the work must be ended, unless Redis confirms the lease at that very moment.
    fn end(&self) -> BootInstant {
        self.confirmed + self.terms.duration.saturating_sub(self.terms.margin())
    }

    /// Applies the answer to a renewal that was sent at `asked`.
    ///
    /// Expiry alone is no loss: a process that was suspended finds out from Redis whether another run has held the
    /// lease. A missing answer after the end is a loss, unless outages are waited out.
    ///
    /// # Errors
    /// The lease is lost, and the work must be ended now.
    pub fn apply(self, answer: RenewalAnswer, asked: BootInstant, now: BootInstant) -> Result<Self, LeaseLoss> {
        match answer {
            RenewalAnswer::Renewed | RenewalAnswer::Reacquired => Ok(Self {
                confirmed: self.confirmed.max(asked),
                failed: None,
                ..self
            }),
            RenewalAnswer::HeldByOther(occupant) => Err(LeaseLoss::Taken(occupant)),
            RenewalAnswer::PassedOn => Err(LeaseLoss::PassedOn),
            RenewalAnswer::NoAnswer(reason) => match self.terms.outage {
                OutagePolicy::StopWork if now >= self.end() => Err(LeaseLoss::NotRenewed {
                    since: now - self.confirmed,
                    reason,
                }),
                OutagePolicy::StopWork | OutagePolicy::WaitForRedis => Ok(Self {
                    failed: Some(now),
                    ..self
                }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(outage: OutagePolicy) -> LeaseTerms {
        LeaseTerms {
            duration: Duration::from_secs(30),
            outage,
        }
    }

    fn at(milliseconds: u64) -> BootInstant {
        BootInstant::at(Duration::from_millis(milliseconds))
    }

    fn missing() -> RenewalAnswer {
        RenewalAnswer::NoAnswer("no answer".to_owned())
    }

    fn thief() -> LeaseOccupant {
        LeaseOccupant::Unknown("x".to_owned())
    }

    #[test]
    fn the_shares_leave_time_to_end_the_work() {
        for seconds in [3, 4, 29, 30, 31, 3600] {
            let terms = LeaseTerms {
                duration: Duration::from_secs(seconds),
                outage: OutagePolicy::StopWork,
            };
            assert!(
                terms.request_timeout() * 2 + terms.stop_timeout() <= terms.margin(),
                "{terms:?}"
            );
            assert!(
                terms.renew_interval() + terms.margin() <= terms.duration / 2,
                "{terms:?}"
            );
        }
    }

    #[test]
    fn the_first_request_after_a_suspension_beyond_the_end_may_wait_longer() {
        let begun = LeaseValidity::begin(terms(OutagePolicy::StopWork), at(0));
        let second = Duration::from_secs(1);
        assert_eq!(begun.request_timeout(at(10_000)), second);
        assert_eq!(begun.request_timeout(at(25_000)), AFTER_SUSPENSION_TIMEOUT);
        let failed = begun
            .apply(missing(), at(23_000), at(24_000))
            .expect("the lease is not lost yet");
        assert_eq!(failed.request_timeout(at(25_000)), second);
    }

    #[test]
    fn answers_and_what_follows() {
        use OutagePolicy::{StopWork, WaitForRedis};
        let not_renewed = |since| {
            Err(LeaseLoss::NotRenewed {
                since: Duration::from_millis(since),
                reason: "no answer".to_owned(),
            })
        };
        // The lease was requested at 0. The answer to the request sent at `asked` arrives at `now`; the next try or the
        // loss is expected.
        for (outage, answer, asked, now, next) in [
            (StopWork, RenewalAnswer::Renewed, 10_000, 10_001, Ok(20_000)),
            (StopWork, RenewalAnswer::Reacquired, 10_000, 10_001, Ok(20_000)),
            // The lease counts from the request, however late the answer is.
            (StopWork, RenewalAnswer::Renewed, 10_000, 90_000, Ok(20_000)),
            (StopWork, missing(), 10_000, 11_000, Ok(12_000)),
            (StopWork, missing(), 24_000, 24_999, Ok(25_999)),
            (StopWork, missing(), 24_000, 25_000, not_renewed(25_000)),
            (StopWork, missing(), 99_000, 99_900, not_renewed(99_900)),
            (WaitForRedis, missing(), 99_000, 99_900, Ok(100_900)),
            (
                WaitForRedis,
                RenewalAnswer::HeldByOther(thief()),
                10_000,
                10_001,
                Err(LeaseLoss::Taken(thief())),
            ),
            (
                StopWork,
                RenewalAnswer::PassedOn,
                10_000,
                10_001,
                Err(LeaseLoss::PassedOn),
            ),
        ] {
            let found = LeaseValidity::begin(terms(outage), at(0)).apply(answer.clone(), at(asked), at(now));
            let found = found.map(|validity| validity.next_try());
            assert_eq!(found, next.map(at), "{outage:?}, {answer:?} to {asked} at {now}");
        }
    }

    /// Lease in Redis, as the scripts treat it, with this run as the first holder.
    struct LeaseModel {
        terms: LeaseTerms,
        now: BootInstant,
        /// Holder (true: this run) and expiry.
        lease: Option<(bool, BootInstant)>,
        /// The token that was issued last belongs to this run.
        last_is_ours: bool,
        reachable: bool,
        mine: Option<LeaseValidity>,
        lost_at: Option<BootInstant>,
    }

    #[derive(Clone, Debug)]
    enum ModelMove {
        /// Milliseconds pass.
        Pass(u64),
        Cut,
        Heal,
        OtherTries,
        /// This run is suspended for this number of milliseconds.
        Stop(u64),
        /// Redis loses the lease with all data.
        Forget,
    }

    impl LeaseModel {
        fn begin(outage: OutagePolicy) -> Self {
            let (terms, now) = (terms(outage), at(0));
            Self {
                terms,
                now,
                lease: Some((true, now + terms.duration)),
                last_is_ours: true,
                reachable: true,
                mine: Some(LeaseValidity::begin(terms, now)),
                lost_at: None,
            }
        }

        fn lease(&self) -> Option<bool> {
            self.lease.filter(|(_, ends)| self.now < *ends).map(|(ours, _)| ours)
        }

        /// Makes a move; returns whether another run has just acquired the lease.
        fn make(&mut self, step: &ModelMove) -> bool {
            match step {
                ModelMove::Pass(milliseconds) | ModelMove::Stop(milliseconds) => {
                    self.now = self.now + Duration::from_millis(*milliseconds);
                }
                ModelMove::Cut => self.reachable = false,
                ModelMove::Heal => self.reachable = true,
                ModelMove::Forget => self.lease = None,
                // An outage that is waited out affects all runs alike.
                ModelMove::OtherTries => {
                    let reached = self.reachable || self.terms.outage == OutagePolicy::StopWork;
                    if reached && self.lease().is_none() {
                        self.lease = Some((false, self.now + self.terms.duration));
                        self.last_is_ours = false;
                        return true;
                    }
                }
            }
            false
        }

        fn renew(&mut self) -> RenewalAnswer {
            let answer = match self.lease() {
                _ if !self.reachable => {
                    self.now = self.now + self.terms.request_timeout();
                    return missing();
                }
                Some(false) => return RenewalAnswer::HeldByOther(thief()),
                None if !self.last_is_ours => return RenewalAnswer::PassedOn,
                Some(true) => RenewalAnswer::Renewed,
                None => RenewalAnswer::Reacquired,
            };
            self.lease = Some((true, self.now + self.terms.duration));
            answer
        }

        /// Renews the lease if that is due, as the keeper does while this run is awake.
        fn keep(&mut self) {
            let Some(validity) = self.mine.take() else { return };
            if self.now < validity.next_try() {
                self.mine = Some(validity);
                return;
            }
            let asked = self.now;
            let answer = self.renew();
            match validity.apply(answer, asked, self.now) {
                Ok(validity) => self.mine = Some(validity),
                Err(_) => self.lost_at = Some(self.now),
            }
        }
    }

    /// Generates moves: mostly passing time, often requests of another run, seldom cuts and repairs of the network,
    /// suspensions and losses of data.
    fn moves(with_stops: bool) -> impl Strategy<Value = Vec<ModelMove>> {
        let rarely = u32::from(with_stops);
        let one = prop_oneof![
            12 => (1_u64..900).prop_map(ModelMove::Pass),
            1 => Just(ModelMove::Cut),
            1 => Just(ModelMove::Heal),
            6 => Just(ModelMove::OtherTries),
            rarely => (1_u64..100_000).prop_map(ModelMove::Stop),
            rarely => Just(ModelMove::Forget),
        ];
        prop::collection::vec(one, 0..400)
    }

    proptest! {
        #[test]
        fn while_we_are_awake_nobody_takes_it_before_the_work_has_had_time_to_end(moves in moves(false)) {
            let mut model = LeaseModel::begin(OutagePolicy::StopWork);
            for step in &moves {
                if model.make(step) {
                    let lost_at = model.lost_at.expect("another run acquired a lease that this run believed to hold");
                    prop_assert!(model.now - lost_at >= model.terms.stop_timeout(), "lost at {lost_at:?}, taken at {:?}", model.now);
                    return Ok(());
                }
                model.keep();
            }
        }

        #[test]
        fn an_outage_that_is_waited_out_costs_nothing(moves in moves(false)) {
            let mut model = LeaseModel::begin(OutagePolicy::WaitForRedis);
            for step in moves.iter().filter(|step| !matches!(step, ModelMove::OtherTries)) {
                model.make(step);
                model.keep();
                prop_assert_eq!(model.lost_at, None);
            }
        }

        #[test]
        fn stopped_or_forgotten_it_is_lost_only_to_another_and_that_is_seen_at_the_first_answer(
            moves in moves(true),
            waited_out in any::<bool>(),
        ) {
            let outage = if waited_out { OutagePolicy::WaitForRedis } else { OutagePolicy::StopWork };
            let mut model = LeaseModel::begin(outage);
            let mut taken = false;
            for step in &moves {
                taken |= model.make(step);
                let due = model.mine.as_ref().is_some_and(|mine| model.now >= mine.next_try());
                model.keep();
                if due && model.reachable {
                    prop_assert_eq!(model.mine.is_none(), taken);
                }
                if waited_out && !taken {
                    prop_assert_eq!(model.lost_at, None);
                }
            }
        }
    }
}
