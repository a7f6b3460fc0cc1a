//! Transport settings of an app, which determine the names of the keys and channels of the broker (kombu's Redis
//! transport, Celery 5.2 to 5.7).

use serde::{Deserialize, Serialize};

/// Transport settings that determine names in the broker and the result backend. The default is Celery's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransportSettings {
    /// `global_keyprefix` of `broker_transport_options`: prefix of every key and channel of the broker.
    pub key_prefix: String,
    /// Prefix of the result backend's keys exactly as the app writes it.
    pub backend_key_prefix: String,
    /// `sep`: separator between a queue's name and the priority step, and between the parts of a binding.
    pub separator: String,
    /// `priority_steps`, in the app's order.
    pub priority_steps: Vec<u8>,
    /// `fanout_prefix`: prefix of the exchange in a channel's name; `{db}` stands for the database number.
    pub fanout_prefix: String,
    /// `fanout_patterns`: true if the routing key is part of a channel's name.
    pub fanout_patterns: bool,
    /// `control_exchange`, without `.pidbox`.
    pub control_exchange: String,
    /// `event_exchange`.
    pub event_exchange: String,
    /// `unacked_key`.
    pub unacked_key: String,
    /// `unacked_index_key`.
    pub unacked_index_key: String,
}

impl TransportSettings {
    /// Largest priority that kombu writes; larger priorities become this priority.
    pub const LARGEST_PRIORITY: u8 = 9;

    /// Returns the priority step for messages of this priority, by kombu's `bisect(steps, priority) - 1`. A
    /// priority below all steps belongs to the last step.
    pub(crate) fn step_of(&self, priority: u8) -> u8 {
        let priority = priority.min(Self::LARGEST_PRIORITY);
        let (mut low, mut high) = (0, self.priority_steps.len());
        // This is exactly Python's `bisect`, so unsorted steps give the same result as in Python.
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.priority_steps.get(middle).is_some_and(|step| priority < *step) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let found = match low {
            0 => self.priority_steps.last(),
            _ => self.priority_steps.get(low - 1),
        };
        found.copied().unwrap_or(0)
    }

    /// Returns the steps in ascending order, each once.
    pub fn steps(&self) -> Vec<u8> {
        let mut steps = self.priority_steps.clone();
        steps.sort_unstable();
        steps.dedup();
        steps
    }
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            key_prefix: String::new(),
            backend_key_prefix: String::new(),
            separator: "\u{6}\u{16}".to_owned(),
            priority_steps: vec![0, 3, 6, 9],
            fanout_prefix: "/{db}.".to_owned(),
            fanout_patterns: true,
            control_exchange: "celery".to_owned(),
            event_exchange: "celeryev".to_owned(),
            unacked_key: "unacked".to_owned(),
            unacked_index_key: "unacked_index".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from `steps[bisect(steps, n) - 1]` in Python 3.11.
    #[test]
    fn a_priority_goes_to_the_step_that_kombu_chooses() {
        type Case = (&'static [u8], &'static [(u8, u8)]);
        let cases: [Case; 6] = [
            (
                &[0, 3, 6, 9],
                &[(0, 0), (2, 0), (3, 3), (5, 3), (6, 6), (9, 9), (255, 9)],
            ),
            (&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], &[(0, 0), (4, 4), (9, 9), (200, 9)]),
            (&[0, 5], &[(4, 0), (5, 5), (9, 5)]),
            (&[2, 7], &[(0, 7), (1, 7), (2, 2), (6, 2), (7, 7)]),
            (&[9, 6, 3, 0], &[(0, 0), (3, 0), (9, 0)]),
            (&[0], &[(0, 0), (9, 0)]),
        ];
        for (steps, expected) in cases {
            let transport = TransportSettings {
                priority_steps: steps.to_vec(),
                ..TransportSettings::default()
            };
            for (priority, step) in expected {
                assert_eq!(transport.step_of(*priority), *step, "{priority} of {steps:?}");
            }
        }
    }
}
