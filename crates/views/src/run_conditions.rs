//! Conditions of an active run that the journal reports by notices and that end again: queues that no worker consumes, and
//! a shortage of memory.

use std::collections::BTreeMap;

use crate::notice;
use orch_journal::EventKind;

/// Conditions that hold now, each with the notice that reported it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunConditions {
    /// Queues with waiting tasks that no worker consumes.
    queues: BTreeMap<String, EventKind>,
    /// Shortage of memory for which sites wait.
    memory: Option<EventKind>,
}

impl RunConditions {
    /// Folds one event.
    pub fn apply(&mut self, kind: &EventKind) {
        match kind {
            EventKind::QueueUnconsumed { queue, .. } => {
                self.queues.insert(queue.clone(), kind.clone());
            }
            EventKind::ConsumerReturned { queues } => {
                self.queues.retain(|queue, _| !queues.contains(queue));
            }
            EventKind::MemoryGateShut { .. } => self.memory = Some(kind.clone()),
            EventKind::MemoryGateOpened => self.memory = None,
            // Nothing waits for a site any more.
            EventKind::StopStarted { .. } | EventKind::RunFinished { .. } => *self = Self::default(),
            _ => {}
        }
    }

    /// Returns the queues with waiting tasks that no worker consumes, with the number of tasks when that was noticed.
    pub fn unconsumed_queues(&self) -> BTreeMap<&str, u64> {
        let queues = self.queues.iter().filter_map(|(queue, kind)| match kind {
            EventKind::QueueUnconsumed { waiting, .. } => Some((queue.as_str(), *waiting)),
            _ => None,
        });
        queues.collect()
    }

    /// Returns the conditions as sentences of one line.
    pub fn sentences(&self) -> Vec<String> {
        let kinds = self.queues.values().chain(&self.memory);
        let sentence = |kind: &EventKind| {
            let text = notice::text(kind)?;
            let first = text.lines().next()?;
            let level = ["warning: ", "error: "];
            let sentence = level.iter().find_map(|level| first.strip_prefix(level));
            Some(sentence.unwrap_or(first).to_owned())
        };
        kinds.filter_map(sentence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_journal::MemoryShortage;

    #[test]
    fn a_condition_holds_until_an_event_ends_it() {
        let mut conditions = RunConditions::default();
        let unconsumed = |queue: &str| EventKind::QueueUnconsumed {
            queue: queue.to_owned(),
            waiting: 3,
            was_consumed: true,
            workers: "worker w1@h consumes celery".to_owned(),
        };
        for queue in ["slow", "fast"] {
            conditions.apply(&unconsumed(queue));
        }
        let shortage = MemoryShortage::Pressed { percent: 50.0 };
        conditions.apply(&EventKind::MemoryGateShut { shortage });
        assert_eq!(
            conditions.unconsumed_queues(),
            BTreeMap::from([("fast", 3), ("slow", 3)])
        );
        let sentences = conditions.sentences();
        assert_eq!(sentences.len(), 3, "{sentences:?}");
        assert!(
            sentences[0].contains("fast") && !sentences[0].contains('\n'),
            "{sentences:?}"
        );
        let queues = vec!["fast".to_owned()];
        conditions.apply(&EventKind::ConsumerReturned { queues });
        conditions.apply(&EventKind::MemoryGateOpened);
        assert_eq!(conditions.unconsumed_queues(), BTreeMap::from([("slow", 3)]));
        assert_eq!(conditions.sentences().len(), 1);
    }
}
