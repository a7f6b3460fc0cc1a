//! Names of Celery's keys and channels (Celery wire, observed on 5.2 to 5.7).

use super::{Endpoint, GroupId, TaskId};

/// Stands between a queue's name and its priority step.
pub(super) const SEPARATOR: &str = "\u{6}\u{16}";
/// kombu's default `priority_steps`; 0 is served first and has no suffix.
pub(super) const PRIORITY_STEPS: [u8; 4] = [0, 3, 6, 9];
const REPLY_SUFFIX: &str = ".reply.celery.pidbox";
/// Ends the names of all queues and exchanges of remote control.
const PIDBOX_SUFFIX: &str = ".pidbox";
/// Begins the names of queues of events.
const EVENTS_PREFIX: &str = "celeryev.";
/// Begins the names of the sets of bindings.
const BINDINGS: &str = "_kombu.binding.";
/// Begins the names of a chord's bookkeeping.
const CHORD: &str = "celery-taskset-meta-";
/// Begins the names of the lists that hold what was moved aside.
const QUARANTINE: &str = "orch:quarantine:";

/// The names in one database.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    database: u32,
}

impl Keys {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        Self {
            prefix: endpoint.key_prefix.clone(),
            database: endpoint.database,
        }
    }

    /// The list that a message of this priority waits in: that of the largest step below or at it.
    pub(super) fn queue(&self, queue: &str, priority: u8) -> String {
        let step = PRIORITY_STEPS
            .into_iter()
            .rev()
            .find(|step| *step <= priority)
            .unwrap_or(0);
        match step {
            0 => format!("{}{queue}", self.prefix),
            step => format!("{}{queue}{SEPARATOR}{step}", self.prefix),
        }
    }

    pub(super) fn result(&self, task: &TaskId) -> String {
        format!("{}celery-task-meta-{task}", self.prefix)
    }

    /// Key of a group's bookkeeping: suffix `.s` size, `.j` results, `.t` extra count.
    pub(super) fn chord(&self, group: &GroupId, suffix: &str) -> String {
        format!("{}{CHORD}{group}{suffix}", self.prefix)
    }

    /// List of what was moved aside out of a queue: ours, not Celery's.
    pub(super) fn quarantine(&self, queue: &str) -> String {
        format!("{}{QUARANTINE}{queue}", self.prefix)
    }

    pub(super) fn unacked(&self) -> String {
        format!("{}unacked", self.prefix)
    }

    pub(super) fn unacked_index(&self) -> String {
        format!("{}unacked_index", self.prefix)
    }

    /// Set of an exchange's bindings: `<routing key> SEP <pattern> SEP <queue>`.
    pub(super) fn bindings(&self, exchange: &str) -> String {
        format!("{}{BINDINGS}{exchange}", self.prefix)
    }

    /// Pattern of all keys.
    pub(super) fn all(&self) -> String {
        format!("{}*", escaped(&self.prefix))
    }

    /// Pattern of the sets of bindings of all exchanges.
    pub(super) fn all_bindings(&self) -> String {
        format!("{}{BINDINGS}*", escaped(&self.prefix))
    }

    /// Returns the queue that a binding names, unless it is a queue of remote control or of events.
    pub(super) fn bound_queue<'m>(&self, member: &'m str) -> Option<&'m str> {
        let (_pattern, queue) = member.rsplit_once(SEPARATOR)?;
        let is_internal = queue.is_empty() || queue.ends_with(PIDBOX_SUFFIX) || queue.starts_with(EVENTS_PREFIX);
        (!is_internal).then_some(queue)
    }

    /// Whether a set of bindings is that of an exchange of remote control: it may have a member for each process there ever
    /// was, and none is a queue of tasks.
    pub(super) fn is_control_bindings(key: &str) -> bool {
        key.ends_with(PIDBOX_SUFFIX)
    }

    /// Returns the queue whose messages a list holds, at whatever priority, going by its name. `None`: the list is one of
    /// remote control, of a chord's bookkeeping or of what was moved aside.
    pub(super) fn queue_of_list<'k>(&self, list: &'k str) -> Option<&'k str> {
        let name = list.strip_prefix(&self.prefix)?;
        let queue = match name.rsplit_once(SEPARATOR) {
            Some((queue, step)) if step.parse::<u8>().is_ok() => queue,
            _ => name,
        };
        let is_other = queue.is_empty()
            || queue.ends_with(PIDBOX_SUFFIX)
            || name.starts_with(CHORD)
            || name.starts_with(QUARANTINE);
        (!is_other).then_some(queue)
    }

    /// Channel of remote control.
    pub(super) fn control(&self) -> String {
        format!("{}/{}.celery.pidbox", self.prefix, self.database)
    }

    /// Pattern of all event channels.
    pub(super) fn events(&self) -> String {
        format!("{}/{}.celeryev/*", escaped(&self.prefix), self.database)
    }

    /// The reply queue's name as a worker is told it: the worker's transport adds the prefix.
    pub(super) fn reply_queue(client: &str) -> String {
        format!("{client}{REPLY_SUFFIX}")
    }

    /// The list behind a reply queue.
    pub(super) fn reply_list(&self, reply_queue: &str) -> String {
        format!("{}{reply_queue}", self.prefix)
    }

    /// Pattern of all lists of control replies at any priority; it matches the binding set too, see [`Self::is_reply_list`].
    pub(super) fn reply_lists(&self) -> String {
        format!("{}*{REPLY_SUFFIX}*", escaped(&self.prefix))
    }

    /// Whether a key is a client's reply list, and not `_kombu.binding.reply.celery.pidbox`.
    pub(super) fn is_reply_list(&self, key: &str) -> bool {
        let Some(name) = key.strip_prefix(&self.prefix) else {
            return false;
        };
        let queue = name.split(SEPARATOR).next().unwrap_or(name);
        queue
            .strip_suffix(REPLY_SUFFIX)
            .is_some_and(|client| !client.starts_with("_kombu.binding"))
    }

    /// Pattern of all chord bookkeeping.
    pub(super) fn chords(&self) -> String {
        format!("{}{CHORD}*", escaped(&self.prefix))
    }
}

/// Literal text as a Redis glob.
fn escaped(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            glob.push('\\');
        }
        glob.push(character);
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_goes_to_the_step_below_it() {
        let keys = Keys {
            prefix: "P".to_owned(),
            database: 3,
        };
        for (priority, list) in [
            (0, "Pcelery"),
            (2, "Pcelery"),
            (3, "Pcelery\u{6}\u{16}3"),
            (5, "Pcelery\u{6}\u{16}3"),
            (6, "Pcelery\u{6}\u{16}6"),
            (9, "Pcelery\u{6}\u{16}9"),
            (255, "Pcelery\u{6}\u{16}9"),
        ] {
            assert_eq!(keys.queue("celery", priority), list, "{priority}");
        }
        assert_eq!(keys.control(), "P/3.celery.pidbox");
    }

    #[test]
    fn a_reply_list_is_told_from_the_binding_set() {
        let keys = Keys {
            prefix: "P".to_owned(),
            database: 0,
        };
        assert!(keys.is_reply_list("P0ab9.reply.celery.pidbox"));
        assert!(keys.is_reply_list("P0ab9.reply.celery.pidbox\u{6}\u{16}3"));
        assert!(!keys.is_reply_list("P_kombu.binding.reply.celery.pidbox"));
        assert!(!keys.is_reply_list("P_kombu.binding_permanent.reply.celery.pidbox"));
        assert!(!keys.is_reply_list("0ab9.reply.celery.pidbox"));
        assert!(!keys.is_reply_list("P0ab9.reply.celery.pidbox.mine"));
    }

    #[test]
    fn a_list_and_a_binding_name_their_queue() {
        let keys = Keys {
            prefix: "P".to_owned(),
            database: 0,
        };
        for (list, queue) in [
            ("Pslow", Some("slow")),
            ("Pslow\u{6}\u{16}9", Some("slow")),
            ("Pslow\u{6}\u{16}x", Some("slow\u{6}\u{16}x")),
            ("Pslow:3", Some("slow:3")),
            ("Punacked", Some("unacked")),
            ("slow", None),
            ("P", None),
            ("P0ab9.reply.celery.pidbox", None),
            ("P0ab9.reply.celery.pidbox\u{6}\u{16}3", None),
            ("Pcelery-taskset-meta-7f.j", None),
            ("Porch:quarantine:celery", None),
        ] {
            assert_eq!(keys.queue_of_list(list), queue, "{list:?}");
        }
        for (member, queue) in [
            ("slow\u{6}\u{16}\u{6}\u{16}slow", Some("slow")),
            ("slow\u{6}\u{16}slow.#\u{6}\u{16}slow", Some("slow")),
            ("\u{6}\u{16}\u{6}\u{16}w1@h.celery.pidbox", None),
            ("worker.#\u{6}\u{16}\u{6}\u{16}celeryev.7f", None),
            ("slow", None),
            ("\u{6}\u{16}\u{6}\u{16}", None),
        ] {
            assert_eq!(keys.bound_queue(member), queue, "{member:?}");
        }
    }
}
