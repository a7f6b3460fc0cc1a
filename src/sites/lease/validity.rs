//! How long a lease is known to be held, when to ask for more, and what follows from the answer. Pure: time is an argument.

use std::fmt;
use std::time::Duration;

use super::holder::Occupant;
use super::moment::Moment;
use crate::duration_text::shown;

/// For the first question after the process was stopped beyond the end.
const AFTER_A_STOP: Duration = Duration::from_secs(2);

/// What a Redis that does not answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Others may reach it: the work ends before the lease does.
    EndsTheWork,
    /// Nobody reaches it when we do not.
    IsWaitedOut,
}

/// The times of a lease; all are shares of how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long it lasts in Redis from each renewal.
    pub duration: Duration,
    pub outage: Outage,
}

impl Terms {
    /// From one renewal to the next.
    pub fn renew_every(self) -> Duration {
        self.duration / 3
    }

    /// So long before its end the work must be ended: two patiences until the last try has failed, three for the end.
    pub fn margin(self) -> Duration {
        self.duration / 6
    }

    /// Longest wait for one answer, as a rule, and from one failed try to the next.
    pub fn patience(self) -> Duration {
        self.duration / 30
    }

    /// How long the end of the work may take.
    pub fn ending(self) -> Duration {
        (self.patience() * 3).min(Duration::from_secs(2))
    }

    /// How often the clock is looked at: timers stand still while the machine sleeps.
    pub fn look_every(self) -> Duration {
        self.patience()
    }
}

/// What came of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was ours and is renewed.
    Ours,
    /// It was gone, nobody has had it since, and it is taken again under the same token.
    TakenAgain,
    /// Another has it.
    Others(Occupant),
    /// It is gone, and another has had it since.
    Passed,
    /// None came, for this reason.
    Missing(String),
}

/// Why a lease is not held any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Another run has taken it.
    Taken(Occupant),
    /// Another run has taken it and has ended since.
    Passed,
    /// Redis has not confirmed it for so long that another run may take it soon.
    NotRenewed { since: Duration, reason: String },
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(occupant) => write!(formatter, "its lease was lost to {occupant}"),
            Self::Passed => formatter.write_str("its lease was lost to another run, which has ended since"),
            Self::NotRenewed { since, reason } => {
                let since = shown(Duration::from_secs(since.as_secs()));
                write!(formatter, "its lease could not be renewed for {since}: {reason}")
            }
        }
    }
}

/// What is known of a lease that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    terms: Terms,
    /// When the last renewal that Redis has confirmed was sent: it counts from then or later.
    confirmed: Moment,
    /// When the last try without an answer was given up, if there was one since.
    failed: Option<Moment>,
}

impl Validity {
    /// Of a lease that was asked for at this moment, and given.
    pub fn begin(terms: Terms, asked: Moment) -> Self {
        Self {
            terms,
            confirmed: asked,
            failed: None,
        }
    }

    /// When to try to renew it.
    pub fn next_try(&self) -> Moment {
        match self.failed {
            None => self.confirmed + self.terms.renew_every(),
            Some(failed) => failed + self.terms.patience(),
        }
    }

    /// How long a try that is begun now may take. Who was stopped beyond the end and asks for the first time since has
    /// nothing to lose by waiting, only by giving up too soon.
    pub fn patience(&self, now: Moment) -> Duration {
        if self.failed.is_none() && now >= self.end() {
            self.terms.patience().max(AFTER_A_STOP)
        } else {
            self.terms.patience()
        }
    }

    /// From here on the work must be ended, unless Redis confirms the lease in this very moment.
    fn end(&self) -> Moment {
        self.confirmed + (self.terms.duration - self.terms.margin())
    }

    /// Takes the answer to a renewal into account that was sent at `asked`.
    ///
    /// That time has run out is no loss by itself: a process that was stopped learns from Redis whether it has lost
    /// anything. That Redis does not tell is one.
    ///
    /// # Errors
    /// The lease is lost, and its work must be ended now.
    pub fn step(self, answer: Answer, asked: Moment, now: Moment) -> Result<Self, Loss> {
        match answer {
            Answer::Ours | Answer::TakenAgain => Ok(Self {
                confirmed: self.confirmed.max(asked),
                failed: None,
                ..self
            }),
            Answer::Others(occupant) => Err(Loss::Taken(occupant)),
            Answer::Passed => Err(Loss::Passed),
            Answer::Missing(reason) => match self.terms.outage {
                Outage::EndsTheWork if now >= self.end() => Err(Loss::NotRenewed {
                    since: now - self.confirmed,
                    reason,
                }),
                Outage::EndsTheWork | Outage::IsWaitedOut => Ok(Self {
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

    fn terms(outage: Outage) -> Terms {
        Terms {
            duration: Duration::from_secs(30),
            outage,
        }
    }

    fn at(milliseconds: u64) -> Moment {
        Moment::at(Duration::from_millis(milliseconds))
    }

    fn missing() -> Answer {
        Answer::Missing("no answer".to_owned())
    }

    fn thief() -> Occupant {
        Occupant::Unknown("x".to_owned())
    }

    #[test]
    fn the_shares_leave_time_to_end_the_work() {
        for seconds in [3, 4, 29, 30, 31, 3600] {
            let terms = Terms {
                duration: Duration::from_secs(seconds),
                outage: Outage::EndsTheWork,
            };
            assert!(terms.patience() * 2 + terms.ending() <= terms.margin(), "{terms:?}");
            assert!(terms.renew_every() + terms.margin() <= terms.duration / 2, "{terms:?}");
        }
    }

    #[test]
    fn who_was_stopped_beyond_the_end_may_wait_longer_once() {
        let begun = Validity::begin(terms(Outage::EndsTheWork), at(0));
        let second = Duration::from_secs(1);
        assert_eq!(begun.patience(at(10_000)), second);
        assert_eq!(begun.patience(at(25_000)), AFTER_A_STOP);
        let failed = begun
            .step(missing(), at(23_000), at(24_000))
            .expect("it is not lost yet");
        assert_eq!(failed.patience(at(25_000)), second);
    }

    #[test]
    fn answers_and_what_follows() {
        use Outage::{EndsTheWork, IsWaitedOut};
        let not_renewed = |since| {
            Err(Loss::NotRenewed {
                since: Duration::from_millis(since),
                reason: "no answer".to_owned(),
            })
        };
        // Asked for at 0; the answer to what was sent at `asked` comes at `now`; the next try, or the loss.
        for (outage, answer, asked, now, next) in [
            (EndsTheWork, Answer::Ours, 10_000, 10_001, Ok(20_000)),
            (EndsTheWork, Answer::TakenAgain, 10_000, 10_001, Ok(20_000)),
            // It counts from the question, however late the answer is.
            (EndsTheWork, Answer::Ours, 10_000, 90_000, Ok(20_000)),
            (EndsTheWork, missing(), 10_000, 11_000, Ok(12_000)),
            (EndsTheWork, missing(), 24_000, 24_999, Ok(25_999)),
            (EndsTheWork, missing(), 24_000, 25_000, not_renewed(25_000)),
            (EndsTheWork, missing(), 99_000, 99_900, not_renewed(99_900)),
            (IsWaitedOut, missing(), 99_000, 99_900, Ok(100_900)),
            (
                IsWaitedOut,
                Answer::Others(thief()),
                10_000,
                10_001,
                Err(Loss::Taken(thief())),
            ),
            (EndsTheWork, Answer::Passed, 10_000, 10_001, Err(Loss::Passed)),
        ] {
            let found = Validity::begin(terms(outage), at(0)).step(answer.clone(), at(asked), at(now));
            let found = found.map(|validity| validity.next_try());
            assert_eq!(found, next.map(at), "{outage:?}, {answer:?} to {asked} at {now}");
        }
    }

    /// A lease in a Redis, as its scripts treat it, and we who hold it at first.
    struct Model {
        terms: Terms,
        now: Moment,
        /// Whether it is ours, and until when.
        lease: Option<(bool, Moment)>,
        /// Whether the last token that was given is ours.
        last_is_ours: bool,
        reachable: bool,
        mine: Option<Validity>,
        lost_at: Option<Moment>,
    }

    #[derive(Clone, Debug)]
    enum Move {
        /// So many milliseconds.
        Pass(u64),
        Cut,
        Heal,
        OtherTries,
        /// We are stopped for so many milliseconds.
        Stop(u64),
        /// Redis loses the lease with its data.
        Forget,
    }

    impl Model {
        fn begin(outage: Outage) -> Self {
            let (terms, now) = (terms(outage), at(0));
            Self {
                terms,
                now,
                lease: Some((true, now + terms.duration)),
                last_is_ours: true,
                reachable: true,
                mine: Some(Validity::begin(terms, now)),
                lost_at: None,
            }
        }

        fn lease(&self) -> Option<bool> {
            self.lease.filter(|(_, ends)| self.now < *ends).map(|(ours, _)| ours)
        }

        /// Whether another run has just taken it.
        fn make(&mut self, step: &Move) -> bool {
            match step {
                Move::Pass(milliseconds) | Move::Stop(milliseconds) => {
                    self.now = self.now + Duration::from_millis(*milliseconds);
                }
                Move::Cut => self.reachable = false,
                Move::Heal => self.reachable = true,
                Move::Forget => self.lease = None,
                // What is waited out is away for all when it is for us.
                Move::OtherTries => {
                    let reached = self.reachable || self.terms.outage == Outage::EndsTheWork;
                    if reached && self.lease().is_none() {
                        self.lease = Some((false, self.now + self.terms.duration));
                        self.last_is_ours = false;
                        return true;
                    }
                }
            }
            false
        }

        fn renew(&mut self) -> Answer {
            let answer = match self.lease() {
                _ if !self.reachable => {
                    self.now = self.now + self.terms.patience();
                    return missing();
                }
                Some(false) => return Answer::Others(thief()),
                None if !self.last_is_ours => return Answer::Passed,
                Some(true) => Answer::Ours,
                None => Answer::TakenAgain,
            };
            self.lease = Some((true, self.now + self.terms.duration));
            answer
        }

        /// What the keeper does whenever it is awake.
        fn keep(&mut self) {
            let Some(validity) = self.mine.take() else { return };
            if self.now < validity.next_try() {
                self.mine = Some(validity);
                return;
            }
            let asked = self.now;
            let answer = self.renew();
            match validity.step(answer, asked, self.now) {
                Ok(validity) => self.mine = Some(validity),
                Err(_) => self.lost_at = Some(self.now),
            }
        }
    }

    /// Weights: of what makes time pass, of what cuts and heals, of the other's tries, of stops and losses of data.
    fn moves(with_stops: bool) -> impl Strategy<Value = Vec<Move>> {
        let rarely = u32::from(with_stops);
        let one = prop_oneof![
            12 => (1_u64..900).prop_map(Move::Pass),
            1 => Just(Move::Cut),
            1 => Just(Move::Heal),
            6 => Just(Move::OtherTries),
            rarely => (1_u64..100_000).prop_map(Move::Stop),
            rarely => Just(Move::Forget),
        ];
        prop::collection::vec(one, 0..400)
    }

    proptest! {
        #[test]
        fn while_we_are_awake_nobody_takes_it_before_the_work_has_had_time_to_end(moves in moves(false)) {
            let mut model = Model::begin(Outage::EndsTheWork);
            for step in &moves {
                if model.make(step) {
                    let lost_at = model.lost_at.expect("another took a lease that we believed in");
                    prop_assert!(model.now - lost_at >= model.terms.ending(), "lost at {lost_at:?}, taken at {:?}", model.now);
                    return Ok(());
                }
                model.keep();
            }
        }

        #[test]
        fn an_outage_that_is_waited_out_costs_nothing(moves in moves(false)) {
            let mut model = Model::begin(Outage::IsWaitedOut);
            for step in moves.iter().filter(|step| !matches!(step, Move::OtherTries)) {
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
            let outage = if waited_out { Outage::IsWaitedOut } else { Outage::EndsTheWork };
            let mut model = Model::begin(outage);
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
